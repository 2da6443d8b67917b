//! Hazard: full mailboxes of types that say what then, and messages that overtake others by priority.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{DeadLetter, Mailbox, MessageName, Overflow, Reason};
use support::Log;

#[message]
#[derive(Debug)]
struct Item(u64);
#[message(priority = Low)]
struct Cheap(u64);
#[message(priority = High)]
struct Dear(u64);
#[message(priority = Urgent)]
struct Alarm(u64);
#[message(reply = u64)]
struct Count;
#[message]
struct Fill {
    oldest: ActorRef<Oldest>,
    newest: ActorRef<Newest>,
    count: u64,
}

macro_rules! keeper {
    ($name:ident, $mailbox:expr) => {
        struct $name {
            log: Log<u64>,
        }
        impl Actor for $name {
            const MAILBOX: Mailbox = $mailbox;
        }
        impl Handler<Item> for $name {
            fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
                self.log.push(item.0);
            }
        }
        impl Handler<Count> for $name {
            fn handle(&mut self, _: Count, _cx: &mut Context<Self>) -> u64 {
                self.log.len() as u64
            }
        }
    };
}

keeper!(Oldest, Mailbox::new().capacity(4).overflow(Overflow::DropOldest));
keeper!(Newest, Mailbox::new().capacity(4).overflow(Overflow::DropNewest));
keeper!(Small, Mailbox::new().capacity(4));
keeper!(Sorted, Mailbox::new().by_priority());
keeper!(SortedDrops, Mailbox::new().capacity(3).overflow(Overflow::DropOldest).by_priority());
keeper!(Plain, Mailbox::new());

macro_rules! takes_priorities {
    ($($name:ident)*) => { $(
        impl Handler<Cheap> for $name {
            fn handle(&mut self, it: Cheap, _cx: &mut Context<Self>) { self.log.push(it.0); }
        }
        impl Handler<Dear> for $name {
            fn handle(&mut self, it: Dear, _cx: &mut Context<Self>) { self.log.push(it.0); }
        }
        impl Handler<Alarm> for $name {
            fn handle(&mut self, it: Alarm, _cx: &mut Context<Self>) { self.log.push(it.0); }
        }
    )* };
}
takes_priorities!(Sorted SortedDrops Plain);

/// Tells from the receivers' own shard.
struct Near;
impl Actor for Near {}

impl Handler<Fill> for Near {
    fn handle(&mut self, fill: Fill, _cx: &mut Context<Self>) {
        for number in 0..fill.count {
            fill.oldest.tell(Item(number)).unwrap();
            fill.newest.tell(Item(number)).unwrap();
        }
    }
}

/// The numbers of a log.
fn numbers(log: &Log<u64>) -> Vec<u64> {
    log.all()
}

#[test]
fn full_mailboxes_drop_what_their_type_says_and_count_it() {
    // From the same shard, from another one, and from a thread outside.
    for from in [Some(0), Some(1), None] {
        let kit = TestKit::new();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
        let (old_log, new_log) = (Log::new(), Log::new());
        let (for_old, for_new) = (old_log.clone(), new_log.clone());
        let oldest = kit.spawn_on(0, move || Oldest { log: for_old.clone() }).unwrap();
        let newest = kit.spawn_on(0, move || Newest { log: for_new.clone() }).unwrap();
        kit.run_until_idle();
        let stalls = (kit.stall(oldest), kit.stall(newest));
        match from {
            Some(shard) => {
                let near = kit.spawn_on(shard, || Near).unwrap();
                near.tell(Fill { oldest, newest, count: 10 }).unwrap();
            }
            None => {
                for number in 0..10 {
                    oldest.tell(Item(number)).unwrap();
                    newest.tell(Item(number)).unwrap();
                }
            }
        }
        kit.run_until_idle();
        let dead = kit.engine().dead_letters();
        assert_eq!((dead.count(Reason::Dropped), dead.total()), (12, 12), "from {from:?}");
        drop(stalls);
        kit.run_until_idle();
        assert_eq!(numbers(&old_log), [6, 7, 8, 9], "from {from:?}");
        assert_eq!(numbers(&new_log), [0, 1, 2, 3], "from {from:?}");
        let letter = kit.expect_dead_letter(|letter| letter.receiver == Some(oldest.id()));
        assert_eq!(letter.message, MessageName::Type(std::any::type_name::<Item>()));
        assert_eq!(letter.receiver_type, Some(std::any::type_name::<Oldest>()));
        assert_eq!(letter.sender.is_some(), from.is_some());
    }
}

