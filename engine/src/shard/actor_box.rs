//! `ActorBox`: an actor's state and its factory, behind one pointer.
//!
//! Invariant: while `built` is set the state at the start of the allocation is a live `A`, and only the running turn (or the
//! actor's own suspended future) points to it. One of the few files with `unsafe`.

use std::any::{Any, TypeId};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use shardstage_codec::ShardId;

use crate::actor::{Actor, StopReason};
use crate::actor_ref::ActorId;
use crate::context::{Context, Seat};
use crate::error::Panicked;
use crate::moving::{MoveError, Unpack, Way};
use crate::policy::Mailbox;
use crate::supervision::{Directive, Failure};

/// How the next state is made.
pub(crate) trait Factory<A>: 'static {
    /// Whether it can be called again.
    const AGAIN: bool;
    /// Whether it may go to another shard; [`Sent`] alone says so.
    const SENDS: bool = false;

    /// A fresh state, or `None` when the actor cannot be rebuilt.
    fn make(&mut self) -> Option<A>;

    /// The actor's mailbox, if it is not the one of its type.
    fn mailbox(&self) -> Option<Mailbox> {
        None
    }
}

/// A factory that can be called again.
pub(crate) struct Again<F>(pub(crate) F);

impl<A, F: Fn() -> A + 'static> Factory<A> for Again<F> {
    const AGAIN: bool = true;

    fn make(&mut self) -> Option<A> {
        Some((self.0)())
    }
}

/// A factory that works once.
pub(crate) struct Once<F>(pub(crate) Option<F>);

impl<A, F: FnOnce() -> A + 'static> Factory<A> for Once<F> {
    const AGAIN: bool = false;

    fn make(&mut self) -> Option<A> {
        self.0.take().map(|make| make())
    }
}

/// A factory that came from a thread outside the shard, and may go on to another one.
pub(crate) struct Sent<F>(pub(crate) F);

impl<A, F: Factory<A> + Send> Factory<A> for Sent<F> {
    const AGAIN: bool = F::AGAIN;
    const SENDS: bool = true;

    fn make(&mut self) -> Option<A> {
        self.0.make()
    }

    fn mailbox(&self) -> Option<Mailbox> {
        self.0.mailbox()
    }
}

/// What was made of an actor's state for its way to another shard.
pub(crate) type Luggage = Box<dyn Any + Send>;

/// An actor on its way between shards: its box, and what was made of its state unless that goes as it is.
pub(crate) struct Packed {
    actor: ActorBox,
    luggage: Option<Luggage>,
}

// SAFETY: `ActorBox::leave` alone makes one, of a box whose factory is `Send` (`Factory::SENDS`, which `Sent` alone sets, for
// factories that are) and whose state is either torn down or of a type that is `Send` (`Moving::value` asks for it).
unsafe impl Send for Packed {}

impl Packed {
    pub(crate) fn into_parts(self) -> (ActorBox, Option<Luggage>) {
        (self.actor, self.luggage)
    }
}

/// Why an actor did not leave.
pub(crate) enum NotLeaving {
    /// It stays, for this reason.
    Refused(MoveError),
    /// The function that takes its state apart panicked.
    Panicked(Box<dyn Any + Send>),
}

/// Why an actor could not be built.
pub(crate) enum BuildError {
    /// The factory works once only.
    NoFactory,
    /// The factory or `started` panicked or failed, in words.
    Failed(String),
}

impl BuildError {
    /// In words.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::NoFactory => "its factory works once only".to_owned(),
            Self::Failed(why) => why,
        }
    }
}

/// What the shard does with an actor whose type it does not know.
trait AnyActor {
    fn build(&mut self, seat: Seat) -> Result<(), BuildError>;
    fn stopping(&mut self, reason: &StopReason, seat: Seat);
    fn stopped(&mut self, reason: &StopReason, seat: Seat);
    fn terminated(&mut self, who: ActorId, reason: &StopReason, seat: Seat);
    fn resumed(&mut self, seat: Seat);
    fn panicked(&mut self, failure: &Failure, seat: Seat) -> Directive;
    fn restarted(&mut self, failure: &Failure, seat: Seat);
    fn child_failed(&mut self, failure: &Failure, taken: Directive, seat: Seat);
    fn pack(&mut self) -> Result<Option<Luggage>, MoveError>;
    fn unpack(&mut self, luggage: Luggage);
    fn moved(&mut self, outcome: Result<ShardId, MoveError>, seat: Seat);
    fn tear_down(&mut self);
    fn rebuilds(&self) -> bool;
    fn may_passivate(&self) -> bool;
    fn actor_type(&self) -> TypeId;
    fn actor_name(&self) -> &'static str;
    fn mailbox(&self) -> Mailbox;
}

