//! What an entity costs while it sleeps, counted by the allocator: a million entities with names of about twelve bytes, after
//! they were appended, after a restart from a checkpoint, and after a restart that scanned the whole log.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::alloc::System;
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use common::{Hand, event};
use shardstage::driver::{DriverChoice, RealDriverFactory};
use shardstage::port::driver::DriverFactory;
use shardstage_codec::Epoch;
use shardstage_persistence::{AppendError, CommitOutcome, EventLog, OnPoison};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ENTITIES: u64 = 1_000_000;
/// The goal is 48 bytes an entity.
const MOST_BYTES: f64 = 48.0;

/// The buffer in which frames are sealed, and a write of zeros: they do not grow with the entities.
const FIXED_BYTES: f64 = 1024.0 * 1280.0;

fn bytes_in_use() -> f64 {
    let stats = ALLOCATOR.stats();
    (stats.bytes_allocated as f64) - (stats.bytes_deallocated as f64)
}

fn opened(dir: &Path) -> Hand {
    let driver = RealDriverFactory::new(DriverChoice::Auto).unwrap().make(common::SHARD).unwrap();
    let log = EventLog::open(dir).on_poison(OnPoison::Stay).shard(&common::seat()).unwrap();
    let mut hand = Hand::new(log, driver);
    hand.park_ns = 1_000_000;
    hand.start();
    hand
}

/// One event for each entity, which sleeps again at once.
fn fill(hand: &mut Hand) {
    let done = Rc::new(Cell::new(0));
    for at in 0..ENTITIES {
        let entity = hand.log.intern("p", &format!("player-{at:05}"), common::group(1), 1).unwrap();
        loop {
            let done = Rc::clone(&done);
            let effect = Box::new(move |outcome| {
                assert_eq!(outcome, CommitOutcome::Durable);
                done.set(done.get() + 1);
            });
            match hand.log.append(entity, Epoch::FIRST, &[event(1, &[7; 16])], effect) {
                Ok(_) => break,
                Err(AppendError::Full) => hand.turn(),
                Err(error) => panic!("{error}"),
            }
        }
        hand.log.release(entity);
    }
    hand.turn_until(|_| done.get() == ENTITIES);
    // Spares and checkpoints that are under way have buffers of their own.
    (0..2000).for_each(|_| hand.turn());
}

#[test]
fn an_entity_that_sleeps_costs_at_most_48_bytes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut hand = opened(dir.path());
    println!("{}", hand.log.probe_report().unwrap());
    (0..200).for_each(|_| hand.turn());
    let empty = bytes_in_use();
    fill(&mut hand);
    assert_eq!(hand.log.entity_counts(), (ENTITIES as usize, 0));
    let check = |what: &str, bytes: f64| {
        let each = bytes / ENTITIES as f64;
        println!("{what}: {each:.1} bytes an entity");
        assert!(each > 20.0 && each <= MOST_BYTES, "{what}: {each}");
    };
    check("after appends", bytes_in_use() - empty);
    hand.stop();
    drop(hand);

    let before = bytes_in_use();
    let hand = opened(dir.path());
    assert_eq!((hand.counter("checkpoints_used"), hand.log.entity_counts().0 as u64), (1, ENTITIES));
    check("after a restart from a checkpoint", bytes_in_use() - before - FIXED_BYTES);
    drop(hand);

    for entry in std::fs::read_dir(dir.path().join("log-0")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("ckpt-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let before = bytes_in_use();
    let hand = opened(dir.path());
    assert_eq!((hand.counter("checkpoints_used"), hand.log.entity_counts().0 as u64), (0, ENTITIES));
    check("after a restart without one", bytes_in_use() - before - FIXED_BYTES);
}
