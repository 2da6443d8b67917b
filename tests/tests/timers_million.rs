//! Hazard: a million timers at once. Counts what they allocate, that none is lost or early, and that setting and firing them
//! again allocates nothing.
//!
//! One test, since the counter sees all threads.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COUNT: u64 = 1_000_000;
/// What the docs of the table say, and a twentieth for what is near and for lists of owners.
const BYTES_EACH: u64 = 112 + 6;

#[message]
struct Tick {
    due_ns: u64,
}
/// Sets `count` timers over so many seconds.
#[message]
struct Set {
    count: u64,
    seconds: u64,
}
/// How many have fired, and the sum of how late they were.
#[message(reply = (u64, u64))]
struct Fired;

#[derive(Default)]
struct Clock {
    fired: u64,
    late_ns: u64,
}
impl Actor for Clock {}

impl Handler<Set> for Clock {
    fn handle(&mut self, set: Set, cx: &mut Context<Self>) {
        for _ in 0..set.count {
            let delay_ns = 1 + cx.random_u64() % (set.seconds * 1_000_000_000);
            cx.after(Duration::from_nanos(delay_ns), Tick { due_ns: cx.now_ns() + delay_ns });
        }
    }
}

impl Handler<Tick> for Clock {
    fn handle(&mut self, tick: Tick, cx: &mut Context<Self>) {
        assert!(cx.now_ns() >= tick.due_ns, "early");
        self.late_ns += cx.now_ns() - tick.due_ns;
        self.fired += 1;
    }
}

impl Handler<Fired> for Clock {
    fn handle(&mut self, _: Fired, _cx: &mut Context<Self>) -> (u64, u64) {
        (self.fired, self.late_ns)
    }
}

#[test]
fn a_million_live_timers_cost_what_the_docs_say_and_fire_in_time() {
    let kit = TestKit::builder().shards(1).start();
    let clock = kit.spawn(Clock::default).unwrap();
    kit.run_until_idle();
    let region = Region::new(ALLOCATOR);
    clock.tell(Set { count: COUNT, seconds: 60 }).unwrap();
    kit.run_until_idle();
    let change = region.change();
    let bytes = change.bytes_allocated as u64 - change.bytes_deallocated as u64;
    assert_eq!(kit.engine().stats()[0].timers, COUNT);
    assert!(bytes < COUNT * BYTES_EACH, "{} bytes a timer", bytes as f64 / COUNT as f64);
    assert!(change.allocations < 4_000, "in chunks: {}", change.allocations);
    kit.advance(Duration::from_secs(61));
    let (fired, late_ns) = clock.ask(Fired).wait().unwrap();
    assert_eq!(fired, COUNT);
    assert!(late_ns / COUNT < 1_000_000, "late by {} ns each", late_ns / COUNT);
    assert_eq!(kit.engine().stats()[0].timers, 0);
    // Their room is used again.
    let region = Region::new(ALLOCATOR);
    clock.tell(Set { count: COUNT / 2, seconds: 60 }).unwrap();
    kit.run_until_idle();
    let change = region.change();
    assert!(change.allocations < 100, "{} allocations", change.allocations);
}
