//! What an entity costs while it sleeps, counted by the allocator: a million entities with names of about twelve bytes, after
//! they were appended, after a restart from a checkpoint, and after a restart that scanned the whole log.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::alloc::System;
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use shardstage::driver::{DriverChoice, RealDriverFactory};
use shardstage::port::driver::{Driver, DriverFactory};
use shardstage::port::service::{Service, ServiceContext, Started};
use shardstage_codec::Epoch;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{AppendError, CommitOutcome, EventLog, LogShard, NewRecord, OnPoison};
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

struct Bench {
    driver: Box<dyn Driver>,
    log: LogShard,
    done: Rc<Cell<u64>>,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let driver = RealDriverFactory::new(DriverChoice::Auto).unwrap().make(common::SHARD).unwrap();
        let log = EventLog::open(dir).on_poison(OnPoison::Stay).shard(&common::seat()).unwrap();
        let mut bench = Self { driver, log, done: Rc::default() };
        while !bench.turn(|log, cx| log.start(cx).unwrap() == Started::Ready) {}
        bench
    }

    fn turn<R>(&mut self, work: impl FnOnce(&mut LogShard, &mut ServiceContext<'_>) -> R) -> R {
        let mut completions = Vec::new();
        self.driver.completions(&mut completions);
        let now_ns = self.driver.now_ns();
        let mut cx = ServiceContext::new(&mut *self.driver, 0, common::SHARD, now_ns);
        for completion in completions {
            self.log.completed(completion, &mut cx);
        }
        let worked = work(&mut self.log, &mut cx);
        self.log.poll(&mut cx);
        self.log.flush(&mut cx);
        self.driver.park(Some(now_ns + 1_000_000));
        worked
    }

    /// One event for each entity, which sleeps again at once.
    fn fill(&mut self) {
        for at in 0..ENTITIES {
            let entity = self.log.intern("p", &format!("player-{at:05}"), common::group(1), 1).unwrap();
            loop {
                let done = Rc::clone(&self.done);
                let record =
                    NewRecord { kind: RecordKind::Event, seq: 1, schema_version: 1, payload: &[7; 16], meta: &[] };
                let effect = Box::new(move |outcome| {
                    assert_eq!(outcome, CommitOutcome::Durable);
                    done.set(done.get() + 1);
                });
                match self.log.append(entity, Epoch::FIRST, &[record], effect) {
                    Ok(_) => break,
                    Err(AppendError::Full) => self.turn(|_, _| ()),
                    Err(error) => panic!("{error}"),
                }
            }
            self.log.release(entity);
        }
        while self.done.get() < ENTITIES {
            self.turn(|_, _| ());
        }
        // Spares and checkpoints that are under way have buffers of their own.
        for _ in 0..2000 {
            self.turn(|_, _| ());
        }
    }

    fn stop(mut self) {
        while !self.turn(|log, cx| log.stop(cx)) {}
    }

    fn counter(&self, name: &str) -> u64 {
        self.log.counters().iter().find(|(found, _)| *found == name).unwrap().1
    }
}

#[test]
fn an_entity_that_sleeps_costs_at_most_48_bytes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(dir.path());
    println!("{}", bench.log.probe_report().unwrap());
    for _ in 0..200 {
        bench.turn(|_, _| ());
    }
    let empty = bytes_in_use();
    bench.fill();
    assert_eq!(bench.log.entity_counts(), (ENTITIES as usize, 0));
    let check = |what: &str, bytes: f64| {
        let each = bytes / ENTITIES as f64;
        println!("{what}: {each:.1} bytes an entity");
        assert!(each > 20.0 && each <= MOST_BYTES, "{what}: {each}");
    };
    check("after appends", bytes_in_use() - empty);
    bench.stop();

    let before = bytes_in_use();
    let bench = Bench::new(dir.path());
    assert_eq!((bench.counter("checkpoints_used"), bench.log.entity_counts().0 as u64), (1, ENTITIES));
    check("after a restart from a checkpoint", bytes_in_use() - before - FIXED_BYTES);
    drop(bench);

    for entry in std::fs::read_dir(dir.path().join("log-0")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("ckpt-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let before = bytes_in_use();
    let bench = Bench::new(dir.path());
    assert_eq!((bench.counter("checkpoints_used"), bench.log.entity_counts().0 as u64), (0, ENTITIES));
    check("after a restart without one", bytes_in_use() - before - FIXED_BYTES);
}
