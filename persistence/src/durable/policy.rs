//! `SnapshotPolicy`: when a snapshot is taken; `SnapshotClock`: how far an actor is from its next one.
//!
//! Invariant: a snapshot never deletes events, and one that cannot be taken costs no command anything but the attempt.

use crate::limits::{
    SNAPSHOT_EVERY, SNAPSHOT_MIN_BYTES, SNAPSHOT_ON_PASSIVATION, SNAPSHOT_RATIO, SNAPSHOT_REPLAY, SNAPSHOT_RETRY_EVENTS,
};

/// When snapshots are taken: whichever of its rules says so first. Constant, so that it can stand in
/// [`EventSourced::SNAPSHOTS`](super::EventSourced::SNAPSHOTS).
///
/// ```
/// use shardstage_persistence::SnapshotPolicy;
/// const RARELY: SnapshotPolicy = SnapshotPolicy::new().every(10_000).on_passivation(1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    every: u64,
    ratio: u64,
    min_bytes: u64,
    after_replay: u64,
    on_passivation: u64,
    keep: u32,
}

/// A rule that never applies.
const OFF: u64 = u64::MAX;

impl SnapshotPolicy {
    /// No rule: only [`EventSourced::snapshot_due`](super::EventSourced::snapshot_due) asks for snapshots.
    pub const NEVER: Self =
        Self { every: OFF, ratio: OFF, min_bytes: OFF, after_replay: OFF, on_passivation: OFF, keep: u32::MAX };

    /// The defaults: after 200 events; after events of twice the last snapshot's size, if that is at least 64 KiB; after a replay
    /// of 200 events; on passivation with 50 events since the last one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            every: SNAPSHOT_EVERY,
            ratio: SNAPSHOT_RATIO,
            min_bytes: SNAPSHOT_MIN_BYTES,
            after_replay: SNAPSHOT_REPLAY,
            on_passivation: SNAPSHOT_ON_PASSIVATION,
            keep: u32::MAX,
        }
    }

    /// After this many events.
    #[must_use]
    pub const fn every(mut self, events: u64) -> Self {
        self.every = events;
        self
    }

    /// After events of `ratio` times the last snapshot's size, and of at least `min_bytes`.
    #[must_use]
    pub const fn bytes(mut self, ratio: u64, min_bytes: u64) -> Self {
        (self.ratio, self.min_bytes) = (ratio, min_bytes);
        self
    }

    /// At once when recovery replayed this many events.
    #[must_use]
    pub const fn after_replay(mut self, events: u64) -> Self {
        self.after_replay = events;
        self
    }

    /// When an idle actor is passivated with this many events since its last snapshot.
    #[must_use]
    pub const fn on_passivation(mut self, events: u64) -> Self {
        self.on_passivation = events;
        self
    }

    /// How many snapshots are kept: all, unless this says otherwise. A recovery uses the newest one that it can read among so
    /// many; where none of them can be read the actor is not served, and the reason names the newest. With 1 a snapshot that went
    /// bad is never passed over in silence; with all of them the oldest resort is every event from the first on.
    ///
    /// Nothing is deleted: older snapshots, and events before the oldest kept one, stay in the log and are never read again but by
    /// the tool and by [`ReplayCheck`](crate::testkit::ReplayCheck). They are what may be forgotten once a log can shed its oldest part.
    ///
    /// # Panics
    /// With 0; at compile time, where the policy is a constant.
    #[must_use]
    pub const fn keep(mut self, snapshots: u32) -> Self {
        assert!(snapshots > 0, "an actor without a snapshot to begin with could not be recovered");
        self.keep = snapshots;
        self
    }

    /// Whether a recovery that passed over so many may try an older one.
    pub(super) fn may_fall_back(&self, passed: u32) -> bool {
        passed < self.keep
    }
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// What is done with a stored event that this program cannot read: one of a newer version, or of an older one that
/// [`upcast`](super::EventSourced::upcast) does not take. A damaged event always fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownEvents {
    /// The actor is not served: its state would not be the fold of its events.
    #[default]
    Fail,
    /// It is left out. This activation takes no snapshot, so that a later program can still read the event.
    Skip,
    /// [`apply_raw`](super::EventSourced::apply_raw) gets its version and bytes.
    Raw,
}

