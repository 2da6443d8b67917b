//! `Fold`: the short form of [`EventSourced`] for a state that is its own snapshot.
//!
//! Invariant: none of its own; it is `EventSourced` with `new` = `default` and `snapshot` = `clone`.

use shardstage_codec::{Wire, WireValue};

use super::{EventSourced, SnapshotPolicy, Stored, UnknownEvents, Upcast};

/// State that is a wire value: it begins as its default and is saved in snapshots as it is.
///
/// ```
/// use shardstage::prelude::*;
/// use shardstage_persistence::Fold;
///
/// #[wire(id = "account.changed")]
/// struct Changed { by: i64 }
///
/// #[wire]
/// #[derive(Clone, Default)]
/// struct Account { balance: i64 }
///
/// impl Fold for Account {
///     const NAME: &'static str = "account";
///     type Event = Changed;
///
///     fn apply(&mut self, event: &Changed) {
///         self.balance += event.by;
///     }
/// }
/// ```
pub trait Fold: WireValue + Clone + Default {
    /// As [`EventSourced::TYPE`].
    const NAME: &'static str;

    /// As [`EventSourced::SNAPSHOTS`].
    const POLICY: SnapshotPolicy = SnapshotPolicy::new();

    /// As [`EventSourced::UNKNOWN_EVENTS`].
    const UNKNOWN: UnknownEvents = UnknownEvents::Fail;

    /// Version of the state's own schema. One of another version is not read; the events are replayed instead.
    const SCHEMA: u16 = 1;

    /// As [`EventSourced::Event`].
    type Event: Wire;

    /// As [`EventSourced::apply`].
    fn apply(&mut self, event: &Self::Event);

    /// As [`EventSourced::upcast`].
    fn upcast(stored: Stored<'_>) -> Upcast<'_, Self::Event> {
        stored.read::<Self::Event>()
    }
}

impl<S: Fold> EventSourced for S {
    const TYPE: &'static str = S::NAME;
    const SNAPSHOTS: SnapshotPolicy = S::POLICY;
    const SNAPSHOT_VERSION: u16 = S::SCHEMA;
    const UNKNOWN_EVENTS: UnknownEvents = S::UNKNOWN;

    type Event = S::Event;
    type Snapshot = S;

    fn new(_key: &str) -> Self {
        S::default()
    }

    fn apply(&mut self, event: &S::Event) {
        Fold::apply(self, event);
    }

    fn snapshot(&self) -> Option<S> {
        Some(self.clone())
    }

    fn restore(&mut self, snapshot: S) {
        *self = snapshot;
    }

    fn upcast(stored: Stored<'_>) -> Upcast<'_, S::Event> {
        <S as Fold>::upcast(stored)
    }
}
