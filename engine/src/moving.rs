//! Moving between shards: which types move and how, and who asks for it.
//!
//! Invariant: an actor lives on one shard at a time. Where it has left it leaves a forwarder, so that references stay valid: see
//! `shard/moved.rs` for the protocol. Any thread may ask; a type that stays costs nothing.

use std::fmt;

use crate::actor::{Actor, VirtualActor};
use crate::actor_ref::{ActorId, ActorRef, on_shard_of};
use crate::context::Context;
use crate::latch::{Happening, Latch, LatchGuard};
use crate::placement::Placement;
use crate::route::home_of;
use crate::shard::{Told, request_move};
use crate::virtual_ref::VirtualRef;

/// Makes the state again, on the shard where the actor has arrived.
pub(crate) type Unpack<A> = Box<dyn FnOnce() -> A + Send>;
type Pack<A> = Box<dyn Fn(&mut A) -> Unpack<A>>;

pub(crate) enum Way<A> {
    Stays,
    Value,
    State(Pack<A>),
}

/// How actors of a type move between shards; see [`Actor::moving`].
///
/// ```
/// use std::rc::Rc;
///
/// use shardstage::Moving;
/// use shardstage::prelude::*;
///
/// /// `Send`: goes as it is.
/// struct Player {
///     health: u32,
/// }
/// impl Actor for Player {
///     fn moving() -> Moving<Self> {
///         Moving::value()
///     }
/// }
///
/// /// Not `Send`: goes as what another one can be made of.
/// struct Map {
///     tiles: Rc<[u8]>,
/// }
/// impl Actor for Map {
///     fn moving() -> Moving<Self> {
///         Moving::state(|map: &mut Self| map.tiles.to_vec(), |tiles| Self { tiles: tiles.into() })
///     }
/// }
/// ```
#[must_use]
pub struct Moving<A>(Way<A>);

impl<A: Actor> Moving<A> {
    /// Stays on the shard on which it was spawned.
    pub const fn stays() -> Self {
        Self(Way::Stays)
    }

    /// The state itself goes over. No hook runs but [`Actor::moved`]; costs no allocation for the state.
    pub const fn value() -> Self
    where
        A: Send,
    {
        Self(Way::Value)
    }

    /// `dehydrate` makes something of the state that may leave the shard; the state is dropped after it, without hooks.
    /// `rehydrate` makes a state of that on the other shard. A panic in either is the actor's, and its supervisor decides: one in
    /// `dehydrate` finds it on the shard that it wanted to leave, one in `rehydrate` on the other, without a state.
    pub fn state<S, D, R>(dehydrate: D, rehydrate: R) -> Self
    where
        S: Send + 'static,
        D: Fn(&mut A) -> S + 'static,
        R: Fn(S) -> A + Clone + Send + 'static,
    {
        Self(Way::State(Box::new(move |actor| {
            let (state, rehydrate) = (dehydrate(actor), rehydrate.clone());
            Box::new(move || rehydrate(state))
        })))
    }

    pub(crate) fn into_way(self) -> Way<A> {
        self.0
    }
}

impl<A> fmt::Debug for Moving<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Way::Stays => "Moving::stays()",
            Way::Value => "Moving::value()",
            Way::State(_) => "Moving::state(..)",
        })
    }
}

/// Why an actor did not move. But for [`Panicked`](Self::Panicked) and [`Stopped`](Self::Stopped) nothing has changed, and it
/// goes on where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveError {
    /// Its type says nothing about [moving](Actor::moving), so it stays where it is for good.
    Stays,
    /// It was spawned with a factory that need not be `Send`, as those of [`Context::spawn_named`] are: it stays where it is.
    LocalFactory,
    /// The engine has no such shard, or the actor named is another engine's.
    NoShard,
    /// It is another actor's child, and children live with their parents.
    HasParent,
    /// It has children, which live on its shard. It can move when they have stopped.
    HasChildren,
    /// It waits for answers with [`then`](crate::PendingAsk::then), or for streams or blocking work that it has attached; those
    /// stay on a shard. It can move when they are done.
    Awaits,
    /// It is on its way already.
    Moving,
    /// It has stopped, or stops.
    Stopped,
    /// The shard has no room for another actor, or the engine shuts down.
    Closed,
    /// The function that takes the state apart, or that makes it again, panicked with this text. The actor has failed, and its
    /// supervisor decides.
    Panicked(String),
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stays => f.write_str("actors of this type stay on their shard"),
            Self::LocalFactory => f.write_str("its factory belongs to its shard"),
            Self::NoShard => f.write_str("there is no such shard"),
            Self::HasParent => f.write_str("it lives with its parent"),
            Self::HasChildren => f.write_str("it has children on its shard"),
            Self::Awaits => f.write_str("it waits for something that stays on its shard"),
            Self::Moving => f.write_str("it is on its way already"),
            Self::Stopped => f.write_str("it has stopped"),
            Self::Closed => f.write_str("the other shard takes no actor"),
            Self::Panicked(text) => write!(f, "it panicked on its way: {text}"),
        }
    }
}

