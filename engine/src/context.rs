//! `Context`: what a handler can do beside changing its own state.
//!
//! Invariant: a context is made for one message or hook of one actor and is used on its shard's thread during that time only.
//! One of the few files with `unsafe`: the pointer to the shard.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use shardstage_codec::ShardId;

use crate::actor::{Actor, StopReason, VirtualActor};
use crate::actor_ref::{ActorId, ActorRef, Recipient, on_shard_of};
use crate::address::{Address, ResolveError};
use crate::ask::{Question, Target};
use crate::envelope::{
    CellId, Class, Delivery, Envelope, Front, Meta, PackedAddress, VTable, read_payload, weigh_nothing,
};
use crate::erased::Erased;
use crate::error::AskError;
use crate::fan_out::{Audience, FanOut, FanOutTarget};
use crate::key::Key;
use crate::limits::ASK_DEADLINE;
use crate::message::{Message, WireMessage};
use crate::policy::Priority;
use crate::port::service::Service;
use crate::receive::{Receive, own_vtable, vtable};
use crate::reply::{NewSlot, ReplyOps, Then, ThenReply, Waiter};
use crate::request::{Request, Scope};
use crate::shard::{Midway, ShardCell, current};
use crate::virtual_ref::VirtualRef;

/// Which actor runs, on which shard.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    shard: NonNull<ShardCell>,
    id: CellId,
    sender: Option<PackedAddress>,
}

impl Seat {
    #[inline(always)]
    pub(crate) fn new(shard: &ShardCell, id: CellId, sender: Option<PackedAddress>) -> Self {
        Self { shard: NonNull::from(shard), id, sender }
    }

    /// Who sent the message, as the envelope says.
    pub(crate) fn sender(&self) -> Option<PackedAddress> {
        self.sender
    }

    #[inline(always)]
    pub(crate) fn index(&self) -> u32 {
        self.id.index()
    }

    #[inline(always)]
    pub(crate) fn generation(&self) -> u32 {
        self.id.generation()
    }
}

/// What an actor's handlers and hooks get beside the message.
pub struct Context<A> {
    seat: Seat,
    _actor: PhantomData<fn(A)>,
}

impl<A: Actor> Context<A> {
    pub(crate) fn new(seat: Seat) -> Self {
        Self { seat, _actor: PhantomData }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    pub(crate) fn shard_cell(&self) -> &ShardCell {
        // SAFETY: a context lives in a handler, hook or suspended future of an actor, and the shard outlives its actors.
        unsafe { self.seat.shard.as_ref() }
    }

    /// A reference to this actor.
    #[must_use]
    pub fn me(&self) -> ActorRef<A> {
        ActorRef::new(self.id())
    }

    fn id(&self) -> ActorId {
        ActorId::new(self.shard_cell().link, self.seat.index(), self.seat.generation())
    }

    /// The actor that sent this message; `None` for one from outside the shards, from another node, or for an ask.
    #[must_use]
    pub fn sender(&self) -> Option<ActorId> {
        let engine = self.shard_cell().link.engine();
        let sender = self.seat.sender.filter(|sender| sender.as_node().is_none());
        sender.map(|sender| ActorId::new(engine.link(sender.shard()), sender.index(), sender.generation()))
    }

    /// The request that this message is part of: its headers, deadline and trace parent. In an async handler this holds after
    /// each `.await` too, in a `then` it is that of the asking message.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        self.shard_cell().request()?.real()
    }

