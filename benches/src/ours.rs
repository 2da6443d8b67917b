//! The workloads on the engine, with `Config::default()` apart from the number of shards and, where it says so, the idle
//! strategy. Producers and askers are actors; the mailbox bound holds: on `Full` the producer lets the counter run.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;

use crate::limits::{ASKS_IN_FLIGHT, WINDOW, YIELD_EVERY};
use crate::message::{Either, Even, Odd, numbered};
use crate::workload::{Entry, Place, Role, Work};

/// The engine's share of the table.
pub const ENTRIES: &[Entry] = &[
    parked(Work::Tell(Place::SameShard), |n| tell(Place::SameShard, IdleStrategy::Park, n)),
    parked(Work::Tell(Place::OtherShard), |n| tell(Place::OtherShard, IdleStrategy::Park, n)),
    spinning(Work::Tell(Place::OtherShard), |n| tell(Place::OtherShard, IdleStrategy::Spin, n)),
    parked(Work::Ask(Place::SameShard), |n| ask(Place::SameShard, IdleStrategy::Park, 1, n)),
    parked(Work::Ask(Place::OtherShard), |n| ask(Place::OtherShard, IdleStrategy::Park, ASKS_IN_FLIGHT, n)),
    spinning(Work::Ask(Place::OtherShard), |n| ask(Place::OtherShard, IdleStrategy::Spin, ASKS_IN_FLIGHT, n)),
    parked(Work::PingPong(Place::SameShard), |n| ping_pong(Place::SameShard, IdleStrategy::Park, n)),
    parked(Work::PingPong(Place::OtherShard), |n| ping_pong(Place::OtherShard, IdleStrategy::Park, n)),
    spinning(Work::PingPong(Place::OtherShard), |n| ping_pong(Place::OtherShard, IdleStrategy::Spin, n)),
];

/// The engine's name in the table, with parking shards.
pub const PARKED: &str = "shardstage";

/// The engine's name in the table, with shards that spin when idle.
pub const SPINNING: &str = "shardstage, spinning";

const fn parked(work: Work, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name: PARKED, role: Role::Ours, run }
}

const fn spinning(work: Work, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name: SPINNING, role: Role::Ours, run }
}

/// An engine with one shard or two, and the shard of the far end.
fn engine(place: Place, idle: IdleStrategy) -> (Engine, u16) {
    let mut config = Config::default();
    let far = u16::from(place == Place::OtherShard);
    config.shards = Some(far + 1);
    config.idle = idle;
    (Engine::start(config).expect("the engine starts"), far)
}

/// A run's first and last moment, each told by the actor that sees it.
pub(crate) struct Clock {
    begun: mpsc::Receiver<Instant>,
    ended: mpsc::Receiver<Instant>,
}

impl Clock {
    pub(crate) fn new() -> (Self, Sender<Instant>, Sender<Instant>) {
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        (Self { begun, ended }, begin, end)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        let begun = self.begun.recv().expect("the run begins");
        self.ended.recv().expect("the run ends") - begun
    }
}

impl Message for Even {
    type Reply = u64;
}

impl Message for Odd {
    type Reply = u64;
}

struct Counter {
    sum: u64,
    remaining: u64,
    /// Who wants to hear of every [`WINDOW`] / 2 messages, and how many it has not heard of.
    producer: Option<ActorRef<Producer>>,
    unheard: u64,
    end: Sender<Instant>,
}

impl Actor for Counter {}

impl Counter {
    fn count(&mut self, words: [u64; 4]) -> u64 {
        self.sum = self.sum.wrapping_add(words[0]);
        self.remaining -= 1;
        if self.remaining == 0 {
            let _gone = self.end.send(Instant::now());
        }
        if let Some(producer) = self.producer {
            self.unheard += 1;
            if self.unheard == WINDOW / 2 {
                self.unheard = 0;
                producer.tell(Counted).expect("two of them are under way at most");
            }
        }
        self.sum
    }
}

/// Tell me of every [`WINDOW`] / 2 messages.
struct Watch(ActorRef<Producer>);

impl Message for Watch {
    type Reply = ();
}

impl Handler<Watch> for Counter {
    fn handle(&mut self, watch: Watch, _cx: &mut Context<Self>) {
        self.producer = Some(watch.0);
    }
}

/// [`WINDOW`] / 2 messages were counted.
struct Counted;

impl Message for Counted {
    type Reply = ();
}

