//! Snapshots from hostile bytes: a record of a state, and the state in it, as recovery reads them.
//!
//! The first byte says whether the record's checksums are mended. Run: see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_codec::{AlignedBytes, decode, encode};
use shardstage_persistence::format::record::{RecordKind, RecordView};
use shardstage_persistence_fuzz::{State, mend_record};

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    // Payloads stand at multiples of 16, as in a loaded page.
    let mut bytes = AlignedBytes::new();
    bytes.extend_from_slice(data);
    if mode & 1 == 1 {
        mend_record(&mut bytes);
    }
    let Ok(view) = RecordView::decode(&bytes) else { return };
    if view.header.kind != RecordKind::Snapshot {
        return;
    }
    let Ok(state) = decode::<State>(view.payload) else { return };
    let mut again = AlignedBytes::new();
    let Ok(len) = encode(&state, &mut again) else { return };
    assert_eq!(decode::<State>(&again[again.len() - len..]), Ok(state), "what was read is what would be written");
});
