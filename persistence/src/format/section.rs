//! `SectionHeader`: 32 bytes before the records of one slot group within a frame.
//!
//! ```text
//!  0 u32 crc      CRC32C of bytes 4..32+bytes
//!  4 u32 bytes    length of the records that follow, a multiple of 16
//!  8 u64 epoch    the group's epoch under which they were appended
//! 16 u64 first_sequence   the group's records are numbered 1, 2, ... over all frames
//! 24 u32 count   28 u8 group   29 u8[3] zero
//! ```
//!
//! Invariant: within one log a group's epochs never fall and its sequences have no gap.

use crate::format::checksum::crc32c;
use shardstage_codec::{Epoch, GroupId};

use super::{put, u32_at, u64_at};

/// Bytes of a section header.
pub const SECTION_HEADER_BYTES: usize = 32;

/// The header's fields without the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionHeader {
    /// Bytes of records.
    pub bytes: u32,
    /// The group's epoch.
    pub epoch: Epoch,
    /// Number of the first record within the group.
    pub first_sequence: u64,
    /// Records.
    pub count: u32,
    /// The group.
    pub group: GroupId,
}

impl SectionHeader {
    /// Writes the header before records that are already in `section[32..]`; `section` ends with the last record.
    ///
    /// # Panics
    /// When `section` is not exactly as long as the header says.
    pub fn encode(&self, section: &mut [u8]) {
        assert_eq!(section.len(), SECTION_HEADER_BYTES + self.bytes as usize, "a section is its header and records");
        put(section, 4, &self.bytes.to_le_bytes());
        put(section, 8, &self.epoch.get().to_le_bytes());
        put(section, 16, &self.first_sequence.to_le_bytes());
        put(section, 24, &self.count.to_le_bytes());
        put(section, 28, &[self.group.get(), 0, 0, 0]);
        let crc = crc32c(&section[4..]);
        put(section, 0, &crc.to_le_bytes());
    }

    /// Reads a header from the start of `bytes` and returns it with its records; `None` when length, checksum
    /// or group is wrong.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        if bytes.len() < SECTION_HEADER_BYTES {
            return None;
        }
        let header = Self {
            bytes: u32_at(bytes, 4),
            epoch: Epoch::new(u64_at(bytes, 8)),
            first_sequence: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            group: GroupId::new(bytes[28])?,
        };
        let end = SECTION_HEADER_BYTES.checked_add(header.bytes as usize)?;
        let body = bytes.get(SECTION_HEADER_BYTES..end)?;
        (crc32c(&bytes[4..end]) == u32_at(bytes, 0)).then_some((header, body))
    }
}
