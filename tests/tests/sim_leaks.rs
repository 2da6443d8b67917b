//! Hazard: a test that starts simulated engines by the thousand. What an engine leaves behind is its leaked link, a few
//! kilobytes, whatever was in its queues when it ended.
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

/// Bytes that an engine of two shards may leave.
const LINK_BYTES: isize = 24 * 1024;

#[message]
struct Load(#[allow(dead_code)] Vec<u8>);

#[derive(Default)]
struct Sink(Vec<Load>);
impl Actor for Sink {}
impl Handler<Load> for Sink {
    fn handle(&mut self, load: Load, cx: &mut Context<Self>) {
        self.0.push(load);
        cx.after(Duration::from_secs(1000), Load(vec![0; 1000]));
    }
}

/// One engine that ends in the middle of everything: messages in mailboxes, rings and injectors, timers, futures.
fn engine() {
    let mut kit = TestKit::new();
    kit.allow_dead_letters(|_| true);
    let sinks: Vec<_> = (0..10).map(|_| kit.spawn(Sink::default).unwrap()).collect();
    for sink in &sinks {
        sink.tell(Load(vec![0; 1000])).unwrap();
    }
    kit.run_until_idle();
    let _stalled = kit.stall(sinks[0]);
    for sink in sinks {
        sink.tell(Load(vec![0; 1000])).unwrap();
    }
    kit.world().step();
    kit.sigkill();
    kit.spawn(Sink::default).unwrap().tell(Load(vec![0; 1000])).unwrap();
}

#[test]
fn a_thousand_simulated_engines_leave_their_links_only() {
    (0..10).for_each(|_| engine());
    let region = Region::new(ALLOCATOR);
    let count = 500;
    (0..count).for_each(|_| engine());
    let change = region.change();
    let kept = isize::try_from(change.bytes_allocated).unwrap() - isize::try_from(change.bytes_deallocated).unwrap();
    // Each restart is another engine.
    let each = kept / (2 * count);
    println!("{each} bytes an engine");
    assert!(each < LINK_BYTES, "each engine leaves {each} bytes");
}
