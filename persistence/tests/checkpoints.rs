//! Checkpoints: a restart reads a bounded tail, and nothing depends on any of them.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use common::{
    CHECKPOINT_BYTES, DIR, NODE, Plan, SEGMENT_BYTES, Shared, checkpoints, counter, forget_checkpoints, ledger,
    must_recover, settle, start, world,
};
use shardstage::sim::{DiskFault, DiskOpKind, SimWorld};
use shardstage_persistence::PlantedBug;

fn path(name: &str) -> String {
    format!("{DIR}/log-0/{name}")
}

/// A log after a run that ended in a crash, or orderly.
fn ran(seed: u64, commands: u64, stop: bool) -> (SimWorld, Shared) {
    let world = world(seed);
    let ledger = ledger(5);
    let plan = Plan { commands, stop };
    start(&world, &ledger, plan, PlantedBug::None, seed);
    settle(&world, &ledger, plan);
    assert_eq!(ledger.borrow().poisoned, None);
    world.crash(NODE);
    (world, ledger)
}

/// Everything that a restart finds, as text.
fn found(ledger: &Shared) -> String {
    let ledger = ledger.borrow();
    let entities = ledger.loaded.iter().map(|loaded| {
        let loaded = loaded.as_ref().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|record| (record.header, record.payload.to_vec()));
        let events: Vec<_> = loaded.events.iter().map(|record| (record.header, record.payload.to_vec())).collect();
        format!("{:?} {} {snapshot:?} {events:?}\n", loaded.entity, loaded.last_seq)
    });
    entities.collect()
}

#[test]
fn a_restart_reads_a_bounded_tail() {
    for seed in 0..10 {
        let (world, ledger) = ran(seed, 1500, false);
        let written = counter(&ledger, "bytes");
        assert!(written > 8 * CHECKPOINT_BYTES && counter(&ledger, "checkpoints") > 3);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        assert_eq!(counter(&ledger, "checkpoints_used"), 1);
        let read = counter(&ledger, "recovered_bytes");
        // Two intervals: one to the next anchor, one while its checkpoint is written.
        assert!(read <= 2 * CHECKPOINT_BYTES + SEGMENT_BYTES, "{read} of {written}");
    }
}

#[test]
fn an_orderly_stop_leaves_nothing_to_read() {
    let (world, ledger) = ran(1, 700, true);
    assert!(ledger.borrow().stopped);
    assert!(counter(&ledger, "checkpoints") > 2);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert_eq!(counter(&ledger, "checkpoints_used"), 1);
    assert_eq!(counter(&ledger, "recovered_records"), 0);
}

#[test]
fn any_derived_file_may_vanish_between_two_runs() {
    let mut deleted = 0;
    for seed in 0..30 {
        let (world, ledger) = ran(seed, 300 + seed * 10, seed % 2 == 0);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        let whole = found(&ledger);
        world.crash(NODE);
        for (nth, name) in checkpoints(&world).iter().enumerate() {
            if seed >> nth & 1 == 0 {
                assert!(world.remove_file(NODE, path(name)));
                deleted += 1;
            }
        }
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        assert_eq!(found(&ledger), whole, "seed {seed}");
        world.crash(NODE);
        forget_checkpoints(&world);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        assert_eq!(counter(&ledger, "checkpoints_used"), 0);
        assert_eq!(found(&ledger), whole, "seed {seed}");
        // The log goes on as well as before.
        world.crash(NODE);
        let plan = Plan { commands: 100, stop: true };
        start(&world, &ledger, plan, PlantedBug::None, seed);
        settle(&world, &ledger, plan);
        world.crash(NODE);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
    assert!(deleted > 15, "{deleted}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let (pristine, _) = ran(3, 900, false);
    let newest = checkpoints(&pristine).pop().unwrap();
    let bits = pristine.file_bytes(NODE, path(&newest)).unwrap().len() as u64 * 8;
    let mut passed = 0;
    for case in 0..40u64 {
        // The first bytes of each part, then any.
        let bit = if case < 20 { case * 33 % 640 } else { case * 1_000_003 % bits };
        let (world, ledger) = ran(3, 900, false);
        world.flip_bit(NODE, path(&newest), bit);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        passed += u64::from(counter(&ledger, "recovered_bytes") > 2 * CHECKPOINT_BYTES + SEGMENT_BYTES);
        passed += counter(&ledger, "checkpoints_used");
    }
    assert_eq!(passed, 40, "each start used the older one or read everything");
    let (world, ledger) = ran(3, 900, false);
    for name in checkpoints(&world) {
        world.flip_bit(NODE, path(&name), 8 * 16);
    }
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert_eq!(counter(&ledger, "checkpoints_used"), 0);
}

#[test]
fn a_checkpoint_is_no_evidence_about_the_log() {
    // The whole log from the last checkpoint's frame on is gone, as if an older copy had been put back.
    let (world, ledger) = ran(4, 400, true);
    let names: Vec<String> = world.list(NODE, format!("{DIR}/log-0"));
    let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".seg")).collect();
    let used = |name: &str| world.file_bytes(NODE, path(name)).unwrap().starts_with(b"SSF1");
    let last = segments.iter().rev().find(|name| used(name)).unwrap();
    let bytes = world.file_bytes(NODE, path(last)).unwrap();
    let block = bytes.chunks(4096).rposition(|block| block.starts_with(b"SSF1")).unwrap() as u64;
    for sector in block * 8..block * 8 + 8 {
        world.zero_sector(NODE, path(last), sector);
    }
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert!(counter(&ledger, "recovered_records") > 0, "an older checkpoint, or none, was used");
    assert_eq!(counter(&ledger, "torn_tails_cut"), 0);
}

#[test]
fn damage_before_the_checkpoint_is_found_by_who_reads_it() {
    let (world, ledger) = ran(5, 600, true);
    let bytes = world.file_bytes(NODE, path("0000000000000001.seg")).unwrap();
    let block = bytes.chunks(4096).position(|block| block.starts_with(b"SSF1") && block[44] > 1).unwrap();
    world.flip_bit(NODE, path("0000000000000001.seg"), (block as u64 * 4096 + 150) * 8);
    // Snapshots made the old records dispensable: nobody reads them, and the log opens.
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert_eq!(counter(&ledger, "checkpoints_used"), 1);
    world.crash(NODE);
    forget_checkpoints(&world);
    let refused = must_recover(&world, &ledger, PlantedBug::None).unwrap_err();
    assert!(refused.contains("acknowledged records"), "{refused}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_tried_again() {
    for fault in [DiskFault::NoSpace, DiskFault::Error, DiskFault::Short(512)] {
        let world = world(6);
        let ledger = ledger(3);
        let plan = Plan { commands: 2000, stop: true };
        world.disk_fault(NODE, fault, |op| op.kind == DiskOpKind::Write && op.path.ends_with("ckpt.new"));
        start(&world, &ledger, plan, PlantedBug::None, 9);
        settle(&world, &ledger, plan);
        assert_eq!(ledger.borrow().poisoned, None);
        assert_eq!(counter(&ledger, "checkpoints_failed"), 1);
        assert!(!checkpoints(&world).is_empty());
        assert!(!world.list(NODE, format!("{DIR}/log-0")).contains(&"ckpt.new".to_owned()));
        world.crash(NODE);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
}
