//! Actors that do nothing: what they weigh, and what they cost a parked engine.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use shardstage::prelude::*;

use super::{engine, parked};
use crate::limits::{IDLE_ACTORS, IDLE_STATE_BYTES};
use crate::resident::resident_bytes;
use crate::workload::{Entry, Run, Work};

/// Idle actors on the engine.
pub const ENTRIES: &[Entry] = &[parked(Work::IdleMemory, Run::Figure(memory)), parked(Work::IdleCpu, Run::Figure(cpu))];

struct Idle {
    _state: u64,
}

impl Actor for Idle {}

/// Owns idle actors, as a room owns its players.
#[derive(Default)]
struct Owner {
    owned: Vec<ActorRef<Idle>>,
}

impl Actor for Owner {}

/// Own so many; how many are owned then?
#[message(reply = u64)]
struct Own(u64);

impl Handler<Own> for Owner {
    fn handle(&mut self, own: Own, cx: &mut Context<Self>) -> u64 {
        let spawn = |number| cx.spawn(move || Idle { _state: number }).expect("the shard has room");
        self.owned.extend((0..own.0).map(spawn));
        self.owned.len() as u64
    }
}

/// Has shard 0 own `n` idle actors and waits until all of them have started: until the shard has gone to sleep again.
fn own(engine: &Engine, shard: u16, n: u64) -> ActorRef<Owner> {
    let owner = engine.spawn_on(shard, Owner::default).expect("the engine runs");
    let owned = |n| owner.ask(Own(n)).wait().expect("the owner answers");
    assert_eq!(owned(n), n, "all are there");
    let parks = || engine.stats()[usize::from(shard)].parks;
    let before = parks();
    // It wakes the shard, which then goes to sleep once more.
    owned(0);
    while parks() == before {
        std::thread::yield_now();
    }
    owner
}

/// Bytes an actor beside its state.
fn memory(n: u64) -> f64 {
    let engine = engine(1, IdleStrategy::Park);
    own(&engine, 0, 1);
    let before = resident_bytes();
    let owner = own(&engine, 0, n);
    let grown = resident_bytes().saturating_sub(before);
    assert_eq!(owner.ask(Own(0)).wait().expect("the owner answers"), n, "they are still there");
    (grown as f64 / n as f64 - IDLE_STATE_BYTES as f64).max(0.0)
}

/// Per cent of a core over so many milliseconds.
fn cpu(milliseconds: u64) -> f64 {
    let engine = engine(2, IdleStrategy::Park);
    let owners = [0, 1].map(|shard| own(&engine, shard, IDLE_ACTORS / 2));
    let used = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
    };
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(Duration::from_millis(milliseconds));
    let share = (used() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    for owner in owners {
        assert_eq!(owner.ask(Own(0)).wait().expect("the owner answers"), IDLE_ACTORS / 2, "they are still there");
    }
    share * 100.0
}