    /// The shard that this actor lives on.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard_cell().link.shard()
    }

    /// The turn's time in nanoseconds, on the shards' monotonic clock; virtual in the simulator.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.shard_cell().core.borrow().now_ns
    }

    /// 64 random bits, fast and not for secrets; seeded in the simulator.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        self.shard_cell().core.borrow_mut().random.next_u64()
    }

    /// The key of this virtual actor; `None` for one that was spawned.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let mut core = self.shard_cell().core.borrow_mut();
        let cell = core.cells.get(self.seat.index(), self.seat.generation())?;
        cell.extra.as_ref()?.name().map(|(_, key)| key.clone())
    }

    /// The epoch of this virtual actor's slot group under which it runs; the first epoch for one that was spawned.
    #[must_use]
    pub fn epoch(&self) -> shardstage_codec::Epoch {
        let engine = self.shard_cell().link.engine();
        let Some(key) = self.key() else { return shardstage_codec::Epoch::FIRST };
        let mut core = self.shard_cell().core.borrow_mut();
        let position = core
            .cells
            .get(self.seat.index(), self.seat.generation())
            .and_then(|cell| cell.extra.as_ref()?.name().map(|(position, _)| position))
            .expect("it has a key");
        let slot = shardstage_codec::slot_of(engine.registry.types[position].id, &key);
        engine.placement.epoch(slot.group())
    }

    /// A reference to the virtual actor `key` of type `V`.
    #[must_use]
    pub fn actor<V: VirtualActor>(&self, key: impl Into<Key>) -> VirtualRef<V> {
        VirtualRef::new(self.shard_cell().link.engine(), key.into())
    }

    /// The address of an actor, as a plain value for messages.
    #[must_use]
    pub fn address<B: Actor>(&self, actor: ActorRef<B>) -> Address<B> {
        Address::of(actor.id())
    }

    /// Makes a reference of an address that came in a message.
    ///
    /// # Errors
    /// When the address names another node, no shard of this engine, or an actor of another type.
    pub fn resolve<B: Actor>(&self, address: Address<B>) -> Result<ActorRef<B>, ResolveError> {
        address.resolve(self.shard_cell(), (self.seat.index(), std::any::TypeId::of::<A>()))
    }

    /// Stops this actor after the current message, its children before it; what is queued goes to the dead letters.
    pub fn stop(&mut self) {
        self.shard_cell().request_stop(self.seat.index(), self.seat.generation(), StopReason::Stopped);
    }

    pub(crate) fn to_me<M, K>(&self, message: M, meta: Meta) -> Envelope
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        // SAFETY: the vtable is made for `M`, and the cell of this generation is an `A`.
        unsafe { self.seat.id.envelope(vtable::<A, M, K>(), meta, message) }
    }

    /// A message from this actor's timers to itself.
    pub(crate) fn own_message<M, K>(&self, message: M) -> Envelope
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        // SAFETY: as in `to_me`.
        unsafe { self.seat.id.envelope(own_vtable::<A, M, K>(), Meta::None, message) }
    }

    /// What makes one of them after the other.
    pub(crate) fn own_messages<M, K>(&self, message: M) -> Box<dyn FnMut() -> Envelope + Send>
    where
        A: Receive<M, K>,
        M: Message + Clone,
        K: 'static,
    {
        let id = self.seat.id;
        // SAFETY: as in `to_me`; the timer ends with the actor.
        Box::new(move || unsafe { id.envelope(own_vtable::<A, M, K>(), Meta::None, message.clone()) })
    }

    /// Asks another actor; `.then(|this, reply, cx| ..)` runs as a turn of this actor when the reply, or the reason why there
    /// is none, has come. Meanwhile this actor is free.
    #[inline(always)]
    pub fn ask<M, T, K>(&mut self, target: T, message: M) -> PendingAsk<'_, A, M>
    where
        T: AskTarget<M, K>,
        M: Message,
    {
        let (target, vtable) = target.target();
        PendingAsk { question: Question { target, vtable, message, ttl: ASK_DEADLINE }, cx: self }
    }

    /// Sends one message to every receiver in `audience`; never blocks. For each other node it is encoded once, for each shard
    /// with receivers allocated once. Between this actor and one receiver it keeps its place among single messages.
    pub fn tell_many<T, M, K>(&mut self, audience: &mut Audience<T>, message: M) -> FanOut
    where
        T: FanOutTarget<M, K>,
    {
        crate::fan_out::tell_many(audience, message)
    }

    /// Calls `f` with this shard's service of type `S`, such as the event log; `None` when there is none, or when it is the one
    /// that is calling.
    pub fn service<S: Service, R>(&mut self, f: impl FnOnce(&mut S) -> R) -> Option<R> {
        for slot in &self.shard_cell().services {
            if let Ok(mut service) = slot.try_borrow_mut() {
                let any: &mut dyn std::any::Any = &mut **service;
                if let Some(service) = any.downcast_mut::<S>() {
                    return Some(f(service));
                }
            }
        }
        None
    }

    /// Suspends this actor after the current message or hook: it keeps its messages until the returned [`Resume`] is dropped.
    pub fn suspend(&mut self) -> Resume {
        let mut core = self.shard_cell().core.borrow_mut();
        let since_ns = core.now_ns;
        let cell = core.cells.get(self.seat.index(), self.seat.generation()).expect("a running actor has its cell");
        cell.conduct.suspended = true;
        let extra = cell.extra();
        if extra.suspensions == 0 {
            extra.midway = Midway { since_ns, message: None };
        }
        extra.suspensions += 1;
        Resume { id: self.id(), incarnation: cell.incarnation }
    }
}

