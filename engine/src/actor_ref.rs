//! References to actors. The message path begins here, with [`ActorRef::tell`].
//!
//! Invariant: a reference is a link to a shard, an index and a generation; it counts nothing, outlives its actor and its
//! engine, and never reaches another actor that got the same index later.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;

use shardstage_codec::ShardId;

use crate::actor::{Actor, StopReason};
use crate::ask::{Ask, Target};
use crate::carried;
use crate::credit::CreditKey;
use crate::envelope::{Envelope, EpochTag, Meta, VTable};
use crate::error::{Rejected, TellError};
use crate::latch::{Happening, Latch, LatchGuard};
use crate::link::ShardLink;
use crate::message::Message;
use crate::receive::{Receive, vtable};
use crate::request::{self, Request};
use crate::route;
use crate::sending::Sending;
use crate::shard::{Life, ShardCell, current, here, here_in};

/// Which actor, whatever its type. Equal ids mean the same actor.
#[derive(Clone, Copy)]
pub struct ActorId {
    link: &'static ShardLink,
    index: u32,
    generation: u32,
}

impl ActorId {
    pub(crate) fn new(link: &'static ShardLink, index: u32, generation: u32) -> Self {
        Self { link, index, generation }
    }

    pub(crate) fn link(self) -> &'static ShardLink {
        self.link
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn generation(self) -> u32 {
        self.generation
    }

    pub(crate) fn credit_key(self) -> CreditKey {
        CreditKey::of_cell(self.index, self.generation)
    }

    /// The shard on which the actor lives.
    #[must_use]
    pub fn shard(self) -> ShardId {
        self.link.shard()
    }
}

impl PartialEq for ActorId {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.link, other.link) && self.index == other.index && self.generation == other.generation
    }
}

impl Eq for ActorId {}

impl std::hash::Hash for ActorId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.link.shard().hash(state);
        self.index.hash(state);
        self.generation.hash(state);
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.link.shard(), self.index, self.generation)
    }
}

/// A typed reference to one actor of this process: 16 bytes, `Copy`, usable from any thread.
pub struct ActorRef<A> {
    id: ActorId,
    _actor: PhantomData<fn(A)>,
}

const _: () = assert!(size_of::<ActorRef<()>>() == 16);

impl<A> ActorRef<A> {
    pub(crate) fn new(id: ActorId) -> Self {
        Self { id, _actor: PhantomData }
    }

    /// Which actor this is.
    #[must_use]
    pub fn id(self) -> ActorId {
        self.id
    }
}

