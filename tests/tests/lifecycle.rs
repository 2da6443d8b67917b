//! Hazard: an actor's beginning and end. Ends are awaitable and complete, references never reach a successor.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use shardstage::prelude::*;
use shardstage::{ActorId, AskError, SpawnError};
use support::{Echo, Item, Log, Ping, Sink, block, engine, on_tokio, seen};

/// Notes when it is dropped; its state is not `Send`.
struct Noted {
    log: Log<&'static str>,
    _not_send: Rc<()>,
}

impl Noted {
    fn new(log: Log<&'static str>) -> Self {
        Self { log, _not_send: Rc::new(()) }
    }
}

impl Actor for Noted {
    fn started(&mut self, _cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.log.push("started");
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason, _cx: &mut Context<Self>) {
        self.log.push("stopped");
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.log.push("dropped");
    }
}

#[message]
struct StopYourself;

impl Handler<StopYourself> for Noted {
    fn handle(&mut self, _: StopYourself, cx: &mut Context<Self>) {
        cx.stop();
        self.log.push("handled");
    }
}

#[test]
fn a_stop_is_over_when_the_state_is_dropped() {
    let engine = engine(2);
    for shard in [0, 1] {
        let log = Log::new();
        let for_factory = log.clone();
        let noted = engine.spawn_on(shard, move || Noted::new(for_factory.clone())).unwrap();
        assert_eq!(noted.started().wait(), Ok(()));
        assert_eq!(on_tokio(noted.stop()), StopReason::Stopped);
        assert_eq!(log.all(), ["started", "stopped", "dropped"]);
        assert_eq!(noted.stop().wait(), StopReason::Stopped, "a second stop is over at once");
        assert!(noted.started().wait().is_err());
        assert!(matches!(noted.tell(StopYourself), Ok(()) | Err(TellError::Closed(_))));
    }
    engine.shutdown().unwrap();
}

#[test]
fn an_actor_that_stops_itself_takes_no_further_message() {
    let engine = engine(1);
    let log = Log::new();
    let for_factory = log.clone();
    let (noted, echo) =
        (engine.spawn(move || Noted::new(for_factory.clone())).unwrap(), engine.spawn(Echo::default).unwrap());
    let stopped = noted.stopped();
    let blocked = block(echo);
    noted.tell(StopYourself).unwrap();
    noted.tell(StopYourself).unwrap();
    drop(blocked);
    assert_eq!(stopped.wait(), StopReason::Stopped);
    assert_eq!(log.all(), ["started", "handled", "stopped", "dropped"]);
    echo.ask(Ping(0)).wait().unwrap();
    assert_eq!(engine.dead_letters().total(), 1);
    engine.shutdown().unwrap();
}

#[derive(Default)]
struct Drainer;
impl Actor for Drainer {}

/// A sink that hands out what it saw when it ends.
struct LastWords {
    inner: Vec<u64>,
    out: Sender<Vec<u64>>,
}

impl Actor for LastWords {
    fn stopped(&mut self, _: &StopReason, _cx: &mut Context<Self>) {
        self.out.send(std::mem::take(&mut self.inner)).unwrap();
    }
}

impl Handler<Item> for LastWords {
    fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
        self.inner.push(item.0);
    }
}

impl Handler<support::Block> for LastWords {
    fn handle(&mut self, block: support::Block, _cx: &mut Context<Self>) {
        block.entered.send(()).unwrap();
        let _ = block.go.recv();
    }
}

#[message]
struct FillAndDrain(ActorRef<LastWords>);

impl Handler<FillAndDrain> for Drainer {
    fn handle(&mut self, fill: FillAndDrain, _cx: &mut Context<Self>) {
        for value in 0..500 {
            fill.0.tell(Item(value)).unwrap();
        }
        drop(fill.0.drain());
    }
}

