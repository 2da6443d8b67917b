//! What a durable actor stores: events, events and snapshots, the state as a whole, or keys and values. Each on both stores.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use either::{Bench, Store, on_both};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventSourced, Fold, Keyed, KeyedState, MemoryFault, MemoryStore,
    Saved, SavedState, SnapshotPolicy, TransactionError,
};

#[message(id = "modes.add", reply = u64)]
struct Add {
    by: u64,
}

#[message(id = "modes.read", reply = (u64, u64))]
struct Read {}

#[wire(id = "modes.added")]
struct Added {
    by: u64,
}

/// Events only.
struct Plain(u64);

impl EventSourced for Plain {
    const TYPE: &'static str = "modes.plain";
    const SNAPSHOT_EVERY: u64 = 1;
    type Event = Added;
    type Snapshot = ();

    fn new(_key: &str) -> Self {
        Self(0)
    }

    fn apply(&mut self, event: &Added) {
        self.0 += event.by;
    }
}

impl CommandHandler<Add> for Plain {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Added { by }).reply(self.0 + by)
    }
}

impl CommandHandler<Read> for Plain {
    fn handle(&self, _: Read, cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.0, cx.version()))
    }
}

/// Events and snapshots, in the short form.
#[wire]
#[derive(Clone, Default)]
struct Both {
    total: u64,
}

impl Fold for Both {
    const NAME: &'static str = "modes.both";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER.every(4);
    type Event = Added;

    fn apply(&mut self, event: &Added) {
        self.total += event.by;
    }
}

impl CommandHandler<Add> for Both {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Added { by }).reply(self.total + by)
    }
}

impl CommandHandler<Read> for Both {
    fn handle(&self, _: Read, cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.total, cx.version()))
    }
}

/// The state as a whole.
#[wire]
#[derive(Clone, Default)]
struct Whole {
    total: u64,
}

impl SavedState for Whole {
    const NAME: &'static str = "modes.whole";
}

impl CommandHandler<Add> for Saved<Whole> {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::save(Whole { total: self.total + by }).reply(self.total + by)
    }
}

impl CommandHandler<Read> for Saved<Whole> {
    fn handle(&self, _: Read, cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.total, cx.version()))
    }
}

/// Keys and values: two places between which amounts move.
struct Purse;

impl KeyedState for Purse {
    const NAME: &'static str = "modes.purse";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER.every(5);
    type Value = u64;
}

/// What the tests do to a purse, and the error that came back.
#[message(id = "modes.change", reply = String)]
struct Change {
    set: Vec<(String, u64)>,
    delete: Vec<String>,
    expect: Vec<(String, u64)>,
}

#[message(id = "modes.move", reply = ())]
struct Move {
    amount: u64,
}

#[message(id = "modes.entries", reply = Vec<(String, u64, u64)>)]
struct Entries {}

impl CommandHandler<Change> for Keyed<Purse> {
    fn handle(&self, change: Change, _cx: &CommandContext<'_, Self>) -> Effect<Self, String> {
        let mut transaction = self.transaction();
        for (key, value) in change.set {
            transaction = transaction.set(key, value);
        }
        for key in change.delete {
            transaction = transaction.delete(key);
        }
        for (key, version) in change.expect {
            transaction = transaction.expect(key, version);
        }
        match transaction.commit() {
            Ok(effect) => effect.reply(String::new()),
            Err(error) => Effect::none().reply(error.to_string()),
        }
    }
}

impl CommandHandler<Move> for Keyed<Purse> {
    fn handle(&self, Move { amount }: Move, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        let there = |key| self.get(key).map_or(1_000, |entry| entry.value);
        let (left, right) = (there("left"), there("right"));
        let moved = self.transaction().set("left", left - amount).set("right", right + amount);
        moved.commit().expect("two small keys")
    }
}

