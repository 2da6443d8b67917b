//! Two or more transports in one thread on a virtual network: seeded delay, loss and reordering, and no files.
//!
//! Small on purpose: it tests the transport alone. The engine's simulator runs the same transport with everything else.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "each test binary uses its part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use shardstage::port::driver::{
    DatagramBatch, DatagramMeta, Driver, DriverKind, FileCompletion, FileId, FileRequest, OpenOptions, SocketId,
    Transmit, Wake,
};
use shardstage::port::frame::Frame;
use shardstage::port::transport::{
    ClusterConfig, Lane, NodeInfo, PeerDown, ReserveError, SchemaLine, Source, Transport, TransportEvents,
    TransportFactory, TransportSeat,
};
use shardstage_codec::{NodeId, ShardId};
use shardstage_quic::{Quic, QuicConfig};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;
/// 2026-01-01.
const WALL_START_NS: u64 = 1_767_225_600 * SECOND;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay_ns: u64,
    pub jitter_ns: u64,
    pub loss_per_mille: u64,
}

pub const CALM: Weather = Weather { delay_ns: 100_000, jitter_ns: 0, loss_per_mille: 0 };
pub const STORM: Weather = Weather { delay_ns: 2 * MS, jitter_ns: 3 * MS, loss_per_mille: 30 };

struct Datagram {
    source: SocketAddr,
    payload: Vec<u8>,
}

pub struct Net {
    pub now_ns: u64,
    pub weather: Weather,
    pub cut: bool,
    random: u64,
    sequence: u64,
    flying: BTreeMap<(u64, u64), (SocketAddr, Datagram)>,
    inboxes: BTreeMap<SocketAddr, Vec<Datagram>>,
    pub trace: Vec<(u64, u16, u16, usize)>,
}

impl Net {
    fn new(seed: u64, weather: Weather) -> Self {
        let random = seed ^ 0x1234_5678;
        Self {
            now_ns: SECOND,
            weather,
            cut: false,
            random,
            sequence: 0,
            flying: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn send(&mut self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
        self.trace.push((self.now_ns, source.port(), destination.port(), payload.len()));
        if self.cut || self.random() % 1000 < self.weather.loss_per_mille {
            return;
        }
        let jitter = if self.weather.jitter_ns == 0 { 0 } else { self.random() % self.weather.jitter_ns };
        self.sequence += 1;
        let at = self.now_ns + self.weather.delay_ns + jitter;
        self.flying.insert((at, self.sequence), (destination, Datagram { source, payload: payload.to_vec() }));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now_ns {
                break;
            }
            let (destination, datagram) = entry.remove();
            if let Some(inbox) = self.inboxes.get_mut(&destination) {
                inbox.push(datagram);
            }
        }
    }
}

pub struct TestDriver {
    net: Rc<RefCell<Net>>,
    random: u64,
    sockets: Vec<Option<SocketAddr>>,
    /// How many more sends the socket takes before it says it is full; `None` for any number.
    pub room: Option<u32>,
}

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Driver for TestDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }
    fn now_ns(&mut self) -> u64 {
        self.net.borrow().now_ns
    }
    fn wall_unix_ns(&mut self) -> u64 {
        WALL_START_NS + self.net.borrow().now_ns
    }
    fn random_u64(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random ^ (self.random >> 33)
    }
    fn open(&mut self, _: &Path, _: OpenOptions) -> io::Result<FileId> {
        unsupported()
    }
    fn close(&mut self, _: FileId) {}
    fn file_len(&mut self, _: FileId) -> io::Result<u64> {
        unsupported()
    }
    fn list(&mut self, _: &Path) -> io::Result<Vec<String>> {
        unsupported()
    }
    fn create_dir(&mut self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn rename(&mut self, _: &Path, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn remove(&mut self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn submit(&mut self, _: FileRequest) {}
    fn completions(&mut self, _: &mut Vec<FileCompletion>) {}
    fn bind(&mut self, address: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        if self.net.borrow_mut().inboxes.insert(address, Vec::new()).is_some() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        self.sockets.push(Some(address));
        Ok((SocketId(u32::try_from(self.sockets.len() - 1).unwrap()), address))
    }
    fn unbind(&mut self, socket: SocketId) {
        let address = self.sockets[socket.0 as usize].take().expect("unbound once");
        self.net.borrow_mut().inboxes.remove(&address);
    }
    fn receive(&mut self, socket: SocketId, batch: &mut DatagramBatch) -> io::Result<usize> {
        let address = self.sockets[socket.0 as usize].expect("bound");
        let mut net = self.net.borrow_mut();
        let inbox = net.inboxes.get_mut(&address).expect("bound");
        let count = inbox.len().min(batch.buffers.len());
        batch.metas.clear();
        for (buffer, datagram) in batch.buffers.iter_mut().zip(inbox.drain(..count)) {
            let len = datagram.payload.len();
            buffer[..len].copy_from_slice(&datagram.payload);
            batch.metas.push(DatagramMeta { source: datagram.source, destination: None, len, stride: len, ecn: 0 });
        }
        Ok(count)
    }
    fn send(&mut self, socket: SocketId, transmit: &Transmit<'_>) -> io::Result<bool> {
        let source = self.sockets[socket.0 as usize].expect("bound");
        if let Some(room) = &mut self.room {
            if *room == 0 {
                return Ok(false);
            }
            *room -= 1;
        }
        assert!(transmit.payload.len() <= 65_535);
        for datagram in transmit.payload.chunks(transmit.segment_bytes.unwrap_or(transmit.payload.len())) {
            self.net.borrow_mut().send(source, transmit.destination, datagram);
        }
        Ok(true)
    }
    fn max_segments(&self, _: SocketId) -> usize {
        64
    }
    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }
    fn park(&mut self, _: Option<u64>) {}
    fn yield_now(&mut self) {}
}

/// What a transport said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Up(NodeId, u64),
    Down(NodeId, PeerDown),
}

