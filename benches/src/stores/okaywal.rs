//! okaywal: a write-ahead log with group commit among threads.
//!
//! Durable: `EntryWriter::commit` waits for the file's sync. A segment is large enough for a whole run (preallocated, never
//! checkpointed), so no checkpoint runs beside the commits, and all events are there to be recovered.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::okaywal::{Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog};

use super::{Event, OKAYWAL, Store};

/// The open log.
pub(super) struct OkayWal {
    log: WriteAheadLog,
}

/// Counts what it is shown.
#[derive(Debug, Default)]
struct Counter {
    events: Arc<AtomicU64>,
}

impl LogManager for Counter {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let _bytes = chunk.read_all()?;
            if !chunk.check_crc()? {
                return Err(io::Error::other("a chunk is damaged"));
            }
            self.events.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

const SEGMENT_BYTES: u32 = 48 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

fn open(directory: &Path, counter: Counter) -> WriteAheadLog {
    Configuration::default_for(directory)
        .preallocate_bytes(SEGMENT_BYTES)
        .checkpoint_after_bytes(u64::from(SEGMENT_BYTES) * 64)
        .buffer_bytes(BUFFER_BYTES)
        .open(counter)
        .expect("it opens")
}

impl Store for OkayWal {
    const NAME: &'static str = OKAYWAL;

    fn open(directory: &Path) -> Self {
        Self { log: open(directory, Counter::default()) }
    }

    fn commit(&self, events: &[Event]) {
        let mut entry = self.log.begin_entry().expect("the log is open");
        for event in events {
            let mut chunk = [0; 16 + crate::limits::EVENT_BYTES];
            chunk[..8].copy_from_slice(&event.writer.to_le_bytes());
            chunk[8..16].copy_from_slice(&event.seq.to_le_bytes());
            chunk[16..].copy_from_slice(event.payload());
            entry.write_chunk(&chunk).expect("the disk takes it");
        }
        entry.commit().expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let counter = Counter::default();
        let events = Arc::clone(&counter.events);
        let _log = open(directory, counter);
        events.load(Ordering::Relaxed)
    }
}
