//! `CheckpointHead` and `CheckpointEnd`: the first and last blocks of a checkpoint, a file from which a restart learns of every
//! entity without reading the whole log.
//!
//! ```text
//! head, padded to whole blocks:
//!  0 u64 magic "SSCKPT02"   8 u32 crc of bytes 12..len   12 u32 len
//! 16 u64 log_id            24 u64 check     how the entities' fingerprints were made
//! 32 u64 next_lsn          40 u64 incarnation             48 u64 segment    state of the log before the frame at (segment,
//! 56 u32 block             60 u32 prev_crc                                  block), from which a restart scans
//! 64 u32 group_count       68 u32 span_count              72 u64 entries    highest entity number
//! 80 groups: u64 epoch, u64 records
//!    spans: u64 segment, u64 first_lsn, u64 end_lsn
//! body: entities 1, 2, ..., `entries`, 32 bytes each, padded to whole blocks
//! end, one block:
//!  0 u64 magic "SSCKEND2"   8 u32 crc of bytes 12..32   12 u32 crc of the body   16 u64 end_lsn   24 u64 zero
//! ```
//!
//! The body is written while the log goes on, so that it may tell of records up to `end_lsn`. A scan from the head's frame
//! passes over those.
//!
//! Invariant: nothing relies on a checkpoint. One that is damaged, of another log, or ahead of its log is not used.

use super::{put, u32_at, u64_at};
use crate::format::checksum::crc32c;
use crate::limits::{BLOCK_BYTES, GROUPS, SEGMENTS};
use crate::recovery::{GroupTail, ScanPoint, SegmentSpan};

const HEAD_MAGIC: u64 = u64::from_le_bytes(*b"SSCKPT02");
const END_MAGIC: u64 = u64::from_le_bytes(*b"SSCKEND2");
const FIXED_BYTES: usize = 80;
const GROUP_BYTES: usize = 16;
const SPAN_BYTES: usize = 24;
const END_BYTES: usize = 32;

/// What stands before the entities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The log's random identity.
    pub log_id: u64,
    /// Differs when fingerprints are made in another way.
    pub check: u64,
    /// Highest entity number in the body.
    pub entries: u64,
    /// Where the scan goes on.
    pub point: ScanPoint,
}

impl CheckpointHead {
    /// Bytes of the encoded head, with the padding.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.len().next_multiple_of(BLOCK_BYTES)
    }

    fn len(&self) -> usize {
        FIXED_BYTES + self.point.groups.len() * GROUP_BYTES + self.point.spans.len() * SPAN_BYTES
    }

    /// Writes the head to the start of `bytes`, which are zero.
    ///
    /// # Panics
    /// When `bytes` is shorter than [`stored_bytes`](Self::stored_bytes).
    pub fn encode(&self, bytes: &mut [u8]) {
        let len = self.len();
        let bytes = &mut bytes[..len];
        let count = |len: usize| u32::try_from(len).expect("bounded by limits").to_le_bytes();
        put(bytes, 0, &HEAD_MAGIC.to_le_bytes());
        put(bytes, 12, &count(len));
        put(bytes, 16, &self.log_id.to_le_bytes());
        put(bytes, 24, &self.check.to_le_bytes());
        put(bytes, 32, &self.point.next_lsn.to_le_bytes());
        put(bytes, 40, &self.point.incarnation.to_le_bytes());
        put(bytes, 48, &self.point.segment.to_le_bytes());
        put(bytes, 56, &self.point.block.to_le_bytes());
        put(bytes, 60, &self.point.prev_crc.to_le_bytes());
        put(bytes, 64, &count(self.point.groups.len()));
        put(bytes, 68, &count(self.point.spans.len()));
        put(bytes, 72, &self.entries.to_le_bytes());
        let mut at = FIXED_BYTES;
        for group in &self.point.groups {
            put(bytes, at, &group.epoch.to_le_bytes());
            put(bytes, at + 8, &group.records.to_le_bytes());
            at += GROUP_BYTES;
        }
        for span in &self.point.spans {
            put(bytes, at, &span.id.to_le_bytes());
            put(bytes, at + 8, &span.first_lsn.to_le_bytes());
            put(bytes, at + 16, &span.end_lsn.to_le_bytes());
            at += SPAN_BYTES;
        }
        let crc = crc32c(&bytes[12..]);
        put(bytes, 8, &crc.to_le_bytes());
    }

    /// How many bytes the head has that starts with this block; `None` when none does.
    #[must_use]
    pub fn stored_bytes_of(block: &[u8]) -> Option<usize> {
        let most = FIXED_BYTES + GROUPS * GROUP_BYTES + SEGMENTS * SPAN_BYTES;
        let fits = block.len() >= FIXED_BYTES && u64_at(block, 0) == HEAD_MAGIC;
        let len = if fits { u32_at(block, 12) as usize } else { 0 };
        (FIXED_BYTES..=most).contains(&len).then(|| len.next_multiple_of(BLOCK_BYTES))
    }

    /// Reads a head; `None` when the bytes are not one in this format.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Self::stored_bytes_of(bytes)?;
        let len = u32_at(bytes, 12) as usize;
        let bytes = bytes.get(..len)?;
        let (groups, spans) = (u32_at(bytes, 64) as usize, u32_at(bytes, 68) as usize);
        let whole =
            groups == GROUPS && spans <= SEGMENTS && len == FIXED_BYTES + groups * GROUP_BYTES + spans * SPAN_BYTES;
        if !whole || crc32c(&bytes[12..]) != u32_at(bytes, 8) {
            return None;
        }
        let (group_bytes, span_bytes) = bytes[FIXED_BYTES..].split_at(groups * GROUP_BYTES);
        let groups = group_bytes.chunks_exact(GROUP_BYTES);
        let spans = span_bytes.chunks_exact(SPAN_BYTES);
        Some(Self {
            log_id: u64_at(bytes, 16),
            check: u64_at(bytes, 24),
            entries: u64_at(bytes, 72),
            point: ScanPoint {
                next_lsn: u64_at(bytes, 32),
                incarnation: u64_at(bytes, 40),
                segment: u64_at(bytes, 48),
                block: u32_at(bytes, 56),
                prev_crc: u32_at(bytes, 60),
                groups: groups.map(|at| GroupTail { epoch: u64_at(at, 0), records: u64_at(at, 8) }).collect(),
                spans: spans
                    .map(|at| SegmentSpan { id: u64_at(at, 0), first_lsn: u64_at(at, 8), end_lsn: u64_at(at, 16) })
                    .collect(),
            },
        })
    }
}

