//! The transport in the engine's simulator: faults of every class, crashes, and the same trace for the same seed.

#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use shardstage::port::driver::Driver;
use shardstage::port::frame::Frame;
use shardstage::port::transport::{
    ClusterConfig, Lane, NodeInfo, PeerDown, Source, Transport, TransportEvents, TransportFactory, TransportSeat,
};
use shardstage::sim::{SimOptions, SimShard, SimWait, SimWorld};
use shardstage_codec::{NodeId, ShardId};
use shardstage_quic::Quic;
use support::{SECOND, config, frame};

/// What one shard saw, kept outside of the world so that it survives crashes.
#[derive(Default)]
struct Log {
    /// Per session: the numbers that arrived.
    sessions: Vec<Vec<u64>>,
    up: bool,
    downs: Vec<PeerDown>,
    sent: u64,
}

struct Events<'a>(&'a mut Log);

impl TransportEvents for Events<'_> {
    fn frame(&mut self, _: Source, lane: Lane, bytes: Frame<'_>) {
        assert!(self.0.up, "frames come inside a session");
        assert_eq!((lane, bytes.as_ptr() as usize % 16), (Lane::User, 0));
        let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(*bytes, frame(number, size(number)), "whole and unchanged");
        self.0.sessions.last_mut().unwrap().push(number);
    }
    fn peer_up(&mut self, _: NodeId, _: u64) {
        assert!(!std::mem::replace(&mut self.0.up, true), "down comes before the next up");
        self.0.sessions.push(Vec::new());
    }
    fn peer_down(&mut self, _: NodeId, reason: &PeerDown) {
        self.0.up = false;
        self.0.downs.push(reason.clone());
    }
}

fn size(number: u64) -> usize {
    64 + usize::try_from(number % 1500).unwrap()
}

/// A shard that only has a transport and sends numbered frames all the time.
struct Node {
    me: usize,
    transport: Box<dyn Transport>,
    started: bool,
    log: Rc<RefCell<Log>>,
}

const EVERY_NS: u64 = 1_000_000;

impl SimShard for Node {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        if !std::mem::replace(&mut self.started, true) {
            self.transport.start(driver).unwrap();
        }
        let mut log = self.log.borrow_mut();
        self.transport.poll(driver, &mut Events(&mut log));
        let peer = NodeId::new(u32::try_from(1 - self.me).unwrap());
        if log.up {
            let bytes = frame(log.sent, size(log.sent));
            if let Ok(room) = self.transport.reserve(peer, Lane::User, bytes.len()) {
                room.copy_from_slice(&bytes);
                log.sent += 1;
            }
        }
        self.transport.flush(driver);
        SimWait::Until(self.transport.next_deadline_ns().unwrap_or(u64::MAX).min(driver.now_ns() + EVERY_NS))
    }
}

fn cluster(me: usize) -> ClusterConfig {
    let node = |id: u32| NodeInfo {
        id: NodeId::new(id),
        name: ["a", "b"][id as usize].to_owned(),
        address: SocketAddr::new(SimWorld::node_ip(NodeId::new(id)), 7000),
        shards: 1,
    };
    ClusterConfig { name: "sim".to_owned(), me: NodeId::new(u32::try_from(me).unwrap()), nodes: vec![node(0), node(1)] }
}

fn start(world: &SimWorld, me: usize, log: &Rc<RefCell<Log>>) {
    let seat = TransportSeat { shard: ShardId::new(0), cluster: cluster(me) };
    let transport = Quic::new(config("ca", ["a", "b"][me])).make(&seat).unwrap();
    log.borrow_mut().up = false;
    let node = Node { me, transport, started: false, log: log.clone() };
    world.add_shard(seat.cluster.me, seat.shard, Box::new(node));
}

/// A virtual minute of two nodes, with a cut link and a crash in between. Returns the trace and what both saw.
fn run(options: SimOptions) -> (u64, [Rc<RefCell<Log>>; 2]) {
    let world = SimWorld::new(options);
    let logs = [Rc::default(), Rc::default()];
    let [a, b] = [NodeId::new(0), NodeId::new(1)];
    for (me, log) in logs.iter().enumerate() {
        start(&world, me, log);
    }
    world.run_for(5 * SECOND);
    // One way: the deaf side times out first and falls silent, then the other.
    world.cut(a, b);
    world.run_for(35 * SECOND);
    world.heal_all();
    world.run_for(10 * SECOND);
    world.kill(b);
    world.run_for(SECOND / 2);
    start(&world, 1, &logs[1]);
    world.run_for(10 * SECOND);
    (world.trace_hash(), logs)
}

/// Within a session: in order, once, without gaps. Across sessions: nothing comes back.
fn check(receiver: &Log, seed: u64) {
    let mut last = None;
    for session in &receiver.sessions {
        assert!(session.windows(2).all(|pair| pair[1] == pair[0] + 1), "seed {seed}: a gap within a session");
        assert!(session.first().is_none_or(|first| last.is_none_or(|last| *first > last)), "seed {seed}: an old frame");
        last = session.last().copied().or(last);
    }
}

#[test]
fn sessions_keep_their_promises_under_every_fault() {
    for seed in 0..10 {
        let (_, logs) = run(SimOptions::swarm(seed));
        for log in &logs {
            let log = log.borrow();
            check(&log, seed);
            assert!(log.up, "seed {seed}: the last session is open");
            assert!(log.sessions.len() >= 2, "seed {seed}: {} sessions", log.sessions.len());
            let last = log.sessions.last().unwrap();
            assert!(last.len() > 1000, "seed {seed}: {} frames in the last session", last.len());
        }
        let downs = &logs[0].borrow().downs;
        assert!(downs.len() >= 2, "seed {seed}: the cut and the crash were noticed: {downs:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| run(SimOptions::swarm(seed)).0;
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}
