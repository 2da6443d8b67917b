//! Hazard: mailboxes whose few messages are heavy. Bounded by bytes they hold no more than that, whoever sends and whatever they do
//! with what finds no room; the bytes of what leaves are room again.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Audience, Mailbox, Overflow, Reason, Shared, limits};
use shardstage_tests::heavy::{BYTES, Blob, SendAll, Teller, queued, told};
use support::Log;

#[message(reply = u64, weight = Question::weight)]
struct Question(usize);

impl Question {
    fn weight(&self) -> usize {
        self.0
    }
}

/// Its weight cannot be said.
#[message(weight = Broken::weight)]
struct Broken;

impl Broken {
    fn weight(&self) -> usize {
        panic!("planted")
    }
}

/// Weighs what it is large: 32 bytes.
#[message]
struct Unsaid([u64; 4]);

macro_rules! keeper {
    ($name:ident, $mailbox:expr) => {
        struct $name {
            log: Log<u64>,
        }
        impl Actor for $name {
            const MAILBOX: Mailbox = $mailbox;
        }
        impl Handler<Blob> for $name {
            fn handle(&mut self, blob: Blob, _cx: &mut Context<Self>) {
                self.log.push(blob.number);
            }
        }
        impl Handler<Shared<Blob>> for $name {
            fn handle(&mut self, blob: Shared<Blob>, _cx: &mut Context<Self>) {
                self.log.push(blob.number);
            }
        }
        impl Handler<Question> for $name {
            fn handle(&mut self, _: Question, _cx: &mut Context<Self>) -> u64 {
                self.log.len() as u64
            }
        }
        impl Handler<Broken> for $name {
            fn handle(&mut self, _: Broken, _cx: &mut Context<Self>) {
                self.log.push(77);
            }
        }
        impl Handler<Unsaid> for $name {
            fn handle(&mut self, unsaid: Unsaid, _cx: &mut Context<Self>) {
                self.log.push(unsaid.0[0]);
            }
        }
    };
}

keeper!(Back, Mailbox::new().capacity(20).bytes(BYTES));
keeper!(Oldest, Mailbox::new().capacity(20).bytes(BYTES).overflow(Overflow::DropOldest));
keeper!(Newest, Mailbox::new().capacity(20).bytes(BYTES).overflow(Overflow::DropNewest));

/// One that hands back, started, on the first shard, and what it keeps.
fn spawn_back(kit: &TestKit) -> (ActorRef<Back>, Log<u64>) {
    let log = Log::new();
    let for_back = log.clone();
    let back = kit.spawn_on(0, move || Back { log: for_back.clone() }).unwrap();
    kit.run_until_idle();
    (back, log)
}

#[test]
fn heavy_messages_are_handed_back_and_their_bytes_are_room_again() {
    let kit = TestKit::new();
    let (back, log) = spawn_back(&kit);
    for round in 0..3 {
        let stall = kit.stall(back);
        let taken = told(&kit, Some(0), back.recipient(), 10 * round, &[400, 400, 300, 150, 60, 50, 0, 1]);
        assert_eq!(taken, [true, true, false, true, false, true, true, false], "400 + 400 + 150 + 50 + 0 are all");
        assert_eq!(queued(&kit, back), (5, 1000));
        drop(stall);
        kit.run_until_idle();
        assert_eq!(queued(&kit, back), (0, 0));
    }
    assert_eq!(log.all(), [0, 1, 3, 5, 6, 10, 11, 13, 15, 16, 20, 21, 23, 25, 26]);
}

#[test]
fn light_messages_are_bounded_by_count_and_what_says_nothing_weighs_its_size() {
    let kit = TestKit::new();
    let (back, log) = spawn_back(&kit);
    let stall = kit.stall(back);
    let taken = told(&kit, Some(0), back.recipient(), 0, &[1; 25]);
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 20);
    assert_eq!(queued(&kit, back), (20, 20));
    drop(stall);
    kit.run_until_idle();
    let stall = kit.stall(back);
    back.tell(Unsaid([9; 4])).unwrap();
    kit.run_until_idle();
    assert_eq!(queued(&kit, back), (1, 32));
    drop(stall);
    kit.run_until_idle();
    assert_eq!((queued(&kit, back), log.len()), ((0, 0), 21));
}

