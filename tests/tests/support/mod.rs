//! What the hazard tests share: engines of a known size, and actors that can be held, blocked and counted.
//!
//! The driver is what `SHARDSTAGE_DRIVER` says, and the host what `SHARDSTAGE_HOST` says (`thread`, the default, `tokio`,
//! `monoio` or `glommio`; the last three only with the feature `hosts`), so every file runs on each of them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use shardstage::prelude::*;
use shardstage::{AskError, DeadLetter, EngineBuilder, MessageName, Resume, StartError};

#[cfg(feature = "hosts")]
pub mod runtimes;

/// A configuration with this many unpinned shards.
pub fn config(shards: u16) -> Config {
    let mut config = Config::default();
    config.shards = Some(shards);
    config.pin = false;
    config
}

/// Starts an engine in the host that the environment names.
pub fn start_built(builder: EngineBuilder) -> Result<Engine, StartError> {
    match std::env::var("SHARDSTAGE_HOST").as_deref() {
        Err(_) | Ok("thread") => builder.start(),
        #[cfg(feature = "hosts")]
        Ok(runtime) => runtimes::start_in(runtime, builder),
        #[cfg(not(feature = "hosts"))]
        Ok(runtime) => panic!("SHARDSTAGE_HOST={runtime}: built without the feature `hosts`"),
    }
}

/// Starts an engine with this configuration in the host that the environment names.
pub fn start(config: Config) -> Engine {
    start_built(Engine::builder().config(config)).unwrap()
}

/// An engine with this many shards.
pub fn engine(shards: u16) -> Engine {
    start(config(shards))
}

/// An engine whose mailboxes hold `capacity` messages.
pub fn engine_with_mailboxes(shards: u16, capacity: u32) -> Engine {
    let mut config = config(shards);
    config.mailbox_capacity = capacity;
    start(config)
}

/// A list that handlers append to and tests read.
#[derive(Clone, Default)]
pub struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Log<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Blocks the whole shard's thread until the other end of `go` is used or dropped.
#[message]
pub struct Block {
    pub entered: Sender<()>,
    pub go: Receiver<()>,
}

/// Keeps a shard's thread inside a handler; dropping it lets the thread go.
pub struct Blocked(#[allow(dead_code)] Sender<()>);

/// Blocks the thread of the shard on which `actor` lives, and returns once it is blocked.
pub fn block<A: Handler<Block>>(actor: ActorRef<A>) -> Blocked {
    let (entered, is_in) = channel();
    let (hold, go) = channel();
    actor.tell(Block { entered, go }).unwrap();
    is_in.recv().unwrap();
    Blocked(hold)
}

fn run_block(block: Block) {
    block.entered.send(()).unwrap();
    // Ends when the test drops its end.
    let _ = block.go.recv();
}

#[message(reply = u64)]
pub struct Ping(pub u64);

/// Answers pings and can be blocked.
#[derive(Default)]
pub struct Echo;
impl Actor for Echo {}

impl Handler<Ping> for Echo {
    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) -> u64 {
        ping.0
    }
}

impl Handler<Block> for Echo {
    fn handle(&mut self, block: Block, _cx: &mut Context<Self>) {
        run_block(block);
    }
}

#[message]
#[derive(Debug, PartialEq)]
pub struct Item(pub u64);

/// Suspends the sink; hands the other end out.
#[message]
pub struct Hold(pub Sender<Resume>);

#[message(reply = Vec<u64>)]
pub struct Seen;

/// Keeps every item that it is told.
#[derive(Default)]
pub struct Sink {
    seen: Vec<u64>,
}
impl Actor for Sink {}

impl Handler<Item> for Sink {
    fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
        self.seen.push(item.0);
    }
}

impl Handler<Hold> for Sink {
    fn handle(&mut self, hold: Hold, cx: &mut Context<Self>) {
        hold.0.send(cx.suspend()).unwrap();
    }
}

impl Handler<Block> for Sink {
    fn handle(&mut self, block: Block, _cx: &mut Context<Self>) {
        run_block(block);
    }
}

impl Handler<Seen> for Sink {
    fn handle(&mut self, _: Seen, _cx: &mut Context<Self>) -> Vec<u64> {
        self.seen.clone()
    }
}

/// Suspends a sink: it keeps what it is told until the result is dropped. Its shard runs on.
pub fn hold(sink: ActorRef<Sink>) -> Resume {
    let (out, held) = channel();
    sink.tell(Hold(out)).unwrap();
    held.recv().unwrap()
}

/// What the sink has seen; asks again while its mailbox has no room.
pub fn seen(sink: ActorRef<Sink>) -> Vec<u64> {
    loop {
        match sink.ask(Seen).wait() {
            Err(AskError::Rejected(Rejected::Full)) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// Dead letters, taken out, but for questions of [`seen`]: one that arrived at a full mailbox was asked again.
pub fn lost(engine: &Engine) -> Vec<DeadLetter> {
    let asked_again = MessageName::Type(std::any::type_name::<Seen>());
    let taken = std::iter::from_fn(|| engine.dead_letters().take());
    taken.filter(|letter| letter.message != asked_again).collect()
}

/// Tells items `from..to` to a sink; answers how many were accepted and which came back as full.
#[message(reply = (u64, Vec<u64>))]
pub struct Fill {
    pub sink: ActorRef<Sink>,
    pub from: u64,
    pub to: u64,
}

/// Asks `echo` from inside a handler, so that everything told before by the same shard has arrived.
#[message(reply = Result<u64, AskError>)]
pub struct Relay {
    pub echo: ActorRef<Echo>,
    pub value: u64,
}

/// Sends for the test from a shard.
#[derive(Default)]
pub struct Sender0;
impl Actor for Sender0 {}

impl Handler<Fill> for Sender0 {
    fn handle(&mut self, fill: Fill, _cx: &mut Context<Self>) -> (u64, Vec<u64>) {
        let mut accepted = 0;
        let mut refused = Vec::new();
        for value in fill.from..fill.to {
            match fill.sink.tell(Item(value)) {
                Ok(()) => accepted += 1,
                Err(TellError::Full(item)) => refused.push(item.0),
                Err(other) => panic!("{other}"),
            }
        }
        (accepted, refused)
    }
}

impl AsyncHandler<Relay> for Sender0 {
    async fn handle(&mut self, relay: Relay, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        relay.echo.ask(Ping(relay.value)).await
    }
}

impl Handler<Block> for Sender0 {
    fn handle(&mut self, block: Block, _cx: &mut Context<Self>) {
        run_block(block);
    }
}

/// Relays until the ring has room for it: afterwards everything that the sender's shard told before has arrived.
pub fn settle(sender: ActorRef<Sender0>, echo: ActorRef<Echo>) {
    loop {
        match sender.ask(Relay { echo, value: 7 }).wait() {
            Ok(Ok(7)) => return,
            Ok(Err(AskError::Rejected(Rejected::Full))) | Err(AskError::Rejected(Rejected::Full)) => {
                std::thread::yield_now();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Runs a future on a tokio runtime of this thread.
pub fn on_tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
