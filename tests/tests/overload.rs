//! Hazard: sustained overload. Senders on other shards, on the same shard and outside push more than one actor can take,
//! through small queues. After the first overrun nothing bounces in ordinary overload, neighbours on the same rings go on,
//! and every message is handled, handed back or counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{NodeId, Reason};
use support::{Echo, Log, Ping, config};

const SECOND: u64 = 1_000_000_000;

/// One numbered message of one producer.
#[message]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Load {
    from: usize,
    number: u64,
}

/// Its wire twin, for a virtual actor.
#[message(id = "overload.load")]
#[derive(Clone, Copy, Debug, PartialEq)]
struct WireLoad {
    from: u32,
    number: u64,
}

/// Takes loads slowly: asks a neighbour before it takes the next.
struct Slow {
    helper: Option<ActorRef<Echo>>,
    handled: Log<(usize, u64)>,
}
impl Actor for Slow {}

impl AsyncHandler<Load> for Slow {
    async fn handle(&mut self, load: Load, _cx: &mut Context<Self>) {
        if let Some(helper) = self.helper {
            while helper.ask(Ping(load.number)).await.is_err() {}
        }
        self.handled.push((load.from, load.number));
    }
}

impl VirtualActor for Slow {
    const TYPE: &'static str = "overload.slow";

    fn activate(_key: &str) -> Self {
        VIRTUAL.with(|log| Self { helper: None, handled: log.borrow().clone() })
    }
}

thread_local! {
    /// Where virtual actors of this thread's simulated node keep what they handled.
    static VIRTUAL: std::cell::RefCell<Log<(usize, u64)>> = std::cell::RefCell::default();
}

impl AsyncHandler<WireLoad> for Slow {
    async fn handle(&mut self, load: WireLoad, cx: &mut Context<Self>) {
        if self.helper.is_none() {
            self.helper = cx.spawn(Echo::default).ok();
        }
        let helper = self.helper.expect("spawned just now");
        while helper.ask(Ping(load.number)).await.is_err() {}
        self.handled.push((load.from as usize, load.number));
    }
}

/// Tells as fast as it can; what comes back as full is told again.
struct Producer<T> {
    to: T,
    me: usize,
    next: u64,
    n: u64,
    refused: Log<u64>,
    done: Log<usize>,
}
impl<T: Send + 'static> Actor for Producer<T> {}

/// Go on producing.
#[message]
struct Produce;

/// Whom a producer can tell.
trait Target: Send + 'static {
    fn load(&self, from: usize, number: u64) -> bool;
}

impl Target for ActorRef<Slow> {
    fn load(&self, from: usize, number: u64) -> bool {
        match self.tell(Load { from, number }) {
            Ok(()) => true,
            Err(TellError::Full(load)) => {
                assert_eq!(load, Load { from, number }, "the very message comes back");
                false
            }
            Err(other) => panic!("{other}"),
        }
    }
}

