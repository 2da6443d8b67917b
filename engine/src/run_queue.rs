//! The run queue: ready actors of one shard, with a bounded last-in-first-out burst.
//!
//! The burst keeps a chain of small actors in cache (depth first); its bound keeps every other ready actor served.
//! Invariant: an actor is in the queue at most once (its `scheduled` flag), and an actor waits for at most
//! [`LIFO_BURST`] messages and one actor's share, plus the queue before it.

use std::collections::VecDeque;
use std::ptr::NonNull;

use crate::limits::{LIFO_BURST, LIFO_DEPTH};
use crate::shard::Cell;

/// An actor that is ready: its cell, which never moves, so that running it begins with a pointer instead of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) cell: NonNull<Cell>,
    pub(crate) index: u32,
}

/// Ready actors.
pub(crate) struct RunQueue {
    lifo: [Ready; LIFO_DEPTH],
    /// Entries of `lifo`.
    depth: usize,
    /// Whether the last actor came from the last-in-first-out end, and so belongs to the burst.
    in_burst: bool,
    /// Messages that the burst has handled.
    burst: u32,
    fifo: VecDeque<Ready>,
}

impl Default for RunQueue {
    fn default() -> Self {
        let none = Ready { cell: NonNull::dangling(), index: u32::MAX };
        Self { lifo: [none; LIFO_DEPTH], depth: 0, in_burst: false, burst: 0, fifo: VecDeque::new() }
    }
}

impl RunQueue {
    /// How many actors are ready.
    pub(crate) fn len(&self) -> usize {
        self.depth + self.fifo.len()
    }

    /// A newly ready actor.
    #[inline]
    pub(crate) fn push(&mut self, ready: Ready) {
        if let Some(entry) = self.lifo.get_mut(self.depth) {
            *entry = ready;
            self.depth += 1;
        } else {
            self.fifo.push_back(ready);
        }
    }

    /// An actor that still has work after its share.
    #[inline]
    pub(crate) fn push_back(&mut self, ready: Ready) {
        self.fifo.push_back(ready);
    }

    /// Notes how many messages the last actor handled, at least 1.
    #[inline(always)]
    pub(crate) fn charge(&mut self, handled: u32) {
        self.burst += handled * u32::from(self.in_burst);
    }

    /// The next actor to run.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<Ready> {
        if self.burst < LIFO_BURST
            && let Some(last) = self.depth.checked_sub(1)
        {
            self.in_burst = true;
            self.depth = last;
            return Some(self.lifo[last]);
        }
        self.pop_front()
    }

    #[inline(never)]
    fn pop_front(&mut self) -> Option<Ready> {
        self.fifo.extend(&self.lifo[..self.depth]);
        self.depth = 0;
        self.in_burst = false;
        self.burst = 0;
        self.fifo.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fifo.is_empty() && self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(index: u32) -> Ready {
        Ready { cell: NonNull::dangling(), index }
    }

    #[test]
    fn a_burst_ends_and_the_oldest_gets_its_turn() {
        let mut queue = RunQueue::default();
        queue.push_back(ready(7));
        let mut served_after = 0;
        queue.push(ready(1));
        while let Some(next) = queue.pop() {
            if next.index == 7 {
                break;
            }
            served_after += 1;
            queue.charge(1);
            queue.push(ready(1));
        }
        assert_eq!(served_after, LIFO_BURST);
    }

    #[test]
    fn newly_ready_actors_run_last_in_first_out() {
        let mut queue = RunQueue::default();
        for index in 0..3 {
            queue.push(ready(index));
        }
        let order = std::array::from_fn(|_| queue.pop().map(|next| next.index));
        assert_eq!(order, [Some(2), Some(1), Some(0), None]);
        assert!(queue.is_empty());
    }
}
