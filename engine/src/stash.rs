//! Stash: messages that an actor puts aside and takes up again when it can handle them.
//!
//! Invariant: what was put aside is handled before anything that came later, in the order in which it was put aside, each
//! message with its own sender and reply. It is bounded, survives a rebuild, and becomes dead letters when the actor
//! stops. Costs an actor that puts nothing aside nothing.

use crate::actor::Actor;
use crate::context::Context;
use crate::context_block::{Asker, ContextBlock};
use crate::envelope::{Envelope, Meta};
use crate::message::Message;
use crate::receive::Receive;
use crate::reply::Reply;
use crate::request::Request;
use crate::shard::Weight;

/// The stash is full: what should have been put aside comes back, and nothing has changed. Handle it, refuse it, or let it go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StashFull<T>(pub T);

impl<T> std::fmt::Display for StashFull<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("as many messages as a mailbox holds were put aside already")
    }
}

impl<T> std::fmt::Debug for StashFull<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StashFull({})", std::any::type_name::<T>())
    }
}

impl<T> std::error::Error for StashFull<T> {}

impl<A: Actor> Context<A> {
    /// Puts a message aside until [`unstash`](Self::unstash). It keeps its sender. If somebody asked with it, what the handler
    /// returns answers now; [`stash_ask`](Self::stash_ask) keeps the answer open.
    ///
    /// Costs an allocation for the first message, and one now and then as more are put aside.
    ///
    /// # Errors
    /// [`StashFull`] when [`Config::mailbox_capacity`](crate::Config::mailbox_capacity) messages were put aside already, or what was put
    /// aside leaves this one no room within the [bytes](crate::Mailbox::bytes) of the mailbox.
    pub fn stash<M, K>(&mut self, message: M) -> Result<(), StashFull<M>>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        let Some(weight) = self.room_aside(&message) else { return Err(StashFull(message)) };
        let sender = self.seat().sender();
        let meta = match self.request() {
            None => sender.map_or(Meta::None, Meta::Sender),
            Some(request) => {
                self.meta_of(ContextBlock { asker: Asker::InRequest(request, None), sender, ..ContextBlock::new() })
            }
        };
        self.put_aside(self.to_me::<M, K>(message, meta), weight);
        Ok(())
    }

    /// Puts a message of a [`DeferredHandler`](crate::DeferredHandler) aside until [`unstash`](Self::unstash), with the place of
    /// its answer. The asker's deadline goes on, but no longer keeps the message from being handled: one whose asker has given up
    /// meanwhile is handled all the same, and nobody gets the answer.
    ///
    /// # Errors
    /// As [`stash`](Self::stash).
    #[expect(clippy::type_complexity, reason = "what comes back is what was given")]
    pub fn stash_ask<M, K>(&mut self, message: M, reply: Reply<M::Reply>) -> Result<(), StashFull<(M, Reply<M::Reply>)>>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        let Some(weight) = self.room_aside(&message) else { return Err(StashFull((message, reply))) };
        let sender = self.seat().sender();
        let asker = match (self.shard_cell().request().and_then(Request::for_ask), reply.into_address()) {
            (Some(request), Some(address)) => Asker::InRequest(request, Some(address)),
            (Some(request), None) => request.for_tell().map_or(Asker::None, |request| Asker::InRequest(request, None)),
            (None, None) => Asker::None,
            // A block says that there is no deadline; without one it would be looked for in this shard's table.
            (None, Some(address)) => Asker::Slot(address),
        };
        let meta = match asker {
            Asker::None => sender.map_or(Meta::None, Meta::Sender),
            asker => self.meta_of(ContextBlock { asker, sender, ..ContextBlock::new() }),
        };
        self.put_aside(self.to_me::<M, K>(message, meta), weight);
        Ok(())
    }

    /// Takes up what was put aside: the next messages that this actor handles are these, in their order, before whatever its
    /// mailbox holds. Returns how many.
    pub fn unstash(&mut self) -> usize {
        let mut core = self.shard_cell().core.borrow_mut();
        let core = &mut *core;
        let cell = core.cells.get(self.seat().index(), self.seat().generation());
        cell.map_or(0, |cell| cell.unstash(&mut core.pool))
    }

    /// How many messages are put aside.
    #[must_use]
    pub fn stashed(&self) -> usize {
        let core = self.shard_cell().core.borrow();
        core.cells.peek(self.seat().index(), self.seat().generation()).map_or(0, crate::shard::Cell::stashed)
    }

    fn meta_of(&self, context: ContextBlock) -> Meta {
        Meta::Context(self.shard_cell().link.contexts.make(context))
    }

    /// Whether there is room for one more; if its mailbox goes by weight, what the message weighs.
    fn room_aside<M: Message>(&self, message: &M) -> Option<Option<Weight>> {
        let shard = self.shard_cell();
        let me = (self.seat().index(), self.seat().generation());
        let (bytes, limit) = {
            let core = shard.core.borrow();
            let cell = core.cells.peek(me.0, me.1)?;
            if cell.stashed() >= core.mailbox_capacity as usize {
                return None;
            }
            let Some((_, limit)) = cell.bytes() else { return Some(None) };
            let stash = cell.extra.as_ref().and_then(|extra| extra.stash.as_ref());
            (stash.map_or(0, |stash| stash.bytes), limit)
        };
        let weight = shard.weigh(|| message.weight_bytes());
        (bytes == 0 || bytes + weight.bytes() <= u64::from(limit)).then_some(Some(weight))
    }

    fn put_aside(&self, mut envelope: Envelope, weight: Option<Weight>) {
        if let Some(weight) = weight {
            envelope.set_weight(weight);
        }
        let mut core = self.shard_cell().core.borrow_mut();
        let cell = core.cells.get(self.seat().index(), self.seat().generation());
        let cell = cell.expect("a running actor has its cell");
        cell.extra().stash.get_or_insert_default().push(envelope);
    }
}
