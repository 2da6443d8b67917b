//! Models of the lock-free parts, run by loom: `RUSTFLAGS="--cfg loom" cargo test -p shardstage --lib loom`.
//!
//! Each model runs the shipped code with loom's atomics through every interleaving, and every value that a load may return,
//! up to a number of preemptions: 3, or `LOOM_MAX_PREEMPTIONS`. A lost wake-up shows as a deadlock, a message read before it
//! is written or a slot reused too early as a causality violation, a leak or a double drop as a wrong count.

mod credit;
mod gate;
mod latch;
mod park;
mod reply;
mod ring;
mod waker;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex};

const PREEMPTIONS: usize = 3;

/// Runs `model` through all its interleavings.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(model);
}

/// What a driver is to a parked shard: a wake that comes early is kept.
struct Sleeper {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Self { woken: Mutex::new(false), changed: Condvar::new() })
    }

    fn wake(&self) {
        *self.woken.lock().expect("no model panics in it") = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut woken = self.woken.lock().expect("no model panics in it");
        while !*woken {
            woken = self.changed.wait(woken).expect("no model panics in it");
        }
        *woken = false;
    }
}

/// Stands for the queues of crossbeam, which loom cannot look into.
struct Queue<T>(Mutex<VecDeque<T>>);

impl<T> Queue<T> {
    fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn push(&self, value: T) {
        self.0.lock().expect("no model panics in it").push_back(value);
    }

    fn pop(&self) -> Option<T> {
        self.0.lock().expect("no model panics in it").pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().expect("no model panics in it").is_empty()
    }
}
