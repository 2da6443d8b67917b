//! Hazard: the end of an engine. What was accepted is handled; what cannot be is counted; the end always comes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{BoxError, Error, NodeId, ShutdownError};
use support::{Echo, Item, Log, Ping, block, config, engine, start};

/// Counts what it handled, outside of itself.
struct Counting(Arc<AtomicU64>);
impl Actor for Counting {}

impl Handler<Item> for Counting {
    fn handle(&mut self, _: Item, _cx: &mut Context<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Hops between two actors until it reaches 0; then counted.
#[message]
struct Hop {
    left: u32,
    other: ActorRef<Hopper>,
}

struct Hopper {
    arrived: Arc<AtomicU64>,
    echo: ActorRef<Echo>,
}
impl Actor for Hopper {}

impl AsyncHandler<Hop> for Hopper {
    async fn handle(&mut self, hop: Hop, cx: &mut Context<Self>) {
        if hop.left == 0 {
            self.arrived.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Every third hop waits for an answer from elsewhere.
        if hop.left.is_multiple_of(3) {
            self.echo.ask(Ping(0)).await.unwrap();
        }
        hop.other.tell(Hop { left: hop.left - 1, other: cx.me() }).unwrap();
    }
}

#[test]
fn what_was_accepted_is_handled() {
    let engine = engine(2);
    let handled = Arc::new(AtomicU64::new(0));
    let mut accepted = 0;
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        let blocked = block(echo);
        let count = Arc::clone(&handled);
        let counting = engine.spawn_on(shard, move || Counting(Arc::clone(&count))).unwrap();
        for value in 0..1000 {
            counting.tell(Item(value)).unwrap();
            accepted += 1;
        }
        drop(blocked);
    }
    engine.shutdown().unwrap();
    assert_eq!(handled.load(Ordering::Relaxed), accepted);
}

#[test]
fn chains_across_shards_come_to_their_end() {
    for _ in 0..20 {
        let engine = engine(2);
        let arrived = Arc::new(AtomicU64::new(0));
        let mut hoppers = Vec::new();
        for shard in [0, 1] {
            let echo = engine.spawn_on(1 - shard, Echo::default).unwrap();
            let arrived = Arc::clone(&arrived);
            hoppers.push(engine.spawn_on(shard, move || Hopper { arrived: Arc::clone(&arrived), echo }).unwrap());
        }
        for left in 0..50 {
            hoppers[left as usize % 2].tell(Hop { left, other: hoppers[1 - left as usize % 2] }).unwrap();
        }
        engine.shutdown().unwrap();
        assert_eq!(arrived.load(Ordering::Relaxed), 50);
    }
}

/// Keeps its pair busy for ever.
#[message]
struct Forever(ActorRef<Restless>);

#[derive(Default)]
struct Restless;
impl Actor for Restless {}

impl Handler<Forever> for Restless {
    fn handle(&mut self, forever: Forever, cx: &mut Context<Self>) {
        // Refused once the other has stopped.
        let _ = forever.0.tell(Forever(cx.me()));
    }
}

#[test]
fn actors_that_never_end_are_stopped_and_reported() {
    for shards in [1, 2] {
        let mut config = config(shards);
        config.drain_time = Duration::from_millis(20);
        let engine = start(config);
        let pair =
            [engine.spawn_on(0, Restless::default).unwrap(), engine.spawn_on(shards - 1, Restless::default).unwrap()];
        for _ in 0..10 {
            pair[0].tell(Forever(pair[1])).unwrap();
        }
        match engine.shutdown() {
            Err(Error::Shutdown(ShutdownError::DrainTimeout { busy_shards })) => assert!(busy_shards >= 1),
            other => panic!("{other:?}"),
        }
        assert!(matches!(pair[0].tell(Forever(pair[1])), Err(TellError::Closed(_))));
    }
}

#[message]
#[derive(Clone)]
struct Tick;

/// Counts ticks, and keeps what it is asked.
#[derive(Default)]
struct Clock {
    ticks: u64,
    kept: Vec<Reply<u64>>,
}
impl Actor for Clock {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        cx.every(Duration::from_millis(1), Tick);
        Ok(())
    }
}

impl Handler<Tick> for Clock {
    fn handle(&mut self, _: Tick, _cx: &mut Context<Self>) {
        self.ticks += 1;
    }
}

impl DeferredHandler<Ping> for Clock {
    fn handle(&mut self, _: Ping, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.kept.push(reply);
    }
}

/// Asks the clock, which does not answer.
#[message]
struct AskIt(ActorRef<Clock>);

#[derive(Default)]
struct Patient;
impl Actor for Patient {}

impl Handler<AskIt> for Patient {
    fn handle(&mut self, ask: AskIt, cx: &mut Context<Self>) {
        cx.ask(ask.0, Ping(1)).deadline(Duration::from_millis(20)).then(|_, reply, _| assert!(reply.is_err()));
    }
}

#[test]
fn a_timer_that_goes_on_and_on_is_nothing_to_wait_for() {
    for shards in [1, 2] {
        let world = SimWorld::new(SimOptions::seeded(u64::from(shards)));
        let engine = Engine::builder().config(config(shards)).start_in_sim(&world, NodeId::new(0)).unwrap();
        let clock = engine.spawn_on(0, Clock::default).unwrap();
        engine.spawn_on(shards - 1, Patient::default).unwrap().tell(AskIt(clock)).unwrap();
        let began_ns = world.now_ns();
        // The ask is waited for, and by then the engine looks less often than the clock ticks.
        engine.shutdown().unwrap();
        assert!(world.now_ns() - began_ns < 100_000_000, "{} ns", world.now_ns() - began_ns);
    }
}

/// Notes its drop.
struct Tracked(Log<()>);
impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.push(());
    }
}

