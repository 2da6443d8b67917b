//! What an actor does with questions: asks and goes on, lets another answer, asks many at once.

use std::time::Duration;

use shardstage::prelude::*;

/// The price of something, in cents.
#[message(reply = u64)]
#[derive(Clone)]
struct Price(&'static str);

/// The lowest price that anybody asks.
#[message(reply = u64)]
struct Best(&'static str);

struct Shop {
    cents: u64,
}
impl Actor for Shop {}

impl Handler<Price> for Shop {
    fn handle(&mut self, Price(what): Price, _cx: &mut Context<Self>) -> u64 {
        if what == "bread" { self.cents } else { u64::MAX }
    }
}

struct Broker {
    shops: Vec<ActorRef<Shop>>,
    asked: u32,
}
impl Actor for Broker {}

/// Asks every shop and answers later; the broker is free meanwhile.
impl DeferredHandler<Best> for Broker {
    fn handle(&mut self, Best(what): Best, reply: Reply<u64>, cx: &mut Context<Self>) {
        // No longer than whoever asked us waits.
        let left = reply.deadline().unwrap_or(Duration::from_secs(1));
        cx.ask_all(self.shops.clone(), Price(what)).deadline(left).then(move |this, prices, _cx| {
            this.asked += 1;
            match prices.into_iter().flatten().min() {
                Some(best) => reply.send(best),
                None => drop(reply), // the asker hears `Failed` at once
            }
        });
    }
}

/// Does not know, but knows who does: the shop answers whoever asked.
impl DeferredHandler<Price> for Broker {
    fn handle(&mut self, price: Price, reply: Reply<u64>, _cx: &mut Context<Self>) {
        reply.forward(self.shops[0], price);
    }
}

/// Asks one shop and goes on; `then` is a turn of the broker.
#[message(reply = u64)]
struct Double(&'static str);

impl DeferredHandler<Double> for Broker {
    fn handle(&mut self, Double(what): Double, reply: Reply<u64>, cx: &mut Context<Self>) {
        cx.ask(self.shops[1], Price(what)).then(move |_this, price, _cx| match price {
            Ok(cents) => reply.send(2 * cents),
            Err(error) => reply.fail(error),
        });
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let shops = [300, 200, 250].map(|cents| engine.spawn(move || Shop { cents }));
    let shops = shops.into_iter().collect::<Result<Vec<_>, _>>()?;
    let broker = engine.spawn(move || Broker { shops: shops.clone(), asked: 0 })?;
    assert_eq!(broker.ask(Best("bread")).wait()?, 200);
    assert_eq!(broker.ask(Price("bread")).wait()?, 300);
    assert_eq!(broker.ask(Double("bread")).wait()?, 400);
    engine.shutdown()
}
