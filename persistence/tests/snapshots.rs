//! When snapshots are taken, and what happens when one cannot be read.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::time::Duration;

use either::{Bench, NODE, SECOND, Store, on_both};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventSourced, Fold, MemoryFault, MemoryStore, SnapshotPolicy,
};

#[message(id = "snap.add", reply = u64)]
struct Add {
    text: String,
}

#[message(id = "snap.read", reply = (u64, u64))]
struct Read {}

#[wire(id = "snap.added")]
struct Added {
    text: String,
}

/// Counts events and folds their texts.
#[wire]
#[derive(Clone, Default)]
struct Texts {
    count: u64,
    digest: u64,
}

impl Texts {
    fn take(&mut self, added: &Added) {
        self.count += 1;
        self.digest = added.text.bytes().fold(self.digest, |digest, byte| digest.wrapping_mul(31) ^ u64::from(byte));
    }
}

/// The same state under policies of its own.
macro_rules! texts {
    ($name:ident, $stable:literal, $policy:expr) => {
        #[wire]
        #[derive(Clone, Default)]
        struct $name {
            texts: Texts,
        }

        impl Fold for $name {
            const NAME: &'static str = $stable;
            const POLICY: SnapshotPolicy = $policy;
            type Event = Added;

            fn apply(&mut self, event: &Added) {
                self.texts.take(event);
            }
        }

        handlers!($name);
    };
}

macro_rules! handlers {
    ($name:ident) => {
        impl CommandHandler<Add> for $name {
            fn handle(&self, Add { text }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
                Effect::persist(Added { text }).reply(self.texts.count + 1)
            }
        }

        impl CommandHandler<Read> for $name {
            fn handle(&self, _: Read, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
                Effect::none().reply((self.texts.count, self.texts.digest))
            }
        }
    };
}

texts!(ByCount, "snap.by-count", SnapshotPolicy::NEVER.every(5));
texts!(ByBytes, "snap.by-bytes", SnapshotPolicy::NEVER.bytes(3, 200));
texts!(Idle, "snap.idle", SnapshotPolicy::NEVER.on_passivation(3));
texts!(Never, "snap.never", SnapshotPolicy::NEVER);
texts!(KeepTwo, "snap.keep-two", SnapshotPolicy::NEVER.every(5).keep(2));

/// Asks for a snapshot when it hears the word; what else it can be is not saved well.
struct ByWord {
    texts: Texts,
    padding: Vec<u8>,
}

impl EventSourced for ByWord {
    const TYPE: &'static str = "snap.by-word";
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = Added;
    type Snapshot = (Texts, Vec<u8>);

    fn new(_key: &str) -> Self {
        Self { texts: Texts::default(), padding: Vec::new() }
    }

    fn apply(&mut self, event: &Added) {
        self.texts.take(event);
        if event.text == "grow" {
            self.padding = vec![7; 600_000];
        }
    }

    fn snapshot(&self) -> Option<(Texts, Vec<u8>)> {
        assert_ne!(self.texts.count, 4, "a state that does not like to be saved");
        Some((self.texts.clone(), self.padding.clone()))
    }

    fn snapshot_due(&self, event: &Added) -> bool {
        event.text == "now" || event.text == "grow"
    }

    fn restore(&mut self, (texts, padding): (Texts, Vec<u8>)) {
        assert_ne!(texts.count, 3, "a state that cannot be restored");
        (self.texts, self.padding) = (texts, padding);
    }
}

handlers!(ByWord);

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
        .register::<Durable<ByCount>>(|it| it)
        .register::<Durable<ByBytes>>(|it| it)
        .register::<Durable<KeepTwo>>(|it| it)
        .register::<Durable<Idle>>(|it| it.idle_timeout(Duration::from_secs(2)))
        .register::<Durable<Never>>(|it| it.idle_timeout(Duration::from_secs(2)))
        .register::<Durable<ByWord>>(|it| it)
}

fn add<A>(bench: &Bench, text: &str) -> Result<u64, AskError>
where
    A: CommandHandler<Add>,
{
    bench.ask::<Durable<A>, _, _>("it", Add { text: text.into() })
}

fn read<A>(bench: &Bench) -> Result<(u64, u64), AskError>
where
    A: CommandHandler<Read>,
{
    bench.ask::<Durable<A>, _, _>("it", Read {})
}

