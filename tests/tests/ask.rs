//! Hazard: an ask must end, exactly once, with an answer that is true.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, NodeId, limits};
use support::{Echo, Log, Ping, Sink, block, config, engine, hold, on_tokio};

/// Asks `echo` with `.then` and answers with what came.
#[message(reply = Result<u64, AskError>)]
struct Then {
    echo: ActorRef<Echo>,
    ttl: Duration,
}

/// Asks `echo` with `.await` and answers with what came.
#[message(reply = Result<u64, AskError>)]
struct Await {
    echo: ActorRef<Echo>,
}

/// Calls `.wait()` where it must not.
#[message]
struct WaitHere {
    echo: ActorRef<Echo>,
}

/// Begins an ask and drops its future.
#[message]
struct GiveUp {
    keeper: ActorRef<Keeper>,
}

#[derive(Default)]
struct Asker;
impl Actor for Asker {}

impl DeferredHandler<Then> for Asker {
    fn handle(&mut self, then: Then, reply: Reply<Result<u64, AskError>>, cx: &mut Context<Self>) {
        cx.ask(then.echo, Ping(5)).deadline(then.ttl).then(move |_, answer, _| reply.send(answer));
    }
}

impl AsyncHandler<Await> for Asker {
    async fn handle(&mut self, ask: Await, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        ask.echo.ask(Ping(6)).await
    }
}

impl Handler<WaitHere> for Asker {
    fn handle(&mut self, wait: WaitHere, _cx: &mut Context<Self>) {
        let _ = wait.echo.ask(Ping(0)).wait();
    }
}

