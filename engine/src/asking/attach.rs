//! Attached streams: a stream's items become messages of an actor, or turns of it.
//!
//! Invariant: items come in the stream's order, one at a time, and the next one is not taken before the last one has found room in
//! the mailbox; so a slow actor holds the stream up, not its shard. The stream goes with the actor or its rebuild.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use futures_core::Stream;

use super::work::Work;
use crate::actor::Actor;
use crate::context::Context;
use crate::message::Message;
use crate::receive::Receive;
use crate::sending::Sending;

/// What an attached stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent<T> {
    /// The stream is attached; before any item.
    Started,
    /// The next item.
    Item(T),
    /// The stream has ended; after all items.
    Finished,
}

impl<A: Actor> Context<A> {
    /// Attaches a stream: what it says becomes messages to this actor, made by `map`, in order: `Started`, the items, `Finished`.
    ///
    /// They take room in the mailbox like any others; while it is full, the stream is not asked for more. It runs on this shard and
    /// need not be `Send`. If this actor stops or is rebuilt, the stream is dropped; a shutdown does not wait for it.
    pub fn attach<S, M, K, F>(&mut self, stream: S, map: F)
    where
        A: Receive<M, K>,
        S: Stream + 'static,
        M: Message,
        K: 'static,
        F: FnMut(StreamEvent<S::Item>) -> M + 'static,
    {
        let send = |cx: &Context<A>, message: M| cx.me().send(message);
        let phase = Phase::New;
        self.attach_work(Messages { stream: Box::pin(stream), map, send, waiting: None, phase }, false);
    }

    /// The same without messages: `f` runs as a turn of this actor for each item, and once with `None` when the stream has ended.
    /// One item is one turn of many.
    pub fn for_each<S, F>(&mut self, stream: S, f: F)
    where
        S: Stream + 'static,
        F: FnMut(&mut A, Option<S::Item>, &mut Context<A>) + 'static,
    {
        self.attach_work(ForEach { stream: Box::pin(stream), f }, false);
    }
}

enum Phase {
    New,
    Streaming,
    Ended,
}

/// A stream whose items become messages.
struct Messages<S, M: Message, F, G> {
    stream: Pin<Box<S>>,
    map: F,
    send: G,
    /// The message that waits for room.
    waiting: Option<Sending<M>>,
    phase: Phase,
}

impl<S, M: Message, F, G> Unpin for Messages<S, M, F, G> {}

impl<A, S, M, F, G> Work<A> for Messages<S, M, F, G>
where
    A: Actor,
    S: Stream + 'static,
    M: Message,
    F: FnMut(StreamEvent<S::Item>) -> M + 'static,
    G: Fn(&Context<A>, M) -> Sending<M> + 'static,
{
    fn step(mut self: Pin<&mut Self>, _: &mut A, cx: &mut Context<A>, task: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let event = match this.phase {
                Phase::New => StreamEvent::Started,
                Phase::Streaming => match std::task::ready!(this.stream.as_mut().poll_next(task)) {
                    Some(item) => StreamEvent::Item(item),
                    None => StreamEvent::Finished,
                },
                Phase::Ended => return Poll::Ready(()),
            };
            this.phase = if matches!(event, StreamEvent::Finished) { Phase::Ended } else { Phase::Streaming };
            this.waiting = Some((this.send)(cx, (this.map)(event)));
        }
        let Some(waiting) = &mut this.waiting else { return Poll::Ready(()) };
        let sent = std::task::ready!(Pin::new(waiting).poll(task));
        this.waiting = None;
        if sent.is_err() {
            return Poll::Ready(());
        }
        // The next one in a turn of its own.
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A stream whose items are turns.
struct ForEach<S, F> {
    stream: Pin<Box<S>>,
    f: F,
}

impl<S, F> Unpin for ForEach<S, F> {}

impl<A, S, F> Work<A> for ForEach<S, F>
where
    A: Actor,
    S: Stream + 'static,
    F: FnMut(&mut A, Option<S::Item>, &mut Context<A>) + 'static,
{
    fn step(mut self: Pin<&mut Self>, actor: &mut A, cx: &mut Context<A>, task: &mut TaskContext<'_>) -> Poll<()> {
        let item = std::task::ready!(self.stream.as_mut().poll_next(task));
        let ended = item.is_none();
        (self.f)(actor, item, cx);
        if ended {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}
