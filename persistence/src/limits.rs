//! Every capacity, batch size and timeout of the event log, with its unit and reason.

/// Block of the log, bytes: offsets and lengths of every write are multiples of it, and frames start on it.
pub const BLOCK_BYTES: usize = shardstage::limits::IO_ALIGN_BYTES;

/// Default size of a segment, bytes: large enough that rolling is rare, small enough to pre-write in the background.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Smallest segment, bytes: 16 blocks, so that a frame of a quarter of it still has room for something.
pub const MIN_SEGMENT_BYTES: u64 = 16 * BLOCK_BYTES as u64;

/// Largest segment, bytes: a record's position has 28 bits for its offset in units of 16 bytes.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 32;

/// Largest frame, bytes: one disk write; all records of one command fit into one frame. A 256 KiB write costs only 1.4
/// times a 4 KiB one, so more than 1 MiB wins nothing.
pub const FRAME_BYTES: usize = 1024 * 1024;

/// Records that wait for the frame in flight, bytes, before `append` answers `Full`: sixteen frames.
pub const PENDING_BYTES: usize = 16 * FRAME_BYTES;

/// Memory of one section that is kept for the next batch, bytes: the sections of all groups together keep 4 MiB at most.
pub const PART_KEPT_BYTES: usize = FRAME_BYTES / 16;

/// Largest payload of one record, bytes: half a frame, so that headers and the key definition always fit beside it.
pub const RECORD_BYTES: usize = FRAME_BYTES / 2;

/// Longest actor type name and longest key, bytes each: a key definition stays below one block.
pub const KEY_BYTES: usize = 1024;

/// Most segments in one log: the manifest then has 2 MiB and the log 4 TiB.
pub const SEGMENTS: usize = 65_536;

/// Pre-written segments kept ahead of the active one: one may fill while the next is being written. When no more can be made,
/// the last one is the reserve.
pub const SPARE_SEGMENTS: usize = 2;

/// Share of a segment that may be written before the manifest says that the one before it is sealed: an eighth. So a start reads
/// only that much of a segment of which the manifest says nothing; the manifest is written within a few commits' time.
pub const UNSEALED_SHARE: u32 = 8;

/// One write of zeros into a spare, bytes: larger background writes delay commits behind them.
pub const ZERO_CHUNK_BYTES: usize = 256 * 1024;

/// One read while scanning at start, bytes: with [`SCAN_DEPTH`] of them the device reads at its sequential rate.
pub const SCAN_CHUNK_BYTES: usize = 1024 * 1024;

/// Reads in flight while scanning at start: as many as keep the device busy. With more, what has arrived has left the processor's
/// cache before it is checked, and touching so many buffers for the first time costs as much as reading into them.
pub const SCAN_DEPTH: usize = 4;

/// Reads that may be under way or wait to be checked: reads that were in flight together often end together, and the next ones
/// leave before these are checked.
pub const SCAN_BUFFERS: usize = SCAN_DEPTH + 1;

/// Bytes of frames after which a checkpoint is written, by default: a restart reads at most about as much again, in less than
/// a second from a disk that reads 1 GB/s.
pub const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;

/// The log grows by at least this many times the size of a checkpoint before the next one is written, so that checkpoints
/// cost a quarter of the log's own writes at most.
pub const CHECKPOINT_RATIO: u64 = 4;

/// Checkpoints that are kept: the newest, and one more for when that one is damaged.
pub const CHECKPOINTS_KEPT: usize = 2;

/// Pause before a checkpoint that could not be written is tried again, nanoseconds.
pub const CHECKPOINT_RETRY_NS: u64 = 1_000_000_000;

/// Reads in flight for loading entities: where random 4 KiB reads stop getting faster by queueing.
pub const LOAD_DEPTH: usize = 32;

/// Two records of an entity closer than this are fetched with one read, bytes.
pub const LOAD_GAP_BYTES: u64 = 16 * 1024;

/// Largest read for loading an entity whose records lie close together, bytes.
pub const LOAD_READ_BYTES: u64 = 256 * 1024;

/// Largest allocation for the payloads of one load, bytes, apart from payloads that are larger themselves.
pub const LOAD_PAGE_BYTES: usize = 64 * 1024;

/// Open files for reading old segments.
pub const READER_FILES: usize = 64;

