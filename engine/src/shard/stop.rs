//! The end of an actor: hooks, children, dead letters, latches, watchers, and the cell.
//!
//! Invariant: when the stop latch is set the state has been dropped, the name is free and nothing of the actor is left, neither
//! a child nor a timer. Shard thread only.

use super::ShardCell;
use super::actor_box::ActorBox;
use super::cell::{CellExtra, Life};
use crate::actor::StopReason;
use crate::actor_ref::ActorId;
use crate::context::Seat;
use crate::dead_letter::Reason;
use crate::envelope::CellId;
use crate::supervision::{Recovery, Step};

impl ShardCell {
    /// Asks the actor to stop before its next message, for `reason`. Nothing happens if it is gone. One that stops already but
    /// waits for the end of an async handler waits no more, unless that is what `reason` says.
    pub(crate) fn request_stop(&self, index: u32, generation: u32, reason: StopReason) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(cell) = core.cells.get(index, generation) else { return };
        if cell.conduct.life != Life::Stopping {
            cell.conduct.begin(Life::Stopping);
            cell.set_stop_reason(Some(reason));
        } else if (cell.finishes_first() || cell.away().is_some()) && reason != StopReason::Stopped {
            cell.set_stop_reason(Some(reason));
        }
        if !cell.scheduled {
            cell.scheduled = true;
            core.run_queue.push(cell.ready(index));
        }
    }

    /// Asks the actor to stop after the messages that are queued now.
    pub(crate) fn request_drain(&self, index: u32, generation: u32) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(cell) = core.cells.get(index, generation) else { return };
        if cell.conduct.life == Life::New && cell.conduct.suspended {
            // It waits for its restart, and drains then.
            cell.extra().drains = true;
            return;
        }
        if cell.conduct.life == Life::New {
            // It starts first, in this turn or the next.
            core.deferred.push(Box::new(move |shard| shard.request_drain(index, generation)));
            return;
        }
        if cell.conduct.life == Life::Live {
            cell.conduct.begin(Life::Draining);
            cell.set_stop_reason(Some(StopReason::Drained));
        }
        if !cell.scheduled && !cell.conduct.suspended {
            cell.scheduled = true;
            core.run_queue.push(cell.ready(index));
        }
    }

    /// Stops the actor whose state is in its cell, after its children: runs its hooks, then lets go of everything. With children
    /// it comes back here when the last of them is gone.
    pub(super) fn finish_stop(&self, index: u32) {
        let (state, first_time, is_virtual, is_bare, id) = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let has_children = core.cells.kin.first_child(index).is_some();
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            cell.conduct.begin(Life::Stopping);
            cell.scheduled = true;
            let id = CellId::new(index, cell.generation);
            let begun = |extra: &CellExtra| {
                extra.closing || extra.recovery.as_ref().is_some_and(|recovery| recovery.step != Step::Ordered)
            };
            let first_time = !cell.extra.as_deref().is_some_and(begun);
            let is_bare = cell.extra.is_none() && !has_children;
            (cell.state.take(), first_time, cell.epoch().is_some(), is_bare, id)
        };
        let mut state = state.expect("a stopping actor's state is in its cell");
        if is_bare {
            return self.finish_bare(state, id);
        }
        if first_time {
            if is_virtual && self.core.borrow().cells.kin.first_child(index).is_none() {
                // What its hooks tell its own name is for its next life.
                self.leave_directory(id);
            }
            self.begin_end(&mut state, id);
        }
        if self.stop_children(id, first_time) {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            cell.state = Some(state);
            cell.scheduled = false;
            return;
        }
        self.leave_directory(id);
        let reason = self.stop_reason(id);
        if !reason.is_failure() {
            state.stopped(&reason, Seat::new(self, id, None));
        }
        match self.bring_back(state, id, &reason) {
            Ok(()) => {}
            Err(state) => {
                drop(state);
                self.abandon(index);
            }
        }
    }

    /// The end of an actor that has nothing but its state, as most have that are spawned for one task: no name, no future, no
    /// child, nobody who waits or watches, and no supervisor who wants it back.
    fn finish_bare(&self, mut state: ActorBox, id: CellId) {
        let reason = self.stop_reason(id);
        if !reason.is_failure() {
            state.stopping(&reason, Seat::new(self, id, None));
            state.stopped(&reason, Seat::new(self, id, None));
        }
        drop(state);
        self.abandon(id.index());
    }

    /// The beginning of the end: the future goes, which borrows the state, and the first hook runs.
    fn begin_end(&self, state: &mut ActorBox, id: CellId) {
        let future = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(id.index()).expect("a stopping actor keeps its cell");
            cell.extra.as_mut().map(|extra| (std::mem::take(&mut extra.async_slot), std::mem::take(&mut extra.work)))
        };
        if let Some((future, work)) = future {
            super::drop_contained(future);
            super::drop_contained(work);
        }
        let reason = self.stop_reason(id);
        if !reason.is_failure() {
            state.stopping(&reason, Seat::new(self, id, None));
        }
    }

    /// Asks all children to stop, the youngest first; whether there are any.
    fn stop_children(&self, id: CellId, first_time: bool) -> bool {
        let children: Vec<_> = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            if core.cells.kin.first_child(id.index()).is_none() {
                return false;
            }
            core.cells.slot(id.index()).expect("a stopping actor keeps its cell").extra().closing = true;
            if !first_time {
                return true;
            }
            core.cells.children(id.index())
        };
        for (child, generation) in children.into_iter().rev() {
            self.request_stop(child, generation, StopReason::ParentStopped);
        }
        true
    }

    /// Frees a virtual actor's name. From here on a message activates a new one; its first turn comes after the last hook.
    pub(super) fn leave_directory(&self, id: CellId) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let cell = core.cells.slot(id.index()).expect("a stopping actor keeps its cell");
        if let Some((position, key)) = cell.extra.as_ref().and_then(|extra| extra.identity.as_ref()) {
            core.directory.remove(*position, key, id.index(), id.generation());
        }
    }

    /// Why an actor stops that has not yet gone.
    #[inline]
    fn stop_reason(&self, id: CellId) -> StopReason {
        let core = self.core.borrow();
        let cell = core.cells.peek(id.index(), id.generation()).expect("a stopping actor keeps its cell");
        cell.stop_reason().unwrap_or(StopReason::Drained)
    }

    /// Frees the cell of an actor whose state is gone, and tells whoever waits or watches.
    pub(super) fn abandon(&self, index: u32) {
        self.end_timers(index, true);
        let (told, id, give_out) = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            let generation = cell.generation;
            cell.unstash(&mut core.pool);
            let passivated = cell.epoch().is_some() && cell.stop_reason() == Some(StopReason::Passivated);
            let mut carried = Vec::new();
            if passivated {
                carried.extend(std::iter::from_fn(|| cell.mailbox.pop(&mut core.pool)));
            }
            while let Some(envelope) = cell.mailbox.pop(&mut core.pool) {
                core.graveyard.push(super::DeadLetterDraft { envelope, reason: Reason::Closed });
            }
            if cell.short {
                core.ledger.forget(&core.link.credit, (index, generation));
                core.owed_room.has_room(index, generation);
            }
            cell.mailbox.rest(&mut core.pool);
            let (reason, extra) = (cell.stop_reason(), cell.extra.take());
            let give_out = core.cells.release(index);
            if let Some(parent) = core.cells.kin.leave(index) {
                core.child_has_gone(parent, extra.as_deref(), reason.as_ref());
            }
            core.replies.owner_has_gone();
            if passivated {
                core.end_passivation(extra.as_ref().and_then(|extra| extra.identity.as_ref()), carried);
            }
            (extra.map(|extra| (extra, reason)), core.actor_id(index, generation), give_out)
        };
        if let Some(slot) = give_out {
            self.link.give_back_index(slot);
        }
        if let Some((extra, reason)) = told {
            if !extra.names.is_empty() {
                crate::naming::release_all(self.link.engine(), &extra.names, id);
            }
            let reason = reason.unwrap_or(StopReason::Drained);
            if let Some(moved) = extra.moved {
                self.forget_moves(*moved, &reason);
            }
            for latch in extra.start_latches {
                latch.set(Err(reason.clone()));
            }
            for latch in extra.stop_latches {
                latch.set(reason.clone());
            }
            if let Some(bonds) = extra.bonds {
                self.break_bonds(id, *bonds, &reason);
            }
        }
    }

    /// Tells `watcher`, on whichever shard, that `who` has stopped.
    pub(crate) fn tell_terminated(&self, watcher: ActorId, who: ActorId, reason: StopReason) {
        let deliver = move |shard: &Self| {
            let envelope = crate::signal::terminated(watcher, who, reason);
            shard.core.borrow_mut().notify(envelope);
        };
        if std::ptr::eq(watcher.link(), self.link) {
            deliver(self);
        } else {
            watcher.link().run(Box::new(deliver));
        }
    }
}

