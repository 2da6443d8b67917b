//! `RealDriver`: the [`Driver`] port over a [`Backend`]. Clock, randomness, files and datagrams are the same for both.
//!
//! Invariant: `readable` is a guess that is never wrongly false for longer than it takes the backend to report; a socket
//! that may have data is armed before the thread sleeps. Runs on the shard's thread and is not `Send`.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn_udp::BATCH_SIZE;

use super::backend::{Backend, Gathered, Interest};
use super::clock;
use super::files::{self, Files};
use super::random::RandomPool;
use super::table::Table;
use super::udp::UdpSocket;
use crate::limits::{HOT_NS, HOT_RECHECK_NS};
use crate::port::driver::{
    DatagramBatch, Driver, DriverKind, FileCompletion, FileId, FileRequest, OpenOptions, SocketId, Transmit, Wake,
};

/// One shard's driver.
pub(super) struct RealDriver<B: Backend> {
    backend: B,
    files: Files,
    sockets: Table<Socket>,
    gathered: Gathered,
    random: RandomPool,
    /// The ring and the sockets' flags belong to one thread.
    not_send: PhantomData<*const ()>,
}

struct Socket {
    udp: UdpSocket,
    readable: bool,
    /// A send met a full buffer since the last sleep.
    blocked: bool,
    armed: Interest,
    tried_ns: u64,
    /// Until then it is tried without being asked: a socket that had something usually has more soon, and arming it costs
    /// two system calls a datagram.
    hot_until_ns: u64,
}

impl<B: Backend> RealDriver<B> {
    pub(super) fn new(backend: B) -> Self {
        Self {
            backend,
            files: Files::new(),
            sockets: Table::new(),
            gathered: Gathered::default(),
            random: RandomPool::new(),
            not_send: PhantomData,
        }
    }

    fn gather(&mut self) {
        self.backend.gather(&mut self.gathered);
        for report in self.gathered.sockets.drain(..) {
            let Some(socket) = self.sockets.get_mut(report.key) else { continue };
            socket.armed = socket.armed.without(report.disarmed);
            socket.readable |= report.ready.read;
        }
    }

    /// Arms every socket for a sleep; false when the kernel would not.
    fn arm_all(&mut self) -> bool {
        let mut armed_all = true;
        for (key, socket) in self.sockets.iter_mut() {
            let wanted = Interest { read: true, write: std::mem::take(&mut socket.blocked) };
            if !socket.armed.covers(wanted) {
                socket.armed = self.backend.arm(key, &socket.udp, wanted, socket.armed);
                armed_all &= socket.armed.covers(wanted);
            }
        }
        armed_all
    }

    /// Whether a receive is worth a system call.
    fn worth_receiving(&mut self, socket: SocketId) -> io::Result<bool> {
        if self.sockets.get(socket.0).ok_or_else(unknown_socket)?.readable {
            return Ok(true);
        }
        self.gather();
        let entry = self.sockets.get_mut(socket.0).ok_or_else(unknown_socket)?;
        if entry.readable {
            return Ok(true);
        }
        let now_ns = if entry.hot_until_ns != 0 || B::RECHECK_NS.is_some() { clock::monotonic_ns() } else { 0 };
        if now_ns < entry.hot_until_ns {
            return Ok(now_ns - entry.tried_ns >= HOT_RECHECK_NS);
        }
        entry.hot_until_ns = 0;
        Ok(B::RECHECK_NS.is_some_and(|every| now_ns - entry.tried_ns >= every))
    }
}

impl<B: Backend> Driver for RealDriver<B> {
    fn kind(&self) -> DriverKind {
        B::KIND
    }

    fn now_ns(&mut self) -> u64 {
        clock::monotonic_ns()
    }

    fn wall_unix_ns(&mut self) -> u64 {
        clock::wall_unix_ns()
    }

    fn random_u64(&mut self) -> u64 {
        self.random.draw()
    }

    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileId> {
        self.files.open(path, options)
    }

    fn close(&mut self, file: FileId) {
        self.files.close(file);
    }

