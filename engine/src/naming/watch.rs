//! Waiting for a name to appear: a future for threads and async code, a message to come for handlers.
//!
//! Invariant: a watch is a reply that the name's registration sends, with a slot and a deadline like any other; its entry in the
//! table goes with the future, or with the closure that was to get the answer.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use crate::actor::Actor;
use crate::actor_ref::ActorRef;
use crate::context::{Context, then_vtable};
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::erased::Erased;
use crate::error::{AskError, Rejected, Unknown};
use crate::key::Key;
use crate::limits::{ASK_DEADLINE, SIM_ASK_SLACK};
use crate::message::Message;
use crate::reply::{ForeignAsker, ForeignReply, NewSlot, Reply, ReplyOps, Waiter};
use crate::shard::{ShardCell, assert_not_on_a_shard, current};
use crate::sync::{AtomicU64, Ordering};
use crate::until::Until;

use super::error::{LookupError, NameWaitError};
use super::table::{Holder, Watched};

/// What a watch would be if it were sent: its reply is the holder.
struct Appears;

impl Message for Appears {
    type Reply = Holder;
}

/// No number: the watch is not in the table.
const NONE: u64 = u64::MAX;

/// An entry of the table; goes out of it when both who waits and who entered it have let go.
struct Entry {
    engine: &'static EngineLink,
    name: Key,
    number: AtomicU64,
}

impl Entry {
    fn new(engine: &'static EngineLink, name: Key) -> Self {
        Self { engine, name, number: AtomicU64::new(NONE) }
    }

    /// Has `reply` answered when the name is given; at once if it is.
    fn begin(&self, reply: Reply<Holder>) {
        if let Watched::Waiting(number) = self.engine.names.watch(&self.name, reply) {
            self.number.store(number, Ordering::Release);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let number = self.number.load(Ordering::Acquire);
        if number != NONE {
            self.engine.names.forget(&self.name, number);
        }
    }
}

fn typed<A: Actor>(found: Result<Holder, AskError>) -> Result<ActorRef<A>, NameWaitError> {
    let holder = found.map_err(|error| match error {
        AskError::Unknown(Unknown::Deadline) => NameWaitError::Deadline,
        AskError::Rejected(Rejected::Full) => NameWaitError::Full,
        _ => NameWaitError::Closed,
    })?;
    holder.typed::<A>().map_err(|error| match error {
        LookupError::WrongType { wanted, found } => NameWaitError::WrongType { wanted, found },
        LookupError::NotFound => unreachable!("it was found"),
    })
}

enum State {
    Unsent,
    Waiting { reply: Arc<ForeignReply<Holder>>, _entry: Arc<Entry> },
    Done,
}

/// A name that is waited for: a future of the reference. Ready at once if somebody has the name.
///
/// # Cancel safety
/// Dropping it leaves nothing behind; a name that appears is not missed by asking again.
#[must_use = "nothing is waited for until it is awaited"]
pub struct WhenNamed<A> {
    engine: &'static EngineLink,
    name: Key,
    ttl: Duration,
    state: State,
    _actor: PhantomData<fn(A)>,
}

impl<A: Actor> WhenNamed<A> {
    fn new(engine: &'static EngineLink, name: Key) -> Self {
        Self { engine, name, ttl: ASK_DEADLINE, state: State::Unsent, _actor: PhantomData }
    }

    /// Waits at most `ttl`, counted from the first poll; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Blocks the calling thread until somebody has the name or the deadline has passed. In a test on virtual time it runs the
    /// world until then.
    ///
    /// # Errors
    /// See [`NameWaitError`].
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(mut self) -> Result<ActorRef<A>, NameWaitError> {
        assert_not_on_a_shard("WhenNamed::wait()");
        if let Some(world) = crate::sim::world_of(self.engine) {
            let limit = self.ttl.saturating_add(SIM_ASK_SLACK);
            let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            return world.block_on(self, limit_ns).unwrap_or(Err(NameWaitError::Deadline));
        }
        let until = Until::after(self.ttl);
        let reply = self.begin();
        loop {
            if let Some(found) = reply.try_take() {
                self.state = State::Done;
                return typed(found);
            }
            let left = until.left();
            if left.is_zero() {
                reply.complete(Err(AskError::Unknown(Unknown::Deadline)));
            } else {
                crate::sync::park_timeout(left);
            }
        }
    }

