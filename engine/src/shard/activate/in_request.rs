//! A message that is part of a request meets its handler.
//!
//! Invariant: the request is open while the handler runs, and whenever the future that the handler has left behind is polled,
//! and at no other time: a panic, an expired message or the next message of the same actor never see it. A share ends with
//! such a message. Shard thread only. One of the few files with `unsafe`.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context as TaskContext, Poll};

use super::{Opened, ShardCell};
use crate::context_block::{Asker, ContextBlock};
use crate::envelope::{CellId, Class, Delivery, Envelope, Front, Meta, PackedAddress};
use crate::intercept::{Observers, Watch};
use crate::reply::ReplyAddress;
use crate::request::{Request, Scope};
use crate::shard::async_slot::AsyncSlot;

/// What the block of such a message says.
pub(super) struct Carried {
    request: Request,
    pub(super) reply: Option<ReplyAddress>,
    pub(super) sender: Option<PackedAddress>,
    deadline_ns: u64,
}

/// Puts the block of such a message back, for `run_in_request` to take.
#[cold]
#[inline(never)]
pub(super) fn leave(envelope: &mut Envelope, context: Box<ContextBlock>) -> Opened {
    envelope.set_meta(Meta::Context(context));
    Opened::InRequest
}

/// Takes the meta word of a message that is part of a request.
pub(super) fn take(envelope: &mut Envelope) -> Carried {
    let Meta::Context(context) = envelope.take_meta() else { unreachable!("`open` has put the block back") };
    let ContextBlock { asker, sender, deadline_ns, .. } = *context;
    let Asker::InRequest(request, reply) = asker else { unreachable!("`open` has looked") };
    Carried { request, reply, sender, deadline_ns }
}

impl ShardCell {
    /// Handles the message at the front of the mailbox, or drops it if it came too late.
    pub(super) fn run_in_request(&self, index: u32, handled: u32) -> u32 {
        let (ready, generation, state, slot, carried) = {
            let mut lent = self.core.borrow_mut();
            let core = &mut *lent;
            let now_ns = core.now_ns;
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            let mut slot = cell.mailbox.front().expect("it is at the front");
            // SAFETY: the slot at the front is initialised, and nobody else has a reference to it.
            let carried = take(unsafe { slot.as_mut() });
            // One without a deadline was put aside, and is handled whoever still waits.
            let own = carried.reply.filter(|address| carried.deadline_ns != 0 && address.0.shard() == core.shard.get());
            let given_up = own.is_some_and(|address| core.replies.waiting(address).is_none());
            core.asked_until_ns = carried.deadline_ns;
            if given_up || (carried.deadline_ns != 0 && carried.deadline_ns <= now_ns) {
                drop(lent);
                return self.run_rare(index, Opened::Expired(carried.reply), handled);
            }
            cell.mailbox.advance();
            let ready = cell.ready(index);
            let generation = cell.generation;
            let state = cell.state.as_ref().expect("a running actor's state is in its cell").state_ptr();
            (ready, generation, state, slot, carried)
        };
        let Carried { request, reply, sender, .. } = carried;
        // SAFETY: cells never move, and a running actor keeps its own.
        let mut delivery = unsafe { Delivery::new(self, ready.cell, CellId::new(index, generation)) };
        (delivery.sender, delivery.reply) = (sender, reply);
        // SAFETY: the message is still in its slot, which the mailbox has forgotten.
        let vtable = unsafe { slot.as_ref() }.vtable();
        self.link.blame.runs(vtable);
        let scope = Scope::on(self, request.clone());
        // SAFETY: as in `run`: the vtable is of the cell's actor, which is built, and nobody else uses its state.
        let run = AssertUnwindSafe(|| unsafe { (vtable.run)(&delivery, Front::new(slot, state)) });
        let outcome = catch_unwind(run);
        drop(scope);
        if let Err(panic) = outcome {
            let reply = reply.filter(|_| vtable.class == Class::Plain);
            return self.end_with_panic(index, (vtable, sender), reply, &*panic, handled);
        }
        self.keep_request(index, &request, None);
        self.end(ready, handled);
        handled
    }

    /// Has the future that the handler left behind, if any, polled as part of the request. Whether it has left one.
    pub(super) fn keep_request(&self, index: u32, request: &Request, observers: Option<&Observers>) -> bool {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        let Some(extra) = cell.extra.as_mut().filter(|extra| extra.async_slot.is_live()) else { return false };
        let slot = std::mem::take(&mut extra.async_slot);
        let shard = NonNull::from(self);
        // SAFETY: what the inner future borrows is the actor's state, which outlives whatever is in the actor's slot.
        unsafe {
            extra.async_slot.put(InRequest { shard, slot, request: request.clone(), observers: observers.cloned() });
        }
        true
    }
}

/// An async handler's future as part of a request.
struct InRequest {
    /// The shard, which outlives its actors.
    shard: NonNull<ShardCell>,
    slot: AsyncSlot,
    request: Request,
    observers: Option<Observers>,
}

impl Future for InRequest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        // SAFETY: the future belongs to an actor of this shard and is polled in its turn.
        let shard = unsafe { this.shard.as_ref() };
        let _scope = Scope::on(shard, this.request.clone());
        let _watch = this.observers.clone().map(|observers| Watch::on(shard, observers));
        this.slot.poll(cx)
    }
}
