//! Opening a log: lock, identity, manifest, scan, new incarnation. One async procedure, run before any actor.
//!
//! Order of effects on the disk: nothing is changed until the scan accepted the log; then the last frame's segment is
//! synced, the manifest gets the higher incarnation, and only then may the incarnation's first frame be written.
//!
//! Invariant: whatever is missing, damaged or foreign ends in an [`OpenError`] that names it, with the files untouched.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::checksum::crc32c;
use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, OpenOptions};
use shardstage::port::service::ServiceSeat;

use super::checkpoint::{self, Checkpoint};
use super::desk::Desk;
use super::files::{
    LOCK, MANIFESTS, NODE, NODE_STAGED, OpenSegment, PrepareError, WriteMode, list_segment, prepare_segment, read_all,
    read_stream, segment_id, segment_name, segment_path, write_manifest, write_new,
};
use super::index::EntityIndex;
use super::probe::{ProbeReport, probe};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState, unsealed_blocks};
use crate::format::node::{NODE_BYTES, NodeFile, NodeFileError};
use crate::format::salt;
use crate::limits::{BLOCK_BYTES, GROUPS, SCAN_CHUNK_BYTES, SCAN_DEPTH};
use crate::recovery::{Refusal, Scan, ScanPoint, SegmentSpan, Tail};

