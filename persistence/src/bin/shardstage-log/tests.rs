//! The commands on a disk that does not give some blocks back: a log is written as `repair` writes one, and reads of chosen bytes
//! fail.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::ops::Range;
use std::path::{Path, PathBuf};

use shardstage_codec::{Epoch, GroupId};
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::record::{FLAG_LAST_OF_COMMAND, RecordHeader, RecordKind, RecordView};
use shardstage_persistence::inspect::Entity;

use crate::args::{Args, Command};
use crate::reader::planted::bad_blocks;
use crate::rewrite::{Records, Rewriter};
use crate::{Failure, Health, run_to};

const SEGMENT: &str = "0000000000000001.seg";
const BLOCK: u64 = 4096;

/// A log under construction: `alice` is entity 1 in group 1, `bob` entity 2 in group 2.
struct Log {
    dir: tempfile::TempDir,
    target: Rewriter,
    seqs: [u64; 2],
}

impl Log {
    /// Block 0 of its first segment holds the frame that opens it.
    fn new(blocks: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeFile { log_id: 77, node: 0, shard: 0, shard_count: 1, groups: 64 };
        let target = Rewriter::begin(&dir.path().join("log-0"), node, blocks).unwrap();
        Self { dir, target, seqs: [0; 2] }
    }

    /// One event in the open frame.
    fn event(&mut self, of: usize, bytes: usize) {
        self.seqs[of] += 1;
        let header = RecordHeader {
            entity: of as u64 + 1,
            seq: self.seqs[of],
            schema_version: 1,
            kind: RecordKind::Event,
            flags: FLAG_LAST_OF_COMMAND,
            prev: None,
        };
        let mut encoded = Vec::new();
        header.encode(&vec![of as u8; bytes], &[], &mut encoded);
        let mut records = Records::default();
        records.push(&RecordView::decode(&encoded).unwrap());
        let group = GroupId::new(of as u8 + 1).unwrap();
        let key = ["alice", "bob"][of];
        let entity = Entity { type_name: "user".into(), key: key.into(), event_id: 5, group, last_seq: 0, tail: None };
        self.target.add(group, Epoch::FIRST, of as u64 + 1, &entity, &records).unwrap();
    }

    /// One frame of one event.
    fn frame(&mut self, of: usize, bytes: usize) {
        self.event(of, bytes);
        self.target.end_frame().unwrap();
    }

    fn end(self) -> tempfile::TempDir {
        self.target.finish().unwrap();
        self.dir
    }
}

/// Frames of one block each behind the first: alice, bob, alice, bob, ...
fn six_frames() -> tempfile::TempDir {
    let mut log = Log::new(16);
    (0..6).for_each(|nth| log.frame(nth % 2, 100));
    log.end()
}

fn blocks(range: Range<u64>) -> Range<u64> {
    range.start * BLOCK..range.end * BLOCK
}

/// From now on, the disk refuses these bytes of a file of the log.
fn bad_bytes(dir: &Path, name: &str, bytes: Range<u64>) {
    bad_blocks(vec![(dir.join("log-0").join(name), bytes)]);
}

fn run(dir: &Path, command: Command) -> (Health, String) {
    let args = Args { command, dir: dir.join("log-0"), json: false, live: false };
    let mut out = Vec::new();
    let health = run_to(&args, &mut out).unwrap_or_else(|failure: Failure| panic!("{failure}"));
    (health, String::from_utf8(out).unwrap())
}

fn export(dir: &Path) -> (Health, Vec<(String, u64)>) {
    let (health, out) = run(dir, Command::Export { type_name: None, key: None });
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("\"{name}\":")).nth(1).unwrap();
        rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap().to_owned()
    };
    let events = out.lines().filter(|line| line.contains("\"kind\":\"event\""));
    (health, events.map(|line| (field(line, "key"), field(line, "seq").parse().unwrap())).collect())
}

fn repair(dir: &Path) -> (Health, String, PathBuf) {
    let into = dir.join("new");
    let (health, out) = run(dir, Command::Repair { into: into.join("log-0") });
    (health, out, into)
}

fn repair_into_new(dir: &Path) -> (Health, String, Vec<(String, u64)>) {
    std::fs::create_dir(dir.join("new")).unwrap();
    let (health, out, into) = repair(dir);
    bad_blocks(Vec::new());
    assert_eq!(run(&into, Command::Verify).0, Health::Clean);
    (health, out, export(&into).1)
}

fn events(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(key, seq)| ((*key).to_owned(), *seq)).collect()
}

