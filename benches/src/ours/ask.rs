//! Asks from an actor, whose replies come as turns of their own; on one shard one in flight, between two 64.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use shardstage::prelude::*;

use super::tell::Counter;
use super::{Clock, Go, engine_for, parked, spinning};
use crate::limits::ASKS_IN_FLIGHT;
use crate::message::{Either, numbered, sum_to};
use crate::workload::{Entry, Place, Run, Work};

/// Asks on the engine.
pub const ENTRIES: &[Entry] = &[
    parked(Work::Ask(Place::SameShard), Run::Time(ask_here)),
    parked(Work::AskAllocations, Run::Figure(|n| crate::counted::allocations(ask_here, n))),
    spinning(Work::Ask(Place::OtherShard), Run::Time(|n| ask_there(IdleStrategy::Spin, n))),
    parked(Work::Ask(Place::OtherShard), Run::Time(|n| ask_there(IdleStrategy::Park, n))),
];

fn ask_here(n: u64) -> Duration {
    ask(Place::SameShard, IdleStrategy::Park, 1, n)
}

fn ask_there(idle: IdleStrategy, n: u64) -> Duration {
    ask(Place::OtherShard, idle, ASKS_IN_FLIGHT, n)
}

/// Keeps a number of asks in flight until `n` were answered.
struct Asker {
    counter: ActorRef<Counter>,
    next: u64,
    n: u64,
    answered: u64,
    in_flight: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Asker {}

impl Asker {
    fn ask(&mut self, cx: &mut Context<Self>) {
        if self.next == self.n {
            return;
        }
        let number = self.next;
        self.next += 1;
        match numbered(number) {
            Either::Even(message) => cx.ask(self.counter, message).then(Self::answered),
            Either::Odd(message) => cx.ask(self.counter, message).then(Self::answered),
        }
    }

    fn answered(&mut self, answer: Result<u64, AskError>, cx: &mut Context<Self>) {
        let sum = answer.expect("the counter answers");
        self.answered += 1;
        if self.answered == self.n {
            assert_eq!(sum, sum_to(self.n), "the last answer has all numbers in it");
            let _gone = self.end.send(Instant::now());
        }
        self.ask(cx);
    }
}

impl Handler<Go> for Asker {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        (0..self.in_flight).for_each(|_| self.ask(cx));
    }
}

fn ask(place: Place, idle: IdleStrategy, in_flight: u64, n: u64) -> Duration {
    let (engine, far) = engine_for(place, idle);
    let (clock, begin, end) = Clock::new();
    let counter = engine.spawn_on(far, Counter::default).expect("the engine runs");
    let asker = engine.spawn_on(0, move || {
        let (begin, end) = (begin.clone(), end.clone());
        Asker { counter, next: 0, n, answered: 0, in_flight, begin, end }
    });
    asker.expect("the engine runs").tell(Go).expect("its mailbox is empty");
    clock.elapsed()
}
