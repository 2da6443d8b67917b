//! Durable actors on the in-memory store: the second user of the port, with the faults that a disk has too.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{Receive, WireMessage};
use shardstage_codec::{ActorTypeId, Epoch, NodeId, slot_of};
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventSourced, MemoryFault, MemoryStore};

const NODE: NodeId = NodeId::new(0);
const SECOND: u64 = 1_000_000_000;

#[message(id = "port.add", reply = i64)]
struct Add {
    by: i64,
}

#[message(id = "port.read", reply = i64)]
struct Read {}

#[wire(id = "port.added")]
struct Added {
    by: i64,
}

struct Total(i64);

impl EventSourced for Total {
    const TYPE: &'static str = "port.total";
    const SNAPSHOT_EVERY: u64 = 5;
    type Event = Added;
    type Snapshot = i64;

    fn new(_key: &str) -> Self {
        Self(0)
    }

    fn apply(&mut self, event: &Added) {
        self.0 += event.by;
    }

    fn snapshot(&self) -> Option<i64> {
        Some(self.0)
    }

    fn restore(&mut self, total: i64) {
        self.0 = total;
    }
}

impl CommandHandler<Add> for Total {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::persist(Added { by }).reply(self.0 + by)
    }
}

impl CommandHandler<Read> for Total {
    fn handle(&self, _: Read, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::none().reply(self.0)
    }
}

type Actor = Durable<Total>;

fn engine(world: &SimWorld, store: &MemoryStore) -> Engine {
    let mut config = Config::default();
    config.shards = Some(2);
    let builder = Engine::builder().config(config).service(store.clone()).register::<Actor>(|total| total);
    builder.start_in_sim(world, NODE).unwrap()
}

fn ask<M: WireMessage<Reply = i64>, K: 'static>(
    world: &SimWorld,
    engine: &Engine,
    key: &str,
    message: M,
) -> Result<i64, AskError>
where
    Actor: Receive<M, K>,
{
    world.block_on(engine.actor::<Actor>(key).ask(message), 100 * SECOND).unwrap()
}

/// The node dies and starts again; the store stays.
fn restart(world: &SimWorld, store: &MemoryStore) -> Engine {
    world.kill(NODE);
    engine(world, store)
}

#[test]
fn state_survives_a_restart_with_and_without_snapshots() {
    let (world, store) = (SimWorld::new(SimOptions::seeded(1)), MemoryStore::new());
    let mut running = engine(&world, &store);
    for nth in 1..=13 {
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(nth));
        if nth % 3 == 0 {
            running = restart(&world, &store);
        }
    }
    assert_eq!(ask(&world, &running, "a", Read {}), Ok(13));
}

#[test]
fn nothing_leaves_before_a_delayed_commit() {
    let (world, store) = (SimWorld::new(SimOptions::seeded(2)), MemoryStore::new());
    let running = engine(&world, &store);
    assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(1));
    store.delay(Duration::from_secs(3));
    let before = world.now_ns();
    assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(2));
    assert!(world.now_ns() - before >= 3 * SECOND, "{}", world.now_ns() - before);
    let late = engine_ask_during_commit(&world, &running);
    assert!(late >= 2 * SECOND, "a read waits for what it saw: {late}");
}

/// A command and, in the same turn, a read of what it did; how long the read took.
fn engine_ask_during_commit(world: &SimWorld, running: &Engine) -> u64 {
    running.actor::<Actor>("a").tell(Add { by: 1 }).unwrap();
    let before = world.now_ns();
    assert_eq!(ask(world, running, "a", Read {}), Ok(3));
    world.now_ns() - before
}

#[test]
fn a_failed_write_is_unknown_and_poisons_until_the_restart() {
    for (fault, kept) in [(MemoryFault::FailWrite, 1), (MemoryFault::LoseAck, 2)] {
        let (world, store) = (SimWorld::new(SimOptions::seeded(3)), MemoryStore::new());
        let running = engine(&world, &store);
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(1));
        store.inject(fault);
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Err(AskError::Unknown(Unknown::Fenced)));
        let refused = ask(&world, &running, "a", Add { by: 1 });
        assert_eq!(refused, Err(AskError::Rejected(Rejected::Unavailable)));
        let read = ask(&world, &running, "a", Read {});
        assert_eq!(read, Err(AskError::Unknown(Unknown::Fenced)), "the state may not be durable");
        let running = restart(&world, &store);
        assert_eq!(ask(&world, &running, "a", Read {}), Ok(kept));
    }
}

#[test]
fn a_full_store_refuses_and_nothing_changes() {
    for (fault, answer) in [(MemoryFault::Full, Rejected::Full), (MemoryFault::LowSpace, Rejected::Unavailable)] {
        let (world, store) = (SimWorld::new(SimOptions::seeded(4)), MemoryStore::new());
        let running = engine(&world, &store);
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(1));
        store.inject(fault);
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Err(AskError::Rejected(answer)));
        assert_eq!(ask(&world, &running, "a", Read {}), Ok(1), "reads go on");
        store.heal();
        assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(2));
    }
}

#[test]
fn a_fence_stops_the_old_owner_before_and_during_a_commit() {
    let group = slot_of(ActorTypeId::of(Total::TYPE), "a").group();
    let (world, store) = (SimWorld::new(SimOptions::seeded(5)), MemoryStore::new());
    let running = engine(&world, &store);
    assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(1));
    store.fence(group, Epoch::new(2));
    assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Err(AskError::Unknown(Unknown::Fenced)));

    let store = MemoryStore::new();
    let world = SimWorld::new(SimOptions::seeded(6));
    let running = engine(&world, &store);
    assert_eq!(ask(&world, &running, "a", Add { by: 1 }), Ok(1));
    store.delay(Duration::from_secs(1));
    running.actor::<Actor>("a").tell(Add { by: 1 }).unwrap();
    world.run_for(SECOND / 2);
    store.fence(group, Epoch::new(2));
    world.run_for(SECOND);
    assert_eq!(store.records(Total::TYPE, "a").len(), 1, "nothing was written under the old epoch");
    assert!(ask(&world, &running, "a", Read {}).is_err());
}
