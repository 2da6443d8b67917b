//! [`QuicTransport`]: one shard's socket, its connections and its links, driven by the shard's turns.
//!
//! `poll` receives, fires timers, dials and delivers; `flush`, at the end of every turn, writes queues to streams and
//! sends datagrams, acknowledgements included, so that an answer and the acknowledgement of its question share one.
//!
//! Invariant: a link with `up` set has exactly one connection, whose phase is `Open` with that link; every other
//! connection is on its way up or ended. Shard's thread only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig, Event, Incoming, ServerConfig, StreamEvent,
};
use shardstage::port::driver::{DatagramBatch, Driver, SocketId, Transmit};
use shardstage::port::transport::{Lane, NodeInfo, PeerDown, ReserveError, SchemaLine, Transport, TransportEvents, TransportSeat};
use shardstage_codec::limits::ALIGN_BYTES;
use shardstage_codec::NodeId;

use crate::clock::{Clock, WallClock, ns};
use crate::config::{QuicConfig, invalid};
use crate::connection::{Conn, Phase};
use crate::greeting::Greeting;
use crate::identity;
use crate::limits;
use crate::link::{Link, address_of, plan};
use crate::reason::{self, CloseCode};
use crate::seed::{self, ConnectionIds};
use crate::tls::Tls;

/// The bound socket and what only exists with it.
struct Running {
    socket: SocketId,
    address: SocketAddr,
    endpoint: Endpoint,
    batch: DatagramBatch,
}

/// How far an orderly end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// Queues drain and are acknowledged, until this time at the latest.
    Draining { until_ns: u64, finished: bool },
    /// Closing datagrams are on their way to the socket.
    Closing { until_ns: u64 },
    Done,
}

/// A batch of datagrams that the socket did not take yet.
struct Stalled {
    transmit: quinn_proto::Transmit,
    payload: Vec<u8>,
    retry_ns: u64,
}

/// See the file's head.
pub(crate) struct QuicTransport {
    config: QuicConfig,
    seat: TransportSeat,
    me: NodeInfo,
    tls: Tls,
    clock: Clock,
    wall: Arc<WallClock>,
    greeting: Greeting,
    incarnation: u64,
    /// State of a small generator for jitter, seeded by the driver.
    jitter: u64,
    next_session: u64,
    running: Option<Running>,
    links: Vec<Link>,
    /// The primary link to each node, by node id.
    primary: Vec<Option<usize>>,
    /// By connection handle.
    conns: Vec<Option<Box<Conn>>>,
    /// When each connection wants attention next; `u64::MAX` for never. Parallel to `conns`.
    deadlines: Vec<u64>,
    service: Vec<usize>,
    transmit: Vec<usize>,
    /// Attempts that failed at their first datagram: from where, and why.
    stillborn: Vec<(SocketAddr, PeerDown)>,
    stalled: Option<Stalled>,
    scratch: Vec<u8>,
    now_ns: u64,
    stopping: Stopping,
}

impl QuicTransport {
    pub(crate) fn new(config: QuicConfig, seat: &TransportSeat) -> io::Result<Self> {
        let cluster = &seat.cluster;
        let me = cluster.nodes.iter().find(|node| node.id == cluster.me).cloned();
        let me = me.ok_or_else(|| invalid(format!("node id {} is not in the node list", cluster.me)))?;
        if seat.shard.get() >= me.shards {
            return Err(invalid(format!("shard {} of node '{}', which has {} in the node list", seat.shard, me.name, me.shards)));
        }
        let wall = WallClock::shared();
        let tls = Tls::new(config.identity.clone(), cluster, wall.clone())?;
        Ok(Self {
            greeting: Greeting::new(cluster, &me, seat.shard, &[]),
            config,
            seat: seat.clone(),
            me,
            tls,
            clock: Clock::new(),
            wall,
            incarnation: 0,
            jitter: 0,
            next_session: 1,
            running: None,
            links: Vec::new(),
            primary: Vec::new(),
            conns: Vec::new(),
            deadlines: Vec::new(),
            service: Vec::new(),
            transmit: Vec::new(),
            stillborn: Vec::new(),
            stalled: None,
            scratch: Vec::new(),
            now_ns: 0,
            stopping: Stopping::No,
        })
    }

