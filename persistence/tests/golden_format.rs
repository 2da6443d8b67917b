//! The format, byte by byte: a committed file must come out of today's encoders and go into today's decoders.
//!
//! A deliberate change of the format needs a new `FORMAT_VERSION`, and a new file beside the old one; run with
//! `GOLDEN_WRITE=1` to write it.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use shardstage_codec::{Epoch, GroupId};
use shardstage_persistence::format::frame::{
    FLAG_HEARTBEAT, FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, padded, place,
};
use shardstage_persistence::format::manifest::{Manifest, SegmentEntry, SegmentState};
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::position::Position;
use shardstage_persistence::format::record::{KeyDef, RecordHeader, RecordKind};
use shardstage_persistence::format::salt;
use shardstage_persistence::format::section::{SECTION_HEADER_BYTES, SectionHeader};
use shardstage_persistence::recovery::{FoundRecord, GroupTail, Refusal, Scan, Tail};

const LOG_ID: u64 = 0x1122_3344_5566_7788;
const SEGMENT: u64 = 3;
const BLOCKS: u32 = 16;

fn group(number: u8) -> GroupId {
    GroupId::new(number).unwrap()
}

fn node() -> NodeFile {
    NodeFile { log_id: LOG_ID, node: 5, shard: 1, shard_count: 2, groups: 64 }
}

fn manifest() -> Manifest {
    let sealed = SegmentEntry { id: 2, first_lsn: 10, end_lsn: 90, blocks: BLOCKS, state: SegmentState::Sealed };
    let ready = SegmentEntry { id: SEGMENT, first_lsn: 0, end_lsn: 0, blocks: BLOCKS, state: SegmentState::Ready };
    Manifest { generation: 4, incarnation: 2, log_id: LOG_ID, segments: vec![sealed, ready] }
}

fn event(entity: u64, seq: u64, payload: &[u8], meta: &[u8], kind: RecordKind, out: &mut Vec<u8>) {
    let prev = (seq > 1).then(|| Position::new(SEGMENT, 4096 + 64 + 32, 80));
    RecordHeader { entity, seq, schema_version: 3, kind, flags: 1, prev }.encode(payload, meta, out);
}

fn section(group_number: u8, epoch: u64, count: u32, records: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; SECTION_HEADER_BYTES];
    bytes.extend_from_slice(records);
    let header = SectionHeader {
        bytes: records.len() as u32,
        epoch: Epoch::new(epoch),
        first_sequence: 1,
        count,
        group: group(group_number),
    };
    header.encode(&mut bytes);
    bytes
}

struct Writer {
    bytes: Vec<u8>,
    next_lsn: u64,
    prev_crc: u32,
}

impl Writer {
    fn frame(&mut self, incarnation: u64, flags: u16, records: u32, sections: &[Vec<u8>]) {
        let body = sections.concat();
        let mut frame = vec![0; padded(FRAME_HEADER_BYTES + body.len())];
        frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body.len()].copy_from_slice(&body);
        let header = FrameHeader {
            frame_crc: crc(&body),
            len: (FRAME_HEADER_BYTES + body.len()) as u32,
            incarnation,
            first_lsn: self.next_lsn,
            durable_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            record_count: records,
            place: place(SEGMENT, (self.bytes.len() / 4096) as u32),
            flags,
            section_count: sections.len() as u16,
        };
        self.prev_crc = header.encode(salt(LOG_ID), &mut frame);
        assert_eq!(FrameHeader::decode(&frame, salt(LOG_ID)).unwrap(), (header, self.prev_crc));
        self.next_lsn += header.lsn_count();
        self.bytes.extend_from_slice(&frame);
    }
}

/// CRC32C (polynomial 0x1EDC6F41, reflected), bit by bit: independent of the crate that the encoders use.
fn crc(bytes: &[u8]) -> u32 {
    let mut state = !0u32;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = if state & 1 == 1 { state >> 1 ^ 0x82f6_3b78 } else { state >> 1 };
        }
    }
    !state
}