#[test]
fn a_message_heavier_than_the_bound_enters_alone() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
    let log = Log::new();
    let logs = [log.clone(), log.clone(), log.clone()];
    let [one, two, three] = logs;
    let back = kit.spawn_on(0, move || Back { log: one.clone() }).unwrap();
    let oldest = kit.spawn_on(0, move || Oldest { log: two.clone() }).unwrap();
    let newest = kit.spawn_on(0, move || Newest { log: three.clone() }).unwrap();
    kit.run_until_idle();
    let stalls = (kit.stall(back), kit.stall(oldest), kit.stall(newest));
    let weights = [100, 5000, 0];
    assert_eq!(told(&kit, Some(0), back.recipient(), 0, &weights), [true, false, true], "it is not alone");
    assert_eq!(told(&kit, Some(0), oldest.recipient(), 10, &weights), [true; 3]);
    assert_eq!(queued(&kit, oldest).0, 1, "it drove all others out, and the next one it");
    assert_eq!(told(&kit, Some(0), newest.recipient(), 20, &weights), [true; 3]);
    assert_eq!(queued(&kit, newest), (2, 100), "it was dropped");
    assert_eq!(kit.dead_letters().count(Reason::Dropped), 3);
    drop(stalls);
    kit.run_until_idle();
    let mut handled = log.all();
    handled.sort_unstable();
    assert_eq!(handled, [0, 2, 12, 20, 22]);
    let stall = kit.stall(back);
    assert_eq!(told(&kit, Some(0), back.recipient(), 30, &[5000, 1, 0]), [true, false, false], "now it is");
    assert_eq!(queued(&kit, back), (1, 5000));
    drop(stall);
    kit.run_until_idle();
    assert_eq!(queued(&kit, back), (0, 0));
}

#[test]
fn the_oldest_make_way_until_the_new_one_fits() {
    for from in [Some(0), Some(1), None] {
        let kit = TestKit::new();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
        let log = Log::new();
        let for_oldest = log.clone();
        let oldest = kit.spawn_on(0, move || Oldest { log: for_oldest.clone() }).unwrap();
        kit.run_until_idle();
        let stall = kit.stall(oldest);
        assert_eq!(told(&kit, from, oldest.recipient(), 0, &[300, 300, 300, 90, 500]), [true; 5]);
        assert_eq!(kit.dead_letters().count(Reason::Dropped), 2, "from {from:?}: as many as it needs");
        assert_eq!(queued(&kit, oldest), (3, 890));
        drop(stall);
        kit.run_until_idle();
        assert_eq!(log.all(), [2, 3, 4]);
        assert_eq!(queued(&kit, oldest), (0, 0));
    }
}

/// What a mailbox of these bounds does, one message after the other.
struct Model {
    overflow: Overflow,
    queue: VecDeque<(u64, u64)>,
    dropped: u64,
}

