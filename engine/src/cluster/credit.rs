//! Credit between nodes: who has no room, at the node that sends, and who is owed word of room, at the node that receives.
//!
//! A receiver that refuses a message for want of room is named in the refusal, and the sending node answers `Full` for it from
//! then on; once half of its mailbox is free again, or it has stopped, it says so to every node that it named itself to.
//! Invariant: who is marked here is owed word there, for as long as the session lasts; so a mark never outlives its reason.
//! Both tables are bounded; who does not fit is refused message by message.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use foldhash::fast::FixedState;
use shardstage_codec::{ActorTypeId, NodeId};

use crate::key::Key;
use crate::limits::{OWED_ROOM, SHORT_RECEIVERS};

/// Receivers at one other node that have no room. Read by every sender of this node, on any thread.
pub(crate) struct NoRoom {
    /// Entries in use. A hint: an entry may be seen a moment early or late, which costs a refusal over there or a `Full`.
    marked: AtomicU32,
    /// A hash of each one's type and key; 0 for none.
    entries: [AtomicU64; SHORT_RECEIVERS],
}

impl NoRoom {
    pub(crate) fn new() -> Self {
        Self { marked: AtomicU32::new(0), entries: [const { AtomicU64::new(0) }; SHORT_RECEIVERS] }
    }

    fn hash(actor_type: ActorTypeId, key: &str) -> u64 {
        // An equal hash would answer `Full` for another actor until the first has room: once in 2^58 pairs.
        FixedState::with_seed(0).hash_one((actor_type.get(), key)) | 1
    }

    /// Whether the actor has no room. One relaxed load while nobody is short of it.
    #[inline]
    pub(crate) fn contains(&self, actor_type: ActorTypeId, key: &str) -> bool {
        self.marked.load(Ordering::Relaxed) != 0 && self.find(Self::hash(actor_type, key)).is_some()
    }

    fn find(&self, hash: u64) -> Option<&AtomicU64> {
        self.entries.iter().find(|entry| entry.load(Ordering::Relaxed) == hash)
    }

    /// Its node refused a message for want of room.
    pub(crate) fn mark(&self, actor_type: ActorTypeId, key: &str) {
        let hash = Self::hash(actor_type, key);
        if self.find(hash).is_some() {
            return;
        }
        let taken = |entry: &&AtomicU64| entry.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if self.entries.iter().any(|entry| taken(&entry)) {
            self.marked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It has room again. Returns whether that is news.
    pub(crate) fn clear(&self, actor_type: ActorTypeId, key: &str) -> bool {
        let hash = Self::hash(actor_type, key);
        let mut any = false;
        for entry in &self.entries {
            if entry.compare_exchange(hash, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.marked.fetch_sub(1, Ordering::Relaxed);
                any = true;
            }
        }
        any
    }

    /// The session is over, and with it what the other side owed. Returns whether anybody was marked.
    pub(crate) fn forget(&self) -> bool {
        let mut any = false;
        for entry in &self.entries {
            if entry.swap(0, Ordering::Relaxed) != 0 {
                self.marked.fetch_sub(1, Ordering::Relaxed);
                any = true;
            }
        }
        any
    }
}

/// Word of room that one shard owes to other nodes.
#[derive(Default)]
pub(crate) struct OwedRoom {
    waiting: Vec<Owed>,
    /// Due with the next flush.
    pub(crate) due: Vec<Owed>,
}

/// One receiver and one node that it named itself to.
pub(crate) struct Owed {
    cell: (u32, u32),
    pub(crate) peer: NodeId,
    pub(crate) actor_type: ActorTypeId,
    pub(crate) key: Key,
}

impl OwedRoom {
    /// Notes that a receiver names itself to a peer; `false` when no more can be kept, and it must not.
    pub(crate) fn note(&mut self, cell: (u32, u32), peer: NodeId, actor_type: ActorTypeId, key: &Key) -> bool {
        if self.waiting.iter().any(|owed| owed.cell == cell && owed.peer == peer) {
            return true;
        }
        let has_room = self.waiting.len() < OWED_ROOM;
        if has_room {
            self.waiting.push(Owed { cell, peer, actor_type, key: key.clone() });
        }
        has_room
    }

    /// The receiver in this cell has room again, or is gone.
    #[cold]
    pub(crate) fn has_room(&mut self, index: u32, generation: u32) {
        if self.waiting.is_empty() {
            return;
        }
        self.due.extend(self.waiting.extract_if(.., |owed| owed.cell == (index, generation)));
    }

    /// The session with this peer is over.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.waiting.retain(|owed| owed.peer != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_bounded_and_go_with_word_of_room_or_the_session() {
        let (table, kind) = (NoRoom::new(), ActorTypeId::of("test"));
        assert!(!table.contains(kind, "a"));
        table.mark(kind, "a");
        table.mark(kind, "a");
        assert!(table.contains(kind, "a") && !table.contains(kind, "b") && !table.contains(ActorTypeId::of("x"), "a"));
        assert!(table.clear(kind, "a"));
        assert!(!table.clear(kind, "a"));
        assert!(!table.contains(kind, "a") && table.marked.load(Ordering::Relaxed) == 0);
        for number in 0..2 * SHORT_RECEIVERS {
            table.mark(kind, &number.to_string());
        }
        assert_eq!(table.marked.load(Ordering::Relaxed) as usize, SHORT_RECEIVERS);
        assert!(table.forget() && !table.forget());
        assert_eq!(table.marked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn word_is_owed_once_to_each_node_and_not_without_bound() {
        let (mut owed, kind, key) = (OwedRoom::default(), ActorTypeId::of("test"), Key::from("a"));
        for peer in [1, 2, 1] {
            assert!(owed.note((7, 1), NodeId::new(peer), kind, &key));
        }
        assert!(owed.note((8, 1), NodeId::new(1), kind, &key));
        owed.has_room(7, 1);
        assert_eq!(owed.due.len(), 2);
        owed.forget(NodeId::new(1));
        owed.has_room(8, 1);
        assert_eq!(owed.due.len(), 2, "the session is over");
        let fit = (0..).take_while(|index| owed.note((*index, 1), NodeId::new(1), kind, &key)).count();
        assert_eq!(fit, OWED_ROOM);
    }
}
