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
mod store;
pub mod testkit;

pub use durable::{
    CommandContext, CommandHandler, Durable, Effect, Entry, EventSourced, Fold, Keyed, KeyedHandler, KeyedState,
    NoEvents, ReplayCheck, ReplayReport, SaveHandler, Saved, SavedState, SnapshotPolicy, Stored, TellTarget,
    Transaction, TransactionError, UnknownEvents, Upcast,
};
pub use log::{EventLog, LogShard, OnPoison, OpenError, PlantedBug, ProbeReport};
pub use store::{
    AppendError, CommitOutcome, EntityId, EventStore, Held, LoadError, LoadFrom, LoadedBytes, LoadedEntity,
    LoadedRecord, MemoryFault, MemoryStore, NewRecord, OnLoaded, StoreShard, StoreShared, Ticket,
};

/// What a program with durable actors names.
pub mod prelude {
    pub use crate::{
        CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Fold, Keyed, KeyedHandler, KeyedState,
        MemoryStore, SaveHandler, Saved, SavedState, SnapshotPolicy, Stored, Upcast,
    };
}