/// Blocks that the start-up probe makes durable, one after the other: a few, so that a disk with 10 ms a flush delays a start
/// by no more than a twentieth of a second; an odd number, which has a median.
pub const PROBE_COMMITS: usize = 5;

/// A median above this is worth a warning, nanoseconds: a disk with a volatile cache and a slow flush, or an overloaded one.
pub const PROBE_SLOW_NS: u64 = 5_000_000;

/// Idle time after a commit until a heartbeat frame tells the disk what was acknowledged, nanoseconds.
pub const HEARTBEAT_NS: u64 = 10_000_000;

/// A commit older than this is counted as slow, nanoseconds.
pub const SLOW_COMMIT_NS: u64 = 1_000_000_000;

/// A commit older than this poisons the log, nanoseconds: the device is taken for dead.
pub const DEAD_COMMIT_NS: u64 = 30_000_000_000;

/// Pause before a failed spare segment is tried again, nanoseconds.
pub const SPARE_RETRY_NS: u64 = 1_000_000_000;

/// Slot groups of a cluster: the unit of placement and fencing.
pub const GROUPS: usize = shardstage_codec::GROUP_COUNT as usize;

/// Largest event that an effect holds in place, bytes: a larger one is boxed once instead of being moved several times.
pub const EVENT_IN_PLACE_BYTES: usize = 256;

/// Default number of events between two snapshots of one actor.
pub const SNAPSHOT_EVERY: u64 = 200;

/// Records of one command for which a shard keeps room until the next one, in numbers: beyond, it is given back.
pub const SCRATCH_RECORDS: usize = 256;

/// Longest name of a client, bytes: an actor's type name and key with a byte between always fit.
pub const CLIENT_BYTES: usize = 1024;

/// Clients whose commands an actor of a type recognises, unless the type says otherwise: those that were silent for longest are
/// forgotten. At 100 bytes each, the table stays a tenth of a frame.
pub const SESSIONS: usize = 1024;

/// Bytes of all clients and recorded replies that an actor keeps: beyond, the clients that were silent for longest are
/// forgotten. Snapshot, table and outbox together fit into one frame.
pub const SESSIONS_BYTES: usize = FRAME_BYTES / 4;

/// Unacknowledged replies that are recorded for one client: four times what a lane has on its way.
pub const SESSION_WINDOW: usize = 4 * LANE_WINDOW;

/// Bytes of a client's unacknowledged replies before its next command waits: one client never fills the table.
pub const SESSION_BYTES: usize = SESSIONS_BYTES / 4;

/// Commands of others after which a silent client is forgotten: its table entry is then of no use to anyone who retries
/// within minutes.
pub const SESSION_COMMANDS: u64 = 100_000;

/// Largest reply that is recorded, encoded, bytes: replies are copied into records and snapshots.
pub const REPLY_BYTES: usize = SESSION_BYTES;

/// Part of a dedup table that one record holds, bytes: far below the largest record, however the archive pads.
pub const IMAGE_BYTES: usize = 32 * 1024;

/// Commands of one lane on their way at once: enough to share a commit, few enough to send again.
pub const LANE_WINDOW: usize = 16;

/// Pause after a lane's first failure, nanoseconds; it doubles with every further one.
pub const LANE_PAUSE_NS: u64 = 10_000_000;

/// Longest pause of a lane, nanoseconds: a node that comes back waits no longer for its messages.
pub const LANE_PAUSE_MAX_NS: u64 = 5_000_000_000;

/// Time for one attempt of a lane, nanoseconds: a failed node is noticed sooner, a slow commit is over by then.
pub const ATTEMPT_NS: u64 = 5_000_000_000;

/// Messages of one actor that have not arrived, before commands that send are refused as `Full`.
pub const OUTBOX_MESSAGES: usize = 1024;

/// Bytes of those messages: they are repeated behind every snapshot, in the same frame.
pub const OUTBOX_BYTES: usize = FRAME_BYTES / 16;

/// Receivers without outstanding messages whose sessions an actor keeps, so that the next message needs no new one.
pub const OUTBOX_LINES: usize = 64;

/// Time until arrivals are recorded that no command records, nanoseconds: one commit for all of a burst.
pub const OUTBOX_DONE_NS: u64 = 1_000_000_000;

