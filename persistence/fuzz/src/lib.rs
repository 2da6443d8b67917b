//! What the targets share: making checksums fit again, so that what lies behind them is reached.

use shardstage_persistence::format::frame::FRAME_HEADER_BYTES;
use shardstage_persistence::format::record::RECORD_HEADER_BYTES;
use shardstage_persistence::format::salt;
use shardstage_persistence::format::section::SECTION_HEADER_BYTES;

/// The log that all bytes are taken to be of.
pub const LOG_ID: u64 = 0x1122_3344_5566_7788;
/// The state of an actor that is read back: numbers, text, lists, a list of pairs, an option.
pub type State = (u64, String, Vec<(u32, String)>, Option<Vec<u8>>);

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of a segment in these targets.
pub const BLOCKS: usize = 16;

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Mends both checksums of the record at the start, if its length fits; returns its bytes with the padding.
pub fn mend_record(bytes: &mut [u8]) -> Option<usize> {
    let end = RECORD_HEADER_BYTES + (word(bytes.get(..RECORD_HEADER_BYTES)?, 8) & 0x00ff_ffff);
    bytes.get(..end)?;
    let head_crc = crc32c::crc32c(&bytes[8..RECORD_HEADER_BYTES]);
    let crc = crc32c::crc32c_append(head_crc, &bytes[RECORD_HEADER_BYTES..end]);
    put(bytes, 4, head_crc);
    put(bytes, 0, crc);
    Some(end.next_multiple_of(16))
}

/// Mends a file whose checksum stands at byte 8 and covers bytes 12 to `end`.
pub fn mend_file(bytes: &mut [u8], end: usize) {
    if (12..=bytes.len()).contains(&end) {
        let crc = crc32c::crc32c(&bytes[12..end]);
        put(bytes, 8, crc);
    }
}

/// The length field at byte 12, as manifests and checkpoints have it.
pub fn length_field(bytes: &[u8]) -> usize {
    if bytes.len() < 16 { 0 } else { word(bytes, 12) }
}

/// Mends headers, frames, sections and records of every block that starts like a frame; with `everywhere`, of every block.
pub fn mend_segment(bytes: &mut [u8], everywhere: bool) {
    for at in (0..bytes.len()).step_by(BLOCK) {
        if everywhere {
            bytes[at..at + 4].copy_from_slice(b"SSF1");
        }
        if &bytes[at..at + 4] != b"SSF1" {
            continue;
        }
        let len = word(bytes, at + 12);
        if len >= FRAME_HEADER_BYTES && at + len <= bytes.len() {
            mend_sections(&mut bytes[at..at + len]);
            let crc = crc32c::crc32c(&bytes[at + FRAME_HEADER_BYTES..at + len]);
            put(bytes, at + 8, crc);
        }
        let crc = crc32c::crc32c_append(salt(LOG_ID), &bytes[at + 8..at + FRAME_HEADER_BYTES]);
        put(bytes, at + 4, crc);
    }
}

fn mend_sections(frame: &mut [u8]) {
    let mut at = FRAME_HEADER_BYTES;
    while at + SECTION_HEADER_BYTES <= frame.len() {
        let end = at + SECTION_HEADER_BYTES + word(frame, at + 4);
        if end > frame.len() {
            return;
        }
        let mut record = at + SECTION_HEADER_BYTES;
        while record < end {
            match mend_record(&mut frame[record..end]) {
                Some(stored) => record += stored,
                None => break,
            }
        }
        let crc = crc32c::crc32c(&frame[at + 4..end]);
        put(frame, at, crc);
        at = end;
    }
}
