//! Hazard: a flood. An actor that never runs out of messages delays those of others by its share of a turn and no more, timers
//! and deadlines are served beside it, and a handler that keeps its shard for too long is named.
//!
//! Delays are counted in messages of the flood, so no clock decides. The flood stops in the middle of a message while the test
//! sends, so that the moment of arrival is exact.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use shardstage::limits::{ACTIVATION_BUDGET, LIFO_BURST, TURN_BUDGET};
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{NodeId, StartError};
use support::{Echo, Ping, config, engine, start};

/// What the actors of one flood share.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Count {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Comes back for ever.
#[message]
struct Drop0;

/// Stops the flood in the middle of a message, after `after` others, until `go` is used.
#[message]
struct Stand {
    after: usize,
    entered: Sender<()>,
    go: Receiver<()>,
}

/// Tells the victim from the middle of the flood.
#[message]
struct Throw {
    victim: ActorRef<Victim>,
}

/// Tells itself, or another, for ever.
struct Flooder {
    count: Count,
    next: Option<ActorRef<Flooder>>,
    thrown: Vec<ActorRef<Victim>>,
    stand: Option<Stand>,
}
impl Actor for Flooder {}

impl Flooder {
    fn new(count: &Count) -> Self {
        Self { count: count.clone(), next: None, thrown: Vec::new(), stand: None }
    }
}

impl Handler<Drop0> for Flooder {
    fn handle(&mut self, _: Drop0, cx: &mut Context<Self>) {
        self.count.0.fetch_add(1, Ordering::SeqCst);
        if let Some(victim) = self.thrown.pop() {
            victim.tell(Hit { at: self.count.now() }).unwrap();
        }
        match &mut self.stand {
            Some(stand) if stand.after > 0 => stand.after -= 1,
            _ => {
                if let Some(stand) = self.stand.take() {
                    stand.entered.send(()).unwrap();
                    stand.go.recv().unwrap();
                }
            }
        }
        // Refused once the other has stopped.
        let _ = self.next.unwrap_or(cx.me()).tell(Drop0);
    }
}

impl Handler<Stand> for Flooder {
    fn handle(&mut self, stand: Stand, _cx: &mut Context<Self>) {
        self.stand = Some(stand);
    }
}

impl Handler<Throw> for Flooder {
    fn handle(&mut self, throw: Throw, _cx: &mut Context<Self>) {
        self.thrown.push(throw.victim);
    }
}

/// Makes two flooders tell each other.
#[message]
struct Next(ActorRef<Flooder>);

impl Handler<Next> for Flooder {
    fn handle(&mut self, next: Next, _cx: &mut Context<Self>) {
        self.next = Some(next.0);
    }
}

/// Arrived when the flood had handled `at` messages.
#[message]
struct Hit {
    at: u64,
}

/// Says how many messages of the flood ran between arrival and handling.
struct Victim {
    count: Count,
    delays: Sender<u64>,
}
impl Actor for Victim {}

impl Handler<Hit> for Victim {
    fn handle(&mut self, hit: Hit, _cx: &mut Context<Self>) {
        self.delays.send(self.count.now() - hit.at).unwrap();
    }
}

/// Sends a hit from its own shard.
#[message]
struct Aim {
    victim: ActorRef<Victim>,
    at: u64,
}

#[derive(Default)]
struct Archer;
impl Actor for Archer {}

impl Handler<Aim> for Archer {
    fn handle(&mut self, aim: Aim, _cx: &mut Context<Self>) {
        aim.victim.tell(Hit { at: aim.at }).unwrap();
    }
}

impl Handler<Ping> for Archer {
    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) -> u64 {
        ping.0
    }
}

/// How many messages circulate in a flood: more than an activation takes, fewer than a mailbox holds.
const FLOOD: usize = 300;

/// How often each way is tried.
const ROUNDS: usize = 50;

/// Messages of a flood that may run before what has arrived at the shard is looked at: what is left of a turn, whose last
/// activation takes its whole share.
const TURN: u64 = (TURN_BUDGET - 1 + ACTIVATION_BUDGET) as u64;

/// A flood on shard 0 of an engine, and a victim beside it.
fn flood(engine: &Engine) -> (Count, ActorRef<Flooder>, ActorRef<Victim>, Receiver<u64>) {
    let count = Count::default();
    let (out, delays) = channel();
    let (for_flooder, for_victim) = (count.clone(), count.clone());
    let flooder = engine.spawn_on(0, move || Flooder::new(&for_flooder)).unwrap();
    let victim = engine.spawn_on(0, move || Victim { count: for_victim.clone(), delays: out.clone() }).unwrap();
    for _ in 0..FLOOD {
        flooder.tell(Drop0).unwrap();
    }
    (count, flooder, victim, delays)
}

