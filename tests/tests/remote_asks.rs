//! Hazard: an ask between nodes that is ended by an answer which is not its own, or whose place is never given back. A script
//! plays the other nodes and says what no sound node would.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use shardstage::limits::{ASKS_PER_PEER_SHARD, RING_SLOTS};
use shardstage::port::transport::{ClusterConfig, NodeInfo};
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{Ask, AskError, AskHandle, NodeId, Rejected, Reply};
use shardstage_codec::{
    AlignedBytes, FrameHeader, FrameKind, ReplyStatus, RequestBlock, append_frame_bytes, append_frame_with, encode,
    request,
};
use shardstage_tests::scripted::{Scripted, frame_to, key_at};
use shardstage_tests::sim_cluster::{A, B, SECOND};

const C: NodeId = NodeId::new(2);
const NODES: u32 = 3;

mod wire {
    /// To be answered when the test says so.
    #[shardstage::message(id = "remote_asks.hold", reply = u64)]
    #[derive(Clone)]
    pub struct Hold {
        pub number: u64,
    }

    /// To be answered at once.
    #[shardstage::message(id = "remote_asks.echo", reply = u64)]
    #[derive(Clone)]
    pub struct Echo {
        pub number: u64,
    }
}
use wire::{Echo, Hold};

thread_local! {
    /// Answers that were not given yet. The simulator runs every shard on the test's thread.
    static HELD: RefCell<Vec<(u64, Reply<u64>)>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Desk;

impl Actor for Desk {}

impl VirtualActor for Desk {
    const TYPE: &'static str = "remote_asks.desk";

    fn activate(_key: &str) -> Self {
        Self
    }
}

impl DeferredHandler<Hold> for Desk {
    fn handle(&mut self, hold: Hold, reply: Reply<u64>, _cx: &mut Context<Self>) {
        HELD.with_borrow_mut(|held| held.push((hold.number, reply)));
    }
}

impl Handler<Echo> for Desk {
    fn handle(&mut self, echo: Echo, _cx: &mut Context<Self>) -> u64 {
        echo.number
    }
}

/// Node `a`, with sessions to `b` and `c` on both shards.
fn start(world: &SimWorld, script: &Scripted) -> Engine {
    let node = |number: u32, name: &str| NodeInfo {
        id: NodeId::new(number),
        name: name.to_owned(),
        address: (SimWorld::node_ip(NodeId::new(number)), 9000).into(),
        shards: 2,
    };
    let nodes = vec![node(0, "a"), node(1, "b"), node(2, "c")];
    let engine = Engine::builder()
        .register::<Desk>(|desk| desk.accept::<Hold, _>().accept::<Echo, _>())
        .cluster(ClusterConfig { name: "script".to_owned(), me: A, nodes })
        .transport(script.clone())
        .start_in_sim(world, A)
        .expect("a sound description");
    for shard in 0..2 {
        script.up(shard, B);
        script.up(shard, C);
    }
    world.run_for(SECOND / 100);
    engine
}

fn look<M: Message>(ask: &mut Ask<M>) -> Poll<Result<M::Reply, AskError>> {
    Pin::new(ask).poll(&mut TaskContext::from_waker(Waker::noop()))
}

/// Lets the held question with this number be answered.
fn answer(number: u64) {
    let held = HELD.with_borrow_mut(|held| {
        let at = held.iter().position(|(held, _)| *held == number).expect("it is held");
        held.remove(at).1
    });
    held.send(number);
}

#[test]
fn a_peer_neither_answers_nor_fails_what_another_was_asked() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let script = Scripted::default();
    let engine = start(&world, &script);
    for shard in 0..2 {
        let mut ask = engine.actor::<Desk>(key_at::<Desk>(B, NODES, shard)).ask(Echo { number: 1 });
        assert!(look(&mut ask).is_pending());
        world.run_for(SECOND / 100);
        let heard = script.take(FrameKind::Ask).expect("it has left");
        assert_eq!((heard.peer, heard.shard), (B, shard));
        let correlation = heard.header.correlation;

        // Also by way of the other shard, which passes it on.
        for by in [shard, 1 - shard] {
            script.answer(by, C, correlation, &99_u64);
            let status = ReplyStatus::Failed;
            let failed = FrameHeader { status, correlation, ..FrameHeader::new(FrameKind::Reply) };
            let mut frame = AlignedBytes::new();
            append_frame_bytes(&mut frame, failed, "", b"guessed").expect("it fits");
            script.say(by, C, frame);
            world.run_for(SECOND / 100);
            assert!(look(&mut ask).is_pending(), "it was not asked");
        }
        script.answer(1 - shard, B, correlation, &7_u64);
        world.run_for(SECOND / 100);
        assert_eq!(look(&mut ask), Poll::Ready(Ok(7)));
    }
}

