//! The `Driver` port: time, randomness, files, datagrams and wake-ups for one shard.
//!
//! Invariant: nothing but a driver reaches for the outside world. A shard, its services and its transport get
//! `&mut dyn Driver` for the length of a turn and keep nothing of it. All methods run on the shard's own thread; only
//! the [`Wake`] that [`Driver::waker`] returns crosses threads.
//!
//! Files come in two kinds of call. *Control* calls (open, list, rename, remove, lengths) are synchronous, may block for
//! one device access and are meant for start-up and segment changes. *Data* calls (read, write, sync) are submitted with
//! a token and completed later; the driver owns the buffer in between, so nothing can free it under the kernel.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::buffer::IoBuffer;

/// Which driver a shard runs on; visible to users through the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring (Linux, the default).
    Uring,
    /// The portable fallback: readiness polling and a writer thread for files.
    Poll,
    /// The deterministic simulator.
    Sim,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
            Self::Sim => "sim",
        })
    }
}

/// Wakes a parked shard from any thread. Waking a shard that is not parked costs one turn and nothing else.
pub trait Wake: Send + Sync + 'static {
    /// Makes the shard's current or next [`Driver::park`] return.
    fn wake(&self);
}

/// An open file or directory of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A bound datagram socket of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// How [`Driver::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Also writable; read-only otherwise.
    pub write: bool,
    /// Create the file; fails with `AlreadyExists` when it is there.
    pub create_new: bool,
    /// Bypass the page cache (`O_DIRECT`). Offsets, lengths and buffers must be multiples of
    /// [`crate::limits::IO_ALIGN_BYTES`]. Fails with `InvalidInput` or `Unsupported` where the file system refuses it.
    pub direct: bool,
    /// Every completed write is durable (`O_DSYNC`): no separate sync is needed.
    pub dsync: bool,
    /// Open a directory, so that [`FileOp::Sync`] makes its entries durable.
    pub directory: bool,
    /// Take an exclusive advisory lock that lives as long as the file is open. Fails with `WouldBlock` when another
    /// process holds it.
    pub lock: bool,
}

/// What a data call does.
#[derive(Debug)]
pub enum FileOp {
    /// Reads up to `buffer.len()` bytes from `offset`.
    Read {
        /// Byte offset in the file.
        offset: u64,
        /// Where the bytes go; comes back in the completion.
        buffer: IoBuffer,
    },
    /// Writes `buffer[..len]` at `offset`. A short write is an error (`WriteZero`), never retried.
    Write {
        /// Byte offset in the file.
        offset: u64,
        /// The bytes; the buffer comes back in the completion.
        buffer: IoBuffer,
        /// How many bytes of the buffer to write.
        len: usize,
    },
    /// Makes every write that *completed before this was submitted* durable (`fdatasync`; for a directory `fsync`).
    Sync,
}

/// A data call: [`Driver::submit`] takes it, a [`FileCompletion`] with the same token answers it exactly once.
#[derive(Debug)]
pub struct FileRequest {
    /// Chosen by the caller; the shard keeps the upper 8 bits for the service's index.
    pub token: u64,
    /// The file.
    pub file: FileId,
    /// What to do.
    pub op: FileOp,
}

/// The answer to a [`FileRequest`].
#[derive(Debug)]
pub struct FileCompletion {
    /// The request's token.
    pub token: u64,
    /// Bytes read or written (0 for a sync), or the error. Completions may arrive in any order.
    pub result: io::Result<usize>,
    /// The request's buffer, if it had one.
    pub buffer: Option<IoBuffer>,
}

/// One received batch of equally sized datagrams that share a source (several where the kernel coalesced them).
#[derive(Clone, Copy, Debug)]
pub struct DatagramMeta {
    /// Where it came from.
    pub source: SocketAddr,
    /// The local address that it was sent to, where known.
    pub destination: Option<IpAddr>,
    /// Bytes in the slot's buffer.
    pub len: usize,
    /// Size of each datagram; the last may be shorter. `len == stride` for a single one.
    pub stride: usize,
    /// The two ECN bits, 0 where unknown.
    pub ecn: u8,
}

/// Reusable room for [`Driver::receive`]: `slots` buffers of [`crate::limits::DATAGRAM_SLOT_BYTES`] each.
#[derive(Debug)]
pub struct DatagramBatch {
    /// The buffers, filled from index 0.
    pub buffers: Vec<Vec<u8>>,
    /// One entry a filled buffer.
    pub metas: Vec<DatagramMeta>,
}

impl DatagramBatch {
    /// Room for `slots` receives; allocates once.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            buffers: (0..slots).map(|_| vec![0; crate::limits::DATAGRAM_SLOT_BYTES]).collect(),
            metas: Vec::with_capacity(slots),
        }
    }

    /// The datagrams of the last receive, each with its meta data.
    pub fn iter(&self) -> impl Iterator<Item = (&DatagramMeta, &[u8])> {
        self.metas.iter().zip(&self.buffers).map(|(meta, buffer)| (meta, &buffer[..meta.len]))
    }
}

