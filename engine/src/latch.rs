//! `Latch`: a value that is set once and that any number of threads and tasks wait for.
//!
//! Invariant: the first `set` wins; waiters see the value or are woken after it is in place.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::engine_link::EngineLink;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::until::Until;

struct State<T> {
    value: Option<T>,
    wakers: Vec<Waker>,
}

/// Set once, waited for by many.
pub(crate) struct Latch<T> {
    state: Mutex<State<T>>,
    set: Condvar,
}

impl<T: Clone> Latch<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { value: None, wakers: Vec::new() }), set: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, value: T) {
        let mut state = self.lock();
        if state.value.is_none() {
            state.value = Some(value);
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            self.set.notify_all();
            for waker in wakers {
                waker.wake();
            }
        }
    }

    pub(crate) fn wait(&self) -> T {
        let mut state = self.lock();
        loop {
            if let Some(value) = &state.value {
                return value.clone();
            }
            state = self.set.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until set or until `timeout` has passed.
    pub(crate) fn wait_for(&self, timeout: std::time::Duration) -> Option<T> {
        let until = Until::after(timeout);
        let mut state = self.lock();
        loop {
            let left = until.left();
            if state.value.is_some() || left.is_zero() {
                return state.value.clone();
            }
            (state, _) = self.set.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether it has been set.
    pub(crate) fn is_set(&self) -> bool {
        self.lock().value.is_some()
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.lock();
        if let Some(value) = &state.value {
            return Poll::Ready(value.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Sets the latch to a fallback when it is dropped unset, so that nobody waits for a queue that is gone.
pub(crate) struct LatchGuard<T: Clone> {
    latch: Arc<Latch<T>>,
    fallback: Option<T>,
}

impl<T: Clone> LatchGuard<T> {
    pub(crate) fn new(latch: Arc<Latch<T>>, fallback: T) -> Self {
        Self { latch, fallback: Some(fallback) }
    }

    /// Whether somebody could still see it set.
    pub(crate) fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.latch) > 1
    }

    /// Sets the latch.
    pub(crate) fn set(mut self, value: T) {
        self.fallback = Some(value);
    }
}

/// Adds a guard to those that an actor keeps. When their room is used up, those for which nobody waits any more are taken out
/// before there is more of it; the caller drops them where the wakers of users may be dropped.
#[must_use]
pub(crate) fn keep<T: Clone>(guards: &mut Vec<LatchGuard<T>>, guard: LatchGuard<T>) -> Vec<LatchGuard<T>> {
    let mut given_up = Vec::new();
    if guards.len() == guards.capacity() {
        given_up.extend(guards.extract_if(.., |guard| !guard.is_awaited()));
    }
    guards.push(guard);
    given_up
}

impl<T: Clone> Drop for LatchGuard<T> {
    fn drop(&mut self) {
        if let Some(fallback) = self.fallback.take() {
            self.latch.set(fallback);
        }
    }
}

/// Something that will have happened: `.await` it, or `.wait()` for it outside the shards.
#[must_use = "it happens anyway; await it to know when"]
pub struct Happening<T> {
    pub(crate) latch: Arc<Latch<T>>,
    pub(crate) what: &'static str,
    /// The engine in which it happens.
    pub(crate) engine: Option<&'static EngineLink>,
}

impl<T: Clone> Happening<T> {
    /// Blocks the calling thread until it has happened. In a test on virtual time it runs the world until then.
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(self) -> T {
        crate::shard::assert_not_on_a_shard(self.what);
        if let Some(world) = self.engine.and_then(crate::sim::world_of) {
            return world.wait(self);
        }
        self.latch.wait()
    }
}

impl<T: Clone> Future for Happening<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.latch.poll(cx)
    }
}

impl<T> std::fmt::Debug for Happening<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Happening({})", self.what)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn guards_for_which_nobody_waits_make_room_and_nobody_else_is_woken() {
        let mut guards = Vec::new();
        let waited_for: Vec<_> = (0..10).map(|_| Latch::new()).collect();
        let mut given_up = 0;
        for round in 0..10_000 {
            if let Some(latch) = waited_for.get(round / 100).filter(|_| round % 100 == 0) {
                given_up += keep(&mut guards, LatchGuard::new(latch.clone(), 0)).len();
            }
            given_up += keep(&mut guards, LatchGuard::new(Latch::new(), 0)).len();
        }
        assert!(guards.capacity() <= 64, "{} for ten that are waited for", guards.capacity());
        assert_eq!(guards.len() + given_up, 10_010);
        assert!(waited_for.iter().all(|latch| !latch.is_set()), "who waits goes on waiting");
        guards.into_iter().for_each(|guard| guard.set(7));
        assert!(waited_for.iter().all(|latch| latch.wait() == 7));
    }
}
