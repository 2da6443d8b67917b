//! Turns the driver's clocks into the types that the protocol and TLS libraries take.
//!
//! Invariant: no time comes from anywhere but the driver. The protocol library takes `Instant`, which can only be made
//! from the operating system's clock; one is read here as an arbitrary origin, and only differences to it are ever used,
//! so its value influences nothing. Used on the shard's thread; [`WallClock`] is shared with the TLS configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustls_pki_types::UnixTime;

/// The origin that driver times are added to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn instant(self, now_ns: u64) -> Instant {
        self.origin + Duration::from_nanos(now_ns)
    }

    pub(crate) fn ns(self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Nanoseconds of a duration that stands in `limits.rs` or in the configuration.
pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The wall clock as of the last poll, for certificates and address tokens.
///
/// One writer, the shard's thread; readers are callbacks on the same thread, so relaxed order is enough.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    unix_ns: AtomicU64,
}

impl WallClock {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn set(&self, unix_ns: u64) {
        self.unix_ns.store(unix_ns, Ordering::Relaxed);
    }

    pub(crate) fn since_epoch(&self) -> Duration {
        Duration::from_nanos(self.unix_ns.load(Ordering::Relaxed))
    }
}

impl rustls::time_provider::TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.since_epoch()))
    }
}

impl quinn_proto::TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.since_epoch()
    }
}
