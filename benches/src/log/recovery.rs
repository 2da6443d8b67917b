//! Recovery: how long an engine with a full log takes to start, beside one sequential read of the same files.
//!
//! The files are flushed and dropped from the page cache before. Starting an engine without events takes a millisecond, which
//! is counted with the rest.

use std::time::{Duration, Instant};

use shardstage::port::service::Service;
use shardstage::prelude::*;
use shardstage_persistence::LogShard;

use super::LogWork;
use super::device::read_sequentially;
use super::disturb::Beside;
use super::drive::per_event;
use super::raw::{Pace, Plan, Session, engine};
use super::room::{Room, files};
use crate::limits::{RECOVERY_IN_FLIGHT, RECOVERY_TIME};
use crate::ours::PARKED;
use crate::workload::{Entry, Role, Run, Work};

/// Our share and the limit's.
pub const ENTRIES: &[Entry] = &[
    entry(PARKED, Role::Ours, recover),
    entry("bare 1 MiB reads, QD4", Role::Limit, |n| {
        let room = filled(n);
        per_event(read_sequentially(&written(&room, n)), n)
    }),
];

const fn entry(name: &'static str, role: Role, run: fn(u64) -> f64) -> Entry {
    Entry { work: Work::Log(LogWork::Recovery), name, role, run: Run::Figure(run) }
}

/// A log with so many events of so many actors.
fn filled(n: u64) -> Room {
    let room = Room::new();
    let plan = Plan { writers: RECOVERY_IN_FLIGHT.min(n), events: n, pace: Pace::Closed, time: RECOVERY_TIME };
    let mut session = Session::start(1, IdleStrategy::Spin, Beside::Nothing, &room);
    let seen = session.write(plan);
    session.end();
    assert!(seen.events >= n, "the log took {} of {n} events", seen.events);
    room.evict();
    room
}

/// The segments that hold events: those with the least numbers, as spares come later.
fn written(room: &Room, n: u64) -> Vec<std::path::PathBuf> {
    let mut segments = files(room.path());
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let bytes = |path: &std::path::PathBuf| std::fs::metadata(path).expect("it was listed").len();
    let needed = n * crate::limits::STORED_EVENT_BYTES;
    let mut held = 0;
    let count = segments.iter().take_while(|path| {
        let before = held;
        held += bytes(path);
        before < needed
    });
    let count = count.count();
    segments.truncate(count);
    segments
}

/// Asks how many records the log read when it was opened.
struct Counter;

impl Actor for Counter {}

#[message(reply = u64)]
struct Count;

impl Handler<Count> for Counter {
    fn handle(&mut self, _: Count, cx: &mut Context<Self>) -> u64 {
        let counters = cx.service::<LogShard, _>(|log| log.counters()).expect("the shard has a log");
        counters.iter().find(|(name, _)| *name == RECOVERED).expect("it counts them").1
    }
}

const RECOVERED: &str = "recovered_records";

fn recover(n: u64) -> f64 {
    let room = filled(n);
    for path in files(room.path()) {
        // What is derived spares a restart this work: here it is done.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ckpt-")) {
            std::fs::remove_file(path).expect("it was listed");
        }
    }
    let start = Instant::now();
    let engine = engine(1, IdleStrategy::Park, room.path());
    let elapsed: Duration = start.elapsed();
    let counter = engine.spawn(|| Counter).expect("the engine runs");
    let found = counter.ask(Count).wait().expect("the log is open");
    assert!(found >= n, "{found} of {n} events are there");
    engine.shutdown().expect("the engine ends well");
    per_event(elapsed, n)
}
