//! raft-engine: TiKV's log for many raft groups, with group commit among threads.
//!
//! Durable: `write(batch, sync = true)` (fdatasync). Log files are recycled and written in advance (`prefill_for_recycle`), which
//! spares the file system's journal; compression is off, since it would only cost time on random bytes. A writer is a raft
//! group, its events the group's entries.

use std::path::Path;

use ::raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use protobuf::well_known_types::BytesValue;

use super::{Event, RAFT_ENGINE, Store};
use crate::limits::WRITERS;

/// The open engine.
pub(super) struct RaftEngine {
    engine: Engine,
}

/// An entry's first eight bytes are its index.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.first_chunk().expect("every entry begins with its index");
        u64::from_le_bytes(*index)
    }
}

/// Groups are counted from 1.
fn group(writer: u64) -> u64 {
    writer + 1
}

fn config(directory: &Path) -> Config {
    Config {
        dir: directory.to_str().expect("the path is UTF-8").to_owned(),
        target_file_size: ReadableSize::mb(16),
        // Nothing is purged within a run; the files written in advance are one and a half times what the limit says.
        purge_threshold: ReadableSize::gb(2),
        prefill_limit: Some(ReadableSize::mb(32)),
        enable_log_recycle: true,
        prefill_for_recycle: true,
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    }
}

impl Store for RaftEngine {
    const NAME: &'static str = RAFT_ENGINE;

    fn open(directory: &Path) -> Self {
        Self { engine: Engine::open(config(directory)).expect("it opens") }
    }

    fn commit(&self, events: &[Event]) {
        let mut batch = LogBatch::with_capacity(events.len());
        for event in events {
            let mut entry = BytesValue::new();
            let mut value = Vec::with_capacity(8 + event.payload().len());
            value.extend_from_slice(&event.seq.to_le_bytes());
            value.extend_from_slice(event.payload());
            entry.set_value(value);
            batch.add_entries::<Entries>(group(event.writer), &[entry]).expect("entries come in order");
        }
        self.engine.write(&mut batch, true).expect("the disk keeps it");
    }

    fn recover(directory: &Path) -> u64 {
        let engine = Engine::open(config(directory)).expect("it opens");
        let entries = |group| match (engine.first_index(group), engine.last_index(group)) {
            (Some(first), Some(last)) => last + 1 - first,
            _ => 0,
        };
        (0..WRITERS).map(|writer| entries(group(writer))).sum()
    }
}
