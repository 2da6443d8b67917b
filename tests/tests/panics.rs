//! Hazard: panics of user code. Each ends one message and never a shard; the mailbox is kept and the state is rebuilt.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::{AskError, BoxError};
use support::{Echo, Ping, engine, start};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    BeforeAwait,
    AfterAwait,
    Then,
    Deferred,
    DeferredAfterAnswer,
    Terminated,
    Resumed,
}

#[message(reply = u32)]
struct Add(u32);

#[message]
struct Boom;

#[message]
struct AsyncBoom {
    at: Where,
    echo: ActorRef<Echo>,
}

#[message]
struct DeferredBoom(Where);

#[message]
struct HookBoom {
    at: Where,
    echo: ActorRef<Echo>,
}

/// Panics when it is dropped.
#[message]
struct Mine {
    room: [u64; 6],
}

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("planted in drop {}", self.room[0]);
    }
}

struct Sum {
    total: u32,
}

impl Actor for Sum {
    fn terminated(&mut self, _: shardstage::ActorId, _: &StopReason, _cx: &mut Context<Self>) {
        panic!("planted in terminated");
    }

    fn resumed(&mut self, _cx: &mut Context<Self>) {
        panic!("planted in resumed");
    }
}

impl Handler<Add> for Sum {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> u32 {
        self.total += add.0;
        self.total
    }
}

impl Handler<Boom> for Sum {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        self.total = 666;
        panic!("planted in sync");
    }
}

impl AsyncHandler<AsyncBoom> for Sum {
    async fn handle(&mut self, boom: AsyncBoom, _cx: &mut Context<Self>) {
        self.total = 666;
        assert!(boom.at != Where::BeforeAwait, "planted before await");
        boom.echo.ask(Ping(0)).await.unwrap();
        panic!("planted after await");
    }
}

impl DeferredHandler<DeferredBoom> for Sum {
    fn handle(&mut self, boom: DeferredBoom, reply: Reply<()>, _cx: &mut Context<Self>) {
        self.total = 666;
        if boom.0 == Where::DeferredAfterAnswer {
            reply.send(());
            panic!("planted after the answer");
        }
        panic!("planted in deferred");
    }
}

impl Handler<HookBoom> for Sum {
    fn handle(&mut self, boom: HookBoom, cx: &mut Context<Self>) {
        self.total = 666;
        match boom.at {
            Where::Then => cx.ask(boom.echo, Ping(0)).then(|_, _, _| panic!("planted in then")),
            Where::Resumed => drop(cx.suspend()),
            Where::Terminated => {
                let child = cx.spawn(Echo::default).unwrap();
                cx.watch(child.id());
                drop(child.stop());
            }
            _ => unreachable!(),
        }
    }
}

impl Handler<Mine> for Sum {
    fn handle(&mut self, _: Mine, _cx: &mut Context<Self>) {
        self.total = 666;
    }
}

/// Asks one actor something on behalf of the test, so that the answer crosses shards.
#[message(reply = Result<(), AskError>)]
enum Relay {
    Sync(ActorRef<Sum>),
    Async(ActorRef<Sum>, AsyncBoom),
    Deferred(ActorRef<Sum>, DeferredBoom),
}

#[derive(Default)]
struct Relayer;
impl Actor for Relayer {}

impl AsyncHandler<Relay> for Relayer {
    async fn handle(&mut self, relay: Relay, _cx: &mut Context<Self>) -> Result<(), AskError> {
        match relay {
            Relay::Sync(sum) => sum.ask(Boom).await,
            Relay::Async(sum, boom) => sum.ask(boom).await,
            Relay::Deferred(sum, boom) => sum.ask(boom).await,
        }
    }
}

fn text(outcome: Result<(), AskError>) -> String {
    match outcome {
        Err(AskError::Failed(panic)) => panic.0.into(),
        other => panic!("not failed: {other:?}"),
    }
}

