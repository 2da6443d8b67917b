//! Every capacity, batch size and timeout of the engine, with its unit and reason.

use std::time::Duration;

/// Alignment of offsets, lengths and addresses for direct I/O, bytes: the physical block of nearly every device.
pub const IO_ALIGN_BYTES: usize = 4096;

/// One receive slot, bytes: the largest UDP payload batch that the kernel coalesces (GRO).
pub const DATAGRAM_SLOT_BYTES: usize = 65_536;

/// The largest GSO batch, bytes: more silently breaks the whole batch on Linux.
pub const GSO_BATCH_BYTES: usize = 65_535;

/// Default mailbox bound, messages: the bound under which the goals are measured.
pub const MAILBOX_CAPACITY: u32 = 1024;

/// Entries of one shard's io_uring: small enough that 20 shards fit into 8 MiB of locked memory.
pub const URING_ENTRIES: u32 = 256;

/// Default deadline of an ask.
pub const ASK_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(IO_ALIGN_BYTES.is_power_of_two());
const _: () = assert!(GSO_BATCH_BYTES < DATAGRAM_SLOT_BYTES);

/// What the simulated disk keeps or loses as one piece at a power loss, bytes: nothing larger is assumed to be atomic.
pub const SIM_SECTOR_BYTES: usize = 512;

/// Memory grain of a simulated file, bytes: one I/O block, so that an aligned write touches whole pages.
pub const SIM_PAGE_BYTES: usize = IO_ALIGN_BYTES;

/// What a simulated node's clock shows when the world begins, ns: well above 0, which [`crate::port::driver::Driver::now_ns`]
/// never returns.
pub const SIM_CLOCK_START_NS: u64 = 1_000_000_000;

/// Virtual cost of one clock read, ns: the middle of what a real one costs; makes a loop that waits for a time end.
pub const SIM_CLOCK_READ_NS: u64 = 15;

/// What a simulated wall clock shows when the world begins, ns since the Unix epoch: an arbitrary fixed day in 2026.
pub const SIM_WALL_START_NS: u64 = 1_790_000_000_000_000_000;

/// First port that a simulated bind to port 0 gets: the start of the dynamic range.
pub const SIM_FIRST_PORT: u16 = 49_152;

/// Latest spurious wake after a simulated shard went idle, ns: early enough to hit code that is still waiting.
pub const SIM_SPURIOUS_WAKE_NS: u64 = 1_000_000;

/// Largest datagram payload that a simulated network passes by default, bytes: Ethernet, as on most paths.
pub const SIM_MTU_BYTES: usize = 1500;

/// Datagrams that a simulated socket holds by default: what the usual 200 KiB-4 MiB of a real one hold.
pub const SIM_SOCKET_DATAGRAMS: usize = 2048;

/// Segments of one simulated send by default: what a 16 KiB batch of Ethernet-sized datagrams needs.
pub const SIM_MAX_SEGMENTS: usize = 12;

/// How long a blocking call on a simulated engine lets virtual time pass before it is taken for one that never ends, ns: an hour,
/// beyond any deadline that a test waits out.
pub const SIM_WAIT_NS: u64 = 3_600_000_000_000;

/// How much later than its deadline a blocking ask of a simulated engine gives up by itself: the shard, whose turns may be late, says
/// more.
pub const SIM_ASK_SLACK: Duration = Duration::from_secs(1);

/// How long the test kit waits for what a test expects, in virtual time, unless the test says otherwise.
pub const TESTKIT_PATIENCE: Duration = Duration::from_secs(3);

/// How long the test kit runs a future, in virtual time: beyond every default deadline, so that what waits for one ends by it.
pub const TESTKIT_BLOCK: Duration = Duration::from_secs(60);

/// Steps after which a test kit that waits for quiet says that there is none, steps: about a second of real time, and up to
/// 64 messages each.
pub const TESTKIT_IDLE_STEPS: u64 = 200_000;

/// Shards of a test kit's engine: two, so that actors meet neighbours and strangers.
pub const TESTKIT_SHARDS: u16 = 2;

