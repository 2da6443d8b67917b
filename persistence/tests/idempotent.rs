//! Commands with a client and a number: once, with the recorded reply, whatever lies between two attempts.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::time::Duration;

use either::{Bench, SECOND, on_both};
use shardstage::prelude::*;
use shardstage::{EngineBuilder, Receive, VirtualActor, WireMessage};
use shardstage_persistence::{
    Client, CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Idempotent, Keyed, KeyedState,
    NotRun, Saved, SavedState,
};

/// Adds; answers the total and how often something was added.
#[message(id = "once.add", reply = (u64, u64))]
#[derive(Clone, Debug)]
struct Add {
    by: u64,
}

/// Takes the amount if it is there.
#[message(id = "once.take", reply = bool)]
#[derive(Clone)]
struct Take {
    amount: u64,
}

#[message(id = "once.explode")]
#[derive(Clone)]
struct Explode {}

/// A reply that is larger than may be recorded.
#[message(id = "once.big", reply = Vec<u8>)]
#[derive(Clone)]
struct Big {
    bytes: u32,
}

#[message(id = "once.read", reply = (u64, u64))]
struct Read {}

#[wire(id = "once.added")]
struct Added {
    by: i64,
}

#[wire]
#[derive(Clone, Default)]
struct Sum {
    total: u64,
    count: u64,
}

impl EventSourced for Sum {
    const TYPE: &'static str = "once.sum";
    const SNAPSHOT_EVERY: u64 = 4;
    const SESSIONS: usize = 3;
    type Event = Added;
    type Snapshot = Self;

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, event: &Added) {
        self.total = self.total.checked_add_signed(event.by).unwrap();
        self.count += 1;
    }

    fn snapshot(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn restore(&mut self, snapshot: Self) {
        *self = snapshot;
    }
}

impl CommandHandler<Add> for Sum {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::persist(Added { by: by as i64 }).reply((self.total + by, self.count + 1))
    }
}

impl CommandHandler<Take> for Sum {
    fn handle(&self, Take { amount }: Take, _cx: &CommandContext<'_, Self>) -> Effect<Self, bool> {
        if amount > self.total {
            return Effect::none().reply(false);
        }
        Effect::persist(Added { by: -(amount as i64) }).reply(true)
    }
}

impl CommandHandler<Explode> for Sum {
    fn handle(&self, _: Explode, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        panic!("it explodes")
    }
}

impl CommandHandler<Big> for Sum {
    fn handle(&self, Big { bytes }: Big, _cx: &CommandContext<'_, Self>) -> Effect<Self, Vec<u8>> {
        Effect::persist(Added { by: 1 }).reply(vec![7; bytes as usize])
    }
}

impl CommandHandler<Read> for Sum {
    fn handle(&self, _: Read, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.total, self.count))
    }
}

/// The same as a whole and as keys.
#[wire]
#[derive(Clone, Default)]
struct Whole {
    total: u64,
    count: u64,
}

impl SavedState for Whole {
    const NAME: &'static str = "once.whole";
}

impl CommandHandler<Add> for Saved<Whole> {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        let (total, count) = (self.total + by, self.count + 1);
        Effect::save(Whole { total, count }).reply((total, count))
    }
}

struct Purse;

impl KeyedState for Purse {
    const NAME: &'static str = "once.purse";
    type Value = u64;
}

impl CommandHandler<Add> for Keyed<Purse> {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        let there = |key| self.get(key).map_or(0, |entry| entry.value);
        let (total, count) = (there("total") + by, there("count") + 1);
        let changed = self.transaction().set("total", total).set("count", count).commit();
        changed.unwrap().reply((total, count))
    }
}

type Actor = Durable<Sum>;

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
        .register::<Actor>(|sum| sum.idle_timeout(Duration::from_millis(400)))
        .register::<Durable<Saved<Whole>>>(|whole| whole)
        .register::<Durable<Keyed<Purse>>>(|purse| purse)
}

/// A client as its own code would number.
struct Numbers {
    client: &'static str,
    opened: u64,
    seq: u64,
    acked: u64,
}

impl Numbers {
    fn new(client: &'static str) -> Self {
        Self { client, opened: 0, seq: 0, acked: 0 }
    }