impl super::ShardCore {
    /// What the end of a child means for its parent: one that waits for its children may go on once the last of them is gone, and
    /// one for which the child was significant stops.
    fn child_has_gone(&mut self, parent: u32, child: Option<&CellExtra>, reason: Option<&StopReason>) {
        let recovery = child.and_then(|extra| extra.recovery.as_deref());
        if recovery.is_some_and(Recovery::holds_up_group) {
            self.group_member_is_down(parent, true);
        }
        let is_last = self.cells.kin.first_child(parent).is_none();
        let by_itself = !matches!(reason, Some(StopReason::ParentStopped | StopReason::Shutdown));
        let significant = by_itself && child.is_some_and(|extra| extra.spec.significant);
        if !is_last && !significant {
            return;
        }
        let cell = self.cells.slot(parent).expect("a child never outlives its parent");
        let extra = cell.extra.as_deref();
        let recovers =
            extra.and_then(|extra| extra.recovery.as_ref()).is_some_and(|recovery| recovery.step == Step::Children);
        let closing = cell.conduct.life == Life::Stopping && extra.is_some_and(|extra| extra.closing);
        if significant && !recovers && cell.conduct.life != Life::Stopping {
            cell.conduct.begin(Life::Stopping);
            cell.set_stop_reason(Some(StopReason::Stopped));
        } else if !(is_last && (closing || recovers)) {
            return;
        }
        cell.conduct.woken |= recovers;
        if !cell.scheduled {
            cell.scheduled = true;
            let ready = cell.ready(parent);
            self.run_queue.push(ready);
        }
    }
}
