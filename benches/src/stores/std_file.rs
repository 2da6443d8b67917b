//! A log written by hand over the standard library: append, then `sync_data`.
//!
//! Durable: `File::sync_data` (fdatasync) before `commit` returns. A batch is put together in memory and written with one
//! call. Threads take turns behind a mutex: group commit is what such a log lacks until somebody writes it, and a single
//! committer (`log: batches of 64`) is what it is like with it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;

use super::{Event, STD, Store};
use crate::limits::{EVENT_BYTES, READ_BYTES};

/// The log and room for a batch.
pub(super) struct StdFile {
    open: Mutex<(File, Vec<u8>)>,
}

const FILE: &str = "log";
/// Checksum, writer, number; then the payload.
const HEADER_BYTES: usize = 4 + 8 + 8;
const RECORD_BYTES: usize = HEADER_BYTES + EVENT_BYTES;

impl Store for StdFile {
    const NAME: &'static str = STD;

    fn open(directory: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(directory.join(FILE));
        Self { open: Mutex::new((file.expect("a file can be made"), Vec::new())) }
    }

    fn commit(&self, events: &[Event]) {
        let mut open = self.open.lock().expect("no writer panics");
        let (file, batch) = &mut *open;
        batch.clear();
        for event in events {
            let start = batch.len();
            batch.extend_from_slice(&[0; 4]);
            batch.extend_from_slice(&event.writer.to_le_bytes());
            batch.extend_from_slice(&event.seq.to_le_bytes());
            batch.extend_from_slice(event.payload());
            let checksum = crc32c::crc32c(&batch[start + 4..]);
            batch[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        file.write_all(batch).expect("the disk takes it");
        file.sync_data().expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let mut file = File::open(directory.join(FILE)).expect("it was written");
        let (mut chunk, mut kept, mut count) = (vec![0; READ_BYTES], 0, 0);
        loop {
            let read = file.read(&mut chunk[kept..]).expect("the disk reads");
            if read == 0 {
                assert_eq!(kept, 0, "the last record is whole");
                return count;
            }
            let filled = kept + read;
            for record in chunk[..filled].chunks_exact(RECORD_BYTES) {
                let (checksum, rest) = record.split_at(4);
                assert_eq!(checksum, crc32c::crc32c(rest).to_le_bytes(), "no record is damaged");
                count += 1;
            }
            kept = filled % RECORD_BYTES;
            chunk.copy_within(filled - kept..filled, 0);
        }
    }
}
