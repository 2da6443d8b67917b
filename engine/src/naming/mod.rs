//! Names: which actor of an engine answers to which text.
//!
//! `table.rs` keeps them, `register.rs` is what a user calls to give and find them, `watch.rs` waits for one to appear,
//! `error.rs` says why not. Nothing here stands on the message path: a name is looked up once, and messages go to the
//! reference that was found.

mod error;
mod register;
mod table;
mod watch;

pub use error::{GetOrSpawnError, LookupError, NameWaitError, RegisterError};
pub use table::Named;
pub(crate) use table::{NameTable, release_all};
pub use watch::{PendingName, WhenNamed};
