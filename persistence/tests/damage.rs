//! Damage to a log that is down: acknowledged data that cannot be read is refused by name, an unfinished tail is cut, and
//! nothing is changed on the disk by a refusal.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use common::{
    NODE, Plan, SEGMENT_BYTES, Shared, counter, forget_checkpoints, ledger, must_recover, settle, start, world,
};
use shardstage::port::driver::{Driver, OpenOptions};
use shardstage::sim::{DiskFault, DiskOpKind, SimWorld};
use shardstage_persistence::PlantedBug;
use shardstage_persistence::format::manifest::{Manifest, unsealed_blocks};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

const LOG: &str = "/data/log-0";

/// A log of several segments, stopped orderly.
fn stopped_log(seed: u64) -> (SimWorld, Shared) {
    let (world, ledger) = stopped_after(seed, 300);
    assert!(counter(&ledger, "segments_ended") >= 3);
    (world, ledger)
}

fn stopped_after(seed: u64, commands: u64) -> (SimWorld, Shared) {
    let world = world(seed);
    let ledger = ledger(3);
    let plan = Plan { commands, stop: true };
    start(&world, &ledger, plan, PlantedBug::None, seed);
    settle(&world, &ledger, plan);
    assert!(ledger.borrow().stopped);
    world.crash(NODE);
    // A start that needs not read old frames does not find out that they are damaged.
    forget_checkpoints(&world);
    (world, ledger)
}

fn segment(id: u64) -> String {
    format!("{LOG}/{id:016x}.seg")
}

fn refusal(world: &SimWorld, ledger: &Shared, planted: PlantedBug) -> String {
    must_recover(world, ledger, planted).expect_err("the log must be refused")
}

/// Blocks of a segment that hold frames.
fn used_blocks(world: &SimWorld, id: u64) -> Vec<usize> {
    let bytes = world.file_bytes(NODE, segment(id)).unwrap();
    bytes.chunks(4096).enumerate().filter(|(_, block)| block.starts_with(b"SSF1")).map(|(at, _)| at).collect()
}

#[test]
fn a_stopped_log_is_found_whole() {
    let (world, ledger) = stopped_log(1);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert_eq!(counter(&ledger, "torn_tails_cut"), 0);
}

#[test]
fn every_flipped_bit_in_acknowledged_frames_is_refused_by_name() {
    let (world, ledger) = stopped_log(2);
    let mut flips = 0;
    for id in [1, 2, 3] {
        let bytes = world.file_bytes(NODE, segment(id)).unwrap();
        for block in used_blocks(&world, id) {
            // A byte of the header, one of the first section, one of a record.
            for byte in [20, 70, 130] {
                let len = u32::from_le_bytes(bytes[block * 4096 + 12..block * 4096 + 16].try_into().unwrap());
                if byte >= len as usize {
                    continue;
                }
                let bit = (block * 4096 + byte) as u64 * 8 + 3;
                world.flip_bit(NODE, segment(id), bit);
                let why = refusal(&world, &ledger, PlantedBug::None);
                let named = format!("segment {id:016x} from byte {}", block * 4096);
                assert!(why.contains("acknowledged records with LSN") && why.contains(&named), "{why}");
                world.crash(NODE);
                world.flip_bit(NODE, segment(id), bit);
                flips += 1;
            }
        }
        assert_eq!(world.file_bytes(NODE, segment(id)).unwrap(), bytes, "refusals change nothing");
    }
    println!("{flips} flips");
    assert!(flips >= 30, "{flips}");
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
}

#[test]
fn a_rule_that_stops_at_the_first_bad_frame_is_caught() {
    let (world, ledger) = stopped_log(2);
    let block = used_blocks(&world, 2)[2];
    world.flip_bit(NODE, segment(2), block as u64 * 4096 * 8 + 161);
    let why = refusal(&world, &ledger, PlantedBug::CutAtFirstBad);
    assert!(why.contains("acknowledged") || why.contains("recovered") || why.contains("sealed"), "{why}");
}

