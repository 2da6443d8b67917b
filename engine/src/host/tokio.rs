//! A shard inside a tokio current-thread runtime.
//!
//! Order of one round: drain the wake descriptor, take a turn, then yield or sleep on the descriptor. Invariant: a busy shard
//! gives the runtime's other tasks their turn after each of its own, and it sleeps only after it has announced that and looked
//! for work once more. The future is built and polled on one thread. One of the few files with `unsafe`: the descriptor is
//! the driver's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;

use super::{Grown, HostedShard};
use crate::error::StartError;
use crate::shard::Shard;
use crate::shard::turn::Wait;

/// The driver's descriptor, which the driver owns and outlives this.
struct Borrowed(RawFd);

impl AsRawFd for Borrowed {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

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
    let outcome = Rc::new(RefCell::new(None));
    let report = Rc::clone(&outcome);
    let mut grown = hosted.grow(Box::new(move |started: Result<(), StartError>| {
        *report.borrow_mut() = started.err();
    }))?;
    let descriptor = grown.driver.wake_descriptor().expect("every real driver has one");
    // SAFETY: the driver keeps the descriptor open as long as it lives, and `wake`, declared after it, is dropped before it,
    // also when this future is dropped halfway.
    let wake = unsafe { AsyncFd::register_with_interest(Borrowed(descriptor), Interest::READABLE) }
        .map_err(|error| StartError::Driver(error.into()))?;
    turn_until_stopped(&mut grown, &wake).await;
    drop(wake);
    drop(grown);
    let failed = outcome.borrow_mut().take();
    failed.map_or(Ok(()), Err)
}

async fn turn_until_stopped(grown: &mut Grown, wake: &AsyncFd<Borrowed>) {
    loop {
        grown.driver.drain_wake_descriptor();
        let shard = grown.shard.as_mut().expect("taken in drop only");
        let deadline_ns = match shard.turn(&mut *grown.driver) {
            Wait::Stopped => return,
            Wait::Now => {
                if shard.commit_in_flight() {
                    // Hands what was submitted to the kernel and the core to its worker.
                    grown.driver.yield_now();
                }
                ::tokio::task::yield_now().await;
                continue;
            }
            Wait::Until(at_ns) => Some(at_ns),
            Wait::Idle => None,
        };
        let now_ns = grown.driver.now_ns();
        if deadline_ns.is_some_and(|at_ns| at_ns <= now_ns) || !shard.prepare_park() {
            ::tokio::task::yield_now().await;
            continue;
        }
        shard.parking(now_ns);
        let parked = Parked(shard);
        sleep(wake, deadline_ns.map(|at_ns| Duration::from_nanos(at_ns - now_ns))).await;
        drop(parked);
    }
}

/// Sleeps until the descriptor is readable or the time is over.
async fn sleep(wake: &AsyncFd<Borrowed>, time: Option<Duration>) {
    let readable = async {
        // Whatever is said, the shard looks for itself: the readiness is cleared, so that the next sleep asks the kernel again.
        if let Ok(mut guard) = wake.readable().await {
            guard.clear_ready();
        }
    };
    match time {
        None => readable.await,
        Some(time) => {
            let mut readable = std::pin::pin!(readable);
            let mut timer = std::pin::pin!(::tokio::time::sleep(time));
            poll_fn(|cx| {
                if readable.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
        }
    }
}

/// Ends what `prepare_park` began, also when the future is dropped asleep.
struct Parked<'a>(&'a mut Shard);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.finish_park();
    }
}
