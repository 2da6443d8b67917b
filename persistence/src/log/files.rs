//! The log's directory: names, write mode, manifest slots and new segments, as async steps over a [`Desk`].
//!
//! Invariant: a step returns only after what it did is durable, and only then may the caller rely on it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, OpenOptions};

use super::desk::Desk;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::limits::{BLOCK_BYTES, SCAN_CHUNK_BYTES, SCAN_DEPTH, SEGMENTS, ZERO_CHUNK_BYTES};

pub(crate) const MANIFESTS: [&str; 2] = ["MANIFEST.a", "MANIFEST.b"];
pub(crate) const NODE: &str = "NODE";
pub(crate) const NODE_STAGED: &str = "NODE.new";
pub(crate) const LOCK: &str = "LOCK";

/// How frames become durable on this file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteMode {
    /// Past the page cache.
    pub(crate) direct: bool,
    /// Each write is durable when it completes; otherwise a sync is submitted after it completed.
    pub(crate) dsync: bool,
}

impl WriteMode {
    pub(crate) const BEST_FIRST: [Self; 4] = [
        Self { direct: true, dsync: true },
        Self { direct: false, dsync: true },
        Self { direct: true, dsync: false },
        Self { direct: false, dsync: false },
    ];

    /// The open flags in words.
    pub(crate) fn flags(self) -> &'static str {
        match (self.direct, self.dsync) {
            (true, true) => "O_DIRECT|O_DSYNC",
            (false, true) => "O_DSYNC",
            (true, false) => "O_DIRECT",
            (false, false) => "plain writes",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match (self.direct, self.dsync) {
            (true, true) => "O_DIRECT|O_DSYNC",
            (false, true) => "buffered|O_DSYNC (the file system refused O_DIRECT)",
            (true, false) => "O_DIRECT, then fdatasync (the file system refused O_DSYNC)",
            (false, false) => "buffered, then fdatasync (the file system refused O_DIRECT and O_DSYNC)",
        }
    }

    /// For frames.
    pub(crate) fn append(self) -> OpenOptions {
        OpenOptions { write: true, direct: self.direct, dsync: self.dsync, ..OpenOptions::default() }
    }

    /// For bulk writes that end in a sync.
    pub(crate) fn bulk(self) -> OpenOptions {
        OpenOptions { write: true, direct: self.direct, ..OpenOptions::default() }
    }

    /// For reading.
    pub(crate) fn read(self) -> OpenOptions {
        OpenOptions { direct: self.direct, ..OpenOptions::default() }
    }
}

/// `<id, 16 hex digits>.seg` in the directory.
pub(crate) fn segment_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(segment_name(id))
}

/// The file name of a segment.
pub(crate) fn segment_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

/// The id in a segment's file name; `None` for other files.
pub(crate) fn segment_id(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(id) == name).then_some(id)
}

/// Writes a small file that does not exist yet, durably apart from its directory entry.
pub(crate) async fn write_new(desk: &Desk, path: PathBuf, mode: WriteMode, bytes: &[u8]) -> io::Result<()> {
    let file = desk.open(path, OpenOptions { create_new: true, ..mode.bulk() }).await?;
    let mut buffer = IoBuffer::zeroed(bytes.len());
    buffer[..bytes.len()].copy_from_slice(bytes);
    let written = match desk.write(file, 0, buffer).await {
        Ok(_) => desk.sync(file).await,
        Err(error) => Err(error),
    };
    desk.close(file).await;
    written
}

/// A whole small file; `None` when it does not exist.
pub(crate) async fn read_all(desk: &Desk, path: PathBuf, mode: WriteMode) -> io::Result<Option<IoBuffer>> {
    let file = match desk.open(path, mode.read()).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = read_whole(desk, file).await;
    desk.close(file).await;
    read.map(Some)
}

async fn read_whole(desk: &Desk, file: FileId) -> io::Result<IoBuffer> {
    let len = desk.length(file).await?;
    let whole_blocks = usize::try_from(len).map_err(io::Error::other)? / BLOCK_BYTES * BLOCK_BYTES;
    if whole_blocks == 0 {
        return Ok(IoBuffer::zeroed(BLOCK_BYTES));
    }
    desk.read(file, 0, IoBuffer::zeroed(whole_blocks)).done().await
}

/// Reads whole blocks from `start` to `end` in order, several reads in flight.
pub(crate) async fn read_stream(
    desk: &Desk,
    file: FileId,
    start: u64,
    end: u64,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut reads = VecDeque::new();
    let mut spare = None;
    let mut offset = start;
    loop {
        while offset < end && reads.len() < SCAN_DEPTH {
            let len = usize::try_from((end - offset).min(SCAN_CHUNK_BYTES as u64)).expect("a chunk fits usize");
            let buffer = spare.take().filter(|buffer: &IoBuffer| buffer.len() == len);
            reads.push_back(desk.read(file, offset, buffer.unwrap_or_else(|| IoBuffer::zeroed(len))));
            offset += len as u64;
        }
        let Some(read) = reads.pop_front() else { return Ok(()) };
        let chunk = read.done().await?;
        each(&chunk);
        spare = Some(chunk);
    }
}

