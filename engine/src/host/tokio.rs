//! A shard inside a tokio current-thread runtime.
//!
//! Invariant: the runtime's other tasks get their turn after each of a busy shard's. The future is built and polled on one
//! thread. One of the few files with `unsafe`: tokio wants a promise about the descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

use super::{Host, HostedShard};
use crate::error::StartError;
use crate::port::driver::Driver;

/// Runs a shard on this thread until it has stopped. Spawn it with `tokio::task::spawn_local`, or give it to `block_on`.
///
/// Other tasks of the runtime run beside it and may tell and ask its actors; they must `.await` their asks, because a blocking
/// `.wait()` would wait for a shard that it keeps from running.
///
/// # Errors
/// What the shard, its services or its transport refused when they started.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
/// Dropping the future ends the shard at once: its actors are dropped without their `stopped` hook, and sends to it are
/// `Closed`.
pub async fn run(hosted: HostedShard) -> Result<(), StartError> {
    hosted.run(Tokio::new).await
}

struct Tokio(AsyncFd<OwnedFd>);

impl Tokio {
    fn new(wake: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor stays open, under one number, for as long as the value that it has been given to.
        Ok(Self(unsafe { AsyncFd::register_with_interest(wake, Interest::READABLE) }?))
    }
}

impl Host for Tokio {
    /// A yield costs tens of nanoseconds.
    const QUANTUM_NS: u64 = 0;

    async fn give_way(&self, _driver: &mut dyn Driver) {
        ::tokio::task::yield_now().await;
    }

    async fn readable(&self) {
        // Whatever is said, the shard looks for itself: the readiness is cleared, so that the next sleep asks the kernel again.
        if let Ok(mut guard) = self.0.readable().await {
            guard.clear_ready();
        }
    }

    async fn pass(&self, time: Duration) {
        ::tokio::time::sleep(time).await;
    }
}
