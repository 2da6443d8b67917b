//! The event log: durable appends and recovery, beside the disk's own limit and other stores on the same work.
//!
//! [`LogWork`] names the rows. Ours is the log itself (`raw.rs`), driven by one actor a shard, and in one row the whole path of
//! durable actors (`whole_path.rs`); `device.rs` has the limits, `drive.rs` puts the same load on the stores of `crate::stores`.
//!
//! Invariant: an event counts when its store has said that it is durable, and every run has a directory of its own on a real disk.

pub mod device;
mod disturb;
pub mod drive;
pub mod raw;
pub mod recovery;
pub mod room;
pub mod schedule;
pub mod whole_path;

use std::fmt;

use crate::goals::{Goal, NONE, Spec, Unit, of_limit};
use crate::limits::WRITERS;
use crate::ours::{PARKED, SPINNING};
use crate::stores;
use crate::workload::Entry;

/// A row of the log's table. `n` is a number of events; slow stores end after [`LOG_TIME`](crate::limits::LOG_TIME) with fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWork {
    /// One writer with one event in flight, on a shard that spins.
    OneSpinning,
    /// The same on a shard that parks.
    OneParked,
    /// 64 writers with one event in flight each: threads that call the store, or what one shard's log does at once.
    Writers,
    /// One committer, 64 events at a time.
    Batches,
    /// p99 of a commit while CPU-bound actors keep both shards busy, 64 writers on each; microseconds.
    Saturated,
    /// p99 of a commit while snapshots are written, 64 writers; microseconds.
    Snapshots,
    /// From opening the log until its events may be read.
    Recovery,
    /// Message, handler, persist, reply: 64 durable actors.
    WholePath,
    /// 64 writers on each of two shards.
    TwoShards,
}

impl LogWork {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::OneSpinning,
        Self::OneParked,
        Self::Writers,
        Self::Batches,
        Self::Saturated,
        Self::Snapshots,
        Self::Recovery,
        Self::WholePath,
        Self::TwoShards,
    ];

    /// How many events a process writes: half a second of the fastest, as disks of cloud machines have an allowance.
    #[must_use]
    pub fn operations(self) -> u64 {
        match self {
            Self::OneSpinning | Self::OneParked => 10_000,
            Self::Writers | Self::Batches | Self::WholePath | Self::Snapshots => 200_000,
            Self::Saturated | Self::TwoShards => 400_000,
            Self::Recovery => 1_000_000,
        }
    }

    /// How the row is shown and what it must reach.
    #[must_use]
    pub fn spec(self) -> Spec {
        const EVENTS: Unit = Unit::PerSecond("events/s");
        let stores = |named| Goal { named, ..NONE };
        let (unit, ours, floor, aim) = match self {
            Self::OneSpinning => (EVENTS, SPINNING, of_limit(1.0 / 0.9), of_limit(1.0)),
            Self::OneParked => (EVENTS, PARKED, of_limit(1.0 / 0.7), of_limit(1.0)),
            Self::Writers => {
                const FLOOR: &[(&str, f64)] =
                    &[(stores::RAFT_ENGINE, 4.0), (stores::SQLITE, 40.0), (stores::REDB, 40.0)];
                (EVENTS, SPINNING, stores(FLOOR), stores(&[(stores::RAFT_ENGINE, 5.0)]))
            }
            Self::Batches => (EVENTS, SPINNING, stores(&[(stores::STD, 1.3)]), stores(&[(stores::STD, 1.9)])),
            Self::Saturated => (Unit::Microseconds, SPINNING, of_limit(3.0), of_limit(1.5)),
            Self::Snapshots => (Unit::Microseconds, SPINNING, of_limit(3.0), of_limit(2.0)),
            Self::Recovery => {
                let floor = Goal { named: &[(stores::FJALL, 5.0)], ..of_limit(1.0 / 0.9) };
                (EVENTS, PARKED, floor, of_limit(1.0))
            }
            Self::WholePath => (EVENTS, SPINNING, of_limit(1.0 / 0.6), of_limit(1.0 / 0.8)),
            Self::TwoShards => (EVENTS, SPINNING, of_limit(1.0 / 1.5), of_limit(0.5)),
        };
        Spec { unit, ours, floor, aim }
    }

    /// Why stores have no figure; `None` when they have.
    #[must_use]
    pub fn why_no_store(self) -> Option<&'static str> {
        match self {
            Self::OneParked => Some("stores block: the row above has them"),
            Self::Saturated | Self::Snapshots => Some("held against the same log without the disturbance"),
            Self::WholePath | Self::TwoShards => Some("held against the log of one shard"),
            Self::OneSpinning | Self::Writers | Self::Batches | Self::Recovery => {
                (!cfg!(feature = "peers")).then_some("built without the feature `peers`")
            }
        }
    }
}

impl fmt::Display for LogWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OneSpinning => "log: 1 writer, polling",
            Self::OneParked => "log: 1 writer, blocking",
            Self::Writers => "log: 64 writers",
            Self::Batches => "log: batches of 64",
            Self::Saturated => "log: commit p99, both shards saturated",
            Self::Snapshots => "log: commit p99 while snapshotting",
            Self::Recovery => "log: recovery of 1 M events",
            Self::WholePath => "log: message to durable reply, 64 actors",
            Self::TwoShards => "log: 64 writers on each of two shards",
        })
    }
}

/// The log's share of the table.
pub const ENTRIES: &[&[Entry]] =
    &[raw::ENTRIES, whole_path::ENTRIES, recovery::ENTRIES, device::ENTRIES, stores::ENTRIES];

const _: () = assert!(WRITERS == 64, "the rows' names say so");
