//! The log's promises to its callers, one by one: held effects, fencing, refusals.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{Hand, NODE, event, group, world};
use shardstage::port::service::Service;
use shardstage::sim::SimWorld;
use shardstage_codec::Epoch;
use shardstage_persistence::limits::{KEY_BYTES, RECORD_BYTES};
use shardstage_persistence::{AppendError, CommitOutcome, LoadError};

/// A log whose spares are written, so that a turn waits for frames only.
fn begun(world: &SimWorld) -> Hand {
    let mut hand = Hand::simulated(world);
    (0..100).for_each(|_| hand.turn());
    hand
}

#[test]
fn effects_run_in_append_order_and_reads_wait_for_what_they_saw() {
    let world = world(1);
    let mut hand = begun(&world);
    let (one, two) = (hand.entity(1), hand.entity(2));
    let note = hand.note(1);
    let first = hand.log.append(one, Epoch::FIRST, &[event(1, b"a")], note).unwrap();
    hand.with(|log, cx| log.flush(cx));
    assert!(hand.log.commit_in_flight());
    // The first frame is on its way; what comes now forms the next one.
    let note = hand.note(2);
    let second = hand.log.append(two, Epoch::FIRST, &[event(1, b"b")], note).unwrap();
    let note = hand.note(3);
    hand.log.when_durable(first, note);
    let note = hand.note(4);
    hand.log.when_durable(second, note);
    assert!(second > first && !hand.log.is_durable(first));
    assert_eq!(hand.names(), [] as [u32; 0]);
    while !hand.log.is_durable(first) {
        hand.turn();
    }
    assert_eq!(hand.names(), [1, 3]);
    while !hand.log.is_durable(second) {
        hand.turn();
    }
    assert_eq!(hand.names(), [1, 3, 2, 4]);
    let note = hand.note(5);
    hand.log.when_durable(first, note);
    assert_eq!(hand.names(), [1, 3, 2, 4, 5]);
    assert!(hand.ran.borrow().iter().all(|(_, outcome)| *outcome == CommitOutcome::Durable));
}

#[test]
fn an_epoch_that_is_not_current_is_fenced() {
    let world = world(2);
    let mut hand = begun(&world);
    let one = hand.entity(1);
    let fenced = |current| Err(AppendError::Fenced { current: Epoch::new(current) });
    let try_append = |hand: &mut Hand, epoch, seq| {
        let note = hand.note(0);
        hand.log.append(one, Epoch::new(epoch), &[event(seq, b"x")], note).map(|_| ())
    };
    assert_eq!(try_append(&mut hand, 0, 1), fenced(1), "epoch 0 is no epoch");
    assert_eq!(try_append(&mut hand, 1, 1), Ok(()));
    hand.log.raise_epoch(group(1), Epoch::new(3)).unwrap();
    assert_eq!(try_append(&mut hand, 2, 2), fenced(3));
    assert_eq!(hand.log.raise_epoch(group(1), Epoch::new(2)), fenced(3));
    assert_eq!(try_append(&mut hand, 5, 2), Ok(()), "an owner of a later epoch raises it");
    assert_eq!(try_append(&mut hand, 3, 3), fenced(5));
    let other = hand.entity(2);
    let note = hand.note(0);
    hand.log.append(other, Epoch::FIRST, &[event(1, b"y")], note).unwrap();
    while hand.names().len() < 3 {
        hand.turn();
    }
    // The epochs of sections survive a restart.
    drop(hand);
    world.crash(NODE);
    let mut hand = begun(&world);
    assert_eq!(hand.log.epoch(group(1)), Epoch::new(5));
    assert_eq!(hand.entity(1), one, "an entity keeps its number");
    assert_eq!(try_append(&mut hand, 4, 3), fenced(5));
    assert_eq!(try_append(&mut hand, 5, 3), Ok(()));
}

#[test]
fn a_refused_append_changes_nothing() {
    let world = world(3);
    let mut hand = begun(&world);
    let one = hand.entity(1);
    let note = hand.note(0);
    let refused = hand.log.append(one, Epoch::FIRST, &[event(2, b"x")], note);
    assert_eq!(refused, Err(AppendError::WrongSequence { expected: 1 }));
    let note = hand.note(0);
    let large = vec![0; RECORD_BYTES + 1];
    let refused = hand.log.append(one, Epoch::FIRST, &[event(1, &large)], note);
    assert_eq!(refused, Err(AppendError::TooLarge { limit: RECORD_BYTES }));
    let mut full = 0;
    for seq in 1.. {
        let note = hand.note(1);
        match hand.log.append(one, Epoch::FIRST, &[event(seq, &[0; 8000])], note) {
            Ok(_) => full = seq,
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                break;
            }
        }
    }
    assert!(hand.log.intern("account", &"k".repeat(KEY_BYTES + 1), group(1), 1).is_err());
    while (hand.names().len() as u64) < full {
        hand.turn();
    }
    let note = hand.note(2);
    hand.log.append(one, Epoch::FIRST, &[event(full + 1, b"x")], note).unwrap();
}

#[test]
fn a_load_waits_for_frames_on_their_way_and_finds_them() {
    let world = world(4);
    let mut hand = begun(&world);
    let one = hand.entity(1);
    let note = hand.note(1);
    hand.log.append(one, Epoch::FIRST, &[event(1, b"first"), event(2, b"second")], note).unwrap();
    let found = hand.load(one).unwrap();
    assert_eq!(hand.names(), [1]);
    assert_eq!(found.last_seq, 2);
    assert_eq!(found.events.iter().map(|event| event.payload.to_vec()).collect::<Vec<_>>(), [&b"first"[..], b"second"]);
    assert!(found.events.iter().all(|event| event.payload.as_ptr().addr().is_multiple_of(16)));
}

#[test]
fn a_record_that_went_bad_fails_its_own_entity_only() {
    let world = world(5);
    let mut hand = begun(&world);
    let (one, two) = (hand.entity(1), hand.entity(2));
    for (name, entity) in [(1, one), (2, two)] {
        let note = hand.note(name);
        hand.log.append(entity, Epoch::FIRST, &[event(1, &[7; 500])], note).unwrap();
        while hand.names().len() < name as usize {
            hand.turn();
        }
    }
    // Block 0 holds the incarnation's first frame, block 1 that of entity 1.
    world.flip_bit(NODE, "/data/log-0/0000000000000001.seg", (4096 + 400) * 8);
    let found = Rc::new(RefCell::new(Vec::new()));
    for entity in [one, two] {
        let place = Rc::clone(&found);
        hand.log.load(entity, Box::new(move |result| place.borrow_mut().push(result.map(|loaded| loaded.last_seq))));
    }
    while found.borrow().len() < 2 {
        hand.turn();
    }
    let found = found.borrow();
    assert!(found.contains(&Ok(1)), "{found:?}");
    let damaged = |result: &Result<u64, LoadError>| matches!(result, Err(LoadError::Damaged { segment: 1, offset, .. }) if offset / 4096 == 1);
    assert!(found.iter().any(damaged), "{found:?}");
    assert_eq!(hand.log.poisoned(), None);
}
