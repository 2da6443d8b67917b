//! What happens to connections: timers, handshakes, greetings, sessions, frames, ends.
//!
//! Invariant: the engine hears of an end before the same link opens again, and of frames only in between. Shard's thread.

use std::net::SocketAddr;

use quinn_proto::{ConnectionHandle, Event, StreamEvent};
use shardstage::port::transport::{PeerDown, Source, TransportEvents};
use shardstage_codec::NodeId;

use super::QuicTransport;
use crate::clock::ns;
use crate::connection::Phase;
use crate::identity;
use crate::link::{Link, address_of};
use crate::reason::{self, CloseCode};

impl QuicTransport {
    pub(super) fn dial_due(&mut self, events: &mut dyn TransportEvents) -> bool {
        let mut any = false;
        for index in 0..self.links.len() {
            let now = self.clock.instant(self.now_ns);
            let Some(running) = &mut self.running else { break };
            let link = &mut self.links[index];
            let Some(dial) = link.dial.as_mut().filter(|dial| dial.due_ns.is_some_and(|due| due <= self.now_ns)) else {
                continue;
            };
            any = true;
            dial.due_ns = None;
            match running.endpoint.connect(now, dial.config.clone(), dial.address, "shardstage") {
                Ok((handle, quic)) => {
                    link.connection = Some(handle.0);
                    self.insert(handle, quic, Some(index));
                }
                Err(error) => self.end_link(index, &PeerDown::Failed(format!("cannot dial: {error}")), events),
            }
        }
        any
    }

    pub(super) fn fire_timers(&mut self, events: &mut dyn TransportEvents) -> bool {
        let mut any = false;
        for index in 0..self.conns.len() {
            if self.deadlines[index] > self.now_ns {
                continue;
            }
            let Some(conn) = &mut self.conns[index] else { continue };
            any = true;
            conn.quic.handle_timeout(self.clock.instant(self.now_ns));
            conn.hold_ns = u64::MAX;
            let late = conn.deadline_ns <= self.now_ns;
            self.touch(index);
            if late {
                self.deadline_passed(index, events);
            }
        }
        any
    }

    /// The handshake took too long, or the peer's certificate expired during the session.
    pub(super) fn deadline_passed(&mut self, index: usize, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.deadline_ns = u64::MAX;
        let (code, reason, down) = match conn.phase {
            Phase::Ended => return,
            Phase::Handshake => (CloseCode::TooLate, "the handshake took too long", PeerDown::TimedOut),
            Phase::Greeting { .. } => (
                CloseCode::TooLate,
                "the greeting did not come in time",
                PeerDown::Failed("the peer's greeting did not come in time".to_owned()),
            ),
            Phase::Open { .. } => {
                let why = "this node refused the peer's: it expired during the session".to_owned();
                (CloseCode::CertificateExpired, "it expired during the session", PeerDown::CertificateRefused(why))
            }
        };
        self.close(index, code, reason, &down, events);
    }

    /// Closes a connection from our side and tells whoever must know.
    pub(super) fn close(
        &mut self,
        index: usize,
        code: CloseCode,
        reason: &str,
        down: &PeerDown,
        events: &mut dyn TransportEvents,
    ) {
        let now = self.clock.instant(self.now_ns);
        if let Some(conn) = &mut self.conns[index] {
            conn.close(now, code, reason);
        }
        self.touch(index);
        self.detach(index, down, events);
    }

    /// Handles what the protocol library has to say about the connections that something happened to.
    pub(super) fn serve(&mut self, events: &mut dyn TransportEvents) -> bool {
        let mut any = false;
        while let Some(index) = self.service.pop() {
            any = true;
            if let Some(conn) = &mut self.conns[index] {
                conn.in_service = false;
            }
            // What the engine must hear comes first: a drained connection is gone after its endpoint events.
            self.serve_events(index, events);
            self.serve_streams(index, events);
            self.serve_endpoint_events(index);
            self.note_deadline(index);
        }
        any
    }

