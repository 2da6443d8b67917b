//! The directory of one shard: active virtual actors by type and key, and who of them is longest without a message.
//!
//! Each activation has one entry in its type's heap of ages, by when it last ran as far as the heap knows. An entry is looked at
//! when it comes to the top: one that has run since goes back under its true age. So a message costs the heap nothing, and what
//! is idle or least recently used is found without looking at those that are not.
//!
//! Invariant: an entry of the maps exists exactly as long as its activation's cell; a key has at most one. Shard thread only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::FixedState;

use crate::key::Key;
use crate::limits::STALE_AGES_KEPT;

/// When an activation last ran, in units of 2^20 ns of the driver's clock, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    pub(crate) ran_ms: u64,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// An activation that was told to leave once it has nothing to do.
#[derive(Clone, Copy)]
pub(crate) struct Leaving {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    /// When it leaves whatever it has to do.
    pub(crate) until_ns: u64,
}

/// The active actors of one registered type.
struct Hosted {
    cells: HashMap<Key, (u32, u32), FixedState>,
    ages: BinaryHeap<Reverse<Age>>,
}

/// See the module's head; one map per registered type.
pub(crate) struct Directory {
    types: Vec<Hosted>,
    active: u32,
    /// Active actors beyond which the least recently used ones leave.
    ceiling: u32,
    /// Told to leave, in the order in which they were.
    pub(crate) leaving: Vec<Leaving>,
    /// When the next look for idle actors is due; `u64::MAX` when nobody is active.
    pub(crate) next_sweep_ns: u64,
}

impl Directory {
    /// `seed` keeps keys from being chosen to collide, and traces repeatable in the simulator.
    pub(crate) fn new(type_count: usize, seed: u64, ceiling: u32) -> Self {
        let hosted = |_| Hosted { cells: HashMap::with_hasher(FixedState::with_seed(seed)), ages: BinaryHeap::new() };
        let types = (0..type_count).map(hosted).collect();
        Self { types, active: 0, ceiling, leaving: Vec::new(), next_sweep_ns: u64::MAX }
    }

    #[inline]
    pub(crate) fn get(&self, actor_type: usize, key: &str) -> Option<(u32, u32)> {
        self.types[actor_type].cells.get(key).copied()
    }

    /// Enters an activation of now, which is idle at `idle_at_ns` unless it runs before.
    pub(crate) fn insert(&mut self, actor_type: usize, key: Key, cell: (u32, u32), now_ns: u64, idle_at_ns: u64) {
        let previous = self.types[actor_type].cells.insert(key, cell);
        debug_assert!(previous.is_none(), "a key has one activation");
        self.active += 1;
        self.stays(actor_type, cell, now_ns, idle_at_ns);
        if self.active > self.ceiling {
            self.next_sweep_ns = now_ns;
        }
    }

    /// An activation begins to age: a new one, or one that was about to leave when a message came.
    pub(crate) fn stays(&mut self, actor_type: usize, cell: (u32, u32), now_ns: u64, idle_at_ns: u64) {
        self.next_sweep_ns = self.next_sweep_ns.min(idle_at_ns);
        self.age(actor_type, Age { ran_ms: now_ns >> 20, index: cell.0, generation: cell.1 });
    }

    /// Removes the entry if it is still that of the given cell.
    pub(crate) fn remove(&mut self, actor_type: usize, key: &str, index: u32, generation: u32) {
        if self.get(actor_type, key) == Some((index, generation)) {
            self.types[actor_type].cells.remove(key);
            self.active -= 1;
        }
    }

    /// How many active actors are too many.
    pub(crate) fn excess(&self) -> u32 {
        self.active.saturating_sub(self.ceiling)
    }

    /// Puts an age back.
    pub(crate) fn age(&mut self, actor_type: usize, age: Age) {
        let Hosted { cells, ages } = &mut self.types[actor_type];
        ages.push(Reverse(age));
        // Those of activations that ended otherwise never outnumber the others by much.
        if ages.len() > STALE_AGES_KEPT + 2 * cells.len() {
            let mut live: Vec<(u32, u32)> = cells.values().copied().collect();
            live.sort_unstable();
            ages.retain(|Reverse(age)| live.binary_search(&(age.index, age.generation)).is_ok());
        }
    }

    /// The age at the top of a type's heap.
    pub(crate) fn oldest(&self, actor_type: usize) -> Option<Age> {
        self.types[actor_type].ages.peek().map(|Reverse(age)| *age)
    }

    /// Takes the age at the top of a type's heap.
    pub(crate) fn take_oldest(&mut self, actor_type: usize) -> Option<Age> {
        self.types[actor_type].ages.pop().map(|Reverse(age)| age)
    }

    /// The type whose oldest activation is the oldest of all.
    pub(crate) fn oldest_type(&self) -> Option<usize> {
        let tops = (0..self.types.len()).filter_map(|actor_type| Some((self.oldest(actor_type)?, actor_type)));
        tops.min().map(|(_, actor_type)| actor_type)
    }
}
