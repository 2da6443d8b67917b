//! The first write or sync error ends the log: no acknowledgement after it, everything that waits ends as unknown, and what
//! was acknowledged before is there after the next start.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{DIR, Host, NODE, Plan, SEGMENT_BYTES, SHARD, counter, ledger, must_recover, seat, settle, start, world};
use shardstage::sim::{DiskFault, DiskOpKind};
use shardstage_persistence::{EventLog, PlantedBug};

const PLAN: Plan = Plan { commands: 300, stop: false };

/// Whether a data call writes to a segment that holds frames: its token is that of a frame.
fn is_frame(token: u64) -> bool {
    (token >> 48) & 0xff == 1
}

#[test]
fn a_failed_frame_write_poisons_the_log() {
    let faults = [DiskFault::Error, DiskFault::NoSpace, DiskFault::Short(512), DiskFault::Slow(60_000_000_000)];
    for (nth, fault) in faults.into_iter().enumerate() {
        let world = world(nth as u64 + 1);
        let ledger = ledger(3);
        let left = Rc::new(Cell::new(40));
        let counting = Rc::clone(&left);
        world.disk_fault(NODE, fault, move |op| {
            let frame = op.kind == DiskOpKind::Write && is_frame(op.token);
            counting.set(counting.get() - i32::from(frame));
            frame && counting.get() == 0
        });
        start(&world, &ledger, PLAN, PlantedBug::None, 9);
        settle(&world, &ledger, PLAN);
        let poisoned = ledger.borrow().poisoned.clone();
        assert!(
            poisoned.as_ref().is_some_and(|why| why.contains("frame's write")),
            "{fault:?}: {poisoned:?} {:?}",
            ledger.borrow().counters
        );
        assert!(ledger.borrow().unknown > 0, "the commands that waited end as unknown");
        let acked: Vec<u64> = ledger.borrow().accounts.iter().map(|account| account.acked).collect();
        assert!(acked.iter().sum::<u64>() > 0);
        world.run_for(100_000_000_000);
        let later: Vec<u64> = ledger.borrow().accounts.iter().map(|account| account.acked).collect();
        assert_eq!(acked, later, "no acknowledgement after the error");
        world.crash(NODE);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
}

#[test]
fn a_spare_segment_that_cannot_be_written_is_tried_again() {
    let world = world(7);
    let ledger = ledger(3);
    for _ in 0..3 {
        world.disk_fault(NODE, DiskFault::NoSpace, |op| {
            op.kind == DiskOpKind::Write && !is_frame(op.token) && op.path.to_string_lossy().ends_with("4.seg")
        });
    }
    start(&world, &ledger, PLAN, PlantedBug::None, 9);
    settle(&world, &ledger, PLAN);
    assert_eq!(world.faults_waiting(NODE), 0);
    assert!(ledger.borrow().refused > 0, "appends are refused while there is no space");
    assert_eq!(ledger.borrow().poisoned, None);
    assert_eq!(ledger.borrow().order_broken, None);
    assert_eq!(ledger.borrow().commands, PLAN.commands);
    world.crash(NODE);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
}

#[test]
fn a_commit_of_more_than_a_second_is_counted_and_waited_for() {
    let world = world(21);
    let ledger = ledger(3);
    let left = Rc::new(Cell::new(40));
    let counting = Rc::clone(&left);
    world.disk_fault(NODE, DiskFault::Slow(2_000_000_000), move |op| {
        let frame = op.kind == DiskOpKind::Write && is_frame(op.token);
        counting.set(counting.get() - i32::from(frame));
        frame && counting.get() == 0
    });
    start(&world, &ledger, PLAN, PlantedBug::None, 9);
    settle(&world, &ledger, PLAN);
    assert_eq!(counter(&ledger, "slow_commits"), 1);
    assert_eq!((ledger.borrow().poisoned.clone(), ledger.borrow().unknown), (None, 0));
    assert_eq!(ledger.borrow().commands, PLAN.commands);
}

const CHILD: &str = "SHARDSTAGE_ABORT_CHILD";

/// Runs in a process of its own: the default policy after a write error.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let world = world(22);
    let ledger = ledger(3);
    world.disk_fault(NODE, DiskFault::Error, |op| op.kind == DiskOpKind::Write && is_frame(op.token));
    let log = EventLog::open(DIR).segment_bytes(SEGMENT_BYTES).shard(&seat()).unwrap();
    world.add_shard(NODE, SHARD, Box::new(Host::new(log, Rc::clone(&ledger), PLAN, 9)));
    settle(&world, &ledger, PLAN);
    println!("still alive");
}

#[test]
fn the_process_ends_after_a_write_error_by_default() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr).into_owned() + &String::from_utf8_lossy(&child.stdout);
    assert!(!child.status.success() && !said.contains("still alive"), "{said}");
    assert!(
        said.contains("a frame's write failed") && said.contains("the process ends so that recovery decides"),
        "{said}"
    );
}
