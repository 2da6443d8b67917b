//! What is made of asks: forwarding, piping, asking many, giving up, answers in many items, and work that an actor waits for
//! while it goes on.
//!
//! Invariant: all of it is slots in reply tables and messages like any other; an ask that uses none of it knows nothing of it.

pub(crate) mod aggregate;
pub(crate) mod cancel;
mod forward;
