//! Hazard: whoever looks into an engine sees what is not there, misses what is, stalls it, or waits for ever for a shard that is
//! stuck.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use shardstage::introspect::{ActorState, Asker, Order};
use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Reentrancy};
use shardstage_tests::kit_actors::{Add, Boom, Counter};

mod support;
use support::{config, start};

const SECOND: Duration = Duration::from_secs(1);

/// Asks its friend, and waits for the answer.
#[derive(Default)]
struct Friend {
    other: Option<ActorRef<Self>>,
}
impl Actor for Friend {}

#[message]
struct Meet(ActorRef<Friend>);
impl Handler<Meet> for Friend {
    fn handle(&mut self, Meet(other): Meet, _cx: &mut Context<Self>) {
        self.other = Some(other);
    }
}

/// Answers how many friends were asked.
#[message(reply = u32)]
struct Call;
impl AsyncHandler<Call> for Friend {
    async fn handle(&mut self, _: Call, _cx: &mut Context<Self>) -> u32 {
        match self.other {
            Some(other) => other.ask(Call).deadline(60 * SECOND).await.map_or(1, |more| more + 1),
            None => 0,
        }
    }
}

/// The same without being blocked meanwhile.
#[message]
struct CallLater;
impl Handler<CallLater> for Friend {
    fn handle(&mut self, _: CallLater, cx: &mut Context<Self>) {
        if let Some(other) = self.other {
            cx.ask(other, Call).deadline(60 * SECOND).then(|_, _, _| {});
        }
    }
}

#[test]
fn actors_types_and_shards_are_described() {
    let kit = TestKit::new();
    let counters: Vec<_> = (0..10).map(|n| kit.spawn_on(n % 2, Counter::default).unwrap()).collect();
    let friend = kit.spawn(Friend::default).unwrap();
    kit.run_until_idle();
    kit.allow_panics();
    for _ in 0..3 {
        counters[4].tell(Boom).unwrap();
    }
    let stalled = kit.stall(counters[7]);
    for _ in 0..5 {
        counters[7].tell(Add(1)).unwrap();
    }
    kit.run_until_idle();
    let found = kit.introspect().wait();
    assert!(found.is_whole());
    assert_eq!((found.live(), found.matching, found.actors.len()), (11, 11, 11));
    let kinds: Vec<_> =
        found.types.iter().map(|kind| (kind.actors, kind.queued, kind.deepest, kind.suspended)).collect();
    assert_eq!(kinds, [(1, 0, 0, 0), (10, 5, 5, 1)], "{:?}", found.types);
    assert!(found.types[0].actor.ends_with("::Friend") && found.types[1].actor.ends_with("::Counter"));
    let deep = found.actor(counters[7].id()).unwrap();
    assert_eq!((deep.queued, deep.capacity, deep.state), (5, 1024, ActorState::Suspended));
    assert_eq!((deep.message, deep.suspended_for.is_some()), (None, true), "no handler suspended it");
    assert_eq!(found.actor(counters[4].id()).unwrap().rebuilds, 3);
    let idle = found.actor(friend.id()).unwrap();
    assert_eq!((idle.state, idle.queued, idle.suspended_for, idle.rebuilds), (ActorState::Idle, 0, None, 0));
    assert_eq!(found.shards.len(), 2);
    assert_eq!(found.shards.iter().map(|shard| shard.stats.panics).sum::<u64>(), 3);
    assert!(found.shards.iter().all(|shard| shard.stuck.is_none() && shard.injected == 0));
    // What is gone is not there any more.
    drop(stalled);
    kit.run_until_idle();
    counters[7].stop().wait();
    let found = kit.introspect().wait();
    assert_eq!((found.live(), found.actor(counters[7].id()).is_none()), (10, true));
}

/// Has children, as deep as it is told.
#[derive(Default)]
struct Parent;
impl Actor for Parent {}

#[message(reply = Vec<ActorId>)]
struct Raise {
    children: u32,
    depth: u32,
}
impl AsyncHandler<Raise> for Parent {
    async fn handle(&mut self, Raise { children, depth }: Raise, cx: &mut Context<Self>) -> Vec<ActorId> {
        let mut line = vec![cx.me().id()];
        for _ in 0..children {
            let child = cx.spawn(Parent::default).unwrap();
            let depth = depth - 1;
            let below = if depth == 0 { 0 } else { children };
            line.extend(child.ask(Raise { children: below, depth }).await.unwrap());
        }
        line
    }
}

