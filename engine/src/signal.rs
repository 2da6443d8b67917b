//! System messages that run as a turn of the actor that they concern.
//!
//! Invariant: a signal's vtable works for actors of every type: it reaches the actor through its box, not through its state.

use std::sync::Arc;

use shardstage_codec::{AlignedBytes, GroupId, NodeId};

use crate::actor::StopReason;
use crate::actor_ref::ActorId;
use crate::dead_letter::Reason;
use crate::engine_link::EngineLink;
use crate::envelope::{
    CellId, Class, Delivery, Envelope, EpochTag, Front, Meta, PackedAddress, VTable, drop_message, weigh_nothing,
};
use crate::error::{AskError, Rejected};
use crate::fan_out::{Members, Source};
use crate::policy::Priority;
use crate::port::transport::Lane;
use crate::reply::ForeignAsker;
use crate::supervision::{Directive, Failure};
use crate::timer::TimerId;

type Terminated = (ActorId, StopReason);

/// Runs [`Actor::terminated`](crate::Actor::terminated). The dispatcher recognises the kind and calls the
/// hook through the actor's box, so this function is never called.
unsafe fn unreachable_run(_delivery: &Delivery<'_>, _front: Front) {
    unreachable!("signals run through the actor's box");
}

static TERMINATED: VTable = VTable {
    run: unreachable_run,
    drop_message: drop_message::<Terminated>,
    weight: weigh_nothing,
    message_name: || "Terminated",
    actor_name: || "",
    class: Class::System,
    priority: Priority::Urgent,
};

/// The signal that tells `watcher` of the end of `who`.
pub(crate) fn terminated(watcher: ActorId, who: ActorId, reason: StopReason) -> Envelope {
    // SAFETY: the vtable drops a `Terminated`.
    unsafe {
        Envelope::new::<Terminated>(
            watcher.index(),
            watcher.generation(),
            &TERMINATED,
            EpochTag::BY_GENERATION,
            Meta::Signal,
            (who, reason),
        )
    }
}

/// Says that the message of a timer was handled, which went before it.
static TICK_HANDLED: VTable = VTable {
    run: run_tick_handled,
    drop_message: drop_message::<TimerId>,
    weight: weigh_nothing,
    message_name: || "TickHandled",
    actor_name: || "",
    class: Class::System,
    priority: Priority::Low,
};

/// Follows a timer's message into the mailbox of `owner`, so that the timer hears when it was handled.
pub(crate) fn tick_handled(owner: CellId, timer: TimerId) -> Envelope {
    // SAFETY: the vtable takes and drops a `TimerId`, and looks at no state.
    unsafe { owner.envelope(&TICK_HANDLED, Meta::None, timer) }
}

/// The timer of a message made by [`tick_handled`]; gives the envelope back if it is something else.
pub(crate) fn open_tick_handled(envelope: Envelope) -> Result<TimerId, Envelope> {
    if !std::ptr::eq(envelope.vtable(), &TICK_HANDLED) {
        return Err(envelope);
    }
    // SAFETY: only `tick_handled` makes envelopes with this vtable, without a meta word.
    Ok(unsafe { envelope.into_message::<TimerId>() })
}

/// Whether `tick_handled` made it.
pub(crate) fn is_tick_handled(envelope: &Envelope) -> bool {
    std::ptr::eq(envelope.vtable(), &TICK_HANDLED)
}

/// `VTable::run` of [`TICK_HANDLED`].
///
/// # Safety
/// The envelope holds a `TimerId`.
unsafe fn run_tick_handled(delivery: &Delivery<'_>, front: Front) {
    // SAFETY: the caller's contract.
    let timer = unsafe { front.take::<TimerId>() };
    delivery.shard.core.borrow_mut().timers.handled(timer);
}

/// A frame that a thread outside the shards has encoded, on its way to the shard that sends it.
pub(crate) struct RemoteSend {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) frame: AlignedBytes,
    pub(crate) asker: Option<Arc<dyn ForeignAsker>>,
    pub(crate) ttl_ns: u64,
    pub(crate) group: GroupId,
}

impl Drop for RemoteSend {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            asker.fail(AskError::Rejected(Rejected::Closed));
        }
    }
}

static REMOTE_SEND: VTable = VTable {
    run: unreachable_run,
    drop_message: drop_message::<RemoteSend>,
    weight: weigh_nothing,
    message_name: || "RemoteSend",
    actor_name: || "",
    class: Class::Plain,
    priority: Priority::Urgent,
};

