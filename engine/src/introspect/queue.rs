//! `Queue`: threads of the port that wait for their turn to look at every actor.
//!
//! Invariant: one at a time is in, so that shards take one slice a turn for the port, however many pages are asked for. Nobody
//! waits for longer than it says. Threads of the port only, never a shard's.

use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};
use crate::until::Until;

/// See the module's head.
#[derive(Default)]
pub(crate) struct Queue {
    is_taken: Mutex<bool>,
    left: Condvar,
}

/// Whoever is in; leaves when this is dropped.
pub(crate) struct Turn<'a>(&'a Queue);

impl Queue {
    /// Waits until nobody is in; `None` when that takes longer than `patience`.
    pub(crate) fn enter(&self, patience: Duration) -> Option<Turn<'_>> {
        let until = Until::after(patience);
        let mut is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_taken {
            let left = until.left();
            if left.is_zero() {
                return None;
            }
            (is_taken, _) = self.left.wait_timeout(is_taken, left).unwrap_or_else(PoisonError::into_inner);
        }
        *is_taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_in_at_a_time_and_nobody_waits_for_ever() {
        let queue = Queue::default();
        let first = queue.enter(Duration::ZERO);
        assert!(first.is_some() && queue.enter(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| queue.enter(Duration::MAX).is_some());
            drop(first);
            assert!(second.join().expect("it only waits"));
        });
        assert!(queue.enter(Duration::ZERO).is_some(), "the second has left");
    }
}
