//! The disks of a world: data calls in flight, faults, and what a power loss does.
//!
//! Invariant: a write changes its file when its completion is delivered and never before; a sync covers what was completed
//! when it was submitted and nothing else. Used by the world's one thread.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use shardstage_codec::NodeId;

use crate::limits::IO_ALIGN_BYTES;
use crate::port::buffer::IoBuffer;
use crate::port::driver::{FileCompletion, FileId, FileOp, FileRequest, OpenOptions};

use super::directory::Inode;
use super::file::PowerLoss;
use super::random::MILLION;
use super::state::{Event, Seat, State};
use super::trace::TraceKind;

/// `EIO` on Linux.
const EIO: i32 = 5;
/// `ENOSPC` on Linux.
const ENOSPC: i32 = 28;

/// The kind of a data call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOpKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A sync of a file or directory.
    Sync,
}

/// A submitted data call, as fault rules see it.
#[derive(Clone, Copy, Debug)]
pub struct DiskOp<'a> {
    /// Its kind.
    pub kind: DiskOpKind,
    /// The path under which the file was opened.
    pub path: &'a Path,
    /// Byte offset; 0 for a sync.
    pub offset: u64,
    /// Bytes; 0 for a sync.
    pub len: usize,
    /// The caller's token.
    pub token: u64,
}

/// What goes wrong with a data call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// EIO. A write leaves each of its sectors written or not; what a sync covered is never made durable by a later one.
    Error,
    /// ENOSPC; a write writes nothing, a sync fails as with [`Error`](Self::Error).
    NoSpace,
    /// A write stops after this many bytes and completes with `WriteZero`; the written part is not durable. A read gives
    /// at most this many bytes.
    Short(usize),
    /// The call takes this much longer, ns.
    Slow(u64),
    /// A write completes well but never reaches the file.
    Lost,
    /// A write completes well but lands at this byte offset; a read completes well with the bytes from there.
    Misdirected(u64),
    /// A read completes well with what each sector held before its latest write.
    Stale,
}

/// A fault that waits for its data call.
pub(super) struct FaultRule {
    pub(super) fault: DiskFault,
    pub(super) applies: Box<dyn FnMut(&DiskOp<'_>) -> bool>,
}

impl fmt::Debug for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultRule({:?})", self.fault)
    }
}

/// An open file or directory.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) inode: Inode,
    pub(super) path: PathBuf,
    pub(super) options: OpenOptions,
}

/// A data call in flight.
#[derive(Debug)]
pub(super) struct PendingOp {
    seat: Seat,
    token: u64,
    handle: Handle,
    op: FileOp,
    /// The sync's cover, taken at submission.
    covers: u64,
    fault: Option<DiskFault>,
}

impl State {
    /// Opens for `seat`; counts a creation as an I/O event.
    pub(super) fn open(&mut self, seat: Seat, path: &Path, options: OpenOptions) -> io::Result<FileId> {
        let tree = &mut self.node_mut(seat.node).tree;
        let inode = if options.create_new && !options.directory { tree.create(path)? } else { tree.find(path)? };
        if tree.is_directory(inode) != options.directory {
            let wrong = if options.directory { io::ErrorKind::NotADirectory } else { io::ErrorKind::IsADirectory };
            return Err(wrong.into());
        }
        if options.lock && !self.node_mut(seat.node).locks.insert(inode) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let state = self.seat_mut(seat);
        let file = FileId(state.next_file);
        state.next_file += 1;
        state.files.insert(file, Handle { inode, path: path.to_owned(), options });
        if options.create_new {
            self.entry_changed(seat, inode)?;
        }
        Ok(file)
    }

    /// Closes; data calls in flight still complete.
    pub(super) fn close(&mut self, seat: Seat, file: FileId) {
        if let Some(handle) = self.seat_mut(seat).files.remove(&file)
            && handle.options.lock
        {
            self.node_mut(seat.node).locks.remove(&handle.inode);
        }
    }

    /// Traces and counts a change of a directory; an error when the node lost power at this very event.
    pub(super) fn entry_changed(&mut self, seat: Seat, inode: Inode) -> io::Result<()> {
        self.trace(seat, TraceKind::Entry, inode, 0);
        if self.io_event(seat.node) {
            self.crash(seat.node, true);
            return Err(power_lost());
        }
        Ok(())
    }