#[test]
fn an_unfinished_tail_is_cut() {
    let (world, ledger) = stopped_log(3);
    let last = (1..100).take_while(|id| world.file_bytes(NODE, segment(*id)).is_some());
    let (id, blocks) =
        last.map(|id| (id, used_blocks(&world, id))).filter(|(_, used)| !used.is_empty()).last().unwrap();
    // The last frame is the heartbeat of the orderly end: nobody was told of it.
    let block = *blocks.last().unwrap();
    world.flip_bit(NODE, segment(id), block as u64 * 4096 * 8 + 165);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    assert_eq!(counter(&ledger, "torn_tails_cut"), 1);
}

/// Frames at the end of the active segment prove what is missing before them, however much that is: a start reads all of a
/// segment that was begun.
#[test]
fn a_begun_segment_that_lost_its_beginning_is_refused() {
    let mut lost = 0;
    for seed in 20..60 {
        let (world, ledger) = stopped_log(seed);
        let ids = (1..100).take_while(|id| world.file_bytes(NODE, segment(*id)).is_some());
        let id = ids.filter(|id| !used_blocks(&world, *id).is_empty()).last().unwrap();
        let last = *used_blocks(&world, id).last().unwrap();
        if last <= unsealed_blocks(16) as usize {
            continue;
        }
        for sector in 0..last as u64 * 8 {
            world.zero_sector(NODE, segment(id), sector);
        }
        lost += 1;
        let why = refusal(&world, &ledger, PlantedBug::None);
        assert!(why.contains("acknowledged records with LSN"), "{why}");
        if lost == 10 {
            break;
        }
    }
    assert!(lost >= 10, "{lost}");
}

#[test]
fn of_a_segment_that_was_not_begun_a_start_reads_the_beginning_only() {
    // Not one whose last frame fills its segment: then the log goes on in the next one.
    let (world, ledger) = stopped_log(9);
    let read: Rc<RefCell<BTreeMap<String, u64>>> = Rc::default();
    let seen = Rc::clone(&read);
    world.disk_fault(NODE, DiskFault::Error, move |op| {
        let path = op.path.display().to_string();
        if op.kind == DiskOpKind::Read && path.ends_with(".seg") {
            *seen.borrow_mut().entry(path).or_default() += op.len as u64;
        }
        false
    });
    let there = (1..100).take_while(|id| world.file_bytes(NODE, segment(*id)).is_some());
    let there: Vec<(u64, bool)> = there.map(|id| (id, used_blocks(&world, id).is_empty())).collect();
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
    let (mut begun, mut spares) = (0, 0);
    for (id, is_spare) in there {
        let bytes = read.borrow().get(&segment(id)).copied().unwrap_or(0);
        if is_spare {
            assert_eq!(bytes, u64::from(unsealed_blocks(16)) * 4096, "{id}");
            spares += 1;
        } else {
            assert!(bytes >= SEGMENT_BYTES, "{id}: {bytes}");
            begun += 1;
        }
    }
    assert!(begun >= 3 && spares >= 1, "{begun} {spares}");
}

#[test]
fn a_missing_or_short_segment_is_named() {
    let (world, ledger) = stopped_log(4);
    world.driver(NODE, common::SHARD).remove(Path::new(&segment(2))).unwrap();
    world.settle_disk(NODE);
    world.crash(NODE);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("0000000000000002.seg") && why.contains("missing"), "{why}");

    let mut driver = world.driver(NODE, common::SHARD);
    let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
    driver.open(Path::new(&segment(2)), options).unwrap();
    world.settle_disk(NODE);
    world.crash(NODE);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(
        why.contains("0000000000000002.seg") && why.contains(&format!("0 bytes, the manifest says {SEGMENT_BYTES}"))
    );
}

#[test]
fn one_damaged_manifest_slot_loses_nothing_and_two_are_refused() {
    for slot in ["MANIFEST.a", "MANIFEST.b"] {
        let (world, ledger) = stopped_log(5);
        world.flip_bit(NODE, format!("{LOG}/{slot}"), 16 * 8);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
    let (world, ledger) = stopped_log(5);
    world.flip_bit(NODE, format!("{LOG}/MANIFEST.a"), 16 * 8);
    world.flip_bit(NODE, format!("{LOG}/MANIFEST.b"), 16 * 8);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("MANIFEST.a") && why.contains("valid manifest"), "{why}");
}

