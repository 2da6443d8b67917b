//! Checkpoints: written beside the commits, read at the start. `ckpt-<lsn>` is the entity table at about that LSN.
//!
//! A checkpoint belongs to a frame, its anchor: it is begun when that frame is durable, and a restart scans from there. The table
//! is copied chunk by chunk while the log goes on, so that it may be ahead of the anchor; the scan passes over what the
//! table knows.
//!
//! Invariant: a checkpoint is written under another name, synced, renamed, and the directory synced; nothing relies on one, and
//! any of them may vanish between two runs. Shard thread only.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;

use crate::format::checksum::crc32c_append;
use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileId, OpenOptions};

use super::desk::Desk;
use super::files::{WriteMode, read_stream};
use super::index::EntityIndex;
use super::table::{CHUNK_ENTITIES, ENTRY_BYTES, EntityTable, Fingerprints};
use crate::format::checkpoint::{CheckpointEnd, CheckpointHead};
use crate::limits::{BLOCK_BYTES, CHECKPOINTS_KEPT, SCAN_CHUNK_BYTES};
use crate::recovery::ScanPoint;

const STAGED: &str = "ckpt.new";
const PREFIX: &str = "ckpt-";

/// Hands pieces of the table from the log to the task that writes them.
#[derive(Default)]
pub(crate) struct Feed {
    wanted: Cell<bool>,
    given: RefCell<Option<Piece>>,
}

enum Piece {
    Body(IoBuffer),
    End(IoBuffer),
}

impl Feed {
    async fn next(&self) -> Piece {
        self.wanted.set(true);
        poll_fn(|_| match self.given.borrow_mut().take() {
            Some(piece) => Poll::Ready(piece),
            None => Poll::Pending,
        })
        .await
    }
}

/// The copying of the table, on the log's side.
pub(crate) struct Copying {
    feed: Rc<Feed>,
    entries: u32,
    next_chunk: usize,
    body_crc: u32,
}

impl Copying {
    /// Of the first `entries` entities.
    pub(crate) fn new(feed: &Rc<Feed>, entries: u32) -> Self {
        Self { feed: Rc::clone(feed), entries, next_chunk: 0, body_crc: 0 }
    }

    /// Gives the next piece if the task waits for it. `end_lsn` is the LSN after the last durable record.
    pub(crate) fn feed(&mut self, table: &EntityTable, end_lsn: u64) -> bool {
        if !self.feed.wanted.replace(false) {
            return false;
        }
        let first = self.next_chunk * CHUNK_ENTITIES;
        let count = (self.entries as usize).saturating_sub(first).min(CHUNK_ENTITIES);
        let piece = if count == 0 {
            let mut block = IoBuffer::zeroed(BLOCK_BYTES);
            CheckpointEnd { body_crc: self.body_crc, end_lsn }.encode(&mut block);
            Piece::End(block)
        } else {
            let mut buffer = IoBuffer::zeroed(count * ENTRY_BYTES);
            if let Some(chunk) = table.chunk(self.next_chunk) {
                for (entry, bytes) in chunk[..count].iter().zip(buffer.chunks_exact_mut(ENTRY_BYTES)) {
                    entry.write_to(bytes);
                }
            }
            self.body_crc = crc32c_append(self.body_crc, &buffer);
            self.next_chunk += 1;
            Piece::Body(buffer)
        };
        *self.feed.given.borrow_mut() = Some(piece);
        true
    }
}

/// Writes one checkpoint, then removes those that are too many.
pub(crate) async fn write(
    desk: Desk,
    dir: PathBuf,
    directory: FileId,
    mode: WriteMode,
    head: CheckpointHead,
    feed: Rc<Feed>,
) -> io::Result<()> {
    let staged = dir.join(STAGED);
    let written = write_staged(&desk, &staged, mode, &head, &feed).await;
    if let Err(error) = written {
        // Derived files give way: the older checkpoint makes room for the next attempt.
        let _ = desk.remove(staged).await;
        let kept = if error.kind() == io::ErrorKind::StorageFull { 1 } else { CHECKPOINTS_KEPT };
        remove_old(&desk, &dir, kept).await?;
        return Err(error);
    }
    desk.rename(staged, dir.join(name(head.point.next_lsn))).await?;
    desk.sync(directory).await?;
    remove_old(&desk, &dir, CHECKPOINTS_KEPT).await
}