#[test]
fn a_panic_in_a_handler_fails_the_ask_with_its_text() {
    let engine = engine(2);
    let echo = engine.spawn_on(1, Echo::default).unwrap();
    let relayer = engine.spawn_on(0, Relayer::default).unwrap();
    for shard in [0, 1] {
        let sum = engine.spawn_on(shard, || Sum { total: 0 }).unwrap();
        // Many times, because each answer that crosses shards uses a reservation of which one is given back.
        for _ in 0..50 {
            assert_eq!(text(sum.ask(Boom).wait()), "planted in sync");
            assert_eq!(text(relayer.ask(Relay::Sync(sum)).wait().unwrap()), "planted in sync");
            for (at, expected) in
                [(Where::BeforeAwait, "planted before await"), (Where::AfterAwait, "planted after await")]
            {
                assert_eq!(text(sum.ask(AsyncBoom { at, echo }).wait()), expected);
                assert_eq!(text(relayer.ask(Relay::Async(sum, AsyncBoom { at, echo })).wait().unwrap()), expected);
            }
            text(sum.ask(DeferredBoom(Where::Deferred)).wait());
            text(relayer.ask(Relay::Deferred(sum, DeferredBoom(Where::Deferred))).wait().unwrap());
            assert_eq!(sum.ask(DeferredBoom(Where::DeferredAfterAnswer)).wait(), Ok(()));
            let answered = Relay::Deferred(sum, DeferredBoom(Where::DeferredAfterAnswer));
            assert_eq!(relayer.ask(answered).wait(), Ok(Ok(())));
        }
        assert_eq!(sum.ask(Add(1)).wait(), Ok(1), "half-changed state never serves another message");
    }
    assert_eq!(relayer.ask(Relay::Sync(engine.spawn(|| Sum { total: 0 }).unwrap())).wait().map(|_| ()), Ok(()));
    engine.shutdown().unwrap();
}

#[test]
fn the_mailbox_is_kept_and_hooks_are_contained() {
    let engine = engine(1);
    let echo = engine.spawn(Echo::default).unwrap();
    for at in [Where::Then, Where::Resumed, Where::Terminated] {
        let sum = engine.spawn(|| Sum { total: 10 }).unwrap();
        let blocked = support::block(echo);
        sum.tell(Add(1)).unwrap();
        sum.tell(Boom).unwrap();
        sum.tell(HookBoom { at, echo }).unwrap();
        drop(blocked);
        // The hook's panic rebuilds the state sooner or later.
        while sum.ask(Add(0)).wait().unwrap() != 10 {}
    }
    assert_eq!(echo.ask(Ping(3)).wait(), Ok(3), "the shard lives on");
    engine.shutdown().unwrap();
}

#[test]
fn a_panic_in_a_messages_drop_is_contained_wherever_it_is_dropped() {
    let mine = |number| Mine { room: [number; 6] };
    let mut config = support::config(1);
    config.mailbox_capacity = 2;
    let engine = start(config);
    let echo = engine.spawn(Echo::default).unwrap();
    let sum = engine.spawn(|| Sum { total: 3 }).unwrap();
    // In the handler.
    assert_eq!(text(sum.ask(mine(1)).wait()), "planted in drop 1");
    assert_eq!(sum.ask(Add(0)).wait(), Ok(3));
    // Bounced on arrival, and queued when the actor stops.
    let blocked = support::block(echo);
    for number in 0..4 {
        sum.tell(mine(number)).unwrap();
    }
    let stopped = sum.stop();
    drop(blocked);
    stopped.wait();
    // Expired before work.
    let other = engine.spawn(|| Sum { total: 3 }).unwrap();
    let expired = support::on_tokio(async { other.ask(mine(9)).deadline(Duration::ZERO).await });
    assert_eq!(expired, Err(AskError::Rejected(Rejected::Expired)));
    assert_eq!(echo.ask(Ping(3)).wait(), Ok(3), "the shard lives on");
    engine.shutdown().unwrap();
}

/// Fails its `builds`-th build in one of three ways.
struct Fragile {
    build: u32,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Factory,
    StartedPanics,
    StartedFails,
}

impl Actor for Fragile {
    fn started(&mut self, _cx: &mut Context<Self>) -> Result<(), BoxError> {
        match (self.build, self.how) {
            (2, How::StartedPanics) => panic!("planted in started"),
            (2, How::StartedFails) => Err("planted in started".into()),
            _ => Ok(()),
        }
    }
}

