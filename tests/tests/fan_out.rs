//! One message to many: encoded once for each other node, allocated once for each shard, in order with single messages, and
//! every receiver accounted for.

#![forbid(unsafe_code)]

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{Audience, FanOut, NodeId, Shared};
use shardstage_quic::Quic;
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

mod wire {
    /// Something happened that many look at.
    #[shardstage::message(id = "fan.moved")]
    #[derive(Clone, Debug)]
    pub struct Moved {
        pub number: u64,
        pub path: Vec<u32>,
    }

    /// The same, told to one.
    #[shardstage::message(id = "fan.nudged")]
    pub struct Nudged {
        pub number: u64,
    }

    /// How many messages there were, and whether each had a higher number than the one before.
    #[shardstage::message(id = "fan.seen", reply = (u64, bool))]
    pub struct Seen {
        pub nothing: u8,
    }
}
use wire::{Moved, Nudged, Seen};

#[derive(Default)]
struct Viewer {
    count: u64,
    last: u64,
    disordered: bool,
}

impl Viewer {
    fn see(&mut self, number: u64) {
        self.count += 1;
        self.disordered |= number <= self.last;
        self.last = number;
    }
}

impl Actor for Viewer {}

impl VirtualActor for Viewer {
    const TYPE: &'static str = "fan.viewer";

    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

impl Handler<Shared<Moved>> for Viewer {
    fn handle(&mut self, moved: Shared<Moved>, _cx: &mut Context<Self>) {
        assert_eq!(moved.path, [1, 2, 3]);
        self.see(moved.number);
    }
}

impl Handler<Nudged> for Viewer {
    fn handle(&mut self, nudged: Nudged, _cx: &mut Context<Self>) {
        self.see(nudged.number);
    }
}

impl Handler<Seen> for Viewer {
    fn handle(&mut self, _: Seen, _cx: &mut Context<Self>) -> (u64, bool) {
        (self.count, !self.disordered)
    }
}

/// Tells `rounds` times everybody, then everybody singly.
struct Teller {
    viewers: Vec<VirtualRef<Viewer>>,
    audience: Audience<VirtualRef<Viewer>>,
    number: u64,
}

impl Actor for Teller {}

struct Tell {
    rounds: u64,
    singly: bool,
}

impl Message for Tell {
    type Reply = Vec<FanOut>;
}

impl Handler<Tell> for Teller {
    fn handle(&mut self, tell: Tell, cx: &mut Context<Self>) -> Vec<FanOut> {
        let mut sent = Vec::new();
        for _ in 0..tell.rounds {
            self.number += 1;
            let moved = Moved { number: self.number, path: vec![1, 2, 3] };
            sent.push(cx.tell_many(&mut self.audience, moved));
            if tell.singly {
                self.number += 1;
                for viewer in &self.viewers {
                    viewer.tell(Nudged { number: self.number }).expect("there is room");
                }
            }
        }
        sent
    }
}

struct Leave(usize);

impl Message for Leave {
    type Reply = bool;
}

impl Handler<Leave> for Teller {
    fn handle(&mut self, leave: Leave, _cx: &mut Context<Self>) -> bool {
        self.audience.leave(&self.viewers[leave.0])
    }
}

fn start(world: &SimWorld, me: NodeId) -> Engine {
    Engine::builder()
        .register::<Viewer>(|viewer| viewer.accept::<Nudged, _>().accept::<Seen, _>().accept_shared::<Moved, _>())
        .cluster(cluster("sim", me))
        .transport(Quic::new(quic("ca", if me == A { "a" } else { "b" })))
        .start_in_sim(world, me)
        .expect("a sound description")
}

fn counters(engine: &Engine) -> (u64, u64) {
    let stats = engine.stats();
    (stats.iter().map(|shard| shard.fan_out_encoded).sum(), stats.iter().map(|shard| shard.fan_out_shared).sum())
}

const VIEWERS: usize = 300;

/// Two nodes of two shards that have met, viewers on all four, and whoever tells them.
fn theatre(seed: u64) -> (SimWorld, [Engine; 2], Vec<VirtualRef<Viewer>>, ActorRef<Teller>) {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let nodes = [start(&world, A), start(&world, B)];
    let met = world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 10 * SECOND);
    assert!(met);
    let viewers: Vec<_> = (0..VIEWERS).map(|number| nodes[0].actor::<Viewer>(format!("viewer-{number}"))).collect();
    let theirs = viewers.clone();
    let teller =
        nodes[0].spawn_once(move || Teller { audience: theirs.iter().cloned().collect(), viewers: theirs, number: 0 });
    (world, nodes, viewers, teller.expect("the engine runs"))
}