/// One block of `NODE`, one of the manifest, then a segment.
fn golden() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    node().encode(&mut bytes);
    manifest().encode(&mut bytes[4096..]);
    let mut writer = Writer { bytes: Vec::new(), next_lsn: 0, prev_crc: 0 };
    writer.frame(1, FLAG_OPEN, 0, &[]);
    let mut first = Vec::new();
    KeyDef { event_id: 77, group: group(9), type_name: "bank.account", key: "alice" }.encode(1, &mut first);
    event(1, 1, b"deposited 40", b"command 1", RecordKind::Event, &mut first);
    event(1, 2, b"deposited 2", &[], RecordKind::Event, &mut first);
    event(1, 2, b"balance 42", &[], RecordKind::Snapshot, &mut first);
    let mut second = Vec::new();
    KeyDef { event_id: 77, group: group(63), type_name: "bank.account", key: "bob" }.encode(2, &mut second);
    event(2, 1, &[7; 5000], &[], RecordKind::Event, &mut second);
    writer.frame(1, 0, 6, &[section(9, 1, 4, &first), section(63, 5, 2, &second)]);
    writer.frame(1, FLAG_HEARTBEAT, 0, &[]);
    writer.frame(2, FLAG_OPEN, 0, &[]);
    writer.frame(2, FLAG_SEGMENT_END, 0, &[]);
    bytes.extend_from_slice(&writer.bytes);
    bytes
}

/// Entity, sequence, kind and payload of a record.
type Found = (u64, u64, RecordKind, Vec<u8>);

fn scan(segment: &[u8]) -> (Result<Tail, Refusal>, Vec<Found>) {
    let mut found = Vec::new();
    let mut scan = Scan::new(salt(LOG_ID), 2);
    let mut sink = |record: FoundRecord<'_>| {
        let header = record.view.header;
        assert_eq!(record.lsn, 1 + found.len() as u64);
        assert!((record.offset).is_multiple_of(16));
        found.push((header.entity, header.seq, header.kind, record.view.payload.to_vec()));
    };
    scan.begin_segment(SEGMENT, BLOCKS);
    // In small pieces, so that a frame is split between two of them.
    for block in segment.chunks(4096) {
        scan.push(block, &mut sink);
    }
    scan.end_segment(&mut sink);
    (scan.finish(0), found)
}

#[test]
fn the_format_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/log-v2.bin");
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::write(path, golden()).unwrap();
    }
    let committed = std::fs::read(path).unwrap();
    let today = golden();
    let differs = committed.iter().zip(&today).position(|(one, other)| one != other);
    assert_eq!((committed.len(), differs), (today.len(), None), "length and first byte that differs");

    assert_eq!(NodeFile::decode(&committed[..4096]), Ok(node()));
    assert_eq!(Manifest::decode(&committed[4096..8192]), Some(manifest()));
    let (tail, found) = scan(&committed[8192..]);
    let tail = tail.unwrap();
    assert_eq!((tail.next_lsn, tail.incarnation, tail.frames, tail.at), (10, 2, 5, None));
    assert_eq!(tail.groups[9], GroupTail { epoch: 1, records: 4 });
    assert_eq!(tail.groups[63], GroupTail { epoch: 5, records: 2 });
    let short: Vec<_> = found.iter().map(|(entity, seq, kind, _)| (*entity, *seq, *kind)).collect();
    let expected = [
        (1, 0, RecordKind::KeyDef),
        (1, 1, RecordKind::Event),
        (1, 2, RecordKind::Event),
        (1, 2, RecordKind::Snapshot),
        (2, 0, RecordKind::KeyDef),
        (2, 1, RecordKind::Event),
    ];
    assert_eq!(short, expected);
    assert_eq!(found[1].3, b"deposited 40");
    let def = KeyDef::decode(&found[4].3).unwrap();
    assert_eq!(def, KeyDef { event_id: 77, group: group(63), type_name: "bank.account", key: "bob" });
}

#[test]
fn every_flipped_bit_of_a_header_is_seen() {
    let bytes = golden();
    let segment = &bytes[8192..];
    for bit in 0..FRAME_HEADER_BYTES * 8 {
        let mut damaged = segment.to_vec();
        damaged[4096 + bit / 8] ^= 1 << (bit % 8);
        let (verdict, _) = scan(&damaged);
        let refused = matches!(verdict, Err(Refusal::Damaged { first_lsn: 1, segment: SEGMENT, from_byte: 4096, .. }));
        assert!(refused, "bit {bit}: {verdict:?}");
    }
}

#[test]
fn another_log_s_frames_are_no_frames() {
    let bytes = golden();
    let mut scan = Scan::new(salt(LOG_ID + 1), 2);
    scan.begin_segment(SEGMENT, BLOCKS);
    scan.push(&bytes[8192..], &mut |_| panic!("a record of another log"));
    scan.end_segment(&mut |_| {});
    assert_eq!(scan.finish(0).unwrap().frames, 0);
}