#[repr(C)]
struct ActorState<A, F> {
    actor: MaybeUninit<A>,
    built: bool,
    factory: F,
}

impl<A, F> ActorState<A, F> {
    fn actor(&mut self) -> &mut A {
        assert!(self.built, "hooks run on built actors only");
        // SAFETY: `built` says that the state is initialised.
        unsafe { self.actor.assume_init_mut() }
    }

    /// Drops the state; a panic in its drop is contained.
    fn tear_down(&mut self) {
        if std::mem::take(&mut self.built) {
            let actor = self.actor.as_mut_ptr();
            // SAFETY: `built` said that the state is initialised, and it is not used again before the next build.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { actor.drop_in_place() }));
            drop(result);
        }
    }
}

impl<A, F> Drop for ActorState<A, F> {
    fn drop(&mut self) {
        self.tear_down();
    }
}

impl<A: Actor, F: Factory<A>> AnyActor for ActorState<A, F> {
    fn build(&mut self, seat: Seat) -> Result<(), BuildError> {
        self.tear_down();
        let factory = &mut self.factory;
        match catch_unwind(AssertUnwindSafe(|| factory.make())) {
            Ok(Some(actor)) => {
                self.actor.write(actor);
                self.built = true;
            }
            Ok(None) => return Err(BuildError::NoFactory),
            Err(panic) => return Err(BuildError::Failed(Panicked::from_payload(&*panic).0.into())),
        }
        let actor = self.actor();
        let mut cx = Context::new(seat);
        let started = AssertUnwindSafe(|| actor.started(&mut cx).map(|()| actor.supervision()));
        match catch_unwind(started) {
            Ok(Ok(supervision)) => {
                if supervision.is_said() {
                    cx.supervise(supervision);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(BuildError::Failed(error.to_string())),
            Err(panic) => Err(BuildError::Failed(Panicked::from_payload(&*panic).0.into())),
        }
    }

    fn stopping(&mut self, reason: &StopReason, seat: Seat) {
        if self.built {
            let actor = self.actor();
            let mut cx = Context::new(seat);
            drop(catch_unwind(AssertUnwindSafe(|| actor.stopping(reason, &mut cx))));
        }
    }

    fn stopped(&mut self, reason: &StopReason, seat: Seat) {
        if self.built {
            let actor = self.actor();
            let mut cx = Context::new(seat);
            drop(catch_unwind(AssertUnwindSafe(|| actor.stopped(reason, &mut cx))));
        }
    }

    fn terminated(&mut self, who: ActorId, reason: &StopReason, seat: Seat) {
        let actor = self.actor();
        actor.terminated(who, reason, &mut Context::new(seat));
    }

    fn resumed(&mut self, seat: Seat) {
        self.actor().resumed(&mut Context::new(seat));
    }

    fn panicked(&mut self, failure: &Failure, seat: Seat) -> Directive {
        // One that did not arrive has no state to go on with.
        if self.built { self.actor().panicked(failure, &mut Context::new(seat)) } else { Directive::Escalate }
    }

    fn restarted(&mut self, failure: &Failure, seat: Seat) {
        self.actor().restarted(failure, &mut Context::new(seat));
    }

    fn child_failed(&mut self, failure: &Failure, taken: Directive, seat: Seat) {
        self.actor().child_failed(failure, taken, &mut Context::new(seat));
    }

    fn pack(&mut self) -> Result<Option<Luggage>, MoveError> {
        let way = A::moving().into_way();
        if matches!(way, Way::Stays) {
            return Err(MoveError::Stays);
        }
        if !F::SENDS {
            return Err(MoveError::LocalFactory);
        }
        let Way::State(pack) = way else { return Ok(None) };
        let unpack: Unpack<A> = pack(self.actor());
        self.tear_down();
        Ok(Some(Box::new(unpack)))
    }

    fn unpack(&mut self, luggage: Luggage) {
        let unpack = luggage.downcast::<Unpack<A>>().expect("packed by an actor of this type");
        self.actor.write(unpack());
        self.built = true;
    }

    fn moved(&mut self, outcome: Result<ShardId, MoveError>, seat: Seat) {
        self.actor().moved(outcome, &mut Context::new(seat));
    }

    fn tear_down(&mut self) {
        Self::tear_down(self);
    }

    fn rebuilds(&self) -> bool {
        F::AGAIN
    }

    fn may_passivate(&self) -> bool {
        // SAFETY: only asked of built actors; the assertion holds it.
        self.built && unsafe { self.actor.assume_init_ref() }.may_passivate()
    }

    fn actor_type(&self) -> TypeId {
        TypeId::of::<A>()
    }

    fn actor_name(&self) -> &'static str {
        std::any::type_name::<A>()
    }

    fn mailbox(&self) -> Mailbox {
        self.factory.mailbox().unwrap_or(A::MAILBOX).of_actor(A::REENTRANCY)
    }
}

/// An actor of any type, owned through a raw pointer so that moving the box never touches what points to the state.
pub(crate) struct ActorBox(NonNull<dyn AnyActor>);

impl ActorBox {
    pub(crate) fn new<A: Actor, F: Factory<A>>(factory: F) -> Self {
        let state: Box<dyn AnyActor> =
            Box::new(ActorState { actor: MaybeUninit::<A>::uninit(), built: false, factory });
        Self(NonNull::from(Box::leak(state)))
    }

