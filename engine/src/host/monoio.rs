//! A shard inside a monoio runtime.
//!
//! Invariant: a busy shard never wakes its own task: monoio would run it before its timers and completions, forever. It writes
//! its wake descriptor and waits for that, so the runtime parks, and with that looks at everything else. monoio waits for
//! readiness of sockets only, so the descriptor travels as one; nothing but its readiness is ever asked for. The future is
//! built and polled on one thread.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ::monoio::net::udp::UdpSocket;

use super::{Host, HostedShard};
use crate::error::StartError;
use crate::limits::YIELD_QUANTUM_NS;
use crate::port::driver::Driver;

/// Runs a shard on this thread until it has stopped. Spawn it with `monoio::spawn`, or give it to `block_on`.
///
/// Other tasks of the runtime run beside it and may tell and ask its actors; they must `.await` their asks, because a blocking
/// `.wait()` would wait for a shard that it keeps from running. A busy shard keeps the thread for about 50 us at a time. The
/// shard's timers and deadlines are as exact as monoio's: up to two milliseconds late.
///
/// # Errors
/// What the shard, its services or its transport refused when they started.
///
/// # Panics
/// Outside a monoio runtime with its timer enabled (`RuntimeBuilder::enable_timer`).
///
/// # Cancel safety
/// Dropping the future ends the shard at once: its actors are dropped without their `stopped` hook, and sends to it are
/// `Closed`.
pub async fn run(hosted: HostedShard) -> Result<(), StartError> {
    hosted.run(Monoio::new).await
}

struct Monoio(UdpSocket);

impl Monoio {
    fn new(wake: OwnedFd) -> io::Result<Self> {
        UdpSocket::from_std(std::net::UdpSocket::from(wake)).map(Self)
    }
}

impl Host for Monoio {
    /// Giving way costs a trip through the kernel, a few microseconds.
    const QUANTUM_NS: u64 = YIELD_QUANTUM_NS;

    async fn give_way(&self, driver: &mut dyn Driver) {
        driver.waker().wake();
        self.readable().await;
    }

    async fn readable(&self) {
        // Whatever is said, the shard looks for itself.
        let _ = self.0.readable(false).await;
    }

    async fn pass(&self, time: Duration) {
        ::monoio::time::sleep(time).await;
    }
}
