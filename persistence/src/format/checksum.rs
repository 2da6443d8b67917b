//! CRC32C, the checksum of everything in the log. Pure functions.
//!
//! A record is checked three times on its way back: in its frame, in its section and by itself, so that damage is found
//! wherever in memory or on the disk it was done. Reading a log is therefore mostly this; the crate behind it folds with
//! the widest carry-less multiplication that the processor has.
//!
//! Invariant: the same bytes have the same checksum on every processor.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of `bytes`.
#[inline]
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The checksum of what `crc` is the checksum of, followed by `bytes`.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("it has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_implementation_agrees_at_every_length_and_split() {
        let bytes: Vec<u8> = (0..4500_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of the standard");
        for len in (0..600).chain([1023, 1024, 2600, 4096, 4500]) {
            let bytes = &bytes[..len];
            assert_eq!(crc32c(bytes), crc32c_oracle(0, bytes), "{len} bytes");
            for split in [0, 1, 8, 24, 31, len / 2, len].into_iter().filter(|split| *split <= len) {
                let (first, rest) = bytes.split_at(split);
                assert_eq!(crc32c_append(crc32c(first), rest), crc32c(bytes), "{len} bytes split at {split}");
            }
            assert_eq!(crc32c_append(0x1234_5678, bytes), crc32c_oracle(0x1234_5678, bytes), "{len} bytes");
        }
    }

    fn crc32c_oracle(crc: u32, bytes: &[u8]) -> u32 {
        ::crc32c::crc32c_append(crc, bytes)
    }
}
