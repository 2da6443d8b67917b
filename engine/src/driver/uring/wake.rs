//! `RingWake`: wakes a thread that sleeps in its ring.
//!
//! Invariant: a raised flag is always followed by a completion in the ring, by message where the kernel has it (measured
//! 5 us faster), else by the eventfd that the ring polls. A host's descriptor is written to directly: a ring that is woken
//! by one eventfd does not reliably signal another (a host was seen to sleep on under Linux 6.18).
//! Any thread may call it, also after the driver is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::message;
use super::ring::WAKE_MESSAGE;
use crate::driver::backend::WakeFlag;
use crate::port::driver::Wake;

/// The wake handle of one ring.
pub(super) struct RingWake {
    flag: WakeFlag,
    /// A second descriptor of the ring, so that its number cannot be reused under a late waker.
    ring: OwnedFd,
    event: OwnedFd,
    /// The eventfd that a host sleeps on, once there is one.
    host: OnceLock<OwnedFd>,
    by_message: bool,
    closed: AtomicBool,
}

impl RingWake {
    pub(super) fn new(ring: BorrowedFd<'_>, by_message: bool) -> io::Result<Self> {
        Ok(Self {
            flag: WakeFlag::default(),
            ring: ring.try_clone_to_owned()?,
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            host: OnceLock::new(),
            by_message,
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn flag(&self) -> &WakeFlag {
        &self.flag
    }

    /// The eventfd that the ring polls.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Empties the eventfd.
    pub(super) fn drain(&self) {
        drain_event(self.event.as_fd());
    }

    /// The eventfd that a host sleeps on.
    pub(super) fn host(&self) -> Option<BorrowedFd<'_>> {
        self.host.get().map(AsFd::as_fd)
    }

    /// From now on wakes also write to `event`, which is written to once at once: what happened before the host came must
    /// not wait.
    pub(super) fn set_host(&self, event: OwnedFd) {
        signal_event(event.as_fd());
        self.host.set(event).expect("a driver has one host");
    }

    /// From now on wakes do nothing: the driver is gone.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl Wake for RingWake {
    fn wake(&self) {
        if !self.flag.raise() || self.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Some(host) = self.host() {
            signal_event(host);
        }
        if self.by_message && message::post(self.ring.as_fd(), WAKE_MESSAGE).is_ok() {
            return;
        }
        signal_event(self.event());
    }
}

/// Adds one to an eventfd.
fn signal_event(event: BorrowedFd<'_>) {
    // A full counter (`WouldBlock`) is a signal that is already under way; nothing else can fail on an open eventfd.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Empties an eventfd; nothing happens when it is empty.
pub(super) fn drain_event(event: BorrowedFd<'_>) {
    let mut count = [0; 8];
    let _ = rustix::io::read(event, &mut count);
}