    /// Takes a data call in; the node may lose power right after it.
    pub(super) fn submit(&mut self, seat: Seat, request: FileRequest) {
        let FileRequest { token, file, op } = request;
        let kind = kind_of(&op);
        let (offset, len) = range_of(&op);
        self.trace(seat, TraceKind::Submit, token, len as u64);
        let handle = self.seat_mut(seat).files.get(&file).cloned();
        let Some(handle) = handle else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "the file is not open");
            return self.finish(seat, token, Err(error), buffer_of(op));
        };
        let fault = self.draw_fault(seat.node, &DiskOp { kind, path: &handle.path, offset, len, token });
        let delay_ns = self.latency(seat.node, kind, handle.options.dsync, fault);
        let covers = self.node_mut(seat.node).tree.last_seq();
        let id = self.next_op;
        self.next_op += 1;
        self.ops.insert(id, PendingOp { seat, token, handle, op, covers, fault });
        let at_ns = self.local_ns(seat) + delay_ns;
        self.schedule(at_ns, Event::DiskDone(id));
        if self.io_event(seat.node) {
            self.crash(seat.node, true);
        }
    }

    /// A data call's time has come; the node may lose power right before it.
    pub(super) fn disk_done(&mut self, id: u64) {
        let Some(node) = self.ops.get(&id).map(|op| op.seat.node) else { return };
        if self.io_event(node) {
            return self.crash(node, true);
        }
        let PendingOp { seat, token, handle, mut op, covers, fault } =
            self.ops.remove(&id).expect("it was there a moment ago");
        let result = self.perform(seat, &handle, &mut op, covers, fault);
        let traced = result.as_ref().map_or(u64::MAX, |len| *len as u64);
        self.trace(seat, TraceKind::Complete, token, traced);
        self.finish(seat, token, result, buffer_of(op));
    }

    fn finish(&mut self, seat: Seat, token: u64, result: io::Result<usize>, buffer: Option<IoBuffer>) {
        self.seat_mut(seat).completions.push(FileCompletion { token, result, buffer });
        self.wake_later(seat);
    }

    fn perform(
        &mut self,
        seat: Seat,
        handle: &Handle,
        op: &mut FileOp,
        covers: u64,
        fault: Option<DiskFault>,
    ) -> io::Result<usize> {
        check(handle, op)?;
        match op {
            FileOp::Read { offset, buffer } => {
                let file = self.node_mut(seat.node).tree.file(handle.inode)?;
                let most = buffer.len();
                match fault {
                    Some(DiskFault::Error) => Err(io::Error::from_raw_os_error(EIO)),
                    Some(DiskFault::Short(len)) => Ok(file.read(*offset, &mut buffer[..len.min(most)])),
                    Some(DiskFault::Misdirected(elsewhere)) => Ok(file.read_from(elsewhere, *offset, buffer)),
                    Some(DiskFault::Stale) => Ok(file.read_stale(*offset, buffer)),
                    _ => Ok(file.read(*offset, buffer)),
                }
            }
            FileOp::Write { offset, buffer, len } => {
                self.perform_write(seat.node, handle, *offset, &buffer[..*len], fault)
            }
            FileOp::Sync => {
                let error = match fault {
                    Some(DiskFault::Error) => Some(EIO),
                    Some(DiskFault::NoSpace) => Some(ENOSPC),
                    _ => None,
                };
                self.node_mut(seat.node).tree.sync(handle.inode, covers, error.is_none());
                error.map_or(Ok(0), |code| Err(io::Error::from_raw_os_error(code)))
            }
        }
    }

    fn perform_write(
        &mut self,
        node: NodeId,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
        fault: Option<DiskFault>,
    ) -> io::Result<usize> {
        let node = self.node_mut(node);
        if let Some(capacity) = node.disk_capacity
            && node.tree.bytes_after_write(handle.inode, offset + bytes.len() as u64)? > capacity
        {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let seq = node.tree.next_seq();
        let file = node.tree.file_mut(handle.inode)?;
        match fault {
            Some(DiskFault::Error) => {
                file.write_failed(offset, bytes, seq, &mut node.disk_random);
                Err(io::Error::from_raw_os_error(EIO))
            }
            Some(DiskFault::NoSpace) => Err(io::Error::from_raw_os_error(ENOSPC)),
            Some(DiskFault::Short(len)) => {
                file.write(offset, &bytes[..len.min(bytes.len())], seq, false);
                Err(io::ErrorKind::WriteZero.into())
            }
            Some(DiskFault::Lost) => Ok(bytes.len()),
            Some(DiskFault::Misdirected(elsewhere)) => {
                file.write(elsewhere, bytes, seq, handle.options.dsync);
                Ok(bytes.len())
            }
            Some(DiskFault::Slow(_) | DiskFault::Stale) | None => {
                file.write(offset, bytes, seq, handle.options.dsync);
                Ok(bytes.len())
            }
        }
    }

    fn draw_fault(&mut self, node: NodeId, op: &DiskOp<'_>) -> Option<DiskFault> {
        let options = self.options.disk.clone();
        let node = self.node_mut(node);
        let random = &mut node.disk_random;
        let error = random.chance(options.error_ppm);
        let short = random.chance(options.short_write_ppm);
        let no_space = random.chance(options.no_space_ppm);
        let cut = random.index(op.len.max(1));
        // A stream of its own: these came later, and must not shift the draws of worlds without them.
        let random = &mut node.fault_random;
        let lost = random.chance(options.lost_write_ppm);
        let misdirected = random.chance(options.misdirected_ppm);
        let stale = random.chance(options.stale_read_ppm);
        let short_read = random.chance(options.short_read_ppm);
        let slow = random.chance(options.slow_ppm);
        let slow_ns = random.within(&options.slow_ns);
        let elsewhere = random.below(op.offset.max(1)) / IO_ALIGN_BYTES as u64 * IO_ALIGN_BYTES as u64;
        if let Some(index) = node.faults.iter_mut().position(|rule| (rule.applies)(op)) {
            return Some(node.faults.remove(index).fault);
        }
        match op.kind {
            _ if error => Some(DiskFault::Error),
            DiskOpKind::Write if short => Some(DiskFault::Short(cut)),
            DiskOpKind::Write if no_space => Some(DiskFault::NoSpace),
            DiskOpKind::Write if lost => Some(DiskFault::Lost),
            DiskOpKind::Read if stale => Some(DiskFault::Stale),
            DiskOpKind::Read if short_read => Some(DiskFault::Short(cut)),
            DiskOpKind::Read | DiskOpKind::Write if misdirected => Some(DiskFault::Misdirected(elsewhere)),
            _ if slow => Some(DiskFault::Slow(slow_ns)),
            _ => None,
        }
    }

    fn latency(&mut self, node: NodeId, kind: DiskOpKind, dsync: bool, fault: Option<DiskFault>) -> u64 {
        let options = self.options.disk.clone();
        let random = &mut self.node_mut(node).disk_random;
        let own = match kind {
            DiskOpKind::Read => random.within(&options.read_ns),
            DiskOpKind::Write if dsync => random.within(&options.write_ns) + random.within(&options.sync_ns),
            DiskOpKind::Write => random.within(&options.write_ns),
            DiskOpKind::Sync => random.within(&options.sync_ns),
        };
        if let Some(DiskFault::Slow(more)) = fault { own + more } else { own }
    }

    /// Ends a node's data calls in flight: `power` decides whether unsynced data is at stake or only its process died.
    pub(super) fn end_disk_calls(&mut self, node: NodeId, power: bool) -> usize {
        let ids: Vec<u64> = self.ops.iter().filter(|(_, op)| op.seat.node == node).map(|(id, _)| *id).collect();
        let ops: Vec<PendingOp> = ids.iter().filter_map(|id| self.ops.remove(id)).collect();
        let writes = ops.iter().filter(|op| check(&op.handle, &op.op).is_ok() && op.fault != Some(DiskFault::Lost));
        let writes: Vec<(Inode, u64, &[u8])> = writes
            .filter_map(|op| match &op.op {
                FileOp::Write { offset, buffer, len } => {
                    let at = if let Some(DiskFault::Misdirected(elsewhere)) = op.fault { elsewhere } else { *offset };
                    Some((op.handle.inode, at, &buffer[..*len]))
                }
                _ => None,
            })
            .collect();
        let options = self.options.disk.clone();
        let node = self.node_mut(node);
        node.locks.clear();
        if power {
            let any = node.crash_random.below(MILLION + 1);
            let keep_ppm = options.keep_ppm.unwrap_or(u32::try_from(any).expect("it is at most a million"));
            let loss = PowerLoss { keep_ppm, tear_ppm: options.tear_ppm };
            node.tree.lose_power(&writes, loss, &mut node.crash_random);
        } else {
            for (inode, offset, bytes) in writes {
                let seq = node.tree.next_seq();
                if let Ok(file) = node.tree.file_mut(inode)
                    && node.crash_random.chance(500_000)
                {
                    file.write(offset, bytes, seq, false);
                }
            }
        }
        ids.len()
    }
}