/// Period in which actors are looked for that have outstanding messages and sleep, nanoseconds: rare, since actors with
/// outstanding messages stay active.
pub const REVIVE_NS: u64 = 1_000_000_000;

/// Actors that are woken in one such period on each shard: a restart with many of them leaves live traffic its room.
pub const REVIVE_ACTORS: usize = 256;

/// Entities that are looked at in one such period: 2 MiB of memory, a fraction of a millisecond.
pub const REVIVE_SCAN: usize = 65_536;

/// Commands that wait in one [`Client`](crate::Client), before further ones are refused as `Full`.
pub const CLIENT_COMMANDS: usize = 1024;

const _: () = assert!(CLIENT_BYTES > shardstage_codec::limits::NAME_BYTES_MAX + shardstage_codec::KEY_BYTES_MAX);
// The archive of a table or an outbox is less than twice what is counted.
const _: () = assert!(RECORD_BYTES + SESSIONS_BYTES + 2 * OUTBOX_BYTES < FRAME_BYTES);
const _: () = assert!(2 * (IMAGE_BYTES + SESSION_BYTES + REPLY_BYTES + CLIENT_BYTES) <= RECORD_BYTES);
const _: () = assert!(SESSION_WINDOW > LANE_WINDOW && LANE_PAUSE_NS < LANE_PAUSE_MAX_NS);
/// Default size of the events since the last snapshot at which the next is taken, as a multiple of that snapshot's size: reading
/// them then costs more than writing it did.
pub const SNAPSHOT_RATIO: u64 = 2;

/// ... but not below so many bytes of events: reading that much costs one or two disk reads.
pub const SNAPSHOT_MIN_BYTES: u64 = 64 * 1024;

/// Default number of replayed events after which recovery takes a snapshot at once.
pub const SNAPSHOT_REPLAY: u64 = 200;

/// Default number of events since the last snapshot at which a passivated actor leaves one behind: a quarter of the normal
/// distance, so that actors that sleep often do not write more snapshots than events.
pub const SNAPSHOT_ON_PASSIVATION: u64 = 50;

/// Most events between two attempts at a snapshot that fail: making one that is too large for nothing costs its whole size.
pub const SNAPSHOT_RETRY_EVENTS: u64 = 64;

/// Longest key of a keyed state, bytes.
pub const STATE_KEY_BYTES: usize = 256;

/// Most keys of one actor's keyed state.
pub const STATE_KEYS: usize = 10_000;

/// Most changes in one transaction.
pub const STATE_OPERATIONS: usize = 1_000;

/// Most bytes of keys and values in one transaction: with its bookkeeping it fits one record.
pub const STATE_TRANSACTION_BYTES: usize = RECORD_BYTES / 2;

/// Most bytes of keys and values of one actor: with its bookkeeping the state fits one snapshot.
pub const STATE_BYTES: usize = RECORD_BYTES / 2;

/// Actors of one shard that are being recovered at the same time: as many as keep the disk's queue full.
pub const RECOVERY_LOADS: usize = 2 * LOAD_DEPTH;

/// Actors that begin to replay what was loaded, in one turn: so many shares of a turn's work at most go to recovery.
pub const RECOVERY_ACTORS_PER_TURN: usize = 8;

/// Loaded bytes that are handed to actors in one turn, bytes; an actor with more gets a turn of its own. Replay runs at
/// about 1 GB/s, so this is about 100 us.
pub const RECOVERY_BYTES_PER_TURN: usize = 128 * 1024;

const _: () = assert!(BLOCK_BYTES == 4096);
const _: () = assert!(FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(ZERO_CHUNK_BYTES.is_multiple_of(BLOCK_BYTES) && SCAN_CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(SEGMENT_BYTES >= MIN_SEGMENT_BYTES && SEGMENT_BYTES <= MAX_SEGMENT_BYTES);
const _: () = assert!(RECORD_BYTES + 4 * KEY_BYTES < FRAME_BYTES);
const _: () = assert!(SLOW_COMMIT_NS < DEAD_COMMIT_NS && HEARTBEAT_NS < SLOW_COMMIT_NS);
const _: () = assert!(STATE_BYTES + STATE_KEYS * 24 <= RECORD_BYTES && STATE_TRANSACTION_BYTES <= STATE_BYTES);
