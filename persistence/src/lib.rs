//! The event log of Shardstage: one append-only log per shard, group commit, recovery that tells a torn tail from damage.
//!
//! [`EventLog`] makes one [`LogShard`] per shard, a service that takes part in the shard's turn. Records that arrive while
//! a frame is on its way to the disk form the next frame; whatever could reflect a record is held until its frame is
//! durable.

mod durable;
pub mod format;
pub mod inspect;
pub mod limits;
mod log;
pub mod recovery;

pub use durable::{CommandContext, CommandHandler, Durable, Effect, EventSourced, TellTarget};
pub use log::{
    AppendError, CommitOutcome, EntityId, EventLog, Held, LoadError, LoadedBytes, LoadedEntity, LoadedRecord, LogShard,
    NewRecord, OnLoaded, OnPoison, OpenError, PlantedBug, Ticket,
};
