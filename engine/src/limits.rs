//! Every capacity, batch size and timeout of the engine, with its unit and reason.

use std::time::Duration;

/// Alignment of offsets, lengths and addresses for direct I/O, bytes: the physical block of nearly every device.
pub const IO_ALIGN_BYTES: usize = 4096;

/// One receive slot, bytes: the largest UDP payload batch that the kernel coalesces (GRO).
pub const DATAGRAM_SLOT_BYTES: usize = 65_536;

/// The largest GSO batch, bytes: more silently breaks the whole batch on Linux.
pub const GSO_BATCH_BYTES: usize = 65_535;

/// Frames of at least this size travel on [`Lane::Bulk`](crate::port::transport::Lane::Bulk), bytes: four datagram
/// batches' worth of small messages is the longest that a neighbour should wait.
pub const BULK_FRAME_BYTES: usize = 64 * 1024;

/// Default mailbox bound, messages: the bound under which the goals are measured.
pub const MAILBOX_CAPACITY: u32 = 1024;

/// Entries of one shard's io_uring: small enough that 20 shards fit into 8 MiB of locked memory.
pub const URING_ENTRIES: u32 = 256;

/// Default deadline of an ask.
pub const ASK_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(IO_ALIGN_BYTES.is_power_of_two());
const _: () = assert!(GSO_BATCH_BYTES < DATAGRAM_SLOT_BYTES);
