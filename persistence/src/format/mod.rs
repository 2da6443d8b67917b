//! What the bytes of the log mean: pure functions from values to bytes and back, without files, clocks or threads.
//!
//! Invariant: decoding never panics and never allocates more than its input, whatever the bytes are; what `encode` wrote,
//! `decode` returns. All integers are little endian. Layouts are fixed by the golden file in `tests/golden`.

pub mod checkpoint;
pub mod frame;
pub mod manifest;
pub mod node;
pub mod position;
pub mod record;
pub mod section;

/// Version of all layouts in this module, stored in the `NODE` file; a log with another one is refused.
pub const FORMAT_VERSION: u32 = 2;

/// The salt of every frame header checksum of one log: frames of another log, and bytes that a user chose, never pass.
#[must_use]
pub fn salt(log_id: u64) -> u32 {
    crc32c::crc32c(&log_id.to_le_bytes())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
