//! `Failure`: what a supervisor hears of an actor that failed.
//!
//! Invariant: a plain value about the past; it holds nothing of the actor or its message.

use std::fmt;
use std::sync::Arc;

use crate::actor_ref::ActorId;

/// What failed, in doing what, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The actor on which is decided: the one that failed, or the supervisor that gave up.
    pub actor: ActorId,
    /// Its Rust type.
    pub actor_type: &'static str,
    /// Where it began: [`actor`](Self::actor) itself, or a descendant of it.
    pub origin: ActorId,
    /// What happened there.
    pub kind: FailureKind,
    /// The type of the message that was handled; `None` in a hook or a factory.
    pub message: Option<&'static str>,
    /// The actor that sent it; `None` for an ask, and for one from outside the shards.
    pub sender: Option<ActorId>,
    /// The panic's or error's text.
    pub text: Arc<str>,
    /// Restarts that were counted against it within the window before this failure.
    pub restarts: u32,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// A handler, a hook or a closure panicked.
    Panicked,
    /// The factory panicked, or `started` failed or panicked.
    StartFailed,
    /// Its children failed more often than it allows.
    Escalated,
    /// It ended without a failure of its own, though it is [permanent](crate::Restart::Permanent) or was taken along by a link.
    Ended,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FailureKind::Panicked => "panicked",
            FailureKind::StartFailed => "did not start",
            FailureKind::Escalated => "gave up",
            FailureKind::Ended => "ended",
        };
        write!(f, "{} {:?} {what}", self.actor_type, self.actor)?;
        if let Some(message) = self.message {
            write!(f, " at {message}")?;
        }
        if let Some(sender) = self.sender {
            write!(f, " from {sender:?}")?;
        }
        write!(f, ": {}", self.text)
    }
}