#[test]
fn an_answer_does_not_outlive_the_session_of_its_question() {
    let world = SimWorld::new(SimOptions::seeded(2));
    let script = Scripted::default();
    let _engine = start(&world, &script);
    for (shard, lives_on) in [(0, 0), (0, 1), (1, 1)] {
        let key = key_at::<Desk>(A, NODES, lives_on);
        for (peer, number) in [(B, 1), (C, 2)] {
            script.say(shard, peer, frame_to::<Desk, _>(FrameKind::Ask, &key, (77, 0), &Hold { number }));
        }
        world.run_for(SECOND / 100);
        assert_eq!(HELD.with_borrow(Vec::len), 2);
        script.down(shard, B);
        script.up(shard, B);
        world.run_for(SECOND / 100);
        answer(1);
        answer(2);
        world.run_for(SECOND / 100);
        let heard = script.take(FrameKind::Reply).expect("the session of c has not ended");
        assert_eq!((heard.peer, heard.header.correlation), (C, 77));
        assert!(script.take(FrameKind::Reply).is_none(), "b has begun anew, and may use the number for something else");
        // A question of the new session is answered.
        script.say(shard, B, frame_to::<Desk, _>(FrameKind::Ask, &key, (77, 0), &Hold { number: 3 }));
        world.run_for(SECOND / 100);
        answer(3);
        world.run_for(SECOND / 100);
        assert_eq!(script.take(FrameKind::Reply).map(|heard| heard.peer), Some(B));
    }
}

#[test]
fn a_question_of_a_session_that_is_over_is_dropped_before_work() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let script = Scripted::default();
    let engine = start(&world, &script);
    let key = key_at::<Desk>(A, NODES, 0);
    script.say(0, B, frame_to::<Desk, _>(FrameKind::Ask, &key, (77, SECOND), &Hold { number: 1 }));
    script.down(0, B);
    world.run_for(SECOND / 100);
    assert_eq!(HELD.with_borrow(Vec::len), 0);
    assert_eq!(engine.stats().iter().map(|shard| shard.cancelled).sum::<u64>(), 1);
}

/// The number of the first ask of an engine that starts with this seed.
fn first_number(seed: u64) -> u64 {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let script = Scripted::default();
    let engine = start(&world, &script);
    let mut ask = engine.actor::<Desk>(key_at::<Desk>(B, NODES, 0)).ask(Echo { number: 1 });
    assert!(look(&mut ask).is_pending());
    world.run_for(SECOND / 100);
    script.take(FrameKind::Ask).expect("it has left").header.correlation
}

#[test]
fn the_numbers_of_asks_begin_elsewhere_after_each_start() {
    let numbers: std::collections::BTreeSet<u64> = (0..20).map(first_number).collect();
    assert_eq!(numbers.len(), 20);
    assert_eq!(first_number(7), first_number(7), "the seed says where");
}

/// Questions for an actor of the other shard, behind tells that fill the ring between.
fn flood(question: impl Fn(&str, u64) -> AlignedBytes) {
    let world = SimWorld::new(SimOptions::seeded(4));
    let script = Scripted::default();
    let _engine = start(&world, &script);
    let key = key_at::<Desk>(A, NODES, 1);
    for _ in 0..4 {
        for number in 0..RING_SLOTS as u64 {
            script.say(0, B, frame_to::<Desk, _>(FrameKind::Tell, &key, (0, 0), &Echo { number }));
        }
        for number in 0..u64::from(ASKS_PER_PEER_SHARD) / 2 {
            script.say(0, B, question(&key, number));
        }
        world.run_for(SECOND);
        let mut refused = 0;
        while let Some(heard) = script.take(FrameKind::Reply) {
            assert_eq!(heard.header.status, ReplyStatus::Full);
            refused += 1;
        }
        assert_eq!(refused, ASKS_PER_PEER_SHARD / 2, "each is answered");
    }
    script.say(0, B, question(&key, 77));
    world.run_for(SECOND);
    let last = script.take(FrameKind::Reply).expect("it is answered");
    assert_eq!((last.header.status, last.header.correlation), (ReplyStatus::Ok, 77), "what was refused holds no place");
}

#[test]
fn asks_that_find_no_room_on_their_way_to_another_shard_give_their_places_back() {
    flood(|key, number| frame_to::<Desk, _>(FrameKind::Ask, key, (number, 0), &Echo { number }));
}

#[test]
fn and_so_do_those_that_carry_a_request() {
    flood(|key, number| {
        let plain = frame_to::<Desk, _>(FrameKind::Ask, key, (number, 0), &Echo { number });
        let plain = FrameHeader::decode(&plain).expect("just encoded");
        let block = RequestBlock { ttl_ns: 0, trace: None, headers: vec![("tenant", "t")], callers: Vec::new() };
        let mut frame = AlignedBytes::new();
        let header = FrameHeader { kind: FrameKind::AskWith, ..plain };
        append_frame_with(&mut frame, header, key, |out| {
            Ok(request::append(out, &block) + encode(&Echo { number }, out)?)
        })
        .expect("it fits");
        frame
    });
}