    /// The latest command, again.
    fn again<A, C, K>(&self, bench: &Bench, command: C) -> Result<Result<C::Reply, NotRun>, AskError>
    where
        A: VirtualActor + Receive<Idempotent<C>, K>,
        C: WireMessage + Clone,
        K: 'static,
    {
        let Self { client, opened, seq, acked } = *self;
        bench.ask::<A, _, K>("a", Idempotent { client: client.into(), opened, seq, after: 0, acked, command })
    }

    /// A new command, with a session if need be.
    fn next<A, C, K>(&mut self, bench: &Bench, command: C) -> Result<Result<C::Reply, NotRun>, AskError>
    where
        A: VirtualActor + Receive<Idempotent<C>, K>,
        C: WireMessage + Clone,
        K: 'static,
    {
        self.seq += 1;
        match self.again::<A, C, K>(bench, command.clone()) {
            Ok(Err(NotRun::Open { opened })) => {
                self.opened = opened;
                self.again::<A, C, K>(bench, command)
            }
            other => other,
        }
    }
}

#[test]
fn a_repetition_gets_the_recorded_reply_after_snapshots_crashes_and_sleep() {
    on_both(1, register, |mut bench| {
        let mut till = Numbers::new("till");
        let mut other = Numbers::new("other");
        for nth in 1..=20 {
            let expected = Ok(Ok((nth * 10, 2 * nth - 1)));
            assert_eq!(till.next::<Actor, _, _>(&bench, Add { by: 10 }), expected);
            assert_eq!(other.next::<Actor, _, _>(&bench, Add { by: 0 }), Ok(Ok((nth * 10, 2 * nth))));
            match nth % 4 {
                0 => bench.crash(),
                1 => bench.world.run_for(2 * SECOND),
                _ => {}
            }
            assert_eq!(till.again::<Actor, _, _>(&bench, Add { by: 10 }), expected);
            assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((nth * 10, 2 * nth)));
            if nth % 3 == 0 {
                till.acked = till.seq;
                other.acked = other.seq;
            }
        }
    });
}

#[test]
fn saved_and_keyed_states_recognise_repetitions_too() {
    on_both(2, register, |mut bench| {
        let (mut whole, mut purse) = (Numbers::new("till"), Numbers::new("till"));
        for nth in 1..=12 {
            let expected = Ok(Ok((nth, nth)));
            assert_eq!(whole.next::<Durable<Saved<Whole>>, _, _>(&bench, Add { by: 1 }), expected);
            assert_eq!(purse.next::<Durable<Keyed<Purse>>, _, _>(&bench, Add { by: 1 }), expected);
            if nth % 3 == 0 {
                bench.crash();
            }
            assert_eq!(whole.again::<Durable<Saved<Whole>>, _, _>(&bench, Add { by: 1 }), expected);
            assert_eq!(purse.again::<Durable<Keyed<Purse>>, _, _>(&bench, Add { by: 1 }), expected);
            (whole.acked, purse.acked) = (nth - 1, nth - 1);
        }
    });
}

#[test]
fn a_reply_without_events_is_recorded_as_well() {
    on_both(3, register, |mut bench| {
        let (mut till, mut other) = (Numbers::new("till"), Numbers::new("other"));
        assert_eq!(till.next::<Actor, _, _>(&bench, Take { amount: 5 }), Ok(Ok(false)));
        assert_eq!(other.next::<Actor, _, _>(&bench, Add { by: 5 }), Ok(Ok((5, 1))));
        bench.crash();
        assert_eq!(till.again::<Actor, _, _>(&bench, Take { amount: 5 }), Ok(Ok(false)), "it was answered so");
        assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((5, 1)));
        assert_eq!(till.next::<Actor, _, _>(&bench, Take { amount: 5 }), Ok(Ok(true)));
        assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((0, 2)));
    });
}

