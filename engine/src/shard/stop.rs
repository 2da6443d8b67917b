//! The end of an actor: hooks, dead letters, latches, watchers, and the cell.
//!
//! Invariant: when the stop latch is set the state has been dropped, the name is free and nothing of the actor is left.

use super::ShardCell;
use super::cell::Life;
use crate::actor::StopReason;
use crate::actor_ref::ActorId;
use crate::context::Seat;
use crate::dead_letter::Reason;
use crate::envelope::CellId;

impl ShardCell {
    /// Asks the actor to stop before its next message, for `reason`. Nothing happens if it is gone.
    pub(crate) fn request_stop(&self, index: u32, generation: u32, reason: StopReason) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(cell) = core.cells.get(index, generation) else { return };
        if cell.conduct.life != Life::Stopping {
            cell.conduct.begin(Life::Stopping);
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

    /// Stops the actor whose state is in its cell: runs its hook, then lets go of everything.
    pub(super) fn finish_stop(&self, index: u32) {
        let (state, has_extra, id) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            cell.conduct.begin(Life::Stopping);
            cell.scheduled = true;
            let state = cell.state.take();
            let generation = cell.generation;
            if let Some((position, key)) = cell.extra.as_ref().and_then(|extra| extra.identity.clone()) {
                // From here on a message activates a new one; its first turn comes after this hook.
                core.directory.remove(position, &key, index, generation);
            }
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            (state, cell.extra.is_some(), CellId::new(index, generation))
        };
        // The suspended future borrows the state: it goes first.
        if has_extra {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            let slot = std::mem::take(&mut cell.extra().async_slot);
            drop(core);
            super::drop_contained(slot);
        }
        if let Some(mut state) = state {
            let reason = self.stop_reason(id);
            if !matches!(reason, StopReason::StartFailed(_) | StopReason::Panicked(_)) {
                state.stopped(&reason, Seat::new(self, id, None));
            }
            drop(state);
        }
        self.abandon(index);
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
        let (told, id, give_out) = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let cell = core.cells.slot(index).expect("a stopping actor keeps its cell");
            let generation = cell.generation;
            cell.unstash(&mut core.pool);
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
            if let Some((actor_type, key)) = extra.as_ref().and_then(|extra| extra.identity.as_ref()) {
                core.directory.remove(*actor_type, key, index, generation);
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
            for latch in extra.start_latches {
                latch.set(Err(reason.clone()));
            }
            for latch in extra.stop_latches {
                latch.set(reason.clone());
            }
            for watcher in &extra.watchers {
                self.tell_terminated(*watcher, id, reason.clone());
            }
        }
    }

    /// Tells `watcher`, on whichever shard, that `who` has stopped.
    pub(crate) fn tell_terminated(&self, watcher: ActorId, who: ActorId, reason: StopReason) {
        let deliver = move |shard: &Self| {
            let envelope = crate::signal::terminated(watcher, who, reason);
            shard.core.borrow_mut().push_reserved(envelope);
        };
        if std::ptr::eq(watcher.link(), self.link) {
            deliver(self);
        } else {
            watcher.link().run(Box::new(deliver));
        }
    }
}
