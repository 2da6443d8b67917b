//! The injector's protocol: pushes from any thread against wake and close.

use std::sync::Arc;

use loom::thread;

use super::{Queue, Sleeper, check};
use crate::gate::Gate;
use crate::parked::{Parked, order_publication};

/// What `ShardLink` is to other threads.
struct Link<T> {
    gate: Gate<Arc<Queue<T>>>,
    parked: Parked,
    sleeper: Arc<Sleeper>,
}

impl<T> Link<T> {
    fn open() -> (Arc<Self>, Arc<Queue<T>>) {
        let link = Arc::new(Self { gate: Gate::new(), parked: Parked::new(), sleeper: Sleeper::new() });
        let queue = Arc::new(Queue::new());
        link.gate.open(Arc::clone(&queue));
        (link, queue)
    }

    /// As in `link.rs`.
    fn inject(&self, value: T) -> bool {
        let accepted = self.gate.pass(|queue| queue.map(|queue| queue.push(value)).is_some());
        if accepted {
            order_publication();
            if self.parked.claim() {
                self.gate.pass(|queue| queue.map(|_| self.sleeper.wake()));
            }
        }
        accepted
    }

    fn park(&self, queue: &Queue<T>) {
        self.parked.prepare();
        if queue.is_empty() {
            self.sleeper.sleep();
        }
        self.parked.finish();
    }
}

#[test]
fn an_injected_message_wakes_the_shard() {
    check(|| {
        let (link, queue) = Link::open();
        let threads: Vec<_> = (0..2)
            .map(|value| {
                let link = Arc::clone(&link);
                thread::spawn(move || assert!(link.inject(value)))
            })
            .collect();
        let mut received = 0;
        while received < 2 {
            match queue.pop() {
                Some(_) => received += 1,
                None => link.park(&queue),
            }
        }
        for thread in threads {
            thread.join().expect("no injecting thread panics");
        }
    });
}

#[test]
fn what_was_accepted_is_seen_by_whoever_closes() {
    check(|| {
        let (link, queue) = Link::open();
        let threads: Vec<_> = (0..2)
            .map(|value| {
                let link = Arc::clone(&link);
                thread::spawn(move || link.inject(value))
            })
            .collect();
        let taken = usize::from(queue.pop().is_some());
        drop(queue);
        let queue = link.gate.close().expect("closed once");
        let drained = std::iter::from_fn(|| queue.pop()).count();
        let accepted = threads.into_iter().map(|thread| thread.join().expect("none panics"));
        assert_eq!(accepted.filter(|accepted| *accepted).count(), taken + drained);
        assert!(queue.is_empty(), "nothing comes after the close");
        assert!(!link.inject(3));
    });
}