    pub(super) fn note_deadline(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        let timeout = conn.quic.poll_timeout().map_or(u64::MAX, |instant| self.clock.ns(instant));
        self.deadlines[index] = timeout.min(conn.deadline_ns).min(conn.hold_ns);
    }

    pub(super) fn serve_endpoint_events(&mut self, index: usize) {
        let Some(running) = &mut self.running else { return };
        while let Some(conn) = &mut self.conns[index] {
            let Some(event) = conn.quic.poll_endpoint_events() else { break };
            let drained = event.is_drained();
            if let Some(event) = running.endpoint.handle_event(ConnectionHandle(index), event) {
                conn.quic.handle_event(event);
            }
            if drained {
                self.conns[index] = None;
                self.deadlines[index] = u64::MAX;
            }
        }
    }

    pub(super) fn serve_events(&mut self, index: usize, events: &mut dyn TransportEvents) {
        while let Some(conn) = &mut self.conns[index] {
            let Some(event) = conn.quic.poll() else { break };
            match event {
                Event::Connected => self.connected(index, events),
                Event::ConnectionLost { reason } => self.detach(index, &reason::down(&reason), events),
                Event::Stream(StreamEvent::Opened { .. }) => {
                    if let Err(why) = conn.accept_streams() {
                        self.violation(index, why, events);
                    }
                }
                Event::Stream(StreamEvent::Finished { .. }) => conn.finished += 1,
                Event::Stream(_) | Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
            }
        }
    }

    pub(super) fn violation(&mut self, index: usize, why: &str, events: &mut dyn TransportEvents) {
        let down = PeerDown::Failed(format!("the peer broke the protocol: {why}"));
        self.close(index, CloseCode::Violation, why, &down, events);
    }

    /// TLS is done: the certificate was accepted, so its names are those of a node in the list.
    pub(super) fn connected(&mut self, index: usize, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        let named = conn
            .certificate()
            .ok_or_else(|| "no certificate".to_owned())
            .and_then(|certificate| identity::of_certificate(&certificate));
        let node = named.map(|name| self.seat.cluster.nodes.iter().find(|node| node.name == name.node));
        match node {
            Ok(Some(node)) => {
                conn.phase = Phase::Greeting { peer: node.id };
                if let Err(why) = conn.greet(self.greeting.frame()) {
                    self.violation(index, why, events);
                }
            }
            Ok(None) => self.violation(index, "its certificate names no node", events),
            Err(why) => self.violation(index, &why, events),
        }
    }

    pub(super) fn serve_streams(&mut self, index: usize, events: &mut dyn TransportEvents) {
        if let Some(Phase::Greeting { peer }) = self.conns[index].as_ref().map(|conn| conn.phase) {
            self.greet(index, peer, events);
        }
        let Some(conn) = &mut self.conns[index] else { return };
        let Phase::Open { source, .. } = conn.phase else { return };
        if let Err(error) = conn.read_frames(&mut |lane, frame| events.frame(source, lane, frame)) {
            self.violation(index, &error.to_string(), events);
        }
    }

    /// Looks for the peer's greeting and opens the session when it fits.
    pub(super) fn greet(&mut self, index: usize, peer: NodeId, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        let greeting = match conn.read_greeting() {
            Ok(Some(greeting)) => greeting,
            Ok(None) => return,
            Err(error) => return self.violation(index, &error.to_string(), events),
        };
        let node = &self.seat.cluster.nodes[peer.get() as usize];
        let dialled = conn.dialled;
        let shard = match self.greeting.accept(&greeting, node) {
            Ok(shard) => shard,
            Err(why) => {
                return self.close(index, CloseCode::Incompatible, &why, &PeerDown::Incompatible(why.clone()), events);
            }
        };
        let wanted = |link: &Link| link.peer == peer && link.peer_shard == shard;
        let link = match dialled {
            Some(link) => Some(link).filter(|link| wanted(&self.links[*link])),
            None => self.links.iter().position(|link| wanted(link) && link.dial.is_none()),
        };
        match link {
            Some(link) => self.open(index, link, peer, events),
            None => self.violation(
                index,
                &format!("its shard {shard} should not be connected with shard {}", self.seat.shard),
                events,
            ),
        }
    }

