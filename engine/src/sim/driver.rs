//! `SimDriver`: the [`Driver`] port on a simulated world.
//!
//! Invariant: a driver belongs to one start of one node. When that node goes down the driver is dead: nothing that is done
//! through it has an effect any more, control calls fail, and nothing arrives.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::limits::{DATAGRAM_SLOT_BYTES, GSO_BATCH_BYTES, SIM_CLOCK_READ_NS};
use crate::port::driver::{
    DatagramBatch, DatagramMeta, Driver, DriverKind, FileCompletion, FileId, FileRequest, OpenOptions, SocketId,
    Transmit, Wake,
};

use super::directory::Tree;
use super::disk::power_lost;
use super::network::{Datagram, node_ip};
use super::state::{Seat, SeatState, State, WakeFlag};
use super::trace::TraceKind;
use super::world::SimWorld;

/// What one shard of a simulated node stands on. All drivers of one seat and one start share files, sockets and
/// completions.
#[derive(Clone, Debug)]
pub struct SimDriver {
    world: SimWorld,
    seat: Seat,
    boot: u64,
    /// Time that passed for code that runs on after its node went down, so that its loops end.
    afterlife_ns: u64,
}

impl SimDriver {
    pub(super) fn new(world: SimWorld, seat: Seat) -> Self {
        let boot = world.state().sit(seat);
        Self { world, seat, boot, afterlife_ns: 0 }
    }

    /// Whether the node that this driver was made for still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.world.state().alive(self.seat, self.boot)
    }

    /// Lets `ns` of virtual time pass for this shard alone.
    pub fn charge(&mut self, ns: u64) {
        self.live((), |state, seat| state.charge(seat, ns));
    }

    /// Runs `call` on the world when the driver is alive; `dead` otherwise.
    fn live<T>(&self, dead: T, call: impl FnOnce(&mut State, Seat) -> T) -> T {
        let mut state = self.world.state();
        if state.alive(self.seat, self.boot) { call(&mut state, self.seat) } else { dead }
    }

    /// A control call on the node's tree.
    fn control<T>(&self, call: impl FnOnce(&mut Tree) -> io::Result<T>) -> io::Result<T> {
        self.live(Err(power_lost()), |state, seat| call(&mut state.node_mut(seat.node).tree))
    }
}

