//! A simulated node with durable actors on either store: the local log on a simulated disk, or the one in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use shardstage::port::service::Service;
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{EngineBuilder, Receive, VirtualActor, WireMessage};
use shardstage_codec::NodeId;
use shardstage_persistence::{EventLog, LogShard, MemoryStore, OnPoison, StoreShard};

pub const NODE: NodeId = NodeId::new(0);
pub const SECOND: u64 = 1_000_000_000;
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
const SMALL_SEGMENT_BYTES: u64 = 64 * 1024;

#[derive(Clone)]
pub enum Store {
    /// Segments with room for the largest frames.
    Log,
    /// Small ones, which end often and are soon written: for tests that start a node hundreds of times.
    SmallLog,
    Memory(MemoryStore),
}

/// A world, a store that outlives the node's crashes, and the running engine.
pub struct Bench {
    pub world: SimWorld,
    pub store: Store,
    register: fn(EngineBuilder) -> EngineBuilder,
    pub engine: Engine,
}

/// The same test on both stores.
pub fn on_both(seed: u64, register: fn(EngineBuilder) -> EngineBuilder, test: impl Fn(Bench)) {
    for store in [Store::Log, Store::Memory(MemoryStore::new())] {
        test(Bench::new(seed, store, register));
    }
}

impl Bench {
    pub fn new(seed: u64, store: Store, register: fn(EngineBuilder) -> EngineBuilder) -> Self {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let engine = start(&world, &store, register);
        Self { world, store, register, engine }
    }

    /// Power is lost, and the node starts again.
    pub fn crash(&mut self) {
        self.world.crash(NODE);
        self.engine = start(&self.world, &self.store, self.register);
    }

    /// Starts again after a crash that happened by itself.
    pub fn restart(&mut self) {
        self.engine = start(&self.world, &self.store, self.register);
    }

    /// Stops orderly and starts with other code.
    pub fn upgrade(&mut self, register: fn(EngineBuilder) -> EngineBuilder) {
        self.crash();
        self.register = register;
        self.crash();
    }

    pub fn ask<A, M, K>(&self, key: &str, message: M) -> Result<M::Reply, AskError>
    where
        A: VirtualActor + Receive<M, K>,
        M: WireMessage,
        K: 'static,
    {
        self.world.block_on(self.engine.actor::<A>(key).ask(message), 100 * SECOND).expect("it ends")
    }

    pub fn memory(&self) -> Option<&MemoryStore> {
        match &self.store {
            Store::Log | Store::SmallLog => None,
            Store::Memory(store) => Some(store),
        }
    }

    /// A counter of the store, over both shards.
    pub fn counter(&self, name: &'static str) -> u64 {
        let shards = 0..2;
        let read = |shard| {
            let probe = self.engine.spawn_on(shard, || Probe).unwrap();
            self.world.block_on(probe.ask(Counter { name }), 100 * SECOND).unwrap().unwrap()
        };
        shards.map(read).sum()
    }
}

struct Probe;

impl Actor for Probe {}

#[message(reply = u64)]
struct Counter {
    name: &'static str,
}

impl Handler<Counter> for Probe {
    fn handle(&mut self, Counter { name }: Counter, cx: &mut Context<Self>) -> u64 {
        let log = cx.service::<LogShard, _>(|log| log.counters());
        let counters = log.or_else(|| cx.service::<StoreShard, _>(|store| store.counters())).unwrap();
        counters.into_iter().find(|(found, _)| *found == name).unwrap().1
    }
}

fn start(world: &SimWorld, store: &Store, register: fn(EngineBuilder) -> EngineBuilder) -> Engine {
    let mut config = Config::default();
    config.shards = Some(2);
    let builder = Engine::builder().config(config);
    let log = |segment_bytes| EventLog::open("/data").segment_bytes(segment_bytes).on_poison(OnPoison::Stay);
    let builder = match store {
        Store::Log => builder.service(log(SEGMENT_BYTES)),
        Store::SmallLog => builder.service(log(SMALL_SEGMENT_BYTES)),
        Store::Memory(store) => builder.service(store.clone()),
    };
    register(builder).start_in_sim(world, NODE).unwrap()
}
