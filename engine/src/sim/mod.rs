//! The simulator: virtual time, one seed, a simulated disk and network, and many nodes in one OS thread.
//!
//! Invariant: everything that happens is a function of [`SimOptions`] and of the calls that the test makes. Same seed, same
//! calls, same build: same trace. Nothing here is `Send` except the wake flags; nothing reads a real clock, hashes with a
//! random key or orders by address.
//!
//! A [`SimWorld`] owns shards ([`SimShard`]) and picks which of them turns next. Each stands on a [`SimDriver`]. The disk
//! assumes nothing that a real one does not promise: see [`SimWorld::crash`] for what a power loss takes.
//!
//! Each shard has its own time within a turn: it begins at the world's and grows with turn cost, clock reads and messages,
//! and the shard's next turn waits until the world has caught up. So a long turn stalls nobody else, and the clocks of two
//! shards of a node may be apart by the length of a turn: elapsed times across shards must saturate at zero.
//!
//! ```
//! use shardstage::port::driver::Driver;
//! use shardstage::sim::{SimOptions, SimShard, SimWait, SimWorld};
//! use shardstage_codec::{NodeId, ShardId};
//! use std::cell::Cell;
//! use std::rc::Rc;
//!
//! struct Ticker(Rc<Cell<u32>>);
//! impl SimShard for Ticker {
//!     fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
//!         self.0.set(self.0.get() + 1);
//!         SimWait::Until(driver.now_ns() + 1_000_000)
//!     }
//! }
//!
//! let world = SimWorld::new(SimOptions::seeded(1));
//! let ticks = Rc::new(Cell::new(0));
//! world.add_shard(NodeId::new(0), ShardId::new(0), Box::new(Ticker(ticks.clone())));
//! assert!(world.run_until(|_| ticks.get() == 10, 1_000_000_000));
//! assert!(world.now_ns() < 20_000_000);
//! ```

mod directory;
mod disk;
mod driver;
mod file;
mod host;
mod network;
mod options;
mod random;
mod state;
mod trace;
mod world;

pub use disk::{DiskFault, DiskOp, DiskOpKind};
pub use driver::SimDriver;
pub(crate) use host::world_of;
pub use options::{DiskOptions, NetworkOptions, SimOptions};
pub use random::SimRandom;
pub use world::{SimShard, SimWait, SimWorld};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests;
