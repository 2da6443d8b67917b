//! redb: a copy-on-write B-tree.
//!
//! Durable: `Durability::Immediate`, the default (fdatasync). The key is (writer, number). Write transactions are exclusive:
//! threads wait for each other.

use std::path::Path;

use ::redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Event, REDB, Store};

/// The open database.
pub(super) struct Redb {
    database: Database,
}

const EVENTS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("events");

impl Store for Redb {
    const NAME: &'static str = REDB;

    fn open(directory: &Path) -> Self {
        Self { database: Database::create(directory.join("events.redb")).expect("it opens") }
    }

    fn commit(&self, events: &[Event]) {
        let mut transaction = self.database.begin_write().expect("the database is open");
        transaction.set_durability(Durability::Immediate).expect("it is the default");
        {
            let mut table = transaction.open_table(EVENTS).expect("it has the table");
            for event in events {
                table.insert((event.writer, event.seq), event.payload().as_slice()).expect("there is room");
            }
        }
        transaction.commit().expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let open = Self::open(directory);
        let transaction = open.database.begin_read().expect("the database is open");
        let table = transaction.open_table(EVENTS).expect("it has the table");
        let events = table.iter().expect("it can be read");
        events.map(|event| event.map(|_| 1).expect("no event is damaged")).sum()
    }
}
