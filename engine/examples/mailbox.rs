//! Mailboxes: a type that keeps the latest only, one whose urgent messages overtake, and what was dropped, heard of by a thread.
//! `cargo run --example mailbox`

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Mailbox, Overflow, Reason};

/// Shows prices; old ones do not matter.
#[derive(Default)]
struct Screen {
    shown: Vec<u64>,
}
impl Actor for Screen {
    const MAILBOX: Mailbox = Mailbox::new().capacity(3).overflow(Overflow::DropOldest);
}

#[message]
struct Price(u64);
#[message(reply = Vec<u64>)]
struct Shown;
impl Handler<Price> for Screen {
    fn handle(&mut self, price: Price, _cx: &mut Context<Self>) {
        self.shown.push(price.0);
    }
}

impl Handler<Shown> for Screen {
    fn handle(&mut self, _: Shown, _cx: &mut Context<Self>) -> Vec<u64> {
        std::mem::take(&mut self.shown)
    }
}

/// Works through jobs; an order to pause does not wait behind them.
#[derive(Default)]
struct Worker(u64, Option<u64>);
impl Actor for Worker {
    const MAILBOX: Mailbox = Mailbox::new().by_priority();
}

#[message]
struct Job;
#[message(priority = Urgent)]
struct Pause;
#[message(reply = Option<u64>, priority = Low)]
struct DoneWhenPaused;

impl Handler<Job> for Worker {
    fn handle(&mut self, _: Job, _cx: &mut Context<Self>) {
        self.0 += 1;
    }
}

impl Handler<Pause> for Worker {
    fn handle(&mut self, _: Pause, _cx: &mut Context<Self>) {
        self.1 = Some(self.0);
    }
}

impl Handler<DoneWhenPaused> for Worker {
    fn handle(&mut self, _: DoneWhenPaused, _cx: &mut Context<Self>) -> Option<u64> {
        self.1
    }
}

fn main() -> shardstage::Result<()> {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
    let dead = kit.engine().dead_letters().subscribe(16);
    let screen = kit.spawn(Screen::default)?;
    let worker = kit.spawn(Worker::default)?;
    (1..=10).try_for_each(|price| screen.tell(Price(price)))?; // all ten are there before the first is handled
    (0..40).try_for_each(|_| worker.tell(Job))?;
    worker.tell(Pause)?;
    kit.run_until_idle();
    assert_eq!(screen.ask(Shown).wait()?, [8, 9, 10]);
    assert_eq!(std::iter::from_fn(|| dead.try_next()).count(), 7);
    assert_eq!(worker.ask(DoneWhenPaused).wait()?, Some(0)); // before the forty
    Ok(())
}
