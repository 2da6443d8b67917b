//! The fuzz targets' seeds are real files that today's readers still read. `FUZZ_SEEDS_WRITE=1` writes them again, from a log
//! in the simulator.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{NODE, Plan, ledger, settle, start, world};
use shardstage_codec::{AlignedBytes, decode, encode};
use shardstage_persistence::PlantedBug;
use shardstage_persistence::format::checkpoint::{CheckpointEnd, CheckpointHead};
use shardstage_persistence::format::frame::{FRAME_HEADER_BYTES, FrameHeader};
use shardstage_persistence::format::manifest::Manifest;
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::record::{RecordHeader, RecordKind, RecordView};
use shardstage_persistence::format::salt;
use shardstage_persistence::format::section::{SECTION_HEADER_BYTES, SectionHeader};

const LOG: &str = "/data/log-0";

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn seed(target: &str, name: &str, mode: u8, bytes: &[u8]) {
    fs::create_dir_all(corpus(target)).unwrap();
    fs::write(corpus(target).join(name), [&[mode], bytes].concat()).unwrap();
}

/// The files of a log of several segments.
fn write_seeds() {
    let world = world(11);
    let ledger = ledger(3);
    let plan = Plan { commands: 120, stop: true };
    start(&world, &ledger, plan, PlantedBug::None, 11);
    settle(&world, &ledger, plan);
    world.crash(NODE);
    let read = |name: &str| world.file_bytes(NODE, format!("{LOG}/{name}")).unwrap();
    seed("manifest", "node", 2, &read("NODE"));
    seed("manifest", "manifest", 0, &read("MANIFEST.a"));
    let log_id = NodeFile::decode(&read("NODE")).unwrap().log_id;
    let mut records = 0;
    for name in world.list(NODE, LOG) {
        let bytes = read(&name);
        if name.starts_with("ckpt-") {
            let head = CheckpointHead::stored_bytes_of(&bytes).unwrap();
            seed("checkpoint", "head", 0, &bytes[..head]);
            seed("checkpoint", "end", 2, &bytes[bytes.len() - 4096..]);
        }
        let Some(id) = name.strip_suffix(".seg").map(|id| u8::from_str_radix(id, 16).unwrap()) else { continue };
        let blocks = bytes.chunks(4096).take_while(|block| block.iter().any(|byte| *byte != 0)).count();
        if blocks > 0 && id <= 2 {
            // Two suffice. The target mends them: its log has another id.
            seed("recovery", &format!("segment-{id}"), 1 | id << 2, &bytes[..blocks * 4096]);
        }
        for frame in bytes.chunks(4096).filter(|block| FrameHeader::decode(block, salt(log_id)).is_ok()) {
            let Some((_, body)) = frame.get(FRAME_HEADER_BYTES..).and_then(SectionHeader::decode) else { continue };
            let mut start = 0;
            while let Some(view) = body.get(start..).and_then(|rest| RecordView::decode(rest).ok()) {
                records += 1;
                let name = format!("kind-{}-{}", view.header.kind as u8, records % 4);
                seed("record", &name, 0, &body[start..start + view.stored_bytes]);
                start += view.stored_bytes;
            }
        }
    }
    assert!(records > 10);
    for (nth, state) in states().iter().enumerate() {
        let mut payload = AlignedBytes::new();
        encode(state, &mut payload).unwrap();
        let header = RecordHeader {
            entity: 1,
            seq: state.0,
            schema_version: 1,
            kind: RecordKind::Snapshot,
            flags: 0,
            prev: None,
        };
        let mut record = Vec::new();
        header.encode(&payload, &[], &mut record);
        seed("snapshot", &format!("state-{nth}"), 1, &record);
    }
}

/// The type that the target `snapshot` reads.
type State = (u64, String, Vec<(u32, String)>, Option<Vec<u8>>);

fn states() -> [State; 3] {
    let pairs = |count: u32| (0..count).map(|at| (at, format!("entry {at} of a list"))).collect();
    [
        (0, String::new(), Vec::new(), None),
        (7, "a short state".into(), pairs(2), Some(vec![1, 2, 3])),
        (1 << 39, "a text that does not fit into its place".into(), pairs(9), Some(vec![7; 100])),
    ]
}

#[test]
fn every_seed_is_a_real_file() {
    if std::env::var_os("FUZZ_SEEDS_WRITE").is_some() {
        write_seeds();
    }
    let mut seeds = 0;
    for target in ["recovery", "record", "manifest", "checkpoint", "snapshot"] {
        for entry in fs::read_dir(corpus(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let bytes = &bytes[1..];
            let valid = match target {
                "recovery" => {
                    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
                    let section = bytes.get(FRAME_HEADER_BYTES + SECTION_HEADER_BYTES..len);
                    bytes.starts_with(b"SSF1") && (len == FRAME_HEADER_BYTES || section.is_some())
                }
                "snapshot" => {
                    let view = RecordView::decode(bytes).unwrap();
                    let mut payload = AlignedBytes::new();
                    payload.extend_from_slice(view.payload);
                    states().contains(&decode::<State>(&payload).unwrap())
                }
                "record" => RecordView::decode(bytes).is_ok(),
                "manifest" => Manifest::decode(bytes).is_some() || NodeFile::decode(bytes).is_ok(),
                _ => CheckpointHead::decode(bytes).is_some() || CheckpointEnd::decode(bytes).is_some(),
            };
            assert!(valid, "{} is no longer what a log holds", path.display());
            seeds += 1;
        }
    }
    assert!(seeds >= 15, "{seeds}");
}
