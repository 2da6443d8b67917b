//! From the socket to the connections: datagrams in, new connections accepted, retried or ignored.
//!
//! Invariant: what an unauthenticated source can make us keep is bounded by `PENDING_HANDSHAKES`. Shard's thread.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use quinn_proto::{DatagramEvent, EcnCodepoint, Incoming};
use shardstage::port::driver::{DatagramBatch, Driver};

use super::send::for_driver;
use super::{QuicTransport, Stopping};
use crate::connection::{Conn, Phase};
use crate::{limits, reason};

impl QuicTransport {
    /// Takes datagrams from the socket and gives them to the protocol library.
    pub(super) fn receive(&mut self, driver: &mut dyn Driver) -> bool {
        let mut any = false;
        for _ in 0..limits::RECEIVE_ROUNDS {
            let Some(mut running) = self.running.take() else { break };
            // A receive error belongs to an earlier send (a closed port, an unreachable host) and says nothing certain.
            let filled = driver.receive(running.socket, &mut running.batch).unwrap_or(0);
            let batch = std::mem::replace(&mut running.batch, DatagramBatch::new(0));
            self.running = Some(running);
            for (meta, bytes) in batch.iter().take(filled) {
                let mut bytes = BytesMut::from(bytes);
                while !bytes.is_empty() {
                    let datagram = bytes.split_to(bytes.len().min(meta.stride.max(1)));
                    self.handle_datagram(driver, meta.source, meta.destination, meta.ecn, datagram);
                }
            }
            let room = batch.buffers.len();
            if let Some(running) = &mut self.running {
                running.batch = batch;
            }
            any |= filled > 0;
            if filled < room {
                break;
            }
        }
        any
    }

    pub(super) fn handle_datagram(
        &mut self,
        driver: &mut dyn Driver,
        source: SocketAddr,
        local: Option<IpAddr>,
        ecn: u8,
        datagram: BytesMut,
    ) {
        let now = self.clock.instant(self.now_ns);
        let Some(running) = &mut self.running else { return };
        self.scratch.clear();
        match running.endpoint.handle(now, source, local, EcnCodepoint::from_bits(ecn), datagram, &mut self.scratch) {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(conn)) = self.conns.get_mut(handle.0) {
                    conn.quic.handle_event(event);
                    self.touch(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(driver, incoming),
            Some(DatagramEvent::Response(transmit)) => self.respond(driver, &transmit),
        }
    }

    pub(super) fn accept(&mut self, driver: &mut dyn Driver, incoming: Incoming) {
        let now = self.clock.instant(self.now_ns);
        let waiting =
            |conn: &&Conn| conn.dialled.is_none() && matches!(conn.phase, Phase::Handshake | Phase::Greeting { .. });
        let pending = self.conns.iter().flatten().map(Box::as_ref).filter(waiting).count();
        let remote = incoming.remote_address();
        let Some(running) = &mut self.running else { return };
        self.scratch.clear();
        let response = if self.stopping != Stopping::No || pending >= limits::PENDING_HANDSHAKES {
            running.endpoint.ignore(incoming);
            None
        } else if pending >= limits::RETRY_ABOVE_HANDSHAKES && incoming.may_retry() {
            running.endpoint.retry(incoming, &mut self.scratch).ok()
        } else {
            match running.endpoint.accept(incoming, now, &mut self.scratch, None) {
                Ok((handle, quic)) => {
                    self.insert(handle, quic, None);
                    None
                }
                Err(error) => {
                    if self.stillborn.len() < limits::PENDING_HANDSHAKES {
                        self.stillborn.push((remote, reason::down(&error.cause)));
                    }
                    error.response
                }
            }
        };
        if let Some(transmit) = response {
            self.respond(driver, &transmit);
        }
    }

    /// Sends a datagram that belongs to no connection and lies in `scratch`; dropped when the socket is full.
    pub(super) fn respond(&mut self, driver: &mut dyn Driver, transmit: &quinn_proto::Transmit) {
        if let (Some(running), None) = (&self.running, &self.stalled) {
            let _ = driver.send(running.socket, &for_driver(transmit, &self.scratch[..transmit.size]));
        }
    }
}
