//! Every capacity and batch size of the workloads, with its unit and reason.

/// Bound of a peer's mailbox where it has a bounded one, messages: the engine's own default.
pub const MAILBOX_CAPACITY: usize = 1024;

/// A producer lets others run after this many messages, so that no mailbox overruns on one thread.
pub const YIELD_EVERY: u64 = 1024;

/// Messages under way between the engine's producer and a counter on another shard, at most: they fit the mailbox beside the
/// one that asks for the count.
pub const WINDOW: u64 = 1000;

/// Requests in flight between two shards in the `ask` workload: enough to hide a crossing, few enough for a mailbox.
pub const ASKS_IN_FLIGHT: u64 = 64;

/// Requests in flight between two nodes in the wide `ask` workload: what the goals name.
pub const REMOTE_ASKS_IN_FLIGHT: u64 = 256;

/// Receivers of one message in the `fan-out` workload, half of them on each of two nodes.
pub const VIEWERS: usize = 10_000;

/// Messages the bare ring publishes at once: what one turn of a shard typically hands over.
pub const RING_BATCH: usize = 64;

/// Slots of the bare ring: the mailbox bound again, so that both have the same slack.
pub const RING_SLOTS: usize = 1024;

/// Durable events in the `log_append` workload, bytes each.
pub const EVENT_BYTES: usize = 128;

/// Datagram size in the echo baseline, bytes: a 64-byte message with its frame header.
pub const ECHO_BYTES: usize = 96;

const _: () = assert!(YIELD_EVERY as usize <= MAILBOX_CAPACITY);
const _: () = assert!(RING_BATCH <= RING_SLOTS);
const _: () = assert!((ASKS_IN_FLIGHT as usize) < MAILBOX_CAPACITY);

/// Writers in the `log_append` workload with group commit: enough to fill a few blocks, as the goals say.
pub const WRITERS: u64 = 64;

/// How long two engines of one process may take to meet.
pub const PEER_UP: std::time::Duration = std::time::Duration::from_secs(20);
const _: () = assert!((WINDOW as usize) < MAILBOX_CAPACITY && WINDOW.is_multiple_of(2));
