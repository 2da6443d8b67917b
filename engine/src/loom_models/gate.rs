//! The injector's protocol: pushes from any thread against wake and close, and the wakers of async handlers, which take the
//! same way.

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::sync::Mutex;
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

/// What an actor's waker does from a foreign thread: a request to the shard, and a wake.
struct ActorWaker(Arc<Link<()>>);

impl Wake for ActorWaker {
    fn wake(self: Arc<Self>) {
        self.0.inject(());
    }
}

/// A future's share: whether it is done, and whom to wake.
type Pending = Mutex<(bool, Option<Waker>)>;

fn complete(pending: &Pending) {
    let waker = {
        let mut state = pending.lock().expect("no model panics in it");
        state.0 = true;
        state.1.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn poll(pending: &Pending, waker: &Waker) -> bool {
    let mut state = pending.lock().expect("no model panics in it");
    state.1 = Some(waker.clone());
    state.0
}

#[test]
fn a_wake_from_another_thread_reaches_a_suspended_actor() {
    check(|| {
        let (link, queue) = Link::open();
        let waker = Waker::from(Arc::new(ActorWaker(Arc::clone(&link))));
        let pending = Arc::new(Mutex::new((false, None)));
        let theirs = Arc::clone(&pending);
        let thread = thread::spawn(move || complete(&theirs));
        // The first poll, then one for each wake, as in `shard/activate.rs`.
        while !poll(&pending, &waker) {
            while queue.pop().is_none() {
                link.park(&queue);
            }
        }
        thread.join().expect("the completing thread does not panic");
    });
}

#[test]
fn a_wake_after_the_end_is_nothing() {
    check(|| {
        let (link, queue) = Link::<()>::open();
        let waker = Waker::from(Arc::new(ActorWaker(Arc::clone(&link))));
        let thread = thread::spawn(move || waker.wake());
        drop(queue);
        let queue = link.gate.close().expect("closed once");
        while queue.pop().is_some() {}
        thread.join().expect("the waking thread does not panic");
        assert!(queue.is_empty(), "refused, or drained above");
    });
}
