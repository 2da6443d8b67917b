//! `Survey`: every frame and record of a log, including those behind damage.
//!
//! A frame is found by its header alone: magic, salted checksum and place make it what it says, wherever it stands. Blocks
//! between two found frames that hold none are damage, and the LSNs of both frames say exactly what is missing. Within
//! a frame whose checksum does not match, sections have checksums of their own: those that match are still delivered.
//!
//! Blocks that the disk does not give back are damage like blocks that hold no frame.
//!
//! Blocks behind the last frame are left to [`Scan`](crate::recovery::Scan)'s verdict: a torn tail or damage.
//!
//! Invariant: records are delivered in log order, and each of them stands under a checksum that matches.

use std::ops::Range;

use crate::format::checksum::crc32c;
use shardstage_codec::{Epoch, GroupId};

use crate::format::frame::{FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, HeaderError, padded, place};
use crate::format::is_zero;
use crate::format::record::RecordView;
use crate::format::section::{SECTION_HEADER_BYTES, SectionHeader};
use crate::limits::{BLOCK_BYTES, GROUPS};

/// A frame whose header and content are intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFrame {
    /// The segment.
    pub segment: u64,
    /// Byte offset of the frame in the segment.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Bytes on the disk, padding included.
    pub stored_bytes: u64,
}

/// A record that is intact.
#[derive(Clone, Copy, Debug)]
pub struct SeenRecord<'a> {
    /// The segment.
    pub segment: u64,
    /// Byte offset of the record's header in the segment.
    pub offset: u64,
    /// Its position in the log.
    pub lsn: u64,
    /// Incarnation of its frame.
    pub incarnation: u64,
    /// Its slot group.
    pub group: GroupId,
    /// The group's epoch when it was appended.
    pub epoch: Epoch,
    /// Whether its frame is damaged, and only its section vouches for it.
    pub salvaged: bool,
    /// The record.
    pub view: RecordView<'a>,
}

/// A place at which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u64,
    /// Bytes of the segment that are concerned.
    pub bytes: Range<u64>,
    /// LSNs that are missing or whose frame is damaged; `None` when the content is whole but contradicts the format.
    pub lsns: Option<Range<u64>>,
    /// What is wrong.
    pub what: &'static str,
}

/// What a survey comes across, in log order.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A frame; its records follow.
    Frame(SeenFrame),
    /// A record.
    Record(SeenRecord<'a>),
    /// Damage. When it is a damaged frame, what can be saved of it follows.
    Damage(Damage),
}

/// No log gets so far; a header that claims more is not believed.
const LSN_MAX: u64 = u64::MAX / 2;

type Sink<'s> = dyn FnMut(Seen<'_>) + 's;

/// Blocks that do not continue the log, until the next frame explains them.
#[derive(Debug)]
struct Broken {
    segment: u64,
    bytes: Range<u64>,
    what: &'static str,
    /// The last frame in them whose header is intact.
    frame: Option<(SeenFrame, Vec<u8>)>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Survey {
    salt: u32,
    segment: u64,
    blocks: u32,
    block: u32,
    ended: bool,
    carry: Vec<u8>,
    next_lsn: u64,
    prev_crc: u32,
    incarnation: u64,
    groups: Vec<(u64, Option<u64>)>,
    broken: Option<Broken>,
}

impl Survey {
    /// A survey of the log with this salt.
    #[must_use]
    pub fn new(salt: u32) -> Self {
        Self {
            salt,
            segment: 0,
            blocks: 0,
            block: 0,
            ended: false,
            carry: Vec::new(),
            next_lsn: 0,
            prev_crc: 0,
            incarnation: 0,
            groups: vec![(0, Some(0)); GROUPS],
            broken: None,
        }
    }

    /// The LSN after the last frame that was seen.
    #[must_use]
    pub fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    /// The next bytes are the start of this segment.
    pub fn begin_segment(&mut self, id: u64, blocks: u32) {
        self.segment = id;
        self.blocks = blocks;
        self.block = 0;
        self.ended = false;
        self.carry.clear();
    }

    /// Whole blocks of the segment, in order.
    pub fn push(&mut self, bytes: &[u8], sink: &mut Sink<'_>) {
        debug_assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
        let mut all = std::mem::take(&mut self.carry);
        all.extend_from_slice(bytes);
        let used = self.consume(&all, sink);
        all.drain(..used);
        self.carry = all;
    }

    /// The next `blocks` blocks of the segment cannot be read. What of a frame stands around them is judged by its checksums.
    /// Returns whether a frame may have begun there: not behind the segment's last one.
    pub fn push_unreadable(&mut self, blocks: u32, sink: &mut Sink<'_>) -> bool {
        for _ in 0..blocks {
            if self.ended {
                return false;
            }
            if self.carry.is_empty() {
                let from = self.byte();
                self.extend_broken(from..from + BLOCK_BYTES as u64, "blocks that cannot be read");
                self.block += 1;
            } else {
                // A frame began before and goes on here: as it is, only its intact sections count.
                self.push(&[0; BLOCK_BYTES], sink);
            }
        }
        true
    }

