//! `LogDir`: the files of one log as they lie on the disk, opened for reading only.
//!
//! Invariant: nothing is created, written or removed. While a `LogDir` holds the lock, no engine can open the log.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use shardstage_persistence::format::checkpoint::{CheckpointEnd, CheckpointHead};
use shardstage_persistence::format::checksum::crc32c_append;
use shardstage_persistence::format::manifest::{MANIFEST_BYTES, Manifest, SegmentEntry, SegmentState};
use shardstage_persistence::format::node::{NODE_BYTES, NodeFile, NodeFileError};
use shardstage_persistence::format::{FORMAT_VERSION, salt};
use shardstage_persistence::limits::{BLOCK_BYTES, SCAN_CHUNK_BYTES};

use crate::Failure;
use crate::reader::{SegmentReader, read_full};

pub(crate) const NODE: &str = "NODE";
pub(crate) const NODE_STAGED: &str = "NODE.new";
pub(crate) const LOCK: &str = "LOCK";
pub(crate) const MANIFESTS: [&str; 2] = ["MANIFEST.a", "MANIFEST.b"];

/// Who has the log.
#[derive(Debug)]
pub(crate) enum Lock {
    /// Nobody; this process shares it with other readers until it ends.
    Ours(#[expect(dead_code, reason = "holds the lock")] File),
    /// An engine.
    Engine,
    /// There is no lock file: no engine ever finished opening this log here.
    Absent,
}

/// A segment, listed or found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) entry: SegmentEntry,
    /// Bytes of the file; `None` when it is missing.
    pub(crate) len: Option<u64>,
}

/// What the first block of a segment file says that no manifest lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// Nothing was written yet.
    Empty,
    /// It holds something.
    Used,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct LogDir {
    pub(crate) path: PathBuf,
    pub(crate) lock: Lock,
    pub(crate) node: Result<NodeFile, String>,
    /// The slots, and why one is no manifest of this log.
    pub(crate) slots: [Result<Manifest, String>; 2],
    /// The newest valid manifest; when there is none, what the segment files themselves tell.
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<SegmentFile>,
    /// Segment files that no manifest lists, with their length and what their first block says.
    pub(crate) strangers: Vec<(String, u64, Stranger)>,
    /// Checkpoints: name, bytes, and what it tells or why it tells nothing.
    pub(crate) checkpoints: Vec<(String, u64, Result<CheckpointHead, String>)>,
    /// Everything else.
    pub(crate) others: Vec<(String, u64)>,
}

/// The logs in `dir`: itself, or each `log-<shard>` in it, by shard.
pub(crate) fn logs(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let names = names(dir)?;
    let is_log = |names: &[String]| names.iter().any(|name| name == NODE || segment_id(name).is_some());
    if is_log(&names) {
        return Ok(vec![dir.to_path_buf()]);
    }
    let mut shards: Vec<u16> = names.iter().filter_map(|name| name.strip_prefix("log-")?.parse().ok()).collect();
    shards.sort_unstable();
    if shards.is_empty() {
        let why =
            format!("{}: neither a log (no {NODE}, no segments) nor a directory of logs (no log-0)", dir.display());
        return Err(Failure::Refused(why));
    }
    Ok(shards.into_iter().map(|shard| dir.join(format!("log-{shard}"))).collect())
}

fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(dir).map_err(Failure::io(dir, "list the directory"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Failure::io(dir, "list the directory"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The file name of a segment.
pub(crate) fn segment_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

fn segment_id(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
    (segment_name(id) == name).then_some(id)
}

impl LogDir {
    /// Reads identity, manifests and the list of files. With `beside_engine`, a running engine is no obstacle.
    pub(crate) fn open(path: PathBuf, beside_engine: bool) -> Result<Self, Failure> {
        let names = names(&path)?;
        let lock = lock(&path)?;
        if matches!(lock, Lock::Engine) && !beside_engine {
            return Err(Failure::Refused(format!(
                "{}: a running engine has this log open; stop it, or use --live where the command takes it",
                path.display()
            )));
        }
        let node = read_node(&path);
        let slots = MANIFESTS.map(|name| read_manifest(&path.join(name), node.as_ref().ok().map(|node| node.log_id)));
        let newest = slots.iter().flatten().max_by_key(|manifest| manifest.generation).cloned();
        let found: Vec<(u64, u64)> =
            names.iter().filter_map(|name| Some((segment_id(name)?, file_len(&path.join(name))?))).collect();
        let listed = newest.is_some();
        let manifest = match newest {
            Some(manifest) => manifest,
            None => assumed(&found, node.as_ref().map_or(0, |node| node.log_id)),
        };
        let len_of = |id| found.iter().find(|(found, _)| *found == id).map(|(_, len)| *len);
        let segments =
            manifest.segments.iter().map(|entry| SegmentFile { entry: *entry, len: len_of(entry.id) }).collect();
        let mut log = Self {
            path,
            lock,
            node,
            slots,
            manifest,
            segments,
            strangers: Vec::new(),
            checkpoints: Vec::new(),
            others: Vec::new(),
        };
        if listed {
            log.find_strangers(&found)?;
        }
        for name in names.iter().filter(|name| name.starts_with("ckpt-")) {
            let path = log.path.join(name);
            let head = read_checkpoint(&path, log.manifest.log_id);
            log.checkpoints.push((name.clone(), file_len(&path).unwrap_or(0), head));
        }
        let known = |name: &str| {
            segment_id(name).is_some()
                || name.starts_with("ckpt-")
                || MANIFESTS.contains(&name)
                || [NODE, LOCK].contains(&name)
        };
        log.others = names
            .iter()
            .filter(|name| !known(name))
            .map(|name| (name.clone(), file_len(&log.path.join(name)).unwrap_or(0)))
            .collect();
        Ok(log)
    }

    /// The salt of the log's checksums.
    pub(crate) fn salt(&self) -> u32 {
        salt(self.manifest.log_id)
    }

    /// Whether a manifest was found, so that the segments are those that the log relies on.
    pub(crate) fn has_manifest(&self) -> bool {
        self.slots.iter().any(Result::is_ok)
    }

    /// Its name for reports.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    pub(crate) fn segment_path(&self, id: u64) -> PathBuf {
        self.path.join(segment_name(id))
    }

    fn find_strangers(&mut self, found: &[(u64, u64)]) -> Result<(), Failure> {
        for (id, len) in found {
            if self.manifest.segments.iter().any(|entry| entry.id == *id) {
                continue;
            }
            let mut first = vec![0; BLOCK_BYTES];
            let mut holes = Vec::new();
            let read = SegmentReader::open(self.segment_path(*id))?.fill(0, &mut first, &mut holes);
            let stranger = match holes.pop() {
                Some(hole) => Stranger::Unreadable(hole.why),
                None if read == BLOCK_BYTES && first.iter().any(|byte| *byte != 0) => Stranger::Used,
                None => Stranger::Empty,
            };
            self.strangers.push((segment_name(*id), *len, stranger));
        }
        Ok(())
    }
}

/// Without a manifest: the segment files that are there, in order, as long as they are.
fn assumed(found: &[(u64, u64)], log_id: u64) -> Manifest {
    let mut segments: Vec<SegmentEntry> = found
        .iter()
        .filter_map(|(id, len)| {
            let blocks = u32::try_from(len / BLOCK_BYTES as u64).ok()?;
            Some(SegmentEntry { id: *id, first_lsn: 0, end_lsn: 0, blocks, state: SegmentState::Ready })
        })
        .collect();
    segments.sort_unstable_by_key(|entry| entry.id);
    Manifest { generation: 0, incarnation: u64::MAX, log_id, segments }
}

fn lock(dir: &Path) -> Result<Lock, Failure> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
        Err(error) => return Err(Failure::io(&path, "open")(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Lock::Ours(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Engine),
        Err(TryLockError::Error(error)) => Err(Failure::io(&path, "take the lock")(error)),
    }
}

fn file_len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|data| data.len())
}

fn read_node(dir: &Path) -> Result<NodeFile, String> {
    let bytes = read_small(&dir.join(NODE), BLOCK_BYTES)?;
    NodeFile::decode(&bytes[..bytes.len().min(NODE_BYTES)]).map_err(|error| match error {
        NodeFileError::Damaged => "damaged".into(),
        NodeFileError::Version(version) => {
            format!("of format version {version}; this program reads {FORMAT_VERSION}")
        }
    })
}

fn read_manifest(path: &Path, log_id: Option<u64>) -> Result<Manifest, String> {
    let bytes = read_small(path, MANIFEST_BYTES)?;
    let manifest = Manifest::decode(&bytes).ok_or("damaged")?;
    if log_id.is_some_and(|ours| ours != manifest.log_id) {
        return Err(format!("of another log, {:016x}", manifest.log_id));
    }
    Ok(manifest)
}

/// Head, body and end of a checkpoint, checked piece by piece.
fn read_checkpoint(path: &Path, log_id: u64) -> Result<CheckpointHead, String> {
    let unreadable = |error: io::Error| format!("unreadable: {error}");
    let mut file = File::open(path).map_err(unreadable)?;
    let mut bytes = vec![0; BLOCK_BYTES];
    let damaged = || "damaged".to_owned();
    if read_full(&mut file, &mut bytes).map_err(unreadable)? < BLOCK_BYTES {
        return Err("too short".into());
    }
    bytes.resize(CheckpointHead::stored_bytes_of(&bytes).ok_or_else(damaged)?, 0);
    read_full(&mut file, &mut bytes[BLOCK_BYTES..]).map_err(unreadable)?;
    let head = CheckpointHead::decode(&bytes).ok_or_else(damaged)?;
    if head.log_id != log_id {
        return Err(format!("of another log, {:016x}", head.log_id));
    }
    let len = file.metadata().map_err(unreadable)?.len();
    let mut left = len.checked_sub((bytes.len() + BLOCK_BYTES) as u64).ok_or("too short")?;
    let mut crc = 0;
    let mut chunk = vec![0; SCAN_CHUNK_BYTES];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(SCAN_CHUNK_BYTES);
        if read_full(&mut file, &mut chunk[..size]).map_err(unreadable)? < size {
            return Err("too short".into());
        }
        crc = crc32c_append(crc, &chunk[..size]);
        left -= size as u64;
    }
    read_full(&mut file, &mut chunk[..BLOCK_BYTES]).map_err(unreadable)?;
    let end = CheckpointEnd::decode(&chunk[..BLOCK_BYTES]).ok_or_else(damaged)?;
    if end.body_crc != crc {
        return Err("damaged".into());
    }
    Ok(head)
}

fn read_small(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(most as u64).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("missing".into()),
        Err(error) => Err(format!("unreadable: {error}")),
    }
}