/// What a call on a node that lost power answers; the shard is dropped when its turn ends.
pub(super) fn power_lost() -> io::Error {
    io::Error::other("the simulated node went down during this turn")
}

fn check(handle: &Handle, op: &FileOp) -> io::Result<()> {
    let (offset, len) = range_of(op);
    let block = IO_ALIGN_BYTES as u64;
    let is_sync = matches!(op, FileOp::Sync);
    if handle.options.directory && !is_sync {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if handle.options.direct && (!offset.is_multiple_of(block) || !(len as u64).is_multiple_of(block)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "direct I/O needs whole blocks"));
    }
    if matches!(op, FileOp::Write { .. }) && !handle.options.write {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened for reading"));
    }
    Ok(())
}

fn kind_of(op: &FileOp) -> DiskOpKind {
    match op {
        FileOp::Read { .. } => DiskOpKind::Read,
        FileOp::Write { .. } => DiskOpKind::Write,
        FileOp::Sync => DiskOpKind::Sync,
    }
}

fn range_of(op: &FileOp) -> (u64, usize) {
    match op {
        FileOp::Read { offset, buffer } => (*offset, buffer.len()),
        FileOp::Write { offset, len, .. } => (*offset, *len),
        FileOp::Sync => (0, 0),
    }
}

fn buffer_of(op: FileOp) -> Option<IoBuffer> {
    match op {
        FileOp::Read { buffer, .. } | FileOp::Write { buffer, .. } => Some(buffer),
        FileOp::Sync => None,
    }
}
