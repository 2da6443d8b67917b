//! Ticks without actors: two pinned threads that do nothing but look at the clock, work and note how late they see a tick.
//!
//! What the host takes from a core shows here as it does in the engine: on a guest whose cores are shared no loop sees all of
//! its ticks in time.

use std::thread;
use std::time::{Duration, Instant};

use super::limit;
use crate::limits::{LOAD_PERIOD, LOAD_WORK, LOADERS, TICK, TICKERS};
use crate::place::pin;
use crate::workload::{Entry, Run, Work};

/// The ticks' share of the table.
pub const ENTRIES: &[Entry] = &[limit(Work::TickLateness, "two bare loops", Run::Figure(p999_us))];

/// Something that is due again and again.
struct Due {
    at: Duration,
    period: Duration,
}

impl Due {
    fn all(number: u64, period: Duration) -> Vec<Self> {
        (0..number).map(|k| Self { at: period + period.mul_f64(k as f64 / number as f64), period }).collect()
    }

    /// How late it is, if it is due.
    fn take(&mut self, now: Duration) -> Option<Duration> {
        let late = now.checked_sub(self.at)?;
        self.at += self.period;
        Some(late)
    }
}

/// How late one pinned thread sees its ticks for so long.
fn lateness(core: usize, time: Duration) -> Vec<Duration> {
    pin(core);
    let start = Instant::now();
    let (mut ticks, mut loads) = (Due::all(TICKERS, TICK), Due::all(LOADERS, LOAD_PERIOD));
    let mut late = Vec::new();
    while start.elapsed() < time {
        for tick in &mut ticks {
            late.extend(tick.take(start.elapsed()));
        }
        for load in &mut loads {
            if load.take(start.elapsed()).is_some() {
                let begin = Instant::now();
                while begin.elapsed() < LOAD_WORK {
                    std::hint::spin_loop();
                }
            }
        }
    }
    late
}

fn p999_us(milliseconds: u64) -> f64 {
    // A tick at least.
    let time = Duration::from_millis(milliseconds).max(TICK * 3);
    let mut late = thread::scope(|scope| {
        let other = scope.spawn(|| lateness(1, time));
        let mut late = crate::place::on_core(0, || lateness(0, time));
        late.extend(other.join().expect("a loop does not panic"));
        late
    });
    late.sort_unstable();
    let at = (late.len() * 999).div_ceil(1000).max(1) - 1;
    late[at].as_secs_f64() * 1e6
}
