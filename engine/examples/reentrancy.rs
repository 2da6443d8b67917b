//! Calls that come back. To an async handler that waits, they are refused at once, with the cycle, which would wait for itself.
//! While an ask by `then` waits, the type says what comes in: everything, nothing, or, as here, the calls of its own chain.

use shardstage::Reentrancy;
use shardstage::prelude::*;

/// Keeps the price list, for which it needs the tax.
#[derive(Default)]
struct Prices {
    tax: Option<ActorRef<Tax>>,
}
impl Actor for Prices {
    const REENTRANCY: Reentrancy = Reentrancy::Chain { depth: 2 };
}

/// Knows the tax, for which it needs to know what is sold.
struct Tax {
    prices: ActorRef<Prices>,
}
impl Actor for Tax {}

#[message]
struct Meet(ActorRef<Tax>);

/// The price, by a handler that waits for the tax.
#[message(reply = Result<u32, AskError>)]
struct Price;
/// The price, by a handler that lets its own chain in meanwhile, and nobody else.
#[message(reply = u32)]
struct Quote;
#[message(reply = Result<u32, AskError>)]
struct Rate;
#[message(reply = u32)]
struct Sold;

impl Handler<Meet> for Prices {
    fn handle(&mut self, Meet(tax): Meet, _cx: &mut Context<Self>) {
        self.tax = Some(tax);
    }
}

impl AsyncHandler<Price> for Prices {
    async fn handle(&mut self, _: Price, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let tax = self.tax.expect("they have met");
        Ok(100 + tax.ask(Rate).await??)
    }
}

impl DeferredHandler<Quote> for Prices {
    fn handle(&mut self, _: Quote, reply: Reply<u32>, cx: &mut Context<Self>) {
        let tax = self.tax.expect("they have met");
        cx.ask(tax, Rate).then(|_, rate, _| reply.send(100 + rate.unwrap_or(Ok(0)).unwrap_or(0)));
    }
}

impl Handler<Sold> for Prices {
    fn handle(&mut self, _: Sold, _cx: &mut Context<Self>) -> u32 {
        7
    }
}

impl AsyncHandler<Rate> for Tax {
    async fn handle(&mut self, _: Rate, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        self.prices.ask(Sold).await
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let prices = engine.spawn_on(0, Prices::default)?;
    let tax = engine.spawn_on(0, move || Tax { prices })?;
    prices.tell(Meet(tax))?;

    assert_eq!(prices.ask(Quote).wait()?, 107); // `Sold` came back, as part of the chain
    let refused = prices.ask(Price).wait()?.expect_err("it would wait for itself").to_string();
    assert!(refused.contains("Prices") && refused.contains("Tax"), "{refused}");
    engine.shutdown()
}
