//! A bank account that survives a restart. Run it with `cargo run -p shardstage-persistence --example bank`.

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced};

#[message(id = "bank.deposit", reply = i64)]
struct Deposit {
    amount: i64,
}

#[message(id = "bank.withdraw", reply = Option<i64>)]
struct Withdraw {
    amount: i64,
}

#[wire(id = "bank.balance-changed")]
struct BalanceChanged {
    by: i64,
}

struct Account {
    balance: i64,
}

impl EventSourced for Account {
    const TYPE: &'static str = "bank.account";
    type Event = BalanceChanged;
    type Snapshot = i64;

    fn new(_key: &str) -> Self {
        Self { balance: 0 }
    }

    fn apply(&mut self, event: &BalanceChanged) {
        self.balance += event.by;
    }

    fn snapshot(&self) -> Option<i64> {
        Some(self.balance)
    }

    fn restore(&mut self, balance: i64) {
        self.balance = balance;
    }
}

impl CommandHandler<Deposit> for Account {
    fn handle(&self, Deposit { amount }: Deposit, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::persist(BalanceChanged { by: amount }).reply(self.balance + amount)
    }
}

impl CommandHandler<Withdraw> for Account {
    fn handle(&self, Withdraw { amount }: Withdraw, _cx: &CommandContext<'_, Self>) -> Effect<Self, Option<i64>> {
        if amount > self.balance {
            return Effect::none().reply(None);
        }
        Effect::persist(BalanceChanged { by: -amount }).reply(Some(self.balance - amount))
    }
}

fn start(dir: &std::path::Path) -> shardstage::Result<Engine> {
    let log = EventLog::open(dir).segment_bytes(1024 * 1024);
    Ok(Engine::builder().service(log).register::<Durable<Account>>(|account| account).start()?)
}

fn main() -> shardstage::Result<()> {
    let dir = tempfile::tempdir().expect("the system has room for a temporary directory");
    let engine = start(dir.path())?;
    let alice = engine.actor::<Durable<Account>>("alice");
    assert_eq!(alice.ask(Deposit { amount: 40 }).wait()?, 40);
    assert_eq!(alice.ask(Withdraw { amount: 50 }).wait()?, None);
    engine.shutdown()?;

    let engine = start(dir.path())?;
    assert_eq!(engine.actor::<Durable<Account>>("alice").ask(Deposit { amount: 2 }).wait()?, 42);
    engine.shutdown()
}
