//! The directory of one shard: active virtual actors by type and key.
//!
//! Invariant: an entry exists exactly as long as its activation's cell; a key has at most one.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::key::Key;

/// Active virtual actors; one map per registered type.
pub(crate) struct Directory {
    types: Vec<HashMap<Key, (u32, u32), FixedState>>,
    /// When the next look for idle actors is due; `u64::MAX` without virtual types.
    pub(crate) next_sweep_ns: u64,
}

impl Directory {
    /// `seed` keeps keys from being chosen to collide, and traces repeatable in the simulator.
    pub(crate) fn new(type_count: usize, seed: u64) -> Self {
        let types = (0..type_count).map(|_| HashMap::with_hasher(FixedState::with_seed(seed))).collect();
        Self { types, next_sweep_ns: if type_count == 0 { u64::MAX } else { 0 } }
    }

    #[inline]
    pub(crate) fn get(&self, actor_type: usize, key: &str) -> Option<(u32, u32)> {
        self.types[actor_type].get(key).copied()
    }

    pub(crate) fn insert(&mut self, actor_type: usize, key: Key, cell: (u32, u32)) {
        let previous = self.types[actor_type].insert(key, cell);
        debug_assert!(previous.is_none(), "a key has one activation");
    }

    /// Removes the entry if it is still that of the given cell.
    pub(crate) fn remove(&mut self, actor_type: usize, key: &str, index: u32, generation: u32) {
        if self.get(actor_type, key) == Some((index, generation)) {
            self.types[actor_type].remove(key);
        }
    }

    /// The cells of a type's active actors.
    pub(crate) fn cells(&self, actor_type: usize) -> impl Iterator<Item = (u32, u32)> {
        self.types[actor_type].values().copied()
    }
}
