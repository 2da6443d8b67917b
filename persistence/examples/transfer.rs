//! Money that moves between two accounts, once, whatever crashes. Run it with
//! `cargo run -p shardstage-persistence --example transfer`.

use shardstage::prelude::*;
use shardstage_persistence::{
    Client, CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Idempotent, OutboxRoutes,
};

#[message(id = "bank.transfer", reply = bool)]
#[derive(Clone)]
struct Transfer {
    to: String,
    amount: i64,
}

#[message(id = "bank.credit", reply = i64)]
#[derive(Clone)]
struct Credit {
    amount: i64,
}

#[wire(id = "bank.balance-changed")]
struct BalanceChanged {
    by: i64,
}

#[derive(Default)]
struct Account {
    balance: i64,
}

impl EventSourced for Account {
    const TYPE: &'static str = "bank.account";
    type Event = BalanceChanged;
    type Snapshot = ();

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, event: &BalanceChanged) {
        self.balance += event.by;
    }
}

impl CommandHandler<Transfer> for Account {
    fn handle(&self, Transfer { to, amount }: Transfer, cx: &CommandContext<'_, Self>) -> Effect<Self, bool> {
        if amount > self.balance {
            return Effect::none().reply(false);
        }
        let receiver = cx.actor::<Durable<Self>>(to);
        Effect::persist(BalanceChanged { by: -amount }).send(&receiver, &Credit { amount }).reply(true)
    }
}

impl CommandHandler<Credit> for Account {
    fn handle(&self, Credit { amount }: Credit, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::persist(BalanceChanged { by: amount }).reply(self.balance + amount)
    }
}

fn main() -> shardstage::Result<()> {
    let dir = tempfile::tempdir().expect("the system has room for a temporary directory");
    let log = EventLog::open(dir.path()).segment_bytes(1024 * 1024);
    let accepts = |account: shardstage::TypeBuilder<Durable<Account>>| account.accept::<Idempotent<Credit>, _>();
    let engine = Engine::builder().service(log).register::<Durable<Account>>(accepts).start()?;
    OutboxRoutes::<Account>::new().to::<Durable<Account>, Credit, _>().start(&engine)?;

    let alice = engine.spawn_once(|| Client::<Account>::new("till-7", "alice"))?;
    let bob = engine.spawn_once(|| Client::<Account>::new("till-7", "bob"))?;
    assert_eq!(alice.ask(Credit { amount: 50 }).wait()?, 50);
    assert!(alice.ask(Transfer { to: "bob".into(), amount: 42 }).wait()?);
    while bob.ask(Credit { amount: 0 }).wait()? != 42 {}
    assert!(!alice.ask(Transfer { to: "bob".into(), amount: 9 }).wait()?, "8 are left");
    engine.shutdown()
}
