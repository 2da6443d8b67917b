//! `VirtualSettings`: how the actors of one virtual type are run.
//!
//! Invariant: fixed before the engine starts. The type says its defaults, the registration may say otherwise.

use std::time::Duration;

use crate::limits::{MAILBOX_CAPACITY_MAX, VIRTUAL_DRAIN, VIRTUAL_IDLE};
use crate::reentrancy::Reentrancy;

/// How the actors of a virtual type are run: returned by [`VirtualActor::settings`](crate::VirtualActor::settings), and changed by
/// [`TypeBuilder`](crate::TypeBuilder) for one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualSettings {
    /// `Duration::MAX` for never.
    pub(crate) idle: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) mailbox_capacity: Option<u32>,
    /// The type's own unless said.
    pub(crate) mailbox_bytes: Option<u32>,
    pub(crate) stays_for_timers: bool,
    /// The type's own unless said.
    pub(crate) reentrancy: Option<Reentrancy>,
}

impl Default for VirtualSettings {
    fn default() -> Self {
        Self {
            idle: VIRTUAL_IDLE,
            drain_timeout: VIRTUAL_DRAIN,
            mailbox_capacity: None,
            mailbox_bytes: None,
            stays_for_timers: false,
            reentrancy: None,
        }
    }
}

impl VirtualSettings {
    /// How long an actor stays active without a message; 60 s unless said. It leaves within a quarter of this afterwards.
    #[must_use]
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// An actor stays active however long it has no message, unless there are more than
    /// [`Config::virtual_actors_per_shard`](crate::Config::virtual_actors_per_shard) or it is told to leave.
    #[must_use]
    pub fn never_idle(self) -> Self {
        self.idle_timeout(Duration::MAX)
    }

    /// How long an actor that is told to leave ([`VirtualRef::passivate`](crate::VirtualRef::passivate)) goes on with what it has
    /// to do; 5 s unless said. Then it stops before its next message, and a handler that waits is dropped; messages that are left
    /// are its next life's.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// The mailbox bound of this type, messages, 1 to 1,048,576; the engine's unless said.
    #[must_use]
    pub fn mailbox_capacity(mut self, capacity: u32) -> Self {
        self.mailbox_capacity = Some(capacity);
        self
    }

    /// The bound of this type's mailboxes in bytes, at least 1; see [`Mailbox::bytes`](crate::Mailbox::bytes). What
    /// [`Actor::MAILBOX`](crate::Actor::MAILBOX) says unless said.
    #[must_use]
    pub fn mailbox_bytes(mut self, bytes: u32) -> Self {
        self.mailbox_bytes = Some(bytes);
        self
    }

    /// An actor with timers to come is not idle; unless said, its timers end when it leaves.
    #[must_use]
    pub fn stays_for_timers(mut self) -> Self {
        self.stays_for_timers = true;
        self
    }

    /// What an actor lets in while an ask of its own waits; [`Actor::REENTRANCY`](crate::Actor::REENTRANCY) unless said.
    #[must_use]
    pub fn reentrancy(mut self, reentrancy: Reentrancy) -> Self {
        self.reentrancy = Some(reentrancy);
        self
    }

    /// What is wrong with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.mailbox_capacity {
            Some(capacity) if capacity == 0 || capacity > MAILBOX_CAPACITY_MAX => {
                Err(format!("mailbox_capacity is {capacity}; allowed are 1 to {MAILBOX_CAPACITY_MAX}"))
            }
            _ if self.mailbox_bytes == Some(0) => Err("mailbox_bytes is 0; at least 1 is allowed".to_owned()),
            _ => Ok(()),
        }
    }
}
