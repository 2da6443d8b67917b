//! The test kit keeps its promises: virtual time, probes, seeds, checks at the end, and how each failure looks.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, BoxError, Reason};
use shardstage_tests::kit_actors::{Add, Boom, Counter, Relay, failure, must_say, relay};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_engine_in_one_line_with_wait_await_and_block_on() {
    let kit = TestKit::new();
    let counter = kit.spawn(Counter::default).unwrap();
    counter.started().wait().unwrap();
    counter.tell(Add(40)).unwrap();
    assert_eq!(counter.ask(Add(1)).wait(), Ok(41));
    assert_eq!(kit.block_on(counter.ask(Add(1))), Ok(42));
    kit.block_on(counter.send(Add(1))).unwrap();
    counter.send(Add(1)).wait().unwrap();
    assert_eq!(kit.block_on(async { (counter.ask(Add(0)).await, counter.ask(Add(1)).await) }), (Ok(44), Ok(45)));
    assert_eq!(counter.drain().wait(), StopReason::Drained);
    assert_eq!(kit.block_on(counter.stopped()), StopReason::Stopped);
    assert!(kit.now() < Duration::from_millis(10), "{:?}", kit.now());
    assert_eq!(kit.shard_count(), 2);
}

#[test]
fn a_deadline_passes_in_virtual_time() {
    let kit = TestKit::new();
    let counter = kit.spawn(Counter::default).unwrap();
    let stall = kit.stall(counter);
    let began = kit.now();
    let answer = counter.ask(Add(1)).deadline(Duration::from_secs(1000)).wait();
    assert_eq!(answer, Err(AskError::Unknown(Unknown::Deadline)));
    let took = kit.now() - began;
    assert!(took >= Duration::from_secs(1000) && took < Duration::from_secs(1002), "{took:?}");
    drop(stall);
    // What came too late is dropped before work.
    assert_eq!(counter.ask(Add(1)).wait(), Ok(1));
}

#[test]
fn advance_fires_exactly_what_is_due() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>();
    let relay = relay(&kit, probe.recipient(), 60 * SECOND);
    relay.tell(Add(1)).unwrap();
    kit.advance(59 * SECOND);
    assert_eq!(probe.try_msg(), None);
    kit.advance(SECOND);
    assert_eq!(probe.try_msg(), Some(Add(1)));

    /// Ticks for good.
    struct Clock(Recipient<Add>, u32);
    impl Actor for Clock {
        fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
            cx.every(SECOND, Add(0));
            Ok(())
        }
    }
    impl Handler<Add> for Clock {
        fn handle(&mut self, _: Add, _cx: &mut Context<Self>) -> u32 {
            self.1 += 1;
            let _ = self.0.tell(Add(self.1));
            self.1
        }
    }
    let to = probe.recipient();
    kit.spawn(move || Clock(to, 0)).unwrap();
    for tick in 1..=100 {
        kit.advance(SECOND);
        assert_eq!(probe.try_msg(), Some(Add(tick)));
        assert_eq!(probe.try_msg(), None);
    }
    assert!(kit.now() < Duration::from_millis(160_010), "{:?}", kit.now());
}