/// Messages to probes that a test kit remembers in their common order, messages.
pub const TESTKIT_TRANSCRIPT: usize = 65_536;

/// Dead letters and messages to probes that the report of a failure shows, lines.
pub const TESTKIT_REPORT_LINES: usize = 8;

const _: () = assert!(TESTKIT_BLOCK.as_secs() > ASK_DEADLINE.as_secs());
const _: () = assert!(SIM_PAGE_BYTES.is_multiple_of(SIM_SECTOR_BYTES));
const _: () = assert!(SIM_CLOCK_START_NS > 0);
/// Data calls that one shard's ring carries at a time, operations; the rest wait inside the driver. Half of the
/// completion queue (twice [`URING_ENTRIES`]), so that polls and wakes never overflow it.
pub const URING_FILE_OPERATIONS: usize = URING_ENTRIES as usize;

/// The largest payload of one segmented send, bytes: IPv4 and UDP headers count towards the 65,535 that the kernel
/// accepts; a larger one is refused as a whole (`EMSGSIZE`).
pub const GSO_CALL_BYTES: usize = GSO_BATCH_BYTES - 20 - 8;

/// Send and receive buffer asked of the kernel for a datagram socket, bytes: a few milliseconds of a fast link. The
/// kernel caps it (`net.core.rmem_max`), which is fine.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How often the poll driver tries a socket that had nothing, nanoseconds: an empty receive costs about 0.3 us.
pub const POLL_RECHECK_NS: u64 = 10_000;

/// How long a socket that had something is tried without waiting for the kernel's report, nanoseconds: a few round trips
/// between near nodes. A report costs two system calls of its own and the sender a wake-up.
pub const HOT_NS: u64 = 100_000;

/// How often that is done, nanoseconds: an empty receive costs about 0.3 us.
pub const HOT_RECHECK_NS: u64 = 500;

/// How often an interrupted read or write is started again before its error is reported.
pub const FILE_ATTEMPTS: u32 = 16;

/// Random bytes fetched from the kernel at a time: 64 draws for one system call.
pub const RANDOM_POOL_BYTES: usize = 512;

const _: () = assert!(URING_FILE_OPERATIONS <= URING_ENTRIES as usize);
const _: () = assert!(RANDOM_POOL_BYTES.is_multiple_of(8));
/// Threads of one engine for calls that block, threads, at most: they wait for disks and sockets, not for cores.
pub const BLOCKING_THREADS: usize = 8;

/// Blocking calls that wait for a thread, calls: beyond that, waiting would only hide that the calls are too slow.
pub const BLOCKING_QUEUE: usize = 256;

/// How long a thread for blocking calls stays with nothing to do: longer than the pauses of a steady load.
pub const BLOCKING_IDLE: Duration = Duration::from_secs(10);

/// Items of an answer that are under way at once unless the asker says otherwise, items: as many as an actor handles at a time.
pub const STREAM_CREDIT: usize = ACTIVATION_BUDGET as usize;

/// Items that `cx.feed` makes in one step, items: an iterator that always has one, for an asker that always has room, leaves the
/// shard to others in between. A quarter of what an actor may handle at a time, since an item may cost more than a message.
pub const FED_AT_ONCE: u32 = ACTIVATION_BUDGET / 4;

const _: () = assert!(BLOCKING_THREADS > 0 && BLOCKING_QUEUE > 0 && STREAM_CREDIT > 0);

/// Asks from other shards that a shard remembers as given up, asks, until their deadlines: for the handlers that hold their
/// replies. One that is forgotten is worked on as if it were wanted. A few dozen bytes each.
pub const FORSAKEN_KEPT: usize = 1024;

/// Messages that one actor handles before the next one runs, messages: an activation longer than this gained nothing
/// (4.6 ns a message at 256, 4.9 at 32).
pub const ACTIVATION_BUDGET: u32 = 64;

