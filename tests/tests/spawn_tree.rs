//! Hazard: what outlives whom. Children end before their parents, and nothing of a dead actor stays behind.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, BoxError, SpawnError};
use shardstage_tests::kit_actors::Log;

const SECOND: Duration = Duration::from_secs(1);

/// A node of a tree: `depth` generations below it, two children each.
struct Node {
    name: String,
    depth: u32,
    log: Log,
    fails: bool,
}

impl Node {
    fn tree(name: &str, depth: u32, log: &Log) -> impl Fn() -> Self + Send + Clone + 'static {
        let (name, log) = (name.to_owned(), log.clone());
        move || Self { name: name.clone(), depth, log: log.clone(), fails: false }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.log.push(format!("{} dropped", self.name));
    }
}

impl Actor for Node {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.log.push(format!("{} started", self.name));
        for child in ["a", "b"].into_iter().take(if self.depth > 0 { 2 } else { 0 }) {
            cx.spawn(Self::tree(&format!("{}{child}", self.name), self.depth - 1, &self.log))?;
        }
        if self.fails { Err("planted".into()) } else { Ok(()) }
    }

    fn stopping(&mut self, reason: &StopReason, cx: &mut Context<Self>) {
        self.log.push(format!("{} stopping {reason:?} with {} children", self.name, cx.children().len()));
        let late = cx.spawn(Self::tree("late", 0, &self.log));
        assert_eq!(late.map(|_| ()), Err(SpawnError::Closed));
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut Context<Self>) {
        assert!(cx.children().is_empty());
        self.log.push(format!("{} stopped {reason:?}", self.name));
    }
}

#[message(reply = Vec<ActorId>)]
struct Children;

impl Handler<Children> for Node {
    fn handle(&mut self, _: Children, cx: &mut Context<Self>) -> Vec<ActorId> {
        cx.children()
    }
}

#[message(reply = Option<ActorId>)]
struct Parent;

impl Handler<Parent> for Node {
    fn handle(&mut self, _: Parent, cx: &mut Context<Self>) -> Option<ActorId> {
        cx.parent()
    }
}

#[message]
struct Leave;

impl Handler<Leave> for Node {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.stop();
        assert_eq!(cx.spawn(Self::tree("late", 0, &self.log)).map(|_| ()), Err(SpawnError::Closed));
    }
}

/// Where `line` stands in `log`.
fn at(log: &[String], line: &str) -> usize {
    log.iter().position(|other| other.starts_with(line)).unwrap_or_else(|| panic!("no {line:?} in {log:#?}"))
}

#[test]
fn a_stop_takes_the_tree_with_it_from_the_leaves_up() {
    let kit = TestKit::new();
    let log = Log::default();
    let root = kit.spawn(Node::tree("r", 3, &log)).unwrap();
    kit.run_until_idle();
    assert_eq!(kit.census().of::<Node>(), 15);
    assert_eq!(log.take().len(), 15);
    for drain in [false, true] {
        let root = if drain { kit.spawn(Node::tree("r", 3, &log)).unwrap() } else { root };
        kit.run_until_idle();
        log.take();
        let reason = if drain { root.drain().wait() } else { root.stop().wait() };
        assert_eq!(reason, if drain { StopReason::Drained } else { StopReason::Stopped });
        let log = log.take();
        assert_eq!(log.len(), 15 * 3, "the stop is over when all are gone: {log:#?}");
        assert_eq!(at(&log, &format!("r stopping {reason:?} with 2 children")), 0, "the root hears of it first");
        assert_eq!(at(&log, &format!("r stopped {reason:?}")), 43);
        assert_eq!(at(&log, "r dropped"), 44);
        for node in ["r", "ra", "rb", "raa", "rbb", "rab"] {
            for child in ["a", "b"].map(|child| format!("{node}{child}")) {
                let order = [
                    format!("{node} stopping"),
                    format!("{child} stopping ParentStopped"),
                    format!("{child} stopped ParentStopped"),
                    format!("{child} dropped"),
                    format!("{node} stopped"),
                ];
                assert!(order.map(|line| at(&log, &line)).is_sorted(), "{child} below {node}: {log:#?}");
            }
        }
        kit.assert_no_leaks();
    }
}