/// Why a log was not opened. Its segments are as they were.
#[derive(Debug)]
pub enum OpenError {
    /// A file operation failed.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// Another process has the log open.
    Locked(PathBuf),
    /// The directory belongs to another node, shard or shard count, or to another format version.
    Foreign(String),
    /// A file that the log relies on is missing, too short or unreadable; names it.
    Missing(String),
    /// The scan refused.
    Refused(Refusal),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, what, error } => write!(f, "{}: cannot {what}: {error}", path.display()),
            Self::Locked(path) => write!(f, "{}: another process has this log open", path.display()),
            Self::Foreign(why) | Self::Missing(why) => f.write_str(why),
            Self::Refused(refusal) => write!(f, "the log is refused: {refusal}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// What opening needs.
#[derive(Clone, Debug)]
pub(crate) struct OpenPlan {
    pub(crate) dir: PathBuf,
    pub(crate) seat: ServiceSeat,
    pub(crate) segment_blocks: u32,
    /// The planted bug of that name.
    pub(crate) cut_at_first_bad: bool,
}

/// A log that is ready for the incarnation's first frame.
pub(crate) struct Opened {
    pub(crate) directory: FileId,
    pub(crate) lock: FileId,
    pub(crate) report: ProbeReport,
    pub(crate) manifest: Manifest,
    pub(crate) tail: Tail,
    pub(crate) records: u64,
    pub(crate) checkpoint: Option<u64>,
    pub(crate) index: EntityIndex,
    pub(crate) active: OpenSegment,
    pub(crate) active_block: u32,
    pub(crate) ready: VecDeque<OpenSegment>,
}

/// A manifest, and the slots in the order in which the next one is written: the slot that it is from comes last.
type Stored = (Manifest, [&'static str; 2]);

/// Adds path and purpose to an I/O error.
fn at<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |error| OpenError::Io { path: path.to_path_buf(), what, error }
}

/// Opens the log of `plan.seat`, making it when there is none.
pub(crate) async fn open(desk: Desk, plan: OpenPlan) -> Result<Opened, OpenError> {
    let dir = plan.dir.as_path();
    desk.create_dir(dir.to_path_buf()).await.map_err(at(dir, "create the directory"))?;
    let directory_options = OpenOptions { directory: true, ..OpenOptions::default() };
    let directory = desk.open(dir.to_path_buf(), directory_options).await.map_err(at(dir, "open the directory"))?;
    let names = desk.list(dir.to_path_buf()).await.map_err(at(dir, "list the directory"))?;
    let lock = lock(&desk, dir, &names).await?;
    let report = probe(&desk, dir).await.map_err(at(dir, "write a test block"))?;
    let mode = report.mode;
    let (manifest, slots): Stored = if names.iter().any(|name| name == NODE) {
        existing(&desk, &plan, mode).await?
    } else {
        (make(&desk, &plan, mode, directory, &names).await?, MANIFESTS)
    };
    sync_directories(&desk, dir, directory).await?;
    refuse_strangers(&desk, &plan, mode, &manifest, &names).await?;
    let scanned = scan(&desk, &plan, mode, &manifest, &names).await?;
    begin_incarnation(&desk, &plan, report, directory, lock, (manifest, slots), scanned).await
}

async fn lock(desk: &Desk, dir: &Path, names: &[String]) -> Result<FileId, OpenError> {
    let path = dir.join(LOCK);
    let create_new = !names.iter().any(|name| name == LOCK);
    let options = OpenOptions { write: true, lock: true, create_new, ..OpenOptions::default() };
    match desk.open(path.clone(), options).await {
        Ok(file) => Ok(file),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::AlreadyExists) => {
            Err(OpenError::Locked(path))
        }
        Err(error) => Err(at(&path, "take the lock")(error)),
    }
}

/// The newest manifest of a log that is there and ours.
async fn existing(desk: &Desk, plan: &OpenPlan, mode: WriteMode) -> Result<Stored, OpenError> {
    let path = plan.dir.join(NODE);
    let bytes = read_all(desk, path.clone(), mode).await.map_err(at(&path, "read"))?;
    let missing = || OpenError::Missing(format!("{}: the file vanished", path.display()));
    let node = NodeFile::decode(&bytes.ok_or_else(missing)?).map_err(|error| match error {
        NodeFileError::Damaged => OpenError::Missing(format!("{}: the file is damaged", path.display())),
        NodeFileError::Version(version) => OpenError::Foreign(format!(
            "{}: the log has format version {version}, this program reads {}",
            path.display(),
            crate::format::FORMAT_VERSION
        )),
    })?;
    let seat = &plan.seat;
    let expected = (seat.node.get(), seat.shard.get(), seat.shard_count, groups());
    if (node.node, node.shard, node.shard_count, node.groups) != expected {
        return Err(OpenError::Foreign(format!(
            "{}: the log belongs to node {}, shard {} of {}, with {} groups; it was opened by node {}, shard {} of {}, with \
             {} groups",
            path.display(),
            node.node,
            node.shard,
            node.shard_count,
            node.groups,
            expected.0,
            expected.1,
            expected.2,
            expected.3
        )));
    }
    let mut newest: Option<Stored> = None;
    let mut unreadable = None;
    for (name, other) in [(MANIFESTS[0], MANIFESTS[1]), (MANIFESTS[1], MANIFESTS[0])] {
        let path = plan.dir.join(name);
        let bytes = match read_all(desk, path.clone(), mode).await {
            Ok(bytes) => bytes,
            // As good as damaged: the other slot may have everything.
            Err(error) => {
                unreadable = unreadable.or(Some(at(&path, "read")(error)));
                continue;
            }
        };
        let Some(manifest) = bytes.and_then(|bytes| Manifest::decode(&bytes)) else { continue };
        let ours = manifest.log_id == node.log_id;
        if ours && newest.as_ref().is_none_or(|(older, _)| older.generation < manifest.generation) {
            newest = Some((manifest, [other, name]));
        }
    }
    newest.ok_or_else(|| {
        unreadable.unwrap_or_else(|| {
            OpenError::Missing(format!(
                "{}: neither {} nor {} is a valid manifest of this log",
                plan.dir.display(),
                MANIFESTS[0],
                MANIFESTS[1]
            ))
        })
    })
}

/// Makes a new log: manifest first, `NODE` last, so that a half-made log has no `NODE` and is made again.
async fn make(
    desk: &Desk,
    plan: &OpenPlan,
    mode: WriteMode,
    directory: FileId,
    names: &[String],
) -> Result<Manifest, OpenError> {
    let dir = plan.dir.as_path();
    if let Some(name) = names.iter().find(|name| segment_id(name).is_some()) {
        return Err(OpenError::Missing(format!("{}: {name} is there, but {NODE} is missing", dir.display())));
    }
    for name in names.iter().filter(|name| MANIFESTS.contains(&name.as_str()) || *name == NODE_STAGED) {
        let path = dir.join(name);
        desk.remove(path.clone()).await.map_err(at(&path, "remove the rest of an interrupted first start"))?;
    }
    let node = NodeFile {
        log_id: desk.random().await,
        node: plan.seat.node.get(),
        shard: plan.seat.shard.get(),
        shard_count: plan.seat.shard_count,
        groups: groups(),
    };
    let manifest = Manifest { generation: 1, incarnation: 0, log_id: node.log_id, segments: Vec::new() };
    write_manifest(desk, dir, directory, mode, MANIFESTS, &manifest).await.map_err(at(dir, "write the manifest"))?;
    let mut bytes = [0; NODE_BYTES];
    node.encode(&mut bytes);
    let staged = dir.join(NODE_STAGED);
    write_new(desk, staged.clone(), mode, &bytes).await.map_err(at(&staged, "write"))?;
    desk.sync(directory).await.map_err(at(dir, "sync the directory"))?;
    desk.rename(staged.clone(), dir.join(NODE)).await.map_err(at(&staged, "rename"))?;
    desk.sync(directory).await.map_err(at(dir, "sync the directory"))?;
    Ok(manifest)
}

/// Makes the directory and every entry on the way to it durable. At every start: an interrupted one may have made them.
async fn sync_directories(desk: &Desk, dir: &Path, directory: FileId) -> Result<(), OpenError> {
    desk.sync(directory).await.map_err(at(dir, "sync the directory"))?;
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let options = OpenOptions { directory: true, ..OpenOptions::default() };
        let file = match desk.open(above.to_path_buf(), options).await {
            Ok(file) => file,
            // Nothing was made in a directory that this process may not even read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(at(above, "open the directory")(error)),
        };
        let synced = desk.sync(file).await;
        desk.close(file).await;
        synced.map_err(at(above, "sync the directory"))?;
    }
    Ok(())
}