impl AsyncHandler<GiveUp> for Asker {
    async fn handle(&mut self, give_up: GiveUp, _cx: &mut Context<Self>) {
        let mut ask = Box::pin(give_up.keeper.ask(Keep));
        // Polled once, so that it is sent; then dropped.
        std::future::poll_fn(|cx| {
            assert!(ask.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
}

#[message(reply = u64)]
struct Keep;

/// Hands the kept replies out.
#[message(reply = usize)]
struct Release(Sender<Reply<u64>>);

/// Answers what it kept, from its shard.
#[message(reply = usize)]
struct AnswerAll(u64);

#[message]
struct DropAll;

/// Keeps its replies until it is told to answer.
#[derive(Default)]
struct Keeper {
    replies: Vec<Reply<u64>>,
}
impl Actor for Keeper {}

impl DeferredHandler<Keep> for Keeper {
    fn handle(&mut self, _: Keep, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.replies.push(reply);
    }
}

impl Handler<Release> for Keeper {
    fn handle(&mut self, release: Release, _cx: &mut Context<Self>) -> usize {
        let count = self.replies.len();
        for reply in self.replies.drain(..) {
            release.0.send(reply).unwrap();
        }
        count
    }
}

impl Handler<AnswerAll> for Keeper {
    fn handle(&mut self, answer: AnswerAll, _cx: &mut Context<Self>) -> usize {
        let count = self.replies.len();
        for reply in self.replies.drain(..) {
            reply.send(answer.0);
        }
        count
    }
}

impl Handler<DropAll> for Keeper {
    fn handle(&mut self, _: DropAll, _cx: &mut Context<Self>) {
        self.replies.clear();
    }
}

/// Takes replies from one shard to another and answers there.
#[message]
struct AnswerThere {
    replies: Vec<Reply<u64>>,
}

#[derive(Default)]
struct Elsewhere;
impl Actor for Elsewhere {}

impl Handler<AnswerThere> for Elsewhere {
    fn handle(&mut self, there: AnswerThere, _cx: &mut Context<Self>) {
        for reply in there.replies {
            reply.send(8);
        }
    }
}

/// Asks the keeper, `.await`.
#[message(reply = Result<u64, AskError>)]
struct AskKeeper {
    keeper: ActorRef<Keeper>,
    ttl: Duration,
}

impl AsyncHandler<AskKeeper> for Asker {
    async fn handle(&mut self, ask: AskKeeper, _cx: &mut Context<Self>) -> Result<u64, AskError> {
        ask.keeper.ask(Keep).deadline(ask.ttl).await
    }
}

const LONG: Duration = Duration::from_secs(600);

#[test]
fn then_await_wait_and_tokio_get_their_answers() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        assert_eq!(asker.ask(Then { echo, ttl: LONG }).wait(), Ok(Ok(5)));
        assert_eq!(asker.ask(Await { echo }).wait(), Ok(Ok(6)));
        assert_eq!(echo.ask(Ping(7)).wait(), Ok(7));
        assert_eq!(on_tokio(async { echo.ask(Ping(8)).await }), Ok(8));
        assert_eq!(on_tokio(async { asker.ask(Await { echo }).await }), Ok(Ok(6)));
    }
    engine.shutdown().unwrap();
}

#[test]
fn a_deadline_that_passes_is_unknown() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let unknown = Err(AskError::Unknown(Unknown::Deadline));
    let short = Duration::from_millis(1);
    for shard in [0, 1] {
        let keeper = engine.spawn_on(shard, Keeper::default).unwrap();
        let dropped = || {
            let stats = engine.stats()[usize::from(shard)];
            stats.cancelled + stats.expired
        };
        let before = dropped();
        assert_eq!(keeper.ask(Keep).deadline(short).wait(), unknown);
        assert_eq!(on_tokio(async { keeper.ask(Keep).deadline(short).await }), unknown);
        // Answers that come too late are dropped. Where a host is late itself, a message is dropped before work and counted.
        let begun = keeper.ask(AnswerAll(1)).wait().unwrap() as u64;
        assert!(begun <= 2, "{begun}");
        while begun + dropped() - before < 2 {
            // The counters are published at the end of the turn.
            std::thread::yield_now();
        }
        assert_eq!(begun + dropped() - before, 2, "each was begun, or dropped and counted");
    }
    let keeper = engine.spawn_on(0, Keeper::default).unwrap();
    assert_eq!(asker.ask(AskKeeper { keeper, ttl: short }).wait(), Ok(unknown));
    assert_eq!(keeper.ask(AnswerAll(1)).wait(), Ok(1), "likewise within a shard");
    engine.shutdown().unwrap();
}

/// Keeps its shard turning for ever.
#[message]
struct Turn;

impl Handler<Turn> for Asker {
    fn handle(&mut self, _: Turn, cx: &mut Context<Self>) {
        cx.me().tell(Turn).unwrap();
    }
}

#[test]
fn a_deadline_ends_an_ask_when_it_passes_and_no_earlier() {
    let second = 1_000_000_000;
    for seed in 0..5 {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let engine = Engine::builder().config(config(2)).start_in_sim(&world, NodeId::new(0)).unwrap();
        let asker = engine.spawn_on(0, Asker::default).unwrap();
        let ttl = Duration::from_millis(1);
        for shard in [0, 1] {
            // A turn at any time may end an ask too early.
            engine.spawn_on(shard, Asker::default).unwrap().tell(Turn).unwrap();
        }
        for shard in [0, 1] {
            let keeper = engine.spawn_on(shard, Keeper::default).unwrap();
            for kept in 1..=2 {
                let begun_ns = world.now_ns();
                let answer = if kept == 1 {
                    world.block_on(keeper.ask(Keep).deadline(ttl), second).unwrap()
                } else {
                    world.block_on(asker.ask(AskKeeper { keeper, ttl }), second).unwrap().unwrap()
                };
                assert_eq!(answer, Err(AskError::Unknown(Unknown::Deadline)), "seed {seed}, shard {shard}");
                let took = Duration::from_nanos(world.now_ns() - begun_ns);
                assert!((ttl..ttl + ttl / 10).contains(&took), "seed {seed}, shard {shard}: it took {took:?}");
                assert_eq!(world.block_on(keeper.ask(Ask0), second), Some(Ok(kept)), "each was begun");
            }
            assert_eq!(world.block_on(keeper.ask(AnswerAll(1)), second), Some(Ok(2)));
        }
        world.run_for(second / 1000);
        assert_eq!(engine.stats().iter().map(|stats| stats.asks).sum::<u64>(), 0, "late answers find nobody");
    }
}

#[test]
fn an_expired_message_is_dropped_before_work() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let sink = engine.spawn_on(0, Sink::default).unwrap();
    let expired = Err(AskError::Rejected(Rejected::Expired));
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        let answer = asker.ask(Then { echo, ttl: Duration::ZERO }).wait().unwrap();
        assert!(
            answer == expired || answer == Err(AskError::Unknown(Unknown::Deadline)),
            "the asker's own clock may be faster: {answer:?}"
        );
    }
    let held = hold(sink);
    assert_eq!(
        on_tokio(async { sink.ask(support::Item(1)).deadline(Duration::from_millis(1)).await }),
        Err(AskError::Unknown(Unknown::Deadline)),
    );
    drop(held);
    assert!(support::seen(sink).is_empty(), "it had not begun and never did");
    assert_eq!(
        on_tokio(async { sink.ask(support::Item(1)).deadline(Duration::ZERO).await }),
        Err(AskError::Rejected(Rejected::Expired))
    );
    assert!(support::seen(sink).is_empty());
    engine.shutdown().unwrap();
}

