//! Cancellation: an asker that gives up frees its slot, and whoever has the question is told.
//!
//! Invariant: an ask that is not given up pays nothing, here or elsewhere. One that is ends nowhere twice: its message is dropped
//! before work, or its handler is told, or its answer finds no slot. The word travels behind the message, so that it finds it.
//! Shard thread only, but for handles and futures, which any thread may drop.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};

use crate::actor::Actor;
use crate::actor_ref::ActorId;
use crate::ask::{Question, Target};
use crate::carried;
use crate::context::{Context, PendingAsk, then_vtable};
use crate::envelope::{Envelope, GIVEN_UP_NS};
use crate::erased::Erased;
use crate::error::{AskError, Rejected};
use crate::limits::FORSAKEN_KEPT;
use crate::link::ShardLink;
use crate::message::Message;
use crate::reply::{NewSlot, ReplyAddress, ReplyOps, Waiter, fail_here};
use crate::route::{self, Place};
use crate::shard::{Cell, ShardCell, ShardCore, current, drop_contained};

/// Gives up the ask in a slot of this very shard; nothing happens if it was answered.
pub(crate) fn give_up(shard: &ShardCell, address: ReplyAddress, target: &Target) {
    let mut core = shard.core.borrow_mut();
    let until_ns = core.replies.deadline_ns(address);
    let owner = core.replies.waiting(address).and_then(|slot| match slot.waiter {
        Waiter::Then { index, generation, .. } => Some((index, generation)),
        _ => None,
    });
    let freed = core.replies.cancel(address);
    if let Some((index, generation)) = owner {
        core.let_in(index, generation);
    }
    drop(core);
    drop_contained(freed);
    let Some(until_ns) = until_ns else { return };
    let (there, target) = match target {
        Target::Actor(id) => (id.link(), target.clone()),
        Target::Virtual(id) => match route::place(id) {
            Place::Shard(to) => (id.engine.link(to), target.clone()),
            Place::Node(_) => return,
        },
    };
    if std::ptr::eq(there, shard.link) {
        return reach(shard, &target, address, until_ns);
    }
    shard.publish_now();
    there.run(Box::new(move |shard| {
        // The message may still be in its ring: what is deferred comes behind it.
        let late = Box::new(move |shard: &ShardCell| reach(shard, &target, address, until_ns));
        shard.core.borrow_mut().deferred.push(late);
    }));
}

/// Finds what was asked on the shard of the one who was asked: queued, handled by an async handler, or held as a `Reply`.
fn reach(shard: &ShardCell, target: &Target, address: ReplyAddress, until_ns: u64) {
    let mut core = shard.core.borrow_mut();
    let core_ref = &mut *core;
    let cell = match target {
        Target::Actor(id) => Some((id.index(), id.generation())),
        Target::Virtual(id) => id.position.and_then(|position| core_ref.directory.get(position, &id.key)),
    };
    let cell = cell.and_then(|(index, generation)| core_ref.cells.get(index, generation));
    let from_here = address.0.shard() == shard.link.shard().get();
    if let Some(cell) = cell {
        let answering = cell.extra.as_mut().map(|extra| &mut extra.answering);
        if let Some(answering) = answering.filter(|answering| answering.address == Some(address)) {
            answering.given_up = true;
            let waker = answering.waker.take();
            drop(core);
            if let Some(waker) = waker {
                crate::shard::wake_contained(waker);
            }
            return;
        }
        // A slot of this shard that is gone says enough.
        if from_here || cell.give_up(address) {
            return;
        }
    }
    if !from_here {
        let now_ns = core.now_ns;
        core.forsaken.insert(address, until_ns, now_ns);
    }
}

impl Cell {
    /// Has the ask that is to be answered at `address` dropped before work, if it waits here.
    fn give_up(&mut self, address: ReplyAddress) -> bool {
        let stashed = self.extra.as_mut().and_then(|extra| extra.stash.as_mut());
        self.mailbox.find(|envelope| envelope.give_up(address))
            || stashed.is_some_and(|stash| stash.messages.iter_mut().any(|envelope| envelope.give_up(address)))
    }
}

impl ShardCore {
    /// Whether a message that was opened as expired is one that nobody waits for.
    pub(crate) fn has_given_up(&mut self, envelope: &Envelope, reply: Option<ReplyAddress>) -> bool {
        match reply {
            Some(address) if address.0.shard() == self.shard.get() => self.replies.waiting(address).is_none(),
            _ => envelope.deadline_ns().unwrap_or(self.asked_until_ns) == GIVEN_UP_NS,
        }
    }
}

/// Asks from other shards that were given up after their handler had begun, until their deadlines.
#[derive(Default)]
pub(crate) struct Forsaken {
    until_ns: BTreeMap<u64, u64>,
}

impl Forsaken {
    fn insert(&mut self, address: ReplyAddress, until_ns: u64, now_ns: u64) {
        if self.until_ns.len() >= FORSAKEN_KEPT {
            self.until_ns.retain(|_, until_ns| *until_ns > now_ns);
        }
        if self.until_ns.len() < FORSAKEN_KEPT {
            self.until_ns.insert(address.0.word(), until_ns);
        }
    }

    pub(crate) fn has(&self, address: ReplyAddress) -> bool {
        self.until_ns.contains_key(&address.0.word())
    }
}