#[test]
fn a_drain_takes_what_its_caller_sent_before() {
    let engine = engine(2);
    let all: Vec<u64> = (0..500).collect();
    let drainer = engine.spawn_on(0, Drainer::default).unwrap();
    for shard in [0, 1] {
        // From an actor, to an actor that has just been spawned and to one that runs.
        for wait_for_start in [false, true] {
            let (out, last_words) = channel();
            let sink = engine.spawn_on(shard, move || LastWords { inner: Vec::new(), out: out.clone() }).unwrap();
            if wait_for_start {
                sink.started().wait().unwrap();
            }
            let stopped = sink.stopped();
            drainer.tell(FillAndDrain(sink)).unwrap();
            assert_eq!(last_words.recv().unwrap(), all);
            assert_eq!(stopped.wait(), StopReason::Drained);
            assert_eq!(sink.ask(Item(0)).wait(), Err(AskError::Rejected(Rejected::Closed)));
        }
        // From a thread.
        let (out, last_words) = channel();
        let sink = engine.spawn_on(shard, move || LastWords { inner: Vec::new(), out: out.clone() }).unwrap();
        for value in 0..500 {
            sink.tell(Item(value)).unwrap();
        }
        assert_eq!(sink.drain().wait(), StopReason::Drained);
        assert_eq!(last_words.recv().unwrap(), all);
    }
    engine.shutdown().unwrap();
}

#[message]
struct Watch(ActorId);

struct Watcher {
    out: Sender<(ActorId, StopReason)>,
}

impl Actor for Watcher {
    fn terminated(&mut self, who: ActorId, reason: &StopReason, _cx: &mut Context<Self>) {
        self.out.send((who, reason.clone())).unwrap();
    }
}

impl Handler<Watch> for Watcher {
    fn handle(&mut self, watch: Watch, cx: &mut Context<Self>) {
        cx.watch(watch.0);
    }
}

#[message]
struct Boom;

struct Fragile;
impl Actor for Fragile {}
impl Handler<Boom> for Fragile {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

#[test]
fn watchers_hear_of_the_end_wherever_they_are() {
    let engine = engine(2);
    let (out, ends) = channel();
    let watcher = engine.spawn_on(0, move || Watcher { out: out.clone() }).unwrap();
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        watcher.ask(Watch(echo.id())).wait().unwrap();
        echo.stop().wait();
        assert_eq!(ends.recv().unwrap(), (echo.id(), StopReason::Stopped));
        // One that is dead already.
        watcher.ask(Watch(echo.id())).wait().unwrap();
        assert_eq!(ends.recv().unwrap(), (echo.id(), StopReason::Stopped));
        let fragile = engine.spawn_once(|| Fragile).unwrap();
        watcher.ask(Watch(fragile.id())).wait().unwrap();
        fragile.tell(Boom).unwrap();
        assert_eq!(ends.recv().unwrap(), (fragile.id(), StopReason::Panicked("planted".into())));
    }
    engine.shutdown().unwrap();
}

#[message(reply = u64)]
struct SpawnChild;

/// Told about an actor that another thread has just spawned.
#[message(reply = Result<u64, AskError>)]
struct Meet(ActorRef<Echo>);

/// Spawns through the engine from a handler.
#[message(reply = Result<u64, AskError>)]
struct SpawnThrough(Arc<Engine>, u16);

#[derive(Default)]
struct Parent;
impl Actor for Parent {}

impl AsyncHandler<SpawnChild> for Parent {
    async fn handle(&mut self, _: SpawnChild, cx: &mut Context<Self>) -> u64 {
        let child = cx.spawn(Echo::default).unwrap();
        let answer = child.ask(Ping(4)).await.unwrap();
        child.stop().await;
        answer
    }
}

impl AsyncHandler<Meet> for Parent {
    async fn handle(&mut self, meet: Meet, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        meet.0.ask(Ping(9)).await
    }
}

impl AsyncHandler<SpawnThrough> for Parent {
    async fn handle(&mut self, through: SpawnThrough, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        let echo = through.0.spawn_on(through.1, Echo::default).unwrap();
        let answer = echo.ask(Ping(9)).await;
        echo.stop().await;
        answer
    }
}

#[test]
fn messages_never_overtake_a_spawn() {
    let engine = Arc::new(engine(2));
    let parents = [engine.spawn_on(0, Parent::default).unwrap(), engine.spawn_on(1, Parent::default).unwrap()];
    for round in 0..500 {
        let shard = round % 2;
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        assert_eq!(echo.ask(Ping(1)).wait(), Ok(1));
        for parent in parents {
            let echo = engine.spawn_on(shard, Echo::default).unwrap();
            assert_eq!(parent.ask(Meet(echo)).wait(), Ok(Ok(9)));
            assert_eq!(parent.ask(SpawnThrough(Arc::clone(&engine), shard)).wait(), Ok(Ok(9)));
            assert_eq!(parent.ask(SpawnChild).wait(), Ok(4));
            drop(echo.stop());
        }
        drop(echo.stop());
    }
    Arc::try_unwrap(engine).map_err(drop).unwrap().shutdown().unwrap();
}

