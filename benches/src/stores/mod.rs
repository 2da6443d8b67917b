//! Other stores for events: each with its best settings under which a commit is durable when it returns.
//!
//! Invariant: `Store::commit` returns after the device has been told to keep every one of its events (fsync, fdatasync or
//! `O_DSYNC`, whichever the store uses); the head of each file says which setting that is. Payloads come from a pool of random
//! bytes, so nobody gains by compressing.

use std::path::Path;
use std::sync::OnceLock;

use crate::limits::{EVENT_BYTES, WRITERS};
use crate::log::{LogWork, drive};
use crate::workload::{Entry, Role, Run, Work};

#[cfg(feature = "peers")]
mod fjall;
#[cfg(feature = "peers")]
mod okaywal;
#[cfg(feature = "peers")]
mod raft_engine;
#[cfg(feature = "peers")]
mod redb;
#[cfg(feature = "peers")]
mod sqlite;
mod std_file;

/// The hand-written log over the standard library.
pub const STD: &str = "std::fs";
/// See `raft_engine.rs`.
pub const RAFT_ENGINE: &str = "raft-engine";
/// See `okaywal.rs`.
pub const OKAYWAL: &str = "okaywal";
/// See `fjall.rs`.
pub const FJALL: &str = "fjall";
/// See `redb.rs`.
pub const REDB: &str = "redb";
/// See `sqlite.rs`.
pub const SQLITE: &str = "SQLite";

/// The stores' names, in the order of the table.
pub const NAMES: &[&str] = &[STD, RAFT_ENGINE, OKAYWAL, FJALL, REDB, SQLITE];

/// One event: its stream, and its number there, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who wrote it.
    pub writer: u64,
    /// The how manieth of this writer.
    pub seq: u64,
}

impl Event {
    /// Its bytes.
    #[must_use]
    pub fn payload(&self) -> &'static [u8; EVENT_BYTES] {
        payload(self.writer.wrapping_mul(31).wrapping_add(self.seq))
    }
}

/// Random bytes, the same for the same number.
#[must_use]
pub fn payload(number: u64) -> &'static [u8; EVENT_BYTES] {
    static POOL: OnceLock<Vec<[u8; EVENT_BYTES]>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let byte = |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as u8
        };
        let mut bytes = (0..POOL_EVENTS * EVENT_BYTES).map(byte);
        (0..POOL_EVENTS).map(|_| std::array::from_fn(|_| bytes.next().expect("as many as are taken"))).collect()
    });
    &pool[(number % POOL_EVENTS as u64) as usize]
}

/// Payloads in the pool: 64 KiB, so that reading them costs nobody a cache miss.
const POOL_EVENTS: usize = 512;

/// What a store must do to be compared.
pub(crate) trait Store: Sync + Sized {
    /// As printed.
    const NAME: &'static str;

    /// Opens it in a directory, fresh or with what it wrote there before.
    fn open(directory: &Path) -> Self;

    /// Makes the events durable in one go; any thread may call it.
    fn commit(&self, events: &[Event]);

    /// Opens what was written, reads and checks all of it, or builds the index over it, and counts the events.
    fn recover(directory: &Path) -> u64;
}

/// The stores' share of the log's table.
pub const ENTRIES: &[Entry] = TABLE.as_flattened();

const TABLE: &[[Entry; 4]] = &[
    entries::<std_file::StdFile>(),
    #[cfg(feature = "peers")]
    entries::<raft_engine::RaftEngine>(),
    #[cfg(feature = "peers")]
    entries::<okaywal::OkayWal>(),
    #[cfg(feature = "peers")]
    entries::<fjall::Fjall>(),
    #[cfg(feature = "peers")]
    entries::<redb::Redb>(),
    #[cfg(feature = "peers")]
    entries::<sqlite::Sqlite>(),
];

const fn entries<S: Store>() -> [Entry; 4] {
    [
        entry::<S>(
            LogWork::OneSpinning,
            Run::Loop { closed: |n| drive::native::<S>(1, n), both: |n| drive::native_both::<S>(1, n) },
        ),
        entry::<S>(
            LogWork::Writers,
            Run::Loop { closed: |n| drive::native::<S>(WRITERS, n), both: |n| drive::native_both::<S>(WRITERS, n) },
        ),
        entry::<S>(
            LogWork::Batches,
            Run::Loop {
                closed: |n| drive::committer::<S>(WRITERS as usize, n),
                both: |n| drive::committer_both::<S>(WRITERS as usize, n),
            },
        ),
        entry::<S>(LogWork::Recovery, Run::Figure(|n| drive::recovery::<S>(n))),
    ]
}

const fn entry<S: Store>(work: LogWork, run: Run) -> Entry {
    Entry { work: Work::Log(work), name: S::NAME, role: Role::Peer, run }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::room::Room;

    fn keeps<S: Store>() {
        let room = Room::new();
        let store = S::open(room.path());
        for seq in 1..=3 {
            let events: Vec<Event> = (0..5).map(|writer| Event { writer, seq }).collect();
            store.commit(&events);
        }
        store.commit(&[Event { writer: 2, seq: 4 }]);
        drop(store);
        assert_eq!(S::recover(room.path()), 16, "{}", S::NAME);
    }

    #[test]
    fn every_store_finds_what_it_kept() {
        keeps::<std_file::StdFile>();
        #[cfg(feature = "peers")]
        {
            keeps::<raft_engine::RaftEngine>();
            keeps::<okaywal::OkayWal>();
            keeps::<fjall::Fjall>();
            keeps::<redb::Redb>();
            keeps::<sqlite::Sqlite>();
        }
    }

    #[test]
    fn payloads_differ_and_come_again() {
        let (one, two) = (Event { writer: 1, seq: 1 }, Event { writer: 1, seq: 2 });
        assert_ne!(one.payload(), two.payload());
        assert_eq!(one.payload(), Event { writer: 1, seq: 1 }.payload());
    }
}
