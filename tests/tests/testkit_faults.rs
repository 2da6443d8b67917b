//! The faults of the test kit hit what they name, and what is left behind is found.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage_tests::kit_actors::{Add, Counter, Relay, failure, must_say, relay};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_is_left_behind_is_counted_and_named() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>();
    kit.assert_no_leaks();
    let relay = relay(&kit, probe.recipient(), 100 * SECOND);
    probe.watch(relay);
    relay.tell(Add(1)).unwrap();
    kit.run_until_idle();
    let census = kit.census();
    assert_eq!((census.of::<Relay>(), census.actors.len(), census.timers(), census.watches()), (1, 1, 1, 1));
    assert_eq!(kit.stats().iter().map(|shard| shard.timers).sum::<u64>(), 1);
    must_say(&failure(|| kit.assert_no_leaks()), &["left behind", "Relay, 0 messages queued", "1 timers of"]);
    let stall = kit.stall(relay);
    kit.run_until_idle();
    assert_eq!(kit.census().suspended(), 1);
    drop(stall);
    relay.stop().wait();
    kit.assert_no_leaks();

    // An ask that nobody answers.
    let mut asked = Box::pin(probe.recipient().ask(Add(1)));
    assert!(asked.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    must_say(&failure(|| kit.assert_no_leaks()), &["1 asks without an answer"]);
    drop(asked);
    kit.assert_no_leaks();
}

#[test]
fn the_nth_message_panics_or_is_lost() {
    let kit = TestKit::new();
    let counter = kit.spawn(Counter::default).unwrap();
    let fault = kit.panic_at(counter, 3);
    assert_eq!(counter.ask(Add(1)).wait(), Ok(1));
    assert_eq!(counter.ask(Add(1)).wait(), Ok(2));
    assert!(!fault.fired());
    let Err(AskError::Failed(why)) = counter.ask(Add(1)).wait() else { panic!("the third panics") };
    assert!(why.0.contains("the test planted"), "{why:?}");
    assert!(fault.fired());
    // Rebuilt, and as fast as ever.
    assert_eq!(counter.ask(Add(1)).wait(), Ok(1));

    // In one burst: each message is counted, though a share takes many.
    let (panics, lost) = (kit.panic_at(counter, 10), kit.lose_at(counter, 20));
    for _ in 0..30 {
        counter.tell(Add(1)).unwrap();
    }
    kit.run_until_idle();
    assert!(panics.fired() && lost.fired());
    assert_eq!(counter.ask(Add(0)).wait(), Ok(19), "20 after the panic but one");
    assert_eq!(kit.stats().iter().map(|shard| shard.panics).sum::<u64>(), 2);

    kit.lose_at(counter, 1);
    let began = kit.now();
    assert_eq!(counter.ask(Add(1)).wait(), Err(AskError::Unknown(Unknown::Deadline)));
    assert!(kit.now() - began >= 5 * SECOND);
    assert_eq!(counter.ask(Add(0)).wait(), Ok(19));
    kit.finish();
}

/// Counts from actor to actor of one shard, so that what is sent is handled in the same turn.
struct Neighbour {
    next: Option<ActorRef<Counter>>,
}
impl Actor for Neighbour {}
impl Handler<Add> for Neighbour {
    fn handle(&mut self, Add(count): Add, cx: &mut Context<Self>) -> u32 {
        let next = *self.next.get_or_insert_with(|| cx.spawn(Counter::default).unwrap());
        for _ in 0..count {
            next.tell(Add(1)).unwrap();
        }
        count
    }
}

#[test]
fn a_fault_hits_an_actor_that_the_tested_code_spawned() {
    let kit = TestKit::new();
    let neighbour = kit.spawn(|| Neighbour { next: None }).unwrap();
    neighbour.ask(Add(5)).wait().unwrap();
    let child = kit.census().actors.iter().find(|actor| actor.actor.ends_with("Counter")).unwrap().id;
    let fault = kit.panic_at(child, 7);
    neighbour.ask(Add(6)).wait().unwrap();
    kit.run_until_idle();
    assert!(!fault.fired());
    neighbour.ask(Add(1)).wait().unwrap();
    kit.run_until_idle();
    assert!(fault.fired());
    // An actor that is gone has no faults to come.
    kit.lose_at(child, 1);
    kit.kill(child);
    kit.run_until_idle();
    let other = kit.spawn(Counter::default).unwrap();
    assert_eq!(other.ask(Add(1)).wait(), Ok(1));
}

#[test]
fn a_stalled_actor_keeps_its_messages_and_no_hook_is_called() {
    struct Hooked(Arc<AtomicU32>, u32);
    impl Actor for Hooked {
        fn resumed(&mut self, _cx: &mut Context<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl Handler<Add> for Hooked {
        fn handle(&mut self, Add(amount): Add, _cx: &mut Context<Self>) -> u32 {
            self.1 += amount;
            self.1
        }
    }
    let hooks = Arc::new(AtomicU32::new(0));
    let kit = TestKit::new();
    let of_actor = Arc::clone(&hooks);
    let actor = kit.spawn(move || Hooked(Arc::clone(&of_actor), 0)).unwrap();
    let (first, second) = (kit.stall(actor), kit.stall(actor));
    for _ in 0..100 {
        actor.tell(Add(1)).unwrap();
    }
    kit.advance(SECOND);
    assert_eq!(kit.census().actors[0].queued, 100);
    drop(first);
    kit.run_until_idle();
    assert_eq!(kit.census().actors[0].queued, 100);
    drop(second);
    assert_eq!(actor.ask(Add(0)).wait(), Ok(100));
    assert_eq!(hooks.load(Ordering::Relaxed), 0);
    // Rebuilt while it is stalled: the stall is over.
    let stall = kit.stall(actor);
    kit.kill(actor);
    drop(stall);
}

#[test]
fn a_stalled_shard_delays_what_is_sent_to_it() {
    let kit = TestKit::new();
    let probe = kit.probe::<Add>();
    let to = probe.recipient();
    let relay = kit.spawn_on(1, move || Relay { to, delay: Duration::ZERO }).unwrap();
    kit.run_until_idle();
    kit.stall_shard(1, SECOND);
    relay.tell(Add(1)).unwrap();
    probe.expect_msg();
    assert!(probe.last().at >= SECOND, "{:?}", probe.last());
}

#[test]
fn after_a_restart_the_old_engine_is_closed() {
    let mut kit = TestKit::new();
    let (probe, counter) = (kit.probe::<Add>(), kit.spawn(Counter::default).unwrap());
    counter.ask(Add(1)).wait().unwrap();
    kit.power_loss();
    assert_eq!(counter.ask(Add(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
    assert!(matches!(probe.recipient().tell(Add(1)), Err(TellError::Closed(_))));
    let counter = kit.spawn(Counter::default).unwrap();
    assert_eq!(counter.ask(Add(1)).wait(), Ok(1));
    kit.sigkill();
    assert_eq!(counter.ask(Add(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
}