/// Tells itself something in a while.
#[message]
struct Remind(u64);

impl Handler<Remind> for Oldest {
    fn handle(&mut self, remind: Remind, cx: &mut Context<Self>) {
        cx.after(Duration::from_millis(remind.0), Item(100 + remind.0));
    }
}

#[test]
fn what_an_actors_own_timers_sent_does_not_make_way() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
    let log = Log::new();
    let for_oldest = log.clone();
    let oldest = kit.spawn_on(0, move || Oldest { log: for_oldest.clone() }).unwrap();
    for delay_ms in 1..=5 {
        oldest.tell(Remind(delay_ms)).unwrap();
        kit.run_until_idle();
    }
    let stall = kit.stall(oldest);
    kit.advance(Duration::from_millis(2));
    for number in 0..10 {
        oldest.tell(Item(number)).unwrap();
    }
    kit.run_until_idle();
    assert_eq!(kit.dead_letters().count(Reason::Dropped), 8, "two have room beside its own");
    kit.advance(Duration::from_millis(8));
    drop(stall);
    kit.run_until_idle();
    assert_eq!(numbers(&log), [101, 102, 8, 9, 103, 104, 105], "its own have room whatever the bound");
}

#[test]
fn an_ask_that_is_dropped_or_refused_hears_that_there_was_no_room() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|_| true);
    let oldest = kit.spawn_on(0, || Oldest { log: Log::new() }).unwrap();
    let newest = kit.spawn_on(0, || Newest { log: Log::new() }).unwrap();
    kit.run_until_idle();
    let stalls = (kit.stall(oldest), kit.stall(newest));
    let asker = kit.spawn_on(0, Asker::default).unwrap();
    asker.tell(Ask { oldest, newest, before: true }).unwrap();
    kit.run_until_idle();
    for number in 0..4 {
        oldest.tell(Item(number)).unwrap();
        newest.tell(Item(number)).unwrap();
    }
    kit.run_until_idle();
    asker.tell(Ask { oldest, newest, before: false }).unwrap();
    kit.run_until_idle();
    drop(stalls);
    kit.run_until_idle();
    let full = Err(AskError::Rejected(Rejected::Full));
    let (old, new) = asker.ask(Answers).wait().unwrap();
    assert_eq!(old, [full.clone(), Ok(3)], "the first one made way, the second one drove an item out");
    assert_eq!(new, [full, Ok(0)], "the first one was early enough, the second one was refused");
}

type Answer = Result<u64, AskError>;

#[message]
struct Ask {
    oldest: ActorRef<Oldest>,
    newest: ActorRef<Newest>,
    before: bool,
}
#[message(reply = (Vec<Answer>, Vec<Answer>))]
struct Answers;

#[derive(Default)]
struct Asker {
    old: Vec<Answer>,
    new: Vec<Answer>,
}
impl Actor for Asker {}

impl Handler<Ask> for Asker {
    fn handle(&mut self, ask: Ask, cx: &mut Context<Self>) {
        let hour = Duration::from_secs(3600);
        cx.ask(ask.oldest, Count).deadline(hour).then(|this, answer, _| this.old.push(answer));
        cx.ask(ask.newest, Count).deadline(hour).then(|this, answer, _| this.new.push(answer));
        let _ = ask.before;
    }
}

impl Handler<Answers> for Asker {
    fn handle(&mut self, _: Answers, _cx: &mut Context<Self>) -> (Vec<Answer>, Vec<Answer>) {
        (self.old.clone(), self.new.clone())
    }
}

