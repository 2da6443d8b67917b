//! `FrameHeader`: the first 64 bytes of a frame. A frame is one disk write: the header, then its sections, then zeros up
//! to the next block.
//!
//! ```text
//!  0 u32 magic "SSF1"      4 u32 header_crc   CRC32C of bytes 8..64, salted with the log's id
//!  8 u32 frame_crc        12 u32 len          frame_crc: CRC32C of bytes 64..len; len: without the padding
//! 16 u64 incarnation      24 u64 first_lsn    incarnation: the log's starts, counted
//! 32 u64 durable_lsn      40 u32 prev_crc     every LSN below durable_lsn was durable when this frame was sealed;
//! 44 u32 record_count                         prev_crc: header_crc of the frame before, which covers that frame
//! 48 u64 place            segment_id << 24 | block: catches misdirected writes and stale blocks
//! 56 u16 flags            58 u16 section_count
//! 60 u32 features         unknown bits: refuse
//! ```
//!
//! A frame takes as many LSNs as it has records; one without records (heartbeat, incarnation-open, segment-end) takes one,
//! so that `durable_lsn` also tells of a damaged frame without records.
//!
//! Invariant: a block of zeros never decodes, and `len` is believed only after `header_crc`.

use super::{put, u16_at, u32_at, u64_at};
use crate::format::checksum::crc32c_append;
use crate::limits::{BLOCK_BYTES, FRAME_BYTES};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// `SSF1` as it stands on the disk.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"SSF1");
/// The frame says only what is durable.
pub const FLAG_HEARTBEAT: u16 = 1;
/// The first frame of an incarnation.
pub const FLAG_OPEN: u16 = 2;
/// The last frame of its segment: the log goes on at block 0 of the next one.
pub const FLAG_SEGMENT_END: u16 = 4;

const KNOWN_FLAGS: u16 = FLAG_HEARTBEAT | FLAG_OPEN | FLAG_SEGMENT_END;

/// The header's fields, without the two checksums that `encode` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// CRC32C of the sections.
    pub frame_crc: u32,
    /// Bytes of header and sections, without the padding.
    pub len: u32,
    /// Which start of the log wrote this.
    pub incarnation: u64,
    /// LSN of the first record.
    pub first_lsn: u64,
    /// Every LSN below this was durable when the frame was sealed.
    pub durable_lsn: u64,
    /// `header_crc` of the frame before; 0 for the first of a log.
    pub prev_crc: u32,
    /// Records in all sections.
    pub record_count: u32,
    /// `segment_id << 24 | block`.
    pub place: u64,
    /// `FLAG_*`.
    pub flags: u16,
    /// Sections after the header.
    pub section_count: u16,
}

/// Why bytes are no frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic is missing: empty, or never a frame.
    NoMagic,
    /// The checksum does not match: torn, damaged, or of another log.
    BadCrc,
    /// A newer format wrote it: its feature bits or flags are unknown.
    Unknown,
    /// The length is impossible.
    BadLength,
}

/// Composes a frame's place.
#[must_use]
pub fn place(segment: u64, block: u32) -> u64 {
    debug_assert!(segment < 1 << 40 && block < 1 << 24);
    segment << 24 | u64::from(block)
}

/// Bytes that a frame of `len` bytes takes on the disk.
#[must_use]
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK_BYTES)
}

impl FrameHeader {
    /// How many LSNs the frame takes.
    #[must_use]
    pub fn lsn_count(&self) -> u64 {
        u64::from(self.record_count.max(1))
    }

    /// Writes the header to `bytes[..64]` and returns its `header_crc`, the next frame's `prev_crc`.
    ///
    /// # Panics
    /// When `bytes` is shorter than a header.
    pub fn encode(&self, salt: u32, bytes: &mut [u8]) -> u32 {
        put(bytes, 0, &FRAME_MAGIC.to_le_bytes());
        put(bytes, 8, &self.frame_crc.to_le_bytes());
        put(bytes, 12, &self.len.to_le_bytes());
        put(bytes, 16, &self.incarnation.to_le_bytes());
        put(bytes, 24, &self.first_lsn.to_le_bytes());
        put(bytes, 32, &self.durable_lsn.to_le_bytes());
        put(bytes, 40, &self.prev_crc.to_le_bytes());
        put(bytes, 44, &self.record_count.to_le_bytes());
        put(bytes, 48, &self.place.to_le_bytes());
        put(bytes, 56, &self.flags.to_le_bytes());
        put(bytes, 58, &self.section_count.to_le_bytes());
        put(bytes, 60, &0u32.to_le_bytes());
        let crc = crc32c_append(salt, &bytes[8..FRAME_HEADER_BYTES]);
        put(bytes, 4, &crc.to_le_bytes());
        crc
    }

    /// Reads a header and returns it with its `header_crc`.
    ///
    /// # Errors
    /// See [`HeaderError`]. The frame's own bytes are not looked at.
    pub fn decode(bytes: &[u8], salt: u32) -> Result<(Self, u32), HeaderError> {
        if bytes.len() < FRAME_HEADER_BYTES || u32_at(bytes, 0) != FRAME_MAGIC {
            return Err(HeaderError::NoMagic);
        }
        let crc = crc32c_append(salt, &bytes[8..FRAME_HEADER_BYTES]);
        if crc != u32_at(bytes, 4) {
            return Err(HeaderError::BadCrc);
        }
        let header = Self {
            frame_crc: u32_at(bytes, 8),
            len: u32_at(bytes, 12),
            incarnation: u64_at(bytes, 16),
            first_lsn: u64_at(bytes, 24),
            durable_lsn: u64_at(bytes, 32),
            prev_crc: u32_at(bytes, 40),
            record_count: u32_at(bytes, 44),
            place: u64_at(bytes, 48),
            flags: u16_at(bytes, 56),
            section_count: u16_at(bytes, 58),
        };
        if u32_at(bytes, 60) != 0 || header.flags & !KNOWN_FLAGS != 0 {
            return Err(HeaderError::Unknown);
        }
        if !(FRAME_HEADER_BYTES..=FRAME_BYTES).contains(&(header.len as usize)) {
            return Err(HeaderError::BadLength);
        }
        Ok((header, crc))
    }
}