#[test]
fn a_dropped_future_frees_its_slot_at_once() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let echo = engine.spawn_on(0, Echo::default).unwrap();
    for shard in [0, 1] {
        let keeper = engine.spawn_on(shard, Keeper::default).unwrap();
        asker.ask(GiveUp { keeper }).wait().unwrap();
        let kept = on_tokio(async {
            let mut ask = Box::pin(keeper.ask(Keep));
            std::future::poll_fn(|cx| {
                assert!(ask.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            // Handled before this one is.
            keeper.ask(Ask0).await.unwrap()
        });
        // What was given up at once was not begun, unless the other shard was faster.
        assert!(kept == 1 || kept == 2 && shard == 1, "{kept} on shard {shard}");
        let on_keepers_shard = engine.spawn_on(shard, Echo::default).unwrap();
        for _ in 0..3 {
            echo.ask(Ping(0)).wait().unwrap();
            on_keepers_shard.ask(Ping(0)).wait().unwrap();
        }
        // An ask of this thread is over before its turn publishes: poll until the published number is that of idle shards.
        let asks = || engine.stats().iter().map(|stats| stats.asks).sum::<u64>();
        while asks() != 0 {
            on_keepers_shard.ask(Ping(0)).wait().unwrap();
            echo.ask(Ping(0)).wait().unwrap();
            std::thread::yield_now();
        }
        assert_eq!(keeper.ask(AnswerAll(0)).wait(), Ok(kept), "what was begun was not undone");
    }
    engine.shutdown().unwrap();
}

/// How many replies the keeper keeps.
#[message(reply = usize)]
struct Ask0;

impl Handler<Ask0> for Keeper {
    fn handle(&mut self, _: Ask0, _cx: &mut Context<Self>) -> usize {
        self.replies.len()
    }
}

#[test]
fn a_stopped_actor_is_closed_for_asks_and_tells() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let closed = Err(AskError::Rejected(Rejected::Closed));
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        echo.stop().wait();
        assert_eq!(echo.ask(Ping(0)).wait(), closed);
        assert_eq!(on_tokio(async { echo.ask(Ping(0)).await }), closed);
        assert_eq!(asker.ask(Then { echo, ttl: LONG }).wait(), Ok(closed.clone()));
        assert_eq!(asker.ask(Await { echo }).wait(), Ok(closed.clone()));
    }
    engine.shutdown().unwrap();
}

