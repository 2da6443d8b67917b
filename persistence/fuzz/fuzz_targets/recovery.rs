//! The recovery scan and the survey over hostile segment bytes: an answer, never a panic, never more records than bytes, and
//! what recovery delivers the survey delivers too.
//!
//! The first byte says which checksums are mended and which segment it is. Run: see `fuzz/README.md`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardstage_persistence::format::salt;
use shardstage_persistence::inspect::{Names, Seen, Survey};
use shardstage_persistence::recovery::Scan;
use shardstage_persistence_fuzz::{BLOCK, BLOCKS, LOG_ID, mend_segment};

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let mut bytes = data[..data.len().min(BLOCK * BLOCKS)].to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    if mode & 1 == 1 {
        mend_segment(&mut bytes, mode & 2 == 2);
    }
    let segment = u64::from(mode >> 2 & 15);
    let mut found = Vec::new();
    let mut scan = Scan::new(salt(LOG_ID), 1 << 20);
    scan.begin_segment(segment, BLOCKS as u32);
    for block in bytes.chunks(BLOCK) {
        scan.push(block, &mut |record| found.push((record.lsn, record.offset)));
    }
    scan.end_segment(&mut |record| found.push((record.lsn, record.offset)));
    let verdict = scan.finish(0);
    assert!(found.len() <= bytes.len() / 32);

    let mut names = Names::default();
    let mut seen = Vec::new();
    let mut sink = |it: Seen<'_>| {
        if let Seen::Record(record) = it {
            seen.push((record.lsn, record.offset));
            let _ = names.admit(record.segment, record.offset, &record.view);
        }
    };
    let mut survey = Survey::new(salt(LOG_ID));
    survey.begin_segment(segment, BLOCKS as u32);
    survey.push(&bytes, &mut sink);
    survey.end_segment();
    survey.finish(None, &mut sink);
    assert!(seen.len() <= bytes.len() / 16);
    if verdict.is_ok() {
        assert!(seen.starts_with(&found), "the survey misses what recovery delivers");
    }
});
