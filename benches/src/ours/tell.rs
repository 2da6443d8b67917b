//! Tells: one producer or eight, one counting actor. Ends when the counter, asked behind the last message, has answered.
//!
//! A message that finds the mailbox full is handed back, and the producer tries again in its next turn. To another shard the
//! engine may take a message that then finds the mailbox full: it bounces into the dead letters. Those do not count as told.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::Reason;
use shardstage::prelude::*;

use super::{Go, engine_for, parked, spinning};
use crate::limits::{PRODUCERS, YIELD_EVERY};
use crate::message::{Either, Even, Odd, numbered, sum_to};
use crate::workload::{Entry, Place, Run, Work};

/// Tells on the engine.
pub const ENTRIES: &[Entry] = &[
    parked(Work::Tell(Place::SameShard), Run::Time(tell_here)),
    parked(Work::FanIn, Run::Time(|n| tell(Place::SameShard, IdleStrategy::Park, PRODUCERS, n).0)),
    parked(Work::TellAllocations, Run::Figure(|n| crate::counted::allocations(tell_here, n))),
    spinning(Work::Tell(Place::OtherShard), Run::Time(|n| tell(Place::OtherShard, IdleStrategy::Spin, 1, n).0)),
    parked(Work::Tell(Place::OtherShard), Run::Time(|n| tell(Place::OtherShard, IdleStrategy::Park, 1, n).0)),
    spinning(Work::TellBounced, Run::Figure(|n| tell(Place::OtherShard, IdleStrategy::Spin, 1, n).1)),
    parked(Work::TellBounced, Run::Figure(|n| tell(Place::OtherShard, IdleStrategy::Park, 1, n).1)),
];

fn tell_here(n: u64) -> Duration {
    tell(Place::SameShard, IdleStrategy::Park, 1, n).0
}

impl Message for Even {
    type Reply = u64;
}

impl Message for Odd {
    type Reply = u64;
}

/// Adds up numbers.
#[derive(Default)]
pub(super) struct Counter {
    counted: u64,
    sum: u64,
}

impl Actor for Counter {}

impl Counter {
    fn count(&mut self, words: [u64; 4]) -> u64 {
        self.counted += 1;
        self.sum = self.sum.wrapping_add(words[0]);
        self.sum
    }
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

/// How many were there, and what is their sum?
#[message(reply = (u64, u64))]
struct HowMany;

impl Handler<HowMany> for Counter {
    fn handle(&mut self, _: HowMany, _cx: &mut Context<Self>) -> (u64, u64) {
        (self.counted, self.sum)
    }
}

/// Tells the numbers from `next` to `end`, at most [`YIELD_EVERY`] in one go.
struct Producer {
    counter: ActorRef<Counter>,
    next: u64,
    end: u64,
    done: Sender<Told>,
}

/// What a producer reports when its last message was counted.
struct Told {
    begin: Instant,
    end: Instant,
    counted: u64,
    sum: u64,
}

impl Actor for Producer {}

impl Handler<Go> for Producer {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        self.produce(Instant::now(), cx);
    }
}

/// Go on with what began then.
#[message]
struct Produce(Instant);

impl Handler<Produce> for Producer {
    fn handle(&mut self, produce: Produce, cx: &mut Context<Self>) {
        self.produce(produce.0, cx);
    }
}

impl Producer {
    fn produce(&mut self, begin: Instant, cx: &mut Context<Self>) {
        let until = self.end.min(self.next + YIELD_EVERY);
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
        if self.next < self.end {
            cx.me().tell(Produce(begin)).expect("nobody else fills the producer's mailbox");
        } else {
            self.ask_how_many(begin, cx);
        }
    }

    fn ask_how_many(&mut self, begin: Instant, cx: &mut Context<Self>) {
        cx.ask(self.counter, HowMany).then(move |this, answer, cx| match answer {
            Ok((counted, sum)) => {
                let _gone = this.done.send(Told { begin, end: Instant::now(), counted, sum });
            }
            Err(AskError::Rejected(Rejected::Full)) => this.ask_how_many(begin, cx),
            Err(other) => panic!("the counter answers: {other}"),
        });
    }
}

/// Tells `n` numbers and returns how long `n` that were counted would have taken, and how many per cent bounced.
fn tell(place: Place, idle: IdleStrategy, producers: u64, n: u64) -> (Duration, f64) {
    let (engine, far) = engine_for(place, idle);
    let (done, told) = mpsc::channel();
    let counter = engine.spawn_on(far, Counter::default).expect("the engine runs");
    let producers: Vec<_> = (0..producers)
        .map(|number| {
            let (next, end) = (n * number / producers, n * (number + 1) / producers);
            let done = done.clone();
            let producer = engine.spawn_on(0, move || Producer { counter, next, end, done: done.clone() });
            producer.expect("the engine runs")
        })
        .collect();
    for producer in &producers {
        producer.tell(Go).expect("its mailbox is empty");
    }
    let reports: Vec<Told> = producers.iter().map(|_| told.recv().expect("every producer ends")).collect();
    let begin = reports.iter().map(|told| told.begin).min().expect("there is a producer");
    let last = reports.into_iter().max_by_key(|told| told.counted).expect("there is a producer");
    let bounced = n - last.counted;
    // A question that had to be asked again is among the dead letters too.
    assert!(bounced <= engine.dead_letters().count(Reason::Full), "what was not counted bounced");
    assert!(bounced > 0 || last.sum == sum_to(n), "the numbers came");
    let elapsed = (last.end - begin).mul_f64(n as f64 / last.counted as f64);
    (elapsed, bounced as f64 * 100.0 / n as f64)
}