/// Sends while the flood stands in the middle of a message.
fn while_it_stands(flooder: ActorRef<Flooder>, after: usize, send: impl FnOnce()) {
    let (entered, is_in) = channel();
    let (go_on, go) = channel();
    flooder.tell(Stand { after, entered, go }).unwrap();
    is_in.recv().unwrap();
    send();
    go_on.send(()).unwrap();
}

#[test]
fn a_flood_delays_messages_of_its_own_shard_by_one_share() {
    let engine = engine(1);
    let (_, flooder, victim, delays) = flood(&engine);
    for _ in 0..ROUNDS {
        flooder.tell(Throw { victim }).unwrap();
        let delay = delays.recv().unwrap();
        assert!(delay < u64::from(ACTIVATION_BUDGET), "{delay} messages of the flood came first");
    }
    flooder.stop().wait();
    engine.shutdown().unwrap();
}

#[test]
fn a_flood_delays_messages_from_threads_by_one_turn() {
    let engine = engine(1);
    let (count, flooder, victim, delays) = flood(&engine);
    for round in 0..ROUNDS {
        while_it_stands(flooder, round * 7, || victim.tell(Hit { at: count.now() }).unwrap());
        let delay = delays.recv().unwrap();
        assert!(delay <= TURN, "{delay} messages of the flood came first");
    }
    flooder.stop().wait();
    engine.shutdown().unwrap();
}

#[test]
fn a_flood_delays_messages_from_other_shards_by_one_turn() {
    let engine = engine(2);
    let (count, flooder, victim, delays) = flood(&engine);
    let archer = engine.spawn_on(1, Archer::default).unwrap();
    for round in 0..ROUNDS {
        while_it_stands(flooder, round * 7, || {
            archer.tell(Aim { victim, at: count.now() }).unwrap();
            // The second answer is of a later turn than the first, so the turn of the hit has published it.
            for value in 0..2 {
                assert_eq!(archer.ask(Ping(value)).wait(), Ok(value));
            }
        });
        let delay = delays.recv().unwrap();
        assert!(delay <= TURN, "{delay} messages of the flood came first");
    }
    flooder.stop().wait();
    engine.shutdown().unwrap();
}

#[test]
fn two_that_flood_each_other_delay_others_by_one_burst() {
    let engine = engine(1);
    let (count, one, victim, delays) = flood(&engine);
    let two = engine.spawn_on(0, move || Flooder::new(&count)).unwrap();
    two.ask(Next(one)).wait().unwrap();
    one.ask(Next(two)).wait().unwrap();
    for _ in 0..ROUNDS {
        one.tell(Throw { victim }).unwrap();
        let delay = delays.recv().unwrap();
        assert!(delay <= u64::from(LIFO_BURST + ACTIVATION_BUDGET) + TURN, "{delay} messages of the flood came first");
    }
    one.stop().wait();
    engine.shutdown().unwrap();
}

/// Starts a timer that comes every millisecond.
#[message]
struct Start(Sender<u64>);

#[message]
#[derive(Clone)]
struct Tick;

/// Says at each tick how far the flood is.
struct Ticker {
    count: Count,
    out: Option<Sender<u64>>,
}
impl Actor for Ticker {}

impl Handler<Start> for Ticker {
    fn handle(&mut self, start: Start, cx: &mut Context<Self>) {
        start.0.send(self.count.now()).unwrap();
        self.out = Some(start.0);
        cx.every(Duration::from_millis(1), Tick);
    }
}

impl Handler<Tick> for Ticker {
    fn handle(&mut self, _: Tick, _cx: &mut Context<Self>) {
        // The test has heard enough when its end is gone.
        let _ = self.out.as_ref().unwrap().send(self.count.now());
    }
}

/// Never answers.
#[message(reply = u64)]
struct Keep;

#[derive(Default)]
struct Keeper(Vec<Reply<u64>>);
impl Actor for Keeper {}

impl DeferredHandler<Keep> for Keeper {
    fn handle(&mut self, _: Keep, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.0.push(reply);
    }
}

const UNKNOWN: Result<u64, AskError> = Err(AskError::Unknown(Unknown::Deadline));

#[test]
fn an_actor_that_tells_itself_for_ever_stops_nobody() {
    let engine = engine(1);
    let (count, flooder, _, _) = flood(&engine);
    let echo = engine.spawn(Echo::default).unwrap();
    let (out, ticks) = channel();
    let ticker = engine.spawn(move || Ticker { count: count.clone(), out: None }).unwrap();
    let keeper = engine.spawn(Keeper::default).unwrap();
    ticker.tell(Start(out)).unwrap();
    let mut last = 0;
    for value in 0..ROUNDS as u64 {
        assert_eq!(echo.ask(Ping(value)).wait(), Ok(value));
        let now = ticks.recv().unwrap();
        assert!(now >= last);
        last = now;
    }
    assert!(last > 0, "the flood goes on beside them");
    let late = keeper.ask(Keep).deadline(Duration::from_millis(1)).wait();
    assert!(late == UNKNOWN || late == Err(AskError::Rejected(Rejected::Expired)), "{late:?}");
    flooder.stop().wait();
    engine.shutdown().unwrap();
}

