//! How actors are tested: an engine on virtual time, probes in the place of others, time that passes at once, many seeds.
//! In a program this stands in its tests, as `#[test]` functions; `cargo run --example testing` runs it here.

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;

/// Orders from a supplier; asks again when the supplier is slow, and gives up after the third time.
struct Buyer {
    supplier: Recipient<Order>,
    asked: u32,
}
impl Actor for Buyer {}

#[message(reply = u32)]
#[derive(Debug, PartialEq)]
struct Order {
    pieces: u32,
}

#[message]
struct Buy;

#[message(reply = u32)]
struct TimesAsked;

impl Handler<Buy> for Buyer {
    fn handle(&mut self, _: Buy, cx: &mut Context<Self>) {
        self.asked += 1;
        let order = cx.ask(self.supplier, Order { pieces: 12 }).deadline(Duration::from_secs(60));
        order.then(|this, delivered, cx| {
            if delivered.is_err() && this.asked < 3 {
                cx.after(Duration::from_secs(3600), Buy);
            }
        });
    }
}

impl Handler<TimesAsked> for Buyer {
    fn handle(&mut self, _: TimesAsked, _cx: &mut Context<Self>) -> u32 {
        self.asked
    }
}

fn a_slow_supplier_is_asked_again_an_hour_later() -> shardstage::Result<()> {
    let kit = TestKit::new();
    let supplier = kit.probe::<Order>().named("supplier");
    let to = supplier.recipient();
    let buyer = kit.spawn(move || Buyer { supplier: to, asked: 0 })?;

    buyer.tell(Buy)?;
    supplier.expect_msg_eq(Order { pieces: 12 }); // and no answer: the deadline passes
    supplier.expect_no_msg(Duration::from_secs(3600));
    kit.advance(Duration::from_secs(60));
    supplier.expect_msg_eq(Order { pieces: 12 });
    assert_eq!(buyer.ask(TimesAsked).wait()?, 2); // `wait` runs the engine too
    Ok(())
}

fn a_buyer_that_panics_still_buys(kit: &TestKit) {
    let supplier = kit.probe::<Order>().answering(|order| order.pieces);
    let to = supplier.recipient();
    let buyer = kit.spawn(move || Buyer { supplier: to, asked: 0 }).expect("the engine runs");
    kit.panic_at(buyer, 2);
    for _ in 0..3 {
        buyer.tell(Buy).expect("it has room");
    }
    kit.run_until_idle();
    assert_eq!(kit.transcript().len(), 2);
    buyer.stop().wait();
    kit.assert_no_leaks();
}

fn main() -> shardstage::Result<()> {
    a_slow_supplier_is_asked_again_an_hour_later()?;
    TestKit::check_seeds(0..50, |kit| a_buyer_that_panics_still_buys(kit)); // names the seed that fails
    Ok(())
}
