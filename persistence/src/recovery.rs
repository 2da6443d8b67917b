//! `Scan`: the rule that decides where the log ends, over bytes alone. The opener feeds it every listed segment in order.
//!
//! A frame is accepted when header and frame checksum, place, LSN, predecessor and incarnation fit. At the first block where
//! no such frame starts, the log ends or is damaged, and later blocks decide which: a frame there that was sealed when a
//! higher LSN was already durable proves that acknowledged records are missing (refuse); without one, the rest is
//! a torn tail that nobody was told about (cut). With one frame in flight, only the frame after the last accepted one can be
//! torn, so every later frame is such a proof.
//!
//! Invariant: acknowledged records are either delivered, all of them, once and in order, or the scan ends in a [`Refusal`].
//! Damage to the last frame alone, before a heartbeat followed it, cannot be told from a torn tail.

use std::fmt;

use crate::format::checksum::crc32c;
use shardstage_codec::{Epoch, GroupId};

use crate::format::frame::{FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, HeaderError, padded, place};
use crate::format::is_zero;
use crate::format::record::{RecordError, RecordView, reserved_kind};
use crate::format::section::{SECTION_HEADER_BYTES, SectionHeader};
use crate::limits::{BLOCK_BYTES, GROUPS};

/// A record in an accepted frame.
#[derive(Clone, Copy, Debug)]
pub struct FoundRecord<'a> {
    /// The segment.
    pub segment: u64,
    /// Byte offset of the record's header in the segment.
    pub offset: u64,
    /// Its position in the log.
    pub lsn: u64,
    /// Its slot group.
    pub group: GroupId,
    /// The group's epoch when it was appended.
    pub epoch: Epoch,
    /// The record.
    pub view: RecordView<'a>,
}

/// Where a slot group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GroupTail {
    /// The highest epoch seen, 0 for none.
    pub epoch: u64,
    /// Records so far.
    pub records: u64,
}

/// The LSNs of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSpan {
    /// The segment.
    pub id: u64,
    /// LSN of its first frame.
    pub first_lsn: u64,
    /// LSN after its last frame.
    pub end_lsn: u64,
}

/// A state of a log, right before one of its frames: where a scan may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPoint {
    /// LSN of that frame.
    pub next_lsn: u64,
    /// `header_crc` of the frame before it.
    pub prev_crc: u32,
    /// Incarnation of the frame before it.
    pub incarnation: u64,
    /// Its segment.
    pub segment: u64,
    /// Its first block there.
    pub block: u32,
    /// The groups, by number.
    pub groups: Vec<GroupTail>,
    /// Segments that hold earlier frames.
    pub spans: Vec<SegmentSpan>,
}

/// What the scan found: where the log goes on.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The next LSN.
    pub next_lsn: u64,
    /// `header_crc` of the last accepted frame.
    pub prev_crc: u32,
    /// Incarnation of the last accepted frame.
    pub incarnation: u64,
    /// Segment and block of the next frame; `None`: block 0 of a segment after all scanned ones.
    pub at: Option<(u64, u32)>,
    /// The groups, by number.
    pub groups: Vec<GroupTail>,
    /// Segments that hold frames.
    pub spans: Vec<SegmentSpan>,
    /// Accepted frames.
    pub frames: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Whether bytes of an unfinished frame were cut off.
    pub torn: bool,
    /// What was found at `at` in place of a frame: how many bytes, and their CRC32C. Reading them again tells a log that ends
    /// from a read that went wrong.
    pub ends_with: Option<(usize, u32)>,
}

