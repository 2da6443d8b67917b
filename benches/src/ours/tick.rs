//! The game server's question: how late do 60 Hz ticks come while handlers keep both shards 70 % busy?
//!
//! The load works 70 us at a time, open loop, from timers of its own. A tick's lateness is taken against its timer's own
//! grid, so a tick that was left out shows in the count and does not shift the others.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use shardstage::prelude::*;

use super::{Go, engine, spinning};
use crate::limits::{LOAD_PERIOD, LOAD_WORK, LOADERS, TICK, TICKERS};
use crate::workload::{Entry, Run, Work};

/// Ticks on the engine.
pub const ENTRIES: &[Entry] = &[
    spinning(Work::TickLateness, Run::Figure(|milliseconds| ticks(milliseconds).p999_us())),
    spinning(Work::TickMissed, Run::Figure(|milliseconds| ticks(milliseconds).missed() as f64)),
];

/// Busy for a while, every [`LOAD_PERIOD`].
struct Loader {
    /// Its share of the period has passed before it begins.
    delay: Duration,
}

#[message]
#[derive(Clone)]
struct Work70;

impl Actor for Loader {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        cx.after(self.delay, Go);
        Ok(())
    }
}

impl Handler<Go> for Loader {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        cx.every(LOAD_PERIOD, Work70);
    }
}

impl Handler<Work70> for Loader {
    fn handle(&mut self, _: Work70, _cx: &mut Context<Self>) {
        let start = Instant::now();
        while start.elapsed() < LOAD_WORK {
            std::hint::spin_loop();
        }
    }
}

/// Notes how late its ticks come.
struct Ticker {
    delay: Duration,
    /// When the timer was set, on the shards' clock.
    begin_ns: u64,
    wanted: u64,
    seen: Vec<Duration>,
    done: Sender<Seen>,
}

/// What one ticker saw of so many ticks.
struct Seen {
    wanted: u64,
    late: Vec<Duration>,
}

#[message]
#[derive(Clone)]
struct Tick;

impl Actor for Ticker {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        cx.after(self.delay, Go);
        Ok(())
    }
}

impl Handler<Go> for Ticker {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        self.begin_ns = cx.now_ns();
        cx.every(TICK, Tick);
    }
}

impl Handler<Tick> for Ticker {
    fn handle(&mut self, _: Tick, cx: &mut Context<Self>) {
        let since_ns = monotonic_ns() - self.begin_ns;
        let due = since_ns / TICK_NS;
        if due <= self.wanted {
            self.seen.push(Duration::from_nanos(since_ns % TICK_NS));
        }
        if due >= self.wanted {
            let _gone = self.done.send(Seen { wanted: self.wanted, late: std::mem::take(&mut self.seen) });
            cx.stop();
        }
    }
}

const TICK_NS: u64 = TICK.as_nanos() as u64;

/// The clock that [`Context::now_ns`] reads once a turn, now.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// All tickers of a run.
struct Ticks {
    wanted: u64,
    late: Vec<Duration>,
}

impl Ticks {
    fn missed(&self) -> u64 {
        self.wanted.saturating_sub(self.late.len() as u64)
    }

    fn p999_us(mut self) -> f64 {
        self.late.sort_unstable();
        let at = (self.late.len() * 999).div_ceil(1000).max(1) - 1;
        self.late[at].as_secs_f64() * 1e6
    }
}

fn ticks(milliseconds: u64) -> Ticks {
    const SHARDS: u16 = 2;
    let engine = engine(SHARDS, IdleStrategy::Spin);
    let (done, seen) = mpsc::channel();
    let wanted = (milliseconds * 1_000_000 / TICK_NS).max(1);
    for shard in 0..SHARDS {
        for number in 0..LOADERS {
            let delay = LOAD_PERIOD.mul_f64(number as f64 / LOADERS as f64);
            engine.spawn_on(shard, move || Loader { delay }).expect("the engine runs");
        }
        for number in 0..TICKERS {
            let (delay, done) = (TICK.mul_f64(number as f64 / TICKERS as f64), done.clone());
            let ticker = move || {
                let seen = Vec::with_capacity(wanted as usize);
                Ticker { delay, begin_ns: 0, wanted, seen, done: done.clone() }
            };
            engine.spawn_on(shard, ticker).expect("the engine runs");
        }
    }
    let mut all = Ticks { wanted: 0, late: Vec::new() };
    for _ in 0..u64::from(SHARDS) * TICKERS {
        let seen = seen.recv().expect("every ticker ends");
        all.wanted += seen.wanted;
        all.late.extend(seen.late);
    }
    // The load was there: the figure would mean nothing on idle shards.
    let busy = engine.stats().into_iter().map(|shard| shard.busy_ns as f64 / shard.elapsed_ns as f64);
    let busy = busy.fold(1.0, f64::min);
    assert!(milliseconds < 1000 || busy > 0.6, "the shards were {:.0} % busy", busy * 100.0);
    all
}