/// 584 years at most.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<A> std::fmt::Debug for Context<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context<{}>({}.{})", std::any::type_name::<A>(), self.seat.index(), self.seat.generation())
    }
}

/// Ends a suspension when it is dropped, from any thread. See [`Context::suspend`].
#[must_use = "dropping it resumes the actor"]
#[derive(Debug)]
pub struct Resume {
    id: ActorId,
    incarnation: u16,
}

impl Drop for Resume {
    fn drop(&mut self) {
        let (id, incarnation) = (self.id, self.incarnation);
        on_shard_of(id, move |shard| {
            let mut core = shard.core.borrow_mut();
            let Some(cell) = core.cells.get(id.index(), id.generation()) else { return };
            if cell.incarnation != incarnation || cell.extra().suspensions == 0 {
                return;
            }
            cell.extra().suspensions -= 1;
            if cell.extra().suspensions == 0 {
                cell.conduct.resumed = true;
                core.wake(id.index(), id.generation());
            }
        });
    }
}

/// Whom [`Context::ask`] can ask: an [`ActorRef`], a [`Recipient`] or a [`VirtualRef`]. `K` is inferred.
#[expect(private_bounds, reason = "the supertrait seals this one")]
pub trait AskTarget<M: Message, K>: SealedTarget<M, K> {}

/// The target with the vtable for its messages of type `M`.
pub(crate) trait SealedTarget<M, K> {
    fn target(self) -> (Target, &'static VTable);
}

impl<T, M: Message, K> AskTarget<M, K> for T where T: SealedTarget<M, K> {}

impl<B, M, K> SealedTarget<M, K> for ActorRef<B>
where
    B: Receive<M, K>,
    M: Message,
    K: 'static,
{
    #[inline(always)]
    fn target(self) -> (Target, &'static VTable) {
        (Target::Actor(self.id()), vtable::<B, M, K>())
    }
}

impl<M: Message> SealedTarget<M, ()> for Recipient<M> {
    #[inline(always)]
    fn target(self) -> (Target, &'static VTable) {
        (Target::Actor(self.id()), self.vtable())
    }
}

impl<B, M, K> SealedTarget<M, K> for &VirtualRef<B>
where
    B: VirtualActor + Receive<M, K>,
    M: WireMessage,
    K: 'static,
{
    fn target(self) -> (Target, &'static VTable) {
        (Target::Virtual(self.id.clone()), vtable::<B, M, K>())
    }
}

impl<B, M, K> SealedTarget<M, K> for VirtualRef<B>
where
    B: VirtualActor + Receive<M, K>,
    M: WireMessage,
    K: 'static,
{
    fn target(self) -> (Target, &'static VTable) {
        SealedTarget::<M, K>::target(&self)
    }
}

/// An ask that waits for its `then`.
#[must_use = "nothing is asked before `then`"]
pub struct PendingAsk<'a, A, M: Message> {
    question: Question<M>,
    cx: &'a mut Context<A>,
}

