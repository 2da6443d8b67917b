//! Where timers lie: nodes of a fixed size in chunks that never move, each linked to its neighbours in a list of the wheel
//! and to the other timers of its owner.
//!
//! Invariant: a node with number 0 is free; every other one is in its owner's list, and in exactly the place that it says.
//! Shard thread only.

use super::{Body, Owner};
use crate::limits::TIMERS_PER_CHUNK;

/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// The neighbours in one list.
#[derive(Clone, Copy)]
pub(super) struct Links {
    pub(super) before: u32,
    pub(super) after: u32,
}

impl Links {
    pub(super) const NONE: Self = Self { before: NIL, after: NIL };
}

/// Where a timer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a list of the wheel.
    Wheel { level: u8, slot: u8 },
    /// In the heap of what is near.
    Near,
    /// Nowhere: it was taken out because its time had come.
    Out,
}

/// One timer.
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) at_ns: u64,
    /// Never used twice; 0 for a free node.
    pub(super) number: u64,
    /// In the wheel; of a free node, `after` is the next free one.
    pub(super) wheel: Links,
    /// Among the timers of its owner, the latest first.
    pub(super) owned: Links,
    pub(super) owner: Owner,
    pub(super) place: Place,
}

const _: () = assert!(size_of::<Node>() == 112);

/// All timers of a shard. What is not used is kept for the next ones.
pub(super) struct Slab {
    chunks: Vec<Box<[Node]>>,
    free: u32,
    live: usize,
}

impl Slab {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, live: 0 }
    }

    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// How many are in use.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Takes a free node; the caller links it.
    pub(super) fn take(&mut self, number: u64, at_ns: u64, owner: Owner, body: Body) -> u32 {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let node = &mut self[index];
        let next = node.wheel.after;
        *node = Node { body, at_ns, number, wheel: Links::NONE, owned: Links::NONE, owner, place: Place::Out };
        self.free = next;
        self.live += 1;
        index
    }

    /// Frees a node that is in no list; returns what it held.
    pub(super) fn free(&mut self, index: u32) -> Body {
        let next = self.free;
        let node = &mut self[index];
        node.number = 0;
        node.wheel.after = next;
        let body = std::mem::replace(&mut node.body, Body::GONE);
        self.free = index;
        self.live -= 1;
        body
    }

    /// The node of this number, if it is in use.
    pub(super) fn get(&mut self, index: u32, number: u64) -> Option<&mut Node> {
        let chunk = self.chunks.get_mut(index as usize / TIMERS_PER_CHUNK)?;
        chunk.get_mut(index as usize % TIMERS_PER_CHUNK).filter(|node| node.number == number && number != 0)
    }

    #[cold]
    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * TIMERS_PER_CHUNK).expect("timers are fewer than 2^32");
        let last = first + TIMERS_PER_CHUNK as u32 - 1;
        let free = |index: u32| Node {
            body: Body::GONE,
            at_ns: 0,
            number: 0,
            wheel: Links { before: NIL, after: if index == last { NIL } else { index + 1 } },
            owned: Links::NONE,
            owner: Owner { index: 0, generation: 0 },
            place: Place::Out,
        };
        self.chunks.push((first..=last).map(free).collect());
        self.free = first;
    }
}

impl std::ops::Index<u32> for Slab {
    type Output = Node;

    #[inline]
    fn index(&self, index: u32) -> &Node {
        &self.chunks[index as usize / TIMERS_PER_CHUNK][index as usize % TIMERS_PER_CHUNK]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Node {
        &mut self.chunks[index as usize / TIMERS_PER_CHUNK][index as usize % TIMERS_PER_CHUNK]
    }
}