#[message]
struct Carry(#[allow(dead_code)] Tracked);

struct Lazy {
    _state: Tracked,
}
impl Actor for Lazy {}
impl Handler<Carry> for Lazy {
    fn handle(&mut self, carry: Carry, _cx: &mut Context<Self>) {
        drop(carry);
    }
}

#[test]
fn a_dropped_engine_stops_its_actors_and_drops_every_message() {
    for _ in 0..20 {
        let engine = engine(2);
        let (states, messages) = (Log::new(), Log::new());
        let mut sent = 0;
        for shard in [0, 1] {
            let states = states.clone();
            let lazy = engine.spawn_on(shard, move || Lazy { _state: Tracked(states.clone()) }).unwrap();
            lazy.started().wait().unwrap();
            for _ in 0..200 {
                lazy.tell(Carry(Tracked(messages.clone()))).unwrap();
                sent += 1;
            }
        }
        drop(engine);
        assert_eq!(states.len(), 2);
        assert_eq!(messages.len(), sent);
    }
}

/// Tells items to the other shard, round after round, until it is stopped.
#[message]
struct Feed(ActorRef<Counting>);

struct Feeder {
    sent: Arc<AtomicU64>,
    handled: Arc<AtomicU64>,
}
impl Actor for Feeder {}

impl Handler<Feed> for Feeder {
    fn handle(&mut self, feed: Feed, cx: &mut Context<Self>) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let mut sent = 0;
        for value in 0..100 {
            sent += u64::from(feed.0.tell(Item(value)).is_ok());
        }
        sent += u64::from(cx.me().tell(feed).is_ok());
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }
}

#[test]
fn tells_that_race_a_stop_are_handled_handed_back_or_counted() {
    for _ in 0..20 {
        let engine = engine(2);
        let (sent, handled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let actors = [0, 1].map(|shard| {
            let handled = Arc::clone(&handled);
            engine.spawn_on(shard, move || Counting(Arc::clone(&handled))).unwrap()
        });
        for shard in [0, 1] {
            let (sent, handled) = (Arc::clone(&sent), Arc::clone(&handled));
            let feeder = engine
                .spawn_on(shard, move || Feeder { sent: Arc::clone(&sent), handled: Arc::clone(&handled) })
                .unwrap();
            feeder.ask(Feed(actors[1 - usize::from(shard)])).wait().unwrap();
        }
        // The two asks.
        let mut accepted = 2;
        for value in 0..2000 {
            if value == 1000 {
                engine.begin_stop();
            }
            accepted += u64::from(actors[value as usize % 2].tell(Item(value)).is_ok());
        }
        let letters = engine.dead_letters();
        drop(engine);
        assert_eq!(handled.load(Ordering::Relaxed) + letters.total(), sent.load(Ordering::Relaxed) + accepted);
    }
}