fn groups() -> u16 {
    const { assert!(GROUPS <= 256) };
    GROUPS as u16
}

/// A segment file that the manifest does not list is the rest of an interrupted preparation, unless it holds something.
async fn refuse_strangers(
    desk: &Desk,
    plan: &OpenPlan,
    mode: WriteMode,
    manifest: &Manifest,
    names: &[String],
) -> Result<(), OpenError> {
    for name in names {
        let Some(id) = segment_id(name) else { continue };
        if manifest.segments.iter().any(|entry| entry.id == id) {
            continue;
        }
        let path = plan.dir.join(name);
        let file = desk.open(path.clone(), mode.read()).await.map_err(at(&path, "open"))?;
        let len = desk.length(file).await;
        let first = match len {
            Ok(len) if len >= BLOCK_BYTES as u64 => {
                desk.read(file, 0, IoBuffer::zeroed(BLOCK_BYTES)).done().await.map(Some)
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        desk.close(file).await;
        let first = first.map_err(at(&path, "read"))?;
        if first.is_some_and(|block| block.iter().any(|byte| *byte != 0)) {
            return Err(OpenError::Missing(format!(
                "{}: the segment holds data, but no manifest lists it",
                path.display()
            )));
        }
    }
    Ok(())
}

/// What scanning found.
struct Scanned {
    tail: Tail,
    index: EntityIndex,
    records: u64,
    /// LSN of the checkpoint that the scan went on from.
    checkpoint: Option<u64>,
}

/// Reads the newest checkpoint that can be used and the log from there; or the whole log. Only a scan of the whole log decides
/// that it is refused.
async fn scan(
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
    let mut reads = VecDeque::new();
    let mut spare: Option<IoBuffer> = None;
    loop {
        while reads.len() < SCAN_DEPTH
            && let Some(piece) = pieces.next(desk, plan.dir.as_path(), mode).await?
        {
            let buffer = spare.take().filter(|buffer| buffer.len() == piece.len);
            let buffer = buffer.unwrap_or_else(|| IoBuffer::zeroed(piece.len));
            reads.push_back((piece, desk.read(piece.file, piece.offset, buffer)));
        }
        let Some((piece, read)) = reads.pop_front() else { break };
        if piece.first {
            let block = u32::try_from(piece.offset / BLOCK_BYTES as u64).expect("a segment has fewer than 2^32 blocks");
            scan.begin_segment_at(piece.segment.id, piece.segment.blocks, block);
        }
        desk.next_turn().await;
        let path = || segment_path(plan.dir.as_path(), piece.segment.id);
        let chunk = read.done().await.map_err(|error| OpenError::Io { path: path(), what: "read", error })?;
        scan.push(&chunk, &mut sink);
        spare = Some(chunk);
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

/// Marks every listed segment before `active` as sealed.
pub(crate) fn seal_entries(segments: &mut [SegmentEntry], spans: &[SegmentSpan], active: u64) {
    for entry in segments.iter_mut().filter(|entry| entry.state == SegmentState::Ready && entry.id < active) {
        if let Ok(at) = spans.binary_search_by_key(&entry.id, |span| span.id) {
            let span = &spans[at];
            (entry.first_lsn, entry.end_lsn, entry.state) = (span.first_lsn, span.end_lsn, SegmentState::Sealed);
        }
    }
}

async fn begin_incarnation(
    desk: &Desk,
    plan: &OpenPlan,
    report: ProbeReport,
    directory: FileId,
    lock: FileId,
    (mut manifest, slots): Stored,
    scanned: Scanned,
) -> Result<Opened, OpenError> {
    let dir = plan.dir.as_path();
    let Scanned { tail, index, records, checkpoint } = scanned;
    let mode = report.mode;
    // A frame that was accepted may still be in a volatile cache: make it durable before anybody can see it.
    if let Some(last) = tail.spans.last() {
        let path = segment_path(dir, last.id);
        let file = desk.open(path.clone(), mode.append()).await.map_err(at(&path, "open"))?;
        let synced = desk.sync(file).await;
        desk.close(file).await;
        synced.map_err(at(&path, "sync"))?;
    }
    let last_id = manifest.segments.last().map_or(0, |entry| entry.id);
    let active_id = tail.at.map_or(last_id + 1, |(segment, _)| segment);
    let active_block = tail.at.map_or(0, |(_, block)| block);
    seal_entries(&mut manifest.segments, &tail.spans, active_id);
    manifest.generation += 1;
    manifest.incarnation += 1;
    // The slot that the log was read from stays whole until the other one is: that one may be damaged.
    write_manifest(desk, dir, directory, mode, slots, &manifest).await.map_err(at(dir, "write the manifest"))?;
    let (active, manifest, ready) = if active_id > last_id {
        let prepared = first_segment(desk, dir, directory, mode, plan.segment_blocks, manifest).await;
        let (active, manifest) = prepared.map_err(|error| {
            let (PrepareError::Space(error) | PrepareError::Sync(error) | PrepareError::Manifest(error)) = error;
            OpenError::Io { path: segment_path(dir, active_id), what: "pre-write the first segment", error }
        })?;
        (active, manifest, VecDeque::new())
    } else {
        let mut ready = VecDeque::new();
        for entry in manifest.segments.iter().filter(|entry| entry.id >= active_id) {
            let path = segment_path(dir, entry.id);
            let file = desk.open(path.clone(), mode.append()).await.map_err(at(&path, "open"))?;
            ready.push_back(OpenSegment { id: entry.id, file, blocks: entry.blocks });
        }
        let active = ready.pop_front().ok_or_else(|| {
            OpenError::Missing(format!("{}: the manifest does not list {}", dir.display(), segment_name(active_id)))
        })?;
        if active_block >= active.blocks {
            let what = "the last frame of the segment does not say that it is the last";
            let byte = u64::from(active_block) * BLOCK_BYTES as u64;
            return Err(OpenError::Refused(Refusal::Malformed { segment: active_id, byte, what }));
        }
        (active, manifest, ready)
    };
    Ok(Opened { directory, lock, report, manifest, tail, records, checkpoint, index, active, active_block, ready })
}

/// A segment to begin with, where the log has none.
async fn first_segment(
    desk: &Desk,
    dir: &Path,
    directory: FileId,
    mode: WriteMode,
    blocks: u32,
    manifest: Manifest,
) -> Result<(OpenSegment, Manifest), PrepareError> {
    let unlisted = prepare_segment(desk, dir, directory, mode, blocks, &manifest).await?;
    let (segment, manifest) = list_segment(desk, dir, directory, mode, Some(unlisted), manifest).await?;
    Ok((segment.expect("it was given one to list"), manifest))
}
