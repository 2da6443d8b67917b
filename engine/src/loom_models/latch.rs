//! The latch: the first value wins, and whoever waits gets it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use super::{Sleeper, check};
use crate::latch::{Happening, Latch, LatchGuard};

/// A task that sleeps between its polls.
pub(super) struct Task(pub(super) Arc<Sleeper>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

/// Polls until ready, sleeping in between.
pub(super) fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let sleeper = Sleeper::new();
    let waker = Waker::from(Arc::new(Task(Arc::clone(&sleeper))));
    let mut cx = Context::from_waker(&waker);
    loop {
        match poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => sleeper.sleep(),
        }
    }
}

#[test]
fn a_waiting_thread_is_told() {
    check(|| {
        let latch = Latch::new();
        let setting = Arc::clone(&latch);
        let thread = thread::spawn(move || setting.set(1));
        assert_eq!(latch.wait(), 1);
        thread.join().expect("the setting thread does not panic");
    });
}

#[test]
fn two_waiting_tasks_are_told() {
    check(|| {
        let latch = Latch::new();
        let waiting = Arc::clone(&latch);
        let task = thread::spawn(move || {
            let mut happening = pin!(Happening { latch: waiting, what: "a model", engine: None });
            block_on(|cx| happening.as_mut().poll(cx))
        });
        let setting = Arc::clone(&latch);
        let setter = thread::spawn(move || setting.set(1));
        let mut happening = pin!(Happening { latch, what: "a model", engine: None });
        assert_eq!(block_on(|cx| happening.as_mut().poll(cx)), 1);
        assert_eq!(task.join().expect("no waiting thread panics"), 1);
        setter.join().expect("the setting thread does not panic");
    });
}

#[test]
fn the_first_value_wins_against_a_guard_that_is_dropped() {
    check(|| {
        let latch = Latch::new();
        let guard = LatchGuard::new(Arc::clone(&latch), 2);
        let setting = Arc::clone(&latch);
        let setter = thread::spawn(move || setting.set(1));
        let dropper = thread::spawn(move || drop(guard));
        let seen = latch.wait();
        setter.join().expect("the setting thread does not panic");
        dropper.join().expect("the dropping thread does not panic");
        assert_eq!(latch.wait(), seen, "it never changes");
    });
}
