//! Answers to threads and tasks outside the shards.
//!
//! Invariant: the first completion wins; whoever waits is woken after the value is in place. A seat that is dropped
//! unanswered ends the ask, and an ask that is dropped unanswered frees its slot.

use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use shardstage_codec::GroupId;

use super::table::NewSlot;
use super::{ReplyAddress, ReplyOps, Waiter};
use crate::ask::Target;
use crate::asking::cancel::give_up;
use crate::erased::Erased;
use crate::error::{AskError, Panicked, Rejected};
use crate::link::ShardLink;
use crate::shard::{ShardCell, drop_contained};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, MutexGuard};

/// The part of a foreign ask that does not need its reply type.
pub(crate) trait ForeignAsker: Send + Sync {
    /// Makes a slot on the receiving shard, so that the handler answers a slot like any other.
    fn register(
        self: Arc<Self>,
        shard: &ShardCell,
        deadline_ns: u64,
        group: Option<GroupId>,
    ) -> Result<ReplyAddress, Rejected>;

    /// Ends the ask without an answer.
    fn fail(&self, error: AskError);
}

enum State<R> {
    Waiting { waker: Option<Waker>, thread: Option<Thread>, slot: Option<(&'static ShardLink, ReplyAddress)> },
    Ready(Result<R, AskError>),
    Taken,
}

/// Where a foreign asker finds its answer.
pub(crate) struct ForeignReply<R> {
    state: Mutex<State<R>>,
    ops: ReplyOps,
}

impl<R: Send + 'static> ForeignReply<R> {
    pub(crate) fn new(ops: ReplyOps) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::Waiting { waker: None, thread: None, slot: None }), ops })
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn complete(&self, value: Result<R, AskError>) {
        let mut state = self.lock();
        if let State::Waiting { waker, thread, .. } = &mut *state {
            let (waker, thread) = (waker.take(), thread.take());
            *state = State::Ready(value);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }

    /// Remembers the slot that waits; `false` when nobody waits any more.
    pub(crate) fn placed(&self, link: &'static ShardLink, address: ReplyAddress) -> bool {
        let mut state = self.lock();
        let State::Waiting { slot, .. } = &mut *state else { return false };
        *slot = Some((link, address));
        true
    }

    /// The answer, or registers the waker.
    pub(crate) fn poll(&self, cx: &mut TaskContext<'_>) -> Poll<Result<R, AskError>> {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting { waker, .. } => {
                match waker {
                    Some(old) if old.will_wake(cx.waker()) => {}
                    other => *other = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            _ => Poll::Ready(Self::take(&mut state)),
        }
    }

    /// The answer, or registers the calling thread to be unparked.
    pub(crate) fn try_take(&self) -> Option<Result<R, AskError>> {
        let mut state = self.lock();
        if let State::Waiting { thread, .. } = &mut *state {
            *thread = Some(thread::current());
            return None;
        }
        Some(Self::take(&mut state))
    }

    /// Nobody waits any more: frees the slot, if the shard has made it.
    pub(crate) fn abandon(&self) {
        self.end(|shard, address| {
            let freed = shard.core.borrow_mut().replies.cancel(address);
            drop_contained(freed);
        });
    }

    /// The same, and tells whoever works on the answer.
    pub(crate) fn give_up(&self, target: Target) {
        self.end(move |shard, address| give_up(shard, address, &target));
    }

    fn end(&self, free: impl FnOnce(&ShardCell, ReplyAddress) + Send + 'static) {
        let state = std::mem::replace(&mut *self.lock(), State::Taken);
        if let State::Waiting { slot: Some((link, address)), .. } = state {
            link.run(Box::new(move |shard| free(shard, address)));
        }
    }

    fn take(state: &mut State<R>) -> Result<R, AskError> {
        match std::mem::replace(state, State::Taken) {
            State::Ready(value) => value,
            _ => panic!("an ask was polled after it was ready"),
        }
    }
}

impl<R: Send + 'static> ForeignAsker for ForeignReply<R> {
    fn register(
        self: Arc<Self>,
        shard: &ShardCell,
        deadline_ns: u64,
        group: Option<GroupId>,
    ) -> Result<ReplyAddress, Rejected> {
        let ops = self.ops;
        let new = NewSlot {
            deadline_ns,
            ops,
            waiter: Waiter::Foreign,
            closure: Some(Erased::new(ForeignSeat(Some(Arc::clone(&self))))),
            peer: None,
            group,
            incarnation: 0,
        };
        let address = shard.core.borrow_mut().replies.insert(new).map_err(|(reason, _)| reason)?;
        if self.placed(shard.link, address) {
            return Ok(address);
        }
        // Given up, or over, before it arrived: the message finds no slot and is dropped before work.
        let freed = shard.core.borrow_mut().replies.cancel(address);
        drop_contained(freed);
        Ok(address)
    }

    fn fail(&self, error: AskError) {
        self.complete(Err(error));
    }
}

/// The answering end, kept in the slot. Dropped unanswered, because its shard went away, it ends the ask.
pub(crate) struct ForeignSeat<R: Send + 'static>(Option<Arc<ForeignReply<R>>>);

impl<R: Send + 'static> ForeignSeat<R> {
    pub(crate) fn new(reply: Arc<ForeignReply<R>>) -> Self {
        Self(Some(reply))
    }

    /// Where the answer will be found.
    pub(crate) fn reply(&self) -> Option<Arc<ForeignReply<R>>> {
        self.0.clone()
    }

    pub(crate) fn complete(mut self, value: Result<R, AskError>) {
        if let Some(reply) = self.0.take() {
            reply.complete(value);
        }
    }
}

impl<R: Send + 'static> Drop for ForeignSeat<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.complete(Err(AskError::Failed(Panicked("the engine stopped before the answer".into()))));
        }
    }
}