async fn write_staged(desk: &Desk, path: &Path, mode: WriteMode, head: &CheckpointHead, feed: &Feed) -> io::Result<()> {
    match desk.remove(path.to_path_buf()).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = desk.open(path.to_path_buf(), OpenOptions { create_new: true, ..mode.bulk() }).await?;
    let written = write_pieces(desk, file, head, feed).await;
    desk.close(file).await;
    written
}

async fn write_pieces(desk: &Desk, file: FileId, head: &CheckpointHead, feed: &Feed) -> io::Result<()> {
    let mut buffer = IoBuffer::zeroed(head.stored_bytes());
    head.encode(&mut buffer);
    let mut offset = buffer.len() as u64;
    desk.write(file, 0, buffer).await?;
    loop {
        let (buffer, last) = match feed.next().await {
            Piece::Body(buffer) => (buffer, false),
            Piece::End(buffer) => (buffer, true),
        };
        let len = buffer.len() as u64;
        desk.write(file, offset, buffer).await?;
        offset += len;
        if last {
            return desk.sync(file).await;
        }
    }
}

async fn remove_old(desk: &Desk, dir: &Path, kept: usize) -> io::Result<()> {
    let names = desk.list(dir.to_path_buf()).await?;
    for lsn in newest_first(&names).into_iter().skip(kept) {
        desk.remove(dir.join(name(lsn))).await?;
    }
    Ok(())
}

fn name(lsn: u64) -> String {
    format!("{PREFIX}{lsn:016x}")
}

/// The LSNs of the checkpoints among these file names.
pub(crate) fn newest_first(names: &[String]) -> Vec<u64> {
    let lsns = names.iter().filter_map(|found| {
        let lsn = u64::from_str_radix(found.strip_prefix(PREFIX)?, 16).ok()?;
        (name(lsn) == *found).then_some(lsn)
    });
    let mut lsns: Vec<u64> = lsns.collect();
    lsns.sort_unstable_by(|one, other| other.cmp(one));
    lsns
}

/// What a checkpoint told.
pub(crate) struct Checkpoint {
    pub(crate) point: ScanPoint,
    pub(crate) index: EntityIndex,
    /// The log must reach this LSN, or the checkpoint is ahead of it.
    pub(crate) end_lsn: u64,
}

/// Reads the checkpoint of this LSN; `None` when it cannot be used.
pub(crate) async fn read(desk: &Desk, dir: &Path, mode: WriteMode, log_id: u64, lsn: u64) -> Option<Checkpoint> {
    let file = desk.open(dir.join(name(lsn)), mode.read()).await.ok()?;
    let read = read_open(desk, file, log_id).await;
    desk.close(file).await;
    read
}

async fn read_open(desk: &Desk, file: FileId, log_id: u64) -> Option<Checkpoint> {
    let len = desk.length(file).await.ok()?;
    let first = desk.read(file, 0, IoBuffer::zeroed(BLOCK_BYTES)).done().await.ok()?;
    let head_bytes = CheckpointHead::stored_bytes_of(&first)?;
    let head = CheckpointHead::decode(&desk.read(file, 0, IoBuffer::zeroed(head_bytes)).done().await.ok()?)?;
    let body_bytes = head.entries.checked_mul(ENTRY_BYTES as u64)?.next_multiple_of(BLOCK_BYTES as u64);
    let body_at = head_bytes as u64;
    let end_at = body_at + body_bytes;
    let ours = head.log_id == log_id && head.check == Fingerprints::new(log_id).check();
    if !ours || len != end_at + BLOCK_BYTES as u64 {
        return None;
    }
    let mut table = EntityTable::default();
    let mut body_crc = 0;
    let mut first = 1;
    let mut fits = true;
    let chunk = SCAN_CHUNK_BYTES / ENTRY_BYTES;
    read_stream(desk, file, body_at, end_at, |bytes| {
        body_crc = crc32c_append(body_crc, bytes);
        fits = fits && table.restore_all(first, bytes);
        first = first.saturating_add(u32::try_from(chunk).expect("a chunk has few entities"));
    })
    .await
    .ok()?;
    let end = CheckpointEnd::decode(&desk.read(file, end_at, IoBuffer::zeroed(BLOCK_BYTES)).done().await.ok()?)?;
    if !fits || end.body_crc != body_crc {
        return None;
    }
    Some(Checkpoint { point: head.point, index: EntityIndex::with_table(log_id, table), end_lsn: end.end_lsn })
}
