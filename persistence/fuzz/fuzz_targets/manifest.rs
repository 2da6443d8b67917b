//! Manifests and identities from hostile bytes: what decodes is what encodes.
//!
//! The first byte says whether the checksums are mended. Run: see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_persistence::format::manifest::Manifest;
use shardstage_persistence::format::node::{NODE_BYTES, NodeFile};
use shardstage_persistence_fuzz::{length_field, mend_file};

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if mode & 1 == 1 {
        let end = if mode & 2 == 2 { NODE_BYTES } else { length_field(&bytes) };
        mend_file(&mut bytes, end);
    }
    if let Ok(node) = NodeFile::decode(&bytes) {
        let mut again = [0; NODE_BYTES];
        node.encode(&mut again);
        assert_eq!(NodeFile::decode(&again), Ok(node));
    }
    if let Some(manifest) = Manifest::decode(&bytes) {
        assert!(manifest.encoded_bytes() <= bytes.len());
        let mut again = vec![0; manifest.encoded_bytes()];
        manifest.encode(&mut again);
        assert_eq!(Manifest::decode(&again), Some(manifest));
    }
});