#[test]
fn an_engine_under_test_shuts_down_in_virtual_time() {
    let world = shardstage::sim::SimWorld::new(shardstage::sim::SimOptions::seeded(1));
    let mut config = Config::default();
    config.shards = Some(3);
    let engine = Engine::builder().config(config).start_in_sim(&world, shardstage::NodeId::new(0)).unwrap();
    let counter = engine.spawn(Counter::default).unwrap();
    counter.tell(Add(1)).unwrap();
    engine.shutdown().unwrap();
    assert!(matches!(counter.tell(Add(1)), Err(TellError::Closed(_))));
    assert_eq!(counter.ask(Add(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
    assert!(world.now_ns() < 1_000_000_000, "{} ns", world.now_ns());
}

#[test]
fn a_busy_actor_is_not_idle_and_says_so() {
    struct Busy;
    impl Actor for Busy {}
    impl Handler<Boom> for Busy {
        fn handle(&mut self, _: Boom, cx: &mut Context<Self>) {
            let _ = cx.me().tell(Boom);
        }
    }
    let kit = TestKit::new();
    let busy = kit.spawn(|| Busy).unwrap();
    kit.run_until_idle();
    busy.tell(Boom).unwrap();
    let text = failure(|| kit.run_until_idle());
    must_say(&text, &["no quiet after", "Busy", "queued: 1"]);
    busy.stop().wait();
    kit.allow_dead_letters(move |letter| letter.receiver == Some(busy.id()));
}

#[test]
fn a_probe_shows_messages_in_order_and_answers_asks() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>().named("sink");
    let relay = relay(&kit, probe.recipient(), Duration::ZERO);
    for number in 1..=5 {
        relay.tell(Add(number)).unwrap();
    }
    assert_eq!(probe.expect_msg(), Add(1));
    assert_eq!(probe.last().sender, Some(relay.id()));
    probe.expect_msg_eq(Add(2));
    assert_eq!(probe.expect_msg_matching(|add| add.0 > 2), Add(3));
    assert_eq!(probe.fish_for(|add| add.0 == 5), Add(5));
    probe.expect_no_msg(10 * SECOND);

    // Asks wait for the test, in the order in which it takes them.
    let (first, second) = (probe.recipient().ask(Add(7)), probe.recipient().ask(Add(8)));
    let asked = async {
        let (first, second) = (std::pin::pin!(first), std::pin::pin!(second));
        both(first, second).await
    };
    let test = async {
        while probe.try_msg() != Some(Add(7)) {
            tick().await;
        }
        while probe.try_msg() != Some(Add(8)) {
            tick().await;
        }
        probe.reply(70);
        probe.refuse(AskError::Rejected(Rejected::Unavailable));
    };
    let ((first, second), ()) = kit.block_on(async { both(std::pin::pin!(asked), std::pin::pin!(test)).await });
    assert_eq!((first, second), (Ok(70), Err(AskError::Rejected(Rejected::Unavailable))));

    let kind = kit.probe::<Add>().answering(|add| add.0 * 2);
    assert_eq!(kind.recipient().ask(Add(21)).wait(), Ok(42));
    assert_eq!(kind.expect_msg(), Add(21));
}

/// Waits for one turn of the others.
async fn tick() {
    let mut polled = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut polled, true) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn both<A: Future + Unpin, B: Future + Unpin>(mut a: A, mut b: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(move |cx| {
        if first.is_none()
            && let std::task::Poll::Ready(value) = std::pin::Pin::new(&mut a).poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let std::task::Poll::Ready(value) = std::pin::Pin::new(&mut b).poll(cx)
        {
            second = Some(value);
        }
        if first.is_none() || second.is_none() {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready((first.take().unwrap(), second.take().unwrap()))
    })
    .await
}

#[test]
fn several_probes_have_one_order() {
    let kit = TestKit::builder().shards(3).start();
    let (early, late) = (kit.probe::<Add>().named("early"), kit.probe::<Add>().named("late"));
    relay(&kit, late.recipient(), 2 * SECOND).tell(Add(2)).unwrap();
    relay(&kit, early.recipient(), SECOND).tell(Add(1)).unwrap();
    late.expect_msg();
    early.expect_msg();
    assert!(early.last().number < late.last().number);
    assert!(late.last().at >= 2 * SECOND, "{:?}", late.last());
    assert_eq!(kit.transcript(), ["early: Add(1)", "late: Add(2)"]);
}

#[test]
fn a_probe_hears_of_ends_with_their_reason() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>();
    let [stopped, killed, panicked] = [(); 3].map(|()| kit.spawn_once(Counter::default).unwrap());
    for actor in [stopped, killed, panicked] {
        probe.watch(actor);
    }
    stopped.stop().wait();
    kit.kill(killed);
    panicked.tell(Boom).unwrap();
    assert_eq!(probe.expect_terminated(stopped), StopReason::Stopped);
    assert_eq!(probe.expect_terminated(killed), StopReason::Panicked("killed by the test".to_owned()));
    let StopReason::Panicked(why) = probe.expect_terminated(panicked) else { panic!("it panicked") };
    assert_eq!(why, "planted in the test");
    kit.allow_panics();
    let lives = kit.spawn(Counter::default).unwrap();
    must_say(&failure(|| probe.expect_terminated(lives)), &["to stop", "it lives after 3s"]);
}

#[test]
fn a_failed_expectation_says_what_came_instead() {
    let kit = TestKit::with_seed(7);
    let probe = kit.probe::<Add>().named("till").patience(2 * SECOND);
    must_say(&failure(|| probe.expect_msg()), &["probe \"till\"", "got none within 2s", "seed 7 (as the test says)"]);
    let to = probe.recipient();
    to.tell(Add(1)).unwrap();
    must_say(&failure(|| probe.expect_msg_eq(Add(2))), &["expected Add(2), got Add(1)", "till: Add(1)"]);
    to.tell(Add(1)).unwrap();
    must_say(&failure(|| probe.expect_msg_matching(|add| add.0 == 2)), &["another message, got Add(1)"]);
    to.tell(Add(3)).unwrap();
    must_say(&failure(|| probe.expect_no_msg(SECOND)), &["no message for 1s, got Add(3)"]);
    to.tell(Add(4)).unwrap();
    must_say(&failure(|| probe.fish_for(|add| add.0 == 2)), &["none of 1 messages within 2s"]);
    must_say(&failure(|| probe.reply(1)), &["nobody waits for an answer"]);
    must_say(&failure(|| kit.run_until(|| false)), &["did not happen within 3s"]);
    must_say(&failure(|| kit.block_on(std::future::pending::<()>())), &["not ready after 60s"]);

    let counter = kit.spawn(Counter::default).unwrap();
    counter.stop().wait();
    let _ = counter.tell(Add(9));
    let text = failure(|| probe.expect_msg());
    must_say(&text, &["1 dead letters", "Add from elsewhere to", "Closed"]);
    kit.allow_dead_letters(|_| true);
}

#[test]
fn a_seed_from_outside_is_named_with_the_command() {
    let kit = TestKit::new();
    let text = failure(|| kit.probe::<Add>().expect_msg());
    let again = "run it again with `SHARDSTAGE_SEED=1 cargo test a_seed_from_outside_is_named_with_the_command`";
    must_say(&text, &[again]);
}

/// Set for the test binary when it is run again by a test of its own.
const AGAIN: &str = "SHARDSTAGE_TESTKIT_AGAIN";

/// Fails, but only where it was asked for.
#[test]
fn fails_when_it_is_run_again() {
    if std::env::var_os(AGAIN).is_none() {
        return;
    }
    TestKit::check_seeds(0..100, |kit| {
        kit.spawn(Counter::default).unwrap().ask(Add(1)).wait().unwrap();
        assert_ne!(kit.seed(), 77, "an assertion of the test's own");
    });
}

#[test]
fn the_environment_chooses_the_seed() {
    let run = |seed: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["fails_when_it_is_run_again", "--exact", "--nocapture"]);
        let done = command.env(AGAIN, "1").env("SHARDSTAGE_SEED", seed).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (passed, said) = run("77");
    assert!(!passed);
    let again = "the test kit\n  at ";
    let command = "run it again with `SHARDSTAGE_SEED=77 cargo test fails_when_it_is_run_again`";
    must_say(
        &said,
        &[again, "seed 77", command, "seed 77 fails, after 0 that passed: ", "an assertion of the test's own"],
    );
    assert!(run("76").0, "only that seed runs");
    must_say(&run("seven").1, &["SHARDSTAGE_SEED=seven: a seed is a number"]);
}

#[test]
fn dead_letters_that_nobody_expected_fail_the_test() {
    let send_to_the_dead = |kit: &TestKit| {
        let counter = kit.spawn(Counter::default).unwrap();
        counter.stop().wait();
        counter.tell(Add(1)).unwrap();
        counter
    };
    let text = failure(|| {
        let kit = TestKit::new();
        send_to_the_dead(&kit);
        kit.finish();
    });
    must_say(
        &text,
        &["a dead letter that nobody expected", "kit_actors::Add from elsewhere", "Closed", "SHARDSTAGE_SEED=1"],
    );
    // Dropping the kit looks too.
    must_say(&failure(|| send_to_the_dead(&TestKit::new())), &["a dead letter that nobody expected"]);

    let kit = TestKit::new();
    let id = send_to_the_dead(&kit).id();
    assert_eq!(kit.expect_dead_letter(|letter| letter.reason == Reason::Closed).receiver, Some(id));
    must_say(&failure(|| kit.expect_dead_letter(|_| true)), &["no such dead letter within 3s"]);
    send_to_the_dead(&kit);
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    send_to_the_dead(&kit);
    kit.run_until_idle();
    assert!(kit.dead_letters().take().is_some(), "what a test takes, it expected");
    kit.finish();
}

#[test]
fn panics_that_nobody_expected_fail_the_test() {
    let text = failure(|| {
        let kit = TestKit::new();
        kit.spawn(Counter::default).unwrap().tell(Boom).unwrap();
        kit.finish();
    });
    must_say(&text, &["1 panics of actors that nobody expected"]);
}

/// Counts from actor to actor of one shard, so that what is sent is handled in the same turn.
/// Two relays of different shards race to one probe; returns who won, and the trace.
fn race(kit: &TestKit) -> (u32, u64) {
    let probe = kit.probe::<Add>();
    for number in [1, 2] {
        let to = probe.recipient();
        let shard = u16::try_from(number).unwrap();
        let relay = kit.spawn_on(shard, move || Relay { to, delay: Duration::ZERO }).unwrap();
        relay.tell(Add(number)).unwrap();
    }
    let first = probe.expect_msg().0;
    probe.expect_msg();
    (first, kit.trace_hash())
}

#[test]
fn the_seed_decides_who_comes_first() {
    let run = |seed| race(&TestKit::builder().seed(seed).shards(3).start());
    assert_eq!(run(3), run(3));
    let outcomes: Vec<_> = (0..20).map(run).collect();
    assert!(outcomes.iter().any(|(first, _)| *first == 1) && outcomes.iter().any(|(first, _)| *first == 2));
    let mut hashes: Vec<_> = outcomes.iter().map(|(_, hash)| *hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20, "each seed goes its own way");
}

#[test]
fn check_seeds_finds_and_names_the_seed_that_fails() {
    let builder = || TestKit::builder().shards(3);
    let runs = AtomicU32::new(0);
    builder().check_seeds(0..200, |kit| {
        runs.fetch_add(1, Ordering::Relaxed);
        race(kit);
    });
    assert_eq!(runs.load(Ordering::Relaxed), 200);
    let text = failure(|| builder().check_seeds(0..200, |kit| assert_eq!(race(kit).0, 1, "the second was first")));
    must_say(&text, &["fails, after", "the second was first"]);
    let seed: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    // The seed that was named fails alone too, and only because of the order.
    must_say(
        &failure(|| builder().check_seeds([seed], |kit| assert_eq!(race(kit).0, 1))),
        &[&format!("seed {seed} fails")],
    );
    builder().check_seeds([seed], |kit| assert_eq!(race(kit).0, 2));
    // What a kit finds at its end counts.
    let text = failure(|| {
        TestKit::check_seeds(5..6, |kit| kit.spawn(Counter::default).unwrap().tell(Boom).unwrap());
    });
    must_say(&text, &["seed 5 fails", "1 panics of actors", "SHARDSTAGE_SEED=5"]);
}

#[test]
fn check_replay_finds_what_the_seed_does_not_decide() {
    TestKit::builder().shards(3).check_replay(1, |kit| assert_ne!(race(kit).1, 0));
    let calls = AtomicU32::new(0);
    let text = failure(|| {
        TestKit::builder().check_replay(1, |kit| {
            let extra = calls.fetch_add(1, Ordering::Relaxed);
            let counter = kit.spawn(Counter::default).unwrap();
            (0..=extra).for_each(|_| counter.tell(Add(1)).unwrap());
        });
    });
    must_say(&text, &["seed 1: two runs went different ways"]);
}

#[test]
fn virtual_actors_live_in_a_kit() {
    struct Shelf(u32);
    impl Actor for Shelf {}
    impl VirtualActor for Shelf {
        const TYPE: &'static str = "testkit.shelf";
        fn activate(_key: &str) -> Self {
            Self(0)
        }
    }
    #[message(id = "testkit.put", reply = u32)]
    struct Put {
        amount: u32,
    }
    impl Handler<Put> for Shelf {
        fn handle(&mut self, put: Put, _cx: &mut Context<Self>) -> u32 {
            self.0 += put.amount;
            self.0
        }
    }
    let kit = TestKit::builder().engine(|engine| engine.register::<Shelf>(|shelf| shelf.accept::<Put, _>())).start();
    let shelf = kit.actor::<Shelf>("a");
    assert_eq!(shelf.ask(Put { amount: 2 }).wait(), Ok(2));
    assert_eq!(shelf.ask(Put { amount: 2 }).wait(), Ok(4));
    kit.assert_no_leaks();
    assert_eq!(kit.census().actors[0].key.as_ref().map(|key| key.as_str().to_owned()), Some("a".to_owned()));
    kit.advance(Duration::from_secs(120));
    assert!(kit.census().actors.is_empty(), "it was idle");
    assert_eq!(shelf.ask(Put { amount: 2 }).wait(), Ok(2));
}

#[test]
fn ids_come_from_every_kind_of_reference() {
    let kit = TestKit::new();
    let counter = kit.spawn(Counter::default).unwrap();
    assert_eq!(ActorId::from(counter), ActorId::from(counter.recipient::<Add, _>()));
}
