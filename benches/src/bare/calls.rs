//! Virtual calls in a loop, and a box made and dropped: one thread, nothing queued.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::limit;
use crate::limits::BIG_ACTORS;
use crate::message::{Either, Even, Odd, Partners, numbered, sum_to};
use crate::place::on_core;
use crate::sizes::{big_elapsed, big_pings};
use crate::workload::{Entry, Place, Run, Work};

/// The loops' share of the table.
pub const ENTRIES: &[Entry] = &[
    limit(Work::PingPong(Place::SameShard), CALL, Run::Time(ping_pong)),
    limit(Work::Tell(Place::SameShard), CALL, Run::Time(tell)),
    limit(Work::FanIn, CALL, Run::Time(tell)),
    limit(Work::Ask(Place::SameShard), CALL, Run::Time(tell)),
    limit(Work::Big(Place::SameShard), CALL, Run::Time(big)),
    limit(Work::SpawnStop, "box and drop", Run::Time(box_and_drop)),
];

const CALL: &str = "virtual call";

trait Receive {
    fn receive(&self, sum: &mut u64) -> u64;
}

impl Receive for Even {
    fn receive(&self, sum: &mut u64) -> u64 {
        *sum = sum.wrapping_add(self.0[0]);
        *sum
    }
}

impl Receive for Odd {
    fn receive(&self, sum: &mut u64) -> u64 {
        *sum = sum.wrapping_add(self.0[0]);
        *sum
    }
}

fn tell(n: u64) -> Duration {
    on_core(0, || {
        let mut sum = 0;
        let start = Instant::now();
        for number in 0..n {
            match numbered(number) {
                Either::Even(message) => black_box::<&dyn Receive>(&message).receive(&mut sum),
                Either::Odd(message) => black_box::<&dyn Receive>(&message).receive(&mut sum),
            };
        }
        let elapsed = start.elapsed();
        assert_eq!(sum, sum_to(n), "every call was made");
        elapsed
    })
}

fn ping_pong(n: u64) -> Duration {
    on_core(0, || {
        let (mut there, mut back) = (0, 0);
        let start = Instant::now();
        for number in 0..n {
            black_box::<&dyn Receive>(&Even([number, 1, 2, 3])).receive(&mut there);
            black_box::<&dyn Receive>(&Odd([number, 1, 2, 3])).receive(&mut back);
        }
        let elapsed = start.elapsed();
        assert_eq!(there + back, 2 * sum_to(n), "every call was made");
        elapsed
    })
}

/// The game of `big` as two calls a ping on 1,000 objects.
trait Play {
    fn ping(&mut self);
    fn pong(&mut self);
}

struct Node {
    partners: Partners,
    pings: u64,
    pongs: u64,
}

impl Play for Node {
    fn ping(&mut self) {
        self.pings += 1;
    }

    fn pong(&mut self) {
        self.pongs += 1;
    }
}

fn big(n: u64) -> Duration {
    on_core(0, || {
        let mut nodes: Vec<Node> =
            (0..BIG_ACTORS).map(|number| Node { partners: Partners::of(number), pings: 0, pongs: 0 }).collect();
        let pings = big_pings(n);
        let start = Instant::now();
        for _ in 0..pings {
            for from in 0..nodes.len() {
                let to = nodes[from].partners.next(BIG_ACTORS as usize);
                black_box::<&mut dyn Play>(&mut nodes[to]).ping();
                black_box::<&mut dyn Play>(&mut nodes[from]).pong();
            }
        }
        let elapsed = start.elapsed();
        let calls: u64 = nodes.iter().map(|node| node.pings + node.pongs).sum();
        assert_eq!(calls, 2 * pings * BIG_ACTORS, "every call was made");
        big_elapsed(elapsed, n)
    })
}

fn box_and_drop(n: u64) -> Duration {
    on_core(0, || {
        let start = Instant::now();
        for number in 0..n {
            drop(black_box(Box::new([number; 2])));
        }
        start.elapsed()
    })
}
