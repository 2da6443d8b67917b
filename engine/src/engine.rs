//! `Engine`: shards that run, and the way to them from outside.
//!
//! Invariant: references made by an engine stay safe to use after it is gone; they answer `Closed` then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shardstage_codec::NodeId;

use crate::actor::{Actor, StopReason, VirtualActor};
use crate::actor_ref::{ActorId, ActorRef, on_shard_of};
use crate::blame::{LongTurns, Watchdog};
use crate::builder::EngineBuilder;
use crate::config::Config;
use crate::dead_letter::DeadLetters;
use crate::engine_link::EngineLink;
use crate::envelope::EpochTag;
use crate::error::{Error, ShutdownError, SpawnError, StartError};
use crate::fan_out::{Audience, FanOut, FanOutTarget};
use crate::introspect::Port;
use crate::key::Key;
use crate::latch::{Latch, LatchGuard};
use crate::peers::PeerState;
use crate::placement::Placement;
use crate::port::driver::DriverKind;
use crate::shard::{ActorBox, Once, Sent, Spawn, current};
use crate::sim::SimWorld;
use crate::stats::ShardStats;
use crate::sync;
use crate::until::Until;
use crate::virtual_ref::VirtualRef;

/// A running engine. Dropping it stops its actors without draining; [`shutdown`](Self::shutdown) drains first.
pub struct Engine {
    pub(crate) link: &'static EngineLink,
    pub(crate) threads: Vec<JoinHandle<Result<(), StartError>>>,
    /// Set by the ends of hosted shards.
    pub(crate) hosted: Vec<Arc<Latch<StopReason>>>,
    pub(crate) driver_kind: DriverKind,
    pub(crate) drain_time: Duration,
    pub(crate) mailbox_capacity: u32,
    /// Hosted and simulated shards are turned by somebody else, so nothing here may wait for them.
    pub(crate) owns_threads: bool,
    /// Looks for long turns; none in the simulator.
    pub(crate) watchdog: Option<Watchdog>,
    /// Shows what lives here; none in the simulator.
    pub(crate) port: Option<Port>,
}

/// What one shard says when a draining engine asks.
#[derive(Clone, Copy)]
struct Survey {
    quiet: bool,
    sent: u64,
    received: u64,
}

