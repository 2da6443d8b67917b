//! `Config`: what an engine can be told. The defaults are meant to be right.

use std::net::SocketAddr;
use std::time::Duration;

use crate::driver::DriverChoice;
use crate::error::StartError;
use crate::limits::{
    DRAIN_TIME, LONG_TURN, LONG_TURN_MIN, MAILBOX_CAPACITY, MAILBOX_CAPACITY_MAX, VIRTUAL_ACTIVE_PER_SHARD,
};

/// What a shard does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Sleeps in the kernel at once. A wake-up costs tens of microseconds on a virtual machine; an idle shard costs nothing.
    Park,
    /// Looks for work for this long, then sleeps. Every message within that time is seen in well under a microsecond.
    SpinThenPark(Duration),
    /// Never sleeps: the lowest latency, a whole core per shard. For machines that have one to spare.
    Spin,
}

/// Settings of an engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// How many shards; `None` for one per core that this process may use. At most 1,023.
    pub shards: Option<u16>,
    /// Whether each shard's thread is pinned to a core; shards beyond the number of cores are not.
    pub pin: bool,
    /// What an idle shard does. The default parks at once.
    pub idle: IdleStrategy,
    /// Which driver the shards stand on.
    pub driver: DriverChoice,
    /// Messages that a mailbox holds; 1 to 1,048,576.
    pub mailbox_capacity: u32,
    /// Active virtual actors of a shard beyond which the least recently used ones leave as soon as they have nothing to do; at
    /// least 1. A turn may activate more before, and who may not leave stays.
    pub virtual_actors_per_shard: u32,
    /// How long a turn may take before it is counted and reported by [`Engine::long_turns`](crate::Engine::long_turns); at least
    /// 100 us. `None` turns the watch off, and with it the one thread that wakes twice in this time while shards are busy.
    pub long_turn: Option<Duration>,
    /// How long a shutdown lets actors finish what is queued.
    pub drain_time: Duration,
    /// Where the engine shows its actors, shards and counters over HTTP: `/metrics` for Prometheus, `/actors`, `/shards` and
    /// `/waits` as JSON, `/healthz`. `None`, the default, for nowhere. Nothing there changes anything and nothing asks who
    /// reads, so an address that others can reach is for networks that are trusted. Simulated engines have none.
    pub introspection: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: None,
            pin: true,
            idle: IdleStrategy::Park,
            driver: DriverChoice::Auto,
            mailbox_capacity: MAILBOX_CAPACITY,
            virtual_actors_per_shard: VIRTUAL_ACTIVE_PER_SHARD,
            long_turn: Some(LONG_TURN),
            drain_time: DRAIN_TIME,
            introspection: None,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |why: String| Err(StartError::Config(why));
        let shards_max = crate::envelope::SHARDS_MAX - 1;
        if let Some(shards) = self.shards
            && (shards == 0 || shards > shards_max)
        {
            return wrong(format!("shards is {shards}; allowed are 1 to {shards_max}"));
        }
        if self.mailbox_capacity == 0 || self.mailbox_capacity > MAILBOX_CAPACITY_MAX {
            return wrong(format!(
                "mailbox_capacity is {}; allowed are 1 to {MAILBOX_CAPACITY_MAX}",
                self.mailbox_capacity
            ));
        }
        if self.virtual_actors_per_shard == 0 {
            return wrong("virtual_actors_per_shard is 0; at least 1 must be allowed".to_owned());
        }
        if let Some(long_turn) = self.long_turn
            && long_turn < LONG_TURN_MIN
        {
            return wrong(format!("long_turn is {long_turn:?}; allowed are {LONG_TURN_MIN:?} and more"));
        }
        Ok(())
    }
}