#[test]
fn a_bound_of_its_own_hands_back_and_a_send_waits() {
    let kit = TestKit::new();
    let near = kit.spawn_on(0, Spawner::default).unwrap();
    assert_eq!(near.ask(HowMany).wait().unwrap(), (4, 2, 7));
    let log = Log::new();
    let for_small = log.clone();
    let small = kit.spawn(move || Small { log: for_small.clone() }).unwrap();
    kit.run_until_idle();
    for number in 0..64 {
        kit.block_on(small.send(Item(number))).unwrap();
    }
    kit.run_until_idle();
    assert_eq!(numbers(&log), (0..64).collect::<Vec<_>>(), "none is lost");
}

/// How many messages three mailboxes take: of the type's own bound, with another one, and with dropping.
#[message(reply = (u64, u64, u64))]
struct HowMany;

#[derive(Default)]
struct Spawner;
impl Actor for Spawner {}

impl Handler<HowMany> for Spawner {
    fn handle(&mut self, _: HowMany, cx: &mut Context<Self>) -> (u64, u64, u64) {
        let take = |to: ActorRef<Small>| (0..7).filter(|number| to.tell(Item(*number)).is_ok()).count() as u64;
        let own = cx.spawn(|| Small { log: Log::new() }).unwrap();
        let two = Mailbox::new().capacity(2);
        let other = cx.spawn_with_mailbox(two, || Small { log: Log::new() }).unwrap();
        let drops = two.overflow(Overflow::DropNewest).capacity(7);
        let dropping = cx.spawn_with_mailbox(drops, || Small { log: Log::new() }).unwrap();
        (take(own), take(other), take(dropping))
    }
}

fn mix(kit: &TestKit, tell: impl Fn(u64, u64)) {
    // (level, number): in order of arrival.
    for (level, number) in [(1, 10), (0, 0), (1, 11), (3, 30), (2, 20), (0, 1), (3, 31), (2, 21), (1, 12)] {
        tell(level, number);
    }
    kit.run_until_idle();
}

#[test]
fn urgent_messages_overtake_and_each_priority_keeps_its_order() {
    let kit = TestKit::new();
    let (log, plain_log) = (Log::new(), Log::new());
    let (for_sorted, for_plain) = (log.clone(), plain_log.clone());
    let sorted = kit.spawn_on(0, move || Sorted { log: for_sorted.clone() }).unwrap();
    let plain = kit.spawn_on(0, move || Plain { log: for_plain.clone() }).unwrap();
    kit.run_until_idle();
    let stalls = (kit.stall(sorted), kit.stall(plain));
    mix(&kit, |level, number| match level {
        0 => sorted.tell(Cheap(number)).and(plain.tell(Cheap(number))).unwrap(),
        1 => sorted.tell(Item(number)).and(plain.tell(Item(number)).map_err(|_| unreachable!())).unwrap(),
        2 => sorted.tell(Dear(number)).and(plain.tell(Dear(number))).unwrap(),
        _ => sorted.tell(Alarm(number)).and(plain.tell(Alarm(number))).unwrap(),
    });
    drop(stalls);
    kit.run_until_idle();
    assert_eq!(numbers(&log), [30, 31, 20, 21, 10, 11, 12, 0, 1]);
    assert_eq!(numbers(&plain_log), [10, 0, 11, 30, 20, 1, 31, 21, 12], "nobody else looks at priorities");
}

#[test]
fn in_order_of_priority_the_oldest_of_the_least_urgent_makes_way() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
    let log = Log::new();
    let for_sorted = log.clone();
    let sorted = kit.spawn_on(0, move || SortedDrops { log: for_sorted.clone() }).unwrap();
    kit.run_until_idle();
    let stall = kit.stall(sorted);
    mix(&kit, |level, number| match level {
        0 => sorted.tell(Cheap(number)).unwrap(),
        1 => sorted.tell(Item(number)).unwrap(),
        2 => sorted.tell(Dear(number)).unwrap(),
        _ => sorted.tell(Alarm(number)).unwrap(),
    });
    drop(stall);
    kit.run_until_idle();
    // 30 drives 0 out, 20 the 10, 1 the 11, 31 the 1, 21 the 20, 12 the 21.
    assert_eq!(numbers(&log), [30, 31, 12]);
    assert_eq!(kit.engine().dead_letters().count(Reason::Dropped), 6);
}

