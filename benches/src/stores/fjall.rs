//! fjall: a log-structured merge tree; its journal makes commits durable.
//!
//! Durable: a batch with `PersistMode::SyncData` (fdatasync of the journal). The key is (writer, number), big-endian, so a stream
//! can be read in order. Compression is not compiled in.

use std::path::Path;

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Event, FJALL, Store};

/// The open database.
pub(super) struct Fjall {
    database: Database,
    events: Keyspace,
}

impl Store for Fjall {
    const NAME: &'static str = FJALL;

    fn open(directory: &Path) -> Self {
        let database = Database::builder(directory).open().expect("it opens");
        let events = database.keyspace("events", KeyspaceCreateOptions::default).expect("it has the keyspace");
        Self { database, events }
    }

    fn commit(&self, events: &[Event]) {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for event in events {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&event.writer.to_be_bytes());
            key[8..].copy_from_slice(&event.seq.to_be_bytes());
            batch.insert(&self.events, key, *event.payload());
        }
        batch.commit().expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let open = Self::open(directory);
        open.events.iter().map(|event| event.into_inner().map(|_| 1).expect("no event is damaged")).sum()
    }
}
