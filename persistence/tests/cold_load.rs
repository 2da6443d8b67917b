//! Loading an entity that sleeps: what it reads at once, what it reads one after the other, and what an error leaves behind.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use common::{DIR, Hand, NODE, event};
use shardstage::sim::{DiskFault, DiskOpKind, SimOptions, SimWorld};
use shardstage_codec::Epoch;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{EntityId, LoadError, NewRecord};

/// Latency of every read, ns.
const READ_NS: u64 = 100_000;

fn world() -> SimWorld {
    let mut options = SimOptions::seeded(4);
    options.disk.read_ns = READ_NS..=READ_NS;
    SimWorld::new(options)
}

/// One command in a frame of its own.
fn commit(hand: &mut Hand, entity: EntityId, records: &[NewRecord<'_>]) {
    let ran = hand.ran.borrow().len();
    let note = hand.note(0);
    hand.log.append(entity, Epoch::FIRST, records, note).unwrap();
    hand.turn_until(|hand| hand.ran.borrow().len() > ran);
}

/// An entity whose name and first event stand in block 1, and whose newest snapshot in a frame far behind.
fn sleeper(hand: &mut Hand) -> EntityId {
    let (one, two) = (hand.entity(1), hand.entity(2));
    commit(hand, one, &[event(1, b"first")]);
    for seq in 1..=8 {
        commit(hand, two, &[event(seq, &[7; 3000])]);
    }
    let snapshot = NewRecord { kind: RecordKind::Snapshot, ..event(2, b"state") };
    commit(hand, one, &[event(2, b"second"), snapshot]);
    one
}

#[test]
fn name_and_state_are_read_at_once() {
    let world = world();
    let mut hand = Hand::simulated(&world);
    let one = sleeper(&mut hand);
    // Spares are written meanwhile, or not: nothing that a load waits for.
    (0..100).for_each(|_| hand.turn());
    let begun_ns = hand.driver.now_ns();
    let loaded = hand.load(one).unwrap();
    let took_ns = hand.driver.now_ns() - begun_ns;
    assert_eq!((loaded.last_seq, loaded.events.len()), (2, 0));
    assert_eq!(&*loaded.snapshot.unwrap().payload, b"state");
    assert!((READ_NS..2 * READ_NS).contains(&took_ns), "{took_ns} ns: two reads after each other take {}", 2 * READ_NS);
}

#[test]
fn a_name_that_cannot_be_read_fails_its_load_alone() {
    let world = world();
    let mut hand = Hand::simulated(&world);
    let one = sleeper(&mut hand);
    let two = hand.entity(2);
    for block in [1, 10] {
        world.disk_fault(NODE, DiskFault::Error, move |op| {
            op.kind == DiskOpKind::Read && op.path.starts_with(DIR) && op.offset == block * 4096
        });
        let failed = hand.load(one);
        assert!(matches!(failed, Err(LoadError::Io(_))), "block {block}: {failed:?}");
        assert_eq!(world.faults_waiting(NODE), 0);
        assert_eq!(hand.load(two).unwrap().last_seq, 8, "others are loaded");
        assert_eq!(hand.load(one).unwrap().last_seq, 2, "and so is this one, when the disk gives it back");
    }
    hand.stop();
}
