//! [`QuicTransport`]: one shard's socket, its connections and its links, driven by the shard's turns.
//!
//! `poll` receives, fires timers, dials and delivers; `flush`, at the end of every turn, writes queues to streams and
//! sends datagrams, acknowledgements included, so that an answer and the acknowledgement of its question share one.
//!
//! Invariant: a link with `up` set has exactly one connection, whose phase is `Open` with that link; every other
//! connection is on its way up or ended. Shard's thread only.

mod receive;
mod send;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use quinn_proto::{ClientConfig, Connection, ConnectionHandle, Endpoint, EndpointConfig, ServerConfig};
use shardstage::port::driver::{DatagramBatch, Driver, SocketId};
use shardstage::port::frame::Frame;
use shardstage::port::transport::{
    Lane, NodeInfo, PeerDown, ReserveError, SchemaLine, Source, Transport, TransportEvents, TransportSeat,
};
use shardstage_codec::NodeId;
use shardstage_codec::limits::ALIGN_BYTES;

use crate::clock::{Clock, WallClock, ns};
use crate::config::{QuicConfig, invalid};
use crate::connection::Conn;
use crate::greeting::Greeting;
use crate::limits;
use crate::link::{Link, address_of, plan};
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
    Draining {
        until_ns: u64,
        finished: bool,
    },
    /// Closing datagrams are on their way to the socket.
    Closing {
        until_ns: u64,
    },
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
    /// When it is read next.
    wall_due_ns: u64,
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
    /// Received bytes that the engine keeps.
    pinned: Arc<AtomicUsize>,
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
            return Err(invalid(format!(
                "shard {} of node '{}', which has {} in the node list",
                seat.shard, me.name, me.shards
            )));
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
            wall_due_ns: 0,
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
            pinned: Arc::default(),
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
        if self.now_ns >= self.wall_due_ns {
            self.wall.set(driver.wall_unix_ns());
            self.wall_due_ns = self.now_ns + ns(limits::WALL_CLOCK_EVERY);
        }
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
        let conn = Conn::new(quic, dialled, deadline_ns, self.config.max_frame_bytes, self.pinned.clone());
        self.conns[index] = Some(Box::new(conn));
        self.touch(index);
    }
}

/// Takes events while the node stops and nobody listens any more.
struct Deaf;

impl TransportEvents for Deaf {
    fn frame(&mut self, _: Source, _: Lane, _: Frame<'_>) {}
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
        let (socket, address) =
            driver.bind(wanted).map_err(|e| io::Error::new(e.kind(), format!("cannot bind {wanted}: {e}")))?;
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

    fn flush_soon(&mut self, driver: &mut dyn Driver) {
        if self.transmit.is_empty() && self.stalled.is_none() {
            return;
        }
        self.now_ns = self.now_ns.max(driver.now_ns());
        if self.stalled.is_some() || self.transmit_is_due() {
            self.flush(driver);
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
            self.stopping =
                Stopping::Draining { until_ns: self.now_ns.saturating_add(ns(limits::STOP_DEADLINE)), finished: false };
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
