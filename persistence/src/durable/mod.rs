//! Event-sourced actors: [`EventSourced`] state, [`CommandHandler`]s that return an [`Effect`], and [`Durable`], the actor that
//! runs them.
//!
//! One command: mailbox -> `Durable::handle` -> [`CommandHandler::handle`] -> [`Effect`] -> events appended to the open frame
//! and applied -> frame durable -> reply and messages go out.

mod actor;
mod client;
mod context;
mod courier;
mod effect;
mod idempotent;
mod lane;
mod ledger;
mod outbox;
mod sessions;
mod target;

use shardstage::Message;
use shardstage_codec::{Wire, WireValue};

pub use actor::Durable;
pub use client::Client;
pub use context::CommandContext;
pub use courier::OutboxRoutes;
pub use effect::Effect;
pub use idempotent::{Idempotent, NotRun};
pub use target::TellTarget;

/// State that is the fold of its events. It is no actor itself: [`Durable`] runs it, and is the only one to touch it.
///
/// `apply` and `restore` must be functions of their arguments alone: the same events give the same state, today and after a
/// restart.
pub trait EventSourced: Sized + 'static {
    /// The actor type's stable name in the log, on the wire and in placement. Changing it loses sight of every actor of the
    /// type.
    const TYPE: &'static str;

    /// After how many events the next snapshot is taken, if [`snapshot`](Self::snapshot) gives one.
    const SNAPSHOT_EVERY: u64 = crate::limits::SNAPSHOT_EVERY;

    /// Version of the snapshots' schema; one of another version is refused.
    const SNAPSHOT_VERSION: u16 = 1;

    /// How many clients' idempotent commands are recognised; the ones that were silent for longest are forgotten. See
    /// [`Idempotent`].
    const SESSIONS: usize = crate::limits::SESSIONS;

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

    /// The state as a snapshot; `None` for a type without them.
    fn snapshot(&self) -> Option<Self::Snapshot> {
        None
    }

    /// Makes the fresh state that of the snapshot.
    fn restore(&mut self, _snapshot: Self::Snapshot) {}

    /// Reads an event that an older version of the program wrote, by its schema version; `None` when that is not possible.
    /// The bytes start at a multiple of 16.
    fn upcast(_version: u16, _bytes: &[u8]) -> Option<Self::Event> {
        None
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