/// How far an actor is from its next snapshot.
#[derive(Debug, Default)]
pub(super) struct SnapshotClock {
    /// Version of the last snapshot, and its bytes.
    pub(super) version: u64,
    bytes: u64,
    /// Bytes of events since then.
    since_bytes: u64,
    /// Records beside the events since then.
    beside: u64,
    wanted: bool,
    /// After failed attempts: no further one before this version, and how far the last wait was.
    not_before: u64,
    wait: u64,
    /// Events were skipped: none at all.
    pub(super) stopped: bool,
}

impl SnapshotClock {
    /// Events were persisted or replayed.
    pub(super) fn add(&mut self, bytes: usize) {
        self.since_bytes += bytes as u64;
    }

    /// Records beside the events were appended or loaded: they count like events, for they have to be read again too.
    pub(super) fn beside(&mut self, records: usize) {
        self.beside += records as u64;
    }

    /// The type's predicate, or recovery, asks for one.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Recovery ended: so many events were replayed.
    pub(super) fn replayed(&mut self, policy: &SnapshotPolicy, events: u64) {
        self.wanted |= events >= policy.after_replay;
    }

    pub(super) fn is_due(&self, policy: &SnapshotPolicy, version: u64) -> bool {
        let events = version - self.version + self.beside;
        let by_bytes =
            self.since_bytes >= policy.min_bytes && self.since_bytes >= self.bytes.saturating_mul(policy.ratio);
        events > 0 && !self.stopped && version >= self.not_before && (self.wanted || events >= policy.every || by_bytes)
    }

    /// Whether one is taken on passivation.
    pub(super) fn is_due_on_passivation(&self, policy: &SnapshotPolicy, version: u64) -> bool {
        let events = version - self.version + self.beside;
        events > 0 && !self.stopped && events >= policy.on_passivation
    }

    /// One was appended or loaded.
    pub(super) fn taken(&mut self, version: u64, bytes: usize) {
        *self = Self { version, bytes: bytes as u64, stopped: self.stopped, ..Self::default() };
    }

    /// One could not be taken: tried again one event later, then after 2, 4, ... of them.
    pub(super) fn failed(&mut self, version: u64) {
        self.wait = (self.wait * 2).clamp(1, SNAPSHOT_RETRY_EVENTS);
        self.not_before = version + self.wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_COUNT: SnapshotPolicy = SnapshotPolicy::NEVER.every(5);
    const BY_BYTES: SnapshotPolicy = SnapshotPolicy::NEVER.bytes(2, 100);

    #[test]
    fn counts_since_the_last_one() {
        let mut clock = SnapshotClock::default();
        assert!(!clock.is_due(&BY_COUNT, 4) && clock.is_due(&BY_COUNT, 5));
        clock.taken(5, 10);
        assert!(!clock.is_due(&BY_COUNT, 9) && clock.is_due(&BY_COUNT, 10));
    }

    #[test]
    fn bytes_count_against_the_last_ones_size() {
        let mut clock = SnapshotClock::default();
        clock.add(99);
        assert!(!clock.is_due(&BY_BYTES, 1));
        clock.add(1);
        assert!(clock.is_due(&BY_BYTES, 2));
        clock.taken(2, 80);
        clock.add(159);
        assert!(!clock.is_due(&BY_BYTES, 3));
        clock.add(1);
        assert!(clock.is_due(&BY_BYTES, 4));
    }

    #[test]
    fn a_failed_one_waits_and_a_stopped_clock_never_asks() {
        let policy = SnapshotPolicy::NEVER.every(50).on_passivation(1);
        let mut clock = SnapshotClock::default();
        clock.failed(50);
        assert!(!clock.is_due(&policy, 50) && clock.is_due(&policy, 51));
        clock.failed(51);
        assert!(!clock.is_due(&policy, 52) && clock.is_due(&policy, 53));
        (0..70).for_each(|_| clock.failed(53));
        assert!(!clock.is_due(&policy, 116) && clock.is_due(&policy, 117));
        clock.stopped = true;
        assert!(!clock.is_due(&policy, 500) && !clock.is_due_on_passivation(&policy, 500));
    }

    #[test]
    fn a_long_replay_asks_for_one() {
        let policy = SnapshotPolicy::NEVER.after_replay(10);
        let mut clock = SnapshotClock::default();
        clock.replayed(&policy, 9);
        assert!(!clock.is_due(&policy, 9));
        clock.replayed(&policy, 10);
        assert!(clock.is_due(&policy, 10));
        clock.taken(10, 1);
        assert!(!clock.is_due(&policy, 11));
    }
}