    fn file_len(&mut self, file: FileId) -> io::Result<u64> {
        self.files.len(file)
    }

    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        files::list(directory)
    }

    fn create_dir(&mut self, directory: &Path) -> io::Result<()> {
        files::create_dir(directory)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        files::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        files::remove(path)
    }

    fn submit(&mut self, request: FileRequest) {
        match self.files.check(request) {
            Ok(operation) => self.backend.submit(operation),
            Err(refused) => {
                self.gathered.files.push(refused);
                // A host sleeps on the descriptor, which knows nothing of this completion.
                self.backend.waker().wake();
            }
        }
    }

    fn completions(&mut self, out: &mut Vec<FileCompletion>) {
        self.gather();
        out.append(&mut self.gathered.files);
    }

    fn bind(&mut self, address: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        let udp = UdpSocket::bind(address)?;
        let bound = udp.local_address()?;
        let socket =
            Socket { udp, readable: true, blocked: false, armed: Interest::default(), tried_ns: 0, hot_until_ns: 0 };
        let key = self.sockets.insert(socket).map_err(|_| io::Error::other("the driver's socket table is full"))?;
        let entry = self.sockets.get(key).expect("it was just inserted");
        if let Err(error) = self.backend.attach(key, &entry.udp) {
            self.sockets.remove(key);
            return Err(error);
        }
        Ok((SocketId(key), bound))
    }

    fn unbind(&mut self, socket: SocketId) {
        if let Some(entry) = self.sockets.remove(socket.0) {
            self.backend.detach(socket.0, &entry.udp, entry.armed, &mut self.gathered);
        }
    }

    fn receive(&mut self, socket: SocketId, batch: &mut DatagramBatch) -> io::Result<usize> {
        batch.metas.clear();
        let worth_it = self.worth_receiving(socket)?;
        let entry = self.sockets.get_mut(socket.0).ok_or_else(unknown_socket)?;
        let mut received = 0;
        if worth_it {
            received = match entry.udp.receive(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                result => result?,
            };
            // A batch that was not filled has emptied the socket; what comes later is reported once it is armed.
            entry.readable = received == batch.buffers.len().min(BATCH_SIZE);
            let may_be_hot = (received > 0 || entry.hot_until_ns != 0) && !self.backend.is_hosted();
            if may_be_hot || B::RECHECK_NS.is_some() {
                entry.tried_ns = clock::monotonic_ns();
            }
            if received > 0 && may_be_hot {
                entry.hot_until_ns = entry.tried_ns + HOT_NS;
            }
        }
        let is_hot = entry.hot_until_ns != 0 && !self.backend.is_hosted();
        if !entry.readable && !is_hot && !entry.armed.read && self.backend.arms_at_once() {
            let wanted = Interest { read: true, write: false };
            entry.armed = self.backend.arm(socket.0, &entry.udp, wanted, entry.armed);
        }
        Ok(received)
    }

    fn send(&mut self, socket: SocketId, transmit: &Transmit<'_>) -> io::Result<bool> {
        let entry = self.sockets.get_mut(socket.0).ok_or_else(unknown_socket)?;
        match entry.udp.send(transmit) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                entry.blocked = true;
                if self.backend.arms_at_once() && !entry.armed.write {
                    let wanted = Interest { read: false, write: true };
                    entry.armed = self.backend.arm(socket.0, &entry.udp, wanted, entry.armed);
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn max_segments(&self, socket: SocketId) -> usize {
        self.sockets.get(socket.0).map_or(1, |entry| entry.udp.max_segments())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.backend.waker()
    }

    fn park(&mut self, deadline_ns: Option<u64>) {
        let armed_all = self.arm_all();
        let woken = self.backend.wake_flag().take();
        let timeout = if woken || !armed_all || !self.gathered.files.is_empty() {
            Some(Duration::ZERO)
        } else {
            deadline_ns.map(|deadline| Duration::from_nanos(deadline.saturating_sub(clock::monotonic_ns())))
        };
        self.backend.wait(timeout);
        self.backend.wake_flag().take();
        self.gather();
    }

    fn yield_now(&mut self) {
        self.backend.flush();
        rustix::thread::sched_yield();
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        self.backend.wake_descriptor()
    }

    fn drain_wake_descriptor(&mut self) {
        self.backend.drain_wake_descriptor();
        self.gather();
        // Last: a kick that the lines above swallowed has its flag taken here, and its wake counts for the coming turn.
        self.backend.wake_flag().take();
    }
}

impl<B: Backend> Drop for RealDriver<B> {
    fn drop(&mut self) {
        // Armed sockets stay bound until the kernel lets go of them.
        for (key, socket) in self.sockets.iter_mut() {
            self.backend.detach(key, &socket.udp, socket.armed, &mut self.gathered);
        }
    }
}

fn unknown_socket() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no such socket in this driver")
}
