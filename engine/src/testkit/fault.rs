//! Faults that a test plants in the engine under test.
//!
//! Invariant: a fault hits what it names and nothing else; what follows from it (rebuilds, dead letters, answers) is the
//! engine's ordinary way with a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shardstage_codec::{NodeId, ShardId};

use crate::actor::StopReason;
use crate::actor_ref::{ActorId, on_shard_of};
use crate::latch::{Happening, Latch, LatchGuard};
use crate::shard::{Fault, Rig};

use super::TestKit;
use super::report::nanos;

/// A fault that waits for its message.
#[derive(Clone, Debug)]
pub struct PlantedFault(Arc<AtomicBool>);

impl PlantedFault {
    /// Whether it has happened.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl TestKit {
    /// Ends an actor as a panic does that nothing is rebuilt after: no hook of it runs, what is queued goes to the dead letters,
    /// watchers are told. Returns when it is gone; says why it stopped, if something else was faster.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&self, actor: impl Into<ActorId>) -> StopReason {
        let id = actor.into();
        let latch = Latch::new();
        let guard = LatchGuard::new(latch.clone(), StopReason::Shutdown);
        on_shard_of(id, move |shard| {
            let mut core = shard.core.borrow_mut();
            let Some(cell) = core.cells.get(id.index(), id.generation()) else {
                return guard.set(StopReason::Stopped);
            };
            let given_up = crate::latch::keep(&mut cell.extra().stop_latches, guard);
            drop(core);
            drop(given_up);
            let killed = StopReason::Panicked("killed by the test".to_owned());
            shard.request_stop(id.index(), id.generation(), killed);
        });
        Happening { latch, what: "TestKit::kill()", engine: Some(id.link().engine()) }.wait()
    }

    /// The actor's `nth` message from now on (1 is the next) panics before its handler has done anything: a tell is gone, an ask
    /// ends as `Failed`, the actor is rebuilt. The panic is one that [`finish`](Self::finish) expects. Replies to the actor's own
    /// asks and notices of ends are not counted.
    ///
    /// # Panics
    /// When `nth` is 0.
    pub fn panic_at(&self, actor: impl Into<ActorId>, nth: u64) -> PlantedFault {
        let fault = self.plant(actor.into(), Fault::Panic, nth);
        self.planted.borrow_mut().push(Arc::clone(&fault.0));
        fault
    }

    /// The actor's `nth` message from now on (1 is the next) is lost on its way: nobody is told, an ask ends by its deadline.
    ///
    /// # Panics
    /// When `nth` is 0.
    pub fn lose_at(&self, actor: impl Into<ActorId>, nth: u64) -> PlantedFault {
        self.plant(actor.into(), Fault::Lose, nth)
    }

    fn plant(&self, actor: ActorId, fault: Fault, nth: u64) -> PlantedFault {
        assert!(nth > 0, "messages are counted from 1");
        let fired = Arc::new(AtomicBool::new(false));
        let rig = Rig { actor, fault, at: nth, fired: Arc::clone(&fired) };
        on_shard_of(actor, move |shard| shard.plant(rig));
        PlantedFault(fired)
    }

    /// The actor takes no message until the returned [`Stall`] is dropped, as if it were stuck in an `await`. Its mailbox fills,
    /// asks run into their deadlines. No hook of the actor is called.
    pub fn stall(&self, actor: impl Into<ActorId>) -> Stall {
        let id = actor.into();
        on_shard_of(id, move |shard| {
            let mut core = shard.core.borrow_mut();
            if let Some(cell) = core.cells.get(id.index(), id.generation()) {
                cell.conduct.suspended = true;
                cell.extra().suspensions += 1;
            }
        });
        Stall(id)
    }

    /// A whole shard does nothing for this long, as when a handler on it blocks: what is sent to its actors waits.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn stall_shard(&self, shard: u16, time: Duration) {
        self.world().stall(NodeId::new(0), ShardId::new(shard), nanos(time));
    }
}

/// Keeps an actor from its messages until it is dropped. See [`TestKit::stall`].
#[must_use = "dropping it lets the actor go on"]
#[derive(Debug)]
pub struct Stall(ActorId);

impl Drop for Stall {
    fn drop(&mut self) {
        let id = self.0;
        on_shard_of(id, move |shard| {
            let mut core = shard.core.borrow_mut();
            let Some(cell) = core.cells.get(id.index(), id.generation()) else { return };
            let extra = cell.extra();
            // A rebuild has ended all suspensions.
            extra.suspensions = extra.suspensions.saturating_sub(1);
            cell.conduct.suspended = cell.waits() || cell.conduct.resumed;
            core.wake(id.index(), id.generation());
        });
    }
}
