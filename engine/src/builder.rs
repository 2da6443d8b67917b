//! `EngineBuilder`: plain assembly of an engine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shardstage_codec::NodeId;

use crate::actor::{Actor, VirtualActor};
use crate::cluster::registry::{Registry, TypeBuilder};
use crate::config::{Config, IdleStrategy};
use crate::driver::RealDriverFactory;
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::error::StartError;
use crate::intercept::{Interceptor, Interceptors};
use crate::latch::Latch;
use crate::port::driver::{DriverFactory, DriverKind};
use crate::port::service::ServiceFactory;
use crate::port::transport::{ClusterConfig, TransportFactory};
use crate::runner;
use crate::seed::{Blueprint, ShardSeed};

/// Describes an engine before it starts.
pub struct EngineBuilder {
    config: Config,
    registry: Registry,
    services: Vec<Arc<dyn ServiceFactory>>,
    transport: Option<Arc<dyn TransportFactory>>,
    cluster: Option<ClusterConfig>,
    introspection: Option<SocketAddr>,
    wrong: Option<String>,
    interceptors: Interceptors,
}

/// An engine that has been put together and waits for whoever turns its shards.
pub(crate) struct Assembly {
    pub(crate) engine: &'static EngineLink,
    pub(crate) seeds: Vec<ShardSeed>,
    pub(crate) config: Config,
}

