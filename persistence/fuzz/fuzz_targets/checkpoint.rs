//! Heads and ends of checkpoints from hostile bytes: what decodes is what encodes, and no length is believed that is not there.
//!
//! The first byte says whether the checksums are mended. Run: see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_persistence::format::checkpoint::{CheckpointEnd, CheckpointHead};
use shardstage_persistence_fuzz::{length_field, mend_file};

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if mode & 1 == 1 {
        let end = if mode & 2 == 2 { 32 } else { length_field(&bytes) };
        mend_file(&mut bytes, end);
    }
    let _ = CheckpointHead::stored_bytes_of(&bytes);
    if let Some(head) = CheckpointHead::decode(&bytes) {
        let mut again = vec![0; head.stored_bytes()];
        head.encode(&mut again);
        assert_eq!(CheckpointHead::decode(&again), Some(head));
    }
    if let Some(end) = CheckpointEnd::decode(&bytes) {
        let mut again = [0; 32];
        end.encode(&mut again);
        assert_eq!(CheckpointEnd::decode(&again), Some(end));
    }
});