/// Messages after which a turn ends even with work left, messages: longer turns make replies and credit wait in the rings. On a
/// shard with services fewer, when the last turn's messages took so long that no more fit into [`YIELD_QUANTUM_NS`].
pub const TURN_BUDGET: u32 = 64;

/// Messages in a row that actors from the last-in-first-out end of the run queue may handle, and what the last one's share has
/// beyond, messages.
pub const LIFO_BURST: u32 = 64;

/// Actors that the last-in-first-out end holds.
pub const LIFO_DEPTH: usize = 64;

/// Slots of the ring between an ordered pair of shards, messages of 64 bytes.
pub const RING_SLOTS: usize = 1024;

/// Asks that one shard may have outstanding towards one other: the room that their replies have in the control ring.
pub const ASKS_PER_PEER_SHARD: u32 = 2048;

/// Asks that one shard may have outstanding in all, and so the largest reply table, slots.
pub const ASKS_PER_SHARD: u32 = 1 << 22;

/// Used context blocks that a shard keeps for those who send to it, blocks of about 120 bytes: as many as asks from outside
/// are usually under way.
pub const CONTEXT_BLOCKS_KEPT: usize = 256;

/// Messages from threads outside the shards that one shard queues.
pub const INJECTOR_SLOTS: usize = 4096;

/// Messages that one turn takes from one other shard, messages: as many as a turn handles. More would fill mailboxes with what
/// a busy shard cannot handle yet, instead of leaving it in the ring, where its sender sees that there is no room.
pub const RING_BATCH: usize = TURN_BUDGET as usize;

/// Messages and replies to one other shard that wait to be published while a turn goes on, messages: a receiver that spins begins
/// with them. Small, so that two shards with 64 asks between them work at the same time; not so small that the line by which
/// they are published moves with each message.
pub const PUBLISH_EVERY: usize = 16;

/// Slots of a new backlog, messages: 512 bytes; it doubles as needed.
pub const BACKLOG_FIRST_SLOTS: u32 = 8;

/// Empty backlogs that a shard keeps for reuse.
pub const BACKLOGS_KEPT: usize = 256;

/// The largest backlog that is kept for reuse, messages; a larger one is freed when it has drained.
pub const BACKLOG_KEPT_CAPACITY: u32 = 4096;

/// The largest backlog, as a power of two of messages: every ask of a shard answered to one actor, beside a full mailbox.
pub const BACKLOG_LOG2_MAX: u8 = 23;

/// The largest mailbox bound that can be configured, messages.
pub const MAILBOX_CAPACITY_MAX: u32 = 1 << 20;

/// Messages that a mailbox which is [bounded by bytes](crate::Mailbox::bytes) lets in ahead of knowing what they weigh, from senders
/// elsewhere that were granted room: what it may hold beyond its bound. Few, as each may be heavy; more than one, so that a turn
/// of a shard is worth more than one message.
pub const WEIGHED_AHEAD: u32 = 4;

/// Receivers per shard that can be marked as short of room at one time; more bounce at arrival.
pub const SHORT_RECEIVERS: usize = 64;

/// Tokens for one short receiver that a shard takes at once, tokens: half a turn's messages. What the turn does not spend goes
/// back at its end.
pub const TOKENS_AT_ONCE: u64 = 32;

/// Senders that may wait for room in mailboxes of one shard, senders; more are refused.
pub const WAITERS_PER_SHARD: usize = 4096;

/// Waiting senders that one turn wakes for a line whose room the shard cannot count: a lane, or an actor that sleeps.
pub const WAITERS_WOKEN_PER_TURN: usize = 16;

/// How long a receiver that was short must be calm before its senders stop counting, in units of 2^20 ns (about 1 ms). A
/// sender that stops counting too early overruns the mailbox again with all that the ring holds.
pub const CREDIT_CALM_MS: u32 = 8;

/// After what time unused credit may go to senders of the receiver's own shard, in units of 2^20 ns: a sender elsewhere that
/// wants it comes back within microseconds.
pub const CREDIT_IDLE_MS: u32 = 2;

const _: () = assert!(CREDIT_IDLE_MS < CREDIT_CALM_MS);

