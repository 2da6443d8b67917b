//! The poll backend: a readiness poller for sockets and wakes, one writer thread for files.
//!
//! Invariant: file operations run in submission order, one at a time. While the shard is busy sockets are simply tried
//! every [`POLL_RECHECK_NS`]; the poller is asked before a sleep and inside a host. Runs on the shard's thread.

mod readiness;
mod worker;

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::CpuSet;

use self::readiness::{PollWake, Readiness};
use self::worker::Worker;
use super::backend::{Backend, Gathered, Interest, WakeFlag};
use super::files::Operation;
use super::udp::UdpSocket;
use crate::limits::POLL_RECHECK_NS;
use crate::port::driver::{DriverKind, Wake};

/// One shard's poller and writer thread.
pub(super) struct PollBackend {
    readiness: Readiness,
    wake: Arc<PollWake>,
    worker: Worker,
    /// A host sleeps on the poller's descriptor.
    hosted: Cell<bool>,
}

impl PollBackend {
    /// Makes the poller; the writer thread starts with the first file operation and may run on `cpus`.
    pub(super) fn new(cpus: Option<CpuSet>) -> io::Result<Self> {
        let readiness = Readiness::new()?;
        let wake = readiness.wake();
        let worker = Worker::new(Arc::clone(&wake), cpus);
        Ok(Self { readiness, wake, worker, hosted: Cell::new(false) })
    }
}

impl Backend for PollBackend {
    const KIND: DriverKind = DriverKind::Poll;
    const RECHECK_NS: Option<u64> = Some(POLL_RECHECK_NS);

    fn submit(&mut self, operation: Operation) {
        self.worker.submit(operation);
    }

    fn flush(&mut self) {}

    fn gather(&mut self, into: &mut Gathered) {
        self.worker.collect(&mut into.files);
        self.readiness.collect(&mut into.sockets);
    }

    fn attach(&mut self, key: u32, socket: &UdpSocket) -> io::Result<()> {
        self.readiness.attach(key, socket)
    }

    fn detach(&mut self, _key: u32, socket: &UdpSocket, _armed: Interest, _into: &mut Gathered) {
        self.readiness.detach(socket);
    }

    fn arm(&mut self, key: u32, socket: &UdpSocket, wanted: Interest, armed: Interest) -> Interest {
        self.readiness.arm(key, socket, wanted, armed)
    }

    fn arms_at_once(&self) -> bool {
        self.hosted.get()
    }

    fn is_hosted(&self) -> bool {
        self.hosted.get()
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        self.readiness.wait(timeout);
    }

    fn wake_flag(&self) -> &WakeFlag {
        self.wake.flag()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake) as Arc<dyn Wake>
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        if !self.hosted.replace(true) {
            // Sockets that ran dry before the host came are not armed yet: the first readiness makes it take a turn.
            self.wake.kick();
        }
        Some(self.readiness.descriptor())
    }

    fn drain_wake_descriptor(&mut self) {
        self.readiness.wait(Some(Duration::ZERO));
    }
}
