//! The io_uring backend: one ring a shard for files, socket readiness, wakes and sleep.
//!
//! Invariant: while the shard is busy the kernel is entered only when there is something to submit, or when the ring's
//! flags say that deferred work waits; reading those flags costs two loads. Datagrams themselves travel by ordinary batch
//! system calls, which measured faster than ring operations. Runs on the shard's thread.

mod message;
mod ring;
mod wake;

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use self::ring::{Event, Poll, Ring, WAKE_MESSAGE};
use self::wake::{RingWake, drain_event};
use super::backend::{Backend, Gathered, Interest, Report, WakeFlag};
use super::files::Operation;
use super::udp::UdpSocket;
use crate::port::driver::{DriverKind, Wake};

/// One shard's ring.
pub(super) struct UringBackend {
    ring: Ring,
    wake: Arc<RingWake>,
    wake_armed: bool,
}

impl UringBackend {
    /// Makes the ring on the calling thread, which must be the shard's.
    pub(super) fn new() -> io::Result<Self> {
        let ring = Ring::new()?;
        let by_message = message::post(ring.descriptor(), WAKE_MESSAGE).is_ok();
        Self::with_wake(ring, by_message)
    }

    /// As on kernels before 6.13: wakes by eventfd only.
    #[cfg(test)]
    pub(super) fn without_messages() -> io::Result<Self> {
        Self::with_wake(Ring::new()?, false)
    }

    fn with_wake(ring: Ring, by_message: bool) -> io::Result<Self> {
        let wake = Arc::new(RingWake::new(ring.descriptor(), by_message)?);
        let mut backend = Self { ring, wake, wake_armed: false };
        backend.arm_wake();
        backend.ring.enter();
        while backend.ring.next_event().is_some() {}
        Ok(backend)
    }

    fn arm_wake(&mut self) {
        if !self.wake_armed {
            self.wake_armed = self.ring.start_poll(self.wake.event(), Poll::WakeEvent);
        }
    }

    /// A host sleeps on a descriptor, so entries must not wait for the next enter.
    fn submit_for_host(&mut self) {
        if self.wake.host().is_some() {
            self.ring.enter();
        }
    }

    fn read_events(&mut self, into: &mut Gathered) {
        while let Some(event) = self.ring.next_event() {
            match event {
                Event::File(completion) => into.files.push(completion),
                Event::Polled(Poll::Readable(key)) => into.sockets.push(report(key, true)),
                Event::Polled(Poll::Writable(key)) => into.sockets.push(report(key, false)),
                Event::Polled(Poll::WakeEvent) => {
                    self.wake_armed = false;
                    self.wake.drain();
                }
                Event::Nothing => {}
            }
        }
        // Reading may have started further operations.
        if self.wake.host().is_some() {
            self.flush();
        }
    }
}

impl Backend for UringBackend {
    const KIND: DriverKind = DriverKind::Uring;
    const RECHECK_NS: Option<u64> = None;

    fn submit(&mut self, operation: Operation) {
        self.ring.start_file(operation);
        self.submit_for_host();
    }

    fn flush(&mut self) {
        if self.ring.needs_enter() {
            self.ring.enter();
        }
    }

    fn gather(&mut self, into: &mut Gathered) {
        self.flush();
        self.read_events(into);
    }

    fn attach(&mut self, _key: u32, _socket: &UdpSocket) -> io::Result<()> {
        Ok(())
    }

    fn detach(&mut self, key: u32, _socket: &UdpSocket, armed: Interest, into: &mut Gathered) {
        // An armed poll holds the socket open, and with it the port.
        for (is_armed, poll) in [(armed.read, Poll::Readable(key)), (armed.write, Poll::Writable(key))] {
            let mut asked = false;
            let mut waiting = is_armed;
            while waiting {
                asked = asked || self.ring.cancel_poll(poll);
                self.ring.enter();
                let seen = into.sockets.len();
                self.read_events(into);
                waiting =
                    !into.sockets[seen..].iter().any(|report| report.key == key && report.disarmed == direction(poll));
            }
        }
    }

    fn arm(&mut self, key: u32, socket: &UdpSocket, wanted: Interest, mut armed: Interest) -> Interest {
        let missing = wanted.without(armed);
        if missing.read {
            armed.read = self.ring.start_poll(socket.inner().as_fd(), Poll::Readable(key));
        }
        if missing.write {
            armed.write = self.ring.start_poll(socket.inner().as_fd(), Poll::Writable(key));
        }
        self.submit_for_host();
        armed
    }

    fn arms_at_once(&self) -> bool {
        true
    }

    fn is_hosted(&self) -> bool {
        self.wake.host().is_some()
    }

    fn wait(&mut self, timeout: Option<Duration>) {
        self.arm_wake();
        match timeout {
            Some(Duration::ZERO) => self.ring.enter(),
            timeout if self.wake_armed => self.ring.wait(timeout),
            // The kernel is out of memory: sleeping without a way to be woken would be worse than a turn.
            _ => self.ring.enter(),
        }
    }

    fn wake_flag(&self) -> &WakeFlag {
        self.wake.flag()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.wake) as Arc<dyn Wake>
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        if self.wake.host().is_none() {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            self.ring.register_eventfd(event.as_raw_fd()).ok()?;
            self.wake.set_host(event);
        }
        self.wake.host().map(|event| event.as_raw_fd())
    }

    fn drain_wake_descriptor(&mut self) {
        if let Some(event) = self.wake.host() {
            drain_event(event);
        }
        self.arm_wake();
        self.ring.enter();
    }
}

impl Drop for UringBackend {
    fn drop(&mut self) {
        self.wake.close();
    }
}

fn direction(poll: Poll) -> Interest {
    Interest { read: matches!(poll, Poll::Readable(_)), write: matches!(poll, Poll::Writable(_)) }
}

fn report(key: u32, read: bool) -> Report {
    let side = Interest { read, write: !read };
    Report { key, ready: side, disarmed: side }
}