    /// The state's address: an `A`, once built.
    #[inline]
    pub(crate) fn state_ptr(&self) -> *mut u8 {
        // The state is the first field of the `repr(C)` allocation.
        self.0.as_ptr().cast()
    }

    fn get(&mut self) -> &mut dyn AnyActor {
        // SAFETY: owned by this box and freed in drop only; `&mut self` makes the access exclusive among hooks, and a
        // suspended future, the only other user, is never alive while a hook runs.
        unsafe { self.0.as_mut() }
    }

    pub(crate) fn build(&mut self, seat: Seat) -> Result<(), BuildError> {
        self.get().build(seat)
    }

    pub(crate) fn stopping(&mut self, reason: &StopReason, seat: Seat) {
        self.get().stopping(reason, seat);
    }

    pub(crate) fn stopped(&mut self, reason: &StopReason, seat: Seat) {
        self.get().stopped(reason, seat);
    }

    pub(crate) fn terminated(&mut self, who: ActorId, reason: &StopReason, seat: Seat) {
        self.get().terminated(who, reason, seat);
    }

    pub(crate) fn resumed(&mut self, seat: Seat) {
        self.get().resumed(seat);
    }

    /// The hook after a panic; the caller contains its own.
    pub(crate) fn panicked(&mut self, failure: &Failure, seat: Seat) -> Directive {
        self.get().panicked(failure, seat)
    }

    pub(crate) fn restarted(&mut self, failure: &Failure, seat: Seat) {
        self.get().restarted(failure, seat);
    }

    pub(crate) fn child_failed(&mut self, failure: &Failure, taken: Directive, seat: Seat) {
        self.get().child_failed(failure, taken, seat);
    }

    /// Makes the actor ready for its way to another shard.
    ///
    /// # Errors
    /// The box comes back with the reason; its state is as it was, or as a panic has left it.
    pub(crate) fn leave(mut self) -> Result<Packed, (Self, NotLeaving)> {
        match catch_unwind(AssertUnwindSafe(|| self.get().pack())) {
            Ok(Ok(luggage)) => Ok(Packed { actor: self, luggage }),
            Ok(Err(error)) => Err((self, NotLeaving::Refused(error))),
            Err(panic) => Err((self, NotLeaving::Panicked(panic))),
        }
    }

    /// Makes the state of what it was packed as; the caller contains its panic.
    pub(crate) fn unpack(&mut self, luggage: Luggage) {
        self.get().unpack(luggage);
    }

    /// The hook after a move, or after one that was not possible; the caller contains its panic.
    pub(crate) fn moved(&mut self, outcome: Result<ShardId, MoveError>, seat: Seat) {
        self.get().moved(outcome, seat);
    }

    /// Drops the state; hooks of an actor without one do not run.
    pub(crate) fn tear_down(&mut self) {
        self.get().tear_down();
    }

    /// Whether its factory can be called again.
    pub(crate) fn rebuilds(&mut self) -> bool {
        self.get().rebuilds()
    }

    pub(crate) fn may_passivate(&mut self) -> bool {
        self.get().may_passivate()
    }

    /// The actor's type, for references that came over the wire.
    pub(crate) fn actor_type(&mut self) -> TypeId {
        self.get().actor_type()
    }

    /// What its mailbox is like.
    pub(crate) fn mailbox(&mut self) -> Mailbox {
        self.get().mailbox()
    }

    /// The actor's Rust type, for people.
    pub(crate) fn actor_name(&mut self) -> &'static str {
        self.get().actor_name()
    }
}

impl Drop for ActorBox {
    fn drop(&mut self) {
        // SAFETY: `new` leaked this box and nothing else frees it.
        let state = unsafe { Box::from_raw(self.0.as_ptr()) };
        // What the factory captured is the user's.
        super::drop_contained(state);
    }
}
