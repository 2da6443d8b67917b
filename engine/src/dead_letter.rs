//! Dead letters: every message that was accepted somewhere and could not be delivered, counted, and the latest ones kept.
//!
//! Invariant: nothing is dropped without its reason's counter rising.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use shardstage_codec::{FrameHeader, MessageId, ReplyStatus};

use crate::actor_ref::{ActorId, Recipient};
use crate::dead_letter_feed::{DeadLetterFeed, DeadLetterSubscription, Subscribers};
use crate::error::Rejected;
use crate::limits::DEAD_LETTERS_KEPT;
use crate::message::Message;

/// Why a message became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The mailbox was full on arrival: an overrun by a sender that could not know yet.
    Full,
    /// The receiver had stopped.
    Closed,
    /// The deadline had passed.
    Expired,
    /// The receiver's node does not take it.
    NoHandler,
    /// The receiver's node could not be reached, or does not own the actor.
    Unavailable,
    /// Its encoding is larger than a frame may be.
    TooLarge,
    /// It was sent under an epoch that is over.
    Fenced,
    /// It came over the wire and could not be read.
    Malformed,
    /// The mailbox was full, and its [`Mailbox`](crate::Mailbox) says that this one goes.
    Dropped,
}

const REASONS: [Reason; 9] = [
    Reason::Full,
    Reason::Closed,
    Reason::Expired,
    Reason::NoHandler,
    Reason::Unavailable,
    Reason::TooLarge,
    Reason::Fenced,
    Reason::Malformed,
    Reason::Dropped,
];

impl From<Rejected> for Reason {
    fn from(reason: Rejected) -> Self {
        match reason {
            Rejected::Full => Self::Full,
            Rejected::Closed => Self::Closed,
            Rejected::Expired => Self::Expired,
            Rejected::NoHandler => Self::NoHandler,
            Rejected::Unavailable => Self::Unavailable,
            Rejected::TooLarge => Self::TooLarge,
        }
    }
}

impl Reason {
    pub(crate) fn from_status(status: ReplyStatus) -> Self {
        match status {
            ReplyStatus::Full => Self::Full,
            ReplyStatus::Closed => Self::Closed,
            ReplyStatus::Expired => Self::Expired,
            ReplyStatus::NoHandler => Self::NoHandler,
            ReplyStatus::Fenced => Self::Fenced,
            ReplyStatus::Unavailable
            | ReplyStatus::Failed
            | ReplyStatus::Ok
            | ReplyStatus::Deadline
            | ReplyStatus::PeerLost => Self::Unavailable,
        }
    }

    /// What an asker is told.
    pub(crate) fn rejected(self) -> Rejected {
        match self {
            Self::Full | Self::Dropped => Rejected::Full,
            Self::Closed => Rejected::Closed,
            Self::Expired => Rejected::Expired,
            Self::NoHandler | Self::Malformed => Rejected::NoHandler,
            Self::Unavailable | Self::Fenced => Rejected::Unavailable,
            Self::TooLarge => Rejected::TooLarge,
        }
    }
}

/// One message that was not delivered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Who should have got it, if it was an actor of this process.
    pub receiver: Option<ActorId>,
    /// Who sent it, if it was an actor of this engine.
    pub sender: Option<ActorId>,
    /// The Rust type of the actor that should have got it, if it was one of this process.
    pub receiver_type: Option<&'static str>,
    /// The message's Rust type; its id for one that another node refused.
    pub message: MessageName,
    /// Why.
    pub reason: Reason,
}

/// What is known of a dead letter's message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageName {
    /// Its Rust type.
    Type(&'static str),
    /// Its wire id.
    Id(MessageId),
}

/// The dead letters of one engine.
pub(crate) struct DeadLetterOffice {
    counts: [AtomicU64; REASONS.len()],
    /// Made with the first letter: an engine without any has no room for them.
    kept: OnceLock<ArrayQueue<DeadLetter>>,
    subscribers: Subscribers,
}

impl DeadLetterOffice {
    pub(crate) fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; REASONS.len()],
            kept: OnceLock::new(),
            subscribers: Subscribers::new(),
        }
    }

    pub(crate) fn count(&self, reason: Reason) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, letter: DeadLetter) {
        self.count(letter.reason);
        self.subscribers.publish(&letter);
        self.kept.get_or_init(|| ArrayQueue::new(DEAD_LETTERS_KEPT)).force_push(letter);
    }

    pub(crate) fn bounced(&self, header: &FrameHeader) {
        self.record(DeadLetter {
            receiver: None,
            receiver_type: None,
            sender: None,
            message: MessageName::Id(header.message_id),
            reason: Reason::from_status(header.status),
        });
    }
}

/// A view of an engine's dead letters; see [`Engine::dead_letters`](crate::Engine::dead_letters).
#[derive(Clone, Copy)]
pub struct DeadLetters<'a>(pub(crate) &'a DeadLetterOffice);

impl DeadLetters<'_> {
    /// How many messages died for `reason` since the engine started.
    #[must_use]
    pub fn count(self, reason: Reason) -> u64 {
        self.0.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// How many messages died for each reason since the engine started.
    pub fn by_reason(self) -> impl Iterator<Item = (Reason, u64)> {
        REASONS.iter().map(move |reason| (*reason, self.count(*reason)))
    }

    /// How many messages died since the engine started.
    #[must_use]
    pub fn total(self) -> u64 {
        REASONS.iter().map(|reason| self.count(*reason)).sum()
    }

    /// Has a thread see what dies from now on: at most `capacity` letters wait for it, and what finds no room is counted. Dropping
    /// the result ends it.
    #[must_use]
    pub fn subscribe(self, capacity: usize) -> DeadLetterFeed {
        self.0.subscribers.feed(capacity)
    }

    /// Has an actor told what dies from now on. A letter that finds its mailbox full is counted and skipped, and letters that
    /// die themselves are told to nobody. Ends when the actor stops, or the result is dropped.
    pub fn tell_to(self, actor: Recipient<DeadLetter>) -> DeadLetterSubscription {
        self.0.subscribers.actor(actor)
    }

    /// Takes the oldest letter that is kept; the latest 1,024 are.
    #[must_use]
    pub fn take(self) -> Option<DeadLetter> {
        self.0.kept.get()?.pop()
    }
}

impl Message for DeadLetter {
    type Reply = ();
}

impl std::fmt::Debug for DeadLetters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        for reason in REASONS {
            map.entry(&reason, &self.count(reason));
        }
        map.finish()
    }
}
