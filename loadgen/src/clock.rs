//! The monotonic clock that all processes of this machine share, in nanoseconds.

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, clock_gettime};

/// Now. The same clock in every process; about 25 ns.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Sleeps until the clock shows `at_ns`; returns at once when it already does.
pub fn sleep_until(at_ns: u64) {
    let at = rustix::time::Timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as _ };
    while now_ns() < at_ns {
        // A signal may end the sleep early; the loop looks at the clock again.
        let _interrupted = clock_nanosleep_absolute(ClockId::Monotonic, &at);
    }
}

/// Keeps the core until the clock shows `at_ns`: exact where [`sleep_until`] is tens of microseconds late.
pub fn spin_until(at_ns: u64) {
    while now_ns() < at_ns {
        std::hint::spin_loop();
    }
}
