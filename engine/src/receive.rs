//! How an actor's handler kinds meet: `Receive<M, Kind>`, whose kind the compiler infers, and the vtables made of it.
//!
//! Invariant: `Receive` is sealed; other crates bring handlers by implementing a handler trait for their own types. One of the
//! few files with `unsafe`: it turns erased messages and states back into their types.

use std::marker::PhantomData;

use shardstage_codec::{DecodeError, WireValue};

use crate::actor::{Actor, ArchivedHandler, AsyncHandler, DeferredHandler, Handler};
use crate::context::{Context, Seat};
use crate::dead_letter::{DeadLetter, MessageName, Reason};
use crate::envelope::{CellId, Class, Delivery, Envelope, EpochTag, Front, Meta, VTable, drop_message, look_at};
use crate::error::{AskError, Panicked, Rejected};
use crate::fan_out::Shared;
use crate::message::{Message, WireMessage};
use crate::port::frame::{Frame, SharedBytes};
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
    /// [`Handler`](crate::Handler) of a message of which each of many receivers gets its own copy.
    #[derive(Debug)]
    pub enum Copied {}
}

mod sealed {
    use shardstage_codec::DecodeError;

    use crate::envelope::{Envelope, EpochTag, Meta};
    use crate::message::WireMessage;
    use crate::port::frame::Frame;

