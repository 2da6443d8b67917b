//! Power loss at every disk event of a scenario: every acknowledged event is there afterwards, once and in order, nothing is
//! invented, and no torn tail is taken for damage.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use common::{NODE, Plan, counter, ledger, must_recover, settle, start, world};
use shardstage_persistence::PlantedBug;

const ACCOUNTS: usize = 3;
const PLAN: Plan = Plan { commands: 650, stop: false };

/// Disk events of the whole scenario, and what it did.
fn events_of(seed: u64) -> u64 {
    let world = world(seed);
    let ledger = ledger(ACCOUNTS);
    start(&world, &ledger, PLAN, PlantedBug::None, seed);
    settle(&world, &ledger, PLAN);
    assert_eq!(ledger.borrow().start_error, None);
    assert_eq!(ledger.borrow().order_broken, None);
    assert_eq!(ledger.borrow().commands, PLAN.commands);
    assert!(counter(&ledger, "frames") >= 200, "{:?}", ledger.borrow().counters);
    assert!(counter(&ledger, "heartbeats") >= 3, "{:?}", ledger.borrow().counters);
    assert!(counter(&ledger, "segments_ended") >= 4, "{:?}", ledger.borrow().counters);
    world.io_events(NODE)
}

struct Seen {
    acked: u64,
    torn: u64,
}

/// Crash at event `n`; sometimes again during the recovery; then everything must be there, and stay there.
fn crash_at(seed: u64, n: u64, planted: PlantedBug) -> Result<Seen, String> {
    let world = world(seed);
    let ledger = ledger(ACCOUNTS);
    world.crash_at_io(NODE, n);
    start(&world, &ledger, PLAN, planted, seed);
    settle(&world, &ledger, PLAN);
    let acked = ledger.borrow().accounts.iter().map(|account| account.acked).sum();
    if n.is_multiple_of(3) {
        world.crash_at_io(NODE, world.io_events(NODE) + 1 + n % 41);
        let _interrupted = must_recover(&world, &ledger, planted);
        if let Some(why) = &ledger.borrow().start_error
            && world.is_running(NODE)
        {
            return Err(format!("refused to start: {why}"));
        }
        world.cancel_crash(NODE);
        world.crash(NODE);
    }
    must_recover(&world, &ledger, planted)?;
    let torn = counter(&ledger, "torn_tails_cut");
    world.crash(NODE);
    must_recover(&world, &ledger, planted)?;
    let more = Plan { commands: 20, stop: false };
    world.crash(NODE);
    start(&world, &ledger, more, planted, n);
    settle(&world, &ledger, more);
    world.crash(NODE);
    must_recover(&world, &ledger, planted)?;
    Ok(Seen { acked, torn })
}

/// A fixed number of crash points, spread over the whole scenario of one seed.
fn crash_everywhere(seed: u64) {
    const POINTS: u64 = 510;
    let (mut torn, mut acked) = (0, 0);
    let events = events_of(seed);
    for point in 0..POINTS {
        let n = 1 + point * events / POINTS;
        match crash_at(seed, n, PlantedBug::None) {
            Ok(seen) => {
                torn += seen.torn;
                acked += seen.acked;
            }
            Err(why) => panic!("seed {seed}, crash at disk event {n}: {why}"),
        }
    }
    println!("seed {seed}: {POINTS} crash points, {acked} acknowledged events, {torn} torn tails cut");
    assert!(torn >= 10, "the scenario is blind: {torn} torn tails");
}

#[test]
fn nothing_acknowledged_is_lost_at_any_crash_point_one() {
    crash_everywhere(1);
}

#[test]
fn nothing_acknowledged_is_lost_at_any_crash_point_two() {
    crash_everywhere(2);
}

fn catches(planted: PlantedBug) {
    let caught = (1..=500).step_by(7).find_map(|n| crash_at(3, 200 + n, planted).err());
    println!("{planted:?}: {}", caught.expect("the checker must see this fault"));
}

#[test]
fn an_acknowledgement_at_submission_is_caught() {
    catches(PlantedBug::AckAtSubmit);
}

#[test]
fn a_missing_sync_is_caught() {
    catches(PlantedBug::NoSync);
}
