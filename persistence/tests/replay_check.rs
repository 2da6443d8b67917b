//! The replay check: the live state is what its records give, and a type whose state depends on more is found out.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::sync::atomic::{AtomicU64, Ordering};

use either::on_both;
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::testkit::{ReplayCheck, must_agree};
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventSourced, Fold, Saved, SavedState, SnapshotPolicy,
};

#[message(id = "replay.roll", reply = ())]
struct Roll {}

#[wire(id = "replay.rolled")]
struct Rolled {
    dice: u64,
}

#[wire]
#[derive(Clone, Default)]
struct Honest {
    sum: u64,
}

impl Fold for Honest {
    const NAME: &'static str = "replay.honest";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER.every(4);
    type Event = Rolled;

    fn apply(&mut self, event: &Rolled) {
        self.sum = self.sum.wrapping_mul(31).wrapping_add(event.dice);
    }
}

/// What `apply` must not look at.
static OUTSIDE: AtomicU64 = AtomicU64::new(0);

#[wire]
#[derive(Clone, Default)]
struct Cheat {
    sum: u64,
}

impl Fold for Cheat {
    const NAME: &'static str = "replay.cheat";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = Rolled;

    fn apply(&mut self, _event: &Rolled) {
        self.sum += OUTSIDE.fetch_add(1, Ordering::SeqCst);
    }
}

/// Its snapshot forgets something.
struct Forgetful {
    sum: u64,
    events: u64,
}

impl EventSourced for Forgetful {
    const TYPE: &'static str = "replay.forgetful";
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::NEVER.every(4);
    type Event = Rolled;
    type Snapshot = u64;

    fn new(_key: &str) -> Self {
        Self { sum: 0, events: 0 }
    }

    fn apply(&mut self, event: &Rolled) {
        self.events += 1;
        self.sum += event.dice * self.events;
    }

    fn snapshot(&self) -> Option<u64> {
        Some(self.sum)
    }

    fn restore(&mut self, sum: u64) {
        self.sum = sum;
    }
}

/// No snapshots and no hash of its own.
struct Silent;

impl EventSourced for Silent {
    const TYPE: &'static str = "replay.silent";
    type Event = Rolled;
    type Snapshot = ();

    fn new(_key: &str) -> Self {
        Self
    }

    fn apply(&mut self, _event: &Rolled) {}
}

#[wire]
#[derive(Clone, Default)]
struct Whole {
    sum: u64,
}

impl SavedState for Whole {
    const NAME: &'static str = "replay.whole";
}

macro_rules! rolls {
    ($($name:ident),*) => { $(
        impl CommandHandler<Roll> for $name {
            fn handle(&self, _: Roll, cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
                Effect::persist(Rolled { dice: cx.random_u64() % 6 + 1 })
            }
        }
    )* };
}

rolls!(Honest, Cheat, Forgetful, Silent);

impl CommandHandler<Roll> for Saved<Whole> {
    fn handle(&self, _: Roll, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        Effect::save(Whole { sum: self.sum + 1 })
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
        .register::<Durable<Honest>>(|it| it)
        .register::<Durable<Cheat>>(|it| it)
        .register::<Durable<Forgetful>>(|it| it)
        .register::<Durable<Silent>>(|it| it)
        .register::<Durable<Saved<Whole>>>(|it| it)
}

#[test]
fn live_snapshot_and_replay_agree_for_an_honest_type_and_not_for_others() {
    on_both(1, register, |mut bench| {
        for round in 0..4 {
            for _ in 0..6 {
                bench.ask::<Durable<Honest>, _, _>("it", Roll {}).unwrap();
                bench.ask::<Durable<Cheat>, _, _>("it", Roll {}).unwrap();
                bench.ask::<Durable<Forgetful>, _, _>("it", Roll {}).unwrap();
                bench.ask::<Durable<Silent>, _, _>("it", Roll {}).unwrap();
                bench.ask::<Durable<Saved<Whole>>, _, _>("it", Roll {}).unwrap();
            }
            let honest = bench.ask::<Durable<Honest>, _, _>("it", ReplayCheck {}).unwrap().unwrap();
            assert!(honest.agrees() && honest.version == (round + 1) * 6, "{honest:?}");
            assert!(honest.from_start.is_some(), "every event is kept");
            let whole = bench.ask::<Durable<Saved<Whole>>, _, _>("it", ReplayCheck {}).unwrap().unwrap();
            assert!(whole.agrees() && whole.from_start.is_none(), "{whole:?}");
            let cheat = bench.ask::<Durable<Cheat>, _, _>("it", ReplayCheck {}).unwrap().unwrap();
            assert!(!cheat.agrees(), "{cheat:?}");
            let forgetful = bench.ask::<Durable<Forgetful>, _, _>("it", ReplayCheck {}).unwrap().unwrap();
            assert!(!forgetful.agrees(), "{forgetful:?}");
            let silent = bench.ask::<Durable<Silent>, _, _>("it", ReplayCheck {}).unwrap().unwrap_err();
            assert!(silent.contains("replay.silent has no snapshots"), "{silent}");
            bench.crash();
        }
    });
}

#[test]
fn the_check_waits_for_what_is_on_its_way_and_holds_back_what_comes_after() {
    on_both(2, register, |bench| {
        let actor = bench.engine.actor::<Durable<Honest>>("it");
        for _ in 0..20 {
            actor.tell(Roll {}).unwrap();
        }
        let check = actor.ask(ReplayCheck {});
        let report = bench.world.block_on(check, either::SECOND).unwrap().unwrap().unwrap();
        assert_eq!(report.version, 20);
        must_agree(&report);
    });
}

#[test]
#[should_panic(expected = "differs from its replay")]
fn a_report_that_disagrees_fails_the_test() {
    let report = shardstage_persistence::ReplayReport { version: 1, live: 1, from_snapshot: 1, from_start: Some(2) };
    must_agree(&report);
}
