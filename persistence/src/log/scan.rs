//! Scanning the log at a start: its segments go through the rule of [`crate::recovery`], from the newest checkpoint on or all of them.
//!
//! Several reads are in flight while what has arrived is checked. Invariant: only a scan of the whole log decides that it is
//! refused, and nothing is changed on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::FileId;

use super::checkpoint::{self, Checkpoint};
use super::desk::{Desk, ReadAhead};
use super::files::{WriteMode, read_stream, segment_name, segment_path};
use super::index::EntityIndex;
use super::open::{OpenError, OpenPlan, at};
use crate::format::checksum::crc32c;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState, unsealed_blocks};
use crate::format::salt;
use crate::limits::{BLOCK_BYTES, SCAN_BUFFERS, SCAN_CHUNK_BYTES, SCAN_DEPTH};
use crate::recovery::{Refusal, Scan, ScanPoint, SegmentSpan, Tail};

/// What scanning found.
pub(super) struct Scanned {
    pub(super) tail: Tail,
    pub(super) index: EntityIndex,
    pub(super) records: u64,
    /// LSN of the checkpoint that the scan went on from.
    pub(super) checkpoint: Option<u64>,
}

/// Reads the newest checkpoint that can be used and the log from there; or the whole log. Only a scan of the whole log decides
/// that it is refused.
pub(super) async fn scan(
    desk: &Desk,
    plan: &OpenPlan,
    mode: WriteMode,
    manifest: &Manifest,
    names: &[String],
) -> Result<Scanned, OpenError> {
    let dir = plan.dir.as_path();
    let missing = manifest.segments.iter().find(|entry| !names.contains(&segment_name(entry.id)));
    if let Some(entry) = missing {
        let path = segment_path(dir, entry.id);
        return Err(OpenError::Missing(format!(
            "{}: the manifest lists this segment, but it is missing",
            path.display()
        )));
    }
    for lsn in checkpoint::newest_first(names) {
        let Some(found) = checkpoint::read(desk, dir, mode, manifest.log_id, lsn).await else { continue };
        let Checkpoint { point, index, end_lsn } = found;
        match scan_from(desk, plan, mode, manifest, Some(point), index).await {
            Ok(scanned) if scanned.tail.frames > 0 && scanned.tail.next_lsn >= end_lsn => {
                return Ok(Scanned { checkpoint: Some(lsn), ..scanned });
            }
            Ok(_) | Err(OpenError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    scan_from(desk, plan, mode, manifest, None, EntityIndex::new(manifest.log_id)).await
}

/// Reads listed segments through the [`Scan`], from `point` on.
async fn scan_from(
    desk: &Desk,
    plan: &OpenPlan,
    mode: WriteMode,
    manifest: &Manifest,
    point: Option<ScanPoint>,
    mut index: EntityIndex,
) -> Result<Scanned, OpenError> {
    let start = point.as_ref().map_or((0, 0), |point| (point.segment, point.block));
    let salt = salt(manifest.log_id);
    let mut scan = match point {
        Some(point) => Scan::resume(salt, manifest.incarnation, point),
        None => Scan::new(salt, manifest.incarnation),
    };
    scan.plant_cut_at_first_bad(plan.cut_at_first_bad);
    let mut records = 0u64;
    let mut contradiction: Option<Refusal> = None;
    let mut sink = |found: crate::recovery::FoundRecord<'_>| {
        records += 1;
        if let Err(what) = index.replay(&found)
            && contradiction.is_none()
        {
            contradiction = Some(Refusal::Malformed { segment: found.segment, byte: found.offset, what });
        }
    };
    let mut pieces = Pieces::new(with_ends(manifest).filter(|(entry, _)| entry.id >= start.0), start);
    let mut reads: VecDeque<(ScanPiece, ReadAhead)> = VecDeque::new();
    let mut spares = Spares::default();
    loop {
        // Reads that were in flight together often end together: the next ones leave before these are checked.
        if let Some((_, read)) = reads.front() {
            read.arrived().await;
        }
        let mut in_flight = reads.iter().filter(|(_, read)| !read.has_arrived()).count();
        while in_flight < SCAN_DEPTH
            && reads.len() < SCAN_BUFFERS
            && let Some(piece) = pieces.next(desk, plan.dir.as_path(), mode).await?
        {
            let (buffer, is_new) = spares.take(piece.len);
            reads.push_back((piece, desk.read(piece.file, piece.offset, buffer)));
            in_flight += 1;
            if is_new {
                // Memory that is touched for the first time takes as long as the disk for as many bytes: it works meanwhile.
                desk.next_turn().await;
            }
        }
        let Some((piece, read)) = reads.pop_front() else { break };
        if piece.first {
            let block = u32::try_from(piece.offset / BLOCK_BYTES as u64).expect("a segment has fewer than 2^32 blocks");
            scan.begin_segment_at(piece.segment.id, piece.segment.blocks, block);
        }
        desk.next_turn().await;
        let path = || segment_path(plan.dir.as_path(), piece.segment.id);
        let chunk = read.done().await.map_err(|error| {
            let bytes = piece.offset..piece.offset + piece.len as u64;
            let error = io::Error::new(error.kind(), format!("bytes {bytes:?}: {error}"));
            OpenError::Io { path: path(), what: "read", error }
        })?;
        scan.push(&chunk, &mut sink);
        spares.keep(chunk);
        if piece.last {
            // Where the manifest says nothing of a segment, there is nothing behind its first blocks, unless the log goes on.
            let (start, end) = (piece.offset + piece.len as u64, segment_end(piece.segment));
            if scan.accepts() && start < end {
                let each = |bytes: &[u8]| scan.push(bytes, &mut sink);
                let read = read_stream(desk, piece.file, start, end, each).await;
                read.map_err(|error| OpenError::Io { path: path(), what: "read", error })?;
            }
            scan.end_segment(&mut sink);
            desk.close(piece.file).await;
        }
    }
    let sealed_lsn = manifest.segments.iter().map(|entry| entry.end_lsn).max().unwrap_or(0);
    let tail = scan.finish(sealed_lsn).map_err(OpenError::Refused)?;
    if let Some(refusal) = contradiction.or_else(|| contradicts_manifest(manifest, &tail.spans)) {
        return Err(OpenError::Refused(refusal));
    }
    read_end_again(desk, plan, mode, &tail).await?;
    Ok(Scanned { tail, index, records, checkpoint: None })
}

/// A log that seems to end where another read finds something else does not end there: a device that gives what a place held
/// earlier, or another place's bytes, must not make acknowledged records vanish.
async fn read_end_again(desk: &Desk, plan: &OpenPlan, mode: WriteMode, tail: &Tail) -> Result<(), OpenError> {
    let (Some((segment, block)), Some((len, crc))) = (tail.at, tail.ends_with) else { return Ok(()) };
    let path = segment_path(plan.dir.as_path(), segment);
    let file = desk.open(path.clone(), mode.read()).await.map_err(at(&path, "open"))?;
    let offset = u64::from(block) * BLOCK_BYTES as u64;
    let again = desk.read(file, offset, IoBuffer::zeroed(len)).done().await;
    desk.close(file).await;
    let again = again.map_err(at(&path, "read"))?;
    if crc32c(&again[..len]) == crc {
        return Ok(());
    }
    let why = format!("two reads of byte {offset} gave different bytes; the device cannot be trusted");
    Err(at(&path, "find the log's end")(io::Error::other(why)))
}

fn segment_end(entry: SegmentEntry) -> u64 {
    u64::from(entry.blocks) * BLOCK_BYTES as u64
}

/// The listed segments, each with the byte behind the part of it that may hold frames; see [`unsealed_blocks`]. The first one
/// has none before it that could be sealed.
fn with_ends(manifest: &Manifest) -> impl Iterator<Item = (SegmentEntry, u64)> {
    let begun =
        std::iter::once(true).chain(manifest.segments.iter().map(|before| before.state == SegmentState::Sealed));
    manifest.segments.iter().zip(begun).map(|(entry, begun)| {
        let blocks = if begun { entry.blocks } else { unsealed_blocks(entry.blocks) };
        (*entry, u64::from(blocks) * BLOCK_BYTES as u64)
    })
}

/// Buffers of reads that were checked.
#[derive(Default)]
struct Spares(Vec<IoBuffer>);

impl Spares {
    /// A buffer of this length, and whether it is new.
    fn take(&mut self, len: usize) -> (IoBuffer, bool) {
        match self.0.iter().position(|buffer| buffer.len() == len) {
            Some(at) => (self.0.swap_remove(at), false),
            None => (IoBuffer::zeroed(len), true),
        }
    }

    fn keep(&mut self, buffer: IoBuffer) {
        if self.0.len() < SCAN_BUFFERS {
            self.0.push(buffer);
        }
    }
}

/// One read of a scan.
#[derive(Clone, Copy)]
struct ScanPiece {
    segment: SegmentEntry,
    file: FileId,
    offset: u64,
    len: usize,
    /// The first of its segment, or of the scan.
    first: bool,
    /// The last that its segment needs, as long as the log has ended.
    last: bool,
}

/// Cuts segments into reads, in order, and opens their files when they are wanted.
struct Pieces<I> {
    segments: I,
    start: (u64, u32),
    open: Option<(SegmentEntry, FileId, u64, u64)>,
}

impl<I: Iterator<Item = (SegmentEntry, u64)>> Pieces<I> {
    fn new(segments: I, start: (u64, u32)) -> Self {
        Self { segments, start, open: None }
    }

    async fn next(&mut self, desk: &Desk, dir: &Path, mode: WriteMode) -> Result<Option<ScanPiece>, OpenError> {
        let mut first = false;
        if self.open.is_none() {
            let Some((segment, end)) = self.segments.next() else { return Ok(None) };
            let file = open_listed(desk, &segment_path(dir, segment.id), mode, segment).await?;
            let block = if segment.id == self.start.0 { self.start.1 } else { 0 };
            let offset = u64::from(block) * BLOCK_BYTES as u64;
            let end = if offset < end { end } else { segment_end(segment) };
            self.open = Some((segment, file, offset, end));
            first = true;
        }
        let Some((segment, file, offset, end)) = self.open else { return Ok(None) };
        let len = usize::try_from(end.saturating_sub(offset).min(SCAN_CHUNK_BYTES as u64)).expect("a chunk fits usize");
        if len == 0 {
            let what = "the checkpoint's frame lies behind its segment";
            return Err(OpenError::Refused(Refusal::Malformed { segment: segment.id, byte: offset, what }));
        }
        let last = offset + len as u64 == end;
        self.open = (!last).then_some((segment, file, offset + len as u64, end));
        Ok(Some(ScanPiece { segment, file, offset, len, first, last }))
    }
}

/// Opens a listed segment, which must be there and long enough.
async fn open_listed(desk: &Desk, path: &Path, mode: WriteMode, entry: SegmentEntry) -> Result<FileId, OpenError> {
    let file = match desk.open(path.to_path_buf(), mode.read()).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing(format!(
                "{}: the manifest lists this segment, but it is missing",
                path.display()
            )));
        }
        Err(error) => return Err(at(path, "open")(error)),
    };
    let expected = u64::from(entry.blocks) * BLOCK_BYTES as u64;
    let len = desk.length(file).await.map_err(at(path, "get the length"))?;
    if len < expected {
        desk.close(file).await;
        return Err(OpenError::Missing(format!(
            "{}: the segment has {len} bytes, the manifest says {expected}",
            path.display()
        )));
    }
    Ok(file)
}

/// A sealed segment must hold exactly the LSNs that the manifest says.
fn contradicts_manifest(manifest: &Manifest, spans: &[SegmentSpan]) -> Option<Refusal> {
    let by_id: BTreeMap<u64, &SegmentSpan> = spans.iter().map(|span| (span.id, span)).collect();
    manifest.segments.iter().filter(|entry| entry.state == SegmentState::Sealed).find_map(|entry| {
        let same =
            by_id.get(&entry.id).is_some_and(|span| (span.first_lsn, span.end_lsn) == (entry.first_lsn, entry.end_lsn));
        (!same).then_some(Refusal::Malformed {
            segment: entry.id,
            byte: 0,
            what: "the sealed segment does not hold the LSNs that the manifest says",
        })
    })
}