impl Handler<Even> for Counter {
    fn handle(&mut self, message: Even, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

impl Handler<Odd> for Counter {
    fn handle(&mut self, message: Odd, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

/// Tells `n` messages, at most [`YIELD_EVERY`] in one go. To another shard it keeps at most [`WINDOW`] under way, because a
/// message that finds the far mailbox full after it was taken goes to the dead letters.
struct Producer {
    counter: ActorRef<Counter>,
    next: u64,
    n: u64,
    /// The first message that may not be sent yet.
    limit: u64,
    begin: Sender<Instant>,
}

impl Actor for Producer {}

/// Go on producing.
struct Produce;

impl Message for Produce {
    type Reply = ();
}

impl Producer {
    fn produce(&mut self, cx: &mut Context<Self>) {
        let until = self.n.min(self.next + YIELD_EVERY).min(self.limit);
        while self.next < until {
            let sent = match numbered(self.next) {
                Either::Even(message) => self.counter.tell(message).is_ok(),
                Either::Odd(message) => self.counter.tell(message).is_ok(),
            };
            if !sent {
                break;
            }
            self.next += 1;
        }
        if self.next < self.n.min(self.limit) {
            cx.me().tell(Produce).expect("only few messages are in the producer's mailbox");
        }
    }
}

impl Handler<Produce> for Producer {
    fn handle(&mut self, _: Produce, cx: &mut Context<Self>) {
        if self.next == 0 {
            let _gone = self.begin.send(Instant::now());
            if self.limit < u64::MAX {
                self.counter.tell(Watch(cx.me())).expect("its mailbox is empty");
            }
        }
        self.produce(cx);
    }
}

impl Handler<Counted> for Producer {
    fn handle(&mut self, _: Counted, cx: &mut Context<Self>) {
        let waits = self.next == self.limit;
        self.limit += WINDOW / 2;
        if waits {
            self.produce(cx);
        }
    }
}

fn tell(place: Place, idle: IdleStrategy, n: u64) -> Duration {
    let (engine, far) = engine(place, idle);
    let (clock, begin, end) = Clock::new();
    let counter = spawn_counter(&engine, far, n, end);
    let limit = if place == Place::OtherShard { WINDOW } else { u64::MAX };
    let producer = engine.spawn_on(0, move || Producer { counter, next: 0, n, limit, begin: begin.clone() });
    producer.expect("the engine runs").tell(Produce).expect("its mailbox is empty");
    clock.elapsed()
}

fn spawn_counter(engine: &Engine, shard: u16, n: u64, end: Sender<Instant>) -> ActorRef<Counter> {
    let counter = move || Counter { sum: 0, remaining: n, producer: None, unheard: 0, end: end.clone() };
    engine.spawn_on(shard, counter).expect("the engine runs")
}

/// Keeps a number of asks in flight until `n` were answered.
struct Asker {
    counter: ActorRef<Counter>,
    next: u64,
    n: u64,
    in_flight: u64,
    begin: Sender<Instant>,
}

impl Actor for Asker {}

impl Asker {
    fn ask(&mut self, cx: &mut Context<Self>) {
        if self.next == self.n {
            return;
        }
        self.next += 1;
        match numbered(self.next) {
            Either::Even(message) => cx.ask(self.counter, message).then(Self::answered),
            Either::Odd(message) => cx.ask(self.counter, message).then(Self::answered),
        }
    }

    fn answered(&mut self, answer: Result<u64, AskError>, cx: &mut Context<Self>) {
        answer.expect("the counter answers");
        self.ask(cx);
    }
}

impl Handler<Produce> for Asker {
    fn handle(&mut self, _: Produce, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        (0..self.in_flight).for_each(|_| self.ask(cx));
    }
}

fn ask(place: Place, idle: IdleStrategy, in_flight: u64, n: u64) -> Duration {
    let (engine, far) = engine(place, idle);
    let (clock, begin, end) = Clock::new();
    let counter = spawn_counter(&engine, far, n, end);
    let asker = engine.spawn_on(0, move || Asker { counter, next: 0, n, in_flight, begin: begin.clone() });
    asker.expect("the engine runs").tell(Produce).expect("its mailbox is empty");
    clock.elapsed()
}

struct Ping {
    from: ActorRef<Client>,
    words: [u64; 2],
}

impl Message for Ping {
    type Reply = ();
}

const _: () = assert!(size_of::<Ping>() == 32);

struct Pong;

impl Actor for Pong {}

impl Handler<Ping> for Pong {
    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        ping.from.tell(Back([ping.words[0], 1, 2, 3])).expect("one message in flight fits");
    }
}

struct Back([u64; 4]);

impl Message for Back {
    type Reply = ();
}

struct Client {
    peer: ActorRef<Pong>,
    n: u64,
    remaining: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Client {}

impl Handler<Back> for Client {
    fn handle(&mut self, back: Back, cx: &mut Context<Self>) {
        if self.remaining == self.n {
            let _gone = self.begin.send(Instant::now());
        }
        if self.remaining == 0 {
            let _gone = self.end.send(Instant::now());
            return;
        }
        self.remaining -= 1;
        self.peer.tell(Ping { from: cx.me(), words: [back.0[0], 1] }).expect("one message in flight fits");
    }
}

fn ping_pong(place: Place, idle: IdleStrategy, n: u64) -> Duration {
    let (engine, far) = engine(place, idle);
    let (clock, begin, end) = Clock::new();
    let peer = engine.spawn_on(far, || Pong).expect("the engine runs");
    let client = engine.spawn_on(0, move || Client { peer, n, remaining: n, begin: begin.clone(), end: end.clone() });
    client.expect("the engine runs").tell(Back([0; 4])).expect("its mailbox is empty");
    clock.elapsed()
}
