//! `Backend`: what differs between the two real drivers. Files are submitted and collected, sockets are armed and
//! reported ready, a thread sleeps and is woken.
//!
//! Invariant: every submitted operation is collected exactly once, and arming is one-shot: a report that disarms must be
//! followed by a new arm before the next one can come. Runs on the shard's thread.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::files::Operation;
use super::udp::UdpSocket;
use crate::port::driver::{DriverKind, FileCompletion, Wake};

/// Directions of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Interest {
    /// Whether all of `other` is in here.
    pub(super) fn covers(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write)
    }

    /// What is in here and not in `other`.
    pub(super) fn without(self, other: Self) -> Self {
        Self { read: self.read && !other.read, write: self.write && !other.write }
    }
}

/// One report about a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// The socket's key in the driver's table; possibly closed by now.
    pub(super) key: u32,
    /// What it may be ready for.
    pub(super) ready: Interest,
    /// What is no longer armed.
    pub(super) disarmed: Interest,
}

/// Where a backend puts what it collected.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) files: Vec<FileCompletion>,
    pub(super) sockets: Vec<Report>,
}

/// The part of a real driver that knows how the kernel is asked.
pub(super) trait Backend {
    /// Which driver this makes.
    const KIND: DriverKind;

    /// Nanoseconds after which a socket that had nothing is worth an unasked try; `None` where reports come while busy.
    const RECHECK_NS: Option<u64>;

    /// Takes an operation; it starts at the latest with the next [`flush`](Self::flush), gather or wait.
    fn submit(&mut self, operation: Operation);

    /// Starts everything that was submitted or armed. Cheap when there is nothing.
    fn flush(&mut self);

    /// Collects what is there without blocking. Cheap when there is nothing.
    fn gather(&mut self, into: &mut Gathered);

    /// Makes a socket known.
    fn attach(&mut self, key: u32, socket: &UdpSocket) -> io::Result<()>;

    /// Forgets a socket; afterwards nothing but the caller keeps it open.
    fn detach(&mut self, key: u32, socket: &UdpSocket, armed: Interest, into: &mut Gathered);

    /// Arms what is in `wanted` and not yet in `armed`; returns what is armed now.
    fn arm(&mut self, key: u32, socket: &UdpSocket, wanted: Interest, armed: Interest) -> Interest;

    /// Whether sockets are armed as soon as they run dry, not only before a sleep.
    fn arms_at_once(&self) -> bool;

    /// Whether somebody else sleeps for this driver, on its wake descriptor.
    fn is_hosted(&self) -> bool;

    /// Sleeps until there is something to gather, the wake flag is raised or the time is over. May return early.
    fn wait(&mut self, timeout: Option<Duration>);

    /// The wake flag.
    fn wake_flag(&self) -> &WakeFlag;

    /// The wake handle.
    fn waker(&self) -> Arc<dyn Wake>;

    /// See [`Driver::wake_descriptor`](crate::port::driver::Driver::wake_descriptor).
    fn wake_descriptor(&self) -> Option<RawFd>;

    /// Clears the wake descriptor and runs what the kernel has deferred.
    fn drain_wake_descriptor(&mut self);
}

/// Says that a wake is due. Shared by the sleeper and everyone who may wake it.
///
/// Only the raise that finds the flag down kicks the kernel, so a crowd of wakers costs one system call a sleep. The
/// sleeper takes the flag before and after each sleep: its read-modify-write pairs with the raiser's, so whatever was
/// published before a raise that found the flag up is visible after the take.
#[derive(Default)]
pub(super) struct WakeFlag(AtomicBool);

impl WakeFlag {
    /// Raises the flag; true when the caller must kick.
    pub(super) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Lowers the flag; true when it was up.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
