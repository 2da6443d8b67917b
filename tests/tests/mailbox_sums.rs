//! Hazard: a message that nobody hears of. Whatever mailboxes do with floods from everywhere, stops, kills, panics and stuck
//! actors among them: what was accepted was handled or is counted as dead, and what was not was handed back.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Mailbox, Overflow, Reason};

#[derive(Default)]
struct Sums {
    accepted: AtomicU64,
    handed_back: AtomicU64,
    handled: AtomicU64,
}

impl Sums {
    fn note<M>(&self, told: Result<(), TellError<M>>) {
        let of = if told.is_ok() { &self.accepted } else { &self.handed_back };
        of.fetch_add(1, Ordering::Relaxed);
    }
}

#[message(weight = Item::weight)]
struct Item(u64);
#[message(priority = High, weight = Dear::weight)]
struct Dear(u64);
#[message]
struct Burst {
    to: Pair,
    count: u64,
}
impl Item {
    fn weight(&self) -> usize {
        self.0 as usize
    }
}
impl Dear {
    fn weight(&self) -> usize {
        self.0 as usize
    }
}
/// The two ways to one receiver.
#[derive(Clone, Copy)]
struct Pair(Recipient<Item>, Recipient<Dear>);

struct Receiver(Arc<Sums>);
impl Actor for Receiver {}

impl Receiver {
    fn handled(&self, number: u64) {
        // One in 97 ends as a panic, after it was counted.
        self.0.handled.fetch_add(1, Ordering::Relaxed);
        assert!(!number.is_multiple_of(97), "planted");
    }
}

impl Handler<Item> for Receiver {
    fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
        self.handled(item.0);
    }
}

impl Handler<Dear> for Receiver {
    fn handle(&mut self, item: Dear, _cx: &mut Context<Self>) {
        self.handled(item.0);
    }
}

struct Teller(Arc<Sums>);
impl Actor for Teller {}

fn burst(sums: &Sums, to: Pair, count: u64) {
    for number in 1..=count {
        if number % 3 == 0 { sums.note(to.1.tell(Dear(number))) } else { sums.note(to.0.tell(Item(number))) }
    }
}

impl Handler<Burst> for Teller {
    fn handle(&mut self, order: Burst, _cx: &mut Context<Self>) {
        burst(&self.0, order.to, order.count);
    }
}

const POLICIES: [Mailbox; 10] = [
    Mailbox::new().capacity(8),
    Mailbox::new().capacity(8).overflow(Overflow::DropOldest),
    Mailbox::new().capacity(8).overflow(Overflow::DropNewest),
    Mailbox::new().capacity(8).by_priority(),
    Mailbox::new().capacity(8).overflow(Overflow::DropOldest).by_priority(),
    Mailbox::new().capacity(8).overflow(Overflow::DropNewest).by_priority(),
    // Items weigh 1 to 30 bytes.
    Mailbox::new().bytes(60),
    Mailbox::new().bytes(60).overflow(Overflow::DropOldest),
    Mailbox::new().bytes(60).overflow(Overflow::DropNewest).by_priority(),
    Mailbox::new().bytes(60).overflow(Overflow::DropOldest).by_priority(),
];

#[test]
fn what_was_accepted_was_handled_or_is_counted() {
    let seen = [const { AtomicU64::new(0) }; 4];
    TestKit::check_seeds(0..200, |kit| {
        kit.allow_dead_letters(|letter| matches!(letter.reason, Reason::Full | Reason::Closed | Reason::Dropped));
        kit.allow_panics();
        let mut state = kit.seed() | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let sums = Arc::new(Sums::default());
        let receivers: Vec<_> = POLICIES
            .iter()
            .map(|policy| {
                let sums = Arc::clone(&sums);
                kit.spawn_with_mailbox(*policy, move || Receiver(Arc::clone(&sums))).unwrap()
            })
            .collect();
        let tellers: Vec<_> = (0..2)
            .map(|shard| {
                let sums = Arc::clone(&sums);
                kit.spawn_on(shard, move || Teller(Arc::clone(&sums))).unwrap()
            })
            .collect();
        kit.run_until_idle();
        let mut stalls = Vec::new();
        for _ in 0..90 {
            let receiver = receivers[random(10) as usize];
            let to = Pair(receiver.recipient(), receiver.recipient());
            match random(20) {
                0..=9 => {
                    let teller = tellers[random(2) as usize];
                    teller.tell(Burst { to, count: 1 + random(30) }).unwrap();
                }
                10..=12 => burst(&sums, to, 1 + random(30)),
                13 | 14 => stalls.push(kit.stall(receiver)),
                15 | 16 => drop(stalls.pop()),
                17 if random(4) == 0 => drop(receiver.stop()),
                18 if random(4) == 0 => drop(receiver.kill()),
                19 if random(4) == 0 => drop(receiver.drain()),
                _ => kit.run_until_idle(),
            }
        }
        kit.run_until_idle();
        stalls.clear();
        kit.run_until_idle();
        let (accepted, handled) = (sums.accepted.load(Ordering::Relaxed), sums.handled.load(Ordering::Relaxed));
        let dead = kit.engine().dead_letters();
        assert_eq!(accepted, handled + dead.total(), "{dead:?}");
        let back = sums.handed_back.load(Ordering::Relaxed);
        for (seen, count) in
            seen.iter().zip([back, dead.count(Reason::Full), dead.count(Reason::Closed), dead.count(Reason::Dropped)])
        {
            seen.fetch_add(count, Ordering::Relaxed);
        }
    });
    for (what, seen) in ["handed back", "overran", "closed", "dropped"].iter().zip(&seen) {
        assert!(seen.load(Ordering::Relaxed) > 100, "hardly ever {what}: the test is blind");
    }
}
