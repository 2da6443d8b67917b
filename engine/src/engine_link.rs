//! `EngineLink`: what every reference may know of its engine. Leaked with its shard links, so that references outlive it.
//!
//! Invariant: filled before the first shard runs and never freed (a few kilobytes per engine); queues and threads behind it go
//! away on shutdown.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage_codec::NodeId;

use crate::blame::LongTurnOffice;
use crate::cluster::credit::NoRoom;
use crate::cluster::placement::Placement;
use crate::cluster::registry::Registry;
use crate::dead_letter::DeadLetterOffice;
use crate::intercept::Interceptors;
use crate::link::ShardLink;
use crate::naming::NameTable;
use crate::peers::Peers;
use crate::placement::Loads;

/// See the module's head.
pub(crate) struct EngineLink {
    shards: Box<[ShardLink]>,
    me: NodeId,
    next_shard: AtomicU32,
    pub(crate) placement: Placement,
    pub(crate) registry: Registry,
    /// Set before the shards are made, if there are any.
    interceptors: std::sync::OnceLock<Interceptors>,
    pub(crate) dead_letters: DeadLetterOffice,
    pub(crate) long_turns: LongTurnOffice,
    pub(crate) peers: Peers,
    pub(crate) names: NameTable,
    pub(crate) loads: Loads,
    /// Receivers without room, by node.
    no_room: Box<[NoRoom]>,
}

impl EngineLink {
    /// What runs around messages, if anything does.
    pub(crate) fn interceptors(&self) -> Option<&Interceptors> {
        self.interceptors.get()
    }

    /// Says what runs around messages; once, before the engine's shards are made.
    pub(crate) fn intercept(&self, interceptors: Interceptors) {
        let fresh = self.interceptors.set(interceptors).is_ok();
        assert!(fresh, "an engine is put together once");
    }

    pub(crate) fn leak(
        shard_count: u16,
        me: NodeId,
        node_count: u32,
        registry: Registry,
        long_turn: Option<Duration>,
    ) -> &'static Self {
        let shards =
            (0..shard_count).map(|shard| ShardLink::new(shardstage_codec::ShardId::new(shard), long_turn)).collect();
        let link: &'static Self = Box::leak(Box::new(Self {
            interceptors: std::sync::OnceLock::new(),
            shards,
            me,
            next_shard: AtomicU32::new(0),
            placement: Placement::fixed(node_count),
            registry,
            dead_letters: DeadLetterOffice::new(),
            long_turns: LongTurnOffice::new(),
            peers: Peers::default(),
            names: NameTable::default(),
            loads: Loads::default(),
            no_room: (0..node_count).map(|_| NoRoom::new()).collect(),
        }));
        for shard in &link.shards {
            shard.set_engine(link);
        }
        link
    }

    pub(crate) fn link(&'static self, shard: u16) -> &'static ShardLink {
        &self.shards[shard as usize]
    }

    pub(crate) fn links(&'static self) -> &'static [ShardLink] {
        &self.shards
    }

    /// Receivers at this node that have no room; `None` for a node that is not in the list.
    pub(crate) fn no_room(&self, node: NodeId) -> Option<&NoRoom> {
        self.no_room.get(node.get() as usize)
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    #[expect(clippy::cast_possible_truncation, reason = "made from a u16")]
    pub(crate) fn shard_count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// The next shard in turn, for spawns that do not say where.
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a u16")]
    pub(crate) fn next_shard(&self) -> u16 {
        (self.next_shard.fetch_add(1, Ordering::Relaxed) % u32::from(self.shard_count())) as u16
    }
}