    /// The protocol library's endpoint, with everything random drawn from the driver.
    fn endpoint(&self, driver: &mut dyn Driver, ids_key: [u8; 32]) -> io::Result<Endpoint> {
        let mut config = EndpointConfig::new(seed::reset_key(self.config.identity.key.secret_der(), self.seat.shard));
        config.rng_seed(Some(seed::random_32(driver)));
        config.cid_generator(move || Box::new(ConnectionIds::new(ids_key)));
        config.max_udp_payload_size(self.config.datagram_bytes_upper.max(1472)).map_err(io::Error::other)?;
        let mut server = ServerConfig::new(self.tls.server()?, seed::token_key(driver));
        server
            .transport_config(self.config.protocol()?)
            .migration(false)
            .max_incoming(limits::PENDING_HANDSHAKES)
            .incoming_buffer_size(limits::HANDSHAKE_BUFFER_BYTES)
            .incoming_buffer_size_total(limits::HANDSHAKE_BUFFERS_BYTES)
            .time_source(self.wall.clone());
        Ok(Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, None))
    }

    fn make_links(&self, driver: &mut dyn Driver) -> io::Result<Vec<Link>> {
        let protocol = self.config.protocol()?;
        let first_ids = Arc::new(ConnectionIds::new(seed::random_32(driver)));
        let mut links = Vec::new();
        for (peer, shard, dials) in plan(&self.seat.cluster, &self.me, self.seat.shard) {
            let dial = if dials {
                let mut client = ClientConfig::new(self.tls.client(&peer)?);
                let ids = first_ids.clone();
                client.transport_config(protocol.clone()).initial_dst_cid_provider(Arc::new(move || ids.next_id()));
                client.token_store(Arc::new(quinn_proto::NoneTokenStore));
                Some((address_of(&peer, shard), client))
            } else {
                None
            };
            let primary = dials || shard == self.seat.shard;
            links.push(Link::new(peer.id, shard, primary, dial));
        }
        Ok(links)
    }

    fn random(&mut self) -> u64 {
        // SplitMix64, Steele et al., "Fast splittable pseudorandom number generators", 2014.
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn update_time(&mut self, driver: &mut dyn Driver) {
        self.now_ns = self.now_ns.max(driver.now_ns());
        self.wall.set(driver.wall_unix_ns());
    }

    fn touch(&mut self, index: usize) {
        let Some(Some(conn)) = self.conns.get_mut(index) else { return };
        if !std::mem::replace(&mut conn.in_service, true) {
            self.service.push(index);
        }
        if !std::mem::replace(&mut conn.in_transmit, true) {
            self.transmit.push(index);
        }
    }

    fn insert(&mut self, handle: ConnectionHandle, quic: Connection, dialled: Option<usize>) {
        let deadline_ns = self.now_ns.saturating_add(ns(self.config.handshake_deadline));
        let index = handle.0;
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
            self.deadlines.resize(index + 1, u64::MAX);
        }
        assert!(self.conns[index].is_none(), "a handle is reused only after its connection was drained");
        self.conns[index] = Some(Box::new(Conn::new(quic, dialled, deadline_ns, self.config.max_frame_bytes)));
        self.touch(index);
    }

    /// Takes datagrams from the socket and gives them to the protocol library.
    fn receive(&mut self, driver: &mut dyn Driver) -> bool {
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

    fn handle_datagram(&mut self, driver: &mut dyn Driver, source: SocketAddr, local: Option<std::net::IpAddr>, ecn: u8, datagram: BytesMut) {
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

    fn accept(&mut self, driver: &mut dyn Driver, incoming: Incoming) {
        let now = self.clock.instant(self.now_ns);
        let waiting = |conn: &&Box<Conn>| conn.dialled.is_none() && matches!(conn.phase, Phase::Handshake | Phase::Greeting { .. });
        let pending = self.conns.iter().flatten().filter(waiting).count();
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
    fn respond(&mut self, driver: &mut dyn Driver, transmit: &quinn_proto::Transmit) {
        if let (Some(running), None) = (&self.running, &self.stalled) {
            let _ = driver.send(running.socket, &for_driver(transmit, &self.scratch[..transmit.size]));
        }
    }

    fn dial_due(&mut self, events: &mut dyn TransportEvents) -> bool {
        let mut any = false;
        for index in 0..self.links.len() {
            let now = self.clock.instant(self.now_ns);
            let Some(running) = &mut self.running else { break };
            let link = &mut self.links[index];
            let Some(dial) = link.dial.as_mut().filter(|dial| dial.due_ns.is_some_and(|due| due <= self.now_ns)) else { continue };
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

    fn fire_timers(&mut self, events: &mut dyn TransportEvents) -> bool {
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
    fn deadline_passed(&mut self, index: usize, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.deadline_ns = u64::MAX;
        let (code, reason, down) = match conn.phase {
            Phase::Ended => return,
            Phase::Handshake => (CloseCode::TooLate, "the handshake took too long", PeerDown::TimedOut),
            Phase::Greeting { .. } => {
                (CloseCode::TooLate, "the greeting did not come in time", PeerDown::Failed("the peer's greeting did not come in time".to_owned()))
            }
            Phase::Open { .. } => {
                let why = "this node refused the peer's: it expired during the session".to_owned();
                (CloseCode::CertificateExpired, "it expired during the session", PeerDown::CertificateRefused(why))
            }
        };
        self.close(index, code, reason, &down, events);
    }

    /// Closes a connection from our side and tells whoever must know.
    fn close(&mut self, index: usize, code: CloseCode, reason: &str, down: &PeerDown, events: &mut dyn TransportEvents) {
        let now = self.clock.instant(self.now_ns);
        if let Some(conn) = &mut self.conns[index] {
            conn.close(now, code, reason);
        }
        self.touch(index);
        self.detach(index, down, events);
    }

    /// Handles what the protocol library has to say about the connections that something happened to.
    fn serve(&mut self, events: &mut dyn TransportEvents) -> bool {
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

    fn note_deadline(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        let timeout = conn.quic.poll_timeout().map_or(u64::MAX, |instant| self.clock.ns(instant));
        self.deadlines[index] = timeout.min(conn.deadline_ns).min(conn.hold_ns);
    }

    fn serve_endpoint_events(&mut self, index: usize) {
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

    fn serve_events(&mut self, index: usize, events: &mut dyn TransportEvents) {
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

    fn violation(&mut self, index: usize, why: &str, events: &mut dyn TransportEvents) {
        let down = PeerDown::Failed(format!("the peer broke the protocol: {why}"));
        self.close(index, CloseCode::Violation, why, &down, events);
    }

    /// TLS is done: the certificate was accepted, so its names are those of a node in the list.
    fn connected(&mut self, index: usize, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        let named = conn.certificate().ok_or_else(|| "no certificate".to_owned()).and_then(|certificate| identity::of_certificate(&certificate));
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

    fn serve_streams(&mut self, index: usize, events: &mut dyn TransportEvents) {
        if let Some(Phase::Greeting { peer }) = self.conns[index].as_ref().map(|conn| conn.phase) {
            self.greet(index, peer, events);
        }
        let Some(conn) = &mut self.conns[index] else { return };
        let Phase::Open { peer, .. } = conn.phase else { return };
        if let Err(error) = conn.read_frames(&mut |lane, frame| events.frame(peer, lane, frame)) {
            self.violation(index, &error.to_string(), events);
        }
    }

    /// Looks for the peer's greeting and opens the session when it fits.
    fn greet(&mut self, index: usize, peer: NodeId, events: &mut dyn TransportEvents) {
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
            Err(why) => return self.close(index, CloseCode::Incompatible, &why, &PeerDown::Incompatible(why.clone()), events),
        };
        let wanted = |link: &Link| link.peer == peer && link.peer_shard == shard;
        let link = match dialled {
            Some(link) => Some(link).filter(|link| wanted(&self.links[*link])),
            None => self.links.iter().position(|link| wanted(link) && link.dial.is_none()),
        };
        match link {
            Some(link) => self.open(index, link, peer, events),
            None => self.violation(index, &format!("its shard {shard} should not be connected with shard {}", self.seat.shard), events),
        }
    }

    fn open(&mut self, index: usize, link: usize, peer: NodeId, events: &mut dyn TransportEvents) {
        if let Some(old) = self.links[link].connection.filter(|old| *old != index) {
            let down = PeerDown::Failed("the peer opened a newer session".to_owned());
            self.close(old, CloseCode::Replaced, "a newer session took over", &down, events);
        }
        let expires_ns = self.certificate_expires_ns(index);
        let Some(conn) = &mut self.conns[index] else { return };
        conn.phase = Phase::Open { link, peer };
        conn.deadline_ns = expires_ns;
        self.links[link].opened(index);
        let session = self.next_session;
        self.next_session += 1;
        if self.links[link].primary {
            events.peer_up(peer, session);
        }
    }

    /// When the peer's certificate ends, on the driver's clock.
    fn certificate_expires_ns(&self, index: usize) -> u64 {
        let certificate = self.conns[index].as_ref().and_then(|conn| conn.certificate());
        let not_after_s = certificate.and_then(|certificate| identity::not_after_unix_s(&certificate).ok()).unwrap_or(0);
        let left_ns = not_after_s.saturating_mul(1_000_000_000).saturating_sub(ns(self.wall.since_epoch()));
        self.now_ns.saturating_add(left_ns)
    }

    /// A connection is over: its link starts again, and the engine hears why.
    fn detach(&mut self, index: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let Some(conn) = &mut self.conns[index] else { return };
        let phase = std::mem::replace(&mut conn.phase, Phase::Ended);
        conn.deadline_ns = u64::MAX;
        match (phase, conn.dialled) {
            (Phase::Ended, _) => {}
            (Phase::Open { link, .. }, _) | (Phase::Handshake | Phase::Greeting { .. }, Some(link)) => self.end_link(link, down, events),
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
    fn note_stranger(&mut self, remote: SocketAddr, down: &PeerDown, events: &mut dyn TransportEvents) {
        if !matches!(down, PeerDown::CertificateRefused(_) | PeerDown::Incompatible(_)) {
            return;
        }
        let nodes = &self.seat.cluster.nodes;
        let from = |link: &Link| !link.up && link.primary && address_of(&nodes[link.peer.get() as usize], link.peer_shard) == remote;
        if let Some(index) = self.links.iter().position(from) {
            self.note_refusal(index, down, events);
        }
    }

    fn end_link(&mut self, link: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let random = self.random();
        let link = &mut self.links[link];
        if link.ended(down, self.now_ns, random) {
            events.peer_down(link.peer, down);
        }
    }

    /// An attempt of a peer failed at our side.
    fn note_refusal(&mut self, link: usize, down: &PeerDown, events: &mut dyn TransportEvents) {
        let link = &mut self.links[link];
        if link.refused(down, false) {
            events.peer_down(link.peer, down);
        }
    }

    /// Sends the batch that the socket refused earlier. Returns whether the socket is free.
    fn unstall(&mut self, driver: &mut dyn Driver) -> bool {
        let (Some(running), Some(stalled)) = (&self.running, &mut self.stalled) else { return true };
        let size = stalled.transmit.size;
        if matches!(driver.send(running.socket, &for_driver(&stalled.transmit, &stalled.payload[..size])), Ok(false)) {
            stalled.retry_ns = self.now_ns.saturating_add(ns(limits::SOCKET_RETRY));
            return false;
        }
        self.stalled = None;
        true
    }

    fn send_all(&mut self, driver: &mut dyn Driver) {
        let mut waiting = std::mem::take(&mut self.transmit);
        waiting.retain(|index| {
            let index = *index;
            self.write_queues(index);
            let more = !self.unstall(driver) || self.send_datagrams(driver, index);
            if let Some(conn) = &mut self.conns[index] {
                conn.in_transmit = more;
            }
            self.note_deadline(index);
            more && self.conns[index].is_some()
        });
        // Nothing can have been added meanwhile: only `touch` adds, and sending touches nothing.
        self.transmit = waiting;
    }

    fn write_queues(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        if let Phase::Open { link, .. } = conn.phase {
            conn.write(&mut self.links[link].lanes, self.now_ns, self.stopping != Stopping::No);
        }
    }

    /// Sends what a connection has to send. Returns whether it has more.
    fn send_datagrams(&mut self, driver: &mut dyn Driver, index: usize) -> bool {
        let (Some(running), Some(conn)) = (&self.running, &mut self.conns[index]) else { return false };
        let now = self.clock.instant(self.now_ns);
        let per_transmit = (usize::from(u16::MAX) / usize::from(conn.quic.current_mtu())).min(driver.max_segments(running.socket)).max(1);
        for _ in 0..limits::TRANSMIT_ROUNDS {
            self.scratch.clear();
            let Some(transmit) = conn.quic.poll_transmit(now, per_transmit, &mut self.scratch) else { return false };
            // An error counts as loss; the protocol repeats what matters.
            if matches!(driver.send(running.socket, &for_driver(&transmit, &self.scratch[..transmit.size])), Ok(false)) {
                let retry_ns = self.now_ns.saturating_add(ns(limits::SOCKET_RETRY));
                self.stalled = Some(Stalled { transmit, payload: std::mem::take(&mut self.scratch), retry_ns });
                return true;
            }
        }
        true
    }

    /// Whether nothing that was queued waits for an acknowledgement any more. Finishes streams whose queue is empty.
    fn drained(&mut self, finish: bool) -> bool {
        let mut all = true;
        for index in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[index] else { continue };
            let Phase::Open { link, .. } = conn.phase else { continue };
            if !self.links[link].is_idle() {
                all = false;
            } else if finish {
                conn.finish();
                all = false;
            } else {
                all &= conn.finished >= Lane::ALL.len();
            }
            self.touch(index);
        }
        all
    }

    fn close_all(&mut self) {
        let now = self.clock.instant(self.now_ns);
        for index in 0..self.conns.len() {
            if let Some(conn) = &mut self.conns[index] {
                conn.close(now, CloseCode::Stopped, "the node is stopping");
                conn.phase = Phase::Ended;
                self.touch(index);
            }
        }
        for link in &mut self.links {
            link.dial = None;
            link.up = false;
            link.connection = None;
        }
    }
}

/// The protocol library's transmit in the port's words.
fn for_driver<'a>(transmit: &quinn_proto::Transmit, payload: &'a [u8]) -> Transmit<'a> {
    Transmit {
        destination: transmit.destination,
        source: transmit.src_ip,
        ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
        segment_bytes: transmit.segment_size,
        payload,
    }
}

/// Takes events while the node stops and nobody listens any more.
struct Deaf;

impl TransportEvents for Deaf {
    fn frame(&mut self, _: NodeId, _: Lane, _: &[u8]) {}
    fn peer_up(&mut self, _: NodeId, _: u64) {}
    fn peer_down(&mut self, _: NodeId, _: &PeerDown) {}
}

impl Transport for QuicTransport {
    fn start(&mut self, driver: &mut dyn Driver) -> io::Result<()> {
        self.update_time(driver);
        let wanted = address_of(&self.me, self.seat.shard);
        let ids_key = seed::random_32(driver);
        let endpoint = self.endpoint(driver, ids_key)?;
        self.links = self.make_links(driver)?;
        let primary = |node: &NodeInfo| self.links.iter().position(|link| link.peer == node.id && link.primary);
        self.primary = self.seat.cluster.nodes.iter().map(primary).collect();
        self.incarnation = driver.random_u64();
        self.jitter = driver.random_u64();
        self.greeting.start(self.incarnation);
        let (socket, address) = driver.bind(wanted).map_err(|e| io::Error::new(e.kind(), format!("cannot bind {wanted}: {e}")))?;
        self.running = Some(Running { socket, address, endpoint, batch: DatagramBatch::new(limits::RECEIVE_SLOTS) });
        Ok(())
    }

    fn reserve(&mut self, peer: NodeId, lane: Lane, len: usize) -> Result<&mut [u8], ReserveError> {
        debug_assert!(len.is_multiple_of(ALIGN_BYTES), "frames occupy multiples of 16 bytes");
        if len > self.config.max_frame_bytes {
            return Err(ReserveError::TooLarge { limit: self.config.max_frame_bytes });
        }
        let Some(Some(link)) = self.primary.get(peer.get() as usize) else { return Err(ReserveError::UnknownPeer) };
        let link = &mut self.links[*link];
        let Some(index) = link.connection.filter(|_| link.up) else { return Err(ReserveError::Down) };
        let room = link.lanes[lane as usize].reserve(len)?;
        if let Some(Some(conn)) = self.conns.get_mut(index)
            && !std::mem::replace(&mut conn.in_transmit, true)
        {
            self.transmit.push(index);
        }
        Ok(room)
    }

    fn poll(&mut self, driver: &mut dyn Driver, events: &mut dyn TransportEvents) -> bool {
        self.update_time(driver);
        let received = self.receive(driver);
        for (remote, down) in std::mem::take(&mut self.stillborn) {
            self.note_stranger(remote, &down, events);
        }
        let fired = self.fire_timers(events);
        let dialled = self.dial_due(events);
        let served = self.serve(events);
        received | fired | dialled | served
    }

    fn flush(&mut self, driver: &mut dyn Driver) {
        if self.transmit.is_empty() && self.stalled.is_none() {
            return;
        }
        self.update_time(driver);
        if self.unstall(driver) {
            self.send_all(driver);
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let connections = self.deadlines.iter().copied().min().unwrap_or(u64::MAX);
        let dials = self.links.iter().filter_map(|link| link.dial.as_ref()?.due_ns).min().unwrap_or(u64::MAX);
        let socket = self.stalled.as_ref().map_or(u64::MAX, |stalled| stalled.retry_ns);
        let unsent = if self.stalled.is_none() && !self.transmit.is_empty() { self.now_ns } else { u64::MAX };
        let earliest = connections.min(dials).min(socket).min(unsent);
        (earliest != u64::MAX).then_some(earliest)
    }

    fn stop(&mut self, driver: &mut dyn Driver) -> bool {
        if self.running.is_none() {
            return true;
        }
        if self.stopping == Stopping::No {
            self.update_time(driver);
            self.stopping = Stopping::Draining { until_ns: self.now_ns.saturating_add(ns(limits::STOP_DEADLINE)), finished: false };
        }
        self.poll(driver, &mut Deaf);
        if let Stopping::Draining { until_ns, finished } = self.stopping {
            let queued = self.links.iter().any(|link| !link.is_idle());
            let drained = self.drained(!queued && !finished);
            if drained || self.now_ns >= until_ns {
                self.close_all();
                self.stopping = Stopping::Closing { until_ns: self.now_ns.saturating_add(ns(limits::CLOSE_DEADLINE)) };
            } else if !queued {
                self.stopping = Stopping::Draining { until_ns, finished: true };
            }
        }
        self.flush(driver);
        if let Stopping::Closing { until_ns } = self.stopping
            && (self.stalled.is_none() && self.transmit.is_empty() || self.now_ns >= until_ns)
        {
            self.stopping = Stopping::Done;
            if let Some(running) = self.running.take() {
                driver.unbind(running.socket);
            }
        }
        self.stopping == Stopping::Done
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.address)
    }

    fn set_schema(&mut self, schema: &[SchemaLine]) {
        self.greeting = Greeting::new(&self.seat.cluster, &self.me, self.seat.shard, schema);
        self.greeting.start(self.incarnation);
    }
}
