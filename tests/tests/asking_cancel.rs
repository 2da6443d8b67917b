//! Hazard: work for an asker who has given up is wasted, and what was kept for it must not stay.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{AskHandle, wire};

/// What became of the questions.
#[derive(Default)]
struct Seen {
    handled: AtomicU32,
    told: AtomicU32,
}

/// Small: its deadline travels in its envelope.
#[message]
struct Small;

/// Large: its deadline travels in a context block.
struct Large([u64; 5]);

impl Message for Large {
    type Reply = ();
}

/// Kept until the keeper is asked about it.
#[message]
struct Keep;

/// Handled in a future that never ends by itself.
#[message]
struct Slow;

/// How many kept replies are still wanted.
#[message(reply = (usize, usize))]
struct Wanted;

struct Worker {
    seen: Arc<Seen>,
    kept: Vec<Reply<()>>,
}
impl Actor for Worker {}

impl Handler<Small> for Worker {
    fn handle(&mut self, _: Small, _cx: &mut Context<Self>) {
        self.seen.handled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handler<Large> for Worker {
    fn handle(&mut self, large: Large, _cx: &mut Context<Self>) {
        assert_eq!(large.0, [3; 5]);
        self.seen.handled.fetch_add(1, Ordering::Relaxed);
    }
}

impl DeferredHandler<Keep> for Worker {
    fn handle(&mut self, _: Keep, reply: Reply<()>, _cx: &mut Context<Self>) {
        assert!(reply.is_wanted());
        self.kept.push(reply);
    }
}

impl AsyncHandler<Slow> for Worker {
    async fn handle(&mut self, _: Slow, cx: &mut Context<Self>) {
        let done: Option<()> = cx.unless_cancelled(std::future::pending()).await;
        assert_eq!(done, None);
        self.seen.told.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handler<Wanted> for Worker {
    fn handle(&mut self, _: Wanted, _cx: &mut Context<Self>) -> (usize, usize) {
        (self.kept.len(), self.kept.iter().filter(|reply| reply.is_wanted()).count())
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    Small,
    Large,
    Keep,
    Slow,
}

/// Asks and keeps the handle.
#[message]
struct AskIt {
    worker: ActorRef<Worker>,
    what: What,
    /// Drops the handle at once.
    at_once: bool,
}

#[message]
struct GiveUp;

#[message]
struct Detach;

#[derive(Default)]
struct Asker {
    handle: Option<AskHandle>,
    answered: Arc<AtomicU32>,
}
impl Actor for Asker {}

const TTL: Duration = Duration::from_secs(50);

impl Handler<AskIt> for Asker {
    fn handle(&mut self, ask: AskIt, cx: &mut Context<Self>) {
        let answered = Arc::clone(&self.answered);
        let f = move |_: &mut Self, _: Result<(), AskError>, _: &mut Context<Self>| {
            answered.fetch_add(1, Ordering::Relaxed);
        };
        let handle = match ask.what {
            What::Small => cx.ask(ask.worker, Small).deadline(TTL).then_unless_dropped(f),
            What::Large => cx.ask(ask.worker, Large([3; 5])).deadline(TTL).then_unless_dropped(f),
            What::Keep => cx.ask(ask.worker, Keep).deadline(TTL).then_unless_dropped(f),
            What::Slow => cx.ask(ask.worker, Slow).deadline(TTL).then_unless_dropped(f),
        };
        if !ask.at_once {
            self.handle = Some(handle);
        }
    }
}

impl Handler<GiveUp> for Asker {
    fn handle(&mut self, _: GiveUp, _cx: &mut Context<Self>) {
        self.handle = None;
    }
}

impl Handler<Detach> for Asker {
    fn handle(&mut self, _: Detach, _cx: &mut Context<Self>) {
        self.handle.take().unwrap().detach();
    }
}

fn worker(kit: &TestKit, shard: u16) -> (ActorRef<Worker>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    let worker = kit.spawn_on(shard, move || Worker { seen: Arc::clone(&shared), kept: Vec::new() }).unwrap();
    worker.started().wait().unwrap();
    (worker, seen)
}

fn asker(kit: &TestKit, shard: u16) -> (ActorRef<Asker>, Arc<AtomicU32>) {
    let answered = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&answered);
    let asker = kit.spawn_on(shard, move || Asker { handle: None, answered: Arc::clone(&shared) }).unwrap();
    (asker, answered)
}

fn cancelled(kit: &TestKit) -> u64 {
    kit.stats().iter().map(|shard| shard.cancelled).sum()
}

/// Sends a question from the test's thread and gives it up.
fn ask_and_give_up<F: Future>(kit: &TestKit, ask: F, at_once: bool) {
    let mut ask = Box::pin(ask);
    kit.block_on(poll_fn(|cx| {
        assert!(ask.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    }));
    if !at_once {
        kit.run_until_idle();
    }
    drop(ask);
    kit.run_until_idle();
}

/// Asks from every place, gives up, and looks at the worker with `check`: called with how many questions it should have seen.
fn every_way(kit: &TestKit, what: What, at_once: bool, stalled: bool, check: impl Fn(ActorRef<Worker>, &Seen)) {
    for (asker_on, worker_on) in [(Some(0), 0), (Some(0), 1), (Some(1), 0), (None, 0)] {
        let (worker, seen) = worker(kit, worker_on);
        let stall = stalled.then(|| kit.stall(worker));
        let mut given_up = None;
        if let Some(asker_on) = asker_on {
            let (asker, answered) = asker(kit, asker_on);
            asker.tell(AskIt { worker, what, at_once }).unwrap();
            kit.run_until_idle();
            asker.tell(GiveUp).unwrap();
            kit.run_until_idle();
            given_up = Some(answered);
        } else {
            match what {
                What::Small => ask_and_give_up(kit, worker.ask(Small).deadline(TTL), at_once),
                What::Large => ask_and_give_up(kit, worker.ask(Large([3; 5])).deadline(TTL), at_once),
                What::Keep => ask_and_give_up(kit, worker.ask(Keep).deadline(TTL), at_once),
                What::Slow => ask_and_give_up(kit, worker.ask(Slow).deadline(TTL), at_once),
            }
        }
        assert_eq!(kit.census().asks, 0, "the slot is free at once: {what:?}, {asker_on:?} -> {worker_on}");
        drop(stall);
        kit.run_until_idle();
        check(worker, &seen);
        if let Some(answered) = given_up {
            assert_eq!(answered.load(Ordering::Relaxed), 0, "the continuation was dropped");
        }
    }
}

#[test]
fn a_queued_question_is_dropped_before_work_and_counted() {
    TestKit::check_seeds(0..10, |kit| {
        for what in [What::Small, What::Large, What::Keep, What::Slow] {
            for at_once in [false, true] {
                let before = cancelled(kit);
                every_way(kit, what, at_once, true, |worker, seen| {
                    assert_eq!((seen.handled.load(Ordering::Relaxed), seen.told.load(Ordering::Relaxed)), (0, 0));
                    assert_eq!(worker.ask(Wanted).wait(), Ok((0, 0)));
                });
                assert_eq!(cancelled(kit) - before, 4, "{what:?}");
            }
        }
    });
}

#[test]
fn a_question_given_up_in_the_turn_that_asked_it_is_not_handled() {
    TestKit::check_seeds(0..10, |kit| {
        for what in [What::Small, What::Large] {
            every_way(kit, what, true, false, |_, seen| assert_eq!(seen.handled.load(Ordering::Relaxed), 0));
        }
        assert_eq!(cancelled(kit), 8);
    });
}

#[test]
fn an_async_handler_is_told() {
    TestKit::check_seeds(0..10, |kit| {
        every_way(kit, What::Slow, false, false, |worker, seen| {
            assert_eq!(seen.told.load(Ordering::Relaxed), 1);
            assert_eq!(worker.ask(Wanted).wait(), Ok((0, 0)), "and the actor goes on");
        });
        assert_eq!(cancelled(kit), 0, "what was begun is not counted as dropped before work");
    });
}

#[test]
fn who_holds_the_reply_sees_that_it_is_not_wanted() {
    TestKit::check_seeds(0..10, |kit| {
        every_way(kit, What::Keep, false, false, |worker, _| assert_eq!(worker.ask(Wanted).wait(), Ok((1, 0))));
    });
}

#[test]
fn an_ask_that_goes_on_is_wanted_and_answered() {
    let kit = TestKit::new();
    for worker_on in [0, 1] {
        let (worker, seen) = worker(&kit, worker_on);
        let (asker, answered) = asker(&kit, 0);
        asker.tell(AskIt { worker, what: What::Keep, at_once: false }).unwrap();
        kit.run_until_idle();
        assert_eq!(worker.ask(Wanted).wait(), Ok((1, 1)));
        asker.tell(Detach).unwrap();
        kit.run_until_idle();
        assert_eq!(worker.ask(Wanted).wait(), Ok((1, 1)), "a detached ask goes on");
        worker.stop().wait();
        kit.run_until_idle();
        assert_eq!((answered.load(Ordering::Relaxed), seen.handled.load(Ordering::Relaxed)), (1, 0));
        // A handle of an ask that was answered means nothing.
        let (worker, seen) = self::worker(&kit, worker_on);
        asker.tell(AskIt { worker, what: What::Small, at_once: false }).unwrap();
        kit.run_until_idle();
        asker.tell(GiveUp).unwrap();
        kit.run_until_idle();
        assert_eq!((answered.load(Ordering::Relaxed), seen.handled.load(Ordering::Relaxed)), (2, 1));
    }
    assert_eq!((cancelled(&kit), kit.census().asks), (0, 0));
}

#[test]
fn an_asker_that_stops_gives_up_the_asks_whose_handles_it_has() {
    TestKit::check_seeds(0..10, |kit| {
        for worker_on in [0, 1] {
            let (worker, _) = worker(kit, worker_on);
            let (asker, _) = asker(kit, 0);
            asker.tell(AskIt { worker, what: What::Keep, at_once: false }).unwrap();
            kit.run_until_idle();
            asker.stop().wait();
            kit.run_until_idle();
            assert_eq!((worker.ask(Wanted).wait(), kit.census().asks), (Ok((1, 0)), 0));
        }
    });
}

/// A virtual actor is found by its name.
#[message(id = "tests.asking_cancel.touch")]
struct Touch;

#[message(id = "tests.asking_cancel.linger")]
struct Linger;

/// How often it was touched, and how often it was told that nobody waits.
#[message(id = "tests.asking_cancel.count", reply = Counts)]
struct Count;

#[wire]
#[derive(Debug, PartialEq)]
struct Counts {
    touched: u32,
    told: u32,
}

#[derive(Default)]
struct Named {
    touched: u32,
    told: u32,
}
impl Actor for Named {}
impl VirtualActor for Named {
    const TYPE: &'static str = "tests.asking_cancel.named";

    fn activate(_: &str) -> Self {
        Self::default()
    }
}

impl Handler<Touch> for Named {
    fn handle(&mut self, _: Touch, _cx: &mut Context<Self>) {
        self.touched += 1;
    }
}

impl AsyncHandler<Linger> for Named {
    async fn handle(&mut self, _: Linger, cx: &mut Context<Self>) {
        cx.cancelled().await;
        self.told += 1;
    }
}

impl Handler<Count> for Named {
    fn handle(&mut self, _: Count, _cx: &mut Context<Self>) -> Counts {
        Counts { touched: self.touched, told: self.told }
    }
}

/// Makes a virtual actor linger, asks it to be touched meanwhile, and gives both up.
#[message]
struct Tease(String);

struct Teaser;
impl Actor for Teaser {}

impl AsyncHandler<Tease> for Teaser {
    async fn handle(&mut self, tease: Tease, cx: &mut Context<Self>) {
        let named = cx.actor::<Named>(tease.0);
        let (mut linger, mut touch) = (named.ask(Linger).deadline(TTL), named.ask(Touch).deadline(TTL));
        poll_fn(|cx| {
            assert!(Pin::new(&mut linger).poll(cx).is_pending() && Pin::new(&mut touch).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(touch);
        drop(linger);
    }
}

#[test]
fn a_virtual_actor_is_found_by_its_name() {
    let with_type = |builder: shardstage::EngineBuilder| builder.register::<Named>(|named| named);
    TestKit::builder().engine(with_type).check_seeds(0..10, |kit| {
        let teaser = kit.spawn_on(0, || Teaser).unwrap();
        for key in ["a", "b", "c", "d", "e", "f"] {
            teaser.tell(Tease(key.to_owned())).unwrap();
            kit.run_until_idle();
            let named = kit.actor::<Named>(key);
            let counts = named.ask(Count).wait().unwrap();
            assert_eq!(counts.touched, 0, "{key}");
            // Given up in the turn that asked, or later, when it had begun.
            assert!(counts.told <= 1);
            drop(poll_linger(kit, &named));
            kit.run_until_idle();
            assert_eq!(named.ask(Count).wait().unwrap().told, counts.told + 1);
        }
        assert_eq!(kit.census().asks, 0);
    });
}

fn poll_linger(kit: &TestKit, named: &VirtualRef<Named>) -> impl Future {
    let mut linger = Box::pin(named.ask(Linger).deadline(TTL));
    kit.block_on(poll_fn(|cx| {
        assert!(linger.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    }));
    kit.run_until_idle();
    linger
}
