//! `Parked`: whether a shard sleeps, so that whoever has something for it wakes it once, and only then.
//!
//! ```text
//!   shard:   prepare --> look for work again --> sleep --> finish        AWAKE --prepare--> PARKED --finish--> AWAKE
//!   sender:  publish --> fence --> claim --> wake, if claimed                    PARKED --claim--> AWAKE
//! ```
//!
//! Invariant: no lost wake-up. Each side stores, then fences, then loads what the other has stored: of two such fences one
//! comes first, so either the shard's second look sees what was published, or the sender's claim sees `PARKED`. A claim
//! takes the mark away, so a park is ended by at most one wake, however many senders there are.
//!
//! A sender pays one fence a batch and no write while the shard is awake; where a shard has promised never to park it pays
//! one load. The fence is the cost: it waits until the batch is visible, 28-47 ns between two cores 65 ns apart, as much as
//! the read-modify-write that it replaces. (The other way, `membarrier` in the parking shard, took 3-11 us a park and
//! interrupts the other cores.) The fence orders, it publishes nothing: data is handed over by the queues' own
//! acquire and release operations.
//!
//! `prepare`, `finish` and `promise_never` belong to the shard's thread, the rest to any. Stands at the end of a turn on
//! the message path.

use crate::sync::{AtomicU8, Ordering, fence};

const AWAKE: u8 = 0;
const PARKED: u8 = 1;
const NEVER: u8 = 2;

/// See the module's head.
pub(crate) struct Parked(AtomicU8);

/// Orders what a sender has published before its [`Parked::claim`]s. One is enough for many shards. Pairs with the fence in
/// [`Parked::prepare`].
#[inline]
pub(crate) fn order_publication() {
    fence(Ordering::SeqCst);
}

impl Parked {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// The shard will never park; it says so before its first turn, for good.
    pub(crate) fn promise_never(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }

    /// Announces that the shard is about to sleep. It must look for work once more before it does.
    pub(crate) fn prepare(&self) {
        debug_assert_ne!(self.0.load(Ordering::Relaxed), NEVER, "it has promised never to park");
        self.0.store(PARKED, Ordering::Relaxed);
        // Pairs with the fence in `order_publication`.
        fence(Ordering::SeqCst);
    }

    /// The shard does not sleep, or not any more.
    pub(crate) fn finish(&self) {
        self.0.store(AWAKE, Ordering::Relaxed);
    }

    /// Whether a sender has to order its publication and claim at all.
    #[inline]
    pub(crate) fn may_park(&self) -> bool {
        // A promise that is not seen yet costs a fence.
        self.0.load(Ordering::Relaxed) != NEVER
    }

    /// Whether the caller must wake the shard. It has published something and called [`order_publication`] since.
    #[inline]
    pub(crate) fn claim(&self) -> bool {
        self.0.load(Ordering::Relaxed) == PARKED && self.claim_parked()
    }

    /// Of several senders that saw it parked, one gets the claim.
    #[cold]
    fn claim_parked(&self) -> bool {
        self.0.compare_exchange(PARKED, AWAKE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_park_is_claimed_once() {
        let parked = Parked::new();
        assert!(parked.may_park() && !parked.claim());
        parked.prepare();
        assert!(parked.claim());
        assert!(!parked.claim(), "it has been woken");
        parked.prepare();
        parked.finish();
        assert!(!parked.claim(), "it is awake");
    }

    #[test]
    fn who_never_parks_is_never_claimed() {
        let parked = Parked::new();
        parked.promise_never();
        assert!(!parked.may_park() && !parked.claim());
    }
}
