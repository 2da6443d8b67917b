//! An actor asks another and goes on: `then` runs when the answer is there, and messages are handled meanwhile.

use shardstage::prelude::*;

/// Knows prices, slowly.
struct Catalogue;
impl Actor for Catalogue {}

#[message(reply = u32)]
struct PriceOf(&'static str);

impl Handler<PriceOf> for Catalogue {
    fn handle(&mut self, PriceOf(what): PriceOf, _cx: &mut Context<Self>) -> u32 {
        u32::try_from(what.len()).expect("a short word") * 10
    }
}

struct Basket {
    catalogue: ActorRef<Catalogue>,
    open: u32,
    sum: u32,
}
impl Actor for Basket {}

#[message]
struct Take(&'static str);

impl Handler<Take> for Basket {
    fn handle(&mut self, Take(what): Take, cx: &mut Context<Self>) {
        self.open += 1;
        cx.ask(self.catalogue, PriceOf(what)).then(|basket, price, _cx| {
            basket.open -= 1;
            basket.sum += price.unwrap_or(0); // the answer, or why there is none
        });
    }
}

/// How many prices are not known yet, and the sum of the others.
#[message(reply = (u32, u32))]
struct Sum;

impl Handler<Sum> for Basket {
    fn handle(&mut self, _: Sum, _cx: &mut Context<Self>) -> (u32, u32) {
        (self.open, self.sum)
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let catalogue = engine.spawn(|| Catalogue)?;
    let basket = engine.spawn(move || Basket { catalogue, open: 0, sum: 0 })?;
    basket.tell(Take("tea"))?;
    basket.tell(Take("bread"))?;
    let sum = loop {
        if let (0, sum @ 1..) = basket.ask(Sum).wait()? {
            break sum; // the basket answered all the time
        }
    };
    assert_eq!(sum, 80);
    engine.shutdown()
}