/// Lets everything arrive that is on its way: questions travel by other shards than what they ask about.
fn settle(world: &SimWorld) {
    world.run_until(|_| false, SECOND);
}

fn ask<M: Message>(world: &SimWorld, ask: shardstage::Ask<M>) -> M::Reply {
    world.block_on(ask, 5 * SECOND).expect("it ends").expect("it is answered")
}

#[test]
fn a_message_is_encoded_once_a_node_and_allocated_once_a_shard() {
    let (world, nodes, viewers, teller) = theatre(1);
    const ROUNDS: u64 = 7;
    let sent = ask(&world, teller.ask(Tell { rounds: ROUNDS, singly: false }));
    for fan_out in sent {
        assert_eq!((fan_out.accepted, fan_out.total()), (VIEWERS, VIEWERS));
    }
    settle(&world);
    for viewer in &viewers {
        assert_eq!(ask(&world, viewer.ask(Seen { nothing: 0 })), (ROUNDS, true), "{viewer:?}");
    }
    assert_eq!(counters(&nodes[0]), (ROUNDS, 2 * ROUNDS), "once for node b, once for each shard here");
    assert_eq!(counters(&nodes[1]), (0, 2 * ROUNDS), "once for each shard there");
    let frames = nodes[0].stats().iter().map(|shard| shard.frames_sent).sum::<u64>();
    assert!(frames < VIEWERS as u64 + 100, "{frames} frames for {ROUNDS} messages and {VIEWERS} questions");
}

#[test]
fn messages_to_many_and_to_one_stay_in_order() {
    for seed in 2..5 {
        let (world, _nodes, viewers, teller) = theatre(seed);
        for _ in 0..3 {
            let sent = ask(&world, teller.ask(Tell { rounds: 2, singly: true }));
            assert!(sent.iter().all(|fan_out| fan_out.accepted == VIEWERS), "{sent:?}");
        }
        settle(&world);
        for viewer in &viewers {
            assert_eq!(ask(&world, viewer.ask(Seen { nothing: 0 })), (12, true), "{viewer:?}");
        }
    }
}

#[test]
fn who_left_hears_nothing_more() {
    let (world, _nodes, viewers, teller) = theatre(6);
    ask(&world, teller.ask(Tell { rounds: 1, singly: false }));
    for gone in (0..VIEWERS).step_by(3) {
        assert!(ask(&world, teller.ask(Leave(gone))), "it was a receiver");
        assert!(!ask(&world, teller.ask(Leave(gone))), "it is none any more");
    }
    ask(&world, teller.ask(Tell { rounds: 1, singly: false }));
    settle(&world);
    for (number, viewer) in viewers.iter().enumerate() {
        let expected = if number % 3 == 0 { 1 } else { 2 };
        assert_eq!(ask(&world, viewer.ask(Seen { nothing: 0 })), (expected, true), "{viewer:?}");
    }
}