impl std::error::Error for MoveError {}

impl<A: Actor> ActorRef<A> {
    /// Moves the actor to the shard that `placement` says, before its next message, if its type [moves](Actor::moving). The result
    /// has a reference to where it lives then; it is there already where the placement says its own shard.
    ///
    /// This reference and all others stay valid: what comes to them is passed on with its sender, asker, deadline, request and
    /// priority. So do names, watches, links, timers with their due times, and what is put aside. What is queued goes along,
    /// before anything that comes later. An async handler, a suspension or a restart under way is waited for.
    ///
    /// Messages keep their order per sender and reference. A sender that changes from one reference to another keeps it too
    /// once an answer, or anything else that followed from the last message by the old one, has come.
    ///
    /// Costs a cell and some 500 bytes on each shard on which the actor has been, as long as it lives; a message by way of an old
    /// shard, a ring more; an ask, three allocations more.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub fn move_to(self, placement: impl Into<Placement>) -> Happening<Result<Self, MoveError>> {
        let id = self.id();
        let (happening, told) = moving::<A>("ActorRef::move_to().wait()", id.link().engine());
        match placement.into().find(id.link().engine()) {
            Some(to) => on_shard_of(id, move |shard| request_move(shard, id, id.link().engine().link(to), Some(told))),
            None => told(Err(MoveError::NoShard)),
        }
        happening
    }
}

impl<A: VirtualActor> VirtualRef<A> {
    /// Moves the actor, if it is active, as [`ActorRef::move_to`] does. Its key's shard goes on to be where its messages come in;
    /// an idle actor comes back there before it is passivated, and its next life begins there. `None` when another node owns the
    /// key, or this engine does not host the type; [`MoveError::Stopped`] when it is asleep.
    #[must_use = "`None` says that the actor lives elsewhere"]
    pub fn move_to(&self, placement: impl Into<Placement>) -> Option<Happening<Result<ActorRef<A>, MoveError>>> {
        let (position, link) = home_of(&self.id)?;
        let (happening, told) = moving::<A>("VirtualRef::move_to().wait()", self.id.engine);
        let Some(to) = placement.into().find(self.id.engine) else {
            told(Err(MoveError::NoShard));
            return Some(happening);
        };
        let (key, to) = (self.id.key.clone(), self.id.engine.link(to));
        // Any actor of that shard's says where to run this.
        on_shard_of(ActorId::new(link, 0, 0), move |shard| {
            let active = shard.core.borrow().directory.get(position, &key);
            match active {
                Some((index, generation)) => {
                    request_move(shard, ActorId::new(shard.link, index, generation), to, Some(told));
                }
                None => told(Err(MoveError::Stopped)),
            }
        });
        Some(happening)
    }
}

/// Something to wait for, and what sets it.
fn moving<A: Actor>(
    what: &'static str,
    engine: &'static crate::engine_link::EngineLink,
) -> (Happening<Result<ActorRef<A>, MoveError>>, Told) {
    let latch = Latch::new();
    let guard = LatchGuard::new(latch.clone(), Err(MoveError::Stopped));
    let told = Box::new(move |outcome: Result<ActorId, MoveError>| guard.set(outcome.map(ActorRef::new)));
    (Happening { latch, what, engine: Some(engine) }, told)
}

impl<A: Actor> Context<A> {
    /// Moves this actor to the shard that `placement` says, after the current message; [`Actor::moved`] is called there, or here
    /// if what the message has done since makes it impossible. See [`ActorRef::move_to`].
    ///
    /// # Errors
    /// What stands against it now; nothing has changed then. See [`MoveError`].
    pub fn move_to(&mut self, placement: impl Into<Placement>) -> Result<(), MoveError> {
        let Some(to) = placement.into().find(self.engine()) else { return Err(MoveError::NoShard) };
        if matches!(A::moving().into_way(), Way::Stays) {
            return Err(MoveError::Stays);
        }
        let (to, index) = (self.engine().link(to), self.seat().index());
        self.shard_cell().core.borrow_mut().ask_to_move(index, to)
    }
}