/// [`CREDIT_CALM_MS`] in ns: when a shard with nothing else to do looks at its short receivers again.
pub const CREDIT_CALM_NS: u64 = (CREDIT_CALM_MS as u64) << 20;

/// Entries of cancelled timers that a shard keeps beyond half of those that are near, entries.
pub const CANCELLED_TIMERS_KEPT: usize = 1024;

/// What counts as near, as a power of two of nanoseconds: timers within 65.5 us are kept in exact order, all others by the
/// digits of their time. A million timers spread over a minute are a dozen at a time.
pub const TIMER_GRANULE_BITS: u32 = 16;

/// Timers for which a shard allocates room at once, timers of 112 bytes.
pub const TIMERS_PER_CHUNK: usize = 512;

const _: () = assert!(TIMERS_PER_CHUNK.is_power_of_two());

/// Dead letters kept for a reader, letters; older ones are counted only.
pub const DEAD_LETTERS_KEPT: usize = 1024;

/// How long a virtual actor stays active without a message.
pub const VIRTUAL_IDLE: Duration = Duration::from_secs(60);

/// Over what time the busy share of a shard is taken that decides where the next actor goes, ns: long enough for turns to even out,
/// short enough to follow a service's load.
pub const LOAD_WINDOW_NS: u64 = 100_000_000;

/// Workers of one type on one shard at most, workers: a message looks at those that are busy.
pub const WORKERS_MAX: u16 = 256;

/// How long a virtual actor that is told to leave goes on with what it has to do.
pub const VIRTUAL_DRAIN: Duration = Duration::from_secs(5);

/// Active virtual actors of one shard beyond which the least recently used ones leave, actors: some hundreds of megabytes beside
/// their state.
pub const VIRTUAL_ACTIVE_PER_SHARD: u32 = 1 << 20;

/// Active virtual actors that one turn looks at because they may be idle or too many, actors: some tens of microseconds.
pub const PASSIVATION_LOOKS: u32 = 256;

/// After what time a shard looks again at actors that are to leave and cannot yet, ns.
pub const PASSIVATION_RETRY_NS: u64 = 1 << 20;

/// Ages of activations that ended otherwise, which a shard keeps beyond twice the number of its active actors, entries.
pub const STALE_AGES_KEPT: usize = 1024;

/// Bytes of answers from other nodes that may wait for a shard to which another one has passed them on, the queue's own bytes among
/// them: some rounds of the largest messages. Beyond it an answer is dropped and counted, and its ask ends at its deadline.
pub const PASSED_ON_BYTES: usize = 64 << 20;

const _: () = assert!(PASSED_ON_BYTES > 8 * shardstage_codec::limits::MAX_FRAME_BYTES);

/// What an answer that is passed on takes in the queue beside its bytes: its box, its buffer's head, its place.
pub const PASSED_ON_OVERHEAD: usize = 192;

/// How long a shutdown lets actors drain.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

const _: () = assert!(TURN_BUDGET >= ACTIVATION_BUDGET);
const _: () = assert!(MAILBOX_CAPACITY <= MAILBOX_CAPACITY_MAX);

const _: () = assert!(BACKLOG_FIRST_SLOTS.is_power_of_two());
const _: () = assert!(1_u32 << BACKLOG_LOG2_MAX >= ASKS_PER_SHARD + MAILBOX_CAPACITY_MAX);

/// Looks into the rings before a shard that spins goes on with its turn, looks: about as many as an answer takes that another
/// core gives at once, and less than the rest of an idle turn costs.
pub const LINGER_LOOKS: u32 = 32;

/// Times that one turn of a shard that spins handles what came while it looked, times: timers, files and sockets wait meanwhile,
/// a few microseconds.
pub const LINGER_ROUNDS: u32 = 16;

/// Longest time that a busy shard runs without giving the CPU away once, ns. A thread that never yields keeps the kernel
/// worker that completes durable writes off its core until the scheduler's tick, 4 ms later: its own commits, and those of
/// any other shard whose worker shares the core. A yield costs about half a microsecond, 1 % of this.
pub const YIELD_QUANTUM_NS: u64 = 50_000;

