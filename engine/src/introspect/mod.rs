//! Introspection: who lives in an engine, what keeps them busy, and who waits for whom.
//!
//! A query goes to every shard as a request that looks at a slice of its actors and puts itself back, so that a million actors
//! are described while messages are handled. Invariant: nothing here is on the path of a message, and an engine that nobody
//! asks does nothing for it. Any thread may ask; the walk itself is in `walk.rs`.

mod cycles;
mod json;
mod metrics;
mod pages;
mod port;
mod queue;
mod request;
mod snapshot;
mod walk;

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::port::Port;
pub use self::snapshot::{ActorInfo, ActorState, Asker, ShardInfo, ShardQueues, Snapshot, Stuck, TypeInfo, WaitInfo};
use self::walk::{Holder, Part, Walk};
use crate::actor::Actor;
use crate::actor_ref::ActorId;
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::envelope::PackedAddress;
use crate::latch::{Happening, Latch, LatchGuard};
use crate::limits::{INTROSPECT_PATIENCE, INTROSPECT_TOP, INTROSPECT_TOP_MAX};
use crate::link::ShardLink;
use crate::until::Until;

/// Which actors are described first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// By shard, and by place there: the order in which pages follow each other.
    #[default]
    Place,
    /// The fullest mailbox first.
    Queued,
    /// Whoever has been suspended for longest first: stuck async handlers are on top.
    Suspended,
    /// Whoever was built anew after a panic most often first.
    Rebuilds,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Part of the type's name.
    name: Option<String>,
    shard: Option<u16>,
    after: Option<ActorId>,
    order: Order,
    top: usize,
    actors: bool,
    waits: bool,
}

impl Plan {
    fn takes(&self, id: ActorId, actor: &str) -> bool {
        self.shard.is_none_or(|shard| shard == id.shard().get())
            && self.name.as_ref().is_none_or(|name| actor.contains(name.as_str()))
    }

    /// Whether an actor stands on an earlier page.
    fn comes_before(&self, id: ActorId) -> bool {
        self.after.is_some_and(|after| (id.shard(), id.index()) <= (after.shard(), after.index()))
    }
}

/// A question to all shards: say what to look for, then `.wait()` or `.await` the [`Snapshot`]. See [`Engine::introspect`].
#[must_use = "nothing is asked until it is awaited"]
#[derive(Clone)]
pub struct Introspect {
    engine: &'static EngineLink,
    plan: Plan,
    within: Duration,
}

impl Engine {
    /// Looks at what lives in this engine: actors with mailboxes and states, types, shards with queues and counters, and, if
    /// asked for, who waits for whom.
    ///
    /// Each shard describes its actors in slices of some microseconds between its turns; the time of all slices together is
    /// about 20 ns for an actor. What is described is of one moment for each slice, not of one for all. A shard that is stuck
    /// in a handler cannot answer; it is reported with the one to blame.
    ///
    /// ```
    /// # use shardstage::prelude::*;
    /// # #[derive(Default)]
    /// # struct Counter;
    /// # impl Actor for Counter {}
    /// # fn main() -> shardstage::Result<()> {
    /// use shardstage::introspect::Order;
    ///
    /// let engine = Engine::start(Config::default())?;
    /// let counter = engine.spawn(Counter::default)?;
    /// let found = engine.introspect().of::<Counter>().order(Order::Queued).top(10).wait();
    /// assert_eq!(found.actors[0].id, counter.id());
    /// assert!(found.actors[0].actor.ends_with("Counter"));
    /// # engine.shutdown()
    /// # }
    /// ```
    pub fn introspect(&self) -> Introspect {
        Introspect::new(self.link)
    }
}

impl Introspect {
    pub(crate) fn new(engine: &'static EngineLink) -> Self {
        let (order, top) = (Order::Place, INTROSPECT_TOP);
        let plan = Plan { name: None, shard: None, after: None, order, top, actors: true, waits: false };
        Self { engine, plan, within: INTROSPECT_PATIENCE }
    }

    /// Only actors of type `A`.
    pub fn of<A: Actor>(self) -> Self {
        self.named(std::any::type_name::<A>())
    }

    /// Only actors whose type's name contains `part`.
    pub fn named(mut self, part: impl Into<String>) -> Self {
        self.plan.name = Some(part.into());
        self
    }

    /// Only actors of this shard.
    pub fn on_shard(mut self, shard: u16) -> Self {
        self.plan.shard = Some(shard);
        self
    }

    /// Which actors come first. By place unless this says otherwise.
    pub fn order(mut self, order: Order) -> Self {
        self.plan.order = order;
        self
    }

    /// Describes at most so many actors: 1,000 unless this says otherwise, 10,000 at most. The counts are of all.
    pub fn top(mut self, actors: usize) -> Self {
        self.plan.top = actors.min(INTROSPECT_TOP_MAX);
        self
    }

    /// The next page by place: only actors behind this one, the last of the page before. It need not live any more.
    pub fn after(mut self, last: ActorId) -> Self {
        self.plan.after = Some(last);
        self
    }

    /// Leaves actors and types out: only the shards, and whether they answer. Costs a shard next to nothing.
    pub fn only_shards(mut self) -> Self {
        self.plan.actors = false;
        self
    }

    /// Also looks for asks without an answer: [`Snapshot::waits`] and [`Snapshot::cycles`]. Looks at every queued message, at
    /// about 2 ns each.
    pub fn waits(mut self) -> Self {
        self.plan.waits = true;
        self
    }

