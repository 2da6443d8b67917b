//! What few actors need beside their cell: a box that most cells never have.
//!
//! Invariant: a cell without it behaves as one whose box says nothing. Shard thread only.

use std::collections::VecDeque;

use crate::actor::StopReason;
use crate::asking::cancel::Answering;
use crate::asking::work::Attached;
use crate::bonds::Bonds;
use crate::envelope::Envelope;
use crate::key::Key;
use crate::latch::LatchGuard;
use crate::policy::Overflow;
use crate::reentrancy::Turns;
use crate::supervision::{ChildSpec, Recovery, Supervision, Supervisor, Window};

use super::activate::attend::Attended;
use super::async_slot::AsyncSlot;
use super::budget::{Budget, Weight};
use super::moved::Moved;

/// What few actors need.
#[derive(Default)]
pub(crate) struct CellExtra {
    /// A virtual actor's type (position in the registry) and key.
    pub(crate) identity: Option<(usize, Key)>,
    /// When a virtual actor last ran, in units of about a millisecond of the driver's clock.
    pub(crate) active_ms: u32,
    /// Told when the actor has stopped and its state is dropped.
    pub(crate) stop_latches: Vec<LatchGuard<StopReason>>,
    /// Told when the actor has started, or that it never will.
    pub(crate) start_latches: Vec<LatchGuard<Result<(), StopReason>>>,
    /// Watches and links.
    pub(crate) bonds: Option<Box<Bonds>>,
    /// The room of a suspended async handler.
    pub(crate) async_slot: AsyncSlot,
    /// What the suspended future handles.
    pub(crate) doing: Option<super::Doing>,
    /// Notices of ends, which are handled before all messages of users.
    pub(crate) notices: VecDeque<Envelope>,
    /// What is looked at before each message; `None` for most.
    pub(crate) attended: Option<Box<Attended>>,
    /// Whom the async handler that runs answers.
    pub(crate) answering: Answering,
    /// Futures and streams that the actor waits for while it goes on.
    pub(crate) work: Vec<Attached>,
    /// The bound of a mailbox that is bounded by bytes.
    pub(crate) budget: Option<Box<Budget>>,
    /// What happens to a message that finds the mailbox full.
    pub(crate) overflow: Overflow,
    /// A suspension without a future, begun by `Context::suspend`.
    pub(crate) suspensions: u32,
    /// What a suspended actor is in the middle of; says nothing of others.
    pub(crate) midway: Midway,
    /// Room taken out of `capacity` for tokens that senders elsewhere hold or have spent on messages under way.
    pub(crate) credit_out: u32,
    /// Why the actor is stopping, where that takes words.
    pub(super) stop_reason: Option<StopReason>,
    /// How its supervisor looks after it.
    pub(crate) spec: ChildSpec,
    /// When it was restarted lately.
    pub(crate) window: Option<Box<Window>>,
    /// How it is looked after as a root, if somebody said so.
    pub(crate) policy: Option<Box<Supervision>>,
    /// How it looks after its children, if it said so.
    pub(crate) supervisor: Option<Box<Supervisor>>,
    /// It is on its way from one state to the next.
    pub(crate) recovery: Option<Box<Recovery>>,
    /// It is to drain once it has started again.
    pub(crate) drains: bool,
    /// It has begun to stop and waits for its children.
    pub(crate) closing: bool,
    /// It stops without waiting for the end of its async handler.
    pub(super) hurries: bool,
    /// What runs around its messages.
    pub(crate) intercepted: Option<crate::intercept::Chain>,
    /// Messages that the actor has put aside; `None` when there are none.
    pub(crate) stash: Option<Box<Stash>>,
    /// A virtual actor that stops before its next message.
    pub(crate) must_leave: bool,
    /// What it lets in while it waits, if that is not everything.
    pub(crate) turns: Option<Box<Turns>>,
    /// By which names it is found.
    pub(crate) names: Vec<Key>,
    /// Where it has been, or where it is; `None` for an actor that never moved.
    pub(crate) moved: Option<Box<Moved>>,
}

impl CellExtra {
    /// A virtual actor's type and key, wherever it lives.
    pub(crate) fn name(&self) -> Option<(usize, &Key)> {
        let home = || match self.moved.as_deref()? {
            Moved::Here(here) => here.home.as_ref().map(|(position, key, _)| (*position, key)),
            Moved::Away(_) => None,
        };
        self.identity.as_ref().map(|(position, key)| (*position, key)).or_else(home)
    }
}

/// What a suspended actor is in the middle of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Midway {
    /// When it was suspended, on the driver's clock.
    pub(crate) since_ns: u64,
    /// The type of the message that it handles; `None` where `Context::suspend` suspended it.
    pub(crate) message: Option<fn() -> &'static str>,
}

/// Messages that an actor has put aside, oldest first.
#[derive(Default)]
pub(crate) struct Stash {
    pub(crate) messages: Vec<Envelope>,
    /// What they weigh, where messages are weighed.
    pub(crate) bytes: u64,
}

impl Stash {
    pub(crate) fn push(&mut self, envelope: Envelope) {
        self.bytes += envelope.weight().map_or(0, Weight::bytes);
        self.messages.push(envelope);
    }
}
