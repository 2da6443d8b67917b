//! Blocking calls for actors: a small bounded pool of threads, started when it is first needed.
//!
//! Invariant: at most [`BLOCKING_THREADS`] threads an engine, and [`BLOCKING_QUEUE`] calls that wait for one; a call that finds no
//! room is handed back. A thread that has nothing to do for [`BLOCKING_IDLE`] ends. A shard never waits for any of it.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use crate::actor::Actor;
use crate::context::Context;
use crate::error::Panicked;
use crate::limits::{BLOCKING_IDLE, BLOCKING_QUEUE, BLOCKING_THREADS};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The threads of one engine for calls that block.
#[derive(Default)]
pub(crate) struct BlockingPool {
    state: Mutex<State>,
    work: Condvar,
}

impl BlockingPool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread do it, now or later; it comes back when the queue is full.
    fn run(&'static self, job: Job) -> Result<(), Job> {
        let mut state = self.lock();
        if state.queue.len() >= BLOCKING_QUEUE {
            return Err(job);
        }
        let lacks_thread = state.idle <= state.queue.len() && state.threads < BLOCKING_THREADS;
        if lacks_thread {
            let spawned = std::thread::Builder::new().name("shardstage-blocking".to_owned()).spawn(|| self.serve());
            if spawned.is_ok() {
                state.threads += 1;
            } else if state.threads == 0 {
                return Err(job);
            }
        }
        state.queue.push_back(job);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// One thread's life.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (back, waited) = self.work.wait_timeout(state, BLOCKING_IDLE).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

/// The pool has no room: the closure comes back, and nothing has happened. Try again later or shed load.
pub struct BlockingFull<C>(pub C);

impl<C> std::fmt::Debug for BlockingFull<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockingFull")
    }
}

impl<C> std::fmt::Display for BlockingFull<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as many blocking calls as may wait for a thread are waiting already")
    }
}

impl<C> std::error::Error for BlockingFull<C> {}

/// What a call has returned, or will.
struct Outcome<C, T> {
    state: Mutex<Call<C, T>>,
}

enum Call<C, T> {
    /// Not begun.
    Waiting(C, Option<Waker>),
    Running(Option<Waker>),
    Done(Result<T, Panicked>),
    /// Nobody wants it, or it was taken.
    Over,
}

impl<C, T> Outcome<C, T>
where
    C: FnOnce() -> T,
{
    fn lock(&self) -> MutexGuard<'_, Call<C, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        let Call::Waiting(call, waker) = std::mem::replace(&mut *state, Call::Over) else { return };
        *state = Call::Running(waker);
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Panicked::from_payload(&*panic));
        let mut state = self.lock();
        let was = std::mem::replace(&mut *state, Call::Over);
        let Call::Running(waker) = was else {
            drop(state);
            // Nobody wants it.
            return crate::shard::drop_contained(result);
        };
        *state = Call::Done(result);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The result of a call; dropped before the call began, it ends that too.
struct Returned<C, T>(Arc<Outcome<C, T>>)
where
    C: FnOnce() -> T;

impl<C: FnOnce() -> T, T> Future for Returned<C, T> {
    type Output = Result<T, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &mut *state {
            Call::Waiting(_, waker) | Call::Running(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Call::Done(_) | Call::Over => match std::mem::replace(&mut *state, Call::Over) {
                Call::Done(result) => Poll::Ready(result),
                _ => Poll::Pending,
            },
        }
    }
}

impl<C: FnOnce() -> T, T> Drop for Returned<C, T> {
    fn drop(&mut self) {
        let was = std::mem::replace(&mut *self.0.lock(), Call::Over);
        drop(was);
    }
}

impl<A: Actor> Context<A> {
    /// Runs a closure that blocks on a thread of the engine's small pool, while this actor and its shard go on. Nothing happens
    /// before `then`. In a test on virtual time the closure runs at once, on the test's thread.
    pub fn spawn_blocking<C, T>(&mut self, call: C) -> PendingBlocking<'_, A, C>
    where
        C: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        PendingBlocking { call, cx: self }
    }
}

/// A blocking call that waits for its `then`.
#[must_use = "nothing is called before `then`"]
pub struct PendingBlocking<'a, A, C> {
    call: C,
    cx: &'a mut Context<A>,
}

impl<A: Actor, C> PendingBlocking<'_, A, C> {
    /// Starts the call; `f` runs as a turn of this actor with what it returned, or the text of its panic. If this actor stops or is
    /// rebuilt before, `f` is dropped: a call that has not begun never will, one that has runs to its end for nobody. A shutdown
    /// waits for it.
    ///
    /// # Errors
    /// [`BlockingFull`] when no thread is free and the queue is full: the closure comes back, and `f` is dropped.
    pub fn then<T, F>(self, f: F) -> Result<(), BlockingFull<C>>
    where
        C: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
        F: FnOnce(&mut A, Result<T, Panicked>, &mut Context<A>) + 'static,
    {
        let Self { call, cx } = self;
        let engine = cx.shard_cell().link.engine();
        let outcome = Arc::new(Outcome { state: Mutex::new(Call::Waiting(call, None)) });
        if crate::sim::world_of(engine).is_some() {
            outcome.run();
        } else {
            let shared = Arc::clone(&outcome);
            if engine.blocking.run(Box::new(move || shared.run())).is_err() {
                let was = std::mem::replace(&mut *outcome.lock(), Call::Over);
                let Call::Waiting(call, _) = was else { unreachable!("it was not started") };
                return Err(BlockingFull(call));
            }
        }
        cx.reenter_after(Returned(outcome), f);
        Ok(())
    }
}

impl<A, C> std::fmt::Debug for PendingBlocking<'_, A, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PendingBlocking")
    }
}
