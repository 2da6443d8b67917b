//! `SavedState`: state that is stored as a whole, without events.
//!
//! Each command that changes something writes one record with the whole state; the acknowledgement waits for it as it does
//! for events. Older states are of no use once a newer one is durable.
//!
//! Invariant: the state is the last one that was saved.

use shardstage::wire;
use shardstage_codec::WireValue;

use super::{Effect, EventSourced, SnapshotPolicy};

/// State that is saved as a whole. [`Durable`](super::Durable)`<`[`Saved`]`<Profile>>` runs it, and commands are handled by
/// [`CommandHandler`](super::CommandHandler)s of `Saved<Profile>`, which sees the profile as itself.
///
/// Each save writes what is remembered of clients and outbox too.
///
/// ```
/// use shardstage::prelude::*;
/// use shardstage_persistence::{CommandContext, CommandHandler, Effect, Saved, SavedState};
///
/// #[wire]
/// #[derive(Clone, Default)]
/// struct Profile { name: String }
///
/// impl SavedState for Profile {
///     const NAME: &'static str = "profile";
/// }
///
/// #[message(id = "profile.rename", reply = ())]
/// struct Rename { name: String }
///
/// impl CommandHandler<Rename> for Saved<Profile> {
///     fn handle(&self, rename: Rename, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
///         Effect::save(Profile { name: rename.name })
///     }
/// }
/// ```
pub trait SavedState: WireValue + Clone + Default {
    /// The actor type's stable name, as [`EventSourced::TYPE`].
    const NAME: &'static str;

    /// Version of the state's schema.
    const SCHEMA: u16 = 1;

    /// Reads a state of another [`SCHEMA`](Self::SCHEMA). `None`: the actor cannot be served.
    fn upcast(_stored: super::Stored<'_>) -> Option<Self> {
        None
    }
}

/// Runs a [`SavedState`] inside of [`Durable`](super::Durable).
#[derive(Clone, Debug)]
pub struct Saved<S>(S);

/// The event type of actors without events.
#[wire(id = "shardstage.no-events")]
#[derive(Clone, Debug)]
pub struct NoEvents {}

impl<S: SavedState> EventSourced for Saved<S> {
    const TYPE: &'static str = S::NAME;
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::NEVER;
    const SNAPSHOT_VERSION: u16 = S::SCHEMA;

    type Event = NoEvents;
    type Snapshot = S;

    fn new(_key: &str) -> Self {
        Self(S::default())
    }

    fn apply(&mut self, _event: &NoEvents) {}

    fn snapshot(&self) -> Option<S> {
        Some(self.0.clone())
    }

    fn restore(&mut self, state: S) {
        self.0 = state;
    }

    fn upcast_snapshot(stored: super::Stored<'_>) -> Option<S> {
        S::upcast(stored)
    }
}

impl<S> std::ops::Deref for Saved<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S: SavedState> Effect<Saved<S>, ()> {
    /// Saves this as the state.
    pub fn save(state: S) -> Self {
        Self { saved: Some(state), ..Effect::none() }
    }
}