    pub(super) fn open(&mut self, index: usize, link: usize, peer: NodeId, events: &mut dyn TransportEvents) {
        if let Some(old) = self.links[link].connection.filter(|old| *old != index) {
            let down = PeerDown::Failed("the peer opened a newer session".to_owned());
            self.close(old, CloseCode::Replaced, "a newer session took over", &down, events);
        }
        let expires_ns = self.certificate_expires_ns(index);
        let Some(conn) = &mut self.conns[index] else { return };
        let session = self.next_session;
        self.next_session += 1;
        let number = u32::try_from(link).expect("a node list of 2^32 shards does not exist");
        conn.phase = Phase::Open { link, source: Source { peer, link: number, session } };
        conn.deadline_ns = expires_ns;
        self.links[link].opened(index);
        if self.links[link].primary {
            events.peer_up(peer, session);
        }
    }

    /// When the peer's certificate ends, on the driver's clock.
    pub(super) fn certificate_expires_ns(&self, index: usize) -> u64 {
        let certificate = self.conns[index].as_ref().and_then(|conn| conn.certificate());
        let not_after_s =
            certificate.and_then(|certificate| identity::not_after_unix_s(&certificate).ok()).unwrap_or(0);
        let left_ns = not_after_s.saturating_mul(1_000_000_000).saturating_sub(ns(self.wall.since_epoch()));
        self.now_ns.saturating_add(left_ns)
    }

    /// A connection is over: its link starts again, and the engine hears why.
    pub(super) fn detach(&mut self, index: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        let phase = std::mem::replace(&mut conn.phase, Phase::Ended);
        conn.deadline_ns = u64::MAX;
        match (phase, conn.dialled) {
            (Phase::Ended, _) => {}
            (Phase::Open { link, .. }, _) | (Phase::Handshake | Phase::Greeting { .. }, Some(link)) => {
                self.end_link(link, down, events)
            }
            (Phase::Greeting { peer }, None) => {
                if let Some(link) = self.links.iter().position(|link| !link.up && link.primary && link.peer == peer) {
                    self.note_refusal(link, down, events);
                }
            }
            (Phase::Handshake, None) => {
                let remote = conn.remote;
                self.note_stranger(remote, down, events);
            }
        }
    }

    /// An attempt failed before its certificate was known. Who it was is not proven; the address is good enough for an
    /// explanation, and never ends a session.
    pub(super) fn note_stranger(&mut self, remote: SocketAddr, down: &PeerDown, events: &mut dyn TransportEvents) {
        if !matches!(down, PeerDown::CertificateRefused(_) | PeerDown::Incompatible(_)) {
            return;
        }
        let nodes = &self.seat.cluster.nodes;
        let from = |link: &Link| {
            !link.up && link.primary && address_of(&nodes[link.peer.get() as usize], link.peer_shard) == remote
        };
        if let Some(index) = self.links.iter().position(from) {
            self.note_refusal(index, down, events);
        }
    }

    pub(super) fn end_link(&mut self, link: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let random = self.random();
        let link = &mut self.links[link];
        let peer = link.peer;
        link.clear(|frame| events.unsent(peer, frame));
        if link.ended(down, self.now_ns, random) {
            events.peer_down(link.peer, down);
        }
    }

    /// An attempt of a peer failed at our side.
    pub(super) fn note_refusal(&mut self, link: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let link = &mut self.links[link];
        if link.refused(down, false) {
            events.peer_down(link.peer, down);
        }
    }
}
