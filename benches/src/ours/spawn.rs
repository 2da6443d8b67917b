//! Actors that come and go: spawned and stopped at once, and a tree of them that computes a Fibonacci number.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;

use super::{Go, engine, parked};
use crate::census::{Resident, last_gone};
use crate::limits::YIELD_EVERY;
use crate::sizes::fibonacci_for;
use crate::workload::{Entry, Run, Work};

/// Spawning on the engine.
pub const ENTRIES: &[Entry] =
    &[parked(Work::SpawnStop, Run::Time(spawn_stop)), parked(Work::Fibonacci, Run::Time(fibonacci))];

struct Child {
    _state: Resident,
}

impl Actor for Child {}

/// Go away.
#[message]
struct Leave;

impl Handler<Leave> for Child {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.stop();
    }
}

/// Spawns and stops, some at a time.
struct Spawner {
    n: u64,
    spawned: u64,
    begin: Sender<Instant>,
}

impl Actor for Spawner {}

impl Handler<Go> for Spawner {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        if self.spawned == 0 {
            let _gone = self.begin.send(Instant::now());
        }
        let n = self.n;
        for _ in 0..YIELD_EVERY.min(n - self.spawned) {
            let child = cx.spawn(move || Child { _state: Resident::new(n) }).expect("the shard has room");
            child.tell(Leave).expect("its mailbox is empty");
            self.spawned += 1;
        }
        if self.spawned < n {
            cx.me().tell(Go).expect("nobody else tells the spawner");
        }
    }
}

fn spawn_stop(n: u64) -> Duration {
    let gone = last_gone();
    let engine = engine(1, IdleStrategy::Park);
    let (begin, begun) = mpsc::channel();
    let spawner = engine.spawn(move || Spawner { n, spawned: 0, begin: begin.clone() });
    spawner.expect("the engine runs").tell(Go).expect("its mailbox is empty");
    let begun = begun.recv().expect("the spawner begins");
    gone.recv().expect("the last child is dropped") - begun
}

/// One node of the tree.
struct Fibonacci {
    parent: Option<ActorRef<Self>>,
    sum: u64,
    missing: u8,
    /// Only the root has it.
    root: Option<Sender<(Instant, u64)>>,
}

impl Actor for Fibonacci {}

/// Compute this one.
#[message]
struct Compute(u32);

/// A child's result.
#[message]
struct Computed(u64);

impl Fibonacci {
    fn answer(&mut self, sum: u64, cx: &mut Context<Self>) {
        if let Some(parent) = self.parent {
            parent.tell(Computed(sum)).expect("a parent waits for two answers");
        } else if let Some(root) = &self.root {
            let _gone = root.send((Instant::now(), sum));
        }
        cx.stop();
    }
}

impl Handler<Compute> for Fibonacci {
    fn handle(&mut self, compute: Compute, cx: &mut Context<Self>) {
        let index = compute.0;
        if index <= 2 {
            return self.answer(1, cx);
        }
        let parent = Some(cx.me());
        self.missing = 2;
        for index in [index - 1, index - 2] {
            let child = cx.spawn(move || Self { parent, sum: 0, missing: 0, root: None });
            child.expect("the shard has room").tell(Compute(index)).expect("its mailbox is empty");
        }
    }
}

impl Handler<Computed> for Fibonacci {
    fn handle(&mut self, computed: Computed, cx: &mut Context<Self>) {
        self.sum += computed.0;
        self.missing -= 1;
        if self.missing == 0 {
            self.answer(self.sum, cx);
        }
    }
}

/// Sets the root going.
struct Planter {
    index: u32,
    begin: Sender<Instant>,
    root: Sender<(Instant, u64)>,
}

impl Actor for Planter {}

impl Handler<Go> for Planter {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        let root = self.root.clone();
        let root = cx.spawn(move || Fibonacci { parent: None, sum: 0, missing: 0, root: Some(root.clone()) });
        root.expect("the shard has room").tell(Compute(self.index)).expect("its mailbox is empty");
    }
}

fn fibonacci(n: u64) -> Duration {
    let engine = engine(1, IdleStrategy::Park);
    let (begin, begun) = mpsc::channel();
    let (root, result) = mpsc::channel();
    let task = fibonacci_for(n);
    let planter = engine.spawn(move || Planter { index: task.index, begin: begin.clone(), root: root.clone() });
    planter.expect("the engine runs").tell(Go).expect("its mailbox is empty");
    let begun = begun.recv().expect("the tree begins");
    let (ended, sum) = result.recv().expect("the tree ends");
    task.elapsed(ended - begun, sum, n)
}