/// One send: `payload` goes out as datagrams of `segment_bytes` each (the last may be shorter), or as one.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub destination: SocketAddr,
    /// The source address to use, where the caller knows it.
    pub source: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Size of each datagram; `None` sends the payload as one. The caller keeps the number of segments within
    /// [`Driver::max_segments`] and the whole payload within 65,535 bytes.
    pub segment_bytes: Option<usize>,
    /// The bytes.
    pub payload: &'a [u8],
}

/// What a shard stands on. See the module's head for the rules.
pub trait Driver {
    /// Which driver this is.
    fn kind(&self) -> DriverKind;

    /// Nanoseconds on a monotonic clock with an arbitrary start, never 0. Costs about 10-25 ns; read once a batch.
    fn now_ns(&mut self) -> u64;

    /// Nanoseconds since the Unix epoch. For certificates and logs, never for safety or order.
    fn wall_unix_ns(&mut self) -> u64;

    /// 64 random bits; cryptographically strong in real drivers, seeded in the simulator.
    fn random_u64(&mut self) -> u64;

    /// Opens a file or directory (control call).
    ///
    /// # Errors
    /// Whatever the file system says; nothing is left open or created.
    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileId>;

    /// Closes a file (control call). Requests in flight still complete.
    fn close(&mut self, file: FileId);

    /// The file's length in bytes (control call).
    ///
    /// # Errors
    /// Whatever the file system says.
    fn file_len(&mut self, file: FileId) -> io::Result<u64>;

    /// The names in a directory, sorted (control call).
    ///
    /// # Errors
    /// Whatever the file system says.
    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and its parents; fine when it exists (control call). Durable only after a sync of the parent.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn create_dir(&mut self, directory: &Path) -> io::Result<()>;

    /// Renames a file within one file system (control call). Durable only after a sync of the directory.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file (control call). Durable only after a sync of the directory.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn remove(&mut self, path: &Path) -> io::Result<()>;

    /// Hands a data call to the driver. Never blocks and never fails: errors arrive as completions.
    fn submit(&mut self, request: FileRequest);

    /// Appends what completed since the last call to `out`. Never blocks.
    fn completions(&mut self, out: &mut Vec<FileCompletion>);

    /// Binds a datagram socket; returns it with the address that it really got.
    ///
    /// # Errors
    /// Whatever the network stack says.
    fn bind(&mut self, address: SocketAddr) -> io::Result<(SocketId, SocketAddr)>;

    /// Closes a socket.
    fn unbind(&mut self, socket: SocketId);

    /// Receives what is there into `batch` (overwriting it) and returns the number of filled slots; 0 when there is
    /// nothing. Never blocks.
    ///
    /// # Errors
    /// Whatever the network stack says; the socket stays usable.
    fn receive(&mut self, socket: SocketId, batch: &mut DatagramBatch) -> io::Result<usize>;

    /// Sends one transmit; `Ok(false)` when the socket's buffer is full and the caller must keep it for later. Never blocks.
    ///
    /// # Errors
    /// Whatever the network stack says; the datagrams count as lost.
    fn send(&mut self, socket: SocketId, transmit: &Transmit<'_>) -> io::Result<bool>;

    /// How many segments one transmit on this socket may have, at least 1.
    fn max_segments(&self, socket: SocketId) -> usize;

    /// Tells the driver that `count` messages were handled since the last call; the shard calls it after each batch. The
    /// simulator charges virtual time for them; real time passes by itself, so other drivers do nothing.
    fn charge_messages(&mut self, _count: u32) {}

    /// The wake handle for this shard.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Blocks until something completes, a socket is readable, a wake arrives or `deadline_ns` passes (`None`: no
    /// deadline). May return early. Called by the shard's own loop only, never inside a turn.
    fn park(&mut self, deadline_ns: Option<u64>);

    /// Gives the CPU to other runnable threads once. Called between turns while a commit is in flight, because a thread
    /// that never yields can starve the kernel worker that completes its own durable writes.
    fn yield_now(&mut self);

    /// A descriptor that becomes readable when a parked shard should take a turn, for running inside another runtime;
    /// `None` where the driver has none.
    fn wake_descriptor(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    /// Clears the wake descriptor and collects completions, before a turn inside another runtime.
    fn drain_wake_descriptor(&mut self) {}
}

/// Makes one driver per shard, on that shard's thread.
pub trait DriverFactory: Send + Sync + 'static {
    /// Which driver it makes.
    fn kind(&self) -> DriverKind;

    /// Makes the driver of shard `shard` on the calling thread.
    ///
    /// # Errors
    /// What the kernel refused, with the limit or permission that is missing.
    fn make(&self, shard: shardstage_codec::ShardId) -> io::Result<Box<dyn Driver>>;
}