impl CommandHandler<Entries> for Keyed<Purse> {
    fn handle(&self, _: Entries, _cx: &CommandContext<'_, Self>) -> Effect<Self, Vec<(String, u64, u64)>> {
        Effect::none().reply(self.iter().map(|(key, entry)| (key.to_owned(), entry.value, entry.version)).collect())
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
        .register::<Durable<Plain>>(|plain| plain)
        .register::<Durable<Both>>(|both| both)
        .register::<Durable<Saved<Whole>>>(|whole| whole)
        .register::<Durable<Keyed<Purse>>>(|purse| purse)
}

#[test]
fn every_mode_survives_power_losses() {
    on_both(1, register, |mut bench| {
        for nth in 1..=23 {
            assert_eq!(bench.ask::<Durable<Plain>, _, _>("a", Add { by: 2 }), Ok(nth * 2));
            assert_eq!(bench.ask::<Durable<Both>, _, _>("a", Add { by: 3 }), Ok(nth * 3));
            assert_eq!(bench.ask::<Durable<Saved<Whole>>, _, _>("a", Add { by: 5 }), Ok(nth * 5));
            bench.ask::<Durable<Keyed<Purse>>, _, _>("a", Move { amount: 7 }).unwrap();
            if nth % 3 == 0 {
                bench.crash();
            }
        }
        bench.crash();
        assert_eq!(bench.ask::<Durable<Plain>, _, _>("a", Read {}), Ok((46, 23)));
        assert_eq!(bench.ask::<Durable<Both>, _, _>("a", Read {}), Ok((69, 23)));
        assert_eq!(bench.ask::<Durable<Saved<Whole>>, _, _>("a", Read {}), Ok((115, 23)));
        let entries = bench.ask::<Durable<Keyed<Purse>>, _, _>("a", Entries {}).unwrap();
        assert_eq!(entries, [("left".to_owned(), 839, 23), ("right".to_owned(), 1_161, 23)]);
    });
}

#[test]
fn each_mode_writes_its_kinds_of_records_and_no_others() {
    let store = MemoryStore::new();
    let bench = Bench::new(2, Store::Memory(store.clone()), register);
    for _ in 0..9 {
        bench.ask::<Durable<Plain>, _, _>("a", Add { by: 1 }).unwrap();
        bench.ask::<Durable<Both>, _, _>("a", Add { by: 1 }).unwrap();
        bench.ask::<Durable<Saved<Whole>>, _, _>("a", Add { by: 1 }).unwrap();
    }
    let count = |name: &str, kind| store.records(name, "a").iter().filter(|header| header.kind == kind).count();
    let kinds = |name| (count(name, RecordKind::Event), count(name, RecordKind::Snapshot));
    assert_eq!(kinds("modes.plain"), (9, 0));
    assert_eq!(kinds("modes.both"), (9, 2));
    assert_eq!(kinds("modes.whole"), (0, 9));
}

#[test]
fn a_damaged_saved_state_is_never_replaced_by_an_older_one() {
    let store = MemoryStore::new();
    let mut bench = Bench::new(3, Store::Memory(store.clone()), register);
    for _ in 0..3 {
        bench.ask::<Durable<Saved<Whole>>, _, _>("a", Add { by: 1 }).unwrap();
    }
    assert_eq!(store.damage("modes.whole", "a", RecordKind::Snapshot, 3), 1);
    bench.crash();
    let refused = bench.ask::<Durable<Saved<Whole>>, _, _>("a", Read {});
    assert_eq!(refused, Err(AskError::Rejected(Rejected::Closed)), "state 2 is not what was acknowledged");
}

#[test]
fn a_transaction_is_refused_as_a_whole_and_by_name() {
    on_both(4, register, |bench| {
        let change = |set: &[(&str, u64)], delete: &[&str], expect: &[(&str, u64)]| {
            let owned =
                |pairs: &[(&str, u64)]| pairs.iter().map(|(key, n)| ((*key).to_owned(), *n)).collect::<Vec<_>>();
            let delete = delete.iter().map(|key| (*key).to_owned()).collect();
            let change = Change { set: owned(set), delete, expect: owned(expect) };
            bench.ask::<Durable<Keyed<Purse>>, _, _>("p", change).unwrap()
        };
        let entries = || bench.ask::<Durable<Keyed<Purse>>, _, _>("p", Entries {}).unwrap();
        assert_eq!(change(&[("a", 1), ("b", 2)], &[], &[("a", 0)]), "");
        assert_eq!(change(&[("b", 3)], &["a"], &[("a", 1), ("b", 1)]), "");
        assert_eq!(entries(), [("b".to_owned(), 3, 2)]);
        let version =
            |key: &str, expected, found| TransactionError::Version { key: key.into(), expected, found }.to_string();
        assert_eq!(change(&[("c", 1), ("b", 9)], &[], &[("b", 1)]), version("b", 1, 2));
        assert_eq!(change(&[("b", 9)], &[], &[("b", 0)]), version("b", 0, 2));
        assert_eq!(change(&[("b", 9)], &[], &[("a", 1)]), version("a", 1, 0));
        assert_eq!(change(&[("c", 1), ("", 2)], &[], &[]), TransactionError::Key { bytes: 0 }.to_string());
        let long = "k".repeat(257);
        assert_eq!(change(&[("c", 1), (&long, 2)], &[], &[]), TransactionError::Key { bytes: 257 }.to_string());
        let many: Vec<String> = (0..1_001).map(|nth| nth.to_string()).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|key| (&**key, 1)).collect();
        assert_eq!(change(&many, &[], &[]), TransactionError::Operations.to_string());
        assert_eq!(entries(), [("b".to_owned(), 3, 2)], "nothing of a refused transaction is there");
        assert_eq!(change(&[("b", 4), ("b", 5)], &["x"], &[]), "", "the last change of a key counts");
        assert_eq!(entries(), [("b".to_owned(), 5, 3)]);
    });
}

