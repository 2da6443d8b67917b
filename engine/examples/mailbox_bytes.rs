//! A mailbox bounded by bytes: few large uploads fill it, many small ones do not, and what is handled makes room.
//! `cargo run --example mailbox_bytes`

use shardstage::Mailbox;
use shardstage::prelude::*;
use shardstage::testkit::TestKit;

/// Keeps uploads; at most a megabyte of them waits.
#[derive(Default)]
struct Store {
    bytes: usize,
}

impl Actor for Store {
    const MAILBOX: Mailbox = Mailbox::new().bytes(1 << 20);
}

/// Says what it weighs: the `Vec` alone is 24 bytes, whatever is in it.
#[message(weight = Upload::bytes)]
struct Upload(Vec<u8>);

impl Upload {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Handler<Upload> for Store {
    fn handle(&mut self, upload: Upload, _cx: &mut Context<Self>) {
        self.bytes += upload.0.len();
    }
}

/// Uploads so many of so many bytes to a store of its own shard; how many found room.
#[message(reply = usize)]
struct Push(ActorRef<Store>, usize, usize);

#[derive(Default)]
struct Client;
impl Actor for Client {}

impl Handler<Push> for Client {
    fn handle(&mut self, Push(store, count, bytes): Push, _cx: &mut Context<Self>) -> usize {
        (0..count).filter(|_| store.tell(Upload(vec![0; bytes])).is_ok()).count()
    }
}

fn main() -> shardstage::Result<()> {
    let kit = TestKit::new();
    let store = kit.spawn_on(0, Store::default)?;
    let client = kit.spawn_on(0, Client::default)?;
    assert_eq!(client.ask(Push(store, 10, 300_000)).wait()?, 3); // 900,000 bytes; the fourth comes back as `Full`
    kit.run_until_idle();
    assert_eq!(client.ask(Push(store, 1000, 1000)).wait()?, 1000); // they are handled: there is room again
    kit.run_until_idle();
    Ok(())
}
