//! Hazard: several engines in one process share nothing but the process.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use shardstage::AskError;
use shardstage::prelude::*;
use support::{Echo, Item, Log, Ping, Relay, Sender0, Sink, engine, seen};

#[test]
fn actors_of_one_engine_ask_and_tell_those_of_another() {
    let (left, right) = (engine(2), engine(2));
    for shard in [0, 1] {
        let sender = left.spawn_on(shard, Sender0::default).unwrap();
        for other in [0, 1] {
            let echo = right.spawn_on(other, Echo::default).unwrap();
            let sink = right.spawn_on(other, Sink::default).unwrap();
            assert_eq!(sender.ask(Relay { echo, value: 3 }).wait(), Ok(Ok(3)));
            let fill = support::Fill { sink, from: 0, to: 5 };
            assert_eq!(sender.ask(fill).wait(), Ok((5, vec![])));
            assert_eq!(seen(sink), [0, 1, 2, 3, 4]);
        }
    }
    right.shutdown().unwrap();
    left.shutdown().unwrap();
}

/// Asks an actor of another engine with `.then`.
#[message(reply = Result<u64, AskError>)]
struct ThenAcross(ActorRef<Echo>);

#[derive(Default)]
struct Across;
impl Actor for Across {}

impl DeferredHandler<ThenAcross> for Across {
    fn handle(&mut self, across: ThenAcross, reply: Reply<Result<u64, AskError>>, cx: &mut Context<Self>) {
        cx.ask(across.0, Ping(5)).then(move |_, answer, _| reply.send(answer));
    }
}

#[test]
fn a_then_across_engines_is_refused_as_unavailable() {
    let (left, right) = (engine(1), engine(1));
    let across = left.spawn(Across::default).unwrap();
    let echo = right.spawn(Echo::default).unwrap();
    assert_eq!(across.ask(ThenAcross(echo)).wait(), Ok(Err(AskError::Rejected(Rejected::Unavailable))));
    right.shutdown().unwrap();
    left.shutdown().unwrap();
}

#[test]
fn the_end_of_one_engine_is_closed_for_the_other() {
    let (left, right) = (engine(1), engine(1));
    let sender = left.spawn(Sender0::default).unwrap();
    let echo = right.spawn(Echo::default).unwrap();
    right.shutdown().unwrap();
    let answer = sender.ask(Relay { echo, value: 3 }).wait().unwrap();
    assert_eq!(answer, Err(AskError::Rejected(Rejected::Closed)));
    left.shutdown().unwrap();
}

/// Watches an actor of another engine.
struct Watcher(Log<StopReason>);
impl Actor for Watcher {
    fn terminated(&mut self, _: shardstage::ActorId, reason: &StopReason, _cx: &mut Context<Self>) {
        self.0.push(reason.clone());
    }
}

#[message]
struct Watch(shardstage::ActorId);

impl Handler<Watch> for Watcher {
    fn handle(&mut self, watch: Watch, cx: &mut Context<Self>) {
        cx.watch(watch.0);
    }
}

impl Handler<Item> for Watcher {
    fn handle(&mut self, _: Item, _cx: &mut Context<Self>) {}
}

#[test]
fn watches_cross_engines_and_outlive_them() {
    let (left, right) = (engine(1), engine(1));
    let log = Log::new();
    let for_factory = log.clone();
    let watcher = left.spawn(move || Watcher(for_factory.clone())).unwrap();
    let echo = right.spawn(Echo::default).unwrap();
    watcher.ask(Watch(echo.id())).wait().unwrap();
    echo.ask(Ping(0)).wait().unwrap();
    right.shutdown().unwrap();
    watcher.ask(Item(0)).wait().unwrap();
    assert_eq!(log.all(), [StopReason::Shutdown]);
    // The other engine is gone: told at once.
    watcher.ask(Watch(echo.id())).wait().unwrap();
    watcher.ask(Item(0)).wait().unwrap();
    assert_eq!(log.len(), 2);
    left.shutdown().unwrap();
}

#[test]
fn many_engines_start_and_end() {
    let engines: Vec<_> = (0..8).map(|_| engine(2)).collect();
    for (number, engine) in (0..).zip(&engines) {
        let echo = engine.spawn(Echo::default).unwrap();
        assert_eq!(echo.ask(Ping(number)).wait(), Ok(number));
    }
    for engine in engines {
        engine.shutdown().unwrap();
    }
}
