//! `Log`: an open log's files and end, and the frame in flight.
//!
//! Invariant: one frame is in flight at a time, at the log's end, and the end moves only when it is durable. Shard thread only.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::format::checksum::crc32c;
use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, FileOp};
use shardstage::port::service::ServiceContext;

use crate::format::frame::{FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, padded, place};
use crate::format::manifest::{Manifest, unsealed_blocks};
use crate::limits::{BLOCK_BYTES, READER_FILES};
use crate::log::batch::Placed;
use crate::log::files::{OpenSegment, WriteMode, segment_path};
use crate::log::token::{Token, TokenKind};
use crate::recovery::{GroupTail, ScanPoint, SegmentSpan};
use crate::store::Held;

/// The frame that is on its way to the disk.
pub(super) struct InFlight {
    /// Its batch's number and effects; control frames have none.
    pub(super) batch: Option<u64>,
    pub(super) effects: Vec<Held>,
    pub(super) placed: Vec<Placed>,
    pub(super) flags: u16,
    pub(super) stored_bytes: usize,
    pub(super) lsn_count: u64,
    pub(super) since_ns: u64,
    pub(super) slow: bool,
}
/// What exists once the log is open.
pub(super) struct Log {
    pub(super) directory: FileId,
    pub(super) lock: FileId,
    pub(super) mode: WriteMode,
    pub(super) salt: u32,
    /// As it stands on the disk.
    pub(super) manifest: Manifest,
    pub(super) spans: Vec<SegmentSpan>,
    pub(super) incarnation: u64,
    pub(super) next_lsn: u64,
    pub(super) prev_crc: u32,
    pub(super) groups: Vec<GroupTail>,
    pub(super) active: OpenSegment,
    pub(super) block: u32,
    pub(super) active_ended: bool,
    /// The manifest on the disk says that the segment before the active one is sealed.
    pub(super) begun_is_listed: bool,
    pub(super) ready: VecDeque<OpenSegment>,
    pub(super) readers: BTreeMap<u64, FileId>,
    pub(super) buffer: Option<IoBuffer>,
    pub(super) in_flight: Option<InFlight>,
}
impl Log {
    pub(super) fn free_blocks(&self) -> usize {
        (self.active.blocks - self.block) as usize
    }

    /// Whether a frame of so many blocks may be written now: behind a segment's first blocks only when the manifest says that the
    /// one before is sealed.
    pub(super) fn may_write(&self, blocks: usize) -> bool {
        self.begun_is_listed || self.block as usize + blocks <= unsealed_blocks(self.active.blocks) as usize
    }

    /// Bytes that frames may still use, in the active segment and in spares.
    pub(super) fn room_bytes(&self) -> u64 {
        let in_flight = self.in_flight.as_ref().map_or(0, |frame| frame.stored_bytes as u64);
        let active = if self.active_ended { 0 } else { self.free_blocks() as u64 * BLOCK_BYTES as u64 };
        let spares = self.ready.iter().map(|segment| u64::from(segment.blocks) * BLOCK_BYTES as u64);
        active.saturating_sub(in_flight) + spares.sum::<u64>()
    }

    /// Makes the oldest spare the active segment.
    pub(super) fn activate_next(&mut self) -> bool {
        let Some(next) = self.ready.pop_front() else { return false };
        debug_assert!(next.id > self.active.id);
        // Reads of the ended segment go on over this handle.
        self.readers.insert(self.active.id, self.active.file);
        self.active = next;
        self.block = 0;
        self.active_ended = false;
        self.begun_is_listed = false;
        true
    }

    #[expect(clippy::too_many_arguments, reason = "one place writes frame headers")]
    pub(super) fn submit(
        &mut self,
        mut buffer: IoBuffer,
        len: usize,
        record_count: u32,
        section_count: u16,
        flags: u16,
        placed: Vec<Placed>,
        batch: Option<u64>,
        effects: Vec<Held>,
        cx: &mut ServiceContext<'_>,
    ) {
        assert!(self.in_flight.is_none(), "one frame is in flight at a time");
        let stored_bytes = padded(len);
        let blocks = stored_bytes / BLOCK_BYTES;
        assert!(blocks <= self.free_blocks(), "a frame fits into its segment");
        assert!(self.may_write(blocks), "a start looks for this frame");
        let flags = if blocks == self.free_blocks() { flags | FLAG_SEGMENT_END } else { flags };
        buffer[len..stored_bytes].fill(0);
        let header = FrameHeader {
            frame_crc: crc32c(&buffer[FRAME_HEADER_BYTES..len]),
            len: u32::try_from(len).expect("a frame is smaller than 4 GiB"),
            incarnation: self.incarnation,
            first_lsn: self.next_lsn,
            durable_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            record_count,
            place: place(self.active.id, self.block),
            flags,
            section_count,
        };
        self.prev_crc = header.encode(self.salt, &mut buffer);
        self.in_flight = Some(InFlight {
            batch,
            effects,
            placed,
            flags,
            stored_bytes,
            lsn_count: header.lsn_count(),
            since_ns: cx.now_ns(),
            slow: false,
        });
        let offset = u64::from(self.block) * BLOCK_BYTES as u64;
        let token = Token { kind: TokenKind::FrameWrite, value: 0 }.pack();
        cx.submit(token, self.active.file, FileOp::Write { offset, buffer, len: stored_bytes });
    }

    /// Moves the log's end behind a durable frame.
    pub(super) fn advance(&mut self, frame: &InFlight) {
        let first_lsn = self.next_lsn;
        self.next_lsn += frame.lsn_count;
        self.block += u32::try_from(frame.stored_bytes / BLOCK_BYTES).expect("a frame has few blocks");
        self.active_ended = frame.flags & FLAG_SEGMENT_END != 0;
        match self.spans.last_mut() {
            Some(span) if span.id == self.active.id => span.end_lsn = self.next_lsn,
            _ => self.spans.push(SegmentSpan { id: self.active.id, first_lsn, end_lsn: self.next_lsn }),
        }
    }

    /// The state before the next frame. Not before an incarnation's first one.
    pub(super) fn point(&self) -> ScanPoint {
        ScanPoint {
            next_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            incarnation: self.incarnation,
            segment: self.active.id,
            block: self.block,
            groups: self.groups.clone(),
            spans: self.spans.clone(),
        }
    }

    /// A segment's size; 0 when the manifest does not list it.
    pub(super) fn segment_bytes(&self, segment: u64) -> u64 {
        let listed = &self.manifest.segments;
        let found = listed.binary_search_by_key(&segment, |entry| entry.id);
        found.map_or(0, |at| u64::from(listed[at].blocks) * BLOCK_BYTES as u64)
    }

    /// A handle for reading a segment.
    pub(super) fn reader(
        &mut self,
        segment: u64,
        dir: &std::path::Path,
        cx: &mut ServiceContext<'_>,
    ) -> io::Result<FileId> {
        if segment == self.active.id {
            return Ok(self.active.file);
        }
        if let Some(file) = self.readers.get(&segment) {
            return Ok(*file);
        }
        if self.readers.len() >= READER_FILES
            && let Some((_, file)) = self.readers.pop_first()
        {
            cx.driver().close(file);
        }
        let file = cx.driver().open(&segment_path(dir, segment), self.mode.read())?;
        self.readers.insert(segment, file);
        Ok(file)
    }
}
