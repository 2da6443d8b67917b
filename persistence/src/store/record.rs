//! What goes into a store and what comes back.
//!
//! Invariant: a loaded payload starts at a multiple of 16 in memory, so that archives are read in place.

use std::ops::{Deref, Range};
use std::rc::Rc;

use shardstage::port::buffer::IoBuffer;

use super::{EntityId, LoadError};
use crate::format::record::{RecordHeader, RecordKind};

/// A record to append.
///
/// Sequences: an event has the number after the entity's last record that has one. A snapshot has that of the last event
/// in it, or, where the state is saved as a whole, the next number itself. Every other kind has the number that the
/// entity has after the command's events.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// What it is; anything but a key definition.
    pub kind: RecordKind,
    /// The entity's version; see above.
    pub seq: u64,
    /// Version of the payload's schema.
    pub schema_version: u16,
    /// The bytes.
    pub payload: &'a [u8],
    /// Command id and the like.
    pub meta: &'a [u8],
}

/// Checks a command's sequences against the entity's last one.
///
/// # Errors
/// The number that the first record that does not fit should have had.
///
/// # Panics
/// When there is no record, or one is a key definition: stores write those themselves.
pub(crate) fn check_sequences(last: u64, records: &[NewRecord<'_>]) -> Result<u64, u64> {
    assert!(!records.is_empty(), "an append has at least one record");
    let mut last = last;
    for record in records {
        last = record.kind.follows(last, record.seq)?;
    }
    Ok(last)
}

/// Bytes of a loaded payload; they share the buffer of the read that fetched them.
#[derive(Clone, Debug)]
pub struct LoadedBytes {
    buffer: Rc<IoBuffer>,
    range: Range<usize>,
}

impl LoadedBytes {
    /// The bytes in this range.
    ///
    /// # Panics
    /// When the range does not start at a multiple of 16, or ends behind the buffer.
    #[must_use]
    pub fn new(buffer: Rc<IoBuffer>, range: Range<usize>) -> Self {
        assert!(range.start.is_multiple_of(16) && range.end <= buffer.len(), "payloads are aligned, inside the buffer");
        Self { buffer, range }
    }
}

impl Deref for LoadedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

/// One verified record.
#[derive(Clone, Debug)]
pub struct LoadedRecord {
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, at an address that is a multiple of 16.
    pub payload: LoadedBytes,
    /// The segment it stands in, for error messages.
    pub segment: u64,
    /// Its byte offset there.
    pub offset: u64,
}

/// Which snapshot a load starts at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFrom {
    /// The newest.
    Newest,
    /// The newest whose sequence is lower than this, or the first event when there is none.
    Before(u64),
    /// The first event.
    Start,
}

/// What is durable of an entity from a snapshot on.
#[derive(Clone, Debug)]
pub struct LoadedEntity {
    /// The entity's number, for appending.
    pub entity: EntityId,
    /// The snapshot.
    pub snapshot: Option<LoadedRecord>,
    /// Events after it, in order, without a gap.
    pub events: Vec<LoadedRecord>,
    /// Records of other kinds that were appended after the snapshot, in append order. Who needs them beyond the next snapshot
    /// appends them again with it, in one command, behind it.
    pub ledger: Vec<LoadedRecord>,
    /// The entity's version: number of the last event or saved state, 0 for none.
    pub last_seq: u64,
}

impl LoadedEntity {
    /// Bytes of all payloads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let records = self.snapshot.iter().chain(&self.events).chain(&self.ledger);
        records.map(|record| record.payload.len()).sum()
    }
}

/// Gets the loaded entity.
pub type OnLoaded = Box<dyn FnOnce(Result<LoadedEntity, LoadError>)>;