#[test]
fn after_a_broken_session_receivers_are_numbered_anew() {
    let (world, nodes, viewers, teller) = theatre(7);
    ask(&world, teller.ask(Tell { rounds: 1, singly: false }));
    settle(&world);
    world.cut(A, B);
    world.cut(B, A);
    assert!(world.run_until(|_| nodes[0].peer(B).sessions == 0, 60 * SECOND));
    let sent = ask(&world, teller.ask(Tell { rounds: 1, singly: false }));
    assert!(sent[0].unavailable > 0 && sent[0].total() == VIEWERS, "{sent:?}");
    world.heal_all();
    assert!(world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 60 * SECOND));
    let sent = ask(&world, teller.ask(Tell { rounds: 1, singly: false }));
    assert_eq!(sent[0].accepted, VIEWERS);
    settle(&world);
    let counts: Vec<u64> = viewers.iter().map(|viewer| ask(&world, viewer.ask(Seen { nothing: 0 })).0).collect();
    assert!(counts.contains(&2) && counts.iter().all(|count| *count == 2 || *count == 3), "{counts:?}");
}

#[test]
fn a_thread_outside_reaches_everybody_too() {
    let (world, nodes, viewers, _teller) = theatre(8);
    let mut audience: Audience<_> = viewers.iter().cloned().collect();
    let sent = nodes[0].tell_many(&mut audience, Moved { number: 1, path: vec![1, 2, 3] });
    assert_eq!(sent.accepted, VIEWERS);
    settle(&world);
    for viewer in &viewers {
        assert_eq!(ask(&world, viewer.ask(Seen { nothing: 0 })), (1, true), "{viewer:?}");
    }
}

/// Takes copies instead of shared messages.
#[derive(Default)]
struct Copier {
    numbers: Vec<u64>,
}

impl Actor for Copier {}

impl Handler<Moved> for Copier {
    fn handle(&mut self, mut moved: Moved, _cx: &mut Context<Self>) {
        moved.path.push(4);
        assert_eq!(moved.path, [1, 2, 3, 4], "it is its own");
        self.numbers.push(moved.number);
    }
}

struct Numbers;

impl Message for Numbers {
    type Reply = Vec<u64>;
}

impl Handler<Numbers> for Copier {
    fn handle(&mut self, _: Numbers, _cx: &mut Context<Self>) -> Vec<u64> {
        self.numbers.clone()
    }
}

/// Tells everybody more than a mailbox holds, within one message.
struct Flood(Audience<ActorRef<Copier>>);

impl Message for Flood {
    type Reply = Vec<FanOut>;
}

#[derive(Default)]
struct Flooder;

impl Actor for Flooder {}

impl Handler<Flood> for Flooder {
    fn handle(&mut self, mut flood: Flood, cx: &mut Context<Self>) -> Vec<FanOut> {
        (1..=6).map(|number| cx.tell_many(&mut flood.0, Moved { number, path: vec![1, 2, 3] })).collect()
    }
}

#[test]
fn receivers_that_are_full_or_gone_are_counted() {
    let mut config = Config::default();
    config.shards = Some(1);
    config.mailbox_capacity = 4;
    let engine = Engine::start(config).expect("it starts");
    let copiers: Vec<_> = (0..10).map(|_| engine.spawn(Copier::default).expect("it runs")).collect();
    copiers[9].stop().wait();
    let flooder = engine.spawn(Flooder::default).expect("it runs");
    let sent = flooder.ask(Flood(copiers.iter().copied().collect())).wait().expect("it answers");
    for (round, fan_out) in sent.iter().enumerate() {
        assert_eq!((fan_out.closed, fan_out.total()), (1, 10));
        let (accepted, full) = if round < 4 { (9, 0) } else { (0, 9) };
        assert_eq!((fan_out.accepted, fan_out.full), (accepted, full), "round {round}");
    }
    for copier in &copiers[..9] {
        assert_eq!(copier.ask(Numbers).wait().expect("it answers"), [1, 2, 3, 4]);
    }
    assert_eq!(engine.dead_letters().total(), 0, "whoever was refused heard of it");
    engine.shutdown().expect("it stops");
}
