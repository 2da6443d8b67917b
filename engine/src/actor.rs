//! What a user writes: `Actor`, the handler kinds, and virtual actors.
//!
//! Invariant: one actor handles one message at a time, and nobody else touches its state.

use std::future::Future;

use shardstage_codec::{ShardId, WireValue};

use crate::cluster::settings::VirtualSettings;
use crate::context::Context;
use crate::message::{Message, WireMessage};
use crate::moving::{MoveError, Moving};
use crate::policy::Mailbox;
use crate::reentrancy::Reentrancy;
use crate::reply::Reply;
use crate::supervision::{Directive, Failure, Supervision};

/// An error of a user's hook.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an actor stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to, or stopped itself.
    Stopped,
    /// It took its last message before a drain marker.
    Drained,
    /// A virtual actor was idle; the next message activates it again.
    Passivated,
    /// Its factory or [`Actor::started`] failed; carries the text.
    StartFailed(String),
    /// It panicked and cannot be rebuilt; carries the panic's text.
    Panicked(String),
    /// An actor that it was [linked](Context::link) to ended by a failure; says which, and why.
    LinkBroken(String),
    /// The engine shut down.
    Shutdown,
    /// It was [killed](crate::ActorRef::kill): no hook of it ran.
    Killed,
    /// Its parent in the spawn tree stopped or was rebuilt, or ended this child for good.
    ParentStopped,
    /// It is rebuilt because of the failure of another one, its child or its sibling. Hooks see this reason; nobody else is told,
    /// since its references stay valid.
    Restarting,
}

impl StopReason {
    /// Whether it ended by a failure of its own or was killed, after which no hook of it runs.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::StartFailed(_) | Self::Panicked(_) | Self::Killed)
    }

    /// Whether it takes linked actors along.
    pub(crate) fn breaks_links(&self) -> bool {
        matches!(self, Self::StartFailed(_) | Self::Panicked(_) | Self::LinkBroken(_) | Self::Killed)
    }
}

/// State that handles messages, one at a time, on one shard. It need not be `Send`.
///
/// All hooks have empty defaults.
pub trait Actor: Sized + 'static {
    /// What its mailbox is like: how much it holds, what happens when it is full, in which order messages are handled.
    const MAILBOX: Mailbox = Mailbox::new();

    /// What it lets in while an ask of its own, made with [`then`](crate::PendingAsk::then), waits for its answer: everything,
    /// unless said.
    const REENTRANCY: Reentrancy = Reentrancy::Full;

    /// Runs before the first message, after each rebuild too.
    ///
    /// # Errors
    /// A failure, on which the supervisor decides. By default, and without a [backoff](Supervision::backoff), it ends the actor:
    /// its references become `Closed`, and whoever watches it is told [`StopReason::StartFailed`].
    fn started(&mut self, _cx: &mut Context<Self>) -> Result<(), BoxError> {
        Ok(())
    }

    /// Runs once when the actor begins to stop: it takes no more messages, its children still live. Not after a panic. A stopping
    /// actor spawns nothing.
    fn stopping(&mut self, _reason: &StopReason, _cx: &mut Context<Self>) {}

    /// Runs once when the actor stops, after its children have gone and before its state is dropped. Not after a panic.
    fn stopped(&mut self, _reason: &StopReason, _cx: &mut Context<Self>) {}

    /// How this actor looks after its children; asked after each [`started`](Self::started).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use shardstage::prelude::*;
    /// use shardstage::{Backoff, Supervision};
    ///
    /// struct Pool;
    /// impl Actor for Pool {
    ///     fn supervision(&self) -> Supervision {
    ///         let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(10));
    ///         Supervision::one_for_one().at_most(10, Duration::from_secs(60)).backoff(backoff)
    ///     }
    /// }
    /// ```
    fn supervision(&self) -> Supervision {
        Supervision::default()
    }

    /// Runs on the failed state after a panic of this actor, and says what it wants: `Resume` to go on with this very state, which
    /// the panic may have left half-changed, `Restart`, `Stop`, or `Escalate` to leave it to its supervisor, as by default.
    fn panicked(&mut self, _failure: &Failure, _cx: &mut Context<Self>) -> Directive {
        Directive::Escalate
    }

    /// Runs after [`started`](Self::started) on a state that replaces another one.
    fn restarted(&mut self, _failure: &Failure, _cx: &mut Context<Self>) {}

    /// A child has failed, and this is what was done about it; decided by [`supervision`](Self::supervision) already.
    fn child_failed(&mut self, _failure: &Failure, _taken: Directive, _cx: &mut Context<Self>) {}

    /// An actor that this one [watches](Context::watch), or is linked to while it [traps](Context::trap_links), has stopped. Runs
    /// ahead of all messages that users have sent, also of what the other actor had sent before its end, and in the order of the
    /// ends; a suspended actor hears of them when it goes on.
    fn terminated(&mut self, _who: crate::actor_ref::ActorId, _reason: &StopReason, _cx: &mut Context<Self>) {}

    /// Runs when a suspension that [`Context::suspend`] began has ended, before the next message.
    fn resumed(&mut self, _cx: &mut Context<Self>) {}

    /// Whether and how actors of this type move between shards: not, by default. Types that are `Send` say [`Moving::value`], others
    /// [`Moving::state`]. See [`ActorRef::move_to`](crate::ActorRef::move_to). Asked for each move.
    fn moving() -> Moving<Self> {
        Moving::stays()
    }

    /// Runs after a move, on the new shard and before the next message: says which shard the actor has left. Or, on its old
    /// shard, says why a move that [`Context::move_to`] had announced was not possible after all.
    fn moved(&mut self, _from: Result<ShardId, MoveError>, _cx: &mut Context<Self>) {}

    /// Whether an idle virtual actor may be passivated now. One that keeps a [`Reply`](crate::Reply) in its state for later must say
    /// `false` until it has answered: the engine does not see what a state holds, and dropping the reply fails the ask.
    fn may_passivate(&self) -> bool {
        true
    }
}