    pub(crate) trait Sealed<M, K> {
        /// Runs one message.
        ///
        /// # Safety
        /// The state is a built actor of type `Self` that nobody else uses, and its envelope holds an `M`.
        #[doc(hidden)]
        unsafe fn run(delivery: &crate::envelope::Delivery<'_>, front: crate::envelope::Front);

        /// Whether a panic is answered by the handler's own `Reply`, not by the dispatcher.
        const OWNS_REPLY: bool = false;

        /// Wraps a message that came over the wire as `payload`, a part of `frame`: rebuilt, unless the kind says otherwise.
        #[doc(hidden)]
        fn wrap(frame: Frame<'_>, payload: &[u8], epoch: EpochTag) -> Result<Envelope, DecodeError>
        where
            M: WireMessage,
            Self: super::Receive<M, K>,
            K: 'static,
        {
            let _kept_by_no_one = frame;
            let message = shardstage_codec::decode::<M>(payload)?;
            // SAFETY: the vtable is made for `M`; the inbound path fills in a cell of type `Self`.
            Ok(unsafe { Envelope::new(0, 0, super::vtable::<Self, M, K>(), epoch, Meta::None, message) })
        }
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

/// What wraps a message for `A` that came over the wire.
pub(crate) fn wrap<A, M, K>(frame: Frame<'_>, payload: &[u8], epoch: EpochTag) -> Result<Envelope, DecodeError>
where
    A: Receive<M, K>,
    M: WireMessage,
    K: 'static,
{
    <A as sealed::Sealed<M, K>>::wrap(frame, payload, epoch)
}

/// The vtable of (`A`, `M`, `K`).
pub(crate) fn vtable<A, M, K>() -> &'static VTable
where
    A: Receive<M, K>,
    M: Message,
    K: 'static,
{
    Made::<A, M, K, false>::VTABLE
}

/// The vtable of (`A`, `M`, `K`) for messages of the actor's own timers.
pub(crate) fn own_vtable<A, M, K>() -> &'static VTable
where
    A: Receive<M, K>,
    M: Message,
    K: 'static,
{
    Made::<A, M, K, true>::VTABLE
}

struct Made<A, M, K, const OWN: bool>(PhantomData<(A, M, K)>);

impl<A: Receive<M, K>, M: Message, K: 'static, const OWN: bool> Made<A, M, K, OWN> {
    const VTABLE: &'static VTable = &VTable {
        run: <A as sealed::Sealed<M, K>>::run,
        drop_message: drop_message::<M>,
        weight: weight_of::<M>,
        message_name: std::any::type_name::<M>,
        actor_name: std::any::type_name::<A>,
        class: match (OWN, <A as sealed::Sealed<M, K>>::OWNS_REPLY) {
            (true, _) => Class::Own,
            (false, true) => Class::OwnsReply,
            (false, false) => Class::Plain,
        },
        priority: M::PRIORITY,
    };
}

/// `VTable::weight` of messages of type `M`.
///
/// # Safety
/// `payload` was written for an `M`.
unsafe fn weight_of<M: Message>(payload: *const u8) -> usize {
    // SAFETY: the caller's contract; the reference ends here.
    unsafe { look_at::<M>(payload) }.weight_bytes()
}

impl CellId {
    /// A message for this actor.
    ///
    /// # Safety
    /// As for [`Envelope::new`]; the actor takes messages of this vtable.
    pub(crate) unsafe fn envelope<T: Send>(self, vtable: &'static VTable, meta: Meta, message: T) -> Envelope {
        // SAFETY: the caller's contract.
        unsafe { Envelope::new(self.index(), self.generation(), vtable, EpochTag::BY_GENERATION, meta, message) }
    }
}

#[inline(always)]
fn context<A: Actor>(delivery: &Delivery<'_>) -> Context<A> {
    Context::new(Seat::new(delivery.shard, delivery.id, delivery.sender))
}

/// Until when an asker on another shard waits; 0 when the asker is on this one, whose table says it, and when nobody asks.
///
/// # Safety
/// The message of `front` was not taken yet.
#[inline]
unsafe fn until_ns(delivery: &Delivery<'_>, front: Front) -> u64 {
    match delivery.reply {
        Some(address) if address.0.shard() != delivery.shard.link.shard().get() => {
            // SAFETY: the caller's contract.
            unsafe { front.deadline_ns() }.unwrap_or_else(|| delivery.shard.core.borrow().asked_until_ns)
        }
        _ => 0,
    }
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

impl<A: Handler<M>, M: Message + Sync + Clone> Receive<Shared<M>, kind::Copied> for A {}

impl<A: Handler<M>, M: Message + Sync + Clone> sealed::Sealed<Shared<M>, kind::Copied> for A {
    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<Shared<M>>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let copy = M::clone(&message);
        actor.handle(copy, &mut context(delivery));
    }
}

impl<A: DeferredHandler<M>, M: Message> Receive<M, kind::Deferred> for A {}

impl<A: DeferredHandler<M>, M: Message> sealed::Sealed<M, kind::Deferred> for A {
    const OWNS_REPLY: bool = true;

    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the message is taken below.
        let until_ns = unsafe { until_ns(delivery, front) };
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let reply = Reply::new(delivery.reply, delivery.epoch(), delivery.shard.link, until_ns);
        actor.handle(message, reply, &mut context(delivery));
    }
}

impl<A: AsyncHandler<M>, M: Message> Receive<M, kind::Async> for A {}

impl<A: AsyncHandler<M>, M: Message> sealed::Sealed<M, kind::Async> for A {
    const OWNS_REPLY: bool = true;

    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the message is taken below.
        let until_ns = unsafe { until_ns(delivery, front) };
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract; the future is dropped before the state (see `AsyncSlot`), and while it lives no hook
        // or handler of this actor runs.
        let actor = unsafe { front.actor::<A>() };
        let reply = Reply::new(delivery.reply, delivery.epoch(), delivery.shard.link, until_ns);
        let mut cx = context::<A>(delivery);
        let future = async move {
            let value = actor.handle(message, &mut cx).await;
            reply.send(value);
        };
        // SAFETY: the future borrows this actor's state only.
        unsafe { delivery.shard.start_future(delivery, std::any::type_name::<M>, future) }
    }
}

impl<A: ArchivedHandler<M>, M: WireMessage> Receive<M, kind::Archived> for A where M::Reply: WireValue {}

impl<A: ArchivedHandler<M>, M: WireMessage> sealed::Sealed<M, kind::Archived> for A
where
    M::Reply: WireValue,
{
    /// A message from this node: archived once, into room that is used again.
    unsafe fn run(delivery: &Delivery<'_>, front: Front) {
        // SAFETY: the caller's contract.
        let message = unsafe { front.take::<M>() };
        // SAFETY: the caller's contract.
        let actor = unsafe { front.actor::<A>() };
        let mut bytes = std::mem::take(&mut delivery.shard.core.borrow_mut().scratch);
        bytes.clear();
        match shardstage_codec::encode(&message, &mut bytes) {
            Ok(_) => read_in_place::<A, M>(delivery, actor, &bytes),
            Err(error) => {
                let why = format!("{} cannot be archived: {error}", M::NAME);
                answer_error::<M>(delivery, AskError::Failed(Panicked(why.into())));
            }
        }
        delivery.shard.core.borrow_mut().scratch = bytes;
    }

    fn wrap(frame: Frame<'_>, payload: &[u8], epoch: EpochTag) -> Result<Envelope, DecodeError> {
        let message = InPlace::<M> { bytes: frame.keep(payload), _message: PhantomData };
        // SAFETY: the vtable is made for an `InPlace<M>`; the inbound path fills in a cell of type `A`.
        Ok(unsafe { Envelope::new(0, 0, in_place_vtable::<A, M>(), epoch, Meta::None, message) })
    }
}

/// A message that stays where it arrived until its handler reads it.
struct InPlace<M> {
    bytes: SharedBytes,
    _message: PhantomData<fn() -> M>,
}

fn in_place_vtable<A, M>() -> &'static VTable
where
    A: ArchivedHandler<M>,
    M: WireMessage,
    M::Reply: WireValue,
{
    struct Made<A, M>(PhantomData<(A, M)>);
    impl<A: ArchivedHandler<M>, M: WireMessage> Made<A, M>
    where
        M::Reply: WireValue,
    {
        const VTABLE: &'static VTable = &VTable {
            run: run_in_place::<A, M>,
            drop_message: drop_message::<InPlace<M>>,
            weight: weight_in_place::<M>,
            message_name: std::any::type_name::<M>,
            actor_name: std::any::type_name::<A>,
            class: Class::Plain,
            priority: M::PRIORITY,
        };
    }
    Made::<A, M>::VTABLE
}

