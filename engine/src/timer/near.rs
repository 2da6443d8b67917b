//! What is due within the granule that was opened last: a heap, exact to the nanosecond.
//!
//! Invariant: entries come out in order of due time, then in the order in which they went in. One of a timer that was
//! cancelled stays until it comes out or they are swept; there are never many more of them than of the others. Shard
//! thread only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::limits::CANCELLED_TIMERS_KEPT;

/// A timer in the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) at_ns: u64,
    order: u64,
    pub(super) number: u64,
    pub(super) index: u32,
}

/// See the module's head.
pub(super) struct Near {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
    cancelled: usize,
}

impl Near {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), order: 0, cancelled: 0 }
    }

    pub(super) fn push(&mut self, at_ns: u64, number: u64, index: u32) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at_ns, order: self.order, number, index }));
    }

    /// The entry that comes first.
    pub(super) fn first(&self) -> Option<Entry> {
        self.heap.peek().map(|Reverse(entry)| *entry)
    }

    /// Takes the first entry out; `live` says whether it was of a timer that was not cancelled.
    pub(super) fn pop(&mut self, live: bool) {
        self.heap.pop();
        self.cancelled -= usize::from(!live);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// One entry is of a timer that was cancelled now; whether they should be swept.
    pub(super) fn cancel(&mut self) -> bool {
        self.cancelled += 1;
        self.cancelled > CANCELLED_TIMERS_KEPT + self.heap.len() / 2
    }

    /// Keeps the entries of live timers only.
    pub(super) fn sweep(&mut self, mut live: impl FnMut(&Entry) -> bool) {
        self.heap.retain(|Reverse(entry)| live(entry));
        self.cancelled = 0;
    }
}