#[test]
fn a_frame_that_cannot_be_read_is_named_and_all_others_are_read() {
    let dir = six_frames();
    // Bob's second event.
    bad_bytes(dir.path(), SEGMENT, 4 * BLOCK + 512..4 * BLOCK + 1024);
    let (health, out) = run(dir.path(), Command::Verify);
    assert_eq!(health, Health::Damaged);
    assert!(
        out.contains(&format!("damaged: {SEGMENT}, bytes 16384..20480: cannot be read: the disk refused")),
        "{out}"
    );
    let named = format!("damaged: {SEGMENT}, bytes 16384..20480, LSN ");
    assert!(out.contains(&named) && out.contains("blocks that cannot be read"), "{out}");
    let (health, found) = export(dir.path());
    assert_eq!(health, Health::Damaged);
    assert_eq!(found, events(&[("alice", 1), ("bob", 1), ("alice", 2), ("alice", 3), ("bob", 3)]));
    let (health, out) = run(dir.path(), Command::Inspect { frames: true });
    assert!(health == Health::Damaged && out.contains("bytes 16384..20480: cannot be read"), "{out}");
    let (health, out, found) = repair_into_new(dir.path());
    assert_eq!(health, Health::Damaged);
    assert!(out.contains("4096 bytes that cannot be read") && out.contains("\"bob\": intact up to number 1"), "{out}");
    assert_eq!(found, events(&[("alice", 1), ("bob", 1), ("alice", 2), ("alice", 3)]), "a prefix of each entity");
}

#[test]
fn intact_sections_of_a_frame_that_is_read_in_part_are_saved() {
    let mut log = Log::new(16);
    log.frame(0, 100);
    // One frame of three blocks: alice's section stands in its first, bob's in all.
    log.event(0, 100);
    log.event(1, 9000);
    log.target.end_frame().unwrap();
    log.frame(0, 100);
    let dir = log.end();
    bad_bytes(dir.path(), SEGMENT, blocks(4..5));
    let (health, found) = export(dir.path());
    assert_eq!((health, found), (Health::Damaged, events(&[("alice", 1), ("alice", 2), ("alice", 3)])));
    let (_, out) = run(dir.path(), Command::Verify);
    assert!(out.contains("bytes 16384..20480: cannot be read"), "{out}");
    assert!(out.contains("a frame whose checksum does not match"), "{out}");
    let (_, out, found) = repair_into_new(dir.path());
    assert!(out.contains("1 of them from intact sections of damaged frames"), "{out}");
    assert_eq!(found, events(&[("alice", 1), ("alice", 2), ("alice", 3)]));
}

#[test]
fn an_end_that_cannot_be_read_is_not_taken_for_the_end() {
    let dir = six_frames();
    // The last event's frame and the heartbeat behind it: nothing on the disk proves that they were there.
    bad_bytes(dir.path(), SEGMENT, blocks(6..8));
    let (health, out) = run(dir.path(), Command::Verify);
    assert_eq!(health, Health::Damaged);
    assert!(out.contains("bytes 24576..32768: cannot be read"), "{out}");
    assert!(out.contains("whether acknowledged records stood in what cannot be read is not known"), "{out}");
    let (health, out, found) = repair_into_new(dir.path());
    assert_eq!(health, Health::Damaged, "{out}");
    assert!(out.contains("8192 bytes that cannot be read") && out.contains("LSN none that is known"), "{out}");
    assert_eq!(found.len(), 5);
}

#[test]
fn blocks_behind_the_last_frame_of_a_segment_hold_nothing() {
    let mut log = Log::new(16);
    (0..5).for_each(|_| log.frame(0, 14_000));
    let dir = log.end();
    bad_bytes(dir.path(), SEGMENT, blocks(15..16));
    let (health, out) = run(dir.path(), Command::Verify);
    assert_eq!(health, Health::Damaged, "an engine reads it and refuses");
    assert!(out.contains("bytes 61440..65536: cannot be read") && out.contains("no record is concerned"), "{out}");
    let (health, out, found) = repair_into_new(dir.path());
    assert_eq!((health, found.len()), (Health::Clean, 5), "{out}");
}

#[test]
fn a_range_is_named_once_however_it_is_read() {
    let mut log = Log::new(1024);
    (0..600).for_each(|nth| log.frame(nth % 2, 100));
    let dir = log.end();
    // Across the border of two reads of 1 MiB.
    let segment = dir.path().join("log-0").join(SEGMENT);
    bad_blocks(vec![(segment.clone(), blocks(255..259)), (segment, blocks(300..301))]);
    let (_, out) = run(dir.path(), Command::Verify);
    let named: Vec<&str> = out.lines().filter(|line| line.contains("cannot be read: ")).collect();
    assert_eq!(named.len(), 2, "{out}");
    assert!(named[0].contains("bytes 1044480..1060864:") && named[1].contains("bytes 1228800..1232896:"), "{out}");
    let (_, found) = export(dir.path());
    assert_eq!(found.len(), 600 - 5);
}

#[test]
fn a_segment_that_no_manifest_lists_and_that_cannot_be_read_is_named() {
    let dir = six_frames();
    std::fs::write(dir.path().join("log-0/0000000000000009.seg"), vec![0; 65536]).unwrap();
    bad_bytes(dir.path(), "0000000000000009.seg", blocks(0..1));
    let (health, out) = run(dir.path(), Command::Verify);
    assert_eq!(health, Health::Damaged);
    assert!(out.contains("0000000000000009.seg: no manifest lists it, and it cannot be read"), "{out}");
}
