//! What the lock-free parts synchronise with: the standard library's types, or a model checker's under `--cfg loom` and
//! `--cfg shuttle`, or locks that ThreadSanitizer can see under `--cfg tsan`.
//!
//! Invariant: ring, parked flag, gate, wake list, credit table, latch and reply seats name these and no others, so that their models run the very
//! code that ships. A cell gives its address to a closure, because that is how loom sees each access.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread,
};
#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread, thread_local,
};
#[cfg(not(shuttle))]
pub(crate) use std::thread_local;
#[cfg(tsan)]
mod tsan;
#[cfg(tsan)]
pub(crate) use self::tsan::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle, tsan)))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread,
};

use std::time::Duration;

/// Blocks until this thread is unparked or `timeout` has passed. A model has no time, so nothing passes there.
pub(crate) fn park_timeout(timeout: Duration) {
    if cfg!(any(loom, shuttle)) { thread::park() } else { std::thread::park_timeout(timeout) }
}

/// Waits for a while; a model only lets others run.
pub(crate) fn pause(time: Duration) {
    if cfg!(any(loom, shuttle)) { thread::yield_now() } else { std::thread::park_timeout(time) }
}

/// A cell whose contents are reached through a raw pointer only.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Lends the address of the contents. Whoever uses it answers for exclusive access.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
