//! Events of other versions of the program: chains of upcasters, and what happens to events that nobody can read.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use either::{Bench, Store, on_both};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventSourced, MemoryStore, SnapshotPolicy, Stored, UnknownEvents,
    Upcast,
};

#[wire(id = "schema.paid", version = 1)]
struct PaidV1 {
    euros: u16,
}

#[wire(id = "schema.paid", version = 2)]
#[derive(Debug)]
struct PaidV2 {
    cents: u32,
}

#[wire(id = "schema.paid", version = 3)]
#[derive(Debug)]
struct Paid {
    cents: u64,
    to: String,
}

impl From<PaidV1> for PaidV2 {
    fn from(old: PaidV1) -> Self {
        Self { cents: u32::from(old.euros) * 100 }
    }
}

impl From<PaidV2> for Paid {
    fn from(old: PaidV2) -> Self {
        Self { cents: old.cents.into(), to: "somebody".into() }
    }
}

#[message(id = "schema.pay", reply = ())]
struct Pay {
    amount: u16,
}

#[message(id = "schema.total", reply = (u64, Vec<String>))]
struct Total {}

/// Three programs, one history: each writes its own version of the event. `$raw` is what it does with what it cannot read.
macro_rules! program {
    ($name:ident, $event:ty, $make:expr, $take:expr, $upcast:expr, $policy:expr) => {
        struct $name {
            cents: u64,
            notes: Vec<String>,
        }

        impl EventSourced for $name {
            const TYPE: &'static str = "schema.ledger";
            const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::NEVER.on_passivation(1).every(1_000);
            const UNKNOWN_EVENTS: UnknownEvents = $policy;
            type Event = $event;
            type Snapshot = (u64, Vec<String>);

            fn new(_key: &str) -> Self {
                Self { cents: 0, notes: Vec::new() }
            }

            fn apply(&mut self, event: &$event) {
                let take: fn(&mut Self, &$event) = $take;
                take(self, event);
            }

            fn snapshot(&self) -> Option<(u64, Vec<String>)> {
                Some((self.cents, self.notes.clone()))
            }

            fn restore(&mut self, (cents, notes): (u64, Vec<String>)) {
                (self.cents, self.notes) = (cents, notes);
            }

            fn upcast(stored: Stored<'_>) -> Upcast<'_, $event> {
                let upcast: fn(Stored<'_>) -> Upcast<'_, $event> = $upcast;
                upcast(stored)
            }

            fn apply_raw(&mut self, stored: Stored<'_>) {
                self.notes.push(format!("version {} with {} bytes", stored.version(), stored.bytes().len()));
            }
        }

        impl CommandHandler<Pay> for $name {
            fn handle(&self, Pay { amount }: Pay, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
                let make: fn(u16) -> $event = $make;
                Effect::persist(make(amount))
            }
        }

        impl CommandHandler<Total> for $name {
            fn handle(&self, _: Total, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, Vec<String>)> {
                Effect::none().reply((self.cents, self.notes.clone()))
            }
        }
    };
}

program!(
    First,
    PaidV1,
    |amount| PaidV1 { euros: amount },
    |ledger, paid| ledger.cents += u64::from(paid.euros) * 100,
    |stored| stored.read::<PaidV1>(),
    UnknownEvents::Fail
);
program!(
    Second,
    PaidV2,
    |amount| PaidV2 { cents: amount.into() },
    |ledger, paid| ledger.cents += u64::from(paid.cents),
    |stored| stored.read::<PaidV1>().then::<PaidV2>(),
    UnknownEvents::Fail
);
program!(
    Third,
    Paid,
    |amount| Paid { cents: amount.into(), to: "me".into() },
    |ledger, paid| {
        ledger.cents += paid.cents;
        ledger.notes.push(paid.to.clone());
    },
    |stored| stored.read::<PaidV1>().then::<PaidV2>().then::<Paid>(),
    UnknownEvents::Fail
);
program!(
    Skipping,
    PaidV2,
    |amount| PaidV2 { cents: amount.into() },
    |ledger, paid| ledger.cents += u64::from(paid.cents),
    |stored| stored.read::<PaidV2>(),
    UnknownEvents::Skip
);
program!(
    Curious,
    PaidV2,
    |amount| PaidV2 { cents: amount.into() },
    |ledger, paid| ledger.cents += u64::from(paid.cents),
    |stored| stored.read::<PaidV2>(),
    UnknownEvents::Raw
);

fn first(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<First>>(|it| it)
}

fn second(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Second>>(|it| it)
}

fn third(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Third>>(|it| it)
}

fn skipping(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Skipping>>(|it| it.idle_timeout(std::time::Duration::from_secs(1)))
}

fn curious(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Curious>>(|it| it)
}

fn pay<A: CommandHandler<Pay>>(bench: &Bench, amount: u16) {
    bench.ask::<Durable<A>, _, _>("it", Pay { amount }).unwrap();
}

fn total<A: CommandHandler<Total>>(bench: &Bench) -> Result<(u64, Vec<String>), AskError> {
    bench.ask::<Durable<A>, _, _>("it", Total {})
}

/// A history of all three versions: 2 euros, 30 cents, 4 cents.
fn history(bench: &mut Bench) {
    pay::<First>(bench, 2);
    bench.upgrade(second);
    pay::<Second>(bench, 30);
    bench.upgrade(third);
    pay::<Third>(bench, 4);
}

#[test]
fn a_chain_reads_every_version() {
    on_both(1, first, |mut bench| {
        history(&mut bench);
        bench.crash();
        let notes = ["somebody", "somebody", "me"].map(String::from).to_vec();
        assert_eq!(total::<Third>(&bench), Ok((234, notes)));
    });
}

#[test]
fn an_unknown_event_fails_its_actor_by_name_and_nothing_is_lost() {
    on_both(2, first, |mut bench| {
        history(&mut bench);
        bench.upgrade(second);
        assert_eq!(total::<Second>(&bench), Err(AskError::Rejected(Rejected::Closed)));
        assert_eq!(bench.counter("entities_broken"), 1);
        bench.upgrade(third);
        assert_eq!(total::<Third>(&bench).unwrap().0, 234);
    });
}

#[test]
fn skipped_events_stay_in_the_store_and_out_of_snapshots() {
    let store = MemoryStore::new();
    let mut bench = Bench::new(3, Store::Memory(store.clone()), first);
    history(&mut bench);
    bench.upgrade(skipping);
    assert_eq!(total::<Skipping>(&bench).unwrap().0, 30);
    pay::<Skipping>(&bench, 1);
    bench.world.run_for(10 * either::SECOND);
    let records = store.records("schema.ledger", "it");
    assert!(records.iter().all(|header| header.kind == RecordKind::Event), "no snapshot without the skipped events");
    assert_eq!(records.len(), 4);
    bench.upgrade(third);
    assert_eq!(total::<Third>(&bench).unwrap().0, 235);
}

#[test]
fn raw_events_reach_the_actor() {
    on_both(4, first, |mut bench| {
        history(&mut bench);
        bench.upgrade(curious);
        let (cents, notes) = total::<Curious>(&bench).unwrap();
        assert_eq!(cents, 30);
        assert_eq!(notes.len(), 2);
        assert!(notes[0].starts_with("version 1 with") && notes[1].starts_with("version 3 with"), "{notes:?}");
    });
}

#[test]
fn a_damaged_event_is_never_unknown() {
    let store = MemoryStore::new();
    let mut bench = Bench::new(5, Store::Memory(store.clone()), first);
    history(&mut bench);
    store.damage("schema.ledger", "it", RecordKind::Event, 1);
    bench.upgrade(skipping);
    assert_eq!(total::<Skipping>(&bench), Err(AskError::Rejected(Rejected::Closed)));
}

#[test]
fn bytes_that_are_not_of_their_version_are_damaged_not_unknown() {
    let upcast = Stored::new(2, &[1]).read::<PaidV1>().then::<PaidV2>().then::<Paid>();
    assert!(format!("{upcast:?}").contains("Damaged"));
    let newer = Stored::new(9, &[1]).read::<PaidV1>().then::<PaidV2>();
    assert!(format!("{newer:?}").contains("Unread"));
}
