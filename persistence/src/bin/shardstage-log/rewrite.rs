//! `Rewriter`: writes records into a new log directory, frame by frame, with the encoders of the log itself.
//!
//! Invariant: `NODE` appears last, so a directory whose writing was interrupted is refused by an engine; records of one
//! command stand in one frame.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use shardstage_codec::{Epoch, GroupId};
use shardstage_persistence::format::checksum::crc32c;
use shardstage_persistence::format::frame::{
    FLAG_HEARTBEAT, FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, padded, place,
};
use shardstage_persistence::format::manifest::{Manifest, SegmentEntry, SegmentState};
use shardstage_persistence::format::node::{NODE_BYTES, NodeFile};
use shardstage_persistence::format::position::Position;
use shardstage_persistence::format::record::{KeyDef, RecordView, seal};
use shardstage_persistence::format::salt;
use shardstage_persistence::format::section::{SECTION_HEADER_BYTES, SectionHeader};
use shardstage_persistence::inspect::Entity;
use shardstage_persistence::limits::{BLOCK_BYTES, FRAME_BYTES, ZERO_CHUNK_BYTES};

use crate::Failure;
use crate::directory::{LOCK, MANIFESTS, NODE, NODE_STAGED, segment_name};

/// Encoded records of one command.
#[derive(Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Where each of them starts.
    starts: Vec<usize>,
}

impl Records {
    /// Adds a copy of this record.
    pub(crate) fn push(&mut self, view: &RecordView<'_>) {
        self.starts.push(self.bytes.len());
        view.header.encode_unsealed(view.payload, view.meta, &mut self.bytes);
    }
}

/// Records of one group under one epoch, for the open frame.
struct Part {
    group: GroupId,
    epoch: Epoch,
    /// Entities that have records here, with their key definitions encoded.
    keys: BTreeMap<u64, Vec<u8>>,
    bytes: Vec<u8>,
    /// Entity, start and end of each record in `bytes`.
    marks: Vec<(u64, usize, usize)>,
}

/// See the module's head.
pub(crate) struct Rewriter {
    dir: PathBuf,
    node: NodeFile,
    salt: u32,
    blocks: u32,
    segments: Vec<SegmentEntry>,
    file: Option<File>,
    block: u32,
    /// First LSN of the open segment.
    segment_lsn: u64,
    next_lsn: u64,
    prev_crc: u32,
    sequences: BTreeMap<u8, u64>,
    defined_in: BTreeMap<u64, u64>,
    /// Each entity's last record.
    tails: BTreeMap<u64, Position>,
    parts: Vec<Part>,
    worst_bytes: usize,
}

impl Rewriter {
    /// Makes the directory and begins the log's first segment of `blocks` blocks.
    pub(crate) fn begin(dir: &Path, node: NodeFile, blocks: u32) -> Result<Self, Failure> {
        fs::create_dir(dir).map_err(Failure::io(dir, "make the directory"))?;
        let mut log = Self {
            dir: dir.to_path_buf(),
            node,
            salt: salt(node.log_id),
            blocks,
            segments: Vec::new(),
            file: None,
            block: blocks,
            segment_lsn: 0,
            next_lsn: 0,
            prev_crc: 0,
            sequences: BTreeMap::new(),
            defined_in: BTreeMap::new(),
            tails: BTreeMap::new(),
            parts: Vec::new(),
            worst_bytes: FRAME_HEADER_BYTES,
        };
        log.next_segment()?;
        log.control(FLAG_OPEN)?;
        Ok(log)
    }