#[test]
fn timers_and_deadlines_are_at_most_a_turn_late_in_a_flood() {
    for seed in 1..=5 {
        let mut options = SimOptions::seeded(seed);
        // A millisecond is a thousand messages.
        options.message_ns = 1000..=1000;
        let world = SimWorld::new(options);
        let engine = Engine::builder().config(config(1)).start_in_sim(&world, NodeId::new(0)).unwrap();
        let (count, _, _, _) = flood(&engine);
        let (out, ticks) = channel();
        let of_ticker = count.clone();
        let ticker = engine.spawn(move || Ticker { count: of_ticker.clone(), out: None }).unwrap();
        let keeper = engine.spawn(Keeper::default).unwrap();
        ticker.tell(Start(out)).unwrap();
        world.run_for(30_000_000);
        let ticks: Vec<u64> = ticks.try_iter().collect();
        assert!(ticks.len() >= 29, "{} ticks in 30 ms", ticks.len());
        for (number, tick) in (0..).zip(&ticks) {
            let late = (tick - ticks[0]).saturating_sub(number * 1000);
            assert!(late <= TURN, "tick {number} came {late} messages late, seed {seed}");
        }
        let before = count.now();
        let answer = world.block_on(keeper.ask(Keep).deadline(Duration::from_millis(1)), 1_000_000_000);
        assert_eq!(answer, Some(UNKNOWN));
        let late = (count.now() - before).saturating_sub(1000);
        assert!(late <= 2 * TURN, "the deadline came {late} messages late, seed {seed}");
    }
}

#[message]
struct Quick;

/// Keeps the shard for this long.
#[message]
struct Slow(Duration);

#[derive(Default)]
struct Mixed;
impl Actor for Mixed {}

impl Handler<Quick> for Mixed {
    fn handle(&mut self, _: Quick, _cx: &mut Context<Self>) {}
}

impl Handler<Slow> for Mixed {
    fn handle(&mut self, slow: Slow, _cx: &mut Context<Self>) {
        let began = Instant::now();
        while began.elapsed() < slow.0 {
            std::hint::spin_loop();
        }
    }
}

/// A slow message among quick ones, all in one turn.
fn slow_among_quick(engine: &Engine, time: Duration) {
    let (echo, mixed) = (engine.spawn(Echo::default).unwrap(), engine.spawn(Mixed::default).unwrap());
    mixed.ask(Quick).wait().unwrap();
    let blocked = support::block(echo);
    for number in 0..41 {
        if number == 20 { mixed.tell(Slow(time)).unwrap() } else { mixed.tell(Quick).unwrap() }
    }
    drop(blocked);
    // Answered by a later turn, so the one before has been accounted for.
    for value in 0..2 {
        assert_eq!(echo.ask(Ping(value)).wait(), Ok(value));
    }
}

#[test]
fn a_long_turn_is_counted_and_the_message_that_made_it_long_is_named() {
    let mut config = config(1);
    config.long_turn = Some(Duration::from_millis(2));
    let engine = start(config);
    let time = Duration::from_millis(20);
    // A machine so busy that nobody looks for all that time makes a turn without a culprit.
    let (long, culprit) = 'found: loop {
        slow_among_quick(&engine, time);
        while let Some(long) = engine.long_turns().take() {
            // All of them, and perhaps the question behind them; the turn that was blocked handled one message.
            match long.culprit {
                Some(culprit) if long.handled >= 41 => break 'found (long, culprit),
                _ => {}
            }
        }
    };
    assert!(culprit.actor.ends_with("::Mixed") && culprit.message.ends_with("::Slow"), "{culprit:?}");
    assert!(long.duration >= time && long.shard == 0, "{long:?}");
    assert!(engine.long_turns().total() >= 1);
    // The counters are published at the end of the turn.
    while engine.stats()[0].long_turns == 0 {
        std::thread::yield_now();
    }
    engine.shutdown().unwrap();
}

#[test]
fn long_turns_are_nobodys_business_where_they_are_not_watched() {
    let mut unwatched = config(1);
    unwatched.long_turn = None;
    let engine = start(unwatched);
    slow_among_quick(&engine, Duration::from_millis(20));
    assert_eq!((engine.long_turns().total(), engine.long_turns().take()), (0, None));
    engine.shutdown().unwrap();
    let mut wrong = config(1);
    wrong.long_turn = Some(Duration::from_micros(1));
    let refused = Engine::start(wrong);
    assert!(matches!(&refused, Err(StartError::Config(why)) if why.contains("long_turn")), "{refused:?}");
}
