//! The workloads on the engine, with `Config::default()` apart from the number of shards and the idle strategy.
//!
//! Producers and askers are actors; the normal mailbox bound holds. A reader should find here what a user would write.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;

use crate::workload::{Entry, Place, Role, Run, Work};

pub mod ask;
pub mod big;
pub mod idle;
pub mod pairs;
pub mod ping_pong;
pub mod spawn;
pub mod tell;
pub mod tick;

/// The engine's share of the table.
pub const ENTRIES: &[&[Entry]] = &[
    ping_pong::ENTRIES,
    tell::ENTRIES,
    ask::ENTRIES,
    big::ENTRIES,
    spawn::ENTRIES,
    idle::ENTRIES,
    tick::ENTRIES,
    pairs::ENTRIES,
];

/// The engine's name in the table, with parking shards.
pub const PARKED: &str = "shardstage";

/// The engine's name in the table, with shards that spin when idle.
pub const SPINNING: &str = "shardstage, spinning";

const fn parked(work: Work, run: Run) -> Entry {
    Entry { work, name: PARKED, role: Role::Ours, run }
}

const fn spinning(work: Work, run: Run) -> Entry {
    Entry { work, name: SPINNING, role: Role::Ours, run }
}

/// An engine with so many shards.
fn engine(shards: u16, idle: IdleStrategy) -> Engine {
    let mut config = Config::default();
    config.shards = Some(shards);
    config.idle = idle;
    Engine::start(config).expect("the engine starts")
}

/// An engine with one shard or two, and the shard of the far end.
fn engine_for(place: Place, idle: IdleStrategy) -> (Engine, u16) {
    let far = u16::from(place == Place::OtherShard);
    (engine(far + 1, idle), far)
}

/// A run's first and last moment, each told by the actor that sees it.
pub(crate) struct Clock {
    begun: mpsc::Receiver<Instant>,
    ended: mpsc::Receiver<Instant>,
}

impl Clock {
    pub(crate) fn new() -> (Self, Sender<Instant>, Sender<Instant>) {
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        (Self { begun, ended }, begin, end)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        let begun = self.begun.recv().expect("the run begins");
        self.ended.recv().expect("the run ends") - begun
    }
}

/// Begin, or go on.
#[message]
pub(crate) struct Go;