impl<A: Actor> ActorRef<A> {
    /// Sends a message; never blocks, and answers from what the calling shard or thread knows.
    ///
    /// On the actor's own shard this costs no atomic, no lock and, up to 40 bytes, no allocation. From elsewhere the message
    /// goes through a bounded ring or queue; if the mailbox turns out to be full on arrival, the message goes to the dead
    /// letters, counted, and later senders get [`TellError::Full`] until there is room again.
    ///
    /// # Errors
    /// [`TellError::Full`] and [`TellError::Closed`], which hand the message back.
    #[inline]
    pub fn tell<M, K>(self, message: M) -> Result<(), TellError<M>>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        tell(self.id, vtable::<A, M, K>(), message)
    }

    /// Like [`tell`](Self::tell), as part of `request`.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn tell_with<M, K>(self, message: M, request: &Request) -> Result<(), TellError<M>>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        request.scope(|| self.tell(message))
    }

    /// Sends a message and waits for room: `.await` it in async code, where a handler suspends its own actor only, or
    /// `.wait()` for it outside the shards. See [`Sending`] for order and cancelling.
    ///
    /// # Errors
    /// The future never ends as [`TellError::Full`]: [`TellError::Closed`] when the actor has stopped or stops meanwhile,
    /// [`TellError::TooManyWaiters`] when the table of waiting senders is full. Both hand the message back.
    pub fn send<M, K>(self, message: M) -> Sending<M>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        Sending::new(Target::Actor(self.id), vtable::<A, M, K>(), message)
    }

    /// Asks for the message's reply: `.await` it, `.wait()` for it outside the shards, or use
    /// [`Context::ask`](crate::Context::ask) inside a handler. Nothing is sent before that. The deadline is 5 s unless
    /// [`Ask::deadline`] says otherwise.
    pub fn ask<M, K>(self, message: M) -> Ask<M>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        Ask::new(Target::Actor(self.id), vtable::<A, M, K>(), message)
    }

    /// A reference that only knows one message type.
    #[must_use]
    pub fn recipient<M, K>(self) -> Recipient<M>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        Recipient { id: self.id, vtable: vtable::<A, M, K>(), _message: PhantomData }
    }

    /// Ends the actor before anything that is queued: an async handler's future is dropped where it waits, no hook runs, what is
    /// queued goes to the dead letters. A handler that computes is not interrupted. The result tells when the actor's state has
    /// been dropped, and why it stopped, if something else was faster.
    pub fn kill(self) -> Happening<StopReason> {
        self.end("ActorRef::kill().wait()", |shard, id| shard.request_stop(id.index, id.generation, StopReason::Killed))
    }

    /// Stops the actor before its next message; what is queued goes to the dead letters. An async handler that has begun
    /// comes to its end before; [`kill`](Self::kill) ends that too. The result tells when the actor's state has been dropped, and
    /// why it stopped, if something else was faster.
    pub fn stop(self) -> Happening<StopReason> {
        self.end("ActorRef::stop().wait()", |shard, id| {
            shard.request_stop(id.index, id.generation, StopReason::Stopped)
        })
    }

    /// Stops the actor after the messages that are queued, those that the caller sent before among them; new ones are refused
    /// as `Closed`.
    pub fn drain(self) -> Happening<StopReason> {
        let id = self.id;
        current(|shard| {
            if let Some(shard) = shard.filter(|shard| !std::ptr::eq(shard.link, id.link)) {
                shard.publish_now();
            }
        });
        self.end("ActorRef::drain().wait()", |shard, id| {
            let here = current(|shard| shard.is_some_and(|shard| shard.core.borrow().running.is_some()));
            if here {
                return shard.request_drain(id.index, id.generation);
            }
            let drain = Box::new(move |shard: &ShardCell| shard.request_drain(id.index, id.generation));
            shard.core.borrow_mut().deferred.push(drain);
        })
    }

    /// Tells when the actor has stopped, without stopping it.
    pub fn stopped(self) -> Happening<StopReason> {
        self.end("ActorRef::stopped().wait()", |_, _| {})
    }

    /// Tells when the actor has started (`Ok`), or that it could not or has stopped since.
    pub fn started(self) -> Happening<Result<(), StopReason>> {
        let latch = Latch::new();
        let guard = LatchGuard::new(latch.clone(), Err(StopReason::Shutdown));
        let id = self.id;
        on_shard_of(id, move |shard| report_start(shard, id, guard));
        Happening { latch, what: "ActorRef::started().wait()", engine: Some(id.link.engine()) }
    }

    fn end(
        self,
        what: &'static str,
        request: impl FnOnce(&ShardCell, ActorId) + Send + 'static,
    ) -> Happening<StopReason> {
        let latch = Latch::new();
        let guard = LatchGuard::new(latch.clone(), StopReason::Shutdown);
        let id = self.id;
        on_shard_of(id, move |shard| {
            let mut core = shard.core.borrow_mut();
            if let Some(cell) = core.cells.get(id.index, id.generation) {
                let given_up = crate::latch::keep(&mut cell.extra().stop_latches, guard);
                drop(core);
                drop(given_up);
                request(shard, id);
            } else {
                guard.set(StopReason::Stopped);
            }
        });
        Happening { latch, what, engine: Some(id.link.engine()) }
    }
}

/// Sets the latch once the actor is past its start.
fn report_start(shard: &ShardCell, id: ActorId, guard: LatchGuard<Result<(), StopReason>>) {
    let mut core = shard.core.borrow_mut();
    let started = match core.cells.get(id.index, id.generation) {
        Some(cell) if cell.conduct.life == Life::New => {
            let given_up = crate::latch::keep(&mut cell.extra().start_latches, guard);
            drop(core);
            return drop(given_up);
        }
        Some(cell) if cell.conduct.life != Life::Stopping => Ok(()),
        _ => Err(StopReason::StartFailed("the actor did not start, or has stopped since".to_owned())),
    };
    drop(core);
    guard.set(started);
}

