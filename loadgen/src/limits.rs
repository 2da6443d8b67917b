//! Every rate, period, bound and threshold of the load generator, with its unit and reason.

use std::time::Duration;

/// Shards a node gets when the machine's cores do not suggest more: two, so that messages cross shards as well as nodes.
pub const SHARDS_PER_NODE: u16 = 2;

/// Nodes in the cluster: what "two processes on loopback" says.
pub const NODES: usize = 2;

/// A generator with a core of its own looks for answers this often; without one it sleeps this long at least.
pub const COLLECT_PERIOD: Duration = Duration::from_micros(100);

/// How long a generator sleeps at a time when it has nothing to send and nothing to wait for.
pub const IDLE_PERIOD: Duration = Duration::from_millis(10);

/// Length of one step of the search for the highest rate.
pub const SEARCH_STEP: Duration = Duration::from_millis(900);

/// First rate that the search tries, operations a second over both nodes.
pub const SEARCH_FIRST_RATE: u64 = 4_000;

/// The search doubles the rate at most this often: 4,000 x 2^8 is a million operations a second.
pub const SEARCH_DOUBLINGS: usize = 8;

/// Steps that halve the interval between the last good and the first bad rate.
pub const SEARCH_BISECTIONS: usize = 3;

/// The rate that the search found must be kept up for this long; short steps can hide a growing queue.
pub const SEARCH_CONFIRM: Duration = Duration::from_millis(2_500);

/// A rate that was not confirmed is lowered to this share, percent, and tried again.
pub const SEARCH_BACKOFF_PERCENT: u64 = 85;

/// An operation counts as achieved in a step when it completes this long after the step's end at the latest.
pub const SEARCH_GRACE: Duration = Duration::from_millis(20);

/// Share of a step's schedule that must complete in time, per mille.
pub const ACHIEVED_PER_MILLE: u64 = 990;

/// Length of the measured phase.
pub const MAIN_PHASE: Duration = Duration::from_secs(30);

/// The measured phase runs at this share of the highest rate, percent.
pub const MAIN_RATE_PERCENT: u64 = 70;

/// Load before the kill.
pub const KILL_AFTER: Duration = Duration::from_millis(2_500);

/// How long the killed node stays away.
pub const KILL_OUTAGE: Duration = Duration::from_millis(500);

/// Load after the killed node answers again.
pub const KILL_RECOVERED: Duration = Duration::from_millis(5_000);

/// Rate of the kill phase, percent of the highest: below the measured phase, because the survivor also reconnects.
pub const KILL_RATE_PERCENT: u64 = 35;

/// How long a phase waits for its last operations; twice the engine's ask deadline.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long a node may take from its start to `ready`.
pub const START: Duration = Duration::from_secs(30);

/// How often the parent picks other ports when a node finds one taken.
pub const START_ATTEMPTS: usize = 3;

/// One operation in this many asks an airport's board; the others are position reports.
pub const BOARD_EVERY: u64 = 20;

/// Shortest time between two reports of one flight, simulated seconds; denser load comes from time-shifted copies.
pub const REPORT_INTERVAL_MIN_S: f64 = 60.0;

/// Time between the starts of two copies of one flight, simulated seconds.
pub const COPY_SHIFT_S: f64 = 420.0;

/// Events of one grid square that stay readable; older ones stay in the log only.
pub const AREA_HISTORY_EVENTS: usize = 8_192;

/// A square's state is written as a snapshot after this many events: about as many bytes as the events in between.
pub const AREA_SNAPSHOT_EVERY: u64 = 4_096;

/// Events in one reply when the ledger is compared: 1,000 of them stay well below a datagram batch.
pub const HISTORY_PAGE_EVENTS: usize = 1_000;

/// Cruising speed from which arrivals are made, miles an hour.
pub const CRUISE_MPH: f64 = 450.0;

/// Time on the ground and in the climb that every flight gets, hours.
pub const GROUND_H: f64 = 0.4;

/// Histograms reach this far, nanoseconds; longer times count as this one.
pub const HISTOGRAM_MAX_NS: u64 = 60_000_000_000;

/// Lag p99 above this share of the reported p50 makes a run invalid, percent.
pub const LAG_PERCENT_OF_P50: u64 = 10;

/// Fewer sent operations than this share of the schedule make a run invalid, percent.
pub const SENT_PERCENT_MIN: u64 = 99;

/// A run in which no shard was this busy measured nothing, percent.
pub const BUSY_PERCENT_MIN: u64 = 30;

/// Priority steps (nice) that shards give way to the generator where both share cores, so that the schedule is kept.
pub const SHARD_NICE: i32 = 10;

const _: () = assert!(MAIN_RATE_PERCENT < 100 && KILL_RATE_PERCENT < MAIN_RATE_PERCENT);
const _: () = assert!(HISTORY_PAGE_EVENTS <= AREA_HISTORY_EVENTS);
const _: () = assert!(SEARCH_GRACE.as_nanos() * 10 < SEARCH_STEP.as_nanos());

/// From an order to the start of its phase, so that both nodes have read it.
pub const LEAD_TIME: Duration = Duration::from_millis(50);

/// Beyond the drain time, what a node may take to say its statistics.
pub const SETTLE: Duration = Duration::from_secs(10);

/// How long laying out a plan or reading all histories may take.
pub const PLAN: Duration = Duration::from_secs(30);

/// How long the nodes may take to shut down before they are killed.
pub const STOP: Duration = Duration::from_secs(5);

/// A landed flight's actor is passivated after this.
pub const FLIGHT_IDLE: Duration = Duration::from_secs(5);

/// A node that is silent for this long counts as lost. Short, because a killed node on loopback does not come back by waiting;
/// long against the pauses of a machine with fewer cores than threads.
pub const PEER_IDLE: Duration = Duration::from_millis(1_500);
