//! `Readiness`: sockets in a poller, one shot at a time.
//!
//! Invariant: a socket is registered from `attach` to `detach`, and it is open all that time. `Readiness` belongs to the
//! shard's thread, [`PollWake`] to any. One of the few files with `unsafe`.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use polling::{Event, Events, Poller};

use crate::driver::backend::{Interest, Report, WakeFlag};
use crate::driver::udp::UdpSocket;
use crate::port::driver::Wake;

/// Reports taken from the kernel at a time; a shard has one or two sockets.
const EVENTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Wakes a thread that sleeps in its poller.
pub(super) struct PollWake {
    flag: WakeFlag,
    poller: Poller,
}

impl PollWake {
    pub(super) fn flag(&self) -> &WakeFlag {
        &self.flag
    }

    /// Ends the poller's current or next sleep without raising the flag.
    pub(super) fn kick(&self) {
        // The only failure is a full counter, and then a kick is already under way.
        let _ = self.poller.notify();
    }
}

impl Wake for PollWake {
    fn wake(&self) {
        if self.flag.raise() {
            self.kick();
        }
    }
}

/// The poller of one shard.
pub(super) struct Readiness {
    shared: Arc<PollWake>,
    events: Events,
    reports: Vec<Report>,
}

impl Readiness {
    pub(super) fn new() -> io::Result<Self> {
        let poller =
            Poller::new().map_err(|error| io::Error::new(error.kind(), format!("making a poller: {error}")))?;
        let shared = Arc::new(PollWake { flag: WakeFlag::default(), poller });
        Ok(Self { shared, events: Events::with_capacity(EVENTS), reports: Vec::new() })
    }

    pub(super) fn wake(&self) -> Arc<PollWake> {
        Arc::clone(&self.shared)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.shared.poller.as_raw_fd()
    }

    pub(super) fn attach(&mut self, key: u32, socket: &UdpSocket) -> io::Result<()> {
        // SAFETY: the driver calls `detach` before it drops the socket, also when the driver itself is dropped.
        unsafe { self.shared.poller.add(socket.inner(), Event::none(key as usize)) }
    }

    pub(super) fn detach(&mut self, socket: &UdpSocket) {
        // It fails only for a socket that is not registered, and that is what is wanted.
        let _ = self.shared.poller.delete(socket.inner());
    }

    /// One registration holds both directions, so the union is armed anew.
    pub(super) fn arm(&mut self, key: u32, socket: &UdpSocket, wanted: Interest, armed: Interest) -> Interest {
        let union = Interest { read: wanted.read || armed.read, write: wanted.write || armed.write };
        let event = Event::new(key as usize, union.read, union.write);
        match self.shared.poller.modify(socket.inner(), event) {
            Ok(()) => union,
            Err(_) => armed,
        }
    }

    /// Sleeps until something is ready, a kick comes or the time is over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        self.events.clear();
        match self.shared.poller.wait(&mut self.events, timeout) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("the poller refuses to wait: {error}"),
        }
        let both = Interest { read: true, write: true };
        self.reports.extend(self.events.iter().map(|event| Report {
            key: u32::try_from(event.key).expect("keys are 32 bits wide"),
            ready: Interest { read: event.readable, write: event.writable },
            disarmed: both,
        }));
    }

    /// Hands out what the last waits reported.
    pub(super) fn collect(&mut self, into: &mut Vec<Report>) {
        into.append(&mut self.reports);
    }
}