#[test]
fn the_spawn_tree_is_shown_parents_first() {
    let kit = TestKit::new();
    let (one, other) = (kit.spawn_on(0, Parent::default).unwrap(), kit.spawn_on(1, Parent::default).unwrap());
    let line = one.ask(Raise { children: 2, depth: 2 }).wait().unwrap();
    assert_eq!(line.len(), 7);
    let found = kit.introspect().wait();
    let tree = found.tree();
    let shown: Vec<_> = tree.iter().map(|(depth, actor)| (*depth, actor.id, actor.children)).collect();
    let depths = [(0, 2), (1, 2), (2, 0), (2, 0), (1, 2), (2, 0), (2, 0)];
    let mut wanted: Vec<_> = depths.iter().zip(&line).map(|((depth, children), id)| (*depth, *id, *children)).collect();
    wanted.push((0, other.id(), 0));
    assert_eq!(shown, wanted);
    assert_eq!(found.actor(line[1]).unwrap().parent, Some(one.id()));
    // Half a tree has roots of its own, and nobody is left out.
    let leaves = kit.introspect().after(line[1]).wait();
    assert_eq!(leaves.tree().len(), leaves.actors.len());
    assert!(!leaves.actors.is_empty() && leaves.tree()[0].0 == 0);
    one.stop().wait();
    assert_eq!(kit.introspect().wait().tree().len(), 1);
}

#[test]
fn filters_orders_and_pages() {
    let kit = TestKit::new();
    let counters: Vec<_> = (0..40_u32).map(|_| kit.spawn(Counter::default).unwrap()).collect();
    kit.spawn(Friend::default).unwrap();
    kit.run_until_idle();
    let stalls: Vec<_> = counters.iter().map(|counter| kit.stall(*counter)).collect();
    for (depth, counter) in counters.iter().enumerate() {
        (0..depth).for_each(|_| counter.tell(Add(1)).unwrap());
    }
    kit.run_until_idle();
    let deepest = kit.introspect().of::<Counter>().order(Order::Queued).top(3).wait();
    let depths: Vec<_> = deepest.actors.iter().map(|actor| actor.queued).collect();
    assert_eq!((depths, deepest.matching, deepest.live()), (vec![39, 38, 37], 40, 41));
    assert_eq!(kit.introspect().named("nobody").wait().matching, 0);
    let here = kit.introspect().on_shard(1).wait();
    assert!(here.actors.iter().all(|actor| actor.id.shard().get() == 1) && here.matching == 20);
    // Pages go through everybody once, though some die meanwhile.
    drop(stalls);
    let (mut seen, mut pages, mut last) = (BTreeSet::new(), 0, None);
    loop {
        let page = kit.introspect().top(7);
        let page = last.map_or(page.clone(), |last| page.after(last)).wait();
        let Some(end) = page.actors.last() else { break };
        last = Some(end.id);
        pages += 1;
        for actor in &page.actors {
            assert!(seen.insert(format!("{:?}", actor.id)), "{:?} twice", actor.id);
        }
        kit.kill(end.id);
    }
    assert_eq!((seen.len(), pages), (41, 6));
    assert_eq!(kit.introspect().top(0).wait().actors.len(), 0);
}

#[test]
fn the_longest_wait_is_on_top_with_its_message() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>();
    struct Patient(Recipient<Add>);
    impl Actor for Patient {}
    #[message]
    struct Begin;
    impl AsyncHandler<Begin> for Patient {
        async fn handle(&mut self, _: Begin, _cx: &mut Context<Self>) {
            self.0.ask(Add(1)).deadline(600 * SECOND).await.ok();
        }
    }
    let spawn = || {
        let to = probe.recipient();
        kit.spawn(move || Patient(to)).unwrap()
    };
    let (first, second) = (spawn(), spawn());
    first.tell(Begin).unwrap();
    kit.advance(90 * SECOND);
    second.tell(Begin).unwrap();
    kit.advance(10 * SECOND);
    let found = kit.introspect().of::<Patient>().order(Order::Suspended).wait();
    let ages: Vec<_> = found.actors.iter().map(|actor| (actor.id, actor.suspended_for.unwrap().as_secs())).collect();
    assert_eq!(ages, [(first.id(), 100), (second.id(), 10)]);
    assert!(found.actors[0].message.unwrap().ends_with("::Begin"), "{:?}", found.actors[0]);
    kit.kill(first.id());
    kit.kill(second.id());
}

