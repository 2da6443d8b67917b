//! A bank account with events and snapshots that survives a restart: `cargo run -p shardstage-persistence --example bank`.

use shardstage::prelude::*;
use shardstage_persistence::prelude::*;

#[wire]
#[derive(Clone, Default)]
struct Account {
    balance: i64,
}

#[wire(id = "bank.balance-changed")]
struct BalanceChanged {
    by: i64,
}

impl Fold for Account {
    const NAME: &'static str = "bank.account";
    type Event = BalanceChanged;

    fn apply(&mut self, event: &BalanceChanged) {
        self.balance += event.by;
    }
}

/// Pays in, or out when `by` is negative; `None` when there is too little.
#[message(id = "bank.pay", reply = Option<i64>)]
struct Pay {
    by: i64,
}

impl CommandHandler<Pay> for Account {
    fn handle(&self, Pay { by }: Pay, _cx: &CommandContext<'_, Self>) -> Effect<Self, Option<i64>> {
        match self.balance + by {
            0.. => Effect::persist(BalanceChanged { by }).reply(Some(self.balance + by)),
            _ => Effect::none().reply(None),
        }
    }
}

fn main() -> shardstage::Result<()> {
    let dir = tempfile::tempdir().expect("the system has room for a temporary directory");
    for (by, balance) in [(40, Some(40)), (-50, None), (2, Some(42))] {
        // Each payment in a life of its own.
        let log = EventLog::open(dir.path()).segment_bytes(1024 * 1024);
        let engine = Engine::builder().service(log).register::<Durable<Account>>(|account| account).start()?;
        assert_eq!(engine.actor::<Durable<Account>>("alice").ask(Pay { by }).wait()?, balance);
        engine.shutdown()?;
    }
    Ok(())
}