impl Engine {
    /// Starts an engine with one shard per core and nothing else on it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::builder().config(config).start()
    }

    /// Describes an engine: configuration, services, transport, virtual actor types.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Spawns an actor on the next shard in turn and returns at once. The factory runs there, so the state need not be `Send`;
    /// it is kept for rebuilds after a panic.
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down.
    pub fn spawn<A, F>(&self, factory: F) -> Result<ActorRef<A>, SpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        self.spawn_on(Placement::InTurn, factory)
    }

    /// Like [`spawn`](Self::spawn), with a factory that works once: a panic stops the actor.
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down.
    pub fn spawn_once<A, F>(&self, factory: F) -> Result<ActorRef<A>, SpawnError>
    where
        A: Actor,
        F: FnOnce() -> A + Send + 'static,
    {
        self.spawn_with(self.link.next_shard(), move || ActorBox::new::<A, _>(Sent(Once(Some(factory)))))
    }

    pub(crate) fn spawn_with<A: Actor>(
        &self,
        shard: u16,
        state: impl FnOnce() -> ActorBox + Send + 'static,
    ) -> Result<ActorRef<A>, SpawnError> {
        let link = self.link.link(shard);
        let (index, generation) = link.take_index()?;
        let capacity = self.mailbox_capacity;
        let id = ActorId::new(link, index, generation);
        on_shard_of(id, move |shard| {
            let spawn =
                Spawn { state: state(), capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
            let refused = shard.core.borrow_mut().spawn_at(index, generation, spawn);
            drop(refused);
        });
        Ok(ActorRef::new(id))
    }

    /// A reference to the virtual actor `key` of type `A`; its first message activates it, wherever its slot lives.
    #[must_use]
    pub fn actor<A: VirtualActor>(&self, key: impl Into<Key>) -> VirtualRef<A> {
        VirtualRef::new(self.link, key.into())
    }

    /// Sends one message to every receiver in `audience`, from a thread outside the shards; see
    /// [`Context::tell_many`](crate::Context::tell_many). For each other node it is encoded once on each shard of this node by
    /// way of which single messages to the receivers would go.
    pub fn tell_many<T, M, K>(&self, audience: &mut Audience<T>, message: M) -> FanOut
    where
        T: FanOutTarget<M, K>,
    {
        crate::fan_out::tell_many(audience, message)
    }

    /// How many shards the engine has.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.link.shard_count()
    }

    /// Which driver the shards stand on.
    #[must_use]
    pub fn driver_kind(&self) -> DriverKind {
        self.driver_kind
    }

    /// Messages that could not be delivered; readable after the engine's end too.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<'static> {
        DeadLetters(&self.link.dead_letters)
    }

    /// Turns that took longer than [`Config::long_turn`], and whose fault it was; readable after the engine's end too.
    #[must_use]
    pub fn long_turns(&self) -> LongTurns<'static> {
        LongTurns(&self.link.long_turns)
    }

    /// Where the engine shows itself over HTTP; see [`Config::introspection`].
    #[must_use]
    pub fn introspection_address(&self) -> Option<SocketAddr> {
        self.port.as_ref().map(Port::address)
    }

    /// Starts the threads that look at the shards from outside.
    pub(crate) fn watch(&mut self, config: &Config) -> Result<(), StartError> {
        let watchdog = config.long_turn.map(|long_turn| Watchdog::start(self.link, long_turn)).transpose();
        self.watchdog = watchdog.map_err(StartError::Thread)?;
        let port = config.introspection.map(|address| Port::open(self.link, address)).transpose();
        self.port = port.map_err(StartError::Introspection)?;
        Ok(())
    }

    /// The counters of every shard, as of its last turn.
    #[must_use]
    pub fn stats(&self) -> Vec<ShardStats> {
        self.link.links().iter().map(|link| link.counters.read(link.shard())).collect()
    }

    /// What is known of a peer.
    #[must_use]
    pub fn peer(&self, peer: NodeId) -> PeerState {
        self.link.peers.get(peer)
    }

    /// Waits until every shard has a session with `peer`, at most `timeout`; returns the state then.
    #[must_use]
    pub fn wait_for_peer(&self, peer: NodeId, timeout: Duration) -> PeerState {
        let shards = self.shard_count();
        if let Some(world) = crate::sim::world_of(self.link) {
            let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            world.run_until(|_| self.peer(peer).sessions == shards, timeout_ns);
            return self.peer(peer);
        }
        self.link.peers.wait(peer, timeout, |state| state.sessions == shards)
    }

    /// Raises the epoch of a slot group, as a change of its owner does: what was sent under an older one is refused from now
    /// on. Lower values are ignored.
    pub fn raise_epoch(&self, group: shardstage_codec::GroupId, epoch: shardstage_codec::Epoch) {
        self.link.placement.raise_epoch(group, epoch);
    }

    /// Refuses new messages from outside, lets the shards handle what is queued, stops every actor, closes services and
    /// transport, and waits for the threads.
    ///
    /// # Errors
    /// [`ShutdownError::DrainTimeout`] when actors were still busy after [`Config::drain_time`]; they were stopped all the same.
    ///
    /// # Panics
    /// On a shard's thread, which would wait for itself.
    pub fn shutdown(mut self) -> Result<(), Error> {
        crate::shard::assert_not_on_a_shard("Engine::shutdown()");
        let world = crate::sim::world_of(self.link);
        let busy_shards = self.drain(&Pace::of(world.as_ref(), self.drain_time));
        self.stop();
        if let Some(world) = world {
            // Actors stop in virtual time; a service that does not end is stopped by its own deadlines.
            world.run_until(|_| crate::sim::world_of(self.link).is_none(), crate::limits::SIM_WAIT_NS);
        }
        let mut panicked = false;
        for thread in self.threads.drain(..) {
            panicked |= thread.join().is_err();
        }
        for ended in self.hosted.drain(..) {
            ended.wait();
        }
        if panicked {
            return Err(ShutdownError::ShardPanicked.into());
        }
        if busy_shards > 0 {
            return Err(ShutdownError::DrainTimeout { busy_shards }.into());
        }
        Ok(())
    }

    /// Waits until two surveys in a row find every shard quiet, nothing on the way, and nothing sent between them; returns how many
    /// shards were not. The four counters of Mattern 1987: what was handled does not count, as a timer's ticks never end.
    fn drain(&self, pace: &Pace<'_>) -> usize {
        for link in self.link.links() {
            link.refuse();
        }
        self.link.names.close();
        let mut last = None;
        let mut pause = Duration::from_micros(50);
        loop {
            let surveys = self.survey(pace);
            let sent = surveys.iter().map(|survey| survey.sent).sum::<u64>();
            let received = surveys.iter().map(|survey| survey.received).sum::<u64>();
            let quiet = sent == received && surveys.iter().all(|survey| survey.quiet);
            if quiet && last == Some(sent) {
                return 0;
            }
            if pace.is_over() {
                return surveys.iter().filter(|survey| !survey.quiet).count();
            }
            last = quiet.then_some(sent);
            pace.pause(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn survey(&self, pace: &Pace<'_>) -> Vec<Survey> {
        let busy = Survey { quiet: false, sent: 0, received: 0 };
        let gone = Survey { quiet: true, ..busy };
        let latches: Vec<_> = self
            .link
            .links()
            .iter()
            .map(|link| {
                let latch = Latch::new();
                let guard = LatchGuard::new(Arc::clone(&latch), gone);
                link.run(Box::new(move |shard| {
                    let quiet = shard.is_quiet();
                    let counters = shard.core.borrow().counters;
                    let survey = Survey { quiet, sent: counters.ring_sent, received: counters.ring_received };
                    guard.set(survey);
                }));
                latch
            })
            .collect();
        latches.iter().map(|latch| pace.wait_for(latch).unwrap_or(busy)).collect()
    }

    /// Asks every shard to stop its actors and finish.
    fn stop(&self) {
        self.link.names.close();
        for link in self.link.links() {
            link.refuse();
            link.run(Box::new(crate::shard::ShardCell::stop_all));
        }
    }

    /// Begins to stop without waiting: actors stop, services and transport finish, hosted or simulated shards then end.
    pub fn begin_stop(&self) {
        self.stop();
    }
}

/// How time passes while an engine drains: by itself, or because this thread runs a simulated world; up to a limit.
enum Pace<'a> {
    Threads(Until),
    World(&'a SimWorld, u64),
}

impl<'a> Pace<'a> {
    fn of(world: Option<&'a SimWorld>, limit: Duration) -> Self {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        world.map_or_else(
            || Self::Threads(Until::after(limit)),
            |world| Self::World(world, world.now_ns().saturating_add(limit_ns)),
        )
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Threads(until) => until.left().is_zero(),
            Self::World(world, until_ns) => world.now_ns() >= *until_ns,
        }
    }

    fn wait_for(&self, latch: &Latch<Survey>) -> Option<Survey> {
        match self {
            Self::Threads(until) => latch.wait_for(until.left()),
            Self::World(world, until_ns) => {
                world.run_until(|_| latch.is_set(), until_ns.saturating_sub(world.now_ns()));
                latch.wait_for(Duration::ZERO)
            }
        }
    }

    fn pause(&self, time: Duration) {
        match self {
            Self::Threads(_) => sync::pause(time),
            Self::World(world, _) => world.run_for(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if (self.threads.is_empty() || !self.owns_threads) && self.hosted.is_empty() {
            return;
        }
        self.stop();
        let on_a_shard = current(|shard| shard.is_some());
        for thread in self.threads.drain(..) {
            if !on_a_shard {
                // A thread that panicked has aborted the process.
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} shards, {})", self.shard_count(), self.driver_kind)
    }
}
