//! The two clocks of a real driver.
//!
//! Invariant: the monotonic clock is the kernel's, so its values compare between the shards of one machine.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the kernel's monotonic clock, never 0. About 20 ns.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = now.tv_sec.unsigned_abs();
    (seconds * 1_000_000_000 + now.tv_nsec.unsigned_abs()).max(1)
}

/// Nanoseconds since the Unix epoch; 0 when the machine's clock stands before it.
pub(super) fn wall_unix_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
