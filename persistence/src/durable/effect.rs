//! `Effect`: what a command does, as a value.
//!
//! Invariant: an effect does nothing by itself; [`Durable`](crate::Durable) carries it out, messages last and only after its
//! events are durable.

use shardstage::Message;

use super::EventSourced;
use super::target::TellTarget;

/// Sends one message; whether the receiver took it.
pub(super) type Send = Box<dyn FnOnce() -> bool>;

/// Events to persist, the reply, and messages to send. Built by hand:
///
/// ```
/// # use shardstage_persistence::{Effect, EventSourced};
/// # struct Account;
/// # impl EventSourced for Account {
/// #     const TYPE: &'static str = "account";
/// #     type Event = Deposited;
/// #     type Snapshot = ();
/// #     fn new(_: &str) -> Self { Self }
/// #     fn apply(&mut self, _: &Deposited) {}
/// # }
/// # #[shardstage::wire(id = "deposited")]
/// # struct Deposited { amount: u64 }
/// let effect: Effect<Account, u64> = Effect::persist(Deposited { amount: 40 }).reply(42);
/// let read: Effect<Account, u64> = Effect::none().reply(42);
/// ```
#[must_use = "an effect that is not returned does nothing"]
pub struct Effect<A: EventSourced, R> {
    pub(super) events: Vec<A::Event>,
    /// The whole state, where it is saved as such.
    pub(super) saved: Option<A::Snapshot>,
    pub(super) reply: R,
    pub(super) sends: Vec<Send>,
}

impl<A: EventSourced> Effect<A, ()> {
    /// Nothing is persisted.
    pub fn none() -> Self {
        Self { events: Vec::new(), saved: None, reply: (), sends: Vec::new() }
    }

    /// Persists one event.
    pub fn persist(event: A::Event) -> Self {
        Self { events: vec![event], saved: None, reply: (), sends: Vec::new() }
    }

    /// Persists events in this order, all or none of them.
    pub fn persist_all(events: impl IntoIterator<Item = A::Event>) -> Self {
        Self { events: events.into_iter().collect(), saved: None, reply: (), sends: Vec::new() }
    }
}

impl<A: EventSourced, R> Effect<A, R> {
    /// Whether nothing is persisted.
    pub(super) fn is_read(&self) -> bool {
        self.events.is_empty() && self.saved.is_none()
    }

    /// Answers with this.
    pub fn reply<S>(self, reply: S) -> Effect<A, S> {
        Effect { events: self.events, saved: self.saved, reply, sends: self.sends }
    }

    /// Persists another event after those before.
    pub fn and_persist(mut self, event: A::Event) -> Self {
        self.events.push(event);
        self
    }

    /// Sends a message once the events are durable, at most once: a crash between may lose it, and a receiver may refuse it
    /// (counted as `tells_refused`).
    pub fn tell<M, K, T>(mut self, target: T, message: M) -> Self
    where
        M: Message,
        T: TellTarget<M, K>,
        K: 'static,
    {
        self.sends.push(Box::new(move || target.tell_message(message)));
        self
    }
}

impl<A: EventSourced, R> std::fmt::Debug for Effect<A, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Effect({} events, {} messages)", self.events.len(), self.sends.len())
    }
}