/// Whom an async handler answers, and whether that one has given up.
#[derive(Default)]
pub(crate) struct Answering {
    address: Option<ReplyAddress>,
    given_up: bool,
    waker: Option<Waker>,
}

impl Answering {
    /// Whom the async handler that waits, or runs, answers.
    pub(crate) fn whom(&self) -> Option<ReplyAddress> {
        self.address
    }

    /// Another message begins.
    #[inline]
    pub(crate) fn begin(&mut self, address: Option<ReplyAddress>) {
        self.address = address;
        self.given_up = false;
    }

    /// Whom it answers, or has answered.
    pub(crate) fn address(&self) -> Option<ReplyAddress> {
        self.address
    }
}

impl<A: Actor> Context<A> {
    /// Ready when the asker of the message that this actor's async handler works on has given up, by dropping its ask or by its
    /// deadline; never for a tell. The handler is told, not ended: it decides what to leave out. [`unless_cancelled`] drops a
    /// future for it.
    ///
    /// A dropped ask wakes the handler; a deadline that has passed is seen when it looks again. An asker on another node ends by
    /// its deadline only.
    ///
    /// [`unless_cancelled`]: Self::unless_cancelled
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { actor: self.me().id() }
    }

    /// Runs a future as long as the asker waits for its result: `None` when the asker has given up, and the future is dropped.
    pub async fn unless_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut cancelled = self.cancelled();
        std::future::poll_fn(move |cx| {
            if Pin::new(&mut cancelled).poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// See [`Context::cancelled`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Cancelled {
    actor: ActorId,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let given_up = current(|shard| {
            let shard = shard.filter(|shard| std::ptr::eq(shard.link, self.actor.link()))?;
            let mut core = shard.core.borrow_mut();
            let core = &mut *core;
            let cell = core.cells.get(self.actor.index(), self.actor.generation())?;
            let answering = &mut cell.extra.as_mut()?.answering;
            let address = answering.address?;
            let own = address.0.shard() == shard.link.shard().get();
            let given_up = answering.given_up || own && core.replies.waiting(address).is_none();
            if !given_up && !answering.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                answering.waker = Some(cx.waker().clone());
            }
            Some(given_up)
        });
        if given_up == Some(true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<A: Actor, M: Message> PendingAsk<'_, A, M> {
    /// Like [`then`](Self::then), with a handle that gives the ask up when it is dropped: `f` is dropped uncalled, and whoever was
    /// asked is told. Once `f` has run the handle means nothing.
    pub fn then_unless_dropped<F>(self, f: F) -> AskHandle
    where
        F: FnOnce(&mut A, Result<M::Reply, AskError>, &mut Context<A>) + 'static,
    {
        let (Question { target, vtable, message, ttl }, cx) = self.into_parts();
        let shard = cx.shard_cell();
        let (index, generation) = (cx.seat().index(), cx.seat().generation());
        let incarnation = shard.core.borrow_mut().cells.get(index, generation).map_or(0, |cell| cell.incarnation);
        let slot = NewSlot {
            deadline_ns: u64::MAX,
            ops: ReplyOps::of::<M>(),
            waiter: Waiter::Then { deliver: then_vtable::<A, M::Reply, F, false>(), index, generation },
            closure: Some(Erased::new(f)),
            peer: None,
            group: None,
            incarnation,
        };
        let sent = if route::is_home(shard, &target) {
            route::ask_from_shard(shard, &target, (vtable, message, ttl), slot)
        } else if let Some(request) = shard.request() {
            let deliver = then_vtable::<A, M::Reply, F, true>();
            let slot = NewSlot { waiter: Waiter::Then { deliver, index, generation }, ..slot };
            let question = Question { target: target.clone(), vtable, message, ttl };
            let address = carried::ask_then(shard, request, question, slot);
            return AskHandle { open: address.map(|address| (address, shard.link, target)) };
        } else {
            Err((Rejected::Unavailable, slot))
        };
        let address = sent.map_or_else(|(reason, slot)| refused(shard, reason, slot), Some);
        AskHandle { open: address.map(|address| (address, shard.link, target)) }
    }
}

/// The refusal comes as a turn of its own.
fn refused(shard: &ShardCell, reason: Rejected, slot: NewSlot) -> Option<ReplyAddress> {
    let inserted = shard.core.borrow_mut().replies.insert(NewSlot { deadline_ns: u64::MAX, ..slot });
    let address = inserted.map_err(|(_, slot)| drop_contained(slot)).ok()?;
    fail_here(shard, address, AskError::Rejected(reason));
    Some(address)
}

/// An ask that is given up when this is dropped. See [`PendingAsk::then_unless_dropped`].
#[must_use = "dropping it gives the ask up"]
pub struct AskHandle {
    open: Option<(ReplyAddress, &'static ShardLink, Target)>,
}

impl AskHandle {
    /// Lets the ask go on without a handle.
    pub fn detach(mut self) {
        self.open = None;
    }
}

impl Drop for AskHandle {
    fn drop(&mut self) {
        let Some((address, link, target)) = self.open.take() else { return };
        current(|shard| match shard {
            Some(shard) if std::ptr::eq(shard.link, link) => give_up(shard, address, &target),
            _ => link.run(Box::new(move |shard| give_up(shard, address, &target))),
        });
    }
}

impl std::fmt::Debug for AskHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.open.is_some() { "AskHandle" } else { "AskHandle(detached)" })
    }
}