#[test]
fn an_actor_has_at_most_so_many_keys_and_bytes() {
    on_both(5, register, |mut bench| {
        let mut refused = String::new();
        for round in 0..20 {
            let set = (0..1_000).map(|nth| (format!("{round}-{nth}"), nth)).collect();
            let change = Change { set, delete: Vec::new(), expect: Vec::new() };
            refused = bench.ask::<Durable<Keyed<Purse>>, _, _>("full", change).unwrap();
            if !refused.is_empty() {
                assert_eq!(round, 10);
                break;
            }
        }
        assert_eq!(refused, TransactionError::Keys.to_string());
        bench.crash();
        assert_eq!(bench.ask::<Durable<Keyed<Purse>>, _, _>("full", Entries {}).unwrap().len(), 10_000);
        for round in 0..3_000 {
            let set = vec![(format!("{round}-{}", "k".repeat(240)), 1)];
            let change = Change { set, delete: Vec::new(), expect: Vec::new() };
            refused = bench.ask::<Durable<Keyed<Purse>>, _, _>("wide", change).unwrap();
            if !refused.is_empty() {
                break;
            }
        }
        assert_eq!(refused, TransactionError::StateBytes.to_string());
    });
}

#[test]
fn half_a_transaction_is_never_there() {
    let mut found = 0;
    for point in 0..60 {
        let mut bench = Bench::new(100 + point, Store::Log, register);
        bench.ask::<Durable<Keyed<Purse>>, _, _>("t", Entries {}).unwrap();
        let world = bench.world.clone();
        world.crash_at_io(either::NODE, world.io_events(either::NODE) + 1 + point);
        let purse = bench.engine.actor::<Durable<Keyed<Purse>>>("t");
        let mut acked = 0;
        for _ in 0..40 {
            match world.block_on(purse.ask(Move { amount: 1 }), either::SECOND) {
                Some(Ok(())) => acked += 1,
                _ => break,
            }
        }
        world.cancel_crash(either::NODE);
        bench.crash();
        let entries = bench.ask::<Durable<Keyed<Purse>>, _, _>("t", Entries {}).unwrap();
        if let [(_, left, one), (_, right, two)] = &entries[..] {
            assert_eq!((left + right, one), (2_000, two), "point {point}");
            assert!(1_000 - left >= acked, "point {point}: {acked} acknowledged, {left} left");
            found += 1;
        } else {
            assert!(entries.is_empty() && acked == 0, "point {point}: {entries:?}");
        }
    }
    assert!(found > 30, "{found}");
}

#[test]
fn a_refused_save_leaves_the_state_as_it_was() {
    let store = MemoryStore::new();
    let bench = Bench::new(6, Store::Memory(store.clone()), register);
    bench.ask::<Durable<Saved<Whole>>, _, _>("a", Add { by: 1 }).unwrap();
    store.inject(MemoryFault::Full);
    let refused = bench.ask::<Durable<Saved<Whole>>, _, _>("a", Add { by: 1 });
    assert_eq!(refused, Err(AskError::Rejected(Rejected::Full)));
    store.heal();
    assert_eq!(bench.ask::<Durable<Saved<Whole>>, _, _>("a", Read {}), Ok((1, 1)));
}
