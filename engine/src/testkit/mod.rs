//! The test kit: an engine on virtual time for tests of programs that use one.
//!
//! A [`TestKit`] is an engine in the simulator, on the test's own thread: no sockets, no sleeping, and a day passes in a moment.
//! What happens is a function of the test and of a seed, so a failure can be run again. [`Probe`]s stand where the actors under
//! test expect somebody, and say what they got. At its end a test fails that left dead letters or contained panics behind that it
//! did not expect.
//!
//! Invariant: nothing here is needed by a running program. The engine that is tested is the very same code as on threads of its
//! own; only who calls its shards' turns, and on which clock, differs.
//!
//! ```
//! use std::time::Duration;
//!
//! use shardstage::prelude::*;
//! use shardstage::testkit::TestKit;
//!
//! /// Rings after a minute.
//! struct Alarm {
//!     bell: Recipient<Ring>,
//! }
//! impl Actor for Alarm {}
//!
//! #[message]
//! struct Set;
//! #[message]
//! #[derive(Debug, PartialEq)]
//! struct Ring;
//!
//! impl Handler<Set> for Alarm {
//!     fn handle(&mut self, _: Set, cx: &mut Context<Self>) {
//!         cx.after(Duration::from_secs(60), Ring);
//!     }
//! }
//! impl Handler<Ring> for Alarm {
//!     fn handle(&mut self, ring: Ring, _cx: &mut Context<Self>) {
//!         self.bell.tell(ring).expect("the bell has room");
//!     }
//! }
//!
//! # fn main() -> shardstage::Result<()> {
//! let kit = TestKit::new();
//! let bell = kit.probe::<Ring>();
//! let to = bell.recipient();
//! let alarm = kit.spawn(move || Alarm { bell: to })?;
//! alarm.tell(Set)?;
//! bell.expect_no_msg(Duration::from_secs(59));
//! bell.expect_msg_eq(Ring); // a second of virtual time later
//! # Ok(()) }
//! ```
//!
//! `engine/examples/testing.rs` shows more. Durable actors have their replay check in `shardstage_persistence::testkit`; both work
//! together: give the kit a store with [`TestKitBuilder::engine`].

mod builder;
mod census;
mod fault;
mod kit;
mod probe;
mod report;

pub use builder::TestKitBuilder;
pub use census::{Census, LiveActor};
pub use fault::{PlantedFault, Stall};
pub use kit::TestKit;
pub use probe::{Probe, ProbeActor, Receipt};
