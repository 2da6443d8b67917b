//! Records and key definitions from hostile bytes: what decodes is what encodes.
//!
//! The first byte says whether the checksums are mended. Run: see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_persistence::format::record::{KeyDef, RecordHeader, RecordKind, RecordView};
use shardstage_persistence_fuzz::mend_record;

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if mode & 1 == 1 {
        mend_record(&mut bytes);
    }
    let _ = KeyDef::decode(&bytes);
    let _ = RecordHeader::decode(&bytes);
    let Ok(view) = RecordView::decode(&bytes) else { return };
    assert!(view.stored_bytes <= bytes.len() && view.payload.len() + view.meta.len() < view.stored_bytes);
    if view.header.kind == RecordKind::KeyDef
        && let Some(def) = KeyDef::decode(view.payload)
    {
        let mut again = Vec::new();
        def.encode(view.header.entity, &mut again);
        let again = RecordView::decode(&again).expect("what was written is read");
        assert_eq!(KeyDef::decode(again.payload), Some(def));
    }
    // A record that says it has meta and has none is read, but never written.
    if view.meta.is_empty() && view.header.flags & 2 != 0 {
        return;
    }
    let mut again = Vec::new();
    view.header.encode(view.payload, view.meta, &mut again);
    assert_eq!(RecordView::decode(&again), Ok(view));
});
