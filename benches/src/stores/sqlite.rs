//! SQLite through rusqlite, its own C source compiled in.
//!
//! Durable: write-ahead log and `synchronous = FULL`, an fsync of the log a transaction. The key is (writer, number) of a table
//! without row ids; one connection in exclusive mode, as SQLite has one writer at a time whoever asks, and threads that wait
//! at a mutex are faster than connections that find it busy.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::{Connection, params};

use super::{Event, SQLITE, Store};

/// The open database.
pub(super) struct Sqlite {
    connection: Mutex<Connection>,
}

const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS events (
        writer INTEGER NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (writer, seq)
    ) WITHOUT ROWID;";

impl Store for Sqlite {
    const NAME: &'static str = SQLITE;

    fn open(directory: &Path) -> Self {
        let connection = Connection::open(directory.join("events.sqlite")).expect("it opens");
        connection.execute_batch(SETTINGS).expect("the settings are known");
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("it says");
        assert_eq!(synchronous, 2, "a commit is synced");
        Self { connection: Mutex::new(connection) }
    }

    fn commit(&self, events: &[Event]) {
        let mut connection = self.connection.lock().expect("no writer panics");
        let transaction = connection.transaction().expect("nobody else writes");
        {
            let insert = "INSERT INTO events (writer, seq, payload) VALUES (?1, ?2, ?3)";
            let mut insert = transaction.prepare_cached(insert).expect("the table is there");
            for event in events {
                let key = (event.writer.cast_signed(), event.seq.cast_signed());
                insert.execute(params![key.0, key.1, event.payload().as_slice()]).expect("the key is new");
            }
        }
        transaction.commit().expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let open = Self::open(directory);
        let connection = open.connection.lock().expect("no writer panics");
        let mut select = connection.prepare("SELECT writer, seq, payload FROM events").expect("the table is there");
        let mut rows = select.query([]).expect("it can be read");
        let mut count = 0;
        while let Some(row) = rows.next().expect("no event is damaged") {
            let payload = row.get_ref(2).expect("it has three columns").as_blob().expect("the last is bytes");
            assert_eq!(payload.len(), crate::limits::EVENT_BYTES);
            count += 1;
        }
        count
    }
}
