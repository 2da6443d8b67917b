//! What the bytes of the log mean: pure functions from values to bytes and back, without files, clocks or threads.
//!
//! Invariant: decoding never panics and never allocates more than its input, whatever the bytes are; what `encode` wrote,
//! `decode` returns. All integers are little endian. Layouts are fixed by the golden file in `tests/golden`.

use crate::format::checksum::crc32c;
use crate::limits::BLOCK_BYTES;

pub mod checkpoint;
pub mod checksum;
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
    crc32c(&log_id.to_le_bytes())
}

/// The bytes from `at` on, of a length that the caller's type says; one check of the bounds.
#[inline(always)]
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller has checked the length")
}

#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

#[inline(always)]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Whether a block holds nothing. A comparison of whole blocks is fast in unoptimised builds too, where damage is looked for in
/// millions of them.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    *block == ZEROS[..block.len()]
}
