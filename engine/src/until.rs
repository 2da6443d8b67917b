//! `Until` and `Laps`: time limits and lengths of time for threads outside the shards, which have no driver.
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

/// Time that passes between looks of a thread outside the shards.
pub(crate) struct Laps(Instant);

impl Laps {
    /// The first lap begins now.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Ends a lap and begins the next; returns how long it was.
    pub(crate) fn next(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.0, now))
    }
}
