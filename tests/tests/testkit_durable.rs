//! The test kit and the replay check of durable actors together: what was answered survives a power loss at any moment, and the
//! state is what the records give.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage_persistence::testkit::{ReplayCheck, must_agree};
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, Fold, MemoryStore};

#[message(id = "till.put", reply = u64)]
struct Put {
    amount: u64,
}

#[wire(id = "till.changed")]
struct Changed {
    amount: u64,
}

#[wire]
#[derive(Clone, Default)]
struct Till {
    total: u64,
}

impl Fold for Till {
    const NAME: &'static str = "till";
    type Event = Changed;

    fn apply(&mut self, event: &Changed) {
        self.total += event.amount;
    }
}

impl CommandHandler<Put> for Till {
    fn handle(&self, Put { amount }: Put, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Changed { amount }).reply(self.total + amount)
    }
}

fn total(kit: &TestKit) -> u64 {
    kit.actor::<Durable<Till>>("front").ask(Put { amount: 0 }).wait().unwrap()
}

#[test]
fn what_was_answered_survives_a_power_loss_at_any_moment() {
    let log = || EventLog::open("till").segment_bytes(256 * 1024);
    let builder = TestKit::builder().engine(move |engine| engine.service(log()).register::<Durable<Till>>(|till| till));
    let (kept, lost) = (Cell::new(0), Cell::new(0));
    builder.check_seeds(0..10, |kit| {
        let mut answered = 0;
        for _ in 0..3 {
            let till = kit.actor::<Durable<Till>>("front");
            for _ in 0..5 {
                answered = till.ask(Put { amount: 10 }).wait().unwrap();
            }
            // Some are on their way to the disk when the power goes.
            for _ in 0..3 {
                till.tell(Put { amount: 1 }).unwrap();
            }
            kit.world().run_for(kit.seed() * 7_919 % 400_000);
            kit.power_loss();
            let after = total(kit);
            assert!((answered..=answered + 3).contains(&after), "{answered} was answered, {after} is there");
            kept.set(kept.get() + u64::from(after > answered));
            lost.set(lost.get() + u64::from(after < answered + 3));
            let check = kit.actor::<Durable<Till>>("front").ask(ReplayCheck {});
            must_agree(&check.wait().unwrap().unwrap());
        }
    });
    assert!(
        kept.get() > 0 && lost.get() > 0,
        "some of what nobody was told of is there ({kept:?}), some is not ({lost:?})"
    );
}

#[test]
fn a_store_in_memory_outlives_the_engine_of_a_kit() {
    let store = MemoryStore::new();
    let mut kit = TestKit::builder()
        .engine(move |engine| engine.service(store.clone()).register::<Durable<Till>>(|till| till))
        .start();
    let till = kit.actor::<Durable<Till>>("front");
    assert_eq!(till.ask(Put { amount: 40 }).wait(), Ok(40));
    kit.sigkill();
    assert_eq!(total(&kit), 40);
    let till = kit.actor::<Durable<Till>>("front");
    must_agree(&till.ask(ReplayCheck {}).wait().unwrap().unwrap());
    // Idle actors go, and come back with their state.
    kit.advance(Duration::from_secs(120));
    assert_eq!(kit.census().of::<Durable<Till>>(), 0);
    assert_eq!(total(&kit), 40);
    kit.assert_no_leaks();
}

#[test]
fn durable_actors_lose_nothing_through_many_lives() {
    let log = || EventLog::open("till").segment_bytes(256 * 1024);
    let builder = TestKit::builder().engine(move |engine| {
        let mut config = Config::default();
        config.shards = Some(2);
        config.virtual_actors_per_shard = 1;
        engine
            .config(config)
            .service(log())
            .register::<Durable<Till>>(|till| till.idle_timeout(Duration::from_millis(5)).drain_timeout(Duration::ZERO))
    });
    let lives = Cell::new(0);
    builder.check_seeds(0..20, |kit| {
        let mut sent = [0; 3];
        for step in 0..60_u64 {
            let which = (kit.seed() + step * step) as usize % 3;
            let till = kit.actor::<Durable<Till>>(["left", "middle", "right"][which]);
            let amount = step + 1;
            till.tell(Put { amount }).unwrap();
            sent[which] += amount;
            match (kit.seed() * 7 + step * 5) % 4 {
                0 => drop(till.passivate()),
                1 => kit.advance(Duration::from_micros(step * 300)),
                _ => {}
            }
        }
        kit.advance(Duration::from_secs(1));
        lives.set(lives.get() + kit.stats().iter().map(|shard| shard.activated).sum::<u64>());
        for (key, sent) in ["left", "middle", "right"].into_iter().zip(sent) {
            let total = kit.actor::<Durable<Till>>(key).ask(Put { amount: 0 }).wait();
            assert_eq!(total, Ok(sent), "{key}");
        }
    });
    assert!(lives.get() > 300, "only {} lives", lives.get());
}
