//! Power loss under a whole engine in the simulator: what a durable actor answered, to a command or to a read, is there
//! afterwards.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage_codec::NodeId;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, OnPoison, PlantedBug,
};

const NODE: NodeId = NodeId::new(0);
const KEYS: usize = 6;
const SECOND: u64 = 1_000_000_000;

#[message(id = "chain.next", reply = u64)]
struct Next {}

#[message(id = "chain.state", reply = (u64, u64))]
struct State {}

#[wire(id = "chain.stepped")]
struct Stepped {
    nth: u64,
}

/// Folds the numbers of its events in order, so that a lost, doubled or swapped one shows.
struct Chain {
    count: u64,
    digest: u64,
}

fn fold(digest: u64, nth: u64) -> u64 {
    (digest ^ nth).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
}

impl EventSourced for Chain {
    const TYPE: &'static str = "chain";
    const SNAPSHOT_EVERY: u64 = 16;
    type Event = Stepped;
    type Snapshot = (u64, u64);

    fn new(_key: &str) -> Self {
        Self { count: 0, digest: 1 }
    }

    fn apply(&mut self, event: &Stepped) {
        self.count += 1;
        self.digest = fold(self.digest, event.nth);
    }

    fn snapshot(&self) -> Option<(u64, u64)> {
        Some((self.count, self.digest))
    }

    fn restore(&mut self, (count, digest): (u64, u64)) {
        (self.count, self.digest) = (count, digest);
    }
}

impl CommandHandler<Next> for Chain {
    fn handle(&self, _: Next, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Stepped { nth: self.count + 1 }).reply(self.count + 1)
    }
}

impl CommandHandler<State> for Chain {
    fn handle(&self, _: State, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.count, self.digest))
    }
}

/// The highest count that each chain has answered: outside of the node, so it survives.
type Answered = Arc<Mutex<[u64; KEYS]>>;

/// Asks one chain over and over: two steps, then a read.
struct Client {
    key: usize,
    asked: u64,
    answered: Answered,
}

impl Actor for Client {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.ask(cx);
        Ok(())
    }
}

impl Client {
    fn ask(&mut self, cx: &mut Context<Self>) {
        let chain = cx.actor::<Durable<Chain>>(format!("chain-{}", self.key));
        self.asked += 1;
        if self.asked.is_multiple_of(3) {
            cx.ask(chain, State {}).then(|client, answer, cx| client.note(answer.map(|(count, _)| count), cx));
        } else {
            cx.ask(chain, Next {}).then(|client, answer, cx| client.note(answer, cx));
        }
    }

    fn note(&mut self, answer: Result<u64, AskError>, cx: &mut Context<Self>) {
        if let Ok(count) = answer {
            let highest = &mut self.answered.lock().unwrap()[self.key];
            *highest = (*highest).max(count);
        }
        self.ask(cx);
    }
}

fn engine(world: &SimWorld, planted: PlantedBug) -> Engine {
    let mut config = Config::default();
    config.shards = Some(2);
    let log = EventLog::open("/data").segment_bytes(16 * 4096).on_poison(OnPoison::Stay).planted(planted);
    let builder = Engine::builder().config(config).service(log).register::<Durable<Chain>>(|chain| chain);
    let engine = builder.start_in_sim(world, NODE).unwrap();
    // Both shards are up when an actor on each has answered.
    for key in 0..KEYS {
        let ask = engine.actor::<Durable<Chain>>(format!("chain-{key}")).ask(State {});
        world.block_on(ask.deadline(Duration::from_secs(50)), 60 * SECOND).unwrap().unwrap();
    }
    engine
}

/// Loses power `after` disk events into the load, starts again, and compares.
fn crash(seed: u64, after: u64, planted: PlantedBug) -> Result<u64, String> {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let answered = Answered::default();
    let running = engine(&world, planted);
    world.crash_at_io(NODE, world.io_events(NODE) + after);
    for key in 0..KEYS {
        for _ in 0..2 {
            let answered = Arc::clone(&answered);
            running.spawn(move || Client { key, asked: 0, answered: Arc::clone(&answered) }).unwrap();
        }
    }
    world.run_until(|world| !world.is_running(NODE), 100 * SECOND);
    assert!(!world.is_running(NODE), "the load reaches the crash point");
    let running = engine(&world, planted);
    let answered = *answered.lock().unwrap();
    for (key, answered) in answered.into_iter().enumerate() {
        let ask = running.actor::<Durable<Chain>>(format!("chain-{key}")).ask(State {});
        let (count, digest) = world.block_on(ask, 10 * SECOND).unwrap().map_err(|error| error.to_string())?;
        if count < answered {
            return Err(format!("chain {key}: {answered} answered, {count} found"));
        }
        if digest != (1..=count).fold(1, fold) {
            return Err(format!("chain {key}: another history of {count} events"));
        }
    }
    Ok(answered.iter().sum())
}

#[test]
fn what_was_answered_is_there_after_a_power_loss() {
    let mut answered = 0;
    for point in 0..150 {
        match crash(1 + point % 5, 3 + point * 5, PlantedBug::None) {
            Ok(count) => answered += count,
            Err(why) => panic!("point {point}: {why}"),
        }
    }
    println!("150 crash points, {answered} answered events");
    assert!(answered > 10_000, "{answered}");
}

#[test]
fn an_answer_before_the_flush_is_caught() {
    let caught = (0..150).find_map(|point| crash(1 + point % 5, 3 + point * 5, PlantedBug::AckAtSubmit).err());
    println!("{}", caught.expect("the checker must see this fault"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let running = engine(&world, PlantedBug::None);
        let answered = Answered::default();
        running.spawn(move || Client { key: 1, asked: 0, answered: Arc::clone(&answered) }).unwrap();
        world.run_for(SECOND / 10);
        world.trace_hash()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