/// Asks, tells and forwards from a shard of node `a`.
#[derive(Default)]
struct Clerk {
    kept: Vec<Reply<u64>>,
}

impl Actor for Clerk {}

/// Ask `desk`, for no time at all.
#[message(reply = Result<u64, AskError>)]
struct Hurry {
    desk: VirtualRef<Desk>,
    in_request: bool,
}

impl AsyncHandler<Hurry> for Clerk {
    async fn handle(&mut self, Hurry { desk, in_request }: Hurry, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        let ask = desk.ask(Echo { number: 1 }).deadline(Duration::ZERO);
        if in_request { ask.with_header("tenant", "t").expect("a sound header").await } else { ask.await }
    }
}

#[test]
fn an_ask_without_time_is_refused_and_not_sent_without_a_deadline() {
    let world = SimWorld::new(SimOptions::seeded(5));
    let script = Scripted::default();
    let engine = start(&world, &script);
    let clerk = engine.spawn_on(0, Clerk::default).expect("it runs");
    let desk = engine.actor::<Desk>(key_at::<Desk>(B, NODES, 0));
    let expired = Err(AskError::Rejected(Rejected::Expired));
    for in_request in [false, true] {
        let hurried = world.block_on(clerk.ask(Hurry { desk: desk.clone(), in_request }), SECOND);
        assert_eq!(hurried.expect("it ends").expect("it answers"), expired);
    }
    let ask = || desk.ask(Echo { number: 1 }).deadline(Duration::ZERO);
    assert_eq!(world.block_on(ask(), SECOND).expect("it ends"), expired);
    let carried = ask().with_header("tenant", "t").expect("a sound header");
    assert_eq!(world.block_on(carried, SECOND).expect("it ends"), expired);
    for kind in [FrameKind::Ask, FrameKind::AskWith] {
        assert!(script.take(kind).is_none(), "on the wire, no time means all the time");
    }
}

/// Keep the place of this answer.
#[message(reply = u64)]
struct Keep;

impl DeferredHandler<Keep> for Clerk {
    fn handle(&mut self, _: Keep, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.kept.push(reply);
    }
}

/// Let the desk answer what was kept.
#[message]
struct Forward(VirtualRef<Desk>);

impl Handler<Forward> for Clerk {
    fn handle(&mut self, Forward(desk): Forward, _cx: &mut Context<Self>) {
        self.kept.drain(..).for_each(|reply| reply.forward(desk.clone(), Hold { number: 1 }));
    }
}

/// Asks a clerk of its own shard, or of another, in an actor's turn, and gives up at once.
#[message]
struct AskAndLeave(ActorRef<Clerk>);

impl Handler<AskAndLeave> for Clerk {
    fn handle(&mut self, AskAndLeave(clerk): AskAndLeave, cx: &mut Context<Self>) {
        let asked = cx.ask(clerk, Keep).then_unless_dropped(|_, _, _| panic!("it was given up"));
        cx.after(Duration::from_millis(1), GiveUp);
        GIVEN_UP.with_borrow_mut(|kept| kept.push(asked));
    }
}

#[message]
struct GiveUp;

impl Handler<GiveUp> for Clerk {
    fn handle(&mut self, _: GiveUp, _cx: &mut Context<Self>) {
        GIVEN_UP.take();
    }
}

thread_local! {
    static GIVEN_UP: RefCell<Vec<AskHandle>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn what_nobody_waits_for_any_more_is_not_forwarded() {
    let world = SimWorld::new(SimOptions::seeded(6));
    let script = Scripted::default();
    let engine = start(&world, &script);
    for asked_on in 0..2 {
        let asker = engine.spawn_on(0, Clerk::default).expect("it runs");
        let clerk = engine.spawn_on(asked_on, Clerk::default).expect("it runs");
        for node in [A, B] {
            let desk = engine.actor::<Desk>(key_at::<Desk>(node, NODES, 1 - asked_on));
            asker.tell(AskAndLeave(clerk)).expect("there is room");
            world.run_for(SECOND / 10);
            clerk.tell(Forward(desk)).expect("there is room");
            world.run_for(SECOND / 10);
            assert!(script.take(FrameKind::Ask).is_none(), "{asked_on}: nobody waits for the answer");
            assert_eq!(HELD.with_borrow(Vec::len), 0, "{asked_on}: nobody waits for the answer");
        }
    }
    assert_eq!(engine.stats().iter().map(|shard| shard.cancelled).sum::<u64>(), 4, "each is counted");
}