#[test]
fn who_waits_for_whom_is_shown_and_a_circle_is_named() {
    let kit = TestKit::new();
    let friends: Vec<_> = (0..4).map(|n| kit.spawn_on(n % 2, Friend::default).unwrap()).collect();
    let [a, b, c, alone] = friends[..] else { unreachable!() };
    for (from, to) in [(a, b), (b, c), (c, a), (alone, a)] {
        from.tell(Meet(to)).unwrap();
    }
    kit.run_until_idle();
    assert!(kit.introspect().waits().wait().waits.is_empty());
    a.tell(Call).unwrap();
    kit.run_until_idle();
    alone.tell(CallLater).unwrap();
    kit.run_until_idle();
    let mut outside = std::pin::pin!(b.ask(Call).deadline(60 * SECOND));
    assert!(outside.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    kit.run_until_idle();
    let found = kit.introspect().waits().wait();
    let mut waits: Vec<_> = found
        .waits
        .iter()
        .map(|wait| (format!("{:?}", wait.asker), wait.asked.unwrap(), wait.blocked, wait.begun))
        .collect();
    waits.sort_by(|one, other| one.0.cmp(&other.0));
    let actor = |friend: ActorRef<Friend>| format!("{:?}", Asker::Actor(friend.id()));
    let mut wanted = vec![
        (actor(a), b.id(), true, true),
        (actor(b), c.id(), true, true),
        (actor(c), a.id(), true, false),
        (actor(alone), a.id(), false, false),
        (format!("{:?}", Asker::Outside), b.id(), true, false),
    ];
    wanted.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(waits, wanted);
    assert!(found.waits.iter().all(|wait| wait.message.unwrap().ends_with("::Call") && wait.asked_node.is_none()));
    let [circle] = &found.cycles[..] else { panic!("{:?}", found.cycles) };
    let at = circle.iter().position(|member| *member == a.id()).unwrap();
    assert_eq!([circle[at], circle[(at + 1) % 3], circle[(at + 2) % 3]], [a.id(), b.id(), c.id()]);
    assert!(!found.waits_cut);
    // It is over when one of them is.
    kit.kill(a.id());
    kit.run_until_idle();
    let found = kit.introspect().waits().wait();
    assert!(found.waits.is_empty() && found.cycles.is_empty(), "{found:?}");
    assert_eq!(kit.block_on(outside), Ok(2));
    kit.allow_dead_letters(|letter| letter.reason == shardstage::Reason::Closed);
}

/// An actor that is asked with `then` stays free, so two that ask each other wait for nothing.
#[test]
fn two_that_ask_each_other_without_being_blocked_are_no_circle() {
    let kit = TestKit::new();
    let (a, b) = (kit.spawn_on(0, Friend::default).unwrap(), kit.spawn_on(1, Friend::default).unwrap());
    let stalls = (kit.stall(a), kit.stall(b));
    a.tell(Meet(b)).unwrap();
    b.tell(Meet(a)).unwrap();
    drop(stalls);
    kit.run_until_idle();
    let stalled = kit.stall(b);
    a.tell(CallLater).unwrap();
    kit.run_until_idle();
    let found = kit.introspect().waits().wait();
    assert_eq!((found.waits.len(), found.cycles.len()), (1, 0));
    assert_eq!((found.waits[0].asker, found.waits[0].blocked), (Asker::Actor(a.id()), false));
    drop(stalled);
}

/// Asks its friend with `then` too, and lets nothing in meanwhile.
struct Closed(ActorRef<Friend>);
impl Actor for Closed {
    const REENTRANCY: Reentrancy = Reentrancy::Off;
}
impl Handler<CallLater> for Closed {
    fn handle(&mut self, _: CallLater, cx: &mut Context<Self>) {
        cx.ask(self.0, Call).deadline(60 * SECOND).then(|_, _, _| {});
    }
}

#[test]
fn one_that_lets_nothing_in_while_it_waits_is_shown_as_blocked() {
    let kit = TestKit::new();
    for shard in [0, 1] {
        let friend = kit.spawn_on(shard, Friend::default).unwrap();
        let closed = kit.spawn_on(0, move || Closed(friend)).unwrap();
        let stalled = kit.stall(friend);
        closed.tell(CallLater).unwrap();
        kit.run_until_idle();
        let found = kit.introspect().waits().wait();
        let waits: Vec<_> = found.waits.iter().map(|wait| (wait.asker, wait.asked, wait.blocked)).collect();
        assert_eq!(waits, [(Asker::Actor(closed.id()), Some(friend.id()), true)]);
        drop(stalled);
        kit.run_until_idle();
        assert!(kit.introspect().waits().wait().waits.is_empty(), "it has its answer");
    }
}

/// One shard with 20,000 actors, which is many slices of a walk.
fn crowded() -> TestKit {
    let kit = TestKit::builder().engine(|engine| {
        let mut config = Config::default();
        config.shards = Some(1);
        engine.config(config)
    });
    let kit = kit.start();
    for _ in 0..20_000 {
        kit.spawn(Counter::default).unwrap();
    }
    kit.run_until_idle();
    kit
}

#[test]
fn many_actors_are_described_while_others_are_served() {
    let kit = crowded();
    let counter = kit.spawn(Counter::default).unwrap();
    let mut looking = std::pin::pin!(kit.introspect().order(Order::Queued).top(5).into_future());
    let mut poll = || {
        let waker = std::task::Waker::noop();
        looking.as_mut().poll(&mut std::task::Context::from_waker(waker))
    };
    assert!(poll().is_pending());
    let before = kit.stats()[0].turns;
    // Each of these is answered while the walk goes on.
    for answered in 1..=10 {
        assert_eq!(counter.ask(Add(1)).wait(), Ok(answered));
        assert!(poll().is_pending(), "{answered} answers, {} turns", kit.stats()[0].turns - before);
    }
    kit.run_until_idle();
    let Poll::Ready(found) = poll() else { panic!("the walk ends") };
    assert_eq!((found.live(), found.actors.len()), (20_001, 5));
    assert!(kit.stats()[0].turns - before >= 20_000 / 512, "{}", kit.stats()[0].turns - before);
}

#[test]
fn a_shard_looks_at_nothing_for_who_has_given_up() {
    let kit = crowded();
    let before = kit.stats()[0].turns;
    for _ in 0..100 {
        let mut looking = std::pin::pin!(kit.introspect().waits().into_future());
        let waker = std::task::Waker::noop();
        assert!(looking.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    kit.run_until_idle();
    let turns = kit.stats()[0].turns - before;
    assert!(turns < 20_000 / 512, "{turns} turns for nobody");
    assert_eq!(kit.introspect().top(0).wait().live(), 20_000);
}

/// Keeps its shard until the test lets go.
struct Blocker(Receiver<()>, Sender<()>);
impl Actor for Blocker {}

#[message]
struct Block;
impl Handler<Block> for Blocker {
    fn handle(&mut self, _: Block, _cx: &mut Context<Self>) {
        let _ = self.1.send(());
        let _ = self.0.recv();
    }
}

#[test]
fn a_stuck_shard_delays_nobody_and_its_culprit_is_named() {
    let mut two = config(2);
    two.long_turn = Some(Duration::from_millis(1));
    let engine = start(two);
    let well = engine.spawn_on(1, Counter::default).unwrap();
    well.ask(Add(1)).wait().unwrap();
    // Whoever looks for the culprit may be late: then another turn is made long.
    let stuck = 'found: loop {
        let ((go, gate), (begun, begins)) = (channel(), channel());
        let blocker = engine.spawn_once(move || Blocker(gate, begun)).unwrap();
        let blocker_on = blocker.id().shard().get();
        if blocker_on != 0 {
            continue;
        }
        for _ in 0..20 {
            blocker.tell(Block).unwrap();
        }
        for _ in 0..20 {
            begins.recv().unwrap();
            let found = loop {
                let found = engine.introspect().within(Duration::from_millis(20)).wait();
                assert!(found.shards[0].queues.is_none() && !found.is_whole());
                // A machine so busy that a shard that is well takes longer is asked again.
                if found.shards[1].queues.is_some() {
                    break found;
                }
            };
            assert!(found.actor(well.id()).is_some() && found.shards[1].stuck.is_none(), "{:?}", found.shards);
            if let Some(stuck) = found.shards[0].stuck {
                break 'found stuck;
            }
            go.send(()).unwrap();
        }
    };
    assert!(stuck.culprit.actor.ends_with("::Blocker") && stuck.culprit.message.ends_with("::Block"), "{stuck:?}");
    assert!(stuck.running_for > Duration::ZERO);
    while engine.long_turns().blamed().is_empty() {
        std::thread::yield_now();
    }
    let blamed = engine.long_turns().blamed();
    assert_eq!(blamed[0].culprit, stuck.culprit);
    assert!(blamed[0].turns >= 1 && blamed[0].longest <= blamed[0].total);
    engine.shutdown().unwrap();
}

#[test]
fn an_engine_that_ends_answers_what_it_can() {
    let kit = TestKit::new();
    kit.spawn(Counter::default).unwrap();
    kit.run_until_idle();
    let looking = kit.introspect();
    kit.begin_stop();
    kit.run_until_idle();
    let found = looking.wait();
    assert_eq!(found.live(), 0);
    assert!(!found.is_whole());
}