impl Model {
    fn used(&self) -> u64 {
        self.queue.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether it is taken.
    fn tell(&mut self, number: u64, bytes: u64) -> bool {
        let mut gave_way = false;
        loop {
            let used = self.used();
            let fits = used == 0 || used + bytes <= u64::from(BYTES);
            if fits && (gave_way || self.queue.len() < 20) {
                self.queue.push_back((number, bytes));
                return true;
            }
            match self.overflow {
                Overflow::HandBack => return false,
                Overflow::DropNewest => {
                    self.dropped += 1;
                    return true;
                }
                Overflow::DropOldest => {
                    self.queue.pop_front();
                    self.dropped += 1;
                    gave_way = true;
                }
            }
        }
    }
}

#[test]
fn random_weights_agree_with_a_naive_model() {
    let policies = [Overflow::HandBack, Overflow::DropOldest, Overflow::DropNewest];
    TestKit::check_seeds(0..60, |kit| {
        kit.allow_dead_letters(|letter| letter.reason == Reason::Dropped);
        let mut state = kit.seed() | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let log = Log::new();
        let overflow = policies[random(3) as usize];
        let for_actor = log.clone();
        let mailbox = Mailbox::new().capacity(20).bytes(BYTES).overflow(overflow);
        // In either order of spawning, so on either shard.
        let shard = random(2);
        for _ in 0..shard {
            kit.spawn(Teller::default).unwrap();
        }
        let actor = kit.spawn_with_mailbox(mailbox, move || Back { log: for_actor.clone() }).unwrap();
        kit.run_until_idle();
        let home = actor.id().shard().get();
        let mut model = Model { overflow, queue: VecDeque::new(), dropped: 0 };
        let (mut next, mut handled) = (0, Vec::new());
        for _ in 0..20 {
            let stall = kit.stall(actor);
            for _ in 0..1 + random(3) {
                let light = random(2) == 0;
                let weights: Vec<_> =
                    (0..1 + random(30)).map(|_| random(if light { 30 } else { 1300 }) as usize).collect();
                let taken = told(kit, Some(home), actor.recipient(), next, &weights);
                let expected: Vec<_> =
                    (next..).zip(&weights).map(|(number, bytes)| model.tell(number, *bytes as u64)).collect();
                assert_eq!(taken, expected, "{weights:?}");
                next += weights.len() as u64;
                assert_eq!(queued(kit, actor), (model.queue.len() as u32, model.used()));
            }
            drop(stall);
            kit.run_until_idle();
            handled.extend(model.queue.drain(..).map(|(number, _)| number));
            assert_eq!(queued(kit, actor), (0, 0));
        }
        assert_eq!(log.all(), handled);
        assert_eq!(kit.dead_letters().count(Reason::Dropped), model.dropped);
    });
}

#[test]
fn an_ask_counts_and_hears_that_there_is_no_room() {
    let kit = TestKit::new();
    // What comes from elsewhere finds out on arrival.
    kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
    let back = kit.spawn_on(0, || Back { log: Log::new() }).unwrap();
    kit.run_until_idle();
    let stall = kit.stall(back);
    for shard in [0, 1] {
        let asker = kit.spawn_on(shard, Asker::default).unwrap();
        asker.tell(AskBoth(back)).unwrap();
        kit.run_until_idle();
        assert_eq!(queued(&kit, back), (1 + u32::from(shard), 900 + u64::from(shard) * 50));
        let refused = kit.block_on(asker.ask(Answers)).unwrap();
        assert_eq!(refused, [Err(AskError::Rejected(Rejected::Full))]);
    }
    drop(stall);
    kit.run_until_idle();
    assert_eq!(queued(&kit, back), (0, 0));
}

/// Asks twice; there is room for one.
#[message]
struct AskBoth(ActorRef<Back>);
#[message(reply = Vec<Result<u64, AskError>>)]
struct Answers;
#[derive(Default)]
struct Asker {
    answers: Vec<Result<u64, AskError>>,
}
impl Actor for Asker {}

impl Handler<AskBoth> for Asker {
    fn handle(&mut self, both: AskBoth, cx: &mut Context<Self>) {
        // The other one's first question is lighter: 900 bytes wait already.
        let first = if cx.me().id().shard().get() == 0 { 900 } else { 50 };
        for bytes in [first, 200] {
            cx.ask(both.0, Question(bytes)).then(|this, answer, _| this.answers.push(answer));
        }
    }
}

impl Handler<Answers> for Asker {
    fn handle(&mut self, _: Answers, _cx: &mut Context<Self>) -> Vec<Result<u64, AskError>> {
        self.answers.clone()
    }
}

#[test]
fn floods_from_elsewhere_stay_within_the_bound_and_hear_of_it() {
    for from in [Some(1), None] {
        let kit = TestKit::new();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
        let (back, log) = spawn_back(&kit);
        let (mut accepted, mut next) = (0, 0);
        let mut flood = |weights: &[usize]| {
            let taken = told(&kit, from, back.recipient(), next, weights);
            next += weights.len() as u64;
            let count = taken.iter().filter(|taken| **taken).count() as u64;
            accepted += count;
            count
        };
        let stall = kit.stall(back);
        assert_eq!(flood(&[150; 15]), 15, "from {from:?}: nobody knows yet");
        assert_eq!(queued(&kit, back), (6, 900));
        assert!(flood(&[150; 30]) <= 4, "a few may be let in before they are weighed");
        let (_, bytes) = queued(&kit, back);
        assert_eq!(bytes, 900, "what does not fit is a dead letter");
        assert_eq!(flood(&[150; 30]), 0, "nobody is let in before as much is free as the last one wanted");
        assert!(queued(&kit, back).1 <= u64::from(BYTES));
        drop(stall);
        kit.run_until_idle();
        assert_eq!(queued(&kit, back), (0, 0));
        kit.advance(Duration::from_millis(50));
        assert_eq!(flood(&[150; 5]), 5, "there is room again");
        let dead = kit.dead_letters().count(Reason::Full);
        assert_eq!(accepted, log.len() as u64 + dead);
        let handled = log.all();
        assert!(handled.is_sorted(), "{handled:?}");
    }
}

#[test]
fn who_waits_is_woken_when_bytes_are_free() {
    for shard in [0, 1] {
        let kit = TestKit::new();
        let (back, log) = spawn_back(&kit);
        let stall = kit.stall(back);
        assert_eq!(told(&kit, Some(0), back.recipient(), 0, &[500, 500]), [true, true]);
        let patient: Vec<_> = (0..6).map(|_| kit.spawn_on(shard, Teller::default).unwrap()).collect();
        for (number, teller) in (1..).zip(&patient) {
            teller.tell(SendAll { to: back.recipient(), first: 100 * number, weights: vec![400; 10] }).unwrap();
        }
        kit.run_until_idle();
        if shard == 0 {
            assert_eq!(queued(&kit, back), (2, 1000), "they wait");
        }
        drop(stall);
        kit.run_until_idle();
        assert_eq!(queued(&kit, back), (0, 0));
        let handled = log.all();
        assert_eq!(handled.len(), 62, "from shard {shard}: nothing is lost");
        for number in 1..=6 {
            let own: Vec<_> = handled.iter().copied().filter(|value| value / 100 == number).collect();
            assert_eq!(own, (100 * number..100 * number + 10).collect::<Vec<_>>(), "in order");
        }
    }
}

#[test]
fn who_waits_exceeds_the_bound_by_few_messages() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
    let (back, log) = spawn_back(&kit);
    let stall = kit.stall(back);
    // Everybody knows that there is little room.
    assert_eq!(told(&kit, Some(1), back.recipient(), 0, &[150; 8]), [true; 8]);
    assert_eq!(queued(&kit, back), (6, 900));
    let patient: Vec<_> = (0..20).map(|number| kit.spawn_on(number % 2, Teller::default).unwrap()).collect();
    for (number, teller) in (1..).zip(&patient) {
        teller.tell(SendAll { to: back.recipient(), first: 100 * number, weights: vec![700; 3] }).unwrap();
    }
    kit.run_until_idle();
    let (messages, bytes) = queued(&kit, back);
    let most = u64::from(BYTES) + u64::from(limits::WEIGHED_AHEAD) * 700;
    assert!(messages <= 6 + limits::WEIGHED_AHEAD && bytes <= most, "{messages} of {bytes} bytes");
    kit.advance(Duration::from_millis(5));
    assert_eq!(queued(&kit, back), (messages, bytes), "and then nothing more");
    drop(stall);
    kit.run_until_idle();
    assert_eq!(queued(&kit, back), (0, 0));
    assert_eq!(log.len(), 66);
    assert_eq!(kit.dead_letters().count(Reason::Full), 2, "nobody who waits is lost");
}