    /// The segment has no more bytes; when it is shorter than it should be, the rest counts as damage.
    pub fn end_segment(&mut self) {
        self.carry.clear();
        if self.block < self.blocks && !self.ended {
            let whole = self.byte()..u64::from(self.blocks) * BLOCK_BYTES as u64;
            self.extend_broken(whole, "the segment ends too early");
            self.block = self.blocks;
        }
    }

    /// The log has no more segments. `refused_lsn` is the end of what [`Scan`](crate::recovery::Scan) proved to be
    /// acknowledged, if it refused the log: what was broken at the end is then damage, else a torn tail and dropped.
    pub fn finish(&mut self, refused_lsn: Option<u64>, sink: &mut Sink<'_>) {
        let Some(end) = refused_lsn.filter(|end| *end > self.next_lsn) else { return };
        self.report_broken(end, sink);
        self.next_lsn = end;
    }

    fn consume(&mut self, bytes: &[u8], sink: &mut Sink<'_>) -> usize {
        let mut at = 0;
        while at + BLOCK_BYTES <= bytes.len() {
            if self.ended {
                return bytes.len();
            }
            let stored = match FrameHeader::decode(&bytes[at..], self.salt) {
                Ok((header, crc)) if self.is_here(&header) => {
                    let stored = padded(header.len as usize);
                    if bytes.len() - at < stored {
                        return at;
                    }
                    self.frame(header, crc, &bytes[at..at + stored], sink);
                    stored
                }
                found => {
                    let what = match found {
                        Ok(_) => "a frame that belongs elsewhere",
                        Err(HeaderError::Unknown) => "a frame of a newer format",
                        Err(HeaderError::NoMagic) => "no frame",
                        Err(HeaderError::BadCrc) => "a frame header whose checksum does not match",
                        Err(HeaderError::BadLength) => "a frame header with an impossible length",
                    };
                    let block = &bytes[at..at + BLOCK_BYTES];
                    let what = if is_zero(block) { "zeros where a frame should be" } else { what };
                    let from = self.byte();
                    self.extend_broken(from..from + BLOCK_BYTES as u64, what);
                    BLOCK_BYTES
                }
            };
            at += stored;
            #[expect(clippy::cast_possible_truncation, reason = "a frame has at most 256 blocks")]
            {
                self.block += (stored / BLOCK_BYTES) as u32;
            }
        }
        at
    }

    /// Whether the header belongs to this place, and to the log's future.
    fn is_here(&self, header: &FrameHeader) -> bool {
        let blocks = padded(header.len as usize) / BLOCK_BYTES;
        header.place == place(self.segment, self.block)
            && blocks <= (self.blocks - self.block) as usize
            && (self.next_lsn..=LSN_MAX).contains(&header.first_lsn)
            && header.incarnation >= self.incarnation
    }

    fn frame(&mut self, header: FrameHeader, crc: u32, bytes: &[u8], sink: &mut Sink<'_>) {
        let frame = SeenFrame { segment: self.segment, offset: self.byte(), header, stored_bytes: bytes.len() as u64 };
        let body = &bytes[..header.len as usize];
        if crc32c(&body[FRAME_HEADER_BYTES..]) != header.frame_crc {
            // Two damaged frames in a row: what can be saved of the first is due now.
            if self.broken.as_ref().is_some_and(|broken| broken.frame.is_some()) {
                self.report_broken(header.first_lsn, sink);
                self.next_lsn = header.first_lsn;
            }
            self.extend_broken(
                frame.offset..frame.offset + frame.stored_bytes,
                "a frame whose checksum does not match",
            );
            if let Some(broken) = self.broken.as_mut() {
                broken.frame = Some((frame, body.to_vec()));
            }
            return;
        }
        let gap = header.first_lsn > self.next_lsn;
        if gap || self.broken.is_some() {
            if !gap {
                // Broken blocks take LSNs; without a gap they are leftovers that no frame counts on.
                self.broken = None;
            }
            self.report_broken(header.first_lsn, sink);
        } else if header.prev_crc != self.prev_crc {
            let bytes = frame.offset..frame.offset + FRAME_HEADER_BYTES as u64;
            let what = "the frame does not follow the one before it";
            sink(Seen::Damage(Damage { segment: self.segment, bytes, lsns: None, what }));
        }
        let opens = header.flags & FLAG_OPEN != 0;
        if !gap && opens != (header.incarnation > self.incarnation) {
            let bytes = frame.offset..frame.offset + FRAME_HEADER_BYTES as u64;
            let what = "the frame's incarnation contradicts its open flag";
            sink(Seen::Damage(Damage { segment: self.segment, bytes, lsns: None, what }));
        }
        self.next_lsn = header.first_lsn + header.lsn_count();
        self.prev_crc = crc;
        self.incarnation = header.incarnation;
        self.ended = header.flags & FLAG_SEGMENT_END != 0;
        sink(Seen::Frame(frame));
        self.sections(&frame, body, false, sink);
    }

