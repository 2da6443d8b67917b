//! Opening a log: lock, identity, manifest, scan, new incarnation. One async procedure, run before any actor.
//!
//! Order of effects on the disk: nothing is changed until the scan accepted the log; then the last frame's segment is
//! synced, the manifest gets the higher incarnation, and only then may the incarnation's first frame be written.
//!
//! Invariant: whatever is missing, damaged or foreign ends in an [`OpenError`] that names it, with the files untouched.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, OpenOptions};
use shardstage::port::service::ServiceSeat;

use super::desk::{Desk, Syncing};
use super::files::{
    LOCK, MANIFESTS, NODE, NODE_STAGED, OpenSegment, PrepareError, WriteMode, list_segment, prepare_segment, read_all,
    segment_id, segment_name, segment_path, write_manifest, write_new,
};
use super::index::EntityIndex;
use super::probe::{ProbeReport, probe};
use super::scan::{Scanned, scan};
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::format::node::{NODE_BYTES, NodeFile, NodeFileError};
use crate::limits::{BLOCK_BYTES, GROUPS};
use crate::recovery::{Refusal, SegmentSpan, Tail};

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
pub(super) fn at<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError + 'a {
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
    let syncs = begin_sync_directories(&desk, dir, directory).await?;
    refuse_strangers(&desk, &plan, mode, &manifest, &names).await?;
    let scanned = scan(&desk, &plan, mode, &manifest, &names).await?;
    end_sync_directories(&desk, syncs).await?;
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

/// Begins to make the directory and every entry on the way to it durable. At every start: an interrupted one may have made
/// them. The log is read meanwhile.
async fn begin_sync_directories(
    desk: &Desk,
    dir: &Path,
    directory: FileId,
) -> Result<Vec<(PathBuf, Option<FileId>, Syncing)>, OpenError> {
    let mut syncs = vec![(dir.to_path_buf(), None, desk.begin_sync(directory))];
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let options = OpenOptions { directory: true, ..OpenOptions::default() };
        let file = match desk.open(above.to_path_buf(), options).await {
            Ok(file) => file,
            // Nothing was made in a directory that this process may not even read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(at(above, "open the directory")(error)),
        };
        syncs.push((above.to_path_buf(), Some(file), desk.begin_sync(file)));
    }
    Ok(syncs)
}

async fn end_sync_directories(desk: &Desk, syncs: Vec<(PathBuf, Option<FileId>, Syncing)>) -> Result<(), OpenError> {
    for (path, file, sync) in syncs {
        let synced = sync.done().await;
        if let Some(file) = file {
            desk.close(file).await;
        }
        synced.map_err(at(&path, "sync the directory"))?;
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
