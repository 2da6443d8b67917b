//! `RealDriverFactory`: chooses the driver once, for all shards, and remembers why.
//!
//! Invariant: the choice is made by really building a ring on the calling thread, so a shard does not find out later that
//! the kernel refuses. Any thread may call it.

use std::fmt;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity};
use shardstage_codec::ShardId;

use super::poll::PollBackend;
use super::real::RealDriver;
use super::uring::UringBackend;
use crate::port::driver::{Driver, DriverFactory, DriverKind};

/// Environment variable that overrides [`DriverChoice::Auto`]: `uring` or `poll`.
pub const DRIVER_VARIABLE: &str = "SHARDSTAGE_DRIVER";

/// Which real driver to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, else the poll driver; [`DRIVER_VARIABLE`] overrides it.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// The poll driver.
    Poll,
}

/// Makes real drivers.
pub struct RealDriverFactory {
    kind: DriverKind,
    fallback_reason: Option<String>,
    /// The CPUs of the thread that made the factory: helper threads of pinned shards may use them all.
    cpus: Option<CpuSet>,
}

impl RealDriverFactory {
    /// Chooses the driver. Call it on a thread that is not pinned.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown value of [`DRIVER_VARIABLE`]; with [`DriverChoice::Uring`], what the kernel refused
    /// and which limit or permission is missing.
    pub fn new(choice: DriverChoice) -> io::Result<Self> {
        Self::with_override(choice, std::env::var(DRIVER_VARIABLE).ok().as_deref())
    }

    fn with_override(choice: DriverChoice, variable: Option<&str>) -> io::Result<Self> {
        let choice = match (choice, variable) {
            (DriverChoice::Auto, Some("uring")) => DriverChoice::Uring,
            (DriverChoice::Auto, Some("poll")) => DriverChoice::Poll,
            (DriverChoice::Auto, Some(other)) if !other.is_empty() && other != "auto" => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{DRIVER_VARIABLE}={other}: expected `uring`, `poll` or `auto`"),
                ));
            }
            (choice, _) => choice,
        };
        let (kind, fallback_reason) = match choice {
            DriverChoice::Poll => (DriverKind::Poll, None),
            DriverChoice::Uring => UringBackend::new().map(|_| (DriverKind::Uring, None))?,
            DriverChoice::Auto => match UringBackend::new() {
                Ok(_) => (DriverKind::Uring, None),
                Err(error) => (DriverKind::Poll, Some(error.to_string())),
            },
        };
        Ok(Self { kind, fallback_reason, cpus: sched_getaffinity(None).ok() })
    }

    /// Why [`DriverChoice::Auto`] did not take io_uring; `None` when it did or was not asked.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }
}

impl DriverFactory for RealDriverFactory {
    fn kind(&self) -> DriverKind {
        self.kind
    }

    fn make(&self, shard: ShardId) -> io::Result<Box<dyn Driver>> {
        let made: io::Result<Box<dyn Driver>> = match self.kind {
            DriverKind::Uring => UringBackend::new().map(|backend| Box::new(RealDriver::new(backend)) as _),
            _ => PollBackend::new(self.cpus).map(|backend| Box::new(RealDriver::new(backend)) as _),
        };
        made.map_err(|error| io::Error::new(error.kind(), format!("{} driver of {shard:?}: {error}", self.kind)))
    }
}

impl fmt::Debug for RealDriverFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealDriverFactory")
            .field("kind", &self.kind)
            .field("fallback_reason", &self.fallback_reason)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_overrides_auto_only() {
        let kind =
            |choice, variable| RealDriverFactory::with_override(choice, variable).expect("both drivers work").kind();
        assert_eq!(kind(DriverChoice::Auto, Some("poll")), DriverKind::Poll);
        assert_eq!(kind(DriverChoice::Auto, Some("uring")), DriverKind::Uring);
        assert_eq!(kind(DriverChoice::Uring, Some("poll")), DriverKind::Uring);
        assert_eq!(kind(DriverChoice::Poll, Some("uring")), DriverKind::Poll);
        let error = RealDriverFactory::with_override(DriverChoice::Auto, Some("epoll")).expect_err("unknown value");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("SHARDSTAGE_DRIVER=epoll"), "{error}");
    }

    #[test]
    fn auto_takes_the_ring_or_says_why_not() {
        let factory = RealDriverFactory::with_override(DriverChoice::Auto, None).expect("one driver works");
        assert_eq!(factory.kind() == DriverKind::Poll, factory.fallback_reason().is_some());
    }
}
