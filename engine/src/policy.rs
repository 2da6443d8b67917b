//! What a mailbox does beyond handing back what it has no room for: `Mailbox`, chosen by an actor's type or at its spawn.
//!
//! Invariant: whatever a policy drops is counted and reported as a dead letter with [`Reason::Dropped`](crate::Reason::Dropped),
//! and an asker among it hears `Rejected(Full)`. A default mailbox knows nothing of all this.

use crate::actor::Actor;
use crate::actor_ref::ActorRef;
use crate::context::Context;
use crate::engine::Engine;
use crate::error::SpawnError;
use crate::reentrancy::Reentrancy;
use crate::shard::{ActorBox, Again, Factory, Sent};

/// What happens to a message that finds the mailbox full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Overflow {
    /// A tell hands it back, a [`send`](crate::ActorRef::send) waits for room, an ask is `Rejected(Full)`.
    #[default]
    HandBack,
    /// It enters, and the oldest message that somebody sent goes: for news of which only the latest count. In order of priority
    /// the oldest of the least urgent goes. What the actor's own timers have sent stays.
    DropOldest,
    /// A tell takes it and drops it: for senders who would not know what else to do. An ask is `Rejected(Full)`.
    DropNewest,
}

/// How urgent messages of one type are, for actors whose [`Mailbox`] is [in order of priority](Mailbox::by_priority).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// After all others.
    Low,
    /// What messages are unless they say something else.
    #[default]
    Normal,
    /// Before what is normal.
    High,
    /// Before all others.
    Urgent,
}

/// The mailbox of an actor: how much it holds, what happens when it is full, in which order messages are handled.
///
/// ```
/// use shardstage::prelude::*;
/// use shardstage::{Mailbox, Overflow};
///
/// /// Shows the latest prices; older ones do not matter.
/// #[derive(Default)]
/// struct Screen;
/// impl Actor for Screen {
///     const MAILBOX: Mailbox = Mailbox::new().capacity(16).overflow(Overflow::DropOldest);
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mailbox {
    capacity: u32,
    /// 0 for no bound.
    bytes: u32,
    overflow: Overflow,
    by_priority: bool,
    /// What the actor lets in while it waits, as a number: here because it is looked at where this is.
    reentrancy: u16,
}

impl Mailbox {
    /// What [`Config::mailbox_capacity`](crate::Config::mailbox_capacity) says, handing back, in order of arrival.
    #[must_use]
    pub const fn new() -> Self {
        Self { capacity: 0, bytes: 0, overflow: Overflow::HandBack, by_priority: false, reentrancy: 0 }
    }

    /// Holds so many messages of users.
    ///
    /// # Panics
    /// When that is none, or more than 2^20.
    #[must_use]
    pub const fn capacity(mut self, messages: u32) -> Self {
        assert!(messages > 0 && messages <= crate::limits::MAILBOX_CAPACITY_MAX, "a mailbox holds 1 to 2^20 messages");
        self.capacity = messages;
        self
    }

    /// Holds messages of users that weigh no more than so many bytes together, and no more of them than its
    /// [`capacity`](Self::capacity).
    ///
    /// A message weighs what [`Message::weight_bytes`](crate::Message::weight_bytes) says, which a message that owns memory should say
    /// itself: otherwise a `Vec` weighs its 24 bytes, whatever is in it. Full by bytes is full in every other respect: a tell hands back, a
    /// `send` waits, or the [`overflow`](Self::overflow) drops, of the oldest as many as the new one needs. A message that alone is
    /// heavier than this enters when nothing else that weighs is queued, and nothing enters beside it. What has room of its own (replies,
    /// the actor's timers, news of ends) weighs nothing.
    ///
    /// Senders elsewhere are told how many messages they may send, not how heavy: a tell that turns out too heavy on arrival is a dead
    /// letter, and the messages of those who wait in `send` may exceed the bound by
    /// [`WEIGHED_AHEAD`](crate::limits::WEIGHED_AHEAD) of them.
    ///
    /// Messages are handed to such an actor one at a time, some 30 ns more each.
    ///
    /// # Panics
    /// When that is none.
    #[must_use]
    pub const fn bytes(mut self, bytes: u32) -> Self {
        assert!(bytes > 0, "a mailbox that holds no byte holds no message");
        self.bytes = bytes;
        self
    }

    /// What happens to a message that finds it full.
    #[must_use]
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Messages are handled in order of [`Message::PRIORITY`](crate::Message::PRIORITY), those of one priority in order of arrival; replies to the actor's
    /// own asks come first. As long as more urgent messages come, the others wait: whoever uses this sees to it that urgent
    /// messages are few.
    ///
    /// Messages are handed to such an actor one at a time, some 30 ns more each, and one that overtakes others costs a pass
    /// over the mailbox.
    #[must_use]
    pub const fn by_priority(mut self) -> Self {
        self.by_priority = true;
        self
    }

    /// The same, of an actor that lets this in while it waits.
    pub(crate) const fn of_actor(mut self, reentrancy: Reentrancy) -> Self {
        self.reentrancy = reentrancy.code();
        self
    }

    pub(crate) fn reentrancy(self) -> Reentrancy {
        Reentrancy::of_code(self.reentrancy)
    }

    /// How many messages it holds, if it says so.
    pub(crate) fn own_capacity(self) -> Option<u32> {
        Some(self.capacity).filter(|capacity| *capacity > 0)
    }

    /// How many bytes it holds, if it says so.
    pub(crate) fn own_bytes(self) -> Option<u32> {
        Some(self.bytes).filter(|bytes| *bytes > 0)
    }

    pub(crate) fn on_overflow(self) -> Overflow {
        self.overflow
    }

    pub(crate) fn is_by_priority(self) -> bool {
        self.by_priority
    }
}

/// A factory of actors whose mailbox is not the one of their type.
pub(crate) struct WithMailbox<F>(pub(crate) F, pub(crate) Mailbox);

impl<A, F: Factory<A>> Factory<A> for WithMailbox<F> {
    const AGAIN: bool = F::AGAIN;

    fn make(&mut self) -> Option<A> {
        self.0.make()
    }

    fn mailbox(&self) -> Option<Mailbox> {
        Some(self.1)
    }
}

impl Engine {
    /// Like [`spawn`](Self::spawn), with a mailbox that is not the one of the type.
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down.
    pub fn spawn_with_mailbox<A, F>(&self, mailbox: Mailbox, factory: F) -> Result<ActorRef<A>, SpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        self.spawn_with(self.link.next_shard(), move || {
            ActorBox::new::<A, _>(Sent(WithMailbox(Again(factory), mailbox)))
        })
    }
}

impl<A: Actor> Context<A> {
    /// Like [`spawn`](Self::spawn), with a mailbox that is not the one of the type.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with_mailbox<B, F>(&mut self, mailbox: Mailbox, factory: F) -> Result<ActorRef<B>, SpawnError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        self.spawn_box(ActorBox::new::<B, _>(WithMailbox(Again(factory), mailbox)))
    }
}
