//! From what a store delivered to a state: snapshot, events, and what to do with those that cannot be read.
//!
//! Invariant: a state comes out only if it is the fold of everything up to the entity's last number, but for events that the
//! type's policy leaves out. No store is touched here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shardstage_codec::{Wire, decode};

use super::ledger::Ledger;
use super::policy::SnapshotClock;
use super::{EventSourced, Stored, UnknownEvents};
use crate::format::record::{RECORD_HEADER_BYTES, RecordKind};
use crate::store::{LoadedEntity, LoadedRecord};

/// What recovery made.
pub(super) struct Recovered<A> {
    pub(super) state: A,
    pub(super) clock: SnapshotClock,
    pub(super) ledger: Ledger,
    /// Number of the last event or saved state.
    pub(super) version: u64,
}

/// Why it made nothing.
pub(super) struct Trouble {
    /// Sequence of the snapshot that cannot be read: the one before may do.
    pub(super) snapshot: Option<u64>,
    pub(super) why: String,
}

/// Makes the state from what the store has, all at once.
pub(super) fn recover<A: EventSourced>(key: &str, loaded: LoadedEntity) -> Result<Recovered<A>, Trouble> {
    let mut replay = Replay::new(key, loaded)?;
    while !replay.step(key, usize::MAX)? {}
    replay.end(key)
}

/// A recovery under way: the state after the snapshot and the events so far.
pub(super) struct Replay<A> {
    loaded: LoadedEntity,
    state: A,
    clock: SnapshotClock,
    /// Events that were applied.
    done: usize,
}

impl<A: EventSourced> Replay<A> {
    /// Begins with the snapshot.
    pub(super) fn new(key: &str, loaded: LoadedEntity) -> Result<Self, Trouble> {
        let mut state = A::new(key);
        let mut clock = SnapshotClock::default();
        if let Some(snapshot) = &loaded.snapshot {
            let seq = snapshot.header.seq;
            restore(&mut state, snapshot)
                .map_err(|why| Trouble { snapshot: Some(seq), why: place::<A>(key, snapshot, &why) })?;
            clock.taken(seq, snapshot.payload.len());
        }
        Ok(Self { loaded, state, clock, done: 0 })
    }

    /// Applies events of about so many bytes with their headers, one at least; whether all are applied.
    pub(super) fn step(&mut self, key: &str, bytes: usize) -> Result<bool, Trouble> {
        let mut taken = 0;
        while let Some(record) = self.loaded.events.get(self.done) {
            if taken >= bytes {
                return Ok(false);
            }
            taken += record.payload.len() + RECORD_HEADER_BYTES;
            self.clock.add(record.payload.len());
            take(&mut self.state, record, &mut self.clock)
                .map_err(|why| Trouble { snapshot: None, why: place::<A>(key, record, &why) })?;
            self.done += 1;
        }
        Ok(true)
    }

    /// After the last event.
    pub(super) fn end(self, key: &str) -> Result<Recovered<A>, Trouble> {
        let Self { loaded, state, mut clock, .. } = self;
        clock.replayed(&A::SNAPSHOTS, loaded.events.len() as u64);
        let mut ledger = Ledger::default();
        ledger
            .recover(&loaded.ledger, A::SESSIONS)
            .map_err(|(record, why)| Trouble { snapshot: None, why: place::<A>(key, record, &why) })?;
        clock.beside(loaded.ledger.len());
        Ok(Recovered { state, clock, ledger, version: loaded.last_seq })
    }
}

/// Names a record for an error.
fn place<A: EventSourced>(key: &str, record: &LoadedRecord, why: &str) -> String {
    let kind = match record.header.kind {
        RecordKind::Snapshot => "snapshot",
        RecordKind::Event => "event",
        _ => "ledger record at",
    };
    format!(
        "{} {key:?}, {kind} {} in segment {:016x} at byte {}: {why}",
        A::TYPE,
        record.header.seq,
        record.segment,
        record.offset
    )
}

fn restore<A: EventSourced>(state: &mut A, record: &LoadedRecord) -> Result<(), String> {
    let version = record.header.schema_version;
    let snapshot = if version == A::SNAPSHOT_VERSION {
        decode::<A::Snapshot>(&record.payload).map_err(|error| error.to_string())?
    } else {
        A::upcast_snapshot(Stored::new(version, &record.payload))
            .ok_or_else(|| format!("it has version {version}, this program reads {}", A::SNAPSHOT_VERSION))?
    };
    catch_unwind(AssertUnwindSafe(|| state.restore(snapshot)))
        .map_err(|panic| format!("restore panicked: {}", text(&*panic)))
}

fn take<A: EventSourced>(state: &mut A, record: &LoadedRecord, clock: &mut SnapshotClock) -> Result<(), String> {
    let version = record.header.schema_version;
    let event = if version == <A::Event as Wire>::VERSION {
        Ok(decode::<A::Event>(&record.payload).map_err(|error| error.to_string())?)
    } else {
        A::upcast(Stored::new(version, &record.payload)).end()?
    };
    let applied = match (event, A::UNKNOWN_EVENTS) {
        (Ok(event), _) => catch_unwind(AssertUnwindSafe(|| state.apply(&event))),
        (Err(stored), UnknownEvents::Raw) => catch_unwind(AssertUnwindSafe(|| state.apply_raw(stored))),
        (Err(_), UnknownEvents::Skip) => {
            clock.stopped = true;
            Ok(())
        }
        (Err(_), UnknownEvents::Fail) => {
            return Err(format!("it has version {version}, this program reads {}", <A::Event as Wire>::VERSION));
        }
    };
    applied.map_err(|panic| format!("apply panicked: {}", text(&*panic)))
}

/// A panic's text.
pub(super) fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}