/// Handles messages of type `M` synchronously: the fast path. What it returns is the reply; an `Err` in it is a reply too,
/// never a crash.
pub trait Handler<M: Message>: Actor {
    /// Handles one message.
    ///
    /// # Panics
    /// A panic ends this message as `Failed`, and the actor is rebuilt from its factory with its mailbox kept.
    fn handle(&mut self, message: M, cx: &mut Context<Self>) -> M::Reply;
}

/// Handles messages of type `M` in an `async fn`, which suspends the actor while it waits, never its shard.
///
/// The actor handles no other message meanwhile: the future borrows its state. So an ask that comes back to it up the same chain
/// of calls could never be answered: whoever awaits it gets [`AskError::Deadlock`](crate::AskError::Deadlock), at once on one shard,
/// within some 300 ms across the shards of a process; across nodes it ends by its deadline. Ask with
/// [`then`](crate::PendingAsk::then) in a handler that has to be free for calls meanwhile.
///
/// The future's room is reused from message to message.
pub trait AsyncHandler<M: Message>: Actor {
    /// Handles one message.
    fn handle(&mut self, message: M, cx: &mut Context<Self>) -> impl Future<Output = M::Reply>;
}

/// Handles messages of type `M` and answers later, through the [`Reply`] that it gets.
pub trait DeferredHandler<M: Message>: Actor {
    /// Takes one message and the place of its answer.
    fn handle(&mut self, message: M, reply: Reply<M::Reply>, cx: &mut Context<Self>);
}

/// Handles messages of type `M` through their archived view, so that one from another node is read in place without being
/// rebuilt. A message from this node is encoded into scratch room first.
pub trait ArchivedHandler<M: WireMessage>: Actor
where
    M::Reply: WireValue,
{
    /// Handles one message.
    fn handle(&mut self, message: &M::Archived, cx: &mut Context<Self>) -> M::Reply;
}

/// An actor that is addressed by type and key and activated by its first message.
pub trait VirtualActor: Actor {
    /// The type's stable name on the wire and in placement. Changing it moves every actor of the type.
    const TYPE: &'static str;

    /// Makes the actor for `key`; runs on its shard, again after each rebuild.
    fn activate(key: &str) -> Self;

    /// How actors of this type are run, where their registration does not say otherwise. Called once a registration.
    #[must_use]
    fn settings() -> VirtualSettings {
        VirtualSettings::default()
    }
}