/// Versions of the snapshots that lie in the store.
fn snapshots(store: &MemoryStore, name: &str) -> Vec<u64> {
    let records = store.records(name, "it");
    records.iter().filter(|header| header.kind == RecordKind::Snapshot).map(|header| header.seq).collect()
}

fn in_memory(seed: u64) -> (Bench, MemoryStore) {
    let store = MemoryStore::new();
    (Bench::new(seed, Store::Memory(store.clone()), register), store)
}

#[test]
fn by_count_by_bytes_and_by_predicate() {
    let (bench, store) = in_memory(1);
    for _ in 0..12 {
        add::<ByCount>(&bench, "x").unwrap();
        add::<Never>(&bench, "x").unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-count"), [5, 10]);
    assert_eq!(snapshots(&store, "snap.never"), [0; 0]);
    for word in ["a", "now", "b", "c", "now"] {
        add::<ByWord>(&bench, word).unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-word"), [2, 5]);
    for _ in 0..40 {
        add::<ByBytes>(&bench, &"y".repeat(50)).unwrap();
    }
    let taken = snapshots(&store, "snap.by-bytes");
    assert!(taken.len() > 5 && taken[0] > 2, "{taken:?}");
    let short = add::<ByBytes>(&bench, "z").unwrap();
    assert_eq!(short, 41);
}

#[test]
fn on_passivation_when_enough_is_new() {
    let (bench, store) = in_memory(2);
    add::<Idle>(&bench, "1").unwrap();
    bench.world.run_for(20 * SECOND);
    assert_eq!(snapshots(&store, "snap.idle"), [0; 0], "one event is not enough");
    add::<Idle>(&bench, "2").unwrap();
    add::<Idle>(&bench, "3").unwrap();
    bench.world.run_for(20 * SECOND);
    assert_eq!(snapshots(&store, "snap.idle"), [3]);
    assert_eq!(read::<Idle>(&bench).unwrap().0, 3);
    bench.world.run_for(20 * SECOND);
    assert_eq!(snapshots(&store, "snap.idle"), [3], "nothing new, nothing written");
}

#[test]
fn a_passivated_actor_is_found_again_with_its_snapshot_on_its_way() {
    on_both(3, register, |bench| {
        if let Some(store) = bench.memory() {
            store.delay(Duration::from_secs(1));
        }
        for nth in 1..=9 {
            assert_eq!(add::<Idle>(&bench, "x"), Ok(nth));
            if nth % 3 == 0 {
                bench.world.run_for(3 * SECOND);
            }
        }
    });
}

#[test]
fn after_a_long_replay() {
    fn eager(builder: EngineBuilder) -> EngineBuilder {
        builder.register::<Durable<Eager>>(|it| it)
    }
    let (mut bench, store) = in_memory(4);
    for _ in 0..30 {
        add::<Never>(&bench, "x").unwrap();
    }
    bench.upgrade(eager);
    let digest = bench.ask::<Durable<Eager>, _, _>("it", Read {}).unwrap();
    assert_eq!(digest.0, 30);
    bench.world.run_for(SECOND);
    assert_eq!(snapshots(&store, "snap.never"), [30], "recovery took it, no command did");
    bench.crash();
    assert_eq!(bench.ask::<Durable<Eager>, _, _>("it", Read {}), Ok(digest));
}

texts!(Eager, "snap.never", SnapshotPolicy::NEVER.after_replay(20));

#[test]
fn a_damaged_snapshot_falls_back_to_the_one_before_and_the_events_since() {
    on_both(5, register, |mut bench| {
        for _ in 0..12 {
            add::<ByCount>(&bench, "word").unwrap();
        }
        let before = read::<ByCount>(&bench).unwrap();
        let Some(store) = bench.memory().cloned() else { return };
        assert_eq!(store.damage("snap.by-count", "it", RecordKind::Snapshot, 10), 1);
        bench.crash();
        assert_eq!(read::<ByCount>(&bench), Ok(before));
        assert_eq!(bench.counter("snapshot_fallbacks"), 1);
        bench.world.run_for(SECOND);
        assert_eq!(snapshots(&store, "snap.by-count"), [5, 10, 12], "a readable one is written at once");
        // The new one and both old ones.
        for seq in [5, 10, 12] {
            store.damage("snap.by-count", "it", RecordKind::Snapshot, seq);
        }
        bench.crash();
        assert_eq!(read::<ByCount>(&bench), Ok(before), "all events are there");
        // With an event gone too, nothing gives the state, and the first reason is named.
        for seq in [5, 10, 12] {
            store.damage("snap.by-count", "it", RecordKind::Snapshot, seq);
        }
        store.damage("snap.by-count", "it", RecordKind::Event, 2);
        bench.crash();
        assert_eq!(read::<ByCount>(&bench), Err(AskError::Rejected(Rejected::Closed)));
        assert_eq!(bench.counter("entities_broken"), 1);
    });
}

#[test]
fn of_two_kept_snapshots_one_may_go_bad() {
    let (mut bench, store) = in_memory(10);
    for _ in 0..17 {
        add::<KeepTwo>(&bench, "word").unwrap();
    }
    let before = read::<KeepTwo>(&bench).unwrap();
    store.damage("snap.keep-two", "it", RecordKind::Snapshot, 15);
    bench.crash();
    assert_eq!(read::<KeepTwo>(&bench), Ok(before), "the one before gave the state");
    assert_eq!(bench.counter("snapshot_fallbacks"), 1);
    bench.world.run_for(SECOND);
    assert_eq!(snapshots(&store, "snap.keep-two"), [5, 10, 15, 17], "nothing is deleted");
    // Those of 10 and 5 are whole, but the newest two are not.
    for seq in [15, 17] {
        store.damage("snap.keep-two", "it", RecordKind::Snapshot, seq);
    }
    bench.crash();
    assert_eq!(read::<KeepTwo>(&bench), Err(AskError::Rejected(Rejected::Closed)));
    assert_eq!(bench.counter("entities_broken"), 1);
    assert_eq!(bench.counter("snapshot_fallbacks"), 0);
}

#[test]
fn a_snapshot_that_goes_bad_on_disk_falls_back_while_the_log_runs() {
    let bench = Bench::new(6, Store::Log, register);
    for _ in 0..2 {
        for _ in 0..5 {
            add::<Idle>(&bench, "some text to look for").unwrap();
        }
        bench.world.run_for(20 * SECOND);
    }
    let before = read::<Idle>(&bench).unwrap();
    assert_eq!(before.0, 10);
    bench.world.run_for(20 * SECOND);
    // The newest snapshot is the last thing that was written of this actor.
    let image = [10u64.to_le_bytes(), before.1.to_le_bytes()].concat();
    let mut hits = 0;
    for shard in 0..2 {
        let path = format!("/data/log-{shard}/0000000000000001.seg");
        let Some(bytes) = bench.world.file_bytes(NODE, &path) else { continue };
        for at in (0..bytes.len() - image.len()).filter(|at| bytes[*at..*at + image.len()] == image[..]) {
            bench.world.flip_bit(NODE, &path, at as u64 * 8);
            hits += 1;
        }
    }
    assert_eq!(hits, 1);
    assert_eq!(read::<Idle>(&bench), Ok(before));
    assert_eq!(bench.counter("snapshot_fallbacks"), 1);
}

#[test]
fn one_that_panics_or_is_too_large_costs_nothing_but_itself() {
    let (mut bench, store) = in_memory(7);
    for word in ["1", "2", "3", "now", "5"] {
        add::<ByWord>(&bench, word).unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-word"), [5], "the state did not like it at 4");
    add::<ByWord>(&bench, "grow").unwrap();
    for _ in 0..3 {
        add::<ByWord>(&bench, "now").unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-word"), [5], "too large ever after");
    let before = read::<ByWord>(&bench).unwrap();
    bench.crash();
    assert_eq!(read::<ByWord>(&bench), Ok(before));
}

#[test]
fn one_that_cannot_be_restored_is_passed_over() {
    let (mut bench, store) = in_memory(8);
    for word in ["1", "2", "now"] {
        add::<ByWord>(&bench, word).unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-word"), [3]);
    let before = read::<ByWord>(&bench).unwrap();
    bench.crash();
    assert_eq!(read::<ByWord>(&bench), Ok(before));
    assert_eq!(bench.counter("snapshot_fallbacks"), 1);
}

#[test]
fn a_refused_one_is_taken_later() {
    let (bench, store) = in_memory(9);
    for _ in 0..4 {
        add::<ByCount>(&bench, "x").unwrap();
    }
    store.inject(MemoryFault::Full);
    assert!(add::<ByCount>(&bench, "x").is_err());
    store.heal();
    for _ in 0..3 {
        add::<ByCount>(&bench, "x").unwrap();
    }
    assert_eq!(snapshots(&store, "snap.by-count"), [5]);
}