impl EngineBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config::default(),
            registry: Registry::default(),
            services: Vec::new(),
            transport: None,
            cluster: None,
            introspection: None,
            wrong: None,
            interceptors: Interceptors::default(),
        }
    }

    /// Sets the configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Hosts virtual actors of type `A`, and says which messages they take over the wire:
    /// `.register::<Account>(|account| account.accept::<Deposit, _>())`.
    #[must_use]
    pub fn register<A: VirtualActor>(mut self, describe: impl FnOnce(TypeBuilder<A>) -> TypeBuilder<A>) -> Self {
        let registered = describe(TypeBuilder::new()).registered;
        if let Some(other) = self.registry.types.iter().find(|other| other.id == registered.id) {
            self.wrong.get_or_insert(format!(
                "actor type {:?} is registered twice, or shares its id with {:?}",
                registered.name, other.name
            ));
        }
        if let Some(why) = registered.settings.check().err().or(registered.wrong.clone()) {
            self.wrong.get_or_insert(format!("actor type {:?}: {why}", registered.name));
        }
        self.registry.types.push(registered);
        self
    }

    /// Runs an interceptor around the messages of every actor. An engine without any pays nothing for it; with one, a message of
    /// an intercepted actor costs a share of its own and a clone of a list.
    #[must_use]
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.add(None, Arc::new(interceptor));
        self
    }

    /// Runs an interceptor around the messages of actors of type `A`; others pay nothing per message.
    #[must_use]
    pub fn intercept_actor<A: Actor>(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.add(Some(std::any::TypeId::of::<A>()), Arc::new(interceptor));
        self
    }

    /// Puts a service, such as the event log, on every shard.
    #[must_use]
    pub fn service(mut self, service: impl ServiceFactory) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Shows actors, shards and counters over HTTP on this port of the loopback address; 0 stands for any that is free, and
    /// [`Engine::introspection_address`] says which. [`Config::introspection`] takes any address, and gives way to this.
    #[must_use]
    pub fn introspection(mut self, port: u16) -> Self {
        self.introspection = Some((Ipv4Addr::LOCALHOST, port).into());
        self
    }

    /// Joins the fixed list of nodes; needs a [`transport`](Self::transport).
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterConfig) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// Carries messages to other nodes; needs a [`cluster`](Self::cluster).
    #[must_use]
    pub fn transport(mut self, transport: impl TransportFactory) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Starts one pinned thread per shard, and returns when every service and transport has started.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub fn start(self) -> Result<Engine, StartError> {
        let drivers = RealDriverFactory::new(self.config.driver).map_err(StartError::Driver)?;
        let cpus = crate::driver::available_cpus();
        let shards = self.shard_count(cpus.len())?;
        let Assembly { engine, seeds, config } = self.assemble(shards)?;
        let kind = drivers.kind();
        let drivers: Arc<dyn DriverFactory> = Arc::new(drivers);
        let mut started = Engine::of(engine, &config, kind, true);
        started.watch(&config)?;
        let mut outcomes = Vec::new();
        let mut refused = None;
        for seed in seeds {
            let (shard, link) = (seed.shard(), seed.link());
            let cpu = cpus.get(shard.get() as usize).copied().filter(|_| config.pin);
            let latch = Latch::new();
            let outcome = Arc::clone(&latch);
            let drivers = Arc::clone(&drivers);
            let idle: IdleStrategy = config.idle;
            let report: runner::OnStarted =
                Box::new(move |result| latch.set(Arc::new(crate::sync::Mutex::new(Some(result)))));
            let thread = std::thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
                runner::run(seed, &drivers, cpu, idle, report);
                Ok(())
            });
            match thread {
                Ok(thread) => {
                    started.threads.push(thread);
                    outcomes.push(outcome);
                }
                Err(error) => {
                    link.close();
                    refused = Some(StartError::Thread(error));
                }
            }
        }
        // All of them, whatever the first says: a shard that has not come up yet cannot be told to stop.
        for outcome in outcomes {
            let result = outcome.wait().lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            refused = refused.or(result.and_then(Result::err));
        }
        refused.map_or(Ok(started), Err)
    }

    #[cfg(any(feature = "host-tokio", feature = "host-monoio", feature = "host-glommio"))]
    pub(crate) fn configuration(&self) -> &Config {
        &self.config
    }

    pub(crate) fn shard_count(&self, cpus: usize) -> Result<u16, StartError> {
        self.config.check()?;
        let per_core = u16::try_from(cpus.clamp(1, crate::envelope::SHARDS_MAX as usize - 1)).expect("clamped");
        let listed = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.nodes.get(cluster.me.get() as usize))
            .map(|node| node.shards);
        match (self.config.shards, listed) {
            (Some(shards), Some(listed)) if shards != listed => Err(StartError::Config(format!(
                "shards is {shards}, but the node list says that this node has {listed}"
            ))),
            (Some(shards), _) | (None, Some(shards)) => Ok(shards),
            (None, None) => Ok(per_core),
        }
    }

    pub(crate) fn assemble(self, shards: u16) -> Result<Assembly, StartError> {
        self.config.check()?;
        if let Some(wrong) = self.wrong {
            return Err(StartError::Config(wrong));
        }
        let (me, node_count) = match &self.cluster {
            None => (NodeId::new(0), 1),
            Some(cluster) => {
                check_cluster(cluster)?;
                (cluster.me, u32::try_from(cluster.nodes.len()).expect("checked"))
            }
        };
        let transport = match (self.transport, self.cluster) {
            (Some(transport), Some(cluster)) => Some((transport, cluster)),
            (None, None) => None,
            (Some(_), None) => return Err(StartError::Config("a transport needs a cluster's node list".to_owned())),
            (None, Some(cluster)) if cluster.nodes.len() == 1 => None,
            (None, Some(_)) => {
                return Err(StartError::Config("a cluster of several nodes needs a transport".to_owned()));
            }
        };
        let engine = EngineLink::leak(shards, me, node_count, self.registry, self.config.long_turn);
        if !self.interceptors.is_empty() {
            engine.intercept(self.interceptors);
        }
        let blueprint = Arc::new(Blueprint {
            engine,
            services: self.services,
            transport,
            mailbox_capacity: self.config.mailbox_capacity,
            virtual_actors: self.config.virtual_actors_per_shard,
        });
        let introspection = self.introspection.or(self.config.introspection);
        let config = Config { introspection, ..self.config };
        Ok(Assembly { engine, seeds: ShardSeed::all(&blueprint), config })
    }
}

fn check_cluster(cluster: &ClusterConfig) -> Result<(), StartError> {
    let wrong = |why: String| Err(StartError::Config(why));
    for (position, node) in (0_u32..).zip(&cluster.nodes) {
        if node.id.get() != position {
            return wrong(format!("node {:?} has id {} but is number {position} of the list", node.name, node.id));
        }
        if node.shards == 0 {
            return wrong(format!("node {:?} has no shards", node.name));
        }
    }
    if cluster.me.get() as usize >= cluster.nodes.len() {
        return wrong(format!("this node's id {} is not in the list of {} nodes", cluster.me, cluster.nodes.len()));
    }
    Ok(())
}

impl Engine {
    pub(crate) fn of(link: &'static EngineLink, config: &Config, driver_kind: DriverKind, owns_threads: bool) -> Self {
        Self {
            link,
            threads: Vec::new(),
            driver_kind,
            hosted: Vec::new(),
            drain_time: config.drain_time,
            mailbox_capacity: config.mailbox_capacity,
            owns_threads,
            watchdog: None,
            port: None,
        }
    }
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EngineBuilder({:?}, {} virtual actor types)", self.config, self.registry.types.len())
    }
}
