//! How an actor's handler kinds meet: `Receive<M, Kind>`, whose kind the compiler infers, and the vtables made of it.
//!
//! Invariant: `Receive` is sealed; other crates bring handlers by implementing a handler trait for their own types. One of the
//! few files with `unsafe`: it turns erased messages and states back into their types.

use std::marker::PhantomData;

use shardstage_codec::{AlignedBytes, WireValue};

use crate::actor::{Actor, ArchivedHandler, AsyncHandler, DeferredHandler, Handler};
use crate::context::{Context, Seat};
use crate::envelope::{Class, Delivery, Front, VTable, drop_message};
use crate::message::{Message, WireMessage};
use crate::reply::{self, Reply};

/// Names of the handler kinds, for the inferred parameter of [`Receive`].
pub mod kind {
    /// [`Handler`](crate::Handler).
    #[derive(Debug)]
    pub enum Sync {}
    /// [`AsyncHandler`](crate::AsyncHandler).
    #[derive(Debug)]
    pub enum Async {}
    /// [`DeferredHandler`](crate::DeferredHandler).
    #[derive(Debug)]
    pub enum Deferred {}
    /// [`ArchivedHandler`](crate::ArchivedHandler).
    #[derive(Debug)]
    pub enum Archived {}
}

mod sealed {
    pub(crate) trait Sealed<M, K> {
        /// Runs one message.
        ///
        /// # Safety
        /// The state is a built actor of type `Self` that nobody else uses, and its envelope holds an `M`.
        #[doc(hidden)]
        unsafe fn run(delivery: &crate::envelope::Delivery<'_>, front: crate::envelope::Front);

        /// Whether a panic is answered by the handler's own `Reply`, not by the dispatcher.
        const OWNS_REPLY: bool = false;
    }
}

/// An actor that takes messages of type `M` by some kind of handler. Implemented for every actor with a handler trait; `K` is
/// always inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{M}`",
    label = "no handler for this message",
    note = "implement `Handler`, `AsyncHandler`, `DeferredHandler` or `ArchivedHandler` of the message for the actor"
)]
#[expect(private_bounds, reason = "the supertrait seals this one")]
pub trait Receive<M: Message, K>: Actor + sealed::Sealed<M, K> {}

/// The vtable of (`A`, `M`, `K`).
pub(crate) fn vtable<A, M, K>() -> &'static VTable
where
    A: Receive<M, K>,
    M: Message,
    K: 'static,
{
    struct Made<A, M, K>(PhantomData<(A, M, K)>);
    impl<A: Receive<M, K>, M: Message, K: 'static> Made<A, M, K> {
        const VTABLE: &'static VTable = &VTable {
            run: <A as sealed::Sealed<M, K>>::run,
            drop_message: drop_message::<M>,
            message_name: std::any::type_name::<M>,
            actor_name: std::any::type_name::<A>,
            class: if <A as sealed::Sealed<M, K>>::OWNS_REPLY { Class::OwnsReply } else { Class::Plain },
        };
    }
    Made::<A, M, K>::VTABLE
}

#[inline(always)]
fn context<A: Actor>(delivery: &Delivery<'_>) -> Context<A> {
    Context::new(Seat::new(delivery.shard, delivery.id, delivery.sender))
}

impl<A: Handler<M>, M: Message> Receive<M, kind::Sync> for A {}

impl<A: Handler<M>, M: Message> sealed::Sealed<M, kind::Sync> for A {
    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let value = actor.handle(message, &mut context(delivery));
        if let Some(address) = delivery.reply {
            reply::answer_with(delivery.shard, address, delivery.epoch(), value);
        }
    }
}

impl<A: DeferredHandler<M>, M: Message> Receive<M, kind::Deferred> for A {}

impl<A: DeferredHandler<M>, M: Message> sealed::Sealed<M, kind::Deferred> for A {
    const OWNS_REPLY: bool = true;

    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let reply = Reply::new(delivery.reply, delivery.epoch(), delivery.shard.link);
        actor.handle(message, reply, &mut context(delivery));
    }
}

impl<A: AsyncHandler<M>, M: Message> Receive<M, kind::Async> for A {}

impl<A: AsyncHandler<M>, M: Message> sealed::Sealed<M, kind::Async> for A {
    const OWNS_REPLY: bool = true;

    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract; the future is dropped before the state (see `AsyncSlot`), and while it lives no hook
        // or handler of this actor runs.
        let actor = unsafe { front.actor::<A>() };
        let reply = Reply::new(delivery.reply, delivery.epoch(), delivery.shard.link);
        let mut cx = context::<A>(delivery);
        let future = async move {
            let value = actor.handle(message, &mut cx).await;
            reply.send(value);
        };
        // SAFETY: the future borrows this actor's state only.
        unsafe { delivery.shard.start_future(delivery.id.index(), delivery.id.generation(), future) }
    }
}

impl<A: ArchivedHandler<M>, M: WireMessage> Receive<M, kind::Archived> for A where M::Reply: WireValue {}

impl<A: ArchivedHandler<M>, M: WireMessage> sealed::Sealed<M, kind::Archived> for A
where
    M::Reply: WireValue,
{
    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let mut bytes = AlignedBytes::new();
        let failed = |why: String| crate::error::AskError::Failed(crate::error::Panicked(why.into()));
        let value = match shardstage_codec::encode(&message, &mut bytes) {
            Err(error) => Err(failed(format!("{} cannot be archived: {error}", M::NAME))),
            Ok(_) => match shardstage_codec::access::<M>(&bytes) {
                Err(error) => Err(failed(format!("{} cannot be read in place: {error}", M::NAME))),
                Ok(archived) => Ok(actor.handle(archived, &mut context(delivery))),
            },
        };
        if let Some(address) = delivery.reply {
            reply::answer(delivery.shard, address, delivery.epoch(), value);
        }
    }
}
