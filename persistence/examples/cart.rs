//! State of keys and values, changed by transactions: `cargo run -p shardstage-persistence --example cart`.

use shardstage::prelude::*;
use shardstage_persistence::prelude::*;

/// What is in a cart: article to count.
struct Cart;

impl KeyedState for Cart {
    const NAME: &'static str = "shop.cart";
    type Value = u32;
}

/// Takes one article out and puts another in, both or neither. `seen` is the version of `out` that the customer saw.
#[message(id = "shop.swap", reply = Result<(), String>)]
struct Swap {
    out: String,
    into: String,
    seen: u64,
}

#[message(id = "shop.put", reply = u64)]
struct Put {
    article: String,
    count: u32,
}

impl CommandHandler<Put> for Keyed<Cart> {
    fn handle(&self, put: Put, cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        let put = self.transaction().set(put.article, put.count).commit();
        put.expect("a short name and few of them").reply(cx.version() + 1)
    }
}

impl CommandHandler<Swap> for Keyed<Cart> {
    fn handle(
        &self,
        Swap { out, into, seen }: Swap,
        _cx: &CommandContext<'_, Self>,
    ) -> Effect<Self, Result<(), String>> {
        let count = self.get(&out).map_or(0, |entry| entry.value);
        match self.transaction().expect(&out, seen).delete(&out).set(into, count).commit() {
            Ok(swapped) => swapped.reply(Ok(())),
            Err(error) => Effect::none().reply(Err(error.to_string())),
        }
    }
}

fn main() -> shardstage::Result<()> {
    let dir = tempfile::tempdir().expect("the system has room for a temporary directory");
    let log = EventLog::open(dir.path()).segment_bytes(1024 * 1024);
    let engine = Engine::builder().service(log).register::<Durable<Keyed<Cart>>>(|cart| cart).start()?;
    let cart = engine.actor::<Durable<Keyed<Cart>>>("alice");
    let seen = cart.ask(Put { article: "tea".into(), count: 3 }).wait()?;
    cart.ask(Put { article: "tea".into(), count: 4 }).wait()?;
    let swap = |seen| Swap { out: "tea".into(), into: "coffee".into(), seen };
    let refused = cart.ask(swap(seen)).wait()?;
    assert_eq!(refused, Err("key \"tea\" has version 2, the transaction expected 1".into()));
    assert_eq!(cart.ask(swap(2)).wait()?, Ok(()));
    engine.shutdown()
}
