//! `Placement`: on which shard an actor is spawned.
//!
//! Invariant: a choice is made once, at the spawn or for a move, from what shards have published of themselves. Any thread; the lock of `Loads` is held for a few numbers a shard.

use crate::actor::Actor;
use crate::actor_ref::{ActorId, ActorRef, on_shard_of};
use crate::context::Context;
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::envelope::EpochTag;
use crate::error::SpawnError;
use crate::limits::LOAD_WINDOW_NS;
use crate::shard::{ActorBox, Again, Sent, Spawn, current};
use crate::stats::ShardStats;
use crate::sync::Mutex;

/// On which shard to spawn an actor. A number, an [`ActorId`] and an [`ActorRef`] say it too: `engine.spawn_on(0, ..)`,
/// `engine.spawn_on(other, ..)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// The shards in turn: what [`Engine::spawn`] does.
    InTurn,
    /// The shard of the handler that spawns; from a thread outside, the shards in turn.
    Here,
    /// This shard.
    Shard(u16),
    /// The shard of this actor, whether or not it lives: what the two tell each other costs no ring.
    With(ActorId),
    /// The shard with the least to do: its share of the engine's actors and the share of the last tenth of a second or more in
    /// which it was busy, added. Actors spawned so a moment ago count.
    LeastLoaded,
}

impl From<u16> for Placement {
    fn from(shard: u16) -> Self {
        Self::Shard(shard)
    }
}

impl From<ActorId> for Placement {
    fn from(actor: ActorId) -> Self {
        Self::With(actor)
    }
}

impl<A> From<ActorRef<A>> for Placement {
    fn from(actor: ActorRef<A>) -> Self {
        Self::With(actor.id())
    }
}

impl Placement {
    /// The shard; `None` when the shard or the actor named is none of this engine's.
    pub(crate) fn find(self, engine: &'static EngineLink) -> Option<u16> {
        let is_there = match self {
            Self::Shard(shard) => shard < engine.shard_count(),
            Self::With(actor) => std::ptr::eq(actor.link().engine(), engine),
            _ => true,
        };
        is_there.then(|| self.shard(engine))
    }

    /// # Panics
    /// When the shard or the actor is none of this engine's.
    fn shard(self, engine: &'static EngineLink) -> u16 {
        let here =
            || current(|shard| Some(shard.filter(|shard| std::ptr::eq(shard.link.engine(), engine))?.link.shard()));
        match self {
            Self::InTurn => engine.next_shard(),
            Self::Here => here().map_or_else(|| engine.next_shard(), shardstage_codec::ShardId::get),
            Self::Shard(shard) => {
                assert!(
                    shard < engine.shard_count(),
                    "there is no shard {shard}; the engine has {}",
                    engine.shard_count()
                );
                shard
            }
            Self::With(actor) => {
                assert!(std::ptr::eq(actor.link().engine(), engine), "{actor:?} belongs to another engine");
                actor.shard().get()
            }
            Self::LeastLoaded => engine.loads.lightest(engine),
        }
    }
}

/// What is known of one shard.
#[derive(Clone, Copy, Default)]
struct Load {
    /// When the window began, and how busy the shard had been until then.
    began_ns: u64,
    busy_ns: u64,
    /// The busy share of the last whole window, in thousandths.
    busy_permille: u64,
    /// Actors placed there that its counters do not show yet, and its turns then.
    placed: u64,
    turns: u64,
}

impl Load {
    fn observe(&mut self, stats: &ShardStats, now_ns: u64) {
        // Placed in the turn before last or earlier, they are among its actors.
        if stats.turns > self.turns + 1 {
            self.placed = 0;
            self.turns = stats.turns;
        }
        let took_ns = now_ns.saturating_sub(self.began_ns);
        if took_ns >= LOAD_WINDOW_NS {
            self.busy_permille = (stats.busy_ns.saturating_sub(self.busy_ns) * 1000 / took_ns).min(1000);
            self.began_ns = now_ns;
            self.busy_ns = stats.busy_ns;
        }
    }
}

/// The loads of an engine's shards, as of the last time that anybody asked.
#[derive(Default)]
pub(crate) struct Loads {
    shards: Mutex<Vec<Load>>,
}

impl Loads {
    /// The shard with the least to do, the first of them; one more actor is counted there.
    fn lightest(&self, engine: &'static EngineLink) -> u16 {
        let stats: Vec<ShardStats> = engine.links().iter().map(|link| link.counters.read(link.shard())).collect();
        // A shard that sleeps does not say what time it is; the last that was awake does.
        let now_ns = stats.iter().map(|stats| stats.elapsed_ns).max().unwrap_or(0);
        let mut loads = self.shards.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loads.resize(stats.len(), Load::default());
        for (load, stats) in loads.iter_mut().zip(&stats) {
            load.observe(stats, now_ns);
        }
        let actors = |at: usize| stats[at].actors + loads[at].placed;
        let all: u64 = (0..stats.len()).map(actors).sum();
        let lightest = (0..stats.len())
            .min_by_key(|at| (loads[*at].busy_permille + actors(*at) * 1000 / all.max(1), actors(*at)))
            .expect("an engine has a shard");
        if loads[lightest].placed == 0 {
            loads[lightest].turns = stats[lightest].turns;
        }
        loads[lightest].placed += 1;
        stats[lightest].shard
    }
}

impl Engine {
    /// Spawns an actor on the shard that `placement` says: a number, another actor, or a [`Placement`].
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down.
    ///
    /// # Panics
    /// When there is no such shard, or the actor named is another engine's.
    pub fn spawn_on<A, F>(&self, placement: impl Into<Placement>, factory: F) -> Result<ActorRef<A>, SpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        spawn_on(self.link, placement.into(), self.mailbox_capacity, factory)
    }
}

impl<A: Actor> Context<A> {
    /// Spawns an actor on the shard that `placement` says, whose reference may be used at once. It is nobody's child, wherever it
    /// lives; see [`spawn`](Self::spawn) for children.
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down, [`SpawnError::Exhausted`].
    ///
    /// # Panics
    /// When there is no such shard, or the actor named is another engine's.
    pub fn spawn_on<B, F>(&mut self, placement: impl Into<Placement>, factory: F) -> Result<ActorRef<B>, SpawnError>
    where
        B: Actor,
        F: Fn() -> B + Send + 'static,
    {
        let capacity = self.shard_cell().core.borrow().mailbox_capacity;
        spawn_on(self.engine(), placement.into(), capacity, factory)
    }
}

fn spawn_on<A, F>(
    engine: &'static EngineLink,
    placement: Placement,
    capacity: u32,
    factory: F,
) -> Result<ActorRef<A>, SpawnError>
where
    A: Actor,
    F: Fn() -> A + Send + 'static,
{
    let link = engine.link(placement.shard(engine));
    let (index, generation) = link.take_index()?;
    let id = ActorId::new(link, index, generation);
    on_shard_of(id, move |shard| {
        let state = ActorBox::new::<A, _>(Sent(Again(factory)));
        let spawn = Spawn { state, capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
        let refused = shard.core.borrow_mut().spawn_at(index, generation, spawn);
        drop(refused);
    });
    Ok(ActorRef::new(id))
}
