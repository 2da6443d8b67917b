//! What shards do beside committing: CPU-bound actors, or snapshots.
//!
//! The CPU-bound actors are what a game's loop is to the log: each works for a quantum and tells itself to go on, so a shard is
//! never idle and turns hold several quanta. Snapshots come at a steady rate, each larger than a frame of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use shardstage::prelude::*;
use shardstage_codec::{ActorTypeId, Epoch, slot_of};
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{AppendError, LogShard, NewRecord};

use crate::limits::{SATURATOR_WORK, SATURATORS, SNAPSHOT_BYTES, SNAPSHOT_PERIOD};
use crate::ours::Go;

/// What runs beside the writers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing.
    Nothing,
    /// [`SATURATORS`] on each shard.
    Work,
    /// Snapshots of [`SNAPSHOT_BYTES`] every [`SNAPSHOT_PERIOD`] on each shard.
    Snapshots,
}

/// Starts it; it ends when `stop` is true.
pub(super) fn disturb(engine: &Engine, shards: u16, beside: Beside, stop: &Arc<AtomicBool>) {
    for shard in 0..shards {
        match beside {
            Beside::Nothing => {}
            Beside::Work => {
                for _ in 0..SATURATORS {
                    let stop = Arc::clone(stop);
                    let actor = engine.spawn_on(shard, move || Saturator { stop: Arc::clone(&stop) });
                    actor.expect("the engine runs").tell(Go).expect("its mailbox is empty");
                }
            }
            Beside::Snapshots => {
                let actor = engine.spawn_on(shard, || Snapshotter { bytes: vec![7; SNAPSHOT_BYTES] });
                actor.expect("the engine runs").tell(Go).expect("its mailbox is empty");
            }
        }
    }
}

struct Saturator {
    stop: Arc<AtomicBool>,
}

impl Actor for Saturator {}

impl Handler<Go> for Saturator {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        let start = Instant::now();
        while start.elapsed() < SATURATOR_WORK {
            std::hint::spin_loop();
        }
        if !self.stop.load(Ordering::Relaxed) {
            cx.me().tell(Go).expect("its mailbox is empty");
        }
    }
}

struct Snapshotter {
    bytes: Vec<u8>,
}

#[message]
#[derive(Clone)]
struct Take;

impl Actor for Snapshotter {}

impl Handler<Go> for Snapshotter {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        cx.every(SNAPSHOT_PERIOD, Take);
    }
}

impl Handler<Take> for Snapshotter {
    fn handle(&mut self, _: Take, cx: &mut Context<Self>) {
        const TYPE: &str = "bench.snapshot";
        let key = "state";
        let group = slot_of(ActorTypeId::of(TYPE), key).group();
        let appended = cx.service::<LogShard, _>(|log| {
            let entity = log.intern(TYPE, key, group, 1).expect("the key is short");
            let record =
                NewRecord { kind: RecordKind::Snapshot, seq: 0, schema_version: 1, payload: &self.bytes, meta: &[] };
            log.append(entity, Epoch::FIRST, &[record], Box::new(|_| {}))
        });
        match appended.expect("the shard has a log") {
            // A snapshot that does not fit now is left out: the next one is newer.
            Ok(_) | Err(AppendError::Full) => {}
            Err(error) => panic!("a snapshot was refused: {error}"),
        }
    }
}
