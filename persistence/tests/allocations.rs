//! A durable command in steady state allocates once: for what is held until its event is durable. A read of a durable state
//! allocates nothing.
//!
//! All of the process's allocations are counted, so the tests here run as one, and a part of one is left to what frames and
//! segments cost, of which a command has a share.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::alloc::System;
use std::sync::mpsc::{Sender, channel};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, Fold};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[wire(id = "allocations.added")]
struct Added {
    amount: u64,
}

#[wire]
#[derive(Clone, Default)]
struct Sum {
    total: u64,
}

impl Fold for Sum {
    const NAME: &'static str = "allocations.sum";
    // A snapshot allocates, once in many commands.
    const POLICY: shardstage_persistence::SnapshotPolicy =
        shardstage_persistence::SnapshotPolicy::new().every(u64::MAX);
    type Event = Added;

    fn apply(&mut self, event: &Added) {
        self.total += event.amount;
    }
}

#[message(reply = u64)]
struct Add {
    amount: u64,
}

impl CommandHandler<Add> for Sum {
    fn handle(&self, add: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        if add.amount == 0 {
            return Effect::none().reply(self.total);
        }
        Effect::persist(Added { amount: add.amount }).reply(self.total + add.amount)
    }
}

/// Sends one command after the other to each of its sums.
struct Asker {
    sums: Vec<ActorRef<Durable<Sum>>>,
    left: u64,
    waiting: u64,
    end: Option<Sender<()>>,
}

impl Actor for Asker {}

#[message]
struct Run {
    commands: u64,
    amount: u64,
    end: Sender<()>,
}

impl Asker {
    fn ask(&mut self, to: usize, amount: u64, cx: &mut Context<Self>) {
        self.left -= 1;
        self.waiting += 1;
        cx.ask(self.sums[to], Add { amount }).then(move |this, total, cx| {
            total.unwrap();
            this.waiting -= 1;
            if this.left > 0 {
                this.ask(to, amount, cx);
            } else if this.waiting == 0 {
                this.end.take().unwrap().send(()).unwrap();
            }
        });
    }
}

impl Handler<Run> for Asker {
    fn handle(&mut self, run: Run, cx: &mut Context<Self>) {
        (self.left, self.end) = (run.commands, Some(run.end));
        (0..self.sums.len()).for_each(|to| self.ask(to, run.amount, cx));
    }
}

#[test]
fn a_command_allocates_once_and_a_read_never() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.shards = Some(1);
    // What parking costs is not the log's.
    config.idle = IdleStrategy::Spin;
    let log = EventLog::open(directory.path()).segment_bytes(4 << 20);
    let engine = Engine::builder().config(config).service(log).start().unwrap();
    let sums: Vec<_> =
        (0..16).map(|sum| engine.spawn(move || Durable::<Sum>::new(&format!("sum-{sum}"))).unwrap()).collect();
    let asker = engine.spawn(move || Asker { sums: sums.clone(), left: 0, waiting: 0, end: None }).unwrap();
    let counted = |commands: u64, amount: u64| {
        let region = Region::new(ALLOCATOR);
        let (end, ended) = channel();
        asker.tell(Run { commands, amount, end }).unwrap();
        ended.recv().unwrap();
        let change = region.change();
        (change.allocations + change.reallocations) as f64
    };
    for (amount, most) in [(1, 1.5), (0, 0.1)] {
        let _warm = counted(2_000, amount);
        // What a run costs as a whole is left out.
        let (few, many) = (counted(1_000, amount), counted(5_000, amount));
        let each = (many - few) / 4_000.0;
        assert!(each <= most, "{each} allocations a command with amount {amount}");
    }
    engine.shutdown().unwrap();
}