impl Target for VirtualRef<Slow> {
    fn load(&self, from: usize, number: u64) -> bool {
        match self.tell(WireLoad { from: u32::try_from(from).unwrap(), number }) {
            Ok(()) => true,
            Err(TellError::Full(_)) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

impl<T: Target> Handler<Produce> for Producer<T> {
    fn handle(&mut self, _: Produce, cx: &mut Context<Self>) {
        let until = self.n.min(self.next + 100);
        while self.next < until && self.to.load(self.me, self.next) {
            self.next += 1;
        }
        if self.next < until {
            self.refused.push(self.next);
        }
        if self.next < self.n {
            cx.me().tell(Produce).expect("its mailbox holds nothing else");
        } else {
            self.done.push(self.me);
        }
    }
}

/// What one run under overload came to.
struct Outcome {
    handled: Vec<(usize, u64)>,
    /// Bounced until a tenth of all had been handled, and in all.
    early: u64,
    bounced: u64,
    refused: usize,
}

/// Runs until the producers are done and `sent` messages are accounted for.
fn account(world: &SimWorld, engine: &Engine, handled: &Log<(usize, u64)>, done: &Log<usize>, sent: u64) -> (u64, u64) {
    let bounced = || engine.dead_letters().count(Reason::Full);
    let early = world.run_until(|_| handled.len() as u64 >= sent / 10, 100 * SECOND).then(bounced).unwrap();
    let all = |_: &SimWorld| handled.len() as u64 + bounced() >= sent && done.len() > 0;
    assert!(world.run_until(all, 100 * SECOND), "{} handled, {} bounced of {sent}", handled.len(), bounced());
    world.run_for(SECOND);
    (early, bounced())
}

const EACH: u64 = 2000;
const PRODUCERS: usize = 4;

/// Two producers on each of two shards overload an actor of a third, which also has a sender on its own shard.
fn overload(seed: u64, mailbox: u32, virtually: bool) -> Outcome {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let mut config = config(3);
    config.mailbox_capacity = mailbox;
    let builder = Engine::builder().config(config).register::<Slow>(|kind| kind.accept::<WireLoad, _>());
    let engine = builder.start_in_sim(&world, NodeId::new(0)).unwrap();
    let (handled, refused, done) = (Log::new(), Log::new(), Log::new());
    let helper = engine.spawn_on(0, Echo::default).unwrap();
    let log = handled.clone();
    VIRTUAL.set(handled.clone());
    let to = engine.spawn_on(0, move || Slow { helper: Some(helper), handled: log.clone() }).unwrap();
    for me in 0..=PRODUCERS {
        let (refused, done) = (refused.clone(), done.clone());
        let shard = [1, 2, 1, 2, 0][me];
        if virtually {
            let to = engine.actor::<Slow>("the one");
            let make =
                move || Producer { to: to.clone(), me, next: 0, n: EACH, refused: refused.clone(), done: done.clone() };
            engine.spawn_on(shard, make).unwrap().tell(Produce).unwrap();
        } else {
            let make = move || Producer { to, me, next: 0, n: EACH, refused: refused.clone(), done: done.clone() };
            engine.spawn_on(shard, make).unwrap().tell(Produce).unwrap();
        }
    }
    let sent = EACH * (PRODUCERS as u64 + 1);
    let (early, bounced) = account(&world, &engine, &handled, &done, sent);
    Outcome { handled: handled.all(), early, bounced, refused: refused.len() }
}

fn assert_accounted(outcome: &Outcome, sent: u64) {
    assert_eq!(outcome.handled.len() as u64 + outcome.bounced, sent, "handled or counted, nothing else");
    for producer in 0..=PRODUCERS {
        let mine = outcome.handled.iter().filter(|(from, _)| *from == producer);
        assert!(mine.is_sorted_by(|a, b| a.1 < b.1), "in order, without duplicates");
    }
}

#[test]
fn after_the_first_overrun_nothing_bounces() {
    nothing_bounces(false);
}

#[test]
fn after_the_first_overrun_of_a_virtual_actor_nothing_bounces() {
    nothing_bounces(true);
}

fn nothing_bounces(virtually: bool) {
    for (seed, mailbox) in [(0, 1), (1, 8), (2, 128), (3, 128), (4, 1024)] {
        let outcome = overload(seed, mailbox, virtually);
        assert_accounted(&outcome, EACH * (PRODUCERS as u64 + 1));
        assert!(outcome.refused > 0, "it was an overload");
        assert_eq!(outcome.bounced, outcome.early, "seed {seed}, mailbox {mailbox}: no bounce after the first tenth");
    }
}

/// Asks its neighbour over the ring that a full actor shares, and keeps how long each answer took, in virtual ns.
struct Prober {
    echo: ActorRef<Echo>,
    took: Log<u64>,
}
impl Actor for Prober {}

#[message]
struct Probe(u64);

impl AsyncHandler<Probe> for Prober {
    async fn handle(&mut self, probe: Probe, cx: &mut Context<Self>) {
        for round in 0..probe.0 {
            let asked_ns = cx.now_ns();
            match self.echo.ask(Ping(round)).await {
                Ok(answer) => {
                    assert_eq!(answer, round);
                    self.took.push(cx.now_ns() - asked_ns);
                }
                Err(error) => {
                    assert_eq!(error, AskError::Rejected(Rejected::Full), "only while the ring itself is full")
                }
            }
        }
    }
}

#[test]
fn a_full_actor_never_stalls_its_neighbours_on_the_same_ring() {
    for seed in 0..3 {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut config = config(2);
        config.mailbox_capacity = 16;
        let engine = Engine::builder().config(config).start_in_sim(&world, NodeId::new(0)).unwrap();
        let (refused, done, took) = (Log::new(), Log::new(), Log::new());
        let sink = engine.spawn_on(0, support::Sink::default).unwrap();
        let (out, held) = std::sync::mpsc::channel();
        sink.tell(support::Hold(out)).unwrap();
        world.run_for(SECOND / 1000);
        let held = held.recv().unwrap();
        for me in 0..2 {
            let (refused, done) = (refused.clone(), done.clone());
            let make = move || Producer {
                to: Stuck(sink),
                me,
                next: 0,
                n: 1000,
                refused: refused.clone(),
                done: done.clone(),
            };
            engine.spawn_on(1, make).unwrap().tell(Produce).unwrap();
        }
        let echo = engine.spawn_on(0, Echo::default).unwrap();
        let log = took.clone();
        let prober = engine.spawn_on(1, move || Prober { echo, took: log.clone() }).unwrap();
        prober.tell(Probe(300)).unwrap();
        assert!(world.run_until(|_| took.len() >= 250, SECOND), "{} answers beside a full actor", took.len());
        assert!(refused.len() > 0, "it was full");
        let slowest_ns = took.all().into_iter().max().unwrap();
        assert!(slowest_ns < SECOND / 100, "seed {seed}: one answer took {slowest_ns} ns");
        drop(held);
    }
}

/// A sink that takes nothing for now.
#[derive(Clone, Copy)]
struct Stuck(ActorRef<support::Sink>);

impl Target for Stuck {
    fn load(&self, _from: usize, number: u64) -> bool {
        self.0.tell(support::Item(number)).is_ok()
    }
}

/// What became of all messages, counted by whoever saw it.
#[derive(Default)]
struct Totals {
    /// Tells: accepted, handed back as full.
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Asks: answered, rejected as full.
    answered: AtomicU64,
    rejected: AtomicU64,
    /// Tells and asks that the receiver handled.
    handled_tells: AtomicU64,
    handled_asks: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Totals {
    fn told<M>(&self, sent: Result<(), TellError<M>>) {
        match sent {
            Ok(()) => count(&self.accepted),
            Err(TellError::Full(_)) => count(&self.refused),
            Err(other) => panic!("{other}"),
        }
    }

    fn asked(&self, answer: Result<u64, AskError>) {
        match answer {
            Ok(_) => count(&self.answered),
            Err(AskError::Rejected(Rejected::Full)) => count(&self.rejected),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Handles everything, at a price.
struct Gauge(Arc<Totals>);
impl Actor for Gauge {}

fn work() {
    for step in 0..500_u64 {
        std::hint::black_box(step);
    }
}

/// A tell of the overload.
#[message]
struct Push(#[allow(dead_code)] u64);
/// An ask of the overload.
#[message(reply = u64)]
struct Pull(u64);

impl Handler<Push> for Gauge {
    fn handle(&mut self, _: Push, _cx: &mut Context<Self>) {
        work();
        count(&self.0.handled_tells);
    }
}

impl Handler<Pull> for Gauge {
    fn handle(&mut self, pull: Pull, _cx: &mut Context<Self>) -> u64 {
        work();
        count(&self.0.handled_asks);
        pull.0
    }
}

/// Tells and asks without regard for what comes back.
struct Pusher {
    gauge: ActorRef<Gauge>,
    totals: Arc<Totals>,
    left: u64,
    asks: u64,
    done: Sender<()>,
}
impl Actor for Pusher {}

impl Pusher {
    fn ended(&self) {
        if self.left == 0 && self.asks == 0 {
            self.done.send(()).unwrap();
        }
    }
}

impl Handler<Produce> for Pusher {
    fn handle(&mut self, _: Produce, cx: &mut Context<Self>) {
        for _ in 0..20.min(self.left) {
            self.left -= 1;
            self.totals.told(self.gauge.tell(Push(self.left)));
            if self.left.is_multiple_of(4) {
                self.asks += 1;
                cx.ask(self.gauge, Pull(self.left)).then(|this, answer, _| {
                    this.asks -= 1;
                    this.totals.asked(answer);
                    this.ended();
                });
            }
        }
        if self.left > 0 {
            cx.me().tell(Produce).expect("its mailbox holds nothing else");
        } else {
            self.ended();
        }
    }
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Seconds that the overload lasts; a few rounds when unset.
const SECONDS: &str = "SHARDSTAGE_OVERLOAD_SECONDS";
/// What rounds after the first may add: noise of the allocator.
const GROWTH_BYTES: u64 = 16 << 20;

/// One round: actors of both shards and two threads push at a gauge on shard 0. Ends when all is accounted for.
fn round(engine: &Engine, gauge: ActorRef<Gauge>, totals: &Arc<Totals>, each: u64) {
    let (done, is_done) = channel();
    let pushers: Vec<_> = (0..4)
        .map(|me| {
            let (totals, done) = (totals.clone(), done.clone());
            let make = move || Pusher { gauge, totals: totals.clone(), left: each, asks: 0, done: done.clone() };
            let pusher = engine.spawn_on(me % 2, make).unwrap();
            pusher.tell(Produce).unwrap();
            pusher
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..each).for_each(|n| totals.told(gauge.tell(Push(n)))));
        scope.spawn(|| (0..each / 8).for_each(|n| totals.asked(gauge.ask(Pull(n)).wait())));
    });
    for _ in &pushers {
        is_done.recv().unwrap();
    }
    for pusher in pushers {
        drop(pusher.stop());
    }
    let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let bounced = || engine.dead_letters().count(Reason::Full);
    // A bounced ask is a dead letter too; its asker was told.
    let whole = || {
        let tells = read(&totals.accepted) - read(&totals.handled_tells);
        let asks = bounced() - tells.min(bounced());
        asks <= read(&totals.rejected) && tells <= bounced()
    };
    while !whole() {
        std::thread::yield_now();
    }
    assert_eq!(read(&totals.handled_asks), read(&totals.answered), "an ask was handled if and only if it was answered");
}

#[test]
fn at_twice_the_capacity_memory_is_flat_and_the_sum_is_exact() {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse::<u64>().ok());
    let mut config = config(2);
    config.mailbox_capacity = 32;
    let engine = Engine::start(config).unwrap();
    let totals = Arc::new(Totals::default());
    let gauge_totals = totals.clone();
    let gauge = engine.spawn_on(0, move || Gauge(gauge_totals.clone())).unwrap();
    let began = std::time::Instant::now();
    round(&engine, gauge, &totals, 5000);
    let first_bytes = resident_bytes();
    let mut rounds = 1;
    let mut most_bytes = first_bytes;
    while seconds.map_or(rounds < 4, |seconds| began.elapsed().as_secs() < seconds) {
        round(&engine, gauge, &totals, 5000);
        most_bytes = most_bytes.max(resident_bytes());
        rounds += 1;
    }
    gauge.drain().wait();
    let letters = engine.dead_letters().count(Reason::Full);
    let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!(
        "{rounds} rounds: {} tells accepted, {} handed back, {} handled; {} asks answered, {} rejected; {letters} bounced; \
         {first_bytes} bytes after the first round, {most_bytes} at most",
        read(&totals.accepted),
        read(&totals.refused),
        read(&totals.handled_tells),
        read(&totals.answered),
        read(&totals.rejected),
    );
    let tells_bounced = read(&totals.accepted) - read(&totals.handled_tells);
    assert!(tells_bounced <= letters, "every tell that was accepted and not handled is a dead letter");
    assert!(letters - tells_bounced <= read(&totals.rejected), "every other dead letter is an ask that was rejected");
    let offered = read(&totals.accepted) + read(&totals.refused) + read(&totals.answered) + read(&totals.rejected);
    let handled = read(&totals.handled_tells) + read(&totals.handled_asks);
    assert!(offered >= 2 * handled || seconds.is_none(), "{offered} offered, {handled} handled: it was an overload");
    assert!(
        most_bytes <= first_bytes + GROWTH_BYTES,
        "{first_bytes} bytes after the first round, {most_bytes} at most"
    );
    engine.shutdown().unwrap();
}
