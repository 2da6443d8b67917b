//! `Scratch`: room in which a command's records are made, used again by the next command of the shard.
//!
//! Invariant: it is empty between two commands. Shard thread only.

use std::ops::Range;

use shardstage_codec::AlignedBytes;

use super::NewRecord;
use crate::format::record::RecordKind;
use crate::limits::SCRATCH_RECORDS;

/// See the module's head.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Encoded payloads, one behind the other.
    pub(crate) bytes: AlignedBytes,
    /// Which of them are which records, in their order.
    pub(crate) written: Vec<Written>,
    /// Room for the records that borrow the bytes.
    records: Vec<NewRecord<'static>>,
}

/// An encoded record.
pub(crate) struct Written {
    kind: RecordKind,
    seq: u64,
    schema_version: u16,
    range: Range<usize>,
}

impl Written {
    /// The last `len` of `bytes`.
    pub(crate) fn last(kind: RecordKind, seq: u64, schema_version: u16, len: usize, bytes: &AlignedBytes) -> Self {
        Self { kind, seq, schema_version, range: bytes.len() - len..bytes.len() }
    }

    /// To be appended.
    pub(crate) fn record<'a>(&self, bytes: &'a AlignedBytes) -> NewRecord<'a> {
        let payload = &bytes[self.range.clone()];
        NewRecord { kind: self.kind, seq: self.seq, schema_version: self.schema_version, payload, meta: &[] }
    }
}

impl Scratch {
    /// Calls `f` with the records that were written.
    pub(crate) fn with_records<R>(&mut self, f: impl FnOnce(&[NewRecord<'_>]) -> R) -> R {
        let mut records = emptied(std::mem::take(&mut self.records));
        records.extend(self.written.iter().map(|written| written.record(&self.bytes)));
        let result = f(&records);
        self.records = emptied(records);
        result
    }

    /// Bytes of all payloads.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.written.iter().map(|written| written.range.len()).sum()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.written.clear();
        if self.records.capacity() > SCRATCH_RECORDS {
            (self.written, self.records) = Default::default();
        }
    }
}

/// The same memory for records that borrow from elsewhere.
fn emptied<'a>(mut records: Vec<NewRecord<'_>>) -> Vec<NewRecord<'a>> {
    records.clear();
    // Collected in place: the standard library keeps the memory of a vector that is mapped to elements of the same layout.
    records.into_iter().map(|_| unreachable!("it was cleared")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_made_in_the_same_memory() {
        let mut scratch = Scratch::default();
        for round in 0..3_u8 {
            for seq in 1..=3 {
                scratch.bytes.extend_from_slice(&[round; 16]);
                let written = Written::last(RecordKind::Event, seq, 1, 16, &scratch.bytes);
                scratch.written.push(written);
            }
            let place = scratch.with_records(|records| {
                assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2, 3]);
                assert!(records.iter().all(|record| record.payload == [round; 16]));
                records.as_ptr().addr()
            });
            assert_eq!(scratch.records.as_ptr().addr(), place);
            assert!(scratch.records.capacity() >= 3 && scratch.records.is_empty());
            scratch.clear();
            assert!(scratch.bytes.is_empty() && scratch.written.is_empty());
        }
    }
}
