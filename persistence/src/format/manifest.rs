//! `Manifest`: which segments a log has and how often it was started. Stored twice, in `MANIFEST.a` and `MANIFEST.b`.
//!
//! ```text
//!  0 u64 magic "SSMANIF1"   8 u32 crc of bytes 12..len   12 u32 len
//! 16 u64 generation        24 u64 incarnation            32 u64 log_id
//! 40 u32 segment_count     44 u32 features (unknown bits: refuse)
//! 48 u64[2] zero
//! 64 segments, 32 B each: 0 u64 id  8 u64 first_lsn  16 u64 end_lsn  24 u32 blocks  28 u32 state (1 ready, 2 sealed)
//! ```
//!
//! Invariant: an update is finished when *both* slots hold the new generation, and nothing relies on it earlier. So either
//! slot alone, whichever is damaged, tells everything that the log relies on. A start writes the slot first that it did not
//! read the log from, so that no power loss while a damaged one is mended leaves none. A segment is listed before it may hold a frame,
//! and the segment before it is sealed before it may hold one behind its [unsealed blocks](unsealed_blocks).

use super::{put, u32_at, u64_at};
use crate::format::checksum::crc32c;
use crate::limits::{BLOCK_BYTES, MAX_SEGMENT_BYTES, SEGMENTS, UNSEALED_SHARE};

const MAGIC: u64 = u64::from_le_bytes(*b"SSMANIF1");
const FIXED_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
/// Largest manifest, bytes.
pub const MANIFEST_BYTES: usize = (FIXED_BYTES + ENTRY_BYTES * SEGMENTS).next_multiple_of(BLOCK_BYTES);

const MAX_BLOCKS: u64 = MAX_SEGMENT_BYTES / BLOCK_BYTES as u64;

/// The blocks of a segment that may hold frames while the segment before it is not sealed.
#[must_use]
pub fn unsealed_blocks(blocks: u32) -> u32 {
    (blocks / UNSEALED_SHARE).max(1)
}

/// How far a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SegmentState {
    /// Pre-written; may hold frames.
    Ready = 1,
    /// Holds exactly the LSNs `first_lsn..end_lsn`.
    Sealed = 2,
}

/// One listed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Number of the segment, from 1 on and of 32 bits; its file is `<id, 16 hex digits>.seg`.
    pub id: u64,
    /// First LSN, when sealed.
    pub first_lsn: u64,
    /// LSN after the last, when sealed.
    pub end_lsn: u64,
    /// Size in blocks.
    pub blocks: u32,
    /// State.
    pub state: SegmentState,
}

/// The manifest's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Raised by every update.
    pub generation: u64,
    /// Raised by every start of the log.
    pub incarnation: u64,
    /// The log's random identity, as in `NODE`.
    pub log_id: u64,
    /// Segments in log order, their ids rising.
    pub segments: Vec<SegmentEntry>,
}

impl Manifest {
    /// Bytes of the encoded manifest without padding.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        FIXED_BYTES + ENTRY_BYTES * self.segments.len()
    }

    /// Writes the manifest to the start of `bytes`.
    ///
    /// # Panics
    /// When `bytes` is shorter than [`encoded_bytes`](Self::encoded_bytes).
    pub fn encode(&self, bytes: &mut [u8]) {
        let len = self.encoded_bytes();
        let bytes = &mut bytes[..len];
        bytes.fill(0);
        put(bytes, 0, &MAGIC.to_le_bytes());
        put(bytes, 12, &u32::try_from(len).expect("bounded by SEGMENTS").to_le_bytes());
        put(bytes, 16, &self.generation.to_le_bytes());
        put(bytes, 24, &self.incarnation.to_le_bytes());
        put(bytes, 32, &self.log_id.to_le_bytes());
        put(bytes, 40, &u32::try_from(self.segments.len()).expect("bounded by SEGMENTS").to_le_bytes());
        for (entry, at) in self.segments.iter().zip((FIXED_BYTES..).step_by(ENTRY_BYTES)) {
            put(bytes, at, &entry.id.to_le_bytes());
            put(bytes, at + 8, &entry.first_lsn.to_le_bytes());
            put(bytes, at + 16, &entry.end_lsn.to_le_bytes());
            put(bytes, at + 24, &entry.blocks.to_le_bytes());
            put(bytes, at + 28, &(entry.state as u32).to_le_bytes());
        }
        let crc = crc32c(&bytes[12..]);
        put(bytes, 8, &crc.to_le_bytes());
    }

    /// Reads a manifest; `None` when the bytes are not one in this format.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FIXED_BYTES || u64_at(bytes, 0) != MAGIC {
            return None;
        }
        let len = u32_at(bytes, 12) as usize;
        let count = u32_at(bytes, 40) as usize;
        let bytes = bytes.get(..len)?;
        if count > SEGMENTS || len != FIXED_BYTES + ENTRY_BYTES * count {
            return None;
        }
        if crc32c(&bytes[12..]) != u32_at(bytes, 8) || u32_at(bytes, 44) != 0 {
            return None;
        }
        let mut segments = Vec::with_capacity(count);
        let mut last_id = 0;
        for entry in bytes[FIXED_BYTES..].chunks_exact(ENTRY_BYTES) {
            let state = match u32_at(entry, 28) {
                1 => SegmentState::Ready,
                2 => SegmentState::Sealed,
                _ => return None,
            };
            let (id, blocks) = (u64_at(entry, 0), u32_at(entry, 24));
            if id <= last_id || id > u64::from(u32::MAX) || blocks == 0 || u64::from(blocks) > MAX_BLOCKS {
                return None;
            }
            last_id = id;
            let (first_lsn, end_lsn) = (u64_at(entry, 8), u64_at(entry, 16));
            segments.push(SegmentEntry { id, first_lsn, end_lsn, blocks, state });
        }
        Some(Self {
            generation: u64_at(bytes, 16),
            incarnation: u64_at(bytes, 24),
            log_id: u64_at(bytes, 32),
            segments,
        })
    }
}
