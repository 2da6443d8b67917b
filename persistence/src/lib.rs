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
    Client, CommandContext, CommandHandler, Durable, Effect, Entry, EventSourced, Fold, Idempotent, Keyed, KeyedState,
    NoEvents, NotRun, OutboxRoutes, ReplayCheck, ReplayReport, Saved, SavedState, SnapshotPolicy, Stored, TellTarget,
    Transaction, TransactionError, UnknownEvents, Upcast,
};
pub use log::{EventLog, LogShard, OnPoison, OpenError, PlantedBug, ProbeReport};
pub use store::{
    AppendError, CommitOutcome, EntityId, EventStore, Held, LoadError, LoadFrom, LoadedBytes, LoadedEntity,
    LoadedRecord, MemoryFault, MemoryStore, NewRecord, OnLoaded, OnOwing, Owing, StoreShard, StoreShared, Ticket,
};

/// What a program with durable actors names.
pub mod prelude {
    pub use crate::{
        Client, CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Fold, Idempotent, Keyed,
        KeyedState, MemoryStore, NotRun, OutboxRoutes, Saved, SavedState, SnapshotPolicy, Stored, Upcast,
    };
}
