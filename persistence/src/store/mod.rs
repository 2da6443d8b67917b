//! `EventStore`: what [`Durable`](crate::Durable) needs of the place where its records lie.
//!
//! Two stand behind the port: the local log ([`LogShard`](crate::LogShard)) and [`MemoryStore`], in memory, with faults that a
//! test injects and a fence that another owner may raise. An engine has one of them, the service on its shards.
//!
//! One command: [`EventStore::check`] -> events applied -> [`EventStore::append`] -> (end of turn, a commit) -> the effect
//! that was held runs. All of it on the shard's thread.
//!
//! Invariant of every store: the records of one `append` become durable together or not at all, in append order within an
//! entity, and no effect runs with [`CommitOutcome::Durable`] before they are.

mod error;
mod memory;
mod pacing;
mod record;
mod scratch;
mod service;
mod shared;

use shardstage::port::service::Service;
use shardstage_codec::{Epoch, GroupId};

pub use error::{AppendError, LoadError};
pub use memory::{MemoryFault, MemoryStore};
pub(crate) use record::check_sequences;
pub use record::{LoadFrom, LoadedBytes, LoadedEntity, LoadedRecord, NewRecord, OnLoaded};
pub(crate) use scratch::{Scratch, Written};
pub use service::StoreShard;
pub(crate) use service::{StoreKind, with_store};
pub use shared::StoreShared;

/// An entity's number within one store; stable over restarts once something was appended for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub u64);

/// Names the commit that a record will be in. Tickets of one store's shard are durable in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// The ticket with this number, for a store outside this crate. Numbers rise from commit to commit.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// How waiting for a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The records are durable.
    Durable,
    /// The store was poisoned before the answer came: the records may be there after the next start, or not.
    Unknown,
}

/// What runs once a commit is durable, or will never be known to be.
pub type Held = Box<dyn FnOnce(CommitOutcome)>;

/// An entity with outbox messages that have not arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owing {
    /// Its actor type.
    pub type_name: Box<str>,
    /// Its key.
    pub key: Box<str>,
}

/// Gets entities that owe messages, and the number to go on behind: 0 when all were looked at.
pub type OnOwing = Box<dyn FnOnce(Vec<Owing>, EntityId)>;

/// A store's part on one shard. See the module's head; shard thread only.
///
/// A store calls [`StoreShared::pace`] once a turn, from its `poll`: paced loads begin and end there.
pub trait EventStore: Service {
    /// What the durable actors of this shard share; one value for the store's whole life.
    fn shared(&self) -> std::rc::Rc<StoreShared>;

    /// The number of the entity with this actor type and key; known, or new. `event_id` is the stable id of the type's events.
    ///
    /// # Errors
    /// [`LoadError::KeyTooLong`], [`LoadError::Closed`]; nothing changed.
    fn intern(&mut self, type_name: &str, key: &str, group: GroupId, event_id: u64) -> Result<EntityId, LoadError>;

    /// Takes back one [`intern`](Self::intern): after as many of these nobody uses the entity any more, and the store may forget
    /// all but where its records lie.
    fn release(&mut self, _entity: EntityId) {}

    /// Raises the epoch of a slot group: appends under a lower one are refused from now on.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when the group's epoch is higher already; [`AppendError::Closed`] before the store runs.
    fn raise_epoch(&mut self, group: GroupId, epoch: Epoch) -> Result<(), AppendError>;

    /// The group's current epoch, at least 1.
    fn epoch(&self, group: GroupId) -> Epoch;

    /// Whether [`append`](Self::append) would take these records now. Changes nothing, and holds until the next `append`.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn check(&mut self, entity: EntityId, epoch: Epoch, records: &[NewRecord<'_>]) -> Result<(), AppendError>;

    /// Appends the records of one command; they become durable together or not at all. `on_durable` runs on this shard, in
    /// append order, once they are. The ticket waits for the same.
    ///
    /// # Errors
    /// See [`AppendError`]; `on_durable` is dropped without being called.
    ///
    /// # Panics
    /// When there is no record, or one is a key definition.
    fn append(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
        on_durable: Held,
    ) -> Result<Ticket, AppendError>;

    /// Runs `effect` in append order with the effects of `ticket`'s commit; at once when that one is durable already.
    fn when_durable(&mut self, ticket: Ticket, effect: Held);

    /// Whether the ticket's commit is durable.
    fn is_durable(&self, ticket: Ticket) -> bool;

    /// Reads a snapshot and what was appended after it, including what is still on its way. `on_loaded` runs on this
    /// shard, in this turn or a later one.
    fn load(&mut self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded);

    /// Looks for up to `most` entities behind the number `after` whose latest outbox record says that messages have not arrived
    /// ([`RecordKind::Outbox`](crate::format::record::RecordKind::Outbox) or `OutboxDone`, not `OutboxSettled`). `on_found` runs
    /// on this shard, in this turn or a later one; it is dropped when the store ends before.
    fn owing(&mut self, after: EntityId, most: usize, on_found: OnOwing);

    /// Why the store accepts nothing any more, if so.
    fn poisoned(&self) -> Option<&str>;
}
