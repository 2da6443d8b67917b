//! `Until`: a time limit for threads outside the shards, which have no driver.
//!
//! Invariant: the only place of the engine, beside drivers, that reads a clock. Nothing on a shard uses it.

use std::time::{Duration, Instant};

/// A moment up to which a thread outside the shards waits.
#[derive(Clone, Copy)]
pub(crate) struct Until(Instant);

impl Until {
    /// `timeout` from now.
    pub(crate) fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        // A limit beyond the clock's range is as good as none: 30 years.
        Self(now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(1 << 30)))
    }

    /// What is left; zero when the moment has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
