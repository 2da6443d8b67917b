//! A full disk is back-pressure: new events are refused by name, what was accepted is committed, reading and snapshots go on, and
//! space that comes back is used.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use common::{DIR, Hand, NODE, Plan, SEGMENT_BYTES, checkpoints, event, ledger, must_recover, settle, start, world};
use shardstage_codec::Epoch;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{AppendError, CommitOutcome, NewRecord, PlantedBug};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_full_disk_refuses_events_and_loses_nothing() {
    for seed in 0..8 {
        let world = world(seed);
        world.set_disk_capacity(NODE, Some(9 * SEGMENT_BYTES + seed * 10_000));
        let ledger = ledger(4);
        let plan = Plan { commands: 3000, stop: false };
        start(&world, &ledger, plan, PlantedBug::None, seed);
        world.run_for(3 * SECOND);
        assert_eq!(ledger.borrow().poisoned, None);
        assert!(ledger.borrow().refused > 0 && ledger.borrow().commands < plan.commands);
        assert!(ledger.borrow().accounts.iter().all(|account| !account.waiting), "what was accepted was committed");
        let full = ledger.borrow().commands;
        if seed % 2 == 0 {
            // A restart on the full disk finds everything, and refuses as before.
            world.crash(NODE);
            must_recover(&world, &ledger, PlantedBug::None).unwrap();
            world.crash(NODE);
            start(&world, &ledger, plan, PlantedBug::None, seed);
            world.run_for(2 * SECOND);
            assert_eq!(ledger.borrow().poisoned, None);
        }
        world.set_disk_capacity(NODE, None);
        world.run_for(10 * SECOND);
        assert!(ledger.borrow().commands > full + 500, "space that came back is used");
        assert_eq!(ledger.borrow().order_broken, None);
        world.crash(NODE);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
}

#[test]
fn a_log_without_room_stops_orderly() {
    let world = world(77);
    world.set_disk_capacity(NODE, Some(6 * SEGMENT_BYTES));
    let ledger = ledger(4);
    start(&world, &ledger, Plan { commands: 3000, stop: false }, PlantedBug::None, 1);
    world.run_for(3 * SECOND);
    world.crash(NODE);
    for _ in 0..40 {
        let plan = Plan { commands: 0, stop: true };
        start(&world, &ledger, plan, PlantedBug::None, 1);
        settle(&world, &ledger, plan);
        assert!(ledger.borrow().stopped || ledger.borrow().start_error.is_some(), "{:?}", ledger.borrow().counters);
        world.crash(NODE);
    }
    world.set_disk_capacity(NODE, None);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
}

/// One record of alice's; it is counted when it is durable.
fn append(hand: &mut Hand, kind: RecordKind, seq: u64, len: usize) -> Result<(), AppendError> {
    let entity = hand.entity(1);
    let payload = vec![7; len];
    let note = hand.note(0);
    hand.log.append(entity, Epoch::FIRST, &[NewRecord { kind, ..event(seq, &payload) }], note).map(|_| ())
}

#[test]
fn reads_snapshots_and_checkpoints_go_on_from_the_reserve() {
    let world = world(3);
    world.set_disk_capacity(NODE, Some(6 * SEGMENT_BYTES));
    let mut hand = Hand::simulated(&world);
    let mut seq = 0;
    let mut accepted = 0;
    let mut low = 0;
    for _ in 0..2000 {
        match append(&mut hand, RecordKind::Event, seq + 1, 600) {
            Ok(()) => (seq, accepted) = (seq + 1, accepted + 1),
            Err(AppendError::LowSpace) => low += 1,
            Err(AppendError::Full) => {}
            Err(other) => panic!("{other}"),
        }
        hand.turn();
    }
    assert!(low > 100 && seq > 50, "{low} {seq}");
    while hand.ran.borrow().len() < accepted {
        hand.turn();
    }
    let before = checkpoints(&world).len();
    for nth in 1..=3 {
        append(&mut hand, RecordKind::Snapshot, seq, 3000).unwrap();
        while hand.ran.borrow().len() < accepted + nth {
            hand.turn();
        }
        assert_eq!(append(&mut hand, RecordKind::Event, seq + 1, 600), Err(AppendError::LowSpace));
    }
    let entity = hand.entity(1);
    assert_eq!(hand.load(entity).unwrap().last_seq, seq);
    // An orderly stop writes its checkpoint in the room of an older one.
    hand.stop();
    assert!(hand.ran.borrow().iter().all(|(_, outcome)| *outcome == CommitOutcome::Durable));
    assert!(before > 0 && !checkpoints(&world).is_empty());
    assert!(world.list(NODE, format!("{DIR}/log-0")).iter().all(|name| name != "ckpt.new"));
}
