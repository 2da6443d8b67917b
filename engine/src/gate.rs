//! `Gate`: the way of any thread to queues that open once and close for good.
//!
//! Invariant: once `close` has returned, nobody uses the queues through the gate, and nobody will. So what is in them then is
//! all there will ever be, and whoever closed drains it.
//!
//! Any thread may pass; a pass costs one uncontended read lock, two atomic operations. Stands on the message path of threads
//! outside the shards, under `link.rs`.

use std::sync::PoisonError;

use crate::sync::RwLock;

/// See the module's head.
pub(crate) struct Gate<Q>(RwLock<Option<Q>>);

impl<Q> Gate<Q> {
    /// A gate that is closed still.
    pub(crate) fn new() -> Self {
        Self(RwLock::new(None))
    }

    pub(crate) fn open(&self, queues: Q) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(queues);
    }

    /// Closes it; waits for those who are passing.
    pub(crate) fn close(&self) -> Option<Q> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Calls `f` with the queues, if open. `f` must not block.
    #[inline]
    pub(crate) fn pass<R>(&self, f: impl FnOnce(Option<&Q>) -> R) -> R {
        f(self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref())
    }
}