#[test]
fn wait_on_a_shards_thread_panics_and_names_itself() {
    let engine = engine(1);
    let (asker, echo) = (engine.spawn(Asker::default).unwrap(), engine.spawn(Echo::default).unwrap());
    let Err(AskError::Failed(panic)) = asker.ask(WaitHere { echo }).wait() else { panic!("it waited") };
    assert!(panic.0.contains("Ask::wait()") && panic.0.contains("shard 0"), "{}", panic.0);
    assert_eq!(asker.ask(Await { echo }).wait(), Ok(Ok(6)), "the actor was rebuilt");
    engine.shutdown().unwrap();
}

#[test]
fn a_reply_dropped_unanswered_fails_the_ask() {
    let engine = engine(2);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    for shard in [0, 1] {
        let keeper = engine.spawn_on(shard, Keeper::default).unwrap();
        let done = channel();
        asker.tell(Forward { keeper, done: done.0 }).unwrap();
        while keeper.ask(Ask0).wait() != Ok(1) {}
        keeper.tell(DropAll).unwrap();
        let Err(AskError::Failed(why)) = done.1.recv().unwrap() else { panic!("it was not answered") };
        assert!(why.0.contains("unanswered"), "{}", why.0);
    }
    engine.shutdown().unwrap();
}

/// Asks the keeper and hands the outcome to the test.
#[message]
struct Forward {
    keeper: ActorRef<Keeper>,
    done: Sender<Result<u64, AskError>>,
}

impl Handler<Forward> for Asker {
    fn handle(&mut self, forward: Forward, cx: &mut Context<Self>) {
        let done = forward.done;
        cx.ask(forward.keeper, Keep).deadline(LONG).then(move |_, answer, _| done.send(answer).unwrap());
    }
}

/// More deferred asks than may be outstanding at a time, answered by `answer`; a lost reservation would refuse the last.
fn reservations_come_back(mut answer: impl FnMut(Vec<Reply<u64>>)) {
    let engine = engine(3);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let keeper = engine.spawn_on(1, Keeper::default).unwrap();
    let mut left = limits::ASKS_PER_PEER_SHARD as usize * 2 + 100;
    while left > 0 {
        let batch = left.min(500);
        left -= batch;
        let (done, outcome) = channel();
        for _ in 0..batch {
            asker.tell(Forward { keeper, done: done.clone() }).unwrap();
        }
        while keeper.ask(Ask0).wait() != Ok(batch) {}
        let (out, replies) = channel();
        keeper.ask(Release(out)).wait().unwrap();
        answer(replies.iter().collect());
        for _ in 0..batch {
            assert_eq!(outcome.recv().unwrap(), Ok(8));
        }
    }
    engine.shutdown().unwrap();
}

#[test]
fn a_deferred_reply_is_sent_from_another_thread() {
    reservations_come_back(|replies| {
        std::thread::spawn(move || {
            for reply in replies {
                assert!(reply.is_expected());
                reply.send(8);
            }
        })
        .join()
        .unwrap();
    });
}

#[test]
fn a_deferred_reply_is_sent_from_a_third_shard() {
    let third = engine(1);
    let stranger = third.spawn(Elsewhere::default).unwrap();
    reservations_come_back(|replies| {
        stranger.ask(AnswerThere { replies }).wait().unwrap();
    });
    third.shutdown().unwrap();
}

#[test]
fn a_deferred_reply_is_sent_from_a_third_shard_of_the_same_engine() {
    let engine = engine(3);
    let asker = engine.spawn_on(0, Asker::default).unwrap();
    let keeper = engine.spawn_on(1, Keeper::default).unwrap();
    let third = engine.spawn_on(2, Elsewhere::default).unwrap();
    for _ in 0..20 {
        let (done, outcome) = channel();
        for _ in 0..300 {
            asker.tell(Forward { keeper, done: done.clone() }).unwrap();
        }
        while keeper.ask(Ask0).wait() != Ok(300) {}
        let (out, replies) = channel();
        keeper.ask(Release(out)).wait().unwrap();
        third.tell(AnswerThere { replies: replies.iter().collect() }).unwrap();
        for _ in 0..300 {
            assert_eq!(outcome.recv().unwrap(), Ok(8));
        }
    }
    engine.shutdown().unwrap();
}