impl<'a, A: Actor, M: Message> PendingAsk<'a, A, M> {
    /// What is asked, and by whom.
    pub(crate) fn into_parts(self) -> (Question<M>, &'a mut Context<A>) {
        (self.question, self.cx)
    }

    /// Waits at most `ttl`; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        self.question.ttl = ttl;
        self
    }

    /// Sends the message; `f` runs with the actor's state, the reply and a context, as a turn of this actor. If the message was
    /// refused, that turn comes too. If this actor stops or is rebuilt before, `f` is dropped.
    ///
    /// Costs no allocation while what `f` captures fits 32 bytes.
    #[inline(always)]
    pub fn then<F>(self, f: F)
    where
        F: FnOnce(&mut A, Result<M::Reply, AskError>, &mut Context<A>) + 'static,
    {
        let Self { question, cx } = self;
        let shard = cx.shard_cell();
        let deliver = then_vtable::<A, M::Reply, F, false>();
        let (index, generation) = (cx.seat.index(), cx.seat.generation());
        let refused = {
            // SAFETY: until the end of this block; numbers are looked at, the message and the closure are moved, none of their
            // code runs.
            let mut core = unsafe { shard.core.quick() };
            let incarnation = core.cells.get(index, generation).map_or(0, |cell| cell.incarnation);
            let then =
                Then { deadline_ns: 0, ops: ReplyOps::of::<M>(), deliver, index, generation, incarnation, closure: f };
            crate::route::ask_neighbour::<M, F>(shard, &mut core, question, then).map_err(|back| (incarnation, back))
        };
        let Err((incarnation, (question, Then { closure: f, .. }))) = refused else { return };
        let slot = NewSlot {
            deadline_ns: u64::MAX,
            ops: ReplyOps::of::<M>(),
            waiter: Waiter::Then { deliver, index, generation },
            closure: Some(Erased::new(f)),
            peer: None,
            group: None,
            incarnation,
        };
        let sent = if crate::route::is_home(shard, &question.target) {
            let Question { target, vtable, message, ttl } = question;
            crate::route::ask_from_shard(shard, &target, (vtable, message, ttl), slot)
        } else if let Some(request) = shard.request() {
            let deliver = then_vtable::<A, M::Reply, F, true>();
            let slot = NewSlot { waiter: Waiter::Then { deliver, index, generation }, ..slot };
            crate::carried::ask_then(shard, request, question, slot);
            return;
        } else {
            Err((crate::error::Rejected::Unavailable, slot))
        };
        if let Err((reason, slot)) = sent {
            // The refusal comes as a turn of its own, in the room that the ask reserved.
            let inserted = shard.core.borrow_mut().replies.insert(NewSlot { deadline_ns: u64::MAX, ..slot });
            if let Ok(address) = inserted {
                crate::reply::fail_here(shard, address, AskError::Rejected(reason));
            }
        }
    }
}

impl<A, M: Message> std::fmt::Debug for PendingAsk<'_, A, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingAsk<{}>", std::any::type_name::<M>())
    }
}

