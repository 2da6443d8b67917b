//! `Ask`: a message whose reply is awaited.
//!
//! Invariant: nothing is sent before the first poll, `wait` or `then`; afterwards exactly one slot waits for the reply, and
//! dropping the future frees it at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use crate::actor_ref::ActorId;
use crate::asking::cancel::give_up;
use crate::carried;
use crate::engine_link::EngineLink;
use crate::envelope::VTable;
use crate::error::{AskError, Unknown};
use crate::limits::{ASK_DEADLINE, SIM_ASK_SLACK};
use crate::link::ShardLink;
use crate::message::Message;
use crate::reentrancy;
use crate::reply::{ForeignReply, NewSlot, ReplyAddress, ReplyOps, Waiter};
use crate::request::Request;
use crate::route;
use crate::shard::{ShardCell, assert_not_on_a_shard, current};
use crate::until::Until;
use crate::virtual_ref::VirtualId;

/// Whom to ask.
#[derive(Clone)]
pub(crate) enum Target {
    Actor(ActorId),
    Virtual(VirtualId),
}

impl Target {
    /// The engine through which it is reached.
    pub(crate) fn engine(&self) -> &'static EngineLink {
        match self {
            Self::Actor(id) => id.link().engine(),
            Self::Virtual(id) => id.engine,
        }
    }
}

/// What is asked, before it is sent.
pub(crate) struct Question<M: Message> {
    pub(crate) target: Target,
    pub(crate) vtable: &'static VTable,
    pub(crate) message: M,
    pub(crate) ttl: Duration,
}

enum State<M: Message> {
    Unsent(Question<M>),
    /// Waits in the reply table of the shard that polls this future; the target is told when that ends early.
    OnShard(ReplyAddress, &'static ShardLink, Target),
    /// Waits outside the shards.
    Outside(Arc<ForeignReply<M::Reply>>, Target),
    Done,
}

/// A question on its way: a future of the reply.
///
/// # Cancel safety
/// Dropping it before the first poll sends nothing. Dropping it later gives the reply up, and the receiver's shard is told: a
/// message that waits there is dropped before work, and counted ([`ShardStats::cancelled`](crate::ShardStats::cancelled)); a
/// handler that works on the answer can see it by [`Reply::is_wanted`](crate::Reply::is_wanted) or
/// [`Context::cancelled`](crate::Context::cancelled). Another node is not told. Dropping one that was answered costs nothing.
///
/// # Panics
/// When it was first polled inside a handler and then moved to another shard or thread and polled there.
#[must_use = "nothing is sent until the ask is awaited"]
pub struct Ask<M: Message> {
    state: State<M>,
}

// The message is moved out as a whole and never pinned.
impl<M: Message> Unpin for Ask<M> {}

impl<M: Message> Ask<M> {
    #[inline(always)]
    pub(crate) fn new(target: Target, vtable: &'static VTable, message: M) -> Self {
        Self { state: State::Unsent(Question { target, vtable, message, ttl: ASK_DEADLINE }) }
    }

    /// One whose slot on this shard is open already; nobody is told when it is given up, but the slot's closure is dropped.
    pub(crate) fn placed(address: ReplyAddress, link: &'static ShardLink) -> Self {
        Self { state: State::OnShard(address, link, Target::Actor(ActorId::new(link, 0, 0))) }
    }

    /// One that waits outside the shards already.
    pub(crate) fn outside(reply: Arc<ForeignReply<M::Reply>>, target: Target) -> Self {
        Self { state: State::Outside(reply, target) }
    }

