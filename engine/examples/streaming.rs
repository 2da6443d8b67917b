//! An answer in many items: the asker grants room, the handler sends as it is granted, and dropping the stream ends both.

use shardstage::prelude::*;
use shardstage::{ItemStream, item_stream};

#[message(reply = ItemStream<u64>)]
struct Squares {
    upto: u64,
}

struct Source;
impl Actor for Source {}

impl Handler<Squares> for Source {
    fn handle(&mut self, squares: Squares, cx: &mut Context<Self>) -> ItemStream<u64> {
        let (items, stream) = item_stream();
        cx.feed(items, (1..=squares.upto).map(|number| number * number)); // beside this actor's messages
        stream
    }
}

#[message(reply = u64)]
struct Sum(ActorRef<Source>);

#[derive(Default)]
struct Reader {
    sum: u64,
}
impl Actor for Reader {}

/// Reads the stream in turns of its own, and answers at its end.
impl DeferredHandler<Sum> for Reader {
    fn handle(&mut self, Sum(source): Sum, reply: Reply<u64>, cx: &mut Context<Self>) {
        let mut reply = Some(reply);
        cx.ask(source, Squares { upto: 1000 }).for_each(move |this, item, _cx| match (item, reply.take()) {
            (Some(Ok(square)), open) => {
                this.sum += square;
                reply = open;
            }
            (Some(Err(error)), Some(reply)) => reply.fail(error),
            (None, Some(reply)) => reply.send(this.sum),
            (_, None) => {}
        });
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let source = engine.spawn(|| Source)?;
    let reader = engine.spawn(Reader::default)?;
    assert_eq!(reader.ask(Sum(source)).wait()?, 333_833_500);
    engine.shutdown()
}
