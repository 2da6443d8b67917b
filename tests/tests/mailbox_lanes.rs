//! Hazard: what must not wait behind a flood. Kill comes before stop, stop before notices of ends, notices before messages of
//! users; within a lane order holds.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::testkit::TestKit;
use shardstage::{ActorId, DeferredHandler, NodeId, Reason, Reply};
use support::{Log, config};

const FLOOD: u64 = 200;

#[message]
struct Item(u64);
#[message]
struct Watch(Vec<ActorId>);
#[message]
struct Linger(ActorRef<Never>);
#[message(reply = u64)]
struct Question;
#[message]
struct Bow;

/// Never answers before it is told to.
#[derive(Default)]
struct Never(Vec<Reply<u64>>);
impl Actor for Never {}

impl DeferredHandler<Question> for Never {
    fn handle(&mut self, _: Question, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.0.push(reply);
    }
}

impl Handler<Bow> for Never {
    fn handle(&mut self, _: Bow, _cx: &mut Context<Self>) {
        self.0.drain(..).for_each(|reply| reply.send(1));
    }
}

/// Says what happens to it.
struct Flooded {
    log: Log<String>,
    watched: Vec<ActorId>,
}

impl Actor for Flooded {
    fn stopped(&mut self, reason: &StopReason, _cx: &mut Context<Self>) {
        self.log.push(format!("stopped: {reason:?}"));
    }

    fn terminated(&mut self, who: ActorId, _reason: &StopReason, _cx: &mut Context<Self>) {
        let at = self.watched.iter().position(|watched| *watched == who).unwrap();
        self.log.push(format!("end of {at}"));
    }
}

impl Handler<Item> for Flooded {
    fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
        self.log.push(item.0.to_string());
    }
}

impl Handler<Watch> for Flooded {
    fn handle(&mut self, watch: Watch, cx: &mut Context<Self>) {
        self.watched = watch.0;
        self.watched.iter().for_each(|watched| cx.watch(*watched));
    }
}

impl AsyncHandler<Linger> for Flooded {
    async fn handle(&mut self, linger: Linger, _cx: &mut Context<Self>) {
        self.log.push("begun".to_owned());
        let _guard = Guard(self.log.clone());
        let answer = linger.0.ask(Question).deadline(Duration::from_secs(600)).await;
        self.log.push(format!("answered {answer:?}"));
    }
}

/// Says when a future was dropped.
struct Guard(Log<String>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.push("let go".to_owned());
    }
}

fn flooded(kit: &TestKit, log: &Log<String>) -> ActorRef<Flooded> {
    let log = log.clone();
    let actor = kit.spawn_on(0, move || Flooded { log: log.clone(), watched: Vec::new() }).unwrap();
    kit.run_until_idle();
    actor
}

#[test]
fn notices_of_ends_overtake_a_flood_in_their_order() {
    let kit = TestKit::new();
    let log = Log::new();
    let actor = flooded(&kit, &log);
    let watched: Vec<_> = (0..5).map(|at| kit.spawn_on(at % 2, Never::default).unwrap()).collect();
    actor.tell(Watch(watched.iter().map(|watched| watched.id()).collect())).unwrap();
    kit.run_until_idle();
    let stall = kit.stall(actor);
    for number in 0..FLOOD {
        actor.tell(Item(number)).unwrap();
    }
    kit.run_until_idle();
    for watched in &watched {
        watched.stop().wait();
    }
    drop(stall);
    kit.run_until_idle();
    let seen = log.all();
    let expected: Vec<_> = (0..5).map(|at| format!("end of {at}")).collect();
    assert_eq!(seen[..5], expected, "before all that was queued");
    let expected: Vec<_> = (0..FLOOD).map(|number| number.to_string()).collect();
    assert_eq!(seen[5..], expected, "and the flood after them, in its order");
}

#[test]
fn stop_overtakes_a_flood_and_lets_an_async_handler_finish() {
    let kit = TestKit::new();
    let log = Log::new();
    let actor = flooded(&kit, &log);
    let never = kit.spawn_on(1, Never::default).unwrap();
    actor.tell(Linger(never)).unwrap();
    kit.run_until_idle();
    for number in 0..FLOOD {
        actor.tell(Item(number)).unwrap();
    }
    let stopped = actor.stop();
    kit.advance(Duration::from_secs(1));
    assert_eq!(log.all(), ["begun"], "it waits for the handler that has begun");
    never.tell(Bow).unwrap();
    assert_eq!(stopped.wait(), StopReason::Stopped);
    assert_eq!(log.all(), ["begun", "answered Ok(1)", "let go", "stopped: Stopped"]);
    let dead = kit.engine().dead_letters();
    assert_eq!((dead.count(Reason::Closed), dead.total()), (FLOOD, FLOOD), "the flood, counted");
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
}

#[test]
fn kill_ends_a_handler_where_it_waits_and_a_stop_that_waits_for_it() {
    for stop_first in [false, true] {
        let kit = TestKit::new();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
        let log = Log::new();
        let actor = flooded(&kit, &log);
        let never = kit.spawn_on(1, Never::default).unwrap();
        actor.tell(Linger(never)).unwrap();
        kit.run_until_idle();
        for number in 0..FLOOD {
            actor.tell(Item(number)).unwrap();
        }
        let stopped = stop_first.then(|| actor.stop());
        kit.run_until_idle();
        assert_eq!(actor.kill().wait(), StopReason::Killed);
        assert_eq!(stopped.map(|stopped| stopped.wait()), stop_first.then_some(StopReason::Killed));
        assert_eq!(log.all(), ["begun", "let go"], "no hook, and nothing that was queued");
        let handled_or_dead = kit.engine().dead_letters().total();
        assert_eq!(handled_or_dead, FLOOD, "the flood, counted");
        never.tell(Bow).unwrap();
        kit.run_until_idle();
    }
}

#[test]
fn kill_overtakes_what_is_queued_and_tells_askers_and_watchers() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    let log = Log::new();
    let watcher = flooded(&kit, &log);
    let victim = kit.spawn_on(1, Never::default).unwrap();
    watcher.tell(Watch(vec![victim.id()])).unwrap();
    kit.run_until_idle();
    watcher.tell(Linger(victim)).unwrap();
    let stall = kit.stall(victim);
    kit.run_until_idle();
    assert_eq!(victim.kill().wait(), StopReason::Killed, "also one that is stuck");
    kit.run_until_idle();
    assert_eq!(log.all(), ["begun", "answered Err(Rejected(Closed))", "let go", "end of 0"]);
    assert_eq!(victim.kill().wait(), StopReason::Stopped, "one that is gone");
    drop(stall);
}

#[test]
fn a_shutdown_does_not_wait_for_a_stop_that_never_comes() {
    let world = SimWorld::new(SimOptions::seeded(7));
    let engine = Engine::builder().config(config(2)).start_in_sim(&world, NodeId::new(0)).unwrap();
    let log = Log::new();
    let for_actor = log.clone();
    let actor = engine.spawn_on(0, move || Flooded { log: for_actor.clone(), watched: Vec::new() }).unwrap();
    let never = engine.spawn_on(1, Never::default).unwrap();
    actor.tell(Linger(never)).unwrap();
    world.run_for(1_000_000);
    let stopped = actor.stop();
    world.run_for(1_000_000);
    // It says that actors had to be stopped.
    assert!(engine.shutdown().is_err());
    assert_eq!(stopped.wait(), StopReason::Shutdown);
    assert_eq!(log.all(), ["begun", "let go", "stopped: Shutdown"]);
}
