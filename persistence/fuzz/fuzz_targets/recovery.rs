//! The recovery scan over hostile segment bytes: an answer, never a panic, and never more records than bytes.
//!
//! The first byte says whether frame checksums are mended before the scan, so that what lies behind them is reached. The
//! corpus starts with a valid segment. Run: `cargo fuzz run recovery` in `persistence/`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_persistence::format::frame::FRAME_HEADER_BYTES;
use shardstage_persistence::format::manifest::Manifest;
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::record::RecordView;
use shardstage_persistence::format::salt;
use shardstage_persistence::recovery::Scan;

const LOG_ID: u64 = 0x1122_3344_5566_7788;
const BLOCK: usize = 4096;
const BLOCKS: usize = 16;

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let _ = Manifest::decode(data);
    let _ = NodeFile::decode(data);
    let _ = RecordView::decode(data);
    let mut bytes = data[..data.len().min(BLOCK * BLOCKS)].to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    if mode & 1 == 1 {
        mend(&mut bytes);
    }
    let mut records = 0;
    let mut scan = Scan::new(salt(LOG_ID), 2);
    scan.begin_segment(3, BLOCKS as u32);
    for block in bytes.chunks(BLOCK) {
        scan.push(block, &mut |_| records += 1);
    }
    scan.end_segment(&mut |_| records += 1);
    let _ = scan.finish(0);
    assert!(records <= bytes.len() / 32);
});

fn mend(bytes: &mut [u8]) {
    for at in (0..bytes.len()).step_by(BLOCK) {
        bytes[at..at + 4].copy_from_slice(b"SSF1");
        let len = u32::from_le_bytes([bytes[at + 12], bytes[at + 13], bytes[at + 14], bytes[at + 15]]) as usize;
        if len >= FRAME_HEADER_BYTES && at + len <= bytes.len() {
            let crc = crc32c::crc32c(&bytes[at + FRAME_HEADER_BYTES..at + len]);
            bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(salt(LOG_ID), &bytes[at + 8..at + FRAME_HEADER_BYTES]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}