/// Writes the manifest to both slots, in this order, which matters where one of them is not whole: the first is durable
/// before the second is touched.
pub(crate) async fn write_manifest(
    desk: &Desk,
    dir: &Path,
    directory: FileId,
    mode: WriteMode,
    slots: [&str; 2],
    manifest: &Manifest,
) -> io::Result<()> {
    for name in slots {
        let path = dir.join(name);
        let mut created = false;
        let file = match desk.open(path.clone(), mode.bulk()).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                created = true;
                desk.open(path, OpenOptions { create_new: true, ..mode.bulk() }).await?
            }
            Err(error) => return Err(error),
        };
        let mut buffer = IoBuffer::zeroed(manifest.encoded_bytes());
        manifest.encode(&mut buffer);
        let written = match desk.write(file, 0, buffer).await {
            Ok(_) => desk.sync(file).await,
            Err(error) => Err(error),
        };
        desk.close(file).await;
        written?;
        if created {
            desk.sync(directory).await?;
        }
    }
    Ok(())
}

/// Why a new segment is not there.
pub(crate) enum PrepareError {
    /// The segment could not be written; the log is as before.
    Space(io::Error),
    /// The directory could not be synced: the log must not go on.
    Sync(io::Error),
    /// The manifest could not be written: the log must not go on.
    Manifest(io::Error),
}

/// A pre-written, listed segment, open for frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenSegment {
    pub(crate) id: u64,
    pub(crate) file: FileId,
    pub(crate) blocks: u32,
}

/// A segment of zeros that no manifest lists yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unlisted {
    id: u64,
    blocks: u32,
}

/// Pre-writes the segment behind those that `manifest` lists.
pub(crate) async fn prepare_segment(
    desk: &Desk,
    dir: &Path,
    directory: FileId,
    mode: WriteMode,
    blocks: u32,
    manifest: &Manifest,
) -> Result<Unlisted, PrepareError> {
    if manifest.segments.len() >= SEGMENTS {
        return Err(PrepareError::Space(io::Error::other("the manifest lists the largest number of segments")));
    }
    let id = manifest.segments.last().map_or(1, |last| last.id + 1);
    let path = segment_path(dir, id);
    if let Err(error) = write_zeros(desk, &path, mode, blocks).await {
        // The file is not listed, so that a rest of it means nothing; the next attempt removes it again.
        let _ = desk.remove(path).await;
        return Err(PrepareError::Space(error));
    }
    // A sync that failed is never tried again: what it covered may be lost although the next one succeeds.
    desk.sync(directory).await.map_err(PrepareError::Sync)?;
    Ok(Unlisted { id, blocks })
}

/// Writes the manifest's next generation, with this segment, which it then opens.
pub(crate) async fn list_segment(
    desk: &Desk,
    dir: &Path,
    directory: FileId,
    mode: WriteMode,
    segment: Option<Unlisted>,
    mut manifest: Manifest,
) -> Result<(Option<OpenSegment>, Manifest), PrepareError> {
    manifest.generation += 1;
    if let Some(Unlisted { id, blocks }) = segment {
        manifest.segments.push(SegmentEntry { id, first_lsn: 0, end_lsn: 0, blocks, state: SegmentState::Ready });
    }
    write_manifest(desk, dir, directory, mode, MANIFESTS, &manifest).await.map_err(PrepareError::Manifest)?;
    let Some(Unlisted { id, blocks }) = segment else { return Ok((None, manifest)) };
    let file = desk.open(segment_path(dir, id), mode.append()).await.map_err(PrepareError::Manifest)?;
    Ok((Some(OpenSegment { id, file, blocks }), manifest))
}

async fn write_zeros(desk: &Desk, path: &Path, mode: WriteMode, blocks: u32) -> io::Result<()> {
    match desk.remove(path.to_path_buf()).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = desk.open(path.to_path_buf(), OpenOptions { create_new: true, ..mode.bulk() }).await?;
    let end = u64::from(blocks) * BLOCK_BYTES as u64;
    let mut offset = 0;
    let mut result = Ok(());
    let mut spare = None;
    while offset < end && result.is_ok() {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let buffer = match spare.take() {
            Some(buffer) if left >= ZERO_CHUNK_BYTES => buffer,
            _ => IoBuffer::zeroed(left.min(ZERO_CHUNK_BYTES)),
        };
        let len = buffer.len() as u64;
        match desk.write(file, offset, buffer).await {
            Ok(buffer) => spare = Some(buffer),
            Err(error) => result = Err(error),
        }
        offset += len;
    }
    if result.is_ok() {
        result = desk.sync(file).await;
    }
    desk.close(file).await;
    result
}