/// Runs `f` on the actor's shard: at once if that is the current one.
pub(crate) fn on_shard_of(id: ActorId, f: impl FnOnce(&ShardCell) + Send + 'static) {
    current(|shard| match shard {
        Some(shard) if std::ptr::eq(shard.link, id.link) => f(shard),
        _ => id.link.run(Box::new(f)),
    });
}

impl<A> From<ActorRef<A>> for ActorId {
    fn from(actor: ActorRef<A>) -> Self {
        actor.id
    }
}

impl<M: Message> From<Recipient<M>> for ActorId {
    fn from(recipient: Recipient<M>) -> Self {
        recipient.id
    }
}

impl<A> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for ActorRef<A> {}

impl<A> PartialEq for ActorRef<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<A> Eq for ActorRef<A> {}

impl<A> fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorRef<{}>({:?})", std::any::type_name::<A>(), self.id)
    }
}

/// A reference to some actor that takes messages of type `M`. As light as an [`ActorRef`]: `Copy`, counts nothing.
pub struct Recipient<M> {
    id: ActorId,
    vtable: &'static VTable,
    _message: PhantomData<fn(M)>,
}

impl<M: Message> Recipient<M> {
    pub(crate) fn vtable(self) -> &'static VTable {
        self.vtable
    }

    /// Like [`ActorRef::tell`].
    ///
    /// # Errors
    /// [`TellError::Full`] and [`TellError::Closed`], which hand the message back.
    pub fn tell(self, message: M) -> Result<(), TellError<M>> {
        tell(self.id, self.vtable, message)
    }

    /// Like [`ActorRef::tell_with`].
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn tell_with(self, message: M, request: &Request) -> Result<(), TellError<M>> {
        request.scope(|| self.tell(message))
    }

    /// Like [`ActorRef::send`].
    pub fn send(self, message: M) -> Sending<M> {
        Sending::new(Target::Actor(self.id), self.vtable, message)
    }

    /// Like [`ActorRef::ask`].
    pub fn ask(self, message: M) -> Ask<M> {
        Ask::new(Target::Actor(self.id), self.vtable, message)
    }

    /// Which actor this is.
    #[must_use]
    pub fn id(self) -> ActorId {
        self.id
    }
}

impl<M> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Recipient<M> {}

impl<M> fmt::Debug for Recipient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient<{}>({:?})", std::any::type_name::<M>(), self.id)
    }
}

/// Route: the same shard's mailbox, another shard's ring, or the injector of a shard from outside.
#[inline(always)]
pub(crate) fn tell<M: Message>(id: ActorId, vtable: &'static VTable, message: M) -> Result<(), TellError<M>> {
    // SAFETY: used until this function returns.
    match unsafe { here(id.link) } {
        Some(shard) => tell_here(shard, id, vtable, message),
        None => match claim_elsewhere(id.link, (id.index, id.generation), vtable) {
            Ok(slot) => {
                // SAFETY: claimed for this message, and `vtable` was made for messages of type `M` by whoever made the reference.
                unsafe { Envelope::write_message(slot, message) };
                Ok(())
            }
            Err(Elsewhere::Full) => Err(TellError::Full(message)),
            Err(Elsewhere::NotPlainly) => {
                // A copy for the call: with its address given away, the message itself could not travel in registers above,
                // and loading from memory what was just stored there in smaller pieces costs as much as the rest of a tell.
                let message = ManuallyDrop::new(message);
                let mut copy = MaybeUninit::<M>::uninit();
                // SAFETY: both are room for one `M`, and the original is forgotten.
                unsafe { copy.as_mut_ptr().copy_from_nonoverlapping(&raw const *message, 1) };
                // SAFETY: just initialised, and used once.
                tell_elsewhere(id, vtable, unsafe { copy.assume_init() })
            }
        },
    }
}

/// Why a message does not go straight into the ring to another shard.
enum Elsewhere {
    /// Ring or receiver have no room for it.
    Full,
    /// It comes from outside the engine's shards, or belongs to a request.
    NotPlainly,
}