    /// How long [`wait`](Self::wait) waits for shards that do not answer: 2 s unless this says otherwise.
    pub fn within(mut self, patience: Duration) -> Self {
        self.within = patience;
        self
    }

    /// Asks and blocks the calling thread until every shard has answered, or for as long as [`within`](Self::within) says. In a
    /// test on virtual time it runs the world meanwhile.
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    #[must_use]
    pub fn wait(self) -> Snapshot {
        crate::shard::assert_not_on_a_shard("Introspect::wait()");
        let answers = self.ask();
        if let Some(world) = crate::sim::world_of(self.engine) {
            let limit_ns = u64::try_from(self.within.as_nanos()).unwrap_or(u64::MAX);
            world.run_until(|_| answers.iter().all(|answer| answer.is_set()), limit_ns);
            return self.gather(answers.iter().map(|answer| answer.wait_for(Duration::ZERO).flatten()).collect());
        }
        let until = Until::after(self.within);
        self.gather(answers.iter().map(|answer| answer.wait_for(until.left()).flatten()).collect())
    }

    /// Asks every shard.
    fn ask(&self) -> Vec<Answer> {
        let plan = Arc::new(self.plan.clone());
        let ask = |link: &'static ShardLink| {
            let latch = Latch::new();
            Walk::begin(link, Arc::clone(&plan), LatchGuard::new(Arc::clone(&latch), None));
            latch
        };
        self.engine.links().iter().map(ask).collect()
    }

    /// Puts what the shards said together.
    fn gather(self, parts: Vec<Option<Arc<Part>>>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let (mut actors, mut types) = (Vec::new(), BTreeMap::<_, TypeInfo>::new());
        let (mut holders, mut waiting) = (BTreeMap::new(), Vec::new());
        for (link, part) in self.engine.links().iter().zip(parts) {
            snapshot.shards.push(shard_info(link, part.as_deref()));
            let Some(part) = part else { continue };
            let part = Arc::unwrap_or_clone(part);
            snapshot.matching += part.matching;
            snapshot.waits_cut |= part.waits_cut;
            actors.extend(part.actors);
            holders.extend(part.holders.into_iter().map(|holder| (holder.slot, holder)));
            waiting.extend(part.waiting);
            for (name, more) in part.types {
                let none = TypeInfo { actors: 0, queued: 0, deepest: 0, suspended: 0, ..more };
                let kind = types.entry(name).or_insert(none);
                kind.actors += more.actors;
                kind.queued += more.queued;
                kind.deepest = kind.deepest.max(more.deepest);
                kind.suspended += more.suspended;
            }
        }
        self.plan.order.cut(&mut actors, self.plan.top);
        snapshot.actors = actors.into_iter().map(|(_, actor)| actor).collect();
        snapshot.types = types.into_values().collect();
        snapshot.waits = waiting.into_iter().map(|waiting| join(waiting, &holders)).collect();
        snapshot.cycles = circles(&snapshot.waits);
        snapshot
    }
}

impl IntoFuture for Introspect {
    type Output = Snapshot;
    type IntoFuture = Pin<Box<dyn Future<Output = Snapshot> + Send>>;

    /// Asks when it is first polled, and waits for every shard: one that is stuck delays it until its handler ends. A thread
    /// that looks for what is stuck uses [`Introspect::wait`].
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut parts = Vec::new();
            for latch in self.ask() {
                parts.push(Happening { latch, what: "Introspect", engine: Some(self.engine) }.await);
            }
            self.gather(parts)
        })
    }
}

impl std::fmt::Debug for Introspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Introspect({:?})", self.plan)
    }
}

type Answer = Arc<Latch<Option<Arc<Part>>>>;

fn shard_info(link: &ShardLink, part: Option<&Part>) -> ShardInfo {
    let stats = link.counters.read(link.shard());
    let stuck = link.blame.stuck(stats.turns);
    ShardInfo {
        stats,
        injected: link.injected(),
        queues: part.map(|part| part.queues),
        stuck: stuck.map(|(culprit, running_for)| Stuck { culprit, running_for }),
    }
}

fn join(waiting: walk::Waiting, holders: &BTreeMap<PackedAddress, Holder>) -> WaitInfo {
    let holder = holders.get(&waiting.slot);
    WaitInfo {
        asker: waiting.asker,
        asker_type: waiting.asker_type,
        blocked: waiting.blocked,
        asked: holder.map(|holder| holder.asked),
        asked_node: waiting.asked_node,
        asked_type: holder.map(|holder| holder.asked_type),
        message: holder.map(|holder| holder.message),
        begun: holder.is_some_and(|holder| holder.begun),
    }
}

/// Those who are blocked by each other.
fn circles(waits: &[WaitInfo]) -> Vec<Vec<ActorId>> {
    let place = |id: ActorId| PackedAddress::new(id.shard().get(), id.index(), id.generation());
    let mut ids = BTreeMap::new();
    let mut edges = Vec::new();
    for wait in waits.iter().filter(|wait| wait.blocked) {
        if let (Asker::Actor(asker), Some(asked)) = (wait.asker, wait.asked) {
            ids.extend([(place(asker), asker), (place(asked), asked)]);
            edges.push((place(asker), place(asked)));
        }
    }
    cycles::find(&edges).into_iter().map(|circle| circle.iter().map(|member| ids[member]).collect()).collect()
}
