//! The run queue: ready actors of one shard, with a bounded last-in-first-out burst.
//!
//! The burst keeps a chain of small actors in cache (depth first); its bound keeps every other ready actor served.
//! Invariant: an actor is in the queue at most once (its `scheduled` flag), and an actor waits for at most
//! [`LIFO_BURST`] activations plus the queue before it.

use std::collections::VecDeque;

use crate::limits::{LIFO_BURST, LIFO_DEPTH};

/// Ready actors by cell index.
pub(crate) struct RunQueue {
    lifo: [u32; LIFO_DEPTH],
    /// Entries of `lifo`.
    depth: usize,
    burst: u32,
    fifo: VecDeque<u32>,
}

impl Default for RunQueue {
    fn default() -> Self {
        Self { lifo: [0; LIFO_DEPTH], depth: 0, burst: 0, fifo: VecDeque::new() }
    }
}

impl RunQueue {
    /// A newly ready actor.
    #[inline]
    pub(crate) fn push(&mut self, index: u32) {
        if let Some(entry) = self.lifo.get_mut(self.depth) {
            *entry = index;
            self.depth += 1;
        } else {
            self.fifo.push_back(index);
        }
    }

    /// An actor that still has work after its share.
    #[inline]
    pub(crate) fn push_back(&mut self, index: u32) {
        self.fifo.push_back(index);
    }

    /// The next actor to run.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.burst < LIFO_BURST
            && let Some(last) = self.depth.checked_sub(1)
        {
            self.burst += 1;
            self.depth = last;
            return Some(self.lifo[last]);
        }
        self.pop_front()
    }

    #[inline(never)]
    fn pop_front(&mut self) -> Option<u32> {
        self.fifo.extend(&self.lifo[..self.depth]);
        self.depth = 0;
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

    #[test]
    fn a_burst_ends_and_the_oldest_gets_its_turn() {
        let mut queue = RunQueue::default();
        queue.push_back(7);
        let mut served_after = 0;
        queue.push(1);
        while let Some(index) = queue.pop() {
            if index == 7 {
                break;
            }
            served_after += 1;
            queue.push(1);
        }
        assert_eq!(served_after, LIFO_BURST);
    }

    #[test]
    fn newly_ready_actors_run_last_in_first_out() {
        let mut queue = RunQueue::default();
        for index in 0..3 {
            queue.push(index);
        }
        assert_eq!([queue.pop(), queue.pop(), queue.pop(), queue.pop()], [Some(2), Some(1), Some(0), None]);
        assert!(queue.is_empty());
    }
}