/// Cells at the start of a table that stay unused, cells of 128 bytes. A table begins on a page, as other large allocations
/// do; without this the first actors share the low 12 bits of their addresses with them, which the processor takes for the
/// same memory when it forwards stores: an ask of a shard's first actors cost 145 ns instead of 94.
pub const CELLS_SKIPPED: u32 = 17;

/// How long a turn may take before it is counted and blamed: the better part of a 60 Hz tick. The watchdog looks twice in it, so
/// it costs a busy engine 200 wakes a second.
pub const LONG_TURN: Duration = Duration::from_millis(10);

/// The shortest time that can be configured as long: a watchdog that looked more often would be in the way.
pub const LONG_TURN_MIN: Duration = Duration::from_micros(100);

/// Long turns kept for a reader; older ones are counted only.
pub const LONG_TURNS_KEPT: usize = 256;

/// Culprits whose long turns are added up: those of a program are few, and a page of them is read by people.
pub const CULPRITS_KEPT: usize = 64;

/// Cells and messages that one slice of an introspection looks at: 10 to 20 us, less than half of what a turn may take between
/// two yields, so that a million actors are described without anybody waiting for it.
pub const INTROSPECT_SLICE: u32 = 512;

/// Actors that an introspection describes unless it is told otherwise; at most [`INTROSPECT_TOP_MAX`].
pub const INTROSPECT_TOP: usize = 1000;

/// Actors that one introspection describes at most: about 2 MiB a shard while it goes on.
pub const INTROSPECT_TOP_MAX: usize = 10_000;

/// Messages of one mailbox in which an introspection looks for asks; deeper ones are not in its graph of waits.
pub const INTROSPECT_MESSAGES: u32 = 16_384;

/// Children of an actor that an introspection counts: two slices' worth of steps from one to the next.
pub const INTROSPECT_CHILDREN: u32 = 1024;

/// Entries of a shard's part in a graph of waits: about 4 MiB a shard while it is made. What goes beyond is left out, and the
/// snapshot says so.
pub const INTROSPECT_WAITS: usize = 65_536;

/// How long an introspection waits for shards unless it is told otherwise: far longer than a healthy one takes for its slices,
/// short enough for whoever looks at a sick one.
pub const INTROSPECT_PATIENCE: Duration = Duration::from_secs(2);

const _: () = assert!(INTROSPECT_TOP <= INTROSPECT_TOP_MAX && INTROSPECT_SLICE > 0);

/// Connections to the introspection port at a time: a scraper, a probe, and some people.
pub const HTTP_CONNECTIONS: usize = 16;

/// The head of a request to the introspection port, bytes: what a browser sends with all its headers, several times.
pub const HTTP_HEAD_BYTES: usize = 8192;

/// How long a client of the introspection port may take to send its request, and again to take its answer.
pub const HTTP_DEADLINE: Duration = Duration::from_secs(2);

/// How long an answered connection stays open for a client that still sends.
pub const HTTP_LINGER: Duration = Duration::from_millis(500);

/// How long the introspection port takes no connection after the kernel refused it one.
pub const HTTP_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Actors, or waits, on a page of the introspection port unless the request says otherwise, and at most: 300 KiB.
pub const HTTP_ACTORS: usize = 100;
/// See [`HTTP_ACTORS`].
pub const HTTP_ACTORS_MAX: usize = 1000;

/// How long a shard may take to show the introspection port that it is alive.
pub const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

const _: () = assert!(HTTP_ACTORS <= HTTP_ACTORS_MAX && HTTP_ACTORS_MAX <= INTROSPECT_TOP_MAX);

/// Rounds without any turn after which the watchdog looks less often: a third of a second at the default.
pub const WATCH_QUIET_ROUNDS: u32 = 64;

/// How many periods of a quiet engine the watchdog sleeps at a time: 25 wakes a second at the default.
pub const WATCH_QUIET_PERIODS: u32 = 8;

