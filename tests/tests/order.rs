//! Hazard: order. Between one sender and one receiver messages are handled in send order, whatever their types and
//! handlers, across shards, suspensions, full mailboxes and panics.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use shardstage::Reason;
use shardstage::prelude::*;
use support::{Echo, Log, Ping, config, start};

type Entry = (u64, u64);

/// Handled at once; panics after it was noted where `boom` is set.
#[message]
struct Plain {
    sender: u64,
    number: u64,
    boom: bool,
}

/// Handled with a suspension.
#[message]
struct Slow {
    sender: u64,
    number: u64,
}

/// Handled by a deferred handler; larger than an envelope.
#[message]
struct Large {
    sender: u64,
    number: u64,
    _room: [u64; 8],
}

struct Receiver {
    log: Log<Entry>,
    echo: ActorRef<Echo>,
}
impl Actor for Receiver {}

impl Handler<Plain> for Receiver {
    fn handle(&mut self, plain: Plain, _cx: &mut Context<Self>) {
        self.log.push((plain.sender, plain.number));
        assert!(!plain.boom, "planted");
    }
}

impl AsyncHandler<Slow> for Receiver {
    async fn handle(&mut self, slow: Slow, _cx: &mut Context<Self>) {
        let echoed = self.echo.ask(Ping(slow.number)).await;
        // A full ring is no reason to lose order.
        assert!(matches!(echoed, Ok(_) | Err(AskError::Rejected(Rejected::Full))), "{echoed:?}");
        self.log.push((slow.sender, slow.number));
    }
}

impl DeferredHandler<Large> for Receiver {
    fn handle(&mut self, large: Large, reply: Reply<()>, _cx: &mut Context<Self>) {
        self.log.push((large.sender, large.number));
        reply.send(());
    }
}

/// Sends message `number`; says whether it was accepted.
fn send(to: ActorRef<Receiver>, sender: u64, number: u64, panics: bool) -> bool {
    match number % 4 {
        0 => to.tell(Slow { sender, number }).is_ok(),
        1 => to.tell(Large { sender, number, _room: [number; 8] }).is_ok(),
        _ => to.tell(Plain { sender, number, boom: panics && number % 50 == 3 }).is_ok(),
    }
}

/// Sends what is left, as far as there is room; answers the next number.
#[message(reply = u64)]
struct Push {
    to: ActorRef<Receiver>,
    from: u64,
    until: u64,
    panics: bool,
}

struct Pusher(u64);
impl Actor for Pusher {}

impl Handler<Push> for Pusher {
    fn handle(&mut self, push: Push, _cx: &mut Context<Self>) -> u64 {
        (push.from..push.until).find(|number| !send(push.to, self.0, *number, push.panics)).unwrap_or(push.until)
    }
}

/// Four senders, two of them threads, send `each` messages; returns what was handled, by sender, and how many bounced.
fn run(capacity: u32, each: u64, panics: bool) -> (Vec<Vec<u64>>, u64) {
    let mut config = config(2);
    config.mailbox_capacity = capacity;
    let engine = start(config);
    let log = Log::new();
    let echo = engine.spawn_on(1, Echo::default).unwrap();
    let for_factory = log.clone();
    let receiver = engine.spawn_on(0, move || Receiver { log: for_factory.clone(), echo }).unwrap();
    std::thread::scope(|scope| {
        for sender in [0, 1] {
            let pusher = engine.spawn_on(u16::try_from(sender).unwrap(), move || Pusher(sender)).unwrap();
            scope.spawn(move || {
                let mut from = 0;
                while from < each {
                    from = pusher.ask(Push { to: receiver, from, until: each, panics }).wait().unwrap();
                }
            });
        }
        for sender in [2, 3] {
            scope.spawn(move || {
                for number in 0..each {
                    while !send(receiver, sender, number, panics) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    // Everything accepted is on its way; the sum says when it has arrived.
    while log.len() as u64 + engine.dead_letters().count(Reason::Full) < 4 * each {
        echo.ask(Ping(0)).wait().unwrap();
    }
    let bounced = engine.dead_letters().total();
    engine.shutdown().unwrap();
    let by_sender = (0..4)
        .map(|sender| log.all().iter().filter(|entry| entry.0 == sender).map(|entry| entry.1).collect())
        .collect();
    (by_sender, bounced)
}

#[test]
fn order_holds_without_gaps_while_there_is_room() {
    let (handled, bounced) = run(1 << 20, 600, false);
    assert_eq!(bounced, 0);
    for numbers in handled {
        assert_eq!(numbers, (0..600).collect::<Vec<_>>());
    }
}

#[test]
fn order_holds_across_panics() {
    let (handled, bounced) = run(1 << 20, 600, true);
    assert_eq!(bounced, 0);
    for numbers in handled {
        assert_eq!(numbers, (0..600).collect::<Vec<_>>());
    }
}

#[test]
fn order_holds_with_full_mailboxes() {
    let (handled, bounced) = run(3, 600, true);
    let count: usize = handled.iter().map(Vec::len).sum();
    assert_eq!(count as u64 + bounced, 2400);
    for numbers in handled {
        assert!(numbers.is_sorted_by(|a, b| a < b));
    }
}

/// Sends a number of messages to another shard in one go, or asks so many questions.
struct Burster(ActorRef<Tally>, u32);
impl Actor for Burster {}

/// So many at once; the second says whether they are asks.
#[message]
struct Burst(u32, bool);

/// How many answers came?
#[message(reply = u32)]
struct Answers;

impl Handler<Burst> for Burster {
    fn handle(&mut self, Burst(count, asks): Burst, cx: &mut Context<Self>) {
        for _ in 0..count {
            if asks {
                cx.ask(self.0, One).then(|this, answer, _| this.1 += u32::from(answer.is_ok()));
            } else {
                self.0.tell(One).unwrap();
            }
        }
    }
}

impl Handler<Answers> for Burster {
    fn handle(&mut self, _: Answers, _cx: &mut Context<Self>) -> u32 {
        self.1
    }
}

/// Counts.
#[derive(Default)]
struct Tally(u32);
impl Actor for Tally {}

#[message(reply = u32)]
struct One;

#[message(reply = u32)]
struct Total;

impl Handler<One> for Tally {
    fn handle(&mut self, _: One, _cx: &mut Context<Self>) -> u32 {
        self.0 += 1;
        self.0
    }
}

impl Handler<Total> for Tally {
    fn handle(&mut self, _: Total, _cx: &mut Context<Self>) -> u32 {
        self.0
    }
}

/// What a turn sends is published in portions; whoever sleeps must be woken also when the last portion was full.
#[test]
fn bursts_of_every_size_reach_a_shard_that_sleeps() {
    let kit = shardstage::testkit::TestKit::new();
    let tally = kit.engine().spawn_on(1, Tally::default).unwrap();
    let burster = kit.engine().spawn_on(0, move || Burster(tally, 0)).unwrap();
    let (mut told, mut asked) = (0, 0);
    for size in 1..=70 {
        for asks in [false, true] {
            burster.tell(Burst(size, asks)).unwrap();
            // Both shards sleep again afterwards, and only the burst itself has woken them.
            kit.run_until_idle();
            told += size;
            asked += if asks { size } else { 0 };
        }
        assert_eq!(tally.ask(Total).wait(), Ok(told), "bursts of {size}");
        assert_eq!(burster.ask(Answers).wait(), Ok(asked), "answers to {size}");
    }
}
