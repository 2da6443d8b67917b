//! `ShardSeed`: everything a shard is made of, before it is on its thread.
//!
//! Invariant: a seed is `Send`; what it grows into (driver, services, transport, actors) never leaves its thread.

use std::io;
use std::sync::Arc;

use shardstage_codec::{AlignedBytes, NodeId, ShardId};

use crate::cluster::directory::Directory;
use crate::cluster::routes::Routes;
use crate::engine_link::EngineLink;
use crate::error::StartError;
use crate::port::driver::Driver;
use crate::port::service::{ServiceFactory, ServiceSeat};
use crate::port::transport::{ClusterConfig, TransportFactory, TransportSeat};
use crate::random::Random;
use crate::reply::ReplyTable;
use crate::run_queue::RunQueue;
use crate::shard::{Inbound, Mesh, Outbound, Shard, ShardCore, link_shards};
use crate::timer::Timers;

/// What all shards of an engine share while they are made.
pub(crate) struct Blueprint {
    pub(crate) engine: &'static EngineLink,
    pub(crate) services: Vec<Arc<dyn ServiceFactory>>,
    pub(crate) transport: Option<(Arc<dyn TransportFactory>, ClusterConfig)>,
    pub(crate) mailbox_capacity: u32,
    pub(crate) virtual_actors: u32,
}

/// See the module's head.
pub(crate) struct ShardSeed {
    shard: ShardId,
    blueprint: Arc<Blueprint>,
    out: Vec<Option<Outbound>>,
    inbound: Vec<Inbound>,
}

impl ShardSeed {
    /// The seeds of all shards, with a pair of rings between each two.
    pub(crate) fn all(blueprint: &Arc<Blueprint>) -> Vec<Self> {
        let engine = blueprint.engine;
        let count = engine.shard_count();
        let mut seeds: Vec<Self> = (0..count)
            .map(|shard| Self {
                shard: ShardId::new(shard),
                blueprint: Arc::clone(blueprint),
                out: (0..count).map(|_| None).collect(),
                inbound: Vec::new(),
            })
            .collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (outbound, inbound) = link_shards(from, engine.link(to));
                seeds[from as usize].out[to as usize] = Some(outbound);
                seeds[to as usize].inbound.push(inbound);
            }
        }
        seeds
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn link(&self) -> &'static crate::link::ShardLink {
        self.blueprint.engine.link(self.shard.get())
    }

    /// Grows into a shard on the calling thread. `on_started` is called once its services and transport have started.
    pub(crate) fn grow(
        self,
        driver: &mut dyn Driver,
        on_started: Box<dyn FnOnce(Result<(), StartError>)>,
    ) -> Result<Shard, StartError> {
        let Self { shard, blueprint, out, inbound } = self;
        let engine = blueprint.engine;
        let link = engine.link(shard.get());
        let seat = ServiceSeat {
            node: blueprint.transport.as_ref().map_or(NodeId::new(0), |(_, cluster)| cluster.me),
            shard,
            shard_count: engine.shard_count(),
        };
        let services = blueprint
            .services
            .iter()
            .map(|factory| factory.make(&seat))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| StartError::Config(error.to_string()))?;
        let transport = blueprint
            .transport
            .as_ref()
            .map(|(factory, cluster)| {
                let mut transport = factory.make(&TransportSeat { shard, cluster: cluster.clone() })?;
                transport.set_schema(&engine.registry.schema());
                Ok(transport)
            })
            .transpose()
            .map_err(StartError::Transport)?;
        let directory_seed = driver.random_u64();
        // Asks are numbered for other nodes to see: from a number that does not say the seed of a hasher.
        let routes_seed = driver.random_u64();
        let first_ask = Random::new(!routes_seed).next_u64();
        let core = ShardCore {
            shard,
            link,
            now_ns: driver.now_ns(),
            cells: Default::default(),
            pool: Default::default(),
            run_queue: RunQueue::default(),
            replies: ReplyTable::new(shard.get(), first_ask),
            mesh: Mesh::new(out, inbound),
            budget: crate::limits::TURN_BUDGET,
            ledger: Default::default(),
            purse: Default::default(),
            timers: Timers::new(shard.get()),
            directory: Directory::new(engine.registry.types.len(), directory_seed, blueprint.virtual_actors),
            counters: Default::default(),
            graveyard: Vec::new(),
            frames: Default::default(),
            owed_room: Default::default(),
            routes: Routes::new(routes_seed),
            scratch: AlignedBytes::new(),
            mailbox_capacity: blueprint.mailbox_capacity,
            random: Random::new(driver.random_u64()),
            running: None,
            steps_work: false,
            draining: false,
            deferred: Vec::new(),
            orphans: Vec::new(),
            forsaken: crate::asking::cancel::Forsaken::default(),
            asked_until_ns: 0,
            has_turns: false,
            chase: Default::default(),
            rigs: Vec::new(),
            is_rigged: engine.interceptors().is_some(),
        };
        let queues = link.open(driver.waker());
        Ok(Shard::new(core, services, transport, queues, on_started))
    }
}
