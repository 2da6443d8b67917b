//! One ping-pong pair on each of several shards: nothing is shared, so the rate should grow with the shards.

use std::time::{Duration, Instant};

use shardstage::prelude::*;

use super::ping_pong::Pair;
use super::{engine, spinning};
use crate::laps::Laps;
use crate::workload::{Entry, Run, Work};

/// Pairs on the engine; [`crate::limits::PAIR_SHARDS`] names the same numbers.
pub const ENTRIES: &[Entry] = &[
    spinning(Work::Pairs(1), Run::Time(|n| pairs(1, n))),
    spinning(Work::Pairs(2), Run::Time(|n| pairs(2, n))),
    spinning(Work::Pairs(4), Run::Time(|n| pairs(4, n))),
    spinning(Work::Pairs(8), Run::Time(|n| pairs(8, n))),
    spinning(Work::Pairs(16), Run::Time(|n| pairs(16, n))),
];

/// `n` messages in all, the same number by each pair.
fn pairs(shards: u16, n: u64) -> Duration {
    let engine = engine(shards, IdleStrategy::Spin);
    let laps = (n / u64::from(shards) / 2).max(1);
    let pairs: Vec<Pair> = (0..shards).map(|shard| Pair::spawn(&engine, shard, shard, Laps::total, laps)).collect();
    let begin = Instant::now();
    pairs.iter().for_each(Pair::start);
    let slowest = pairs.iter().map(Pair::finish).count();
    assert_eq!(slowest, pairs.len(), "every pair ends");
    begin.elapsed().mul_f64(n as f64 / (laps * 2 * u64::from(shards)) as f64)
}
