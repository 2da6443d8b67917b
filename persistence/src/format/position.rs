//! `Position`: where a record stands in the log, in 64 bits.
//!
//! ```text
//! bits 32..64 segment   bits 4..32 offset in the segment, in units of 16 bytes
//! bits 0..4 room: the record lies within 2^room blocks from the start of the block that it begins in
//! ```
//!
//! Invariant: a later record of a log has a larger position, and no position has the bits 0.

use super::record::RECORD_ALIGN_BYTES;
use crate::limits::{BLOCK_BYTES, FRAME_BYTES, MAX_SEGMENT_BYTES};

const OFFSET_BITS: u32 = 28;
const ROOM_BITS: u32 = 4;

const _: () = assert!(MAX_SEGMENT_BYTES / RECORD_ALIGN_BYTES as u64 <= 1 << OFFSET_BITS);
const _: () = assert!(FRAME_BYTES / BLOCK_BYTES < 1 << ((1 << ROOM_BITS) - 1));

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// Where a record of `stored_bytes` bytes stands.
    ///
    /// # Panics
    /// When the segment is 0 or needs more than 32 bits, or the offset is not a multiple of 16 below the largest segment.
    #[must_use]
    pub fn new(segment: u64, offset: u64, stored_bytes: usize) -> Self {
        let units = offset / RECORD_ALIGN_BYTES as u64;
        assert!(segment > 0 && segment <= u64::from(u32::MAX), "a log has fewer than 2^32 segments");
        assert!(offset.is_multiple_of(RECORD_ALIGN_BYTES as u64) && units < 1 << OFFSET_BITS, "records are aligned");
        let block = BLOCK_BYTES as u64;
        let blocks = (offset % block + stored_bytes as u64).div_ceil(block).max(1);
        let room = u64::from(blocks.next_power_of_two().trailing_zeros());
        Self(segment << 32 | units << ROOM_BITS | room)
    }

    /// The position with these bits; `None` for 0.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// Its bits, never 0.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The segment.
    #[must_use]
    pub fn segment(self) -> u64 {
        self.0 >> 32
    }

    /// Byte offset of the record in its segment.
    #[must_use]
    pub fn offset(self) -> u64 {
        (self.0 >> ROOM_BITS & ((1 << OFFSET_BITS) - 1)) * RECORD_ALIGN_BYTES as u64
    }

    /// Byte offsets of the blocks that hold the record, and at most as many again.
    #[must_use]
    pub fn blocks(self) -> (u64, u64) {
        let block = BLOCK_BYTES as u64;
        let start = self.offset() / block * block;
        (start, start + (block << (self.0 & ((1 << ROOM_BITS) - 1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_keeps_what_it_was_made_of() {
        let cases =
            [(1, 0, 32), (7, 4080, 16), (7, 4080, 32), (9, 8192 + 64, 4096), (u64::from(u32::MAX), 160, 524_352)];
        for (segment, offset, stored_bytes) in cases {
            let position = Position::new(segment, offset, stored_bytes);
            assert_eq!((position.segment(), position.offset()), (segment, offset));
            let (start, end) = position.blocks();
            assert!(start <= offset && offset + stored_bytes as u64 <= end, "{start} {end}");
            assert!(end - start <= 2 * (stored_bytes as u64 + 4096));
            assert_eq!(Position::from_bits(position.bits()), Some(position));
        }
        assert_eq!(Position::from_bits(0), None);
        assert!(Position::new(2, 0, 16) > Position::new(1, 1 << 20, 16));
        assert!(Position::new(2, 32, 16) > Position::new(2, 16, 500_000));
    }
}
