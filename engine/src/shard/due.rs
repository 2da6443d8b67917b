//! What is due: a timer's message, and the end of asks that nobody waits for.
//!
//! Invariant: what a timer holds is the user's, and is made and dropped outside the core's borrow. Shard thread only.

use super::{ShardCell, ShardCore};
use crate::actor::StopReason;
use crate::envelope::{CellId, Envelope};
use crate::reply::ReplyAddress;
use crate::timer::{Body, Due, Other, Owner, Repeating, TimerId};

impl ShardCell {
    /// Fires all timers that are due; returns whether there were any.
    pub(super) fn fire(&self, now_ns: u64) -> bool {
        let mut any = false;
        self.core.borrow_mut().timers.go_on(now_ns);
        while let Some(due) = { self.core.borrow_mut().timers.pop_due(now_ns) } {
            any = true;
            self.fire_one(due, now_ns);
        }
        any
    }

    /// Does what a timer has to do; what is dropped is the user's and dropped outside the borrow.
    fn fire_one(&self, due: Due, now_ns: u64) {
        let Due { id, at_ns, owner, body } = due;
        let room = {
            let mut core = self.core.borrow_mut();
            // It keeps an actor that is about to be passivated, as a message does.
            let stopping =
                core.cells.get(owner.index, owner.generation).filter(|cell| cell.conduct.life == super::Life::Stopping);
            if let Some(position) = stopping.and_then(|cell| cell.position()) {
                core.stay_active(position, (owner.index, owner.generation));
            }
            let cell = core.cells.get(owner.index, owner.generation);
            cell.filter(|cell| cell.conduct.life != super::Life::Stopping).map(|cell| cell.has_room())
        };
        let Some(room) = room else { return self.end_timer(id, body) };
        match body {
            Body::Once(envelope) => self.core.borrow_mut().push_reserved(envelope),
            Body::Other(Other::Rate(mut tick)) => {
                let mut missed = (now_ns - at_ns) / tick.period_ns;
                let next_ns = at_ns.saturating_add((missed + 1).saturating_mul(tick.period_ns));
                if room {
                    let Some(envelope) = self.make_tick(&mut tick, owner) else { return self.end_timer(id, tick) };
                    self.core.borrow_mut().push_reserved(envelope);
                } else {
                    missed += 1;
                }
                self.next_tick(id, tick, missed, Some(next_ns), Other::Rate);
            }
            Body::Other(Other::Delay(mut tick)) => {
                if room {
                    let Some(envelope) = self.make_tick(&mut tick, owner) else { return self.end_timer(id, tick) };
                    let handled = crate::signal::tick_handled(CellId::new(owner.index, owner.generation), id);
                    let mut core = self.core.borrow_mut();
                    core.push_reserved(envelope);
                    core.push_reserved(handled);
                    drop(core);
                    self.next_tick(id, tick, 0, None, Other::Delay);
                } else {
                    let next_ns = now_ns.saturating_add(tick.period_ns);
                    self.next_tick(id, tick, 1, Some(next_ns), Other::Delay);
                }
            }
            Body::Other(Other::Stop) => {
                self.core.borrow_mut().timers.end(id);
                self.request_stop(owner.index, owner.generation, StopReason::Stopped);
            }
            Body::Other(Other::Kill) => {
                self.core.borrow_mut().timers.end(id);
                self.request_stop(owner.index, owner.generation, StopReason::Killed);
            }
            Body::Other(Other::Restart) => {
                self.core.borrow_mut().timers.end(id);
                self.restart_is_due(owner);
            }
            Body::Other(Other::RestartGroup) => {
                self.core.borrow_mut().timers.end(id);
                self.group_is_due(owner);
            }
            Body::Other(Other::Idle(mut tick)) => {
                let quiet_ns = self.quiet_since(owner).map(|spoken_ns| spoken_ns.saturating_add(tick.period_ns));
                let mut next_ns = quiet_ns.filter(|at_ns| *at_ns > now_ns);
                if quiet_ns.is_some() && next_ns.is_none() {
                    let Some(envelope) = self.make_tick(&mut tick, owner) else { return self.end_timer(id, tick) };
                    self.core.borrow_mut().push_reserved(envelope);
                }
                let next_ns = *next_ns.get_or_insert(now_ns.saturating_add(tick.period_ns));
                self.next_tick(id, tick, 0, Some(next_ns), Other::Idle);
            }
            Body::Other(Other::Gone) => unreachable!("a timer fires once per due time"),
        }
    }

    /// When somebody last spoke to an actor with an idle timeout; `None` while messages wait for it or it waits itself.
    fn quiet_since(&self, owner: Owner) -> Option<u64> {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.get(owner.index, owner.generation)?;
        if cell.len() > 0 || cell.conduct.suspended {
            return None;
        }
        cell.extra.as_ref()?.attended.as_ref()?.idle.as_ref().map(|idle| idle.spoken_ns)
    }

    /// The next message of a repeating timer; `None` when the user's copy panicked.
    fn make_tick(&self, tick: &mut Repeating, owner: Owner) -> Option<Envelope> {
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (tick.make)()));
        if made.is_err() {
            self.core.borrow_mut().counters.panics += 1;
        }
        let mut envelope = made.ok()?;
        // It was set where the actor lived then.
        envelope.readdress(owner.index, owner.generation);
        Some(envelope)
    }

    /// Puts a repeating timer back: for `next_ns`, or until its message was handled.
    fn next_tick(
        &self,
        id: TimerId,
        mut tick: Repeating,
        missed: u64,
        next_ns: Option<u64>,
        kind: fn(Repeating) -> Other,
    ) {
        tick.missed += missed;
        let body = Body::Other(kind(tick));
        let mut core = self.core.borrow_mut();
        core.counters.missed_ticks += missed;
        let over = match next_ns {
            Some(next_ns) => core.timers.again(id, next_ns, body),
            None => core.timers.keep(id, body),
        };
        drop(core);
        debug_assert!(over.is_none(), "nothing ends a timer while it fires");
        super::drop_contained(over);
    }

    fn end_timer<T>(&self, id: TimerId, body: T) {
        self.core.borrow_mut().timers.end(id);
        super::drop_contained(body);
    }

    /// Ends the timers of an actor: all of them, or those that its state has set.
    pub(super) fn end_timers(&self, index: u32, ends: bool) {
        while let Some(body) = { self.core.borrow_mut().timers.remove_owned(index, ends) } {
            super::drop_contained(body);
        }
    }

    /// Lets go of what actors had asked that are gone now. What a `then` holds is the user's and dropped outside the borrow.
    pub(super) fn sweep_asks(&self, found: &mut Vec<ReplyAddress>) {
        {
            let mut core = self.core.borrow_mut();
            let ShardCore { cells, replies, run_queue, .. } = &mut *core;
            let lives = |index, generation| cells.peek(index, generation).map(|cell| cell.incarnation);
            replies.ownerless(run_queue.is_empty(), lives, found);
        }
        for address in found.drain(..) {
            let freed = self.core.borrow_mut().replies.cancel(address);
            super::drop_contained(freed);
        }
    }
}
