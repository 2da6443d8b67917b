//! Two nodes in the simulator: QUIC, virtual actors and rings, deterministic to the event.

#![forbid(unsafe_code)]

use std::time::Duration;

use shardstage::sim::{SimOptions, SimWorld};
use shardstage_tests::sim_cluster::{Add, Counter, SECOND, start_both};

/// Asks 40 counters, from node `a`, three times each; returns the trace's hash.
fn run(seed: u64) -> u64 {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let nodes = start_both(&world);
    for round in 1..=3 {
        for key in 0..40 {
            let ask = nodes[0].actor::<Counter>(format!("key-{key}")).ask(Add { amount: key + 1 });
            let total = world.block_on(ask.deadline(Duration::from_secs(2)), 5 * SECOND).expect("it ends");
            assert_eq!(total, Ok(round * (key + 1)), "key {key}, round {round}");
        }
    }
    let frames = nodes[0].stats().iter().map(|shard| shard.frames_sent).sum::<u64>();
    assert!(frames > 40, "about half of the keys live on node b, but only {frames} frames left node a");
    world.trace_hash()
}

#[test]
fn same_seed_same_trace_and_another_seed_another() {
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}
