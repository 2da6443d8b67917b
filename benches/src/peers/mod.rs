//! The other actor libraries, each at its best settings: no tracing, current-thread runtimes, one per pinned thread.
//!
//! Mailboxes are bounded at [`crate::limits::MAILBOX_CAPACITY`] where the library has a bounded send that waits (kameo);
//! ractor and actix' `do_send` are unbounded, which spares them the cost of flow control.

pub mod actix;
pub mod kameo;
pub mod ractor;
