//! Durable actors on the in-memory store under random faults, and two owners of one store: nothing acknowledged is lost,
//! nothing is invented, and the history stays one.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use either::{Bench, NODE, SECOND, Store};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_codec::{ActorTypeId, Epoch, GroupId, NodeId, slot_of};
use shardstage_persistence::testkit::{MemoryFault, MemoryStore};
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, Fold, SnapshotPolicy};

#[message(id = "faults.next", reply = u64)]
struct Next {}

#[message(id = "faults.state", reply = (u64, u64))]
struct State {}

#[wire(id = "faults.stepped")]
struct Stepped {
    nth: u64,
}

#[wire]
#[derive(Clone, Default)]
struct Chain {
    count: u64,
    digest: u64,
}

fn fold(digest: u64, nth: u64) -> u64 {
    (digest ^ nth).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
}

impl Fold for Chain {
    const NAME: &'static str = "faults.chain";
    const POLICY: SnapshotPolicy = SnapshotPolicy::new().every(7);
    type Event = Stepped;

    fn apply(&mut self, event: &Stepped) {
        self.count += 1;
        self.digest = fold(self.digest, event.nth);
    }
}

impl CommandHandler<Next> for Chain {
    fn handle(&self, _: Next, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Stepped { nth: self.count + 1 }).reply(self.count + 1)
    }
}

impl CommandHandler<State> for Chain {
    fn handle(&self, _: State, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.count, self.digest))
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Chain>>(|chain| chain)
}

/// Outside of the node: what was begun, and the highest count that was answered.
type Ledger = Arc<Mutex<(u64, u64)>>;

/// Asks its chain over and over, whatever the answer.
struct Client {
    key: String,
    ledger: Ledger,
}

impl Actor for Client {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.ask(cx);
        Ok(())
    }
}

#[message(reply = ())]
struct Again {}

impl Handler<Again> for Client {
    fn handle(&mut self, _: Again, cx: &mut Context<Self>) {
        self.ask(cx);
    }
}

impl Client {
    fn ask(&mut self, cx: &mut Context<Self>) {
        self.ledger.lock().unwrap().0 += 1;
        let chain = cx.actor::<Durable<Chain>>(self.key.clone());
        cx.ask(chain, Next {}).then(|client, answer, cx| {
            if let Ok(count) = answer {
                let highest = &mut client.ledger.lock().unwrap().1;
                *highest = (*highest).max(count);
            }
            cx.after(Duration::from_micros(200), Again {});
        });
    }
}

fn judge(bench: &Bench, ledgers: &[Ledger], what: &str) {
    for (key, ledger) in ledgers.iter().enumerate() {
        let (begun, answered) = *ledger.lock().unwrap();
        let (count, digest) = bench.ask::<Durable<Chain>, _, _>(&format!("chain-{key}"), State {}).unwrap();
        assert!(count >= answered, "{what}, chain {key}: {answered} answered, {count} found");
        assert!(count <= begun, "{what}, chain {key}: {begun} begun, {count} found");
        assert_eq!(digest, (1..=count).fold(0, fold), "{what}, chain {key}: another history");
    }
}

#[test]
fn random_faults_lose_and_invent_nothing() {
    let (mut answered, mut poisoned) = (0, 0);
    for seed in 1..=60 {
        let store = MemoryStore::new();
        let mut bench = Bench::new(seed, Store::Memory(store.clone()), register);
        let ledgers: Vec<Ledger> = (0..3).map(|_| Ledger::default()).collect();
        let mut dice = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed);
        let mut roll = |bound: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % bound
        };
        for life in 0..4 {
            judge(&bench, &ledgers, &format!("seed {seed}, life {life}"));
            for (key, ledger) in ledgers.iter().enumerate() {
                let (key, ledger) = (format!("chain-{key}"), Arc::clone(ledger));
                bench.engine.spawn(move || Client { key: key.clone(), ledger: Arc::clone(&ledger) }).unwrap();
            }
            for _ in 0..6 {
                store.delay(Duration::from_micros(roll(3) * 300));
                match roll(6) {
                    0 => store.inject(MemoryFault::FailWrite),
                    1 => store.inject(MemoryFault::LoseAck),
                    2 => store.inject(MemoryFault::Full),
                    3 => store.inject(MemoryFault::LowSpace),
                    _ => store.heal(),
                }
                bench.world.run_for((1 + roll(5)) * SECOND / 1_000);
            }
            poisoned += u64::from(bench.ask::<Durable<Chain>, _, _>("chain-0", State {}).is_err());
            store.heal();
            store.delay(Duration::ZERO);
            bench.crash();
        }
        judge(&bench, &ledgers, &format!("seed {seed}, at the end"));
        answered += ledgers.iter().map(|ledger| ledger.lock().unwrap().1).sum::<u64>();
    }
    assert!(answered > 1_000 && poisoned > 50, "{answered} answered, {poisoned} lives ended poisoned");
}

#[test]
fn of_two_owners_of_one_store_only_the_newer_one_writes() {
    const OTHER: NodeId = NodeId::new(1);
    for seed in 1..=30 {
        let store = MemoryStore::new();
        let bench = Bench::new(seed, Store::Memory(store.clone()), register);
        let mut config = Config::default();
        config.shards = Some(1);
        let other = register(Engine::builder().config(config).service(store.clone()));
        let other = other.start_in_sim(&bench.world, OTHER).unwrap();
        let group: GroupId = slot_of(ActorTypeId::of(Chain::NAME), "chain-0").group();
        let ledger = Ledger::default();
        let client = |engine: &Engine| {
            let ledger = Arc::clone(&ledger);
            engine.spawn(move || Client { key: "chain-0".into(), ledger: Arc::clone(&ledger) }).unwrap();
        };
        client(&bench.engine);
        bench.world.run_for(SECOND / 100);
        let before = ledger.lock().unwrap().1;
        assert!(before > 5, "{before}");
        // The old owner does not hear of the move: it may be paused in the middle of a commit.
        store.delay(Duration::from_micros(seed * 40));
        bench.world.run_for(seed * 50_000);
        if seed % 3 == 0 {
            bench.world.pause(NODE, SECOND / 50);
        }
        other.raise_epoch(group, Epoch::new(2));
        client(&other);
        bench.world.run_for(SECOND / 10);
        let (begun, answered) = *ledger.lock().unwrap();
        let ask = other.actor::<Durable<Chain>>("chain-0").ask(State {});
        let (count, digest) = bench.world.block_on(ask, SECOND).unwrap().unwrap();
        assert!(answered > before && count >= answered && count <= begun, "seed {seed}: {before} {answered} {count}");
        assert_eq!(digest, (1..=count).fold(0, fold), "seed {seed}: another history");
        let refused = bench.ask::<Durable<Chain>, _, _>("chain-0", Next {});
        assert!(refused.is_err(), "seed {seed}: the old owner answered {refused:?}");
    }
}
