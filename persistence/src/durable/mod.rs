//! Event-sourced actors: [`EventSourced`] state, [`CommandHandler`]s that return an [`Effect`], and [`Durable`], the actor that
//! runs them.
//!
//! One command: mailbox -> `Durable::handle` -> [`CommandHandler::handle`] -> [`Effect`] -> events appended to the open frame
//! and applied -> frame durable -> reply and messages go out.
//!
//! What is stored is the type's choice: events ([`EventSourced`] without snapshots), events and snapshots ([`EventSourced`] or,
//! where the state is its own snapshot, [`Fold`]), the state as a whole ([`SavedState`]), or keys and values
//! ([`KeyedState`]).

mod actor;
mod client;
mod commit;
mod context;
mod courier;
mod effect;
mod events;
mod fold;
mod idempotent;
mod keyed;
mod lane;
mod ledger;
mod outbox;
mod policy;
mod recover;
mod replay;
mod revive;
mod saved;
mod sessions;
mod target;
mod transaction;
mod upcast;

use shardstage::Message;
use shardstage_codec::{AlignedBytes, Wire, WireValue, encode};

pub use actor::Durable;
pub use client::Client;
pub use context::CommandContext;
pub use courier::OutboxRoutes;
pub use effect::Effect;
pub use fold::Fold;
pub use idempotent::{Idempotent, NotRun};
pub use keyed::{Keyed, KeyedState};
pub use policy::{SnapshotPolicy, UnknownEvents};
pub use replay::{ReplayCheck, ReplayReport};
pub use saved::{NoEvents, Saved, SavedState};
pub use target::TellTarget;
pub use transaction::{Entry, Transaction, TransactionError};
pub use upcast::{Stored, Upcast};

/// State that is the fold of its events. It is no actor itself: [`Durable`] runs it, and is the only one to touch it.
///
/// `apply` and `restore` must be functions of their arguments alone: the same events give the same state, today and after a
/// restart. [`ReplayCheck`] tells whether they do.
pub trait EventSourced: Sized + 'static {
    /// The actor type's stable name in the log, on the wire and in placement. Changing it loses sight of every actor of the
    /// type.
    const TYPE: &'static str;

    /// After how many events the next snapshot is taken, if [`snapshot`](Self::snapshot) gives one.
    const SNAPSHOT_EVERY: u64 = crate::limits::SNAPSHOT_EVERY;

    /// All rules for taking snapshots.
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::new().every(Self::SNAPSHOT_EVERY);

    /// Version of the snapshots' schema.
    const SNAPSHOT_VERSION: u16 = 1;

    /// How many clients' idempotent commands are recognised; the ones that were silent for longest are forgotten. See
    /// [`Idempotent`].
    const SESSIONS: usize = crate::limits::SESSIONS;
    /// What is done with events that this program cannot read.
    const UNKNOWN_EVENTS: UnknownEvents = UnknownEvents::Fail;

    /// What happened: `#[wire(id = "bank.account-event")]`, usually an enum.
    type Event: Wire;

    /// The state as a wire value; `()` where there are no snapshots.
    type Snapshot: WireValue;

    /// The state before the first event.
    fn new(key: &str) -> Self;

    /// Changes the state by one event.
    ///
    /// # Panics
    /// A panic stops the actor, naming the event. While a command is handled its events are then not persisted; during
    /// recovery the actor cannot be served until the process restarts with code that can apply the event.
    fn apply(&mut self, event: &Self::Event);

    /// The state as a snapshot; `None` for a type without them. A panic counts as `None`.
    fn snapshot(&self) -> Option<Self::Snapshot> {
        None
    }

    /// Whether a snapshot is taken now, whatever [`SNAPSHOTS`](Self::SNAPSHOTS) says: asked after each applied event of a
    /// command.
    fn snapshot_due(&self, _event: &Self::Event) -> bool {
        false
    }

    /// Makes the fresh state that of the snapshot.
    ///
    /// # Panics
    /// A snapshot that makes it panic counts as unreadable: the one before is taken, and the events since then.
    fn restore(&mut self, _snapshot: Self::Snapshot) {}

    /// Reads an event that an older version of the program wrote. [`Stored::read`] shows a chain of versions; an event that no
    /// version of it wrote is unknown.
    fn upcast(stored: Stored<'_>) -> Upcast<'_, Self::Event> {
        stored.read::<Self::Event>()
    }

    /// Reads a snapshot of another [`SNAPSHOT_VERSION`](Self::SNAPSHOT_VERSION). `None`: it is unreadable, and the one
    /// before is taken, or all events.
    fn upcast_snapshot(_stored: Stored<'_>) -> Option<Self::Snapshot> {
        None
    }

    /// Takes an unknown event, where [`UNKNOWN_EVENTS`](Self::UNKNOWN_EVENTS) says [`UnknownEvents::Raw`].
    fn apply_raw(&mut self, _stored: Stored<'_>) {}

    /// A number that differs where states differ, for [`ReplayCheck`]: by default that of the snapshot's bytes, `None` for a
    /// type without snapshots.
    fn state_hash(&self) -> Option<u64> {
        let mut bytes = AlignedBytes::new();
        let len = encode(&self.snapshot()?, &mut bytes).ok()?;
        Some(replay::hash(&bytes[bytes.len() - len..]))
    }
}

/// Decides what a command does. It sees the state, including what earlier commands did, and changes nothing itself: events,
/// reply and messages are what it returns, and all of them leave only after the events are durable.
pub trait CommandHandler<C: Message>: EventSourced {
    /// Handles one command.
    ///
    /// # Panics
    /// A panic ends this command as `Failed`; nothing is persisted, and the actor is rebuilt from its log.
    fn handle(&self, command: C, cx: &CommandContext<'_, Self>) -> Effect<Self, C::Reply>;
}
