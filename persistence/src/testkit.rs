//! For tests of programs that use durable actors.
//!
//! [`MemoryStore`] takes the log's place where a test wants no disk, or faults of its choice. The replay
//! check tells whether a type's state is the fold of its events:
//!
//! ```
//! use shardstage::prelude::*;
//! use shardstage_persistence::testkit::{ReplayCheck, must_agree};
//! use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, Fold, MemoryStore};
//!
//! #[message(id = "doc.add", reply = ())]
//! struct Add {}
//!
//! #[wire(id = "doc.added")]
//! struct Added {}
//!
//! #[wire]
//! #[derive(Clone, Default)]
//! struct Sum { count: u64 }
//!
//! impl Fold for Sum {
//!     const NAME: &'static str = "doc.sum";
//!     type Event = Added;
//!
//!     fn apply(&mut self, _event: &Added) {
//!         self.count += 1;
//!     }
//! }
//!
//! impl CommandHandler<Add> for Sum {
//!     fn handle(&self, _: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
//!         Effect::persist(Added {})
//!     }
//! }
//!
//! # fn main() -> shardstage::Result<()> {
//! let engine = Engine::builder().service(MemoryStore::new()).register::<Durable<Sum>>(|sum| sum).start()?;
//! let sum = engine.actor::<Durable<Sum>>("it");
//! sum.ask(Add {}).wait()?;
//! must_agree(&sum.ask(ReplayCheck {}).wait()?.expect("the store can be read"));
//! # engine.shutdown() }
//! ```
//!
//! Invariant: nothing here is needed by a running program, and nothing here changes one.

pub use crate::durable::{ReplayCheck, ReplayReport};
pub use crate::store::{MemoryFault, MemoryStore};

/// Fails a test whose actor is not what its records give.
///
/// # Panics
/// When the report does not [agree](ReplayReport::agrees).
pub fn must_agree(report: &ReplayReport) {
    assert!(report.agrees(), "the live state differs from its replay: {report:?}");
}
