//! `Effect`: what a command does, as a value.
//!
//! Invariant: an effect does nothing by itself; [`Durable`](crate::Durable) carries it out, messages last and only after its
//! events are durable.

use shardstage::{Message, Receive, VirtualActor, VirtualRef, WireMessage};
use shardstage_codec::{AlignedBytes, WireValue, encode};

use super::events::Events;
use super::ledger::Extra;
use super::outbox::Outgoing;
use super::sessions::Mark;
use super::target::TellTarget;
use super::{EventSourced, Idempotent};

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
    pub(super) events: Events<A::Event>,
    /// The whole state, where it is saved as such.
    pub(super) saved: Option<A::Snapshot>,
    pub(super) reply: R,
    pub(super) sends: Vec<Send>,
    pub(super) extra: Extra,
}

impl<A: EventSourced> Effect<A, ()> {
    /// Nothing is persisted.
    pub fn none() -> Self {
        Self { events: Events::NONE, saved: None, reply: (), sends: Vec::new(), extra: Extra::default() }
    }

    /// Persists one event.
    pub fn persist(event: A::Event) -> Self {
        Self { events: Events::one(event), ..Self::none() }
    }

    /// Persists events in this order, all or none of them.
    pub fn persist_all(events: impl IntoIterator<Item = A::Event>) -> Self {
        Self { events: Events::Many(events.into_iter().collect()), ..Self::none() }
    }
}

impl<A: EventSourced, R> Effect<A, R> {
    /// Whether nothing is persisted.
    pub(super) fn is_read(&self) -> bool {
        self.events.is_empty() && self.saved.is_none() && self.extra.is_empty()
    }

    /// Answers with this.
    pub fn reply<S>(self, reply: S) -> Effect<A, S> {
        let Self { events, saved, sends, extra, .. } = self;
        Effect { events, saved, reply, sends, extra }
    }

    /// Persists another event after those before.
    pub fn and_persist(mut self, event: A::Event) -> Self {
        self.events.push(event);
        self
    }

    /// Sends a message through the outbox: it is recorded together with the events, leaves when they are durable, survives a
    /// crash, and is sent again until it has arrived. Messages to one receiver arrive in the order of their commands.
    ///
    /// A durable actor runs it once. Any other virtual actor handles [`Idempotent<M>`] itself and may see it again after a crash
    /// of either side, with the same `client` and `seq`.
    ///
    /// The type's [`OutboxRoutes`](crate::OutboxRoutes) must have been started with a route for it, else the command fails; while
    /// [`OUTBOX_MESSAGES`](crate::limits::OUTBOX_MESSAGES) have not arrived, it is `Rejected(Full)`. Only virtual actors send.
    ///
    /// Cost: the message is encoded into the record, and again for each attempt.
    pub fn send<V, M, K>(mut self, target: &VirtualRef<V>, message: &M) -> Self
    where
        V: VirtualActor + Receive<Idempotent<M>, K>,
        M: WireMessage,
        K: 'static,
    {
        let mut bytes = AlignedBytes::new();
        match encode(message, &mut bytes) {
            Ok(len) => self.extra.outgoing.push(Outgoing {
                to_type: V::TYPE,
                to: target.key().as_str().into(),
                message: M::ID.get(),
                version: M::VERSION,
                bytes: bytes[bytes.len() - len..].to_vec(),
            }),
            Err(_) => self.extra.too_large = true,
        }
        self
    }

    /// The effect of a command that is run once: its reply is recorded with it.
    pub(super) fn recorded<E: 'static>(mut self, mark: Mark) -> Effect<A, Result<R, E>>
    where
        R: WireValue,
    {
        let mut bytes = AlignedBytes::new();
        let reply = encode(&self.reply, &mut bytes).map(|len| bytes[bytes.len() - len..].to_vec());
        self.extra.ran = Some((mark, reply));
        let Self { events, saved, reply, sends, extra } = self;
        Effect { events, saved, reply: Ok(reply), sends, extra }
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
