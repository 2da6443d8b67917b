//! What travels with a call: headers, a deadline and a trace parent, from the edge through every actor that works for it.
//! No handler passes anything on by hand; a message without a request pays nothing.

use std::time::Duration;

use shardstage::TraceParent;
use shardstage::prelude::*;

/// Takes orders, and asks the stock.
struct Shop {
    stock: ActorRef<Stock>,
}
impl Actor for Shop {}

#[message(reply = String)]
struct Order;

impl AsyncHandler<Order> for Shop {
    async fn handle(&mut self, _: Order, _cx: &mut Context<Self>) -> String {
        self.stock.ask(Take).await.unwrap_or_else(|error| error.to_string())
    }
}

/// Knows for whom it works, though the shop does not say.
struct Stock;
impl Actor for Stock {}

#[message(reply = String)]
struct Take;

impl Handler<Take> for Stock {
    fn handle(&mut self, _: Take, cx: &mut Context<Self>) -> String {
        let Some(request) = cx.request() else { return "for nobody".to_owned() };
        let in_time = request.time_left().is_some_and(|left| !left.is_zero());
        let trace = request.trace_parent().map_or(0, |trace| trace.trace_id());
        format!("for {}, in time: {in_time}, in trace {trace:x}", request.header("tenant").unwrap_or("somebody"))
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let stock = engine.spawn(|| Stock)?;
    let shop = engine.spawn(move || Shop { stock })?;

    // The header of an HTTP request, say. Hostile text is an error that says what is wrong.
    let text = "00-0000000000000000000000000000cafe-00000000000000b7-01";
    let trace: TraceParent = text.parse().expect("as the standard has it");
    assert!("00-cafe-b7-01".parse::<TraceParent>().is_err());

    let order = shop.ask(Order).with_header("tenant", "blue").expect("short and printable");
    let answer = order.with_deadline(Duration::from_secs(2)).with_trace_parent(trace).wait()?;
    assert_eq!(answer, "for blue, in time: true, in trace cafe");
    assert_eq!(shop.ask(Order).wait()?, "for nobody");
    engine.shutdown()
}