#[test]
fn references_never_reach_a_successor_in_the_same_cell() {
    let engine = engine(1);
    let mut old: Vec<ActorRef<Sink>> = Vec::new();
    for round in 0..50 {
        let sink = engine.spawn(Sink::default).unwrap();
        sink.tell(Item(round)).unwrap();
        for dead in &old {
            match dead.tell(Item(1000)) {
                Ok(()) | Err(TellError::Closed(_)) => {}
                Err(other) => panic!("{other}"),
            }
            assert_eq!(dead.ask(Item(1000)).wait(), Err(AskError::Rejected(Rejected::Closed)));
            assert_ne!(dead.id(), sink.id());
        }
        assert_eq!(seen(sink), [round]);
        sink.stop().wait();
        old.push(sink);
    }
    engine.shutdown().unwrap();
}

#[test]
fn references_outlive_their_engine() {
    let engine = engine(2);
    let echo = engine.spawn_on(1, Echo::default).unwrap();
    let recipient = echo.recipient::<Ping, _>();
    engine.shutdown().unwrap();
    assert!(matches!(echo.tell(Ping(1)), Err(TellError::Closed(Ping(1)))));
    assert_eq!(recipient.ask(Ping(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
    assert_eq!(on_tokio(async { echo.ask(Ping(1)).await }), Err(AskError::Rejected(Rejected::Closed)));
    echo.stop().wait();
    echo.drain().wait();
    assert!(echo.started().wait().is_err());
}

/// Spawns when it is stopped, as a careless hook may.
struct LateSpawner {
    out: Sender<Result<(), SpawnError>>,
}

impl Actor for LateSpawner {
    fn stopped(&mut self, _: &StopReason, cx: &mut Context<Self>) {
        self.out.send(cx.spawn(Echo::default).map(|_| ())).unwrap();
    }
}

#[test]
fn nothing_is_spawned_while_the_engine_stops() {
    let engine = engine(1);
    let (out, spawned) = channel();
    engine.spawn(move || LateSpawner { out: out.clone() }).unwrap().started().wait().unwrap();
    engine.begin_stop();
    assert_eq!(spawned.recv().unwrap(), Err(SpawnError::Closed));
    assert_eq!(engine.spawn(Echo::default).map(|_| ()), Err(SpawnError::Closed));
    engine.shutdown().unwrap();
}

#[message]
struct SuspendThenFinish(Sender<shardstage::Resume>);

/// A suspension that begins inside an async handler outlasts the handler.
struct Sleeper {
    log: Log<&'static str>,
    echo: ActorRef<Echo>,
}

impl Actor for Sleeper {
    fn resumed(&mut self, _cx: &mut Context<Self>) {
        self.log.push("resumed");
    }
}

impl AsyncHandler<SuspendThenFinish> for Sleeper {
    async fn handle(&mut self, suspend: SuspendThenFinish, cx: &mut Context<Self>) {
        let resume = cx.suspend();
        self.echo.ask(Ping(0)).await.unwrap();
        self.log.push("handled");
        suspend.0.send(resume).unwrap();
    }
}

impl Handler<Item> for Sleeper {
    fn handle(&mut self, _: Item, _cx: &mut Context<Self>) {
        self.log.push("item");
    }
}

#[test]
fn a_suspension_begun_in_an_async_handler_holds() {
    let engine = engine(2);
    for shard in [0, 1] {
        let log = Log::new();
        let for_factory = log.clone();
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        let sleeper = engine.spawn_on(0, move || Sleeper { log: for_factory.clone(), echo }).unwrap();
        let own_echo = engine.spawn_on(0, Echo::default).unwrap();
        let (out, held) = channel();
        sleeper.tell(SuspendThenFinish(out)).unwrap();
        sleeper.tell(Item(0)).unwrap();
        let resume = held.recv().unwrap();
        for _ in 0..3 {
            own_echo.ask(Ping(0)).wait().unwrap();
        }
        assert_eq!(log.all(), ["handled"]);
        drop(resume);
        sleeper.ask(Item(1)).wait().unwrap();
        assert_eq!(log.all(), ["handled", "resumed", "item", "item"]);
    }
    engine.shutdown().unwrap();
}