    /// Enters the table by way of a shard, which keeps the deadline.
    fn begin(&mut self) -> Arc<ForeignReply<Holder>> {
        let reply = ForeignReply::<Holder>::new(ReplyOps::of::<Appears>());
        let entry = Arc::new(Entry::new(self.engine, self.name.clone()));
        self.state = State::Waiting { reply: Arc::clone(&reply), _entry: Arc::clone(&entry) };
        let ttl_ns = u64::try_from(self.ttl.as_nanos()).unwrap_or(u64::MAX);
        let pending = Pending(Some(Arc::clone(&reply)));
        let open = move |shard: &ShardCell| pending.open(shard, ttl_ns, &entry);
        current(|shard| match shard {
            Some(shard) if std::ptr::eq(shard.link.engine(), self.engine) => open(shard),
            _ => self.engine.link(0).run(Box::new(open)),
        });
        reply
    }
}

/// A watch on its way to the shard that keeps its deadline.
struct Pending(Option<Arc<ForeignReply<Holder>>>);

impl Pending {
    fn open(mut self, shard: &ShardCell, ttl_ns: u64, entry: &Entry) {
        let Some(reply) = self.0.take() else { return };
        let deadline_ns = shard.core.borrow().now_ns.saturating_add(ttl_ns);
        match Arc::clone(&reply).register(shard, deadline_ns, None) {
            Ok(address) => entry.begin(Reply::new(Some(address), None, shard.link, 0)),
            Err(reason) => reply.fail(AskError::Rejected(reason)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.fail(AskError::Rejected(Rejected::Closed));
        }
    }
}

impl<A: Actor> Future for WhenNamed<A> {
    type Output = Result<ActorRef<A>, NameWaitError>;

    /// # Panics
    /// When it was ready before.
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let reply = match &self.state {
            State::Unsent => self.begin(),
            State::Waiting { reply, .. } => Arc::clone(reply),
            State::Done => panic!("a name that was waited for was polled after it was ready"),
        };
        let polled = reply.poll(cx);
        if polled.is_ready() {
            self.state = State::Done;
        }
        polled.map(typed)
    }
}

impl<A> Drop for WhenNamed<A> {
    fn drop(&mut self) {
        if let State::Waiting { reply, .. } = &self.state {
            reply.abandon();
        }
    }
}

impl<A> std::fmt::Debug for WhenNamed<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WhenNamed<{}>({:?})", std::any::type_name::<A>(), self.name)
    }
}

impl Engine {
    /// Waits until an actor has this name: `.await` it, or `.wait()` for it outside the shards.
    pub fn when_named<A: Actor>(&self, name: impl Into<Key>) -> WhenNamed<A> {
        WhenNamed::new(self.link, name.into())
    }
}

impl<A: Actor> Context<A> {
    /// Waits until an actor has this name. `.then(|this, found, cx| ..)` runs as a turn of this actor, which is free meanwhile;
    /// in an async handler `.await` it.
    pub fn when_named<B: Actor>(&mut self, name: impl Into<Key>) -> PendingName<'_, A, B> {
        PendingName { watched: WhenNamed::new(self.engine(), name.into()), cx: self }
    }
}

/// A name that a handler waits for.
#[must_use = "nothing is waited for before `then` or `.await`"]
pub struct PendingName<'a, A, B> {
    watched: WhenNamed<B>,
    cx: &'a mut Context<A>,
}

impl<A: Actor, B: Actor> PendingName<'_, A, B> {
    /// Waits at most `ttl`; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        self.watched.ttl = ttl;
        self
    }

    /// Runs `f` with the actor's state once somebody has the name, or once that is no longer waited for. If this actor stops or
    /// is rebuilt before, `f` is dropped.
    ///
    /// Costs an allocation for the entry, and one more where `f` captures anything.
    pub fn then<F>(self, f: F)
    where
        F: FnOnce(&mut A, Result<ActorRef<B>, NameWaitError>, &mut Context<A>) + 'static,
    {
        let shard = self.cx.shard_cell();
        let entry = Arc::new(Entry::new(self.watched.engine, self.watched.name.clone()));
        let kept = Arc::clone(&entry);
        let closure = move |this: &mut A, found: Result<Holder, AskError>, cx: &mut Context<A>| {
            drop(kept);
            f(this, typed(found), cx);
        };
        let address = open_then(self.cx, shard, self.watched.ttl, closure);
        if let Some(address) = address {
            entry.begin(Reply::new(Some(address), None, shard.link, 0));
        }
    }
}

/// Opens a slot whose answer comes to `closure` as a turn of the actor.
fn open_then<A, F>(cx: &Context<A>, shard: &ShardCell, ttl: Duration, closure: F) -> Option<crate::reply::ReplyAddress>
where
    A: Actor,
    F: FnOnce(&mut A, Result<Holder, AskError>, &mut Context<A>) + 'static,
{
    let (index, generation) = (cx.seat().index(), cx.seat().generation());
    let deliver = then_vtable::<A, Holder, F, false>();
    let closure = Some(Erased::new(closure));
    let mut core = shard.core.borrow_mut();
    let deadline_ns = core.now_ns.saturating_add(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX));
    let incarnation = core.cells.get(index, generation).map_or(0, |cell| cell.incarnation);
    let slot = NewSlot {
        deadline_ns,
        ops: ReplyOps::of::<Appears>(),
        waiter: Waiter::Then { deliver, index, generation },
        closure,
        peer: None,
        group: None,
        incarnation,
    };
    let inserted = core.replies.insert(slot);
    drop(core);
    // Dropped outside the borrow when it was refused.
    inserted.ok()
}

impl<'a, A: Actor, B: Actor> IntoFuture for PendingName<'a, A, B> {
    type Output = Result<ActorRef<B>, NameWaitError>;
    type IntoFuture = WhenNamed<B>;

    fn into_future(self) -> WhenNamed<B> {
        self.watched
    }
}

impl<A, B> std::fmt::Debug for PendingName<'_, A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.watched, f)
    }
}