    fn report_broken(&mut self, next_lsn: u64, sink: &mut Sink<'_>) {
        let Some(broken) = self.broken.take() else {
            if next_lsn > self.next_lsn {
                let lsns = Some(self.next_lsn..next_lsn);
                let what = "frames are missing before this one";
                sink(Seen::Damage(Damage { segment: self.segment, bytes: self.byte()..self.byte(), lsns, what }));
                self.forget_sequences();
            }
            return;
        };
        self.forget_sequences();
        sink(Seen::Damage(Damage {
            segment: broken.segment,
            bytes: broken.bytes,
            lsns: Some(self.next_lsn..next_lsn),
            what: broken.what,
        }));
        if let Some((frame, body)) = broken.frame {
            self.sections(&frame, &body, true, sink);
        }
    }

    /// Delivers the sections whose checksums match; in a frame that is intact, anything else contradicts the format.
    fn sections(&mut self, frame: &SeenFrame, body: &[u8], salvage: bool, sink: &mut Sink<'_>) {
        let Some(found) = sections_of(body, &frame.header) else {
            if !salvage {
                self.malformed(frame, "the frame's sections do not match its header", sink);
            }
            return;
        };
        let mut lsn = frame.header.first_lsn;
        for section in found {
            if section.intact {
                self.section(frame, body, &section, lsn, salvage, sink);
            }
            lsn += u64::from(section.count);
        }
    }

    fn section(
        &mut self,
        frame: &SeenFrame,
        body: &[u8],
        section: &FoundSection,
        first_lsn: u64,
        salvaged: bool,
        sink: &mut Sink<'_>,
    ) {
        let Some((header, records)) = SectionHeader::decode(&body[section.at..]) else { return };
        let number = usize::from(header.group.get());
        let Some(group) = self.groups.get_mut(number) else {
            return self.malformed(frame, "a section's group does not exist", sink);
        };
        let (epoch_before, sequence_before) = *group;
        *group =
            (header.epoch.get(), Some(header.first_sequence.saturating_add(u64::from(header.count)).saturating_sub(1)));
        if header.epoch.get() == 0 || header.epoch.get() < epoch_before {
            self.malformed(frame, "a section's epoch is below its group's", sink);
        }
        if sequence_before.is_some_and(|last| header.first_sequence != last.saturating_add(1)) {
            self.malformed(frame, "a section's sequence has a gap", sink);
        }
        let mut offset = 0;
        for lsn in (first_lsn..).take(header.count as usize) {
            let Ok(view) = RecordView::decode(&records[offset..]) else {
                return self.malformed(frame, "a record within an intact section cannot be read", sink);
            };
            let at = section.at + SECTION_HEADER_BYTES + offset;
            sink(Seen::Record(SeenRecord {
                segment: frame.segment,
                offset: frame.offset + at as u64,
                lsn,
                incarnation: frame.header.incarnation,
                group: header.group,
                epoch: header.epoch,
                salvaged,
                view,
            }));
            offset += view.stored_bytes;
        }
        if offset != records.len() {
            self.malformed(frame, "a section has bytes after its last record", sink);
        }
    }

    fn malformed(&self, frame: &SeenFrame, what: &'static str, sink: &mut Sink<'_>) {
        let bytes = frame.offset..frame.offset + frame.stored_bytes;
        sink(Seen::Damage(Damage { segment: frame.segment, bytes, lsns: None, what }));
    }

    /// After damage, the groups' next sequences are not known.
    fn forget_sequences(&mut self) {
        for (_, sequence) in &mut self.groups {
            *sequence = None;
        }
    }

    fn extend_broken(&mut self, bytes: Range<u64>, what: &'static str) {
        match self.broken.as_mut() {
            Some(broken) if broken.segment == self.segment => broken.bytes.end = bytes.end,
            // The range names where it begins; that more segments are concerned, the LSNs say.
            Some(_) => {}
            None => self.broken = Some(Broken { segment: self.segment, bytes, what, frame: None }),
        }
    }

    fn byte(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }
}

struct FoundSection {
    at: usize,
    count: u32,
    intact: bool,
}

/// The sections of a frame, as far as their lengths and counts agree with the frame's header. At most one section whose
/// checksum fails is stepped over: what the others do not account for is then its length and count.
fn sections_of(body: &[u8], frame: &FrameHeader) -> Option<Vec<FoundSection>> {
    let mut found = Vec::new();
    let mut at = FRAME_HEADER_BYTES;
    for _ in 0..frame.section_count {
        let intact = SectionHeader::decode(body.get(at..)?);
        let (bytes, count) = match &intact {
            Some((header, _)) => (header.bytes, header.count),
            None => {
                let header = body.get(at..at + SECTION_HEADER_BYTES)?;
                (crate::format::u32_at(header, 4), crate::format::u32_at(header, 24))
            }
        };
        found.push(FoundSection { at, count, intact: intact.is_some() });
        at = at.checked_add(SECTION_HEADER_BYTES)?.checked_add(bytes as usize)?;
    }
    let records: u64 = found.iter().map(|section| u64::from(section.count)).sum();
    (at == body.len() && records == u64::from(frame.record_count)).then_some(found)
}