    /// Waits at most `ttl` for the reply, counted from the sending. The deadline travels with the message: whoever takes it
    /// later than that drops it before work.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        if let State::Unsent(question) = &mut self.state {
            question.ttl = ttl;
        }
        self
    }

    /// Sends the message and blocks the calling thread until the reply is there or the deadline has passed. In a test on
    /// virtual time it runs the world until then.
    ///
    /// # Errors
    /// See [`AskError`].
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(self) -> Result<M::Reply, AskError> {
        assert_not_on_a_shard("Ask::wait()");
        let question = self.into_question();
        if let Some(world) = crate::sim::world_of(question.target.engine()) {
            let patience = question.ttl.saturating_add(SIM_ASK_SLACK);
            let ask = Self { state: State::Unsent(question) };
            let limit_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
            return world.block_on(ask, limit_ns).unwrap_or(Err(AskError::Unknown(Unknown::Deadline)));
        }
        let until = Until::after(question.ttl);
        let reply = ForeignReply::<M::Reply>::new(ReplyOps::of::<M>());
        match crate::request::open() {
            Some(request) => carried::ask_from_outside(request, question, &reply),
            None => {
                let Question { target, vtable, message, ttl } = question;
                route::ask_from_outside(&target, (vtable, message, ttl), Arc::clone(&reply));
            }
        }
        loop {
            if let Some(value) = reply.try_take() {
                return value;
            }
            let left = until.left();
            if left.is_zero() {
                reply.complete(Err(AskError::Unknown(Unknown::Deadline)));
            } else {
                crate::sync::park_timeout(left);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn into_question(mut self) -> Question<M> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Unsent(question) => question,
            _ => panic!("an ask that was polled cannot be sent again"),
        }
    }

    fn send(&mut self, question: Question<M>, cx: &mut TaskContext<'_>) -> Option<AskError> {
        let on_shard = current(|shard| match shard {
            Some(shard) if route::is_home(shard, &question.target) => Ok(self.send_on_shard(shard, question, cx)),
            _ => Err(question),
        });
        match on_shard {
            Ok(refused) => refused,
            Err(question) => match crate::request::open() {
                Some(request) => self.send_in_request(question, request, cx),
                None => {
                    let reply = ForeignReply::<M::Reply>::new(ReplyOps::of::<M>());
                    let Question { target, vtable, message, ttl } = question;
                    route::ask_from_outside(&target, (vtable, message, ttl), Arc::clone(&reply));
                    self.state = State::Outside(reply, target);
                    None
                }
            },
        }
    }

    #[cold]
    fn send_in_request(
        &mut self,
        question: Question<M>,
        request: Request,
        cx: &mut TaskContext<'_>,
    ) -> Option<AskError> {
        let target = question.target.clone();
        let engine = target.engine();
        current(|shard| match shard.filter(|shard| std::ptr::eq(shard.link.engine(), engine)) {
            Some(shard) => match reentrancy::cycle(shard, &target, true).map_or_else(
                || {
                    let sent = carried::ask_from_shard(shard, request, question, Self::new_slot(shard, cx));
                    sent.map_err(|(reason, _slot)| AskError::Rejected(reason))
                },
                |cycle| Err(AskError::Deadlock(cycle)),
            ) {
                Ok(address) => {
                    self.state = State::OnShard(address, shard.link, target);
                    None
                }
                Err(error) => Some(error),
            },
            None => {
                let reply = ForeignReply::<M::Reply>::new(ReplyOps::of::<M>());
                carried::ask_from_outside(request, question, &reply);
                self.state = State::Outside(reply, target);
                None
            }
        })
    }

    #[inline(always)]
    fn new_slot(shard: &ShardCell, cx: &TaskContext<'_>) -> NewSlot {
        NewSlot {
            deadline_ns: 0,
            ops: ReplyOps::of::<M>(),
            waiter: Waiter::Task { waker: Some(cx.waker().clone()), owner: shard.core.borrow().who_waits() },
            closure: None,
            peer: None,
            group: None,
            incarnation: 0,
        }
    }

    fn send_on_shard(
        &mut self,
        shard: &ShardCell,
        question: Question<M>,
        cx: &mut TaskContext<'_>,
    ) -> Option<AskError> {
        if let Some(cycle) = reentrancy::cycle(shard, &question.target, true) {
            return Some(AskError::Deadlock(cycle));
        }
        let Question { target, vtable, message, ttl } = question;
        match route::ask_from_shard(shard, &target, (vtable, message, ttl), Self::new_slot(shard, cx)) {
            Ok(address) => {
                self.state = State::OnShard(address, shard.link, target);
                None
            }
            Err((reason, _slot)) => Some(AskError::Rejected(reason)),
        }
    }

    fn poll_on_shard(
        &mut self,
        address: ReplyAddress,
        link: &'static ShardLink,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<M::Reply, AskError>> {
        let ready = current(|shard| {
            let shard = shard
                .filter(|shard| std::ptr::eq(shard.link, link))
                .expect("an ask that was first polled on a shard is polled on that shard only");
            shard.core.borrow_mut().replies.poll_task(address, cx.waker())
        });
        let Some(slot) = ready else { return Poll::Pending };
        self.state = State::Done;
        let (_, value) = slot.into_parts();
        // SAFETY: `complete::<M::Reply>` stored it: the slot was opened with `ReplyOps::of::<M>()`.
        Poll::Ready(unsafe { value.take::<Result<M::Reply, AskError>>() })
    }
}

impl<M: Message> Future for Ask<M> {
    type Output = Result<M::Reply, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if let State::Unsent(_) = &self.state {
            let State::Unsent(question) = std::mem::replace(&mut self.state, State::Done) else {
                unreachable!("just matched")
            };
            if let Some(error) = self.send(question, cx) {
                return Poll::Ready(Err(error));
            }
        }
        match &self.state {
            State::OnShard(address, link, _) => {
                let (address, link) = (*address, *link);
                self.poll_on_shard(address, link, cx)
            }
            State::Outside(reply, _) => {
                let polled = reply.poll(cx);
                if polled.is_ready() {
                    self.state = State::Done;
                }
                polled
            }
            State::Unsent(_) | State::Done => panic!("an ask was polled after it was ready"),
        }
    }
}

impl<M: Message> Drop for Ask<M> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::OnShard(address, link, target) => {
                current(|shard| match shard {
                    Some(shard) if std::ptr::eq(shard.link, link) => give_up(shard, address, &target),
                    _ => link.run(Box::new(move |shard| give_up(shard, address, &target))),
                });
            }
            State::Outside(reply, target) => reply.give_up(target),
            State::Unsent(_) | State::Done => {}
        }
    }
}

impl<M: Message> std::fmt::Debug for Ask<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::Unsent(_) => "not sent",
            State::OnShard(..) | State::Outside(..) => "waiting",
            State::Done => "done",
        };
        write!(f, "Ask<{}>({state})", std::any::type_name::<M>())
    }
}
