//! What runs around messages without their handlers knowing: counting, access control, a tenant for whoever has none.
//! Registered for every actor or for one type; an engine without interceptors pays nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shardstage::prelude::*;
use shardstage::{Interceptor, Outcome, Received, Request, Verdict};

/// Keeps money.
#[derive(Default)]
struct Account {
    balance: u32,
}
impl Actor for Account {}

#[message(reply = u32)]
struct Deposit(u32);

#[message]
struct Close;

impl Handler<Deposit> for Account {
    fn handle(&mut self, Deposit(amount): Deposit, _cx: &mut Context<Self>) -> u32 {
        self.balance += amount;
        self.balance
    }
}

impl Handler<Close> for Account {
    fn handle(&mut self, _: Close, cx: &mut Context<Self>) {
        cx.stop();
    }
}

/// Lets nobody close an account but the administrator.
struct Guard;

impl Interceptor for Guard {
    fn receive(&self, message: &Received<'_>) -> Verdict {
        let is_admin = message.request.is_some_and(|request| request.header("role") == Some("admin"));
        if message.message.ends_with("Close") && !is_admin { Verdict::Reject } else { Verdict::Handle }
    }
}

/// Counts what was handled.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicU32>);

impl Interceptor for Counted {
    fn handled(&self, _message: &Received<'_>, outcome: Outcome) {
        self.0.fetch_add(u32::from(outcome == Outcome::Handled), Ordering::Relaxed);
    }
}

fn main() -> shardstage::Result<()> {
    let counted = Counted::default();
    let engine = Engine::builder().intercept(counted.clone()).intercept_actor::<Account>(Guard).start()?;
    let account = engine.spawn(Account::default)?;

    assert_eq!(account.ask(Deposit(40)).wait()?, 40);
    assert_eq!(account.ask(Close).wait(), Err(AskError::Rejected(Rejected::NoHandler)));
    assert_eq!(account.ask(Deposit(2)).wait()?, 42); // still there

    let admin = Request::new().with_header("role", "admin").expect("short and printable");
    account.ask(Close).in_request(&admin).wait()?;
    account.stopped().wait();
    assert_eq!(counted.0.load(Ordering::Relaxed), 3);
    engine.shutdown()
}