impl RemoteSend {
    /// Wraps it for the injector, whose bound holds for it as for any message.
    pub(crate) fn into_envelope(self) -> Envelope {
        // SAFETY: the vtable drops a `RemoteSend`.
        unsafe { Envelope::new::<Self>(0, 0, &REMOTE_SEND, EpochTag::BY_GENERATION, Meta::None, self) }
    }

    /// Takes it out again; gives the envelope back if it is something else.
    pub(crate) fn from_envelope(envelope: Envelope) -> Result<Self, Envelope> {
        if !std::ptr::eq(envelope.vtable(), &REMOTE_SEND) {
            return Err(envelope);
        }
        // SAFETY: only `into_envelope` makes envelopes with this vtable.
        Ok(unsafe { envelope.into_message::<Self>() })
    }
}

/// A message for many receivers of one shard, on its way there; with `peer`, for many at that node, from a thread outside the
/// shards to the one that sends it.
pub(crate) struct Parcel {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) members: Arc<Members>,
    pub(crate) engine: &'static EngineLink,
    pub(crate) sender: Option<PackedAddress>,
    /// The node that sent it.
    pub(crate) origin: Option<NodeId>,
    pub(crate) peer: Option<NodeId>,
    /// Of the placement when it was sent.
    pub(crate) version: u64,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // Whoever drops its envelope counts that as one.
        for _ in 1..self.members.len() {
            self.engine.dead_letters.count(Reason::Closed);
        }
    }
}

static PARCEL: VTable = VTable {
    run: unreachable_run,
    drop_message: drop_message::<Parcel>,
    weight: weigh_nothing,
    message_name: || "Parcel",
    actor_name: || "",
    class: Class::Plain,
    priority: Priority::Urgent,
};

impl Parcel {
    /// The receivers; dropping the parcel counts nobody any more.
    pub(crate) fn take_members(&mut self) -> Arc<Members> {
        std::mem::take(&mut self.members)
    }

    /// Wraps it for rings and injectors, where it takes the place of one message.
    pub(crate) fn into_envelope(self) -> Envelope {
        // SAFETY: the vtable drops a `Parcel`.
        unsafe { Envelope::new::<Self>(0, 0, &PARCEL, EpochTag::BY_GENERATION, Meta::None, self) }
    }

    /// Takes it out again; gives the envelope back if it is something else.
    pub(crate) fn from_envelope(envelope: Envelope) -> Result<Self, Envelope> {
        if !std::ptr::eq(envelope.vtable(), &PARCEL) {
            return Err(envelope);
        }
        // SAFETY: only `into_envelope` makes envelopes with this vtable.
        Ok(unsafe { envelope.into_message::<Self>() })
    }
}

type ChildFailed = (Arc<Failure>, Directive);

static CHILD_FAILED: VTable = VTable {
    run: unreachable_run,
    drop_message: drop_message::<ChildFailed>,
    weight: weigh_nothing,
    message_name: || "ChildFailed",
    actor_name: || "",
    priority: Priority::Urgent,
    class: Class::System,
};

/// The signal that tells a supervisor of a failure below it, and what was done about it.
pub(crate) fn child_failed((index, generation): (u32, u32), failure: Arc<Failure>, taken: Directive) -> Envelope {
    // SAFETY: the vtable drops a `ChildFailed`.
    unsafe {
        let message = (failure, taken);
        Envelope::new::<ChildFailed>(index, generation, &CHILD_FAILED, EpochTag::BY_GENERATION, Meta::Signal, message)
    }
}

/// What a signal says.
pub(crate) enum Signal {
    Terminated(ActorId, StopReason),
    ChildFailed(Arc<Failure>, Directive),
}

/// The content of a signal.
///
/// # Panics
/// When the envelope is none.
pub(crate) fn open(mut envelope: Envelope) -> Signal {
    envelope.take_meta();
    if std::ptr::eq(envelope.vtable(), &CHILD_FAILED) {
        // SAFETY: only `child_failed` makes envelopes with this vtable.
        let (failure, taken) = unsafe { envelope.into_message::<ChildFailed>() };
        return Signal::ChildFailed(failure, taken);
    }
    assert!(std::ptr::eq(envelope.vtable(), &TERMINATED), "notices are nothing else");
    // SAFETY: only `terminated` makes envelopes with this vtable.
    let (who, reason) = unsafe { envelope.into_message::<Terminated>() };
    Signal::Terminated(who, reason)
}
