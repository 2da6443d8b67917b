//! A command's records are one unit: events, a snapshot, a dedup entry, outbox messages are there together or not at all,
//! wherever power is lost.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::cell::RefCell;
use std::rc::Rc;

use either::{Bench, NODE, SECOND, Store};
use shardstage::prelude::*;
use shardstage::{EngineBuilder, Reply};
use shardstage_codec::{ActorTypeId, Epoch, slot_of};
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{CommitOutcome, LoadError, LoadedEntity, LogShard, NewRecord};

const TYPE: &str = "unit";

/// Appends commands of every kind of record to the log of its shard.
struct Writer {
    version: u64,
}

impl Actor for Writer {}

/// Answered when the command is durable.
#[message(reply = bool)]
struct Append {
    snapshot: bool,
}

/// Version and numbers of events, dedup entries, outbox messages and done marks since the snapshot; and the snapshot's number.
#[message(reply = Result<Found, String>)]
struct Look {}

#[derive(Debug, PartialEq)]
struct Found {
    version: u64,
    snapshot: u64,
    events: u64,
    ledger: [u64; 3],
}

impl DeferredHandler<Append> for Writer {
    fn handle(&mut self, Append { snapshot }: Append, reply: Reply<bool>, cx: &mut Context<Self>) {
        let body = vec![self.version as u8; 2_900];
        let mut records = Vec::new();
        let mut add = |kind, seq| records.push(NewRecord { kind, seq, schema_version: 1, payload: &body, meta: &[] });
        add(RecordKind::Event, self.version + 1);
        add(RecordKind::Event, self.version + 2);
        self.version += 2;
        if snapshot {
            add(RecordKind::Snapshot, self.version);
        }
        for kind in [RecordKind::Dedup, RecordKind::Outbox, RecordKind::OutboxDone] {
            add(kind, self.version);
        }
        let held = Box::new(move |outcome| reply.send(outcome == CommitOutcome::Durable));
        cx.service::<LogShard, _>(|log| {
            let entity = log.intern(TYPE, "it", slot_of(ActorTypeId::of(TYPE), "it").group(), 7).unwrap();
            log.append(entity, Epoch::FIRST, &records, held).unwrap();
        });
    }
}

impl DeferredHandler<Look> for Writer {
    fn handle(&mut self, _: Look, reply: Reply<Result<Found, String>>, cx: &mut Context<Self>) {
        let reply = Rc::new(RefCell::new(Some(reply)));
        cx.service::<LogShard, _>(|log| {
            let entity = log.intern(TYPE, "it", slot_of(ActorTypeId::of(TYPE), "it").group(), 7).unwrap();
            let answer = move |loaded: Result<LoadedEntity, LoadError>| {
                let found = loaded.map(|loaded| {
                    let count = |kind| loaded.ledger.iter().filter(|record| record.header.kind == kind).count() as u64;
                    Found {
                        version: loaded.last_seq,
                        snapshot: loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.header.seq),
                        events: loaded.events.len() as u64,
                        ledger: [RecordKind::Dedup, RecordKind::Outbox, RecordKind::OutboxDone].map(count),
                    }
                });
                reply.borrow_mut().take().unwrap().send(found.map_err(|error| error.to_string()));
            };
            log.load(entity, Box::new(answer));
        });
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
}

#[test]
fn no_command_is_half_there_after_a_power_loss() {
    let (mut versions, mut with_snapshot) = (0, 0);
    for point in 0..80 {
        let mut bench = Bench::new(point, Store::Log, register);
        let writer = bench.engine.spawn_on(0, || Writer { version: 0 }).unwrap();
        bench.world.block_on(writer.ask(Look {}), SECOND).unwrap().unwrap().unwrap();
        bench.world.crash_at_io(NODE, bench.world.io_events(NODE) + 1 + point * 2);
        let mut acked = 0;
        for nth in 0..30 {
            // Two of them share a frame.
            writer.tell(Append { snapshot: nth % 2 == 1 }).unwrap();
            let end = bench.world.block_on(writer.ask(Append { snapshot: false }), SECOND);
            acked += if matches!(end, Some(Ok(true))) { 2 } else { 0 };
            if !bench.world.is_running(NODE) {
                break;
            }
        }
        bench.world.cancel_crash(NODE);
        bench.crash();
        let writer = bench.engine.spawn_on(0, || Writer { version: 0 }).unwrap();
        let found = bench.world.block_on(writer.ask(Look {}), SECOND).unwrap().unwrap().unwrap();
        assert!(found.version >= acked * 2, "point {point}: {acked} acknowledged, {found:?}");
        assert_eq!(found.version % 2, 0, "point {point}: half of a command's events, {found:?}");
        // The snapshot's own command has its ledger records behind the snapshot.
        let commands = found.events / 2 + u64::from(found.snapshot > 0);
        assert_eq!(found.version - found.snapshot, found.events, "point {point}: {found:?}");
        assert_eq!(found.ledger, [commands; 3], "point {point}: {found:?}");
        versions += found.version;
        with_snapshot += u64::from(found.snapshot > 0);
    }
    assert!(versions > 500 && with_snapshot > 20, "{versions} events, {with_snapshot} snapshots");
}
