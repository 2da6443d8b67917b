//! `SimOptions`: everything that a simulated world draws from, printable as one value.
//!
//! Invariant: a world is reproducible from this value alone (and the calls of the test). Chances are in parts per million,
//! times in ns, so the whole set compares and prints exactly.

use std::ops::RangeInclusive;

use crate::limits::{SIM_MAX_SEGMENTS, SIM_MTU_BYTES, SIM_SOCKET_DATAGRAMS};

use super::random::{MILLION, SimRandom};

/// How the network between the nodes of a world behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// One-way delay of a datagram, ns.
    pub delay_ns: RangeInclusive<u64>,
    /// Chance that a datagram vanishes.
    pub loss_ppm: u32,
    /// Chance that a datagram arrives twice, each copy with its own delay.
    pub duplicate_ppm: u32,
    /// Chance that a datagram leaves the order of its link. All others of one link arrive in order.
    pub reorder_ppm: u32,
    /// Extra delay of a datagram that leaves the order, ns.
    pub reorder_ns: RangeInclusive<u64>,
    /// Datagrams with a larger payload vanish; `None` lets all pass.
    pub mtu_bytes: Option<usize>,
    /// Datagrams that a socket holds until they are received; more vanish.
    pub socket_datagrams: usize,
    /// What [`Driver::max_segments`](crate::port::driver::Driver::max_segments) says.
    pub max_segments: usize,
}

/// How the disks behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Latency of a read, ns.
    pub read_ns: RangeInclusive<u64>,
    /// Latency of a write, ns.
    pub write_ns: RangeInclusive<u64>,
    /// Latency of a sync, ns; a durable write takes this and its own.
    pub sync_ns: RangeInclusive<u64>,
    /// Chance of EIO on a read, write or sync.
    pub error_ppm: u32,
    /// Chance of a short write.
    pub short_write_ppm: u32,
    /// Chance of ENOSPC on a write.
    pub no_space_ppm: u32,
    /// Chance that a write completes well and never reaches the file.
    pub lost_write_ppm: u32,
    /// Chance that a read or write meets a block before the one that it names.
    pub misdirected_ppm: u32,
    /// Chance that a read gives what its sectors held before their latest writes.
    pub stale_read_ppm: u32,
    /// Chance of a short read.
    pub short_read_ppm: u32,
    /// Chance that a call takes `slow_ns` longer, so that later ones complete first.
    pub slow_ppm: u32,
    /// How much longer, ns.
    pub slow_ns: RangeInclusive<u64>,
    /// Chance that a power loss keeps a change that was not durable; `None` draws another chance for each power loss,
    /// so that some keep nearly everything and some nearly nothing.
    pub keep_ppm: Option<u32>,
    /// Chance that a sector that a power loss would keep is torn instead: part new, part old.
    pub tear_ppm: u32,
}

/// All options of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// The seed of every random stream.
    pub seed: u64,
    /// The network.
    pub network: NetworkOptions,
    /// The disks.
    pub disk: DiskOptions,
    /// Virtual cost of a turn, ns.
    pub turn_ns: RangeInclusive<u64>,
    /// Virtual cost of a handled message, ns; drawn once a batch.
    pub message_ns: RangeInclusive<u64>,
    /// How late a parked shard takes its turn after a wake, a completion, a datagram or a deadline, ns.
    pub wake_ns: RangeInclusive<u64>,
    /// Chance that a shard that went idle gets a turn for nothing.
    pub spurious_wake_ppm: u32,
    /// The most that a node's clock runs fast or slow; each node draws its own drift.
    pub drift_ppm: u32,
    /// How far node clocks start apart, ns.
    pub skew_ns: u64,
}

impl Default for NetworkOptions {
    /// A quiet data centre: 50-250 us, nothing lost.
    fn default() -> Self {
        Self {
            delay_ns: 50_000..=250_000,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_ns: 100_000..=5_000_000,
            mtu_bytes: Some(SIM_MTU_BYTES),
            socket_datagrams: SIM_SOCKET_DATAGRAMS,
            max_segments: SIM_MAX_SEGMENTS,
        }
    }
}

impl Default for DiskOptions {
    /// A good SSD without faults; a power loss takes what it may.
    fn default() -> Self {
        Self {
            read_ns: 60_000..=200_000,
            write_ns: 15_000..=80_000,
            sync_ns: 50_000..=400_000,
            error_ppm: 0,
            short_write_ppm: 0,
            no_space_ppm: 0,
            lost_write_ppm: 0,
            misdirected_ppm: 0,
            stale_read_ppm: 0,
            short_read_ppm: 0,
            slow_ppm: 0,
            slow_ns: 1_000_000..=200_000_000,
            keep_ppm: None,
            tear_ppm: 100_000,
        }
    }
}

impl SimOptions {
    /// A world without faults other than those that the test asks for; latencies still vary with the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            network: NetworkOptions::default(),
            disk: DiskOptions::default(),
            turn_ns: 200..=2_000,
            message_ns: 10..=200,
            wake_ns: 1_000..=30_000,
            spurious_wake_ppm: 0,
            drift_ppm: 0,
            skew_ns: 1_000_000_000,
        }
    }

    /// A world in which the seed switches each class of network, clock and scheduling faults on or off and draws its
    /// size. Disk errors stay off, because they end a node: inject them where a test expects that.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut random = SimRandom::stream(seed, "swarm", &[]);
        let mut some = |most: u64| {
            let size = random.below(most + 1);
            if random.chance(500_000) { u32::try_from(size).unwrap_or(u32::MAX) } else { 0 }
        };
        let mut options = Self::seeded(seed);
        options.network.loss_ppm = some(MILLION / 20);
        options.network.duplicate_ppm = some(MILLION / 20);
        options.network.reorder_ppm = some(MILLION / 10);
        options.spurious_wake_ppm = some(MILLION / 10);
        options.drift_ppm = some(20_000);
        options.network.delay_ns = 20_000..=u64::from(some(20_000_000)).max(100_000);
        options.disk.write_ns = 10_000..=u64::from(some(10_000_000)).max(50_000);
        options.disk.sync_ns = 20_000..=u64::from(some(20_000_000)).max(100_000);
        options.wake_ns = 0..=u64::from(some(2_000_000)).max(10_000);
        options.message_ns = 10..=u64::from(some(20_000)).max(100);
        options
    }
}
