//! Interceptors: what runs around the messages of an engine's actors, or of those of one type.
//!
//! Invariant: an engine without interceptors executes nothing of this. An actor that has some says `woken`, so its shares begin in
//! `look_after`, one message at a time (`shard/activate/intercepted.rs`); its handlers run in a request that says nothing, so
//! what they send takes the way of `carried.rs`. Shard threads call interceptors; the registration does not change after the start.

use std::any::TypeId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use crate::actor_ref::ActorId;
use crate::ask::Target;
use crate::envelope::VTable;
use crate::request::Request;
use crate::shard::ShardCell;

/// Runs around the messages of actors; see [`EngineBuilder::intercept`](crate::EngineBuilder::intercept).
///
/// Called on the actor's shard, so it must not block. Those that were registered first are called first, and last when a
/// message has been handled. A panic in one counts as a panic of user code and changes nothing else.
///
/// Answers to asks, timers' ends and the ends of watched actors are no messages: nothing is called for them.
pub trait Interceptor: Send + Sync + 'static {
    /// A message is about to be handled. The first verdict that is not [`Verdict::Handle`] holds, and the rest are not asked.
    fn receive(&self, _message: &Received<'_>) -> Verdict {
        Verdict::Handle
    }

    /// The message that [`receive`](Self::receive) let pass was handled; not called for one that was rejected.
    fn handled(&self, _message: &Received<'_>, _outcome: Outcome) {}

    /// An intercepted actor sends a message, on its way through a handler or a `then`. It may still be refused.
    fn send(&self, _message: &Sent<'_>) {}

    /// An actor has started.
    fn spawned(&self, _actor: ActorId, _actor_type: &'static str) {}
}

/// A message that is about to be handled, or was.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received<'a> {
    /// Its Rust type.
    pub message: &'static str,
    /// Who handles it.
    pub actor: ActorId,
    /// That actor's Rust type.
    pub actor_type: &'static str,
    /// The actor that sent it; `None` for one from elsewhere, and for an ask.
    pub sender: Option<ActorId>,
    /// Whether somebody waits for the answer.
    pub is_ask: bool,
    /// The request that it is part of.
    pub request: Option<&'a Request>,
    /// The turn's time, nanoseconds on the shards' clock.
    pub turn_ns: u64,
}

/// A message on its way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sent<'a> {
    /// Its Rust type.
    pub message: &'static str,
    /// Who sends it.
    pub actor: ActorId,
    /// Who will get it, if that is an actor of this process that is not virtual.
    pub to: Option<ActorId>,
    /// The key of a virtual actor.
    pub key: Option<&'a str>,
    /// Whether the sender asks for an answer.
    pub is_ask: bool,
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is handled.
    Handle,
    /// It is handled as part of this request: a decorator of what travels on.
    HandleIn(Request),
    /// It is not: a dead letter, whose asker is told [`Rejected::NoHandler`](crate::Rejected::NoHandler).
    Reject,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its handler returned.
    Handled,
    /// Its async handler waits.
    Waits,
    /// Its handler panicked.
    Panicked,
    /// It came too late, or nobody waited for the answer any more.
    Dropped,
}

/// What is registered.
#[derive(Default)]
pub(crate) struct Interceptors {
    all: Vec<(Option<TypeId>, Arc<dyn Interceptor>)>,
}

impl Interceptors {
    pub(crate) fn add(&mut self, actor: Option<TypeId>, interceptor: Arc<dyn Interceptor>) {
        self.all.push((actor, interceptor));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those for actors of this type, if there are any.
    pub(crate) fn of(&self, actor: TypeId) -> Option<Chain> {
        let fits = self.all.iter().filter(|(only, _)| only.is_none_or(|only| only == actor));
        let chain: Vec<_> = fits.map(|(_, interceptor)| Arc::clone(interceptor)).collect();
        (!chain.is_empty()).then(|| chain.into())
    }
}

/// The interceptors of one actor, in order.
pub(crate) type Chain = Rc<[Arc<dyn Interceptor>]>;

/// Who looks at what is sent from here.
#[derive(Clone)]
pub(crate) struct Observers {
    pub(crate) actor: ActorId,
    pub(crate) chain: Chain,
}

/// Has observers look at what is sent while it lives.
pub(crate) struct Watch<'a> {
    shard: &'a ShardCell,
    before: Option<Observers>,
}

impl<'a> Watch<'a> {
    pub(crate) fn on(shard: &'a ShardCell, observers: Observers) -> Self {
        Self { shard, before: shard.set_observers(Some(observers)) }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        drop(self.shard.set_observers(self.before.take()));
    }
}

/// Calls an interceptor and contains its panic.
pub(crate) fn contained<R>(shard: &ShardCell, call: impl FnOnce() -> R) -> Option<R> {
    let done = catch_unwind(AssertUnwindSafe(call)).ok();
    if done.is_none() {
        shard.core.borrow_mut().counters.panics += 1;
    }
    done
}

/// A message is sent from this shard while a request is open.
pub(crate) fn observe(shard: &ShardCell, target: &Target, vtable: &'static VTable, is_ask: bool) {
    let Some(observers) = shard.observers() else { return };
    let (to, key) = match target {
        Target::Actor(id) => (Some(*id), None),
        Target::Virtual(id) => (None, Some(id.key.as_str())),
    };
    let sent = Sent { message: (vtable.message_name)(), actor: observers.actor, to, key, is_ask };
    for interceptor in &*observers.chain {
        contained(shard, || interceptor.send(&sent));
    }
}
