//! The quickstart of the README: one actor, one message, tell and ask.

use shardstage::prelude::*;

#[derive(Default)]
struct Counter {
    total: i64,
}
impl Actor for Counter {}

#[message(reply = i64)]
struct Add {
    amount: i64,
}

impl Handler<Add> for Counter {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> i64 {
        self.total += add.amount;
        self.total
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?; // one shard per core
    let counter = engine.spawn(Counter::default)?; // built on its shard: state need not be Send
    counter.tell(Add { amount: 40 })?; // never blocks; Full(m) and Closed(m) return the message
    assert_eq!(counter.ask(Add { amount: 2 }).wait()?, 42); // .await in async code; 5 s default deadline
    engine.shutdown()
}
