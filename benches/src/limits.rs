//! Every capacity and batch size of the workloads, with its unit and reason.

/// Bound of a peer's mailbox where it has a bounded one, messages: the engine's own default.
pub const MAILBOX_CAPACITY: usize = 1024;

/// A producer lets others run after this many messages, so that no mailbox overruns on one thread.
pub const YIELD_EVERY: u64 = 1024;

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

/// Producers of the fan-in workload.
pub const PRODUCERS: u64 = 8;

/// Actors of the `big` workload: at most so many messages are under way, so no mailbox of the normal bound overruns.
pub const BIG_ACTORS: u64 = 1000;

/// The index whose Fibonacci number the actor tree computes.
pub const FIBONACCI: u32 = 23;

/// Actors of that tree.
pub const FIBONACCI_ACTORS: u64 = 57_313;

/// Bytes of the state that an idle actor has.
pub const IDLE_STATE_BYTES: u64 = 8;

/// Idle actors whose CPU share is measured.
pub const IDLE_ACTORS: u64 = 100_000;

/// Timers of 60 Hz on each shard: enough ticks in a few seconds for a p99.9.
pub const TICKERS: u64 = 20;

/// Period of those timers.
pub const TICK: std::time::Duration = std::time::Duration::from_nanos(16_666_667);

/// Actors on each shard that keep it busy while ticks are measured.
pub const LOADERS: u64 = 10;

/// How often each of them works: together every 100 us.
pub const LOAD_PERIOD: std::time::Duration = std::time::Duration::from_millis(1);

/// How long each works at a time: 70 % of a shard together.
pub const LOAD_WORK: std::time::Duration = std::time::Duration::from_micros(70);

/// Shards in the scaling row, where the machine has the cores.
pub const PAIR_SHARDS: [u16; 5] = [1, 2, 4, 8, 16];

/// Cores below which pairs on several shards say nothing: the comparison itself and the kernel want one too.
pub const PAIR_CORES: usize = 4;

/// Fewer allocations a message than this are none: a buffer that grew once in a run, not a cost of each message.
pub const NO_ALLOCATION: f64 = 0.001;

/// How long one measurement may take before it counts as failed.
pub const CELL_TIME: std::time::Duration = std::time::Duration::from_secs(120);

/// Timed runs in one process, whose median is the process's figure.
pub const RUNS: usize = 3;

/// Processes a figure, unless told otherwise: the fewest with a middle that one bad process cannot move.
pub const ROUNDS: usize = 5;

/// Per cent of the messages to another shard that may bounce into the dead letters: the price of learning that a receiver is
/// short of room, not a way to get rid of work.
pub const BOUNCED_MAX: f64 = 1.0;

/// Tells to another node ahead of what it has counted: they fit its mailbox beside the ask that counts; what does not fit is lost to the
/// dead letters.
pub const WINDOW: u64 = 1000;

/// How much less a quick comparison does.
pub const QUICK: u64 = 10;

const _: () = assert!(BIG_ACTORS < MAILBOX_CAPACITY as u64);
const _: () =
    assert!(LOAD_WORK.as_nanos() as u64 * LOADERS * 10 == LOAD_PERIOD.as_nanos() as u64 * 7, "seven tenths of a shard");

/// How long a client waits before it sends a command again that was refused because the disk stalls: less than a commit.
pub const STALLED: std::time::Duration = std::time::Duration::from_micros(50);

/// How long the writers of one run of the log's table may go on: a store that is a hundred times slower than another one is
/// measured over fewer events.
pub const LOG_TIME: std::time::Duration = std::time::Duration::from_secs(1);

/// How long filling a log for its recovery may take.
pub const RECOVERY_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// Events in flight while a log is filled for its recovery: what a busy shard has, so frames are of the size that they have there.
pub const RECOVERY_IN_FLIGHT: u64 = 1024;

/// Least bytes that an event of 128 bytes takes in the log, with its record's header.
pub const STORED_EVENT_BYTES: u64 = EVENT_BYTES as u64 + 32;

/// One write of the bare disk beside single events, bytes.
pub const BLOCK_BYTES: usize = 4096;

/// One write of the bare disk beside 64 events, bytes: they and their headers in whole blocks.
pub const FRAME_OF_64_BYTES: usize = 3 * BLOCK_BYTES;

/// The file that the bare disk writes to, over and over, bytes: little of the disk's allowance.
pub const ROOM_BYTES: usize = 8 * 1024 * 1024;

/// Segments of the logs that are measured, bytes: a quarter of the default, since every run begins with three of them and disks
/// of cloud machines have an allowance.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// A durable write of a block that takes longer says that the disk has used up its allowance.
pub const RESTED: std::time::Duration = std::time::Duration::from_millis(20);

/// Such writes in a row that must be faster.
pub const RESTED_WRITES: usize = 32;

/// Time between two tries.
pub const RESTED_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Tries before a run begins anyway.
pub const RESTED_TRIES: usize = 60;

/// The same in a quick comparison.
pub const RESTED_TRIES_QUICK: usize = 5;

/// One sequential read, bytes, and how many are in flight.
pub const READ_BYTES: usize = 1024 * 1024;

/// Sequential reads in flight.
pub const READ_DEPTH: usize = 4;

/// Stack of a thread that calls a store, bytes: 64 of them.
pub const STORE_THREAD_BYTES: usize = 512 * 1024;

/// A thread that waits for an event to be due sleeps until so long before it.
pub const SLEEP_AHEAD: std::time::Duration = std::time::Duration::from_micros(100);

/// Time between two looks at whether a store still prepares files.
pub const SETTLED: std::time::Duration = std::time::Duration::from_millis(50);

/// Such looks before a run begins anyway: 5 s.
pub const SETTLE_STEPS: usize = 100;

/// CPU-bound actors on each shard.
pub const SATURATORS: u64 = 4;

/// How long each works at a time.
pub const SATURATOR_WORK: std::time::Duration = std::time::Duration::from_micros(20);

/// A snapshot while commits are measured, bytes: as large as one background write may be.
pub const SNAPSHOT_BYTES: usize = 256 * 1024;

/// How often one comes: 100 MiB/s together.
pub const SNAPSHOT_PERIOD: std::time::Duration = std::time::Duration::from_micros(2500);

const _: () = assert!(FRAME_OF_64_BYTES >= 64 * STORED_EVENT_BYTES as usize + 64);
const _: () = assert!(ROOM_BYTES.is_multiple_of(READ_BYTES));

/// Receive buffer that the bare echo's sockets ask for, bytes; the kernel grants at most `net.core.rmem_max`, and doubles it.
pub const RECEIVE_BYTES: usize = 1 << 20;

/// How long an engine may take to end after a run. A figure is taken before; a busy disk only makes what was begun take longer.
pub const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(600);