#[derive(Default)]
pub struct Sink {
    pub frames: Vec<(NodeId, Lane, Vec<u8>)>,
    pub seen: Vec<Seen>,
    pub keep_frames: bool,
    pub frame_count: usize,
}

impl TransportEvents for Sink {
    fn frame(&mut self, Source { peer, .. }: Source, lane: Lane, frame: Frame<'_>) {
        assert_eq!(frame.as_ptr() as usize % 16, 0, "frames are aligned");
        assert!(
            matches!(
                self.seen.iter().rfind(|seen| matches!(seen, Seen::Up(p, _) | Seen::Down(p, _) if *p == peer)),
                Some(Seen::Up(..))
            ),
            "frames come inside a session"
        );
        self.frame_count += 1;
        if self.keep_frames {
            self.frames.push((peer, lane, frame.to_vec()));
        }
    }
    fn peer_up(&mut self, peer: NodeId, session: u64) {
        self.seen.push(Seen::Up(peer, session));
    }
    fn peer_down(&mut self, peer: NodeId, reason: &PeerDown) {
        self.seen.push(Seen::Down(peer, reason.clone()));
    }
}

pub struct Shard {
    pub driver: TestDriver,
    pub transport: Box<dyn Transport>,
    pub sink: Sink,
    /// A stalled shard takes no turns.
    pub stalled: bool,
}

impl Shard {
    pub fn try_send(&mut self, peer: u32, lane: Lane, frame: &[u8]) -> Result<(), ReserveError> {
        let room = self.transport.reserve(NodeId::new(peer), lane, frame.len())?;
        assert!(room.iter().all(|byte| *byte == 0));
        room.copy_from_slice(frame);
        Ok(())
    }

    pub fn send(&mut self, peer: u32, lane: Lane, frame: &[u8]) {
        self.try_send(peer, lane, frame).unwrap();
    }

    pub fn downs(&self) -> Vec<PeerDown> {
        self.sink
            .seen
            .iter()
            .filter_map(|seen| if let Seen::Down(_, reason) = seen { Some(reason.clone()) } else { None })
            .collect()
    }

    pub fn ups(&self) -> Vec<u64> {
        self.sink
            .seen
            .iter()
            .filter_map(|seen| if let Seen::Up(_, session) = seen { Some(*session) } else { None })
            .collect()
    }
}

/// Every byte twice, in order: 256 bytes from any place on are a pattern of their own.
static PATTERN: [u8; 512] = {
    let mut bytes = [0; 512];
    let mut at = 0;
    while at < 512 {
        bytes[at] = (at % 256) as u8;
        at += 1;
    }
    bytes
};