/// Begins an ask on its shard and hands the future out.
#[message]
struct Begin {
    echo: ActorRef<Keeper>,
    out: Sender<std::pin::Pin<Box<shardstage::Ask<Keep>>>>,
}

impl AsyncHandler<Begin> for Asker {
    async fn handle(&mut self, begin: Begin, _cx: &mut Context<Self>) {
        let mut ask = Box::pin(begin.echo.ask(Keep));
        std::future::poll_fn(|cx| {
            assert!(ask.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        begin.out.send(ask).unwrap();
    }
}

/// Polls a future that was begun on another shard.
#[message]
struct PollThere(std::pin::Pin<Box<shardstage::Ask<Keep>>>);

impl AsyncHandler<PollThere> for Asker {
    async fn handle(&mut self, there: PollThere, _cx: &mut Context<Self>) {
        let _ = there.0.await;
    }
}

#[test]
fn an_ask_begun_on_one_shard_is_refused_by_another_and_freed_by_a_thread() {
    let engine = engine(2);
    let askers = [engine.spawn_on(0, Asker::default).unwrap(), engine.spawn_on(1, Asker::default).unwrap()];
    let keeper = engine.spawn_on(0, Keeper::default).unwrap();
    let (out, begun) = channel();
    for _ in 0..2 {
        askers[0].ask(Begin { echo: keeper, out: out.clone() }).wait().unwrap();
    }
    let outcome = askers[1].ask(PollThere(begun.recv().unwrap())).wait();
    assert!(matches!(outcome, Err(AskError::Failed(_))), "{outcome:?}");
    drop(begun.recv().unwrap());
    let echo = engine.spawn_on(0, Echo::default).unwrap();
    while engine.stats()[0].asks != 0 {
        echo.ask(Ping(0)).wait().unwrap();
        std::thread::yield_now();
    }
    engine.shutdown().unwrap();
}

#[test]
fn asks_end_when_the_engine_is_dropped() {
    let engine = engine(1);
    let keeper = engine.spawn(Keeper::default).unwrap();
    let log = Log::new();
    let answers = log.clone();
    let (out, replies) = channel();
    let waiting = std::thread::spawn(move || {
        on_tokio(async {
            let answer = keeper.ask(Keep).deadline(LONG).await;
            answers.push(answer.is_err());
        });
    });
    while keeper.ask(Ask0).wait() != Ok(1) {}
    keeper.ask(Release(out)).wait().unwrap();
    let kept = replies.recv().unwrap();
    drop(engine);
    waiting.join().unwrap();
    assert_eq!(log.all(), [true]);
    drop(kept);
}

#[test]
fn an_asker_that_stops_leaves_nothing_behind() {
    let engine = engine(2);
    let echo = engine.spawn_on(0, Echo::default).unwrap();
    for shard in [0, 1] {
        let asker = engine.spawn_on(0, Asker::default).unwrap();
        let keeper = engine.spawn_on(shard, Keeper::default).unwrap();
        let (done, outcome) = channel();
        asker.tell(Forward { keeper, done }).unwrap();
        while keeper.ask(Ask0).wait() != Ok(1) {}
        asker.stop().wait();
        keeper.ask(AnswerAll(3)).wait().unwrap();
        assert!(outcome.recv().is_err(), "the closure was dropped");
        while engine.stats()[0].asks != 0 {
            echo.ask(Ping(0)).wait().unwrap();
        }
    }
    assert_eq!(engine.dead_letters().total(), 0, "a reply is not a message");
    engine.shutdown().unwrap();
}

#[test]
fn blocked_shards_let_wait_end_by_its_own_clock() {
    let engine = engine(1);
    let echo = engine.spawn(Echo::default).unwrap();
    let blocked = block(echo);
    assert_eq!(echo.ask(Ping(1)).deadline(Duration::from_millis(1)).wait(), Err(AskError::Unknown(Unknown::Deadline)));
    drop(blocked);
    assert_eq!(echo.ask(Ping(2)).wait(), Ok(2));
    engine.shutdown().unwrap();
}