const _: () = assert!(LONG_TURN.as_nanos() >= LONG_TURN_MIN.as_nanos());

/// Actors that an awaited ask looks at, up its chain of calls, for one that waits for it, actors.
pub const CALLERS_LOOKED_AT: usize = 64;

/// How long an actor waits for an answer before it is looked at as part of a cycle, ns: far above the time of nearly every call, and
/// far below its deadline.
pub const WAITS_LONG_NS: u64 = 100_000_000;

/// How often a shard looks for actors that wait for each other while asks are open, ns.
pub const CHASE_EVERY_NS: u64 = 100_000_000;

/// Reply slots that one turn looks at for them, slots: some tens of microseconds.
pub const CHASE_SLOTS: usize = 4096;

/// Probes that one turn begins, probes; the actors that are left out come later.
pub const CHASE_PROBES: usize = 256;

/// Asks of one mailbox that are followed at a time, asks: of more than that, others each time.
pub const CHASE_ASKS: usize = 32;

/// Waits that one probe and those that it splits into look at, waits.
pub const CHASE_FUEL: u32 = 1024;

/// Callers on the list that travels with a chain of calls, callers: beyond it a chain is one that does not end, and those who
/// came later are not remembered. Between nodes the latest [`CALLERS_MAX`](shardstage_codec::limits::CALLERS_MAX) travel.
pub const CALLERS_KEPT: usize = 1024;

/// Callers that the text of a cycle names, callers: as many from its beginning as from its end.
pub const CALLERS_SHOWN: usize = 32;

/// The largest depth of `Reentrancy::Chain`, frames: more are never on a list of callers.
pub const CHAIN_DEPTH_MAX: u16 = 1024;

const _: () = assert!(CHAIN_DEPTH_MAX as usize <= CALLERS_KEPT && CHAIN_DEPTH_MAX < u16::MAX);

/// Received bytes that messages read in place may keep from being used again, bytes a shard; beyond it they are copied, so
/// that slow readers of small messages do not hold large buffers without bound.
pub const PINNED_BYTES: usize = 64 * 1024 * 1024;

/// Receivers and messages remembered for one lane to one peer before they get a route, entries. A route costs a frame, which
/// pays off from the second message on.
pub const ROUTES_REMEMBERED: usize = 1024;

/// Messages above this size travel with a full header, bytes: 48 bytes more or less do not show.
pub const ROUTED_BYTES: usize = 16 * 1024;

const _: () = assert!(ROUTES_REMEMBERED.is_power_of_two());

const _: () = assert!(HOT_RECHECK_NS < HOT_NS);

/// Receivers at one other node that one message to many may name, receivers: half of what a lane has numbers for, so that
/// giving the last of them a number never takes it from the first.
pub const FAN_OUT_NUMBERED: usize = shardstage_codec::limits::ROUTES_MAX as usize / 2;

/// Numbers defined with one reservation on a lane, frames of about 100 bytes.
pub const DEFINED_AT_ONCE: usize = 256;

/// Receivers of one shard that may be named to other nodes as having no room, pairs of receiver and node; beyond it they are
/// refused message by message.
pub const OWED_ROOM: usize = 256;

/// Restarts of one actor within [`RESTARTS_WITHIN`] when nobody has said how it is supervised, restarts: an actor that panics more
/// than a hundred times a second does nothing but that, while a burst of bad requests stays below.
pub const RESTARTS: u32 = 1000;

/// See [`RESTARTS`]: long enough that a burst does not end an actor.
pub const RESTARTS_WITHIN: Duration = Duration::from_secs(10);

/// Restarts within [`SUPERVISED_WITHIN`] of a supervisor that says its strategy and no window, restarts: what does not recover
/// in a few attempts at once needs its surroundings rebuilt.
pub const SUPERVISED_RESTARTS: u32 = 5;

/// See [`SUPERVISED_RESTARTS`].
pub const SUPERVISED_WITHIN: Duration = Duration::from_secs(5);

const _: () = assert!(RESTARTS > SUPERVISED_RESTARTS);