#[test]
fn a_message_for_many_weighs_in_each_mailbox() {
    for from in [Some(0), Some(1), None] {
        let kit = TestKit::new();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
        let log = Log::new();
        let backs: Vec<_> = (0..3)
            .map(|_| {
                let log = log.clone();
                kit.spawn_on(0, move || Back { log: log.clone() }).unwrap()
            })
            .collect();
        kit.run_until_idle();
        let stalls: Vec<_> = backs.iter().map(|back| kit.stall(*back)).collect();
        assert_eq!(told(&kit, Some(0), backs[0].recipient(), 9, &[500]), [true]);
        let tell = TellMany { to: backs.clone(), bytes: 600 };
        let sent = match from {
            Some(shard) => kit.block_on(kit.spawn_on(shard, Crier::default).unwrap().ask(tell)).unwrap(),
            None => {
                let mut audience: Audience<_> = tell.to.into_iter().collect();
                kit.engine().tell_many(&mut audience, Blob::new(1, 600))
            }
        };
        kit.run_until_idle();
        if from == Some(0) {
            assert_eq!((sent.accepted, sent.full), (2, 1));
        } else {
            assert_eq!((sent.accepted, kit.dead_letters().count(Reason::Full)), (3, 1), "from {from:?}");
        }
        assert_eq!(backs.iter().map(|back| queued(&kit, *back).1).collect::<Vec<_>>(), [500, 600, 600]);
        drop(stalls);
        kit.run_until_idle();
        assert_eq!(backs.iter().map(|back| queued(&kit, *back).1).sum::<u64>(), 0);
        assert_eq!(log.len(), 3);
    }
}

/// Tells many.
#[derive(Default)]
struct Crier;
impl Actor for Crier {}

#[message(reply = shardstage::FanOut)]
struct TellMany {
    to: Vec<ActorRef<Back>>,
    bytes: usize,
}

impl Handler<TellMany> for Crier {
    fn handle(&mut self, order: TellMany, cx: &mut Context<Self>) -> shardstage::FanOut {
        let mut audience: Audience<_> = order.to.into_iter().collect();
        cx.tell_many(&mut audience, Blob::new(1, order.bytes))
    }
}

#[test]
fn a_weight_that_panics_is_counted_and_its_message_handled() {
    let kit = TestKit::new();
    kit.allow_panics();
    let (back, log) = spawn_back(&kit);
    let stall = kit.stall(back);
    back.tell(Broken).unwrap();
    kit.run_until_idle();
    assert_eq!(queued(&kit, back), (1, 64));
    drop(stall);
    kit.run_until_idle();
    assert_eq!((queued(&kit, back), log.all()), ((0, 0), vec![77]));
    assert_eq!(kit.engine().stats().iter().map(|shard| shard.panics).sum::<u64>(), 1);
}
