//! The standard library's lock and condition variable with orderings that ThreadSanitizer can see, under `--cfg tsan`.
//!
//! The library is not instrumented: where a lock is contended, or a wait takes it again, the sanitizer misses that it orders
//! anything and reports what it guards. Invariant: `clock` is loaded right after the real lock was taken and stored right
//! before it is given back, so it says nothing that the lock does not guarantee.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError, WaitTimeoutResult};
use std::time::Duration;

/// See the module's head.
#[derive(Default)]
pub(crate) struct Mutex<T> {
    clock: AtomicBool,
    inner: std::sync::Mutex<T>,
}

/// See the module's head.
pub(crate) struct MutexGuard<'a, T> {
    clock: &'a AtomicBool,
    inner: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { clock: AtomicBool::new(false), inner: std::sync::Mutex::new(value) }
    }

    /// Takes the lock; one that a panic has poisoned counts as whole, as everywhere in the engine.
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Ok(MutexGuard::taken(&self.clock, self.inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<'a, T> MutexGuard<'a, T> {
    fn taken(clock: &'a AtomicBool, inner: std::sync::MutexGuard<'a, T>) -> Self {
        clock.load(Ordering::Acquire);
        Self { clock, inner: Some(inner) }
    }

    fn give_back(&mut self) -> Option<std::sync::MutexGuard<'a, T>> {
        let inner = self.inner.take();
        if inner.is_some() {
            self.clock.store(true, Ordering::Release);
        }
        inner
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until it is dropped")
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("held until it is dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.give_back());
    }
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let (clock, inner) = (guard.clock, guard.give_back().expect("held until it is dropped"));
        Ok(MutexGuard::taken(clock, self.0.wait(inner).unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let (clock, inner) = (guard.clock, guard.give_back().expect("held until it is dropped"));
        let (inner, over) = self.0.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner);
        Ok((MutexGuard::taken(clock, inner), over))
    }
}
