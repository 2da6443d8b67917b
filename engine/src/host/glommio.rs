//! A shard inside a glommio executor.
//!
//! Invariant: a busy shard never wakes its own task: glommio would look at timers and completions only when the preemption
//! timer fires, after 100 ms by default. It writes its wake descriptor and waits for that, so the executor looks at everything
//! else. glommio waits for readiness of streams only, so a copy of the descriptor travels as one: a stream polls before it
//! reads, and that the read then refuses what is no socket does not matter. The future is built and polled on one thread. One
//! of the few files with `unsafe`: the stream is made of a raw descriptor.

use std::future::poll_fn;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use ::glommio::net::UnixStream;
use futures_io::AsyncRead;

use super::{Host, HostedShard};
use crate::error::StartError;
use crate::limits::YIELD_QUANTUM_NS;
use crate::port::driver::Driver;

/// Runs a shard on this thread until it has stopped. Spawn it with `glommio::spawn_local`, or give it to `LocalExecutor::run`.
///
/// Other tasks of the executor run beside it and may tell and ask its actors; they must `.await` their asks, because a blocking
/// `.wait()` would wait for a shard that it keeps from running. A busy shard keeps the thread for about 50 us at a time.
///
/// # Errors
/// What the shard, its services or its transport refused when they started.
///
/// # Panics
/// Outside a glommio executor.
///
/// # Cancel safety
/// Dropping the future ends the shard at once: its actors are dropped without their `stopped` hook, and sends to it are
/// `Closed`.
pub async fn run(hosted: HostedShard) -> Result<(), StartError> {
    hosted.run(|wake| Ok(Glommio(wake))).await
}

struct Glommio(OwnedFd);

impl Host for Glommio {
    /// Giving way costs a trip through the kernel, a few microseconds.
    const QUANTUM_NS: u64 = YIELD_QUANTUM_NS;

    async fn give_way(&self, driver: &mut dyn Driver) {
        driver.waker().wake();
        self.readable().await;
    }

    async fn readable(&self) {
        let Ok(copy) = self.0.try_clone() else {
            // Without a descriptor to spare the shard takes a turn; the next time may find one.
            return ::glommio::executor().yield_task_queue_now().await;
        };
        // SAFETY: the copy is open and given up to the stream, which closes it.
        let mut stream = unsafe { UnixStream::from_raw_fd(copy.into_raw_fd()) };
        // The poll is armed when the stream is made; the first read waits for it, and whatever it says then is no matter.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut [0])).await;
    }

    async fn pass(&self, time: Duration) {
        ::glommio::timer::sleep(time).await;
    }
}
