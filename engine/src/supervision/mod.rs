//! Supervision: what happens when an actor fails, and who decides.
//!
//! ```text
//! panic -> Actor::panicked -> the parent's Supervision -> Resume | Restart | Stop | Escalate -> the parent's own parent ..
//! ```
//!
//! Invariant: every failure ends in exactly one decision, and no actor is restarted more often than its window allows. Costs an
//! actor that does not fail nothing. Shard thread only; parent and child always share a shard.

mod failure;
mod judge;
mod policy;
mod window;

pub use failure::{Failure, FailureKind};
pub(crate) use judge::Verdict;
pub(crate) use policy::Strategy;
pub use policy::{Backoff, ChildSpec, Directive, Restart, Supervision};
pub(crate) use window::Window;

/// What a supervisor keeps that said how it supervises, or whose children restart together.
#[derive(Default)]
pub(crate) struct Supervisor {
    pub(crate) policy: Supervision,
    /// Restarts of the group, where children restart together.
    pub(crate) window: Window,
    /// Children of a restarting group that have not stopped yet.
    pub(crate) going_down: u32,
    /// How long the group waits then.
    pub(crate) delay_ns: u64,
}

/// An actor on its way from one state to the next.
pub(crate) struct Recovery {
    pub(crate) failure: std::sync::Arc<Failure>,
    pub(crate) step: Step,
    pub(crate) delay_ns: u64,
    /// Starts again together with its siblings.
    pub(crate) group: bool,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its next turn takes it down.
    Ordered,
    /// Its children are stopping.
    Children,
    /// It has no state, and waits for its time or its siblings.
    Held,
    /// Its next turn builds it.
    Ready,
}

impl Recovery {
    /// Whether siblings wait until it is down.
    pub(crate) fn holds_up_group(&self) -> bool {
        self.group && matches!(self.step, Step::Ordered | Step::Children)
    }
}