/// Power fails at every event of a start of which one manifest slot is damaged or gone: the one that is whole stays so until
/// the other is whole again.
#[test]
fn a_power_loss_while_a_manifest_slot_is_mended_leaves_one_that_is_whole() {
    let (mut cuts, mut overwritten) = (0, 0);
    let slots = ["MANIFEST.a", "MANIFEST.b"];
    for seed in 50..52 {
        for (slot, whole, gone) in [false, true].into_iter().flat_map(|gone| [(0, 1, gone), (1, 0, gone)]) {
            let (slot, whole) = (slots[slot], format!("{LOG}/{}", slots[whole]));
            let broken = || {
                let (world, ledger) = stopped_after(seed, 30);
                if gone {
                    assert!(world.remove_file(NODE, format!("{LOG}/{slot}")));
                    world.settle_disk(NODE);
                } else {
                    world.flip_bit(NODE, format!("{LOG}/{slot}"), 16 * 8);
                }
                (world, ledger)
            };
            let (world, ledger) = broken();
            let first = world.io_events(NODE);
            must_recover(&world, &ledger, PlantedBug::None).unwrap();
            let last = world.io_events(NODE);
            for n in first + 1..=last {
                let (world, ledger) = broken();
                let before = world.file_bytes(NODE, &whole);
                world.crash_at_io(NODE, n);
                let _interrupted = must_recover(&world, &ledger, PlantedBug::None);
                world.cancel_crash(NODE);
                world.crash(NODE);
                if world.file_bytes(NODE, &whole) != before {
                    let mended = world.file_bytes(NODE, format!("{LOG}/{slot}"));
                    let mended = mended.and_then(|bytes| Manifest::decode(&bytes));
                    assert!(mended.is_some(), "seed {seed}, {slot}: the other one was written before it, at event {n}");
                    overwritten += 1;
                }
                let found = must_recover(&world, &ledger, PlantedBug::None);
                assert_eq!(found, Ok(()), "seed {seed}, {slot}, power loss at event {} of {}", n - first, last - first);
                cuts += 1;
            }
        }
    }
    println!("{cuts} power losses, {overwritten} of them in or behind the second write");
    assert!(cuts > 100 && overwritten > 10, "{cuts} {overwritten}");
}

#[test]
fn a_manifest_slot_that_cannot_be_read_is_as_a_damaged_one() {
    let unreadable = |world: &SimWorld, slot: &'static str| {
        world.disk_fault(NODE, DiskFault::Error, move |op| op.kind == DiskOpKind::Read && op.path.ends_with(slot));
    };
    for slot in ["MANIFEST.a", "MANIFEST.b"] {
        let (world, ledger) = stopped_log(8);
        unreadable(&world, slot);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
        assert_eq!(world.faults_waiting(NODE), 0, "it was read");
    }
    let (world, ledger) = stopped_log(8);
    unreadable(&world, "MANIFEST.a");
    unreadable(&world, "MANIFEST.b");
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("MANIFEST.") && why.contains("cannot read"), "{why}");
    world.crash(NODE);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();

    let (world, ledger) = stopped_log(8);
    unreadable(&world, "MANIFEST.a");
    world.flip_bit(NODE, format!("{LOG}/MANIFEST.b"), 16 * 8);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("MANIFEST.a") && why.contains("cannot read"), "{why}");
}

#[test]
fn a_segment_that_cannot_be_read_is_refused_with_its_bytes() {
    let (world, ledger) = stopped_log(7);
    world.disk_fault(NODE, DiskFault::Error, |op| {
        op.kind == DiskOpKind::Read && op.path.ends_with("0000000000000002.seg")
    });
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("0000000000000002.seg: cannot read: bytes 0..65536: "), "{why}");
    world.crash(NODE);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
}

#[test]
fn a_damaged_or_missing_node_file_is_refused() {
    let (world, ledger) = stopped_log(6);
    world.flip_bit(NODE, format!("{LOG}/NODE"), 30 * 8);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("/data/log-0/NODE") && why.contains("damaged"), "{why}");

    let (world, ledger) = stopped_log(6);
    world.driver(NODE, common::SHARD).remove(Path::new("/data/log-0/NODE")).unwrap();
    world.settle_disk(NODE);
    world.crash(NODE);
    let why = refusal(&world, &ledger, PlantedBug::None);
    assert!(why.contains("NODE is missing"), "{why}");
    assert!(world.file_bytes(NODE, segment(1)).is_some(), "a refusal removes nothing");
}
