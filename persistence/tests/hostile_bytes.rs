//! Arbitrary and mutated bytes at every decoder: an answer, never a panic, and never more records than bytes.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use proptest::prelude::*;
use shardstage_persistence::format::checkpoint::{CheckpointEnd, CheckpointHead};
use shardstage_persistence::format::frame::FrameHeader;
use shardstage_persistence::format::manifest::{Manifest, SegmentEntry, SegmentState};
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::record::{KeyDef, RecordView};
use shardstage_persistence::format::salt;
use shardstage_persistence::format::section::SectionHeader;
use shardstage_persistence::inspect::{Names, Seen, Survey};
use shardstage_persistence::recovery::Scan;

const GOLDEN: &[u8] = include_bytes!("golden/log-v2.bin");
const LOG_ID: u64 = 0x1122_3344_5566_7788;

/// Recovery and the survey; the survey misses nothing that recovery delivers.
fn scan(bytes: &[u8]) {
    let mut found = Vec::new();
    let mut scan = Scan::new(salt(LOG_ID), 2);
    scan.begin_segment(3, 16);
    scan.push(bytes, &mut |record| found.push((record.lsn, record.offset)));
    scan.end_segment(&mut |record| found.push((record.lsn, record.offset)));
    let verdict = scan.finish(0);
    assert!(found.len() <= bytes.len() / 32);
    let mut seen = Vec::new();
    let mut names = Names::default();
    let mut sink = |it: Seen<'_>| {
        if let Seen::Record(record) = it {
            seen.push((record.lsn, record.offset));
            let _ = names.admit(record.segment, record.offset, &record.view);
        }
    };
    let mut survey = Survey::new(salt(LOG_ID));
    survey.begin_segment(3, 16);
    survey.push(bytes, &mut sink);
    survey.end_segment();
    survey.finish(verdict.as_ref().err().map(|_| u64::MAX), &mut sink);
    assert!(seen.len() <= bytes.len() / 16);
    assert!(verdict.is_err() || seen.starts_with(&found), "{found:?} {seen:?}");
}

/// Makes header and body checksums fit again, so that what lies behind them is reached.
fn mend(bytes: &mut [u8]) {
    for block in 0..bytes.len() / 4096 {
        let at = block * 4096;
        if &bytes[at..at + 4] != b"SSF1" {
            continue;
        }
        let len = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().unwrap()) as usize;
        if len >= 64 && at + len <= bytes.len() {
            let crc = crc32c::crc32c(&bytes[at + 64..at + len]);
            bytes[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(salt(LOG_ID), &bytes[at + 8..at + 64]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn a_frame_that_claims_the_highest_numbers_is_not_believed() {
    // first_lsn, durable_lsn; the first section's first_sequence, then both.
    for (field, other) in [(24..40, 0..0), (4096 + 64 + 16..4096 + 64 + 24, 0..0), (24..40, 4096 + 24..4096 + 40)] {
        let mut bytes = GOLDEN[8192..].to_vec();
        bytes[field].fill(0xff);
        bytes[other].fill(0xff);
        let end = 4096 + 64 + 32 + u32::from_le_bytes(bytes[4096 + 68..4096 + 72].try_into().unwrap()) as usize;
        let crc = crc32c::crc32c(&bytes[4096 + 68..end]);
        bytes[4096 + 64..4096 + 68].copy_from_slice(&crc.to_le_bytes());
        mend(&mut bytes);
        scan(&bytes);
    }
}

#[test]
fn a_manifest_of_segments_that_cannot_be_is_none() {
    let segment = |id, blocks| SegmentEntry { id, first_lsn: 0, end_lsn: 0, blocks, state: SegmentState::Ready };
    let read = |segments: &[(u64, u32)]| {
        let segments = segments.iter().map(|(id, blocks)| segment(*id, *blocks)).collect();
        let manifest = Manifest { generation: 1, incarnation: 1, log_id: LOG_ID, segments };
        let mut bytes = vec![0; manifest.encoded_bytes()];
        manifest.encode(&mut bytes);
        let read = Manifest::decode(&bytes);
        assert!(read.is_none() || read == Some(manifest));
        read.is_some()
    };
    let (most, id_max) = (1 << 20, u64::from(u32::MAX));
    for good in [&[(1, 1), (2, most)][..], &[(7, 16), (9, 16), (id_max, 16)], &[]] {
        assert!(read(good), "{good:?}");
    }
    let ids: [&[(u64, u32)]; 4] = [&[(0, 16)], &[(id_max + 1, 16)], &[(2, 16), (2, 16)], &[(2, 16), (1, 16)]];
    let blocks: [&[(u64, u32)]; 3] = [&[(1, 0)], &[(1, most + 1)], &[(1, 16), (2, u32::MAX)]];
    for bad in ids.into_iter().chain(blocks) {
        assert!(!read(bad), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = FrameHeader::decode(&bytes, 1);
        let _ = SectionHeader::decode(&bytes);
        let _ = RecordView::decode(&bytes);
        let _ = KeyDef::decode(&bytes);
        let _ = Manifest::decode(&bytes);
        let _ = NodeFile::decode(&bytes);
        let _ = CheckpointHead::stored_bytes_of(&bytes);
        let _ = CheckpointHead::decode(&bytes);
        let _ = CheckpointEnd::decode(&bytes);
    }

    #[test]
    fn mutated_log(changes in proptest::collection::vec((0usize..28_672, any::<u8>()), 1..8), mended in any::<bool>()) {
        let mut bytes = GOLDEN[8192..].to_vec();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if mended {
            mend(&mut bytes);
        }
        scan(&bytes);
    }

    #[test]
    fn mutated_lengths(field in 0usize..6, value in any::<u32>(), frame in 1usize..2) {
        let mut bytes = GOLDEN[8192..].to_vec();
        // len, record_count, section_count, section bytes, section count, record len
        let at = frame * 4096 + [12, 44, 58, 68, 88, 104][field];
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes()[..2]);
        mend(&mut bytes);
        scan(&bytes);
    }
}