#[test]
fn a_child_that_ends_leaves_its_parent_and_siblings_alone() {
    let kit = TestKit::new();
    let log = Log::default();
    let root = kit.spawn(Node::tree("r", 2, &log)).unwrap();
    let children = root.ask(Children).wait().unwrap();
    assert_eq!(children.len(), 2);
    assert_eq!(root.ask(Parent).wait().unwrap(), None, "spawned through the engine");
    kit.run_until_idle();
    let other = kit.kill(children[0]);
    assert_eq!(other, StopReason::Panicked("killed by the test".into()));
    assert_eq!(root.ask(Children).wait().unwrap(), children[1..]);
    assert_eq!(kit.census().of::<Node>(), 4, "the children of the one that was killed went with it");
    root.ask(Leave).wait().unwrap();
    kit.assert_no_leaks();
    assert_eq!(log.take().len(), 7 * 2 + 6 * 2, "of seven, the one that was killed ran no hook at its end");
}

#[test]
fn a_failed_start_takes_the_children_that_it_spawned() {
    let kit = TestKit::new();
    let log = Log::default();
    let make = Node::tree("r", 1, &log);
    let root = kit
        .spawn(move || {
            let mut node = make();
            node.fails = true;
            node
        })
        .unwrap();
    assert_eq!(root.started().wait(), Err(StopReason::StartFailed("planted".into())));
    kit.run_until_idle();
    assert_eq!(log.take(), ["r started", "r dropped"], "no hook after a failed start, and no child starts");
    kit.assert_no_leaks();
}

#[test]
fn an_engine_stops_its_trees_from_the_leaves_up() {
    let log = Log::default();
    let kit = TestKit::new();
    let root = kit.spawn(Node::tree("r", 2, &log)).unwrap();
    root.started().wait().unwrap();
    kit.run_until_idle();
    kit.begin_stop();
    kit.run_until_idle();
    let log = log.take();
    assert_eq!(log.iter().filter(|line| line.contains("stopped")).count(), 7);
    assert!(at(&log, "raa dropped") < at(&log, "ra stopped") && at(&log, "rb dropped") < at(&log, "r stopped"));
}

/// Has timers, asks, a watch and messages put aside when it ends.
struct Owing {
    other: ActorRef<Silent>,
    held: Arc<AtomicU32>,
}

/// Never answers.
#[derive(Default)]
struct Silent {
    asked: Vec<Reply<()>>,
}
impl Actor for Silent {}

#[message]
struct Ask;

#[message]
#[derive(Clone)]
struct Tick;

#[message]
struct Owe;

#[message]
struct Boom;

impl DeferredHandler<Ask> for Silent {
    fn handle(&mut self, _: Ask, reply: Reply<()>, _cx: &mut Context<Self>) {
        self.asked.push(reply);
    }
}

/// Counts itself while it lives.
struct Held(Arc<AtomicU32>);

impl Held {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor for Owing {}

#[message]
struct Hold(#[allow(dead_code, reason = "counts")] Held);

impl Handler<Hold> for Owing {
    fn handle(&mut self, _: Hold, _cx: &mut Context<Self>) {}
}

impl Handler<Tick> for Owing {
    fn handle(&mut self, _: Tick, _cx: &mut Context<Self>) {}
}

impl Handler<Boom> for Owing {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Handler<Owe> for Owing {
    fn handle(&mut self, _: Owe, cx: &mut Context<Self>) {
        for _ in 0..5 {
            cx.after(1000 * SECOND, Hold(Held::new(&self.held)));
            let held = Held::new(&self.held);
            cx.ask(self.other, Ask).deadline(1000 * SECOND).then(move |_, _, _| drop(held));
        }
        cx.every(SECOND, Tick);
        cx.watch(self.other.id());
    }
}

#[test]
fn timers_and_asks_end_with_their_actor_and_not_when_they_are_due() {
    for panics in [false, true] {
        let kit = TestKit::new();
        let silent = kit.spawn_on(1, Silent::default).unwrap();
        let near = kit.spawn_on(0, Silent::default).unwrap();
        for other in [silent, near] {
            let held = Arc::new(AtomicU32::new(0));
            let for_actor = Arc::clone(&held);
            let owing = kit.spawn_on(0, move || Owing { other, held: Arc::clone(&for_actor) }).unwrap();
            owing.ask(Owe).wait().unwrap();
            kit.run_until_idle();
            assert_eq!(held.load(Ordering::Relaxed), 10);
            let census = kit.census();
            assert_eq!((census.timers(), census.asks), (6, 5));
            if panics {
                kit.allow_panics();
                owing.tell(Boom).unwrap();
            } else {
                owing.stop().wait();
            }
            kit.run_until_idle();
            assert_eq!(held.load(Ordering::Relaxed), 0, "at once, not after 1,000 s");
            let census = kit.census();
            assert_eq!((census.timers(), census.asks), (0, 0));
            assert_eq!(kit.stats().iter().map(|shard| shard.timers).sum::<u64>(), 0);
        }
    }
}