/// The ring slot for a message to an actor of another shard, with everything but the message written; the caller writes that before
/// anything else. So the message stays in its registers: passed through memory it was stored in words and loaded in pairs of them, and
/// such a load waits until the stores of the messages before, to lines that the other core has, are through.
#[inline(never)]
fn claim_elsewhere(
    link: &'static ShardLink,
    cell: (u32, u32),
    vtable: &'static VTable,
) -> Result<NonNull<Envelope>, Elsewhere> {
    // SAFETY: used until this function returns.
    let shard = unsafe { here_in(link.engine()) }.ok_or(Elsewhere::NotPlainly)?;
    // SAFETY: until the end of this function: numbers, flags, and the words of an envelope's head.
    let mut core = unsafe { shard.core.quick() };
    let core = &mut *core;
    let to = link.shard().get();
    if !core.mesh.has_room(to) {
        return Err(Elsewhere::Full);
    }
    let Ok(credit) = core.purse.take(ActorId::new(link, cell.0, cell.1)) else { return Err(Elsewhere::Full) };
    let meta = core.running.map_or(Meta::None, Meta::Sender);
    let slot = core.mesh.claim(to);
    // SAFETY: the slot was claimed for this message; the caller writes the other half.
    unsafe { Envelope::write_head(slot, cell, vtable, EpochTag::BY_GENERATION, meta, credit) };
    Ok(slot)
}

#[inline(never)]
fn tell_elsewhere<M: Message>(id: ActorId, vtable: &'static VTable, message: M) -> Result<(), TellError<M>> {
    match request::open() {
        None => tell_from_outside(id, vtable, message),
        Some(request) => carried::tell(request, &Target::Actor(id), vtable, message),
    }
}

#[inline(always)]
fn tell_here<M: Message>(
    shard: &ShardCell,
    id: ActorId,
    vtable: &'static VTable,
    message: M,
) -> Result<(), TellError<M>> {
    // SAFETY: until the end of this function: looks at numbers and flags, and moves the message into its slot; none of its
    // code runs.
    let mut lent = unsafe { shard.core.quick() };
    let core = &mut *lent;
    let cell = match core.cells.admit(id.index, id.generation, EpochTag::BY_GENERATION) {
        Ok(cell) => cell,
        Err(reason) => {
            drop(lent);
            return tell_again(shard, id, vtable, reason, message);
        }
    };
    let meta = core.running.map_or(Meta::None, Meta::Sender);
    let slot = cell.claim(id.index, &mut core.pool, &mut core.run_queue);
    // SAFETY: the slot was claimed for this message, and `vtable` was made for messages of type `M` by whoever made the
    // reference.
    unsafe { Envelope::write(slot, (id.index, id.generation), vtable, EpochTag::BY_GENERATION, meta, message) };
    Ok(())
}

/// A tell found no room or no actor: there may be room that nobody uses, or the mailbox goes by weight.
#[cold]
#[inline(never)]
fn tell_again<M: Message>(
    shard: &ShardCell,
    id: ActorId,
    vtable: &'static VTable,
    reason: Rejected,
    message: M,
) -> Result<(), TellError<M>> {
    let cell = (id.index, id.generation);
    let mut core = shard.core.borrow_mut();
    let Err(reason) = core.admit_again(cell, reason) else {
        let meta = core.running.map_or(Meta::None, Meta::Sender);
        core.enqueue_with(id.index, || route::wrap(cell, vtable, EpochTag::BY_GENERATION, meta, message));
        return Ok(());
    };
    drop(core);
    route::tell_by_weight(shard, cell, EpochTag::BY_GENERATION, vtable, reason, message)
}

fn tell_from_outside<M: Message>(id: ActorId, vtable: &'static VTable, message: M) -> Result<(), TellError<M>> {
    let Ok(credit) = id.link.take_credit(id.credit_key()) else { return Err(TellError::Full(message)) };
    // SAFETY: as in `tell_here`.
    let mut envelope =
        unsafe { Envelope::new(id.index, id.generation, vtable, EpochTag::BY_GENERATION, Meta::None, message) };
    envelope.set_credit(credit);
    id.link.inject(envelope).map_err(|(reason, envelope)| {
        give_back(id, credit.tokens());
        // SAFETY: made for `M` just above, with no meta word.
        TellError::new(reason, unsafe { envelope.into_message::<M>() })
    })
}

/// Gives back tokens of messages that were not sent.
pub(crate) fn give_back(id: ActorId, tokens: u32) {
    if tokens > 0 && !id.link.credit.give_back(id.credit_key(), tokens) {
        id.link.run(Box::new(move |shard| shard.core.borrow_mut().redeem(id.index, id.generation, tokens)));
    }
}
