//! One cache line that two spinning cores hand to and fro: what a round trip between cores costs at least.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::limit;
use crate::laps::Laps;
use crate::place::{on_core, pin};
use crate::workload::{Entry, Place, Run, Work};

/// The line's share of the table.
pub const ENTRIES: &[Entry] =
    &[limit(Work::PingPong(Place::OtherShard), "cache line", Run::Figure(|n| ping_pong(n).p50_ns()))];

fn ping_pong(n: u64) -> Laps {
    /// Alone on its cache line and the one that the prefetcher takes with it.
    #[repr(align(128))]
    struct Line(AtomicU64);
    let line = Line(AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            for round in 0..n {
                // Pairs with the client's release store of an odd value.
                while line.0.load(Ordering::Acquire) != 2 * round + 1 {
                    spin_loop();
                }
                line.0.store(2 * round + 2, Ordering::Release);
            }
        });
        on_core(0, || {
            let mut laps = Laps::each(n);
            laps.start();
            for round in 0..n {
                line.0.store(2 * round + 1, Ordering::Release);
                // Pairs with the server's release store of an even value.
                while line.0.load(Ordering::Acquire) != 2 * round + 2 {
                    spin_loop();
                }
                laps.lap();
            }
            laps
        })
    })
}