/// `VTable::weight` of a message that stays where it arrived: its archive.
///
/// # Safety
/// `payload` was written for an `InPlace<M>`.
unsafe fn weight_in_place<M>(payload: *const u8) -> usize {
    // SAFETY: the caller's contract; the reference ends here.
    unsafe { look_at::<InPlace<M>>(payload) }.bytes.len()
}

/// # Safety
/// The front is an `InPlace<M>` for a built actor of type `A` that nobody else uses.
unsafe fn run_in_place<A, M>(delivery: &Delivery<'_>, front: Front)
where
    A: ArchivedHandler<M>,
    M: WireMessage,
    M::Reply: WireValue,
{
    // SAFETY: the caller's contract.
    let message = unsafe { front.take::<InPlace<M>>() };
    // SAFETY: the caller's contract.
    let actor = unsafe { front.actor::<A>() };
    read_in_place::<A, M>(delivery, actor, &message.bytes);
}

/// Validates an archive, once, and hands the view to the handler.
fn read_in_place<A, M>(delivery: &Delivery<'_>, actor: &mut A, bytes: &[u8])
where
    A: ArchivedHandler<M>,
    M: WireMessage,
    M::Reply: WireValue,
{
    let Ok(archived) = shardstage_codec::access::<M>(bytes) else {
        let receiver = delivery.shard.core.borrow().actor_id(delivery.id.index(), delivery.id.generation());
        delivery.shard.link.engine().dead_letters.record(DeadLetter {
            receiver: Some(receiver),
            receiver_type: Some(std::any::type_name::<A>()),
            sender: None,
            message: MessageName::Type(std::any::type_name::<M>()),
            reason: Reason::Malformed,
        });
        return answer_error::<M>(delivery, AskError::Rejected(Rejected::NoHandler));
    };
    let value = actor.handle(archived, &mut context(delivery));
    if let Some(address) = delivery.reply {
        reply::answer_with(delivery.shard, address, delivery.epoch(), value);
    }
}

fn answer_error<M: Message>(delivery: &Delivery<'_>, error: AskError) {
    if let Some(address) = delivery.reply {
        reply::answer::<M::Reply>(delivery.shard, address, delivery.epoch(), Err(error));
    }
}