/// A frame of `len` bytes (before padding) that carries a number and a pattern.
pub fn frame(number: u64, len: usize) -> Vec<u8> {
    let start = number as usize * 31 % 256;
    let mut bytes = PATTERN[start..start + 256].repeat(len.div_ceil(256));
    bytes.truncate(len);
    bytes[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes.resize(len.next_multiple_of(16), 0);
    bytes
}

pub fn pem(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certs").join(format!("{name}.pem"))).unwrap()
}

/// The settings with one of the fixed certificates.
pub fn config(authority: &str, leaf: &str) -> QuicConfig {
    QuicConfig::from_pem(&pem(authority), &pem(leaf), &pem(leaf)).unwrap()
}

pub fn cluster(name: &str, me: usize, nodes: &[(&str, u16)]) -> ClusterConfig {
    let node = |(id, (name, shards)): (usize, &(&str, u16))| NodeInfo {
        id: NodeId::new(u32::try_from(id).unwrap()),
        name: (*name).to_owned(),
        address: SocketAddr::new(IpAddr::from([10, 0, 0, 1]), 1000 * (1 + u16::try_from(id).unwrap())),
        shards: *shards,
    };
    ClusterConfig {
        name: name.to_owned(),
        me: NodeId::new(u32::try_from(me).unwrap()),
        nodes: nodes.iter().enumerate().map(node).collect(),
    }
}

pub struct World {
    pub net: Rc<RefCell<Net>>,
    pub shards: Vec<Shard>,
    seed: u64,
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self { net: Rc::new(RefCell::new(Net::new(seed, weather))), shards: Vec::new(), seed }
    }

    /// Two nodes `a` and `b` of one shard each, with good certificates.
    pub fn pair(seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(seed, weather);
        for (me, name) in ["a", "b"].into_iter().enumerate() {
            world.add(&config("ca", name), cluster("sim", me, &[("a", 1), ("b", 1)]), 0, &[]);
        }
        world
    }

    /// Starts one shard of a node; returns its index.
    pub fn add(&mut self, config: &QuicConfig, cluster: ClusterConfig, shard: u16, schema: &[SchemaLine]) -> usize {
        let made = self.make(config, cluster, shard, schema);
        self.shards.push(made);
        self.shards.len() - 1
    }

    /// Replaces a shard by a fresh one without any farewell, as a kill and a start do.
    pub fn restart(&mut self, index: usize, config: &QuicConfig, cluster: ClusterConfig) {
        self.kill(index);
        self.seed += 1000;
        self.shards[index] = self.make(config, cluster, 0, &[]);
    }

    /// Ends a shard without any farewell.
    pub fn kill(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        shard.stalled = true;
        for address in shard.driver.sockets.drain(..).flatten() {
            self.net.borrow_mut().inboxes.remove(&address);
        }
    }

    fn make(&self, config: &QuicConfig, cluster: ClusterConfig, shard: u16, schema: &[SchemaLine]) -> Shard {
        let random = self.seed.wrapping_mul(77).wrapping_add(u64::from(cluster.me.get()) * 7 + u64::from(shard));
        let mut driver = TestDriver { net: self.net.clone(), random, sockets: Vec::new(), room: None };
        let mut transport =
            Quic::new(config.clone()).make(&TransportSeat { shard: ShardId::new(shard), cluster }).unwrap();
        transport.set_schema(schema);
        transport.start(&mut driver).unwrap();
        Shard { driver, transport, sink: Sink { keep_frames: true, ..Sink::default() }, stalled: false }
    }

    /// One turn of every shard that is not stalled; then time moves to the next thing that happens.
    /// Returns false when nothing will ever happen.
    pub fn step(&mut self, until_ns: u64) -> bool {
        self.net.borrow_mut().deliver();
        let mut next = u64::MAX;
        for shard in self.shards.iter_mut().filter(|shard| !shard.stalled) {
            while shard.transport.poll(&mut shard.driver, &mut shard.sink) {}
            shard.transport.flush(&mut shard.driver);
            next = next.min(shard.transport.next_deadline_ns().unwrap_or(u64::MAX));
        }
        let mut net = self.net.borrow_mut();
        if let Some(((at, _), _)) = net.flying.first_key_value() {
            next = next.min(*at);
        }
        // A turn takes time, so that a deadline in the past cannot stop the clock.
        net.now_ns = next.max(net.now_ns + 1000).min(until_ns.max(net.now_ns + 1000));
        next != u64::MAX
    }

    pub fn run_for(&mut self, ns: u64) {
        let end = self.now() + ns;
        while self.now() < end {
            self.step(end);
        }
    }

    /// Runs until `done`, at most for `ns`; panics with what was seen otherwise.
    pub fn run_until(&mut self, ns: u64, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now() + ns;
        while !done(self) {
            assert!(
                self.now() < end,
                "{what} did not happen; seen: {:?}",
                self.shards.iter().map(|shard| &shard.sink.seen).collect::<Vec<_>>()
            );
            self.step(end);
        }
    }

    pub fn take_trace(&mut self) -> Vec<(u64, u16, u16, usize)> {
        std::mem::take(&mut self.net.borrow_mut().trace)
    }

    pub fn now(&self) -> u64 {
        self.net.borrow().now_ns
    }

    pub fn connect(&mut self) {
        self.run_until(20 * SECOND, "all up", |world| world.shards.iter().all(|shard| !shard.ups().is_empty()));
    }
}
