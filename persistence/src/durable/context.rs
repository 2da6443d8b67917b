//! `CommandContext`: what a command handler may look at. It cannot send: messages belong into the effect.

use shardstage::{Actor, ActorId, ActorRef, Context, Epoch, Key, VirtualActor, VirtualRef};

use super::ledger::Ledger;
use super::sessions::Sessions;
use super::{Durable, EventSourced};

/// Where and when a command is handled.
pub struct CommandContext<'a, A: EventSourced> {
    cx: &'a Context<Durable<A>>,
    key: &'a str,
    version: u64,
    ledger: &'a Ledger,
}

impl<'a, A: EventSourced> CommandContext<'a, A> {
    pub(super) fn new(cx: &'a Context<Durable<A>>, key: &'a str, version: u64, ledger: &'a Ledger) -> Self {
        Self { cx, key, version, ledger }
    }

    /// The commands that were run.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.ledger.sessions
    }

    /// The actor's key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key
    }

    /// How many events the state has seen.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A reference to this actor.
    #[must_use]
    pub fn me(&self) -> ActorRef<Durable<A>> {
        self.cx.me()
    }

    /// The actor that sent the command, if it is one of this process.
    #[must_use]
    pub fn sender(&self) -> Option<ActorId> {
        self.cx.sender()
    }

    /// The turn's time, nanoseconds on a monotonic clock; virtual in the simulator. An event that needs it carries it.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.cx.now_ns()
    }

    /// 64 random bits, not for secrets. An event that needs them carries them.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        self.cx.random_u64()
    }

    /// The epoch of the actor's slot group.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.cx.epoch()
    }

    /// A reference to a virtual actor, for [`Effect::tell`](crate::Effect::tell).
    #[must_use]
    pub fn actor<V: VirtualActor>(&self, key: impl Into<Key>) -> VirtualRef<V>
    where
        Durable<A>: Actor,
    {
        self.cx.actor(key)
    }
}

impl<A: EventSourced> std::fmt::Debug for CommandContext<'_, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CommandContext({:?}, version {})", self.key, self.version)
    }
}