#[test]
fn what_is_forgotten_is_refused_and_never_run() {
    on_both(4, register, |mut bench| {
        let mut till = Numbers::new("till");
        assert_eq!(till.next::<Actor, _, _>(&bench, Add { by: 1 }), Ok(Ok((1, 1))));
        for client in ["b", "c", "d"] {
            Numbers::new(client).next::<Actor, _, _>(&bench, Add { by: 0 }).unwrap().unwrap();
        }
        for _ in 0..2 {
            assert_eq!(till.again::<Actor, _, _>(&bench, Add { by: 1 }), Ok(Err(NotRun::SessionExpired)));
            bench.crash();
        }
        assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((1, 4)));
        let mut anew = Numbers::new("till");
        assert_eq!(anew.next::<Actor, _, _>(&bench, Add { by: 1 }), Ok(Ok((2, 5))));
        assert_eq!(till.again::<Actor, _, _>(&bench, Add { by: 1 }), Ok(Err(NotRun::SessionExpired)));
        assert_eq!(anew.again::<Actor, _, _>(&bench, Take { amount: 1 }), Ok(Err(NotRun::Misnumbered)));
    });
}

#[test]
fn a_command_that_panics_or_answers_too_much_leaves_no_trace() {
    on_both(5, register, |bench| {
        let mut till = Numbers::new("till");
        assert!(matches!(till.next::<Actor, _, _>(&bench, Explode {}), Err(AskError::Failed(_))));
        let too_large = till.again::<Actor, _, _>(&bench, Big { bytes: 100_000 });
        assert_eq!(too_large, Err(AskError::Rejected(Rejected::TooLarge)));
        assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((0, 0)));
        assert_eq!(till.again::<Actor, _, _>(&bench, Big { bytes: 1000 }), Ok(Ok(vec![7; 1000])));
        assert_eq!(till.again::<Actor, _, _>(&bench, Big { bytes: 1000 }), Ok(Ok(vec![7; 1000])));
        assert_eq!(bench.ask::<Actor, _, _>("a", Read {}), Ok((1, 1)));
    });
}

#[test]
fn a_client_numbers_and_retries_through_a_poisoned_store() {
    on_both(6, register, |bench| {
        let client = bench.engine.spawn_once(|| Client::<Sum>::new("till", "a")).unwrap();
        let asks: Vec<_> = (1..=50u64).map(|by| (by, client.ask(Add { by }))).collect();
        let mut total = 0;
        for (nth, (by, ask)) in asks.into_iter().enumerate() {
            total += by;
            let answer = bench.world.block_on(ask.deadline(Duration::from_secs(60)), 100 * SECOND).unwrap();
            assert_eq!(answer, Ok((total, nth as u64 + 1)));
        }
        let Some(store) = bench.memory() else { return };
        store.inject(shardstage_persistence::MemoryFault::Full);
        let ask = client.ask(Add { by: 1 }).deadline(Duration::from_secs(60));
        let mut ask = std::pin::pin!(ask);
        assert!(bench.world.block_on(ask.as_mut(), 2 * SECOND).is_none(), "it is refused and sent again");
        store.heal();
        assert_eq!(bench.world.block_on(ask.as_mut(), 30 * SECOND).unwrap(), Ok((total + 1, 51)));
    });
}

#[test]
fn a_client_says_what_cannot_be_retried() {
    on_both(7, register, |bench| {
        let client = bench.engine.spawn_once(|| Client::<Sum>::new("till", "a")).unwrap();
        let ask = |by| bench.world.block_on(client.ask(Add { by }), 10 * SECOND).unwrap();
        assert_eq!(ask(1), Ok((1, 1)));
        let failed = bench.world.block_on(client.ask(Explode {}), 10 * SECOND).unwrap();
        assert!(matches!(failed, Err(AskError::Failed(_))), "{failed:?}");
        let large = bench.world.block_on(client.ask(Big { bytes: 100_000 }), 10 * SECOND).unwrap();
        assert_eq!(large, Err(AskError::Rejected(Rejected::TooLarge)));
        assert_eq!(ask(1), Ok((2, 2)), "and goes on");
    });
}

#[test]
fn threads_use_one_client_on_real_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::default();
    config.shards = Some(2);
    config.pin = false;
    let log = EventLog::open(dir.path()).segment_bytes(512 * 1024);
    let engine = register(Engine::builder().config(config).service(log)).start().unwrap();
    let client = engine.spawn_once(|| Client::<Sum>::new("till", "a")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    client.ask(Add { by: 2 }).deadline(Duration::from_secs(60)).wait().unwrap();
                }
            });
        }
    });
    assert_eq!(engine.actor::<Actor>("a").ask(Read {}).wait().unwrap(), (400, 200));
    engine.shutdown().unwrap();
}
