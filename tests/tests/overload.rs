//! Hazard: sustained overload. Senders on other shards, on the same shard and outside push more than one actor can take,
//! through small queues. After the first overrun nothing bounces in ordinary overload, neighbours on the same rings go on,
//! and every message is handled, handed back or counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

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