/// What stands after the entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// CRC32C of the body.
    pub body_crc: u32,
    /// The body tells of no record from this LSN on.
    pub end_lsn: u64,
}

impl CheckpointEnd {
    /// Writes the end to the start of `block`, which is zero.
    ///
    /// # Panics
    /// When `block` is shorter than 32 bytes.
    pub fn encode(&self, block: &mut [u8]) {
        put(block, 0, &END_MAGIC.to_le_bytes());
        put(block, 12, &self.body_crc.to_le_bytes());
        put(block, 16, &self.end_lsn.to_le_bytes());
        let crc = crc32c(&block[12..END_BYTES]);
        put(block, 8, &crc.to_le_bytes());
    }

    /// Reads an end; `None` when the bytes are not one.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        let fits = block.len() >= END_BYTES && u64_at(block, 0) == END_MAGIC;
        if !fits || crc32c(&block[12..END_BYTES]) != u32_at(block, 8) {
            return None;
        }
        Some(Self { body_crc: u32_at(block, 12), end_lsn: u64_at(block, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> CheckpointHead {
        let mut groups = vec![GroupTail::default(); GROUPS];
        groups[5] = GroupTail { epoch: 3, records: 9 };
        let spans = (1..400).map(|id| SegmentSpan { id, first_lsn: id * 10, end_lsn: id * 10 + 10 }).collect();
        let point = ScanPoint { next_lsn: 7, incarnation: 2, segment: 400, block: 11, prev_crc: 5, groups, spans };
        CheckpointHead { log_id: 1, check: 2, entries: 77, point }
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_seen() {
        let head = head();
        let mut bytes = vec![0; head.stored_bytes()];
        head.encode(&mut bytes);
        assert_eq!(CheckpointHead::stored_bytes_of(&bytes[..BLOCK_BYTES]), Some(bytes.len()));
        assert_eq!(CheckpointHead::decode(&bytes).as_ref(), Some(&head));
        for bit in 0..head.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CheckpointHead::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let end = CheckpointEnd { body_crc: 9, end_lsn: 12 };
        let mut block = vec![0; BLOCK_BYTES];
        end.encode(&mut block);
        assert_eq!(CheckpointEnd::decode(&block), Some(end));
        for bit in 0..END_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CheckpointEnd::decode(&block), None, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
