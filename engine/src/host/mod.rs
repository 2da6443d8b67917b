//! Hosts: runtimes that the user already has, inside which a shard takes its turns.
//!
//! Order of one round: clear the wake descriptor, take turns, then give way or sleep on the descriptor. Invariant: a hosted shard
//! is the very same shard on the same driver; only who calls `turn`, and who sleeps, differs. It is made on the thread that
//! will turn it, so a [`HostedShard`] may be sent there, and nothing of what it grows into leaves. It sleeps only after it has
//! announced that and looked for work once more. One of the few files with `unsafe`: the descriptor is the driver's.

#[cfg(feature = "host-glommio")]
pub mod glommio;
#[cfg(feature = "host-monoio")]
pub mod monoio;
mod start;
#[cfg(feature = "host-tokio")]
pub mod tokio;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use shardstage_codec::ShardId;

use crate::actor::StopReason;
use crate::driver::RealDriverFactory;
use crate::error::StartError;
use crate::latch::LatchGuard;
use crate::link::ShardLink;
use crate::port::driver::{Driver, DriverFactory};
use crate::seed::ShardSeed;
use crate::shard::turn::Wait;
use crate::shard::{Shard, drop_contained};

/// One shard of an engine that waits for a host to run it. Dropping it closes the shard: sends to it are `Closed`.
pub struct HostedShard {
    seed: ShardSeed,
    drivers: Arc<RealDriverFactory>,
    end: End,
    /// Set to true once services and transport have started; whatever goes wrong before drops it, which says false.
    started: LatchGuard<bool>,
}

/// Tells the engine that a hosted shard is gone, whatever the reason.
struct End {
    link: &'static ShardLink,
    /// Set when it is dropped.
    _ended: LatchGuard<StopReason>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// A shard on its host's thread. The end is told after shard and driver are dropped.
struct Grown {
    shard: Option<Shard>,
    driver: Box<dyn Driver>,
    _end: End,
}

impl Drop for Grown {
    fn drop(&mut self) {
        // Timers and closures hold values of the user's.
        drop_contained(self.shard.take());
    }
}

/// What a runtime lends the shard that it hosts.
trait Host {
    /// How long a busy shard keeps the thread before the runtime's other tasks get it, ns; at least one turn.
    const QUANTUM_NS: u64;

    /// Lets the runtime's other tasks, timers and I/O have the thread; the shard has work to do.
    async fn give_way(&self, driver: &mut dyn Driver);

    /// Returns once the wake descriptor is readable, and sometimes earlier. Dropping the future is fine.
    async fn readable(&self);

    /// Returns after this time.
    async fn pass(&self, time: Duration);
}

impl HostedShard {
    /// Which shard of its engine it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.end.link.shard()
    }

    /// Grows into a shard on the calling thread and turns it until it has stopped. `make` makes the host of a descriptor that
    /// becomes readable when the shard should take a turn.
    async fn run<H: Host>(self, make: impl FnOnce(OwnedFd) -> io::Result<H>) -> Result<(), StartError> {
        let Self { seed, drivers, end, started } = self;
        let failed = Rc::new(RefCell::new(None));
        let report = Rc::clone(&failed);
        let on_started = Box::new(move |outcome: Result<(), StartError>| match outcome {
            Ok(()) => started.set(true),
            Err(error) => *report.borrow_mut() = Some(error),
        });
        let mut driver = drivers.make(end.link.shard()).map_err(StartError::Driver)?;
        let shard = seed.grow(&mut *driver, on_started)?;
        let mut grown = Grown { shard: Some(shard), driver, _end: end };
        let host = wake_descriptor(&*grown.driver).and_then(make).map_err(StartError::Driver)?;
        grown.turn_until_stopped(&host).await;
        drop(host);
        drop(grown);
        let failed = failed.borrow_mut().take();
        failed.map_or(Ok(()), Err)
    }
}

impl Grown {
    async fn turn_until_stopped<H: Host>(&mut self, host: &H) {
        let Self { shard, driver, .. } = self;
        let shard = shard.as_mut().expect("taken in drop only");
        loop {
            driver.drain_wake_descriptor();
            let deadline_ns = match take_turns::<H>(shard, &mut **driver) {
                Wait::Stopped => return,
                Wait::Now => {
                    // Others run on the thread now: their time is no turn's.
                    shard.rest(driver.now_ns());
                    host.give_way(&mut **driver).await;
                    continue;
                }
                Wait::Until(at_ns) => Some(at_ns),
                Wait::Idle => None,
            };
            let now_ns = driver.now_ns();
            if deadline_ns.is_some_and(|at_ns| at_ns <= now_ns) || !shard.prepare_park() {
                host.give_way(&mut **driver).await;
                continue;
            }
            shard.parking(now_ns);
            let parked = Parked(shard);
            sleep(host, deadline_ns.map(|at_ns| Duration::from_nanos(at_ns - now_ns))).await;
            drop(parked);
        }
    }
}

/// Takes turns while there is work, for the host's quantum at most.
fn take_turns<H: Host>(shard: &mut Shard, driver: &mut dyn Driver) -> Wait {
    let mut began_ns = None;
    loop {
        let wait = shard.turn(driver);
        if wait != Wait::Now {
            return wait;
        }
        if shard.commit_in_flight() {
            // Hands what was submitted to the kernel and the core to its worker, whose time is no turn's.
            shard.rest(driver.now_ns());
            driver.yield_now();
        }
        let turn_ns = shard.turn_began_ns();
        if turn_ns - *began_ns.get_or_insert(turn_ns) >= H::QUANTUM_NS {
            return Wait::Now;
        }
    }
}

/// Sleeps until the descriptor is readable or the time is over.
async fn sleep<H: Host>(host: &H, time: Option<Duration>) {
    let mut readable = pin!(host.readable());
    let Some(time) = time else { return readable.await };
    let mut passed = pin!(host.pass(time));
    poll_fn(|cx| {
        if readable.as_mut().poll(cx).is_ready() || passed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// A descriptor of the host's own for what the driver's becomes readable with. Closing it leaves the driver's alone.
fn wake_descriptor(driver: &dyn Driver) -> io::Result<OwnedFd> {
    let descriptor = driver.wake_descriptor().expect("every real driver has one");
    // SAFETY: the driver keeps the descriptor open as long as it lives, and it outlives this function.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned()
}

/// Ends what `prepare_park` began, also when the future is dropped asleep.
struct Parked<'a>(&'a mut Shard);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.finish_park();
    }
}

impl std::fmt::Debug for HostedShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostedShard({})", self.shard())
    }
}
