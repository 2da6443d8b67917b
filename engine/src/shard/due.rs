//! What is due: a timer's message, the end of virtual actors that nobody spoke to, and of asks that nobody waits for.
//!
//! Invariant: what a timer holds is the user's, and is made and dropped outside the core's borrow. Shard thread only.

use super::{ShardCell, ShardCore};
use crate::actor::StopReason;
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

    /// Stops virtual actors that have had no message for their type's idle time.
    pub(super) fn passivate_idle(&self, now_ns: u64) {
        let types = &self.link.engine().registry.types;
        let mut next_ns = u64::MAX;
        let mut idle = Vec::new();
        {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let now_ms = core.now_ms();
            for (position, registered) in types.iter().enumerate() {
                let idle_ns = u64::try_from(registered.idle.as_nanos()).unwrap_or(u64::MAX);
                next_ns = next_ns.min(now_ns.saturating_add((idle_ns / 4).max(1_000_000)));
                let idle_ms = u32::try_from(idle_ns >> 20).unwrap_or(u32::MAX);
                for (index, generation) in core.directory.cells(position) {
                    // One whose children live is in use.
                    let is_parent = core.cells.kin.first_child(index).is_some();
                    let cell = core.cells.get(index, generation).expect("directory entries are live");
                    let is_idle = !is_parent && now_ms.wrapping_sub(cell.extra().active_ms) >= idle_ms.max(1);
                    if is_idle && !cell.scheduled && !cell.conduct.suspended && cell.len() == 0 && cell.stashed() == 0 {
                        idle.push((index, generation));
                    }
                }
            }
            // The order of a hash map depends on its seed only, but sorting keeps traces equal whatever the map does.
            idle.sort_unstable();
            core.directory.next_sweep_ns = next_ns;
        }
        for (index, generation) in idle {
            let state = self.core.borrow_mut().cells.get(index, generation).and_then(|cell| cell.state.take());
            let Some(mut state) = state else { continue };
            // The user's code; one that panics keeps its actor active.
            let may = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state.may_passivate())).unwrap_or(false);
            self.core.borrow_mut().cells.get(index, generation).expect("it was not running").state = Some(state);
            if may {
                self.request_stop(index, generation, StopReason::Passivated);
            }
        }
    }
}