impl Driver for SimDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn now_ns(&mut self) -> u64 {
        let mut state = self.world.state();
        if state.alive(self.seat, self.boot) {
            state.charge(self.seat, SIM_CLOCK_READ_NS);
        } else {
            self.afterlife_ns += SIM_CLOCK_READ_NS;
        }
        let local_ns = state.local_ns(self.seat) + self.afterlife_ns;
        state.node_mut(self.seat.node).clock_ns(local_ns)
    }

    fn wall_unix_ns(&mut self) -> u64 {
        let mut state = self.world.state();
        let local_ns = state.local_ns(self.seat);
        state.node_mut(self.seat.node).wall_ns(local_ns)
    }

    fn random_u64(&mut self) -> u64 {
        self.live(0, |state, seat| state.seat_mut(seat).random.next_u64())
    }

    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileId> {
        self.live(Err(power_lost()), |state, seat| state.open(seat, path, options))
    }

    fn close(&mut self, file: FileId) {
        self.live((), |state, seat| state.close(seat, file));
    }

    fn file_len(&mut self, file: FileId) -> io::Result<u64> {
        self.live(Err(power_lost()), |state, seat| {
            let handle = state.seat_mut(seat).files.get(&file).ok_or(io::ErrorKind::InvalidInput)?;
            let inode = handle.inode;
            Ok(state.node_mut(seat.node).tree.file(inode)?.len())
        })
    }

    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        self.control(|tree| tree.list(directory))
    }

    fn create_dir(&mut self, directory: &Path) -> io::Result<()> {
        let created = self.control(|tree| tree.create_dir(directory))?;
        let Some(inode) = created else { return Ok(()) };
        self.live(Err(power_lost()), |state, seat| state.entry_changed(seat, inode))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.control(|tree| tree.rename(from, to))?;
        self.live(Err(power_lost()), |state, seat| state.entry_changed(seat, inode))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.control(|tree| tree.remove(path))?;
        self.live(Err(power_lost()), |state, seat| state.entry_changed(seat, inode))
    }

    fn submit(&mut self, request: FileRequest) {
        self.live((), |state, seat| state.submit(seat, request));
    }

    fn completions(&mut self, out: &mut Vec<FileCompletion>) {
        self.live((), |state, seat| out.append(&mut state.seat_mut(seat).completions));
    }

    fn bind(&mut self, address: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        self.live(Err(power_lost()), |state, seat| {
            let mut address = address;
            if address.ip().is_unspecified() {
                address.set_ip(node_ip(seat.node));
            }
            let address = state.network.bind(seat, address)?;
            state.trace(seat, TraceKind::Bind, u64::from(address.port()), 0);
            let own = state.seat_mut(seat);
            let socket = SocketId(own.next_socket);
            own.next_socket += 1;
            own.sockets.insert(socket, address);
            Ok((socket, address))
        })
    }

    fn unbind(&mut self, socket: SocketId) {
        self.live((), |state, seat| {
            if let Some(address) = state.seat_mut(seat).sockets.remove(&socket) {
                state.network.unbind(address);
            }
        });
    }

    fn receive(&mut self, socket: SocketId, batch: &mut DatagramBatch) -> io::Result<usize> {
        batch.metas.clear();
        self.live(Ok(0), |state, seat| {
            let address = address_of(state.seat_mut(seat), socket)?;
            let Some(bound) = state.network.socket_mut(address) else { return Ok(0) };
            for buffer in &mut batch.buffers {
                let Some(datagram) = bound.queue.pop_front() else { break };
                let len = datagram.payload.len().min(DATAGRAM_SLOT_BYTES);
                buffer[..len].copy_from_slice(&datagram.payload[..len]);
                let destination = Some(datagram.destination.ip());
                let (source, ecn) = (datagram.source, datagram.ecn);
                batch.metas.push(DatagramMeta { source, destination, len, stride: len, ecn });
            }
            Ok(batch.metas.len())
        })
    }

    fn send(&mut self, socket: SocketId, transmit: &Transmit<'_>) -> io::Result<bool> {
        if transmit.payload.len() > GSO_BATCH_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a send carries at most 65,535 bytes"));
        }
        self.live(Ok(true), |state, seat| {
            let source = address_of(state.seat_mut(seat), socket)?;
            let segment_bytes = transmit.segment_bytes.unwrap_or(transmit.payload.len()).max(1);
            if transmit.payload.len().div_ceil(segment_bytes) > state.network.options.max_segments {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "more segments than the socket takes"));
            }
            let (destination, ecn) = (transmit.destination, transmit.ecn);
            for segment in transmit.payload.chunks(segment_bytes) {
                state.send(seat, Datagram { source, destination, ecn, payload: segment.to_vec() });
            }
            if transmit.payload.is_empty() {
                state.send(seat, Datagram { source, destination, ecn, payload: Vec::new() });
            }
            Ok(true)
        })
    }

    fn max_segments(&self, _socket: SocketId) -> usize {
        self.world.state().network.options.max_segments
    }

    fn charge_messages(&mut self, count: u32) {
        self.live((), |state, seat| state.charge_messages(seat, count));
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.live(Arc::new(WakeFlag::default()), |state, seat| state.seat_mut(seat).wake.clone())
    }

    /// Outside of a turn it runs the world until something is there for this shard, so that a test can drive a service by
    /// hand; inside a turn it returns at once. Without a deadline it also returns when nothing more can happen.
    fn park(&mut self, deadline_ns: Option<u64>) {
        let until_ns = {
            let mut state = self.world.state();
            if state.in_turn || !state.alive(self.seat, self.boot) {
                return;
            }
            deadline_ns.map_or(u64::MAX, |deadline_ns| state.node_mut(self.seat.node).world_ns(deadline_ns))
        };
        loop {
            let ready = self.live(true, |state, seat| state.ready(seat) || state.seat_mut(seat).wake.take());
            if ready || !self.world.step_until(until_ns) {
                return;
            }
        }
    }

    fn yield_now(&mut self) {}
}

fn address_of(seat: &SeatState, socket: SocketId) -> io::Result<SocketAddr> {
    let closed = || io::Error::new(io::ErrorKind::NotConnected, "the socket is not bound");
    seat.sockets.get(&socket).copied().ok_or_else(closed)
}