    /// Adds the encoded records of one command.
    pub(crate) fn add(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        number: u64,
        entity: &Entity,
        records: &Records,
    ) -> Result<(), Failure> {
        let def =
            KeyDef { event_id: entity.event_id, group: entity.group, type_name: &entity.type_name, key: &entity.key };
        let mut key = Vec::new();
        def.encode(number, &mut key);
        let cost = SECTION_HEADER_BYTES + key.len() + records.bytes.len();
        let quarter = self.blocks as usize * BLOCK_BYTES / 4;
        let limit = FRAME_BYTES.min(quarter / BLOCK_BYTES * BLOCK_BYTES);
        if self.worst_bytes + cost > limit && !self.parts.is_empty() {
            self.end_frame()?;
        }
        self.worst_bytes += cost;
        let at = match self.parts.iter().rposition(|part| part.group == group && part.epoch == epoch) {
            Some(at) => at,
            None => {
                self.parts.push(Part { group, epoch, keys: BTreeMap::new(), bytes: Vec::new(), marks: Vec::new() });
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        part.keys.entry(number).or_insert(key);
        let at = part.bytes.len();
        let ends = records.starts.iter().skip(1).copied().chain([records.bytes.len()]);
        part.marks.extend(records.starts.iter().zip(ends).map(|(start, end)| (number, at + start, at + end)));
        part.bytes.extend_from_slice(&records.bytes);
        Ok(())
    }

    /// Writes what was added as one frame.
    pub(crate) fn end_frame(&mut self) -> Result<(), Failure> {
        if self.parts.is_empty() {
            return Ok(());
        }
        if padded(self.worst_bytes) / BLOCK_BYTES > self.free_blocks() {
            self.control(FLAG_SEGMENT_END)?;
        }
        let segment = self.segments.last().map_or(0, |entry| entry.id);
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        let mut records = 0;
        let mut sections = 0u16;
        for part in std::mem::take(&mut self.parts) {
            let at = frame.len();
            frame.resize(at + SECTION_HEADER_BYTES, 0);
            let mut count = u32::try_from(part.marks.len()).expect("a frame holds fewer than 2^32 records");
            for (number, key) in &part.keys {
                if self.defined_in.insert(*number, segment) != Some(segment) {
                    frame.extend_from_slice(key);
                    count += 1;
                }
            }
            let records_at = frame.len();
            frame.extend_from_slice(&part.bytes);
            for (number, start, end) in &part.marks {
                let offset = u64::from(self.block) * BLOCK_BYTES as u64 + (records_at + start) as u64;
                let position = Position::new(segment, offset, end - start);
                let prev = self.tails.insert(*number, position);
                seal(&mut frame[records_at + start..records_at + end], prev);
            }
            let sequence = self.sequences.entry(part.group.get()).or_default();
            let header = SectionHeader {
                bytes: u32::try_from(frame.len() - at - SECTION_HEADER_BYTES).expect("a frame is smaller than 4 GiB"),
                epoch: part.epoch,
                first_sequence: *sequence + 1,
                count,
                group: part.group,
            };
            header.encode(&mut frame[at..]);
            *sequence += u64::from(count);
            records += count;
            sections += 1;
        }
        self.worst_bytes = FRAME_HEADER_BYTES;
        self.write(frame, records, sections, 0)
    }

    /// Ends the log and gives it its manifest and identity.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.end_frame()?;
        self.control(FLAG_HEARTBEAT)?;
        self.end_segment()?;
        let dir = self.dir.as_path();
        let manifest =
            Manifest { generation: 1, incarnation: 1, log_id: self.node.log_id, segments: self.segments.clone() };
        let mut bytes = vec![0; manifest.encoded_bytes().next_multiple_of(BLOCK_BYTES)];
        manifest.encode(&mut bytes);
        for name in MANIFESTS {
            write_new(&dir.join(name), &bytes)?;
        }
        write_new(&dir.join(LOCK), &[])?;
        let mut bytes = vec![0; BLOCK_BYTES];
        self.node.encode(&mut bytes[..NODE_BYTES]);
        let staged = dir.join(NODE_STAGED);
        write_new(&staged, &bytes)?;
        sync_dir(dir)?;
        fs::rename(&staged, dir.join(NODE)).map_err(Failure::io(&staged, "rename"))?;
        sync_dir(dir)?;
        dir.parent().map_or(Ok(()), |above| sync_dir(if above.as_os_str().is_empty() { Path::new(".") } else { above }))
    }

    fn free_blocks(&self) -> usize {
        (self.blocks - self.block) as usize
    }

    fn control(&mut self, flags: u16) -> Result<(), Failure> {
        self.write(vec![0; FRAME_HEADER_BYTES], 0, 0, flags)
    }

    fn write(&mut self, mut frame: Vec<u8>, records: u32, sections: u16, flags: u16) -> Result<(), Failure> {
        let len = frame.len();
        frame.resize(padded(len), 0);
        let blocks = frame.len() / BLOCK_BYTES;
        let flags = if blocks == self.free_blocks() { flags | FLAG_SEGMENT_END } else { flags };
        let segment = self.segments.last().map_or(0, |entry| entry.id);
        let header = FrameHeader {
            frame_crc: crc32c(&frame[FRAME_HEADER_BYTES..len]),
            len: u32::try_from(len).expect("a frame is smaller than 4 GiB"),
            incarnation: 1,
            first_lsn: self.next_lsn,
            durable_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            record_count: records,
            place: place(segment, self.block),
            flags,
            section_count: sections,
        };
        self.prev_crc = header.encode(self.salt, &mut frame);
        let path = self.dir.join(segment_name(segment));
        if let Some(file) = self.file.as_mut() {
            file.write_all(&frame).map_err(Failure::io(&path, "write"))?;
        }
        self.next_lsn += header.lsn_count();
        self.block += u32::try_from(blocks).expect("a frame has at most 256 blocks");
        if flags & FLAG_SEGMENT_END != 0 {
            self.end_segment()?;
            if let Some(entry) = self.segments.last_mut() {
                (entry.state, entry.first_lsn, entry.end_lsn) = (SegmentState::Sealed, self.segment_lsn, self.next_lsn);
            }
            self.next_segment()?;
        }
        Ok(())
    }

    fn next_segment(&mut self) -> Result<(), Failure> {
        let id = self.segments.last().map_or(1, |entry| entry.id + 1);
        let path = self.dir.join(segment_name(id));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        self.file = Some(file.map_err(Failure::io(&path, "make"))?);
        self.block = 0;
        let state = SegmentState::Ready;
        self.segment_lsn = self.next_lsn;
        self.segments.push(SegmentEntry { id, first_lsn: 0, end_lsn: 0, blocks: self.blocks, state });
        Ok(())
    }

    /// Writes zeros up to the segment's end and makes it durable.
    fn end_segment(&mut self) -> Result<(), Failure> {
        let path = self.dir.join(segment_name(self.segments.last().map_or(0, |entry| entry.id)));
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let mut left = self.free_blocks() * BLOCK_BYTES;
        let zeros = vec![0; ZERO_CHUNK_BYTES];
        while left > 0 {
            let size = left.min(ZERO_CHUNK_BYTES);
            file.write_all(&zeros[..size]).map_err(Failure::io(&path, "write"))?;
            left -= size;
        }
        file.sync_all().map_err(Failure::io(&path, "sync"))?;
        Ok(())
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(Failure::io(path, "make"))?;
    file.write_all(bytes).map_err(Failure::io(path, "write"))?;
    file.sync_all().map_err(Failure::io(path, "sync"))
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Failure> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(Failure::io(dir, "sync the directory"))
}
