//! What is due: a timer's message, and the end of asks that nobody waits for.
//!
//! Invariant: what a timer holds is the user's, and is made and dropped outside the core's borrow. Shard thread only.

use super::{ShardCell, ShardCore};
use crate::reply::ReplyAddress;
use crate::timer::{Body, Due};

impl ShardCell {
    /// Sends what a timer has to send; what is dropped is the user's and dropped outside the borrow.
    pub(super) fn fire(&self, due: Due, now_ns: u64) {
        let Due { id, at_ns, owner, body } = due;
        let room = {
            let mut core = self.core.borrow_mut();
            core.cells
                .get(owner.index, owner.generation)
                .filter(|cell| cell.incarnation == owner.incarnation && cell.conduct.life != super::Life::Stopping)
                .map(|cell| !cell.mailbox.is_full())
        };
        let Some(room) = room else { return super::drop_contained(body) };
        let mut period = match body {
            Body::Once(envelope) => return self.core.borrow_mut().push_reserved(envelope),
            Body::Every(period) => period,
            Body::Restart => return self.restart_is_due(owner),
        };
        let mut missed = (now_ns - at_ns) / period.period_ns;
        let next_ns = at_ns.saturating_add((missed + 1).saturating_mul(period.period_ns));
        if room {
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (period.make)()));
            let mut core = self.core.borrow_mut();
            let Ok(envelope) = made else {
                core.counters.panics += 1;
                drop(core);
                return super::drop_contained(period);
            };
            core.push_reserved(envelope);
        } else {
            missed += 1;
        }
        let mut core = self.core.borrow_mut();
        core.counters.missed_ticks += missed;
        core.timers.again(id, next_ns, owner, Body::Every(period));
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