impl Handler<Boom> for Fragile {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted in sync");
    }
}

#[test]
fn a_failing_rebuild_stops_the_actor_with_the_text() {
    let engine = engine(1);
    let echo = engine.spawn(Echo::default).unwrap();
    for (how, first) in [
        (How::Factory, 1),
        (How::StartedPanics, 1),
        (How::StartedFails, 1),
        (How::Factory, 2),
        (How::StartedPanics, 2),
        (How::StartedFails, 2),
    ] {
        let builds = Arc::new(AtomicU32::new(first - 1));
        // Nothing starts before the test listens.
        let blocked = support::block(echo);
        let fragile = engine
            .spawn(move || {
                let build = builds.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(build != 2 || !matches!(how, How::Factory), "planted in started");
                Fragile { build, how }
            })
            .unwrap();
        let (stopped, started) = (fragile.stopped(), fragile.started());
        drop(blocked);
        let started = started.wait();
        if first == 1 {
            assert_eq!(started, Ok(()));
            assert!(matches!(fragile.ask(Boom).wait(), Err(AskError::Failed(_))));
        } else {
            assert_eq!(started, Err(StopReason::StartFailed("planted in started".into())));
        }
        assert_eq!(stopped.wait(), StopReason::StartFailed("planted in started".into()));
        assert_eq!(fragile.ask(Boom).wait(), Err(AskError::Rejected(Rejected::Closed)));
    }
    engine.shutdown().unwrap();
}

#[test]
fn spawn_once_stops_at_its_first_panic() {
    let engine = engine(1);
    let sum = engine.spawn_once(|| Sum { total: 1 }).unwrap();
    let stopped = sum.stopped();
    assert_eq!(text(sum.ask(Boom).wait()), "planted in sync");
    assert_eq!(stopped.wait(), StopReason::Panicked("planted in sync".into()));
    assert_eq!(sum.ask(Add(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
    engine.shutdown().unwrap();
}

/// Its drop, its clone and its reply's drop panic.
#[derive(Debug)]
struct Hostile;

impl Drop for Hostile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("planted in drop");
        }
    }
}

impl Clone for Hostile {
    fn clone(&self) -> Self {
        panic!("planted in clone");
    }
}

#[derive(Clone)]
#[message]
struct Tick(#[allow(dead_code)] Hostile);

#[message(reply = Hostile)]
struct GiveHostile;

#[message]
struct StartTicks;

struct Clockwork;
impl Actor for Clockwork {}

impl Drop for Clockwork {
    fn drop(&mut self) {
        panic!("planted in the state's drop");
    }
}

impl Handler<Tick> for Clockwork {
    fn handle(&mut self, tick: Tick, _cx: &mut Context<Self>) {
        std::mem::forget(tick);
    }
}

impl Handler<StartTicks> for Clockwork {
    fn handle(&mut self, _: StartTicks, cx: &mut Context<Self>) {
        cx.every(Duration::from_nanos(1), Tick(Hostile));
        cx.after(Duration::from_secs(600), Tick(Hostile));
    }
}

impl Handler<GiveHostile> for Clockwork {
    fn handle(&mut self, _: GiveHostile, _cx: &mut Context<Self>) -> Hostile {
        Hostile
    }
}

#[test]
fn panics_in_clones_replies_and_states_are_contained() {
    let engine = engine(1);
    let echo = engine.spawn(Echo::default).unwrap();
    let clockwork = engine.spawn(|| Clockwork).unwrap();
    clockwork.tell(StartTicks).unwrap();
    for _ in 0..3 {
        echo.ask(Ping(1)).wait().unwrap();
    }
    // Nobody waits for this reply: it is dropped on the shard.
    clockwork.tell(GiveHostile).unwrap();
    std::mem::forget(clockwork.ask(GiveHostile).wait().unwrap());
    clockwork.stop().wait();
    assert_eq!(echo.ask(Ping(3)).wait(), Ok(3), "the shard lives on");
    engine.shutdown().unwrap();
}
