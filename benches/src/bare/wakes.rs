//! Two threads that sleep in turn and wake each other: what a round trip costs at least when both ends park.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use super::limit;
use crate::laps::Laps;
use crate::place::{on_core, pin};
use crate::workload::{Entry, Run, Work};

/// The wakes' share of the table.
pub const ENTRIES: &[Entry] = &[
    limit(Work::PingPongParked, "two futex wakes", Run::Figure(|n| futex(n).p50_ns())),
    limit(Work::PingPongParked, "two eventfd wakes", Run::Figure(|n| eventfds(n).p50_ns())),
];

/// Sleeps until `turn` has this value.
fn park_until(turn: &AtomicU64, value: u64) {
    // Pairs with the other side's release store before it unparks.
    while turn.load(Ordering::Acquire) != value {
        thread::park();
    }
}

fn hand_over(turn: &AtomicU64, value: u64, to: &Thread) {
    turn.store(value, Ordering::Release);
    to.unpark();
}

/// The standard library parks threads on futexes.
fn futex(n: u64) -> Laps {
    on_core(0, || futex_client(n))
}

fn futex_client(n: u64) -> Laps {
    let turn = AtomicU64::new(0);
    thread::scope(|scope| {
        let client = thread::current();
        let server = scope.spawn(|| {
            pin(1);
            let client = client;
            for round in 0..n {
                park_until(&turn, 2 * round + 1);
                hand_over(&turn, 2 * round + 2, &client);
            }
        });
        let mut laps = Laps::each(n);
        laps.start();
        for round in 0..n {
            hand_over(&turn, 2 * round + 1, server.thread());
            park_until(&turn, 2 * round + 2);
            laps.lap();
        }
        laps
    })
}

/// Blocks until the other side has written.
fn wait(event: &OwnedFd) {
    let mut value = [0; 8];
    let read = rustix::io::read(event, &mut value).expect("an eventfd is readable");
    assert_eq!((read, u64::from_ne_bytes(value)), (8, 1), "one wake at a time");
}

fn wake(event: &OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).expect("an eventfd has room");
}

fn eventfds(n: u64) -> Laps {
    on_core(0, || eventfd_client(n))
}

fn eventfd_client(n: u64) -> Laps {
    let [there, back] = [0, 1].map(|_| eventfd(0, EventfdFlags::CLOEXEC).expect("a process has descriptors left"));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            for _ in 0..n {
                wait(&there);
                wake(&back);
            }
        });
        let mut laps = Laps::each(n);
        laps.start();
        for _ in 0..n {
            wake(&there);
            wait(&back);
            laps.lap();
        }
        laps
    })
}