/// The vtable by which a reply comes to its `then`: its message is the address of the ready slot. An ask that is part of a request
/// (`IN_REQUEST`) has it as its slot's value.
pub(crate) fn then_vtable<A, R, F, const IN_REQUEST: bool>() -> &'static VTable
where
    A: Actor,
    R: Send + 'static,
    F: FnOnce(&mut A, Result<R, AskError>, &mut Context<A>) + 'static,
{
    struct Made<A, R, F, const IN_REQUEST: bool>(PhantomData<(A, R, F)>);
    impl<A, R, F, const IN_REQUEST: bool> Made<A, R, F, IN_REQUEST>
    where
        A: Actor,
        R: Send + 'static,
        F: FnOnce(&mut A, Result<R, AskError>, &mut Context<A>) + 'static,
    {
        const VTABLE: &'static VTable = &VTable {
            run: if IN_REQUEST { run_then_in_request::<A, R, F> } else { run_then::<A, R, F> },
            drop_message: drop_reply::<R>,
            weight: weigh_nothing,
            message_name: || "reply",
            actor_name: std::any::type_name::<A>,
            class: Class::System,
            priority: Priority::Urgent,
        };
    }
    Made::<A, R, F, IN_REQUEST>::VTABLE
}

/// `VTable::run` of a reply to an ask that is part of a request.
///
/// # Safety
/// As for [`run_then`].
unsafe fn run_then_in_request<A, R, F>(delivery: &Delivery<'_>, front: Front)
where
    A: Actor,
    R: Send + 'static,
    F: FnOnce(&mut A, Result<R, AskError>, &mut Context<A>) + 'static,
{
    // SAFETY: the caller's contract; it stays where it is.
    let address = unsafe { front.peek::<ThenReply<R>>() }.address;
    let kept = delivery.shard.core.borrow_mut().replies.ready(address).and_then(|slot| slot.value.take());
    crate::reentrancy::answered(delivery.shard, delivery.id, address);
    // SAFETY: `carried::ask_then` put a request there.
    let _scope = kept.map(|kept| Scope::on(delivery.shard, unsafe { kept.take::<Request>() }));
    // SAFETY: the caller's contract.
    unsafe { run_then::<A, R, F>(delivery, front) }
}

/// `VTable::drop_message` of a reply whose actor is gone: drops the answer, and frees the slot with the closure.
///
/// # Safety
/// `payload` holds a `ThenReply<R>` as an envelope stores it.
unsafe fn drop_reply<R: Send + 'static>(payload: *mut u8) {
    // SAFETY: the caller's contract.
    let reply = unsafe { read_payload::<ThenReply<R>>(payload) };
    // Without a current shard the whole table is being dropped.
    let freed = current(|shard| shard.and_then(|shard| shard.core.borrow_mut().replies.cancel(reply.address)));
    drop(freed);
}

/// `VTable::run` of a reply.
///
/// # Safety
/// The state is a built `A`, and the envelope holds the answer to an ask of `PendingAsk::<A, _>::then::<F>`.
unsafe fn run_then<A, R, F>(delivery: &Delivery<'_>, front: Front)
where
    A: Actor,
    R: Send + 'static,
    F: FnOnce(&mut A, Result<R, AskError>, &mut Context<A>) + 'static,
{
    // SAFETY: the caller's contract.
    let ThenReply { address, value } = unsafe { front.take::<ThenReply<R>>() };
    let f = {
        // SAFETY: until the end of this block; the closure is moved out of its slot, none of its code runs.
        let mut core = unsafe { delivery.shard.core.quick() };
        let incarnation = core.cells.get(delivery.id.index(), delivery.id.generation()).map(|cell| cell.incarnation);
        let Some(slot) = core.replies.ready(address) else { return };
        let asked_by = slot.incarnation;
        // SAFETY: `then` erased an `F`.
        let f = unsafe { Erased::take_from::<F>(&mut slot.closure) };
        core.replies.release(address);
        if incarnation == Some(asked_by) { Ok(f) } else { Err(f) }
    };
    // A rebuilt actor does not get its predecessor's answers; what is dropped here is dropped outside the borrow.
    let Ok(f) = f else { return };
    // SAFETY: the caller's contract.
    let actor = unsafe { front.actor::<A>() };
    let seat = Seat::new(delivery.shard, delivery.id, None);
    f(actor, value, &mut Context::new(seat));
}
