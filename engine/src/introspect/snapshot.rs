//! What an introspection finds: actors, types, shards, and who waits for whom.
//!
//! Invariant: plain data of its own, so a reader takes all the time it wants. Each actor is described as of one moment of its
//! shard, but not all of the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shardstage_codec::NodeId;

use crate::actor_ref::ActorId;
use crate::blame::Culprit;
use crate::key::Key;
use crate::stats::ShardStats;

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActorState {
    /// Spawned; its factory or its `started` has not run yet. Messages wait.
    Starting,
    /// Has nothing to do.
    Idle,
    /// Has messages, or something else to do, and waits for its share of a turn.
    Ready,
    /// In the middle of an async handler, or suspended by [`Context::suspend`](crate::Context::suspend); its messages wait.
    Suspended,
    /// Handles what is queued and takes nothing new.
    Draining,
    /// Stops before its next message.
    Stopping,
}

impl ActorState {
    /// In one lowercase word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// One live actor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ActorInfo {
    /// Which.
    pub id: ActorId,
    /// Its Rust type.
    pub actor: &'static str,
    /// Its key, if it is virtual.
    pub key: Option<Key>,
    /// By which names it is found.
    pub names: Vec<Key>,
    /// Who spawned it, if that was an actor; the two live on the same shard.
    pub parent: Option<ActorId>,
    /// How many live actors it has spawned; more than 1,024 are not counted.
    pub children: u32,
    /// Where it is in its life.
    pub state: ActorState,
    /// Messages in its mailbox.
    pub queued: u32,
    /// The bound of its mailbox.
    pub capacity: u32,
    /// What the messages in its mailbox weigh, bytes; 0 where they are only counted.
    pub queued_bytes: u64,
    /// The bound of its mailbox in bytes, if it has one.
    pub capacity_bytes: Option<u32>,
    /// Messages that it has [put aside](crate::Context::stash).
    pub stashed: u32,
    /// The message that a suspended actor handles, if an async handler suspended it.
    pub message: Option<&'static str>,
    /// For how long it has been suspended.
    pub suspended_for: Option<Duration>,
    /// How often it was built anew after a panic.
    pub rebuilds: u32,
    /// Actors that are told when it stops.
    pub watchers: u32,
}

/// All live actors of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeInfo {
    /// The Rust type.
    pub actor: &'static str,
    /// How many there are.
    pub actors: u64,
    /// Messages in their mailboxes.
    pub queued: u64,
    /// The fullest of these mailboxes.
    pub deepest: u32,
    /// How many are suspended.
    pub suspended: u64,
}

/// What waits on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardQueues {
    /// Actors that are ready to run.
    pub ready_actors: u64,
    /// Messages of other shards that have not entered a mailbox yet.
    pub in_rings: u64,
}

/// A handler that keeps its shard from everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// Whose it is.
    pub culprit: Culprit,
    /// For how long at least it has run.
    pub running_for: Duration,
}

/// One shard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardInfo {
    /// Its counters, as of its last turn.
    pub stats: ShardStats,
    /// Messages of threads outside that wait to be taken in.
    pub injected: u64,
    /// What else waits; `None` for a shard that did not answer in time, whose actors are missing too.
    pub queues: Option<ShardQueues>,
    /// Who keeps it from answering, if it is known: needs [`Config::long_turn`](crate::Config::long_turn).
    pub stuck: Option<Stuck>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asker {
    /// An actor of this engine.
    Actor(ActorId),
    /// Nobody that can be named: a thread or task outside the shards, a future that does not wake its actor directly, an answer
    /// that will be passed on.
    Outside,
    /// An actor of another node.
    OtherNode,
}

/// One ask without an answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitInfo {
    /// Who waits.
    pub asker: Asker,
    /// Its Rust type, if it is an actor.
    pub asker_type: Option<&'static str>,
    /// Whether it handles no other message meanwhile: an await in its handler, no [`then`](crate::PendingAsk::then).
    pub blocked: bool,
    /// Who is asked. `None` where the message is on its way, at another node, or its [`Reply`](crate::Reply) is kept for later.
    pub asked: Option<ActorId>,
    /// The node that will answer, if it is another.
    pub asked_node: Option<NodeId>,
    /// Its Rust type.
    pub asked_type: Option<&'static str>,
    /// The message's Rust type.
    pub message: Option<&'static str>,
    /// Whether its handler has begun; otherwise it is in the mailbox.
    pub begun: bool,
}

/// What was found; see [`Engine::introspect`](crate::Engine::introspect).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The actors asked for, in the order asked for, at most as many as asked for.
    pub actors: Vec<ActorInfo>,
    /// How many fit what was asked, described or not.
    pub matching: u64,
    /// Every type with live actors, by name, whatever was asked.
    pub types: Vec<TypeInfo>,
    /// Every shard, by number.
    pub shards: Vec<ShardInfo>,
    /// Asks without an answer; empty unless [asked for](crate::Introspect::waits).
    pub waits: Vec<WaitInfo>,
    /// There were more asks than `waits` has room for.
    pub waits_cut: bool,
    /// Actors that wait for each other in a circle, so that all of them wait until a deadline ends it. Each is blocked by an ask
    /// to the next, the last one by an ask to the first.
    pub cycles: Vec<Vec<ActorId>>,
}

impl Snapshot {
    /// Live actors, described or not.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.types.iter().map(|kind| kind.actors).sum()
    }

    /// The description of one actor, if it is among those described.
    #[must_use]
    pub fn actor(&self, id: ActorId) -> Option<&ActorInfo> {
        self.actors.iter().find(|actor| actor.id == id)
    }

    /// The described actors as a spawn tree: each with its depth, every parent before its children. An actor whose parent is not
    /// described is a root here.
    #[must_use]
    pub fn tree(&self) -> Vec<(usize, &ActorInfo)> {
        let place = |actor: &ActorInfo| (actor.id.shard(), actor.id.index());
        let described: BTreeSet<_> = self.actors.iter().map(place).collect();
        let parent = |actor: &ActorInfo| {
            let parent = actor.parent.map(|parent| (parent.shard(), parent.index()));
            parent.filter(|parent| described.contains(parent))
        };
        let mut children: BTreeMap<_, Vec<&ActorInfo>> = BTreeMap::new();
        // The last one first, as they are taken from the end.
        self.actors.iter().rev().for_each(|actor| children.entry(parent(actor)).or_default().push(actor));
        let mut open: Vec<(usize, &ActorInfo)> =
            children.remove(&None).unwrap_or_default().into_iter().map(|root| (0, root)).collect();
        let mut tree = Vec::with_capacity(self.actors.len());
        while let Some((depth, actor)) = open.pop() {
            tree.push((depth, actor));
            let below = children.remove(&Some(place(actor))).unwrap_or_default();
            open.extend(below.into_iter().map(|child| (depth + 1, child)));
        }
        tree
    }

    /// Whether every shard answered in time.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.shards.iter().all(|shard| shard.queues.is_some())
    }
}