/// Why a log must not be opened. Nothing was changed on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Records that were acknowledged cannot be read.
    Damaged {
        /// First missing LSN.
        first_lsn: u64,
        /// LSN after the last one known to be missing.
        end_lsn: u64,
        /// Segment with the first unreadable block.
        segment: u64,
        /// Byte offset of that block in its segment.
        from_byte: u64,
        /// Where the proof stands (segment, byte offset); `None` when it is the manifest.
        proof: Option<(u64, u64)>,
    },
    /// A frame is whole, but its content contradicts the format: this program or the one that wrote it has a fault.
    Malformed {
        /// The segment.
        segment: u64,
        /// Byte offset in the segment.
        byte: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { first_lsn, end_lsn, segment, from_byte, proof } => {
                write!(
                    f,
                    "acknowledged records with LSN {first_lsn}..{end_lsn} are damaged: segment {segment:016x} from byte \
                     {from_byte}"
                )?;
                match proof {
                    Some((at, byte)) => write!(f, " (proved by the frame in segment {at:016x} at byte {byte})"),
                    None => f.write_str(" (proved by the manifest)"),
                }
            }
            Self::Malformed { segment, byte, what } => {
                write!(f, "segment {segment:016x} at byte {byte}: {what}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The next block must start the next frame.
    Accepting,
    /// A segment-end frame was accepted; the rest of this segment is unused.
    SegmentEnded,
    /// No frame started at (segment, block): looking for proof of damage.
    Probing { segment: u64, block: u32 },
}

/// The scan. See the module's head.
#[derive(Debug)]
pub struct Scan {
    salt: u32,
    max_incarnation: u64,
    mode: Mode,
    segment: u64,
    blocks: u32,
    block: u32,
    carry: Vec<u8>,
    next_lsn: u64,
    prev_crc: u32,
    incarnation: u64,
    groups: Vec<GroupTail>,
    spans: Vec<SegmentSpan>,
    frames: u64,
    bytes: u64,
    torn: bool,
    ends_with: Option<(usize, u32)>,
    proof: Option<(u64, u64, u64)>,
    malformed: Option<Refusal>,
    blind: bool,
}

impl Scan {
    /// A scan of the log with this salt, whose manifest says that it was started `max_incarnation` times.
    #[must_use]
    pub fn new(salt: u32, max_incarnation: u64) -> Self {
        Self {
            salt,
            max_incarnation,
            mode: Mode::Accepting,
            segment: 0,
            blocks: 0,
            block: 0,
            carry: Vec::new(),
            next_lsn: 0,
            prev_crc: 0,
            incarnation: 0,
            groups: vec![GroupTail::default(); GROUPS],
            spans: Vec::new(),
            frames: 0,
            bytes: 0,
            torn: false,
            ends_with: None,
            proof: None,
            malformed: None,
            blind: false,
        }
    }

    /// A scan from `point` on: it begins with [`begin_segment_at`](Self::begin_segment_at) there. What it accepts is as good as
    /// what a scan from the start accepts, if the point is right; so a refusal, or no accepted frame at all, says only that
    /// the whole log must be scanned.
    #[must_use]
    pub fn resume(salt: u32, max_incarnation: u64, point: ScanPoint) -> Self {
        let ScanPoint { next_lsn, prev_crc, incarnation, groups, spans, .. } = point;
        Self { next_lsn, prev_crc, incarnation, groups, spans, ..Self::new(salt, max_incarnation) }
    }

    /// The planted bug: stops at the first bad frame without looking further.
    #[doc(hidden)]
    pub fn plant_cut_at_first_bad(&mut self, blind: bool) {
        self.blind = blind;
    }

    /// The next bytes are the start of this segment.
    pub fn begin_segment(&mut self, id: u64, blocks: u32) {
        self.begin_segment_at(id, blocks, 0);
    }

    /// The next bytes are those of this segment from `block` on.
    pub fn begin_segment_at(&mut self, id: u64, blocks: u32, block: u32) {
        self.segment = id;
        self.blocks = blocks;
        self.block = block;
        self.carry.clear();
        if self.mode == Mode::SegmentEnded {
            self.mode = Mode::Accepting;
        }
    }

    /// Whole blocks of the segment, in order. Calls `sink` for each record of each accepted frame. Copies only frames
    /// that are split between two calls.
    pub fn push<F>(&mut self, mut bytes: &[u8], sink: &mut F)
    where
        F: FnMut(FoundRecord<'_>) + ?Sized,
    {
        debug_assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
        while !self.carry.is_empty() && !bytes.is_empty() {
            // The frame that began in an earlier call gets what it lacks, and nothing more is copied.
            let lacks = self.carried_frame_bytes().saturating_sub(self.carry.len()).max(BLOCK_BYTES);
            let (rest, after) = bytes.split_at(lacks.min(bytes.len()));
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(rest);
            let used = self.consume(&carry, sink);
            carry.drain(..used);
            self.carry = carry;
            bytes = after;
        }
        let used = self.consume(bytes, sink);
        self.carry.extend_from_slice(&bytes[used..]);
    }

    /// Bytes on the disk of the frame whose first blocks are carried.
    fn carried_frame_bytes(&self) -> usize {
        FrameHeader::decode(&self.carry, self.salt).map_or(0, |(header, _)| padded(header.len as usize))
    }

    /// The segment has no more bytes.
    pub fn end_segment<F>(&mut self, sink: &mut F)
    where
        F: FnMut(FoundRecord<'_>) + ?Sized,
    {
        if self.mode == Mode::Accepting {
            self.mode = Mode::Probing { segment: self.segment, block: self.block };
            let rest = std::mem::take(&mut self.carry);
            self.consume(&rest, sink);
        }
        self.carry.clear();
    }

    /// Whether the next bytes must be the next frame: the log has not ended so far.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.mode == Mode::Accepting
    }

    /// The verdict. `sealed_lsn` is the end of the last sealed segment in the manifest, 0 for none.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn finish(self, sealed_lsn: u64) -> Result<Tail, Refusal> {
        if let Some(refusal) = self.malformed {
            return Err(refusal);
        }
        let at = match self.mode {
            Mode::Probing { segment, block } => Some((segment, block)),
            Mode::Accepting | Mode::SegmentEnded => None,
        };
        let proved = self.proof.map_or(0, |(durable_lsn, ..)| durable_lsn);
        let durable_lsn = proved.max(sealed_lsn);
        if durable_lsn > self.next_lsn {
            let (segment, block) = at.unwrap_or((self.segment, self.blocks));
            return Err(Refusal::Damaged {
                first_lsn: self.next_lsn,
                end_lsn: durable_lsn,
                segment,
                from_byte: u64::from(block) * BLOCK_BYTES as u64,
                proof: self.proof.map(|(_, segment, byte)| (segment, byte)),
            });
        }
        Ok(Tail {
            next_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            incarnation: self.incarnation,
            at,
            groups: self.groups,
            spans: self.spans,
            frames: self.frames,
            bytes: self.bytes,
            torn: self.torn,
            ends_with: self.ends_with,
        })
    }

    fn consume<F>(&mut self, bytes: &[u8], sink: &mut F) -> usize
    where
        F: FnMut(FoundRecord<'_>) + ?Sized,
    {
        let mut at = 0;
        while at + BLOCK_BYTES <= bytes.len() && self.malformed.is_none() {
            match self.mode {
                Mode::SegmentEnded => return bytes.len(),
                Mode::Probing { .. } => self.probe(&bytes[at..at + BLOCK_BYTES]),
                Mode::Accepting => match self.accept(&bytes[at..], sink) {
                    Step::Accepted(stored) => {
                        at += stored;
                        continue;
                    }
                    Step::Incomplete => return at,
                    Step::NoFrame => {
                        self.mode = Mode::Probing { segment: self.segment, block: self.block };
                        self.torn = !is_zero(&bytes[at..at + BLOCK_BYTES]);
                        self.ends_with = Some(self.refused_bytes(&bytes[at..]));
                        self.probe(&bytes[at..at + BLOCK_BYTES]);
                    }
                },
            }
            at += BLOCK_BYTES;
            self.block += 1;
        }
        bytes.len()
    }

    /// Looks for a frame that was sealed when more was durable than what was accepted.
    fn probe(&mut self, block: &[u8]) {
        let Ok((header, _)) = FrameHeader::decode(block, self.salt) else { return };
        // Wherever it stands, a frame of this log says the truth about what was durable: one that went astray and destroyed
        // what it hit proves that too.
        let proves = !self.blind && header.durable_lsn > self.next_lsn;
        if proves && self.proof.is_none_or(|(lsn, ..)| header.durable_lsn > lsn) {
            self.proof = Some((header.durable_lsn, self.segment, self.byte()));
        }
    }

    fn accept<F>(&mut self, bytes: &[u8], sink: &mut F) -> Step
    where
        F: FnMut(FoundRecord<'_>) + ?Sized,
    {
        let (header, crc) = match FrameHeader::decode(bytes, self.salt) {
            Ok(found) => found,
            Err(HeaderError::Unknown) => return self.malformed(0, "a newer format wrote this frame"),
            Err(_) => return Step::NoFrame,
        };
        let len = header.len as usize;
        let stored = padded(len);
        let opens = header.flags & FLAG_OPEN != 0;
        let incarnation_fits =
            if opens { header.incarnation > self.incarnation } else { header.incarnation == self.incarnation };
        let fits = header.place == place(self.segment, self.block)
            && header.first_lsn == self.next_lsn
            && header.durable_lsn <= header.first_lsn
            && header.prev_crc == self.prev_crc
            && incarnation_fits
            && stored / BLOCK_BYTES <= (self.blocks - self.block) as usize;
        if !fits {
            return Step::NoFrame;
        }
        if header.incarnation > self.max_incarnation {
            return self.malformed(0, "the frame's incarnation is newer than the manifest's");
        }
        if bytes.len() < stored {
            return Step::Incomplete;
        }
        if crc32c(&bytes[FRAME_HEADER_BYTES..len]) != header.frame_crc {
            return Step::NoFrame;
        }
        if let Err((at, what)) = self.sections(&header, &bytes[..len], sink) {
            return self.malformed(at, what);
        }
        self.extend_span(header.first_lsn, header.first_lsn + header.lsn_count());
        self.next_lsn = header.first_lsn + header.lsn_count();
        self.prev_crc = crc;
        self.incarnation = header.incarnation;
        self.frames += 1;
        self.bytes += stored as u64;
        #[expect(clippy::cast_possible_truncation, reason = "a frame has at most 256 blocks")]
        {
            self.block += (stored / BLOCK_BYTES) as u32;
        }
        if header.flags & FLAG_SEGMENT_END != 0 {
            self.mode = Mode::SegmentEnded;
        }
        Step::Accepted(stored)
    }

    /// Checks and delivers the sections of a whole frame.
    fn sections<F>(&mut self, header: &FrameHeader, frame: &[u8], sink: &mut F) -> Result<(), (usize, &'static str)>
    where
        F: FnMut(FoundRecord<'_>) + ?Sized,
    {
        let mut at = FRAME_HEADER_BYTES;
        let mut lsn = header.first_lsn;
        for _ in 0..header.section_count {
            let (section, body) =
                SectionHeader::decode(&frame[at..]).ok_or((at, "a section's length or checksum is wrong"))?;
            let group = self
                .groups
                .get_mut(usize::from(section.group.get()))
                .ok_or((at, "a section's group does not exist"))?;
            if section.epoch.get() == 0 || section.epoch.get() < group.epoch {
                return Err((at, "a section's epoch is below its group's"));
            }
            if section.first_sequence != group.records + 1 {
                return Err((at, "a section's sequence has a gap"));
            }
            group.epoch = section.epoch.get();
            group.records += u64::from(section.count);
            let mut offset = 0;
            for _ in 0..section.count {
                let record_at = at + SECTION_HEADER_BYTES + offset;
                let view = RecordView::decode(&body[offset..]).map_err(|error| match error {
                    RecordError::BadLength => (record_at, "a record's length is wrong"),
                    RecordError::BadCrc => (record_at, "a record's checksum is wrong"),
                    RecordError::UnknownKind(kind) => (record_at, reserved_kind(kind)),
                })?;
                sink(FoundRecord {
                    segment: self.segment,
                    offset: self.byte() + record_at as u64,
                    lsn,
                    group: section.group,
                    epoch: section.epoch,
                    view,
                });
                lsn += 1;
                offset += view.stored_bytes;
            }
            if offset != body.len() {
                return Err((at, "a section has bytes after its last record"));
            }
            at += SECTION_HEADER_BYTES + body.len();
        }
        if at != frame.len() || lsn != header.first_lsn + u64::from(header.record_count) {
            return Err((at, "the frame's length or record count does not match its sections"));
        }
        Ok(())
    }

    /// Length and checksum of the frame that was not accepted, or of its block when not even its header is.
    fn refused_bytes(&self, bytes: &[u8]) -> (usize, u32) {
        let frame = FrameHeader::decode(bytes, self.salt).map(|(header, _)| padded(header.len as usize));
        let len = frame.ok().filter(|len| *len <= bytes.len()).unwrap_or(BLOCK_BYTES);
        (len, crc32c(&bytes[..len]))
    }

    fn byte(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }

    fn malformed(&mut self, at: usize, what: &'static str) -> Step {
        self.malformed = Some(Refusal::Malformed { segment: self.segment, byte: self.byte() + at as u64, what });
        Step::NoFrame
    }

    fn extend_span(&mut self, first_lsn: u64, end_lsn: u64) {
        match self.spans.last_mut() {
            Some(span) if span.id == self.segment => span.end_lsn = end_lsn,
            _ => self.spans.push(SegmentSpan { id: self.segment, first_lsn, end_lsn }),
        }
    }
}

enum Step {
    Accepted(usize),
    /// The frame goes on after the bytes that are here.
    Incomplete,
    NoFrame,
}