#[test]
fn an_expired_message_is_dropped_before_work_whatever_the_mailbox() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|_| true);
    let asker = kit.spawn_on(1, Asker::default).unwrap();
    let oldest = kit.spawn_on(0, || Oldest { log: Log::new() }).unwrap();
    let newest = kit.spawn_on(0, || Newest { log: Log::new() }).unwrap();
    let sorted = kit.spawn_on(0, || Sorted { log: Log::new() }).unwrap();
    kit.run_until_idle();
    let stalls = (kit.stall(oldest), kit.stall(newest), kit.stall(sorted));
    asker.tell(Late { oldest, newest, sorted }).unwrap();
    kit.advance(Duration::from_secs(2));
    drop(stalls);
    kit.run_until_idle();
    let stats = kit.engine().stats();
    let dropped: u64 = stats.iter().map(|shard| shard.expired + shard.cancelled).sum();
    assert_eq!(dropped, 3);
}

#[message]
struct Late {
    oldest: ActorRef<Oldest>,
    newest: ActorRef<Newest>,
    sorted: ActorRef<Sorted>,
}

impl Handler<Late> for Asker {
    fn handle(&mut self, late: Late, cx: &mut Context<Self>) {
        let second = Duration::from_secs(1);
        cx.ask(late.oldest, Count).deadline(second).then(|_, answer, _| assert!(answer.is_err()));
        cx.ask(late.newest, Count).deadline(second).then(|_, answer, _| assert!(answer.is_err()));
        cx.ask(late.sorted, Count).deadline(second).then(|_, answer, _| assert!(answer.is_err()));
    }
}

/// Hears of dead letters.
struct Listener {
    heard: Log<Reason>,
}
impl Actor for Listener {
    const MAILBOX: Mailbox = Mailbox::new().capacity(3);
}

impl Handler<DeadLetter> for Listener {
    fn handle(&mut self, letter: DeadLetter, _cx: &mut Context<Self>) {
        self.heard.push(letter.reason);
    }
}

#[test]
fn threads_and_actors_hear_of_dead_letters_and_of_what_they_missed() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|_| true);
    let heard = Log::new();
    let for_listener = heard.clone();
    let listener = kit.spawn_on(0, move || Listener { heard: for_listener.clone() }).unwrap();
    let newest = kit.spawn_on(0, || Newest { log: Log::new() }).unwrap();
    kit.run_until_idle();
    let feed = kit.engine().dead_letters().subscribe(4);
    let told = kit.engine().dead_letters().tell_to(listener.recipient());
    let stalls = (kit.stall(newest), kit.stall(listener));
    for number in 0..10 {
        newest.tell(Item(number)).unwrap();
    }
    kit.run_until_idle();
    assert_eq!(kit.engine().dead_letters().count(Reason::Dropped), 6);
    assert_eq!((feed.skipped(), told.skipped()), (2, 3));
    let letters: Vec<_> = std::iter::from_fn(|| feed.try_next()).collect();
    assert_eq!(letters.len(), 4);
    assert!(letters.iter().all(|letter| letter.receiver == Some(newest.id()) && letter.reason == Reason::Dropped));
    drop(stalls);
    kit.run_until_idle();
    assert_eq!(heard.all(), [Reason::Dropped; 3]);
    // Nobody listens any more.
    drop((feed, told));
    let stall = kit.stall(newest);
    for number in 0..10 {
        newest.tell(Item(number)).unwrap();
    }
    kit.run_until_idle();
    drop(stall);
    kit.run_until_idle();
    assert_eq!(heard.len(), 3);
}
