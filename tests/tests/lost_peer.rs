//! A node that goes away: outstanding asks end as `Unknown`, new ones are refused, and it comes back by itself.

#![forbid(unsafe_code)]

use std::time::Duration;

use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, Rejected, TellError, Unknown};
use shardstage_tests::sim_cluster::{A, Add, B, Blob, Counter, SECOND, key_on, start, start_both};

#[test]
fn an_ask_in_flight_ends_as_unknown_and_the_next_is_refused_until_the_node_is_back() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let nodes = start_both(&world);
    let key = key_on(&nodes[0], B);
    let counter = nodes[0].actor::<Counter>(key.as_str());

    // The request leaves, the answer cannot come back.
    world.cut(B, A);
    let ask = counter.ask(Add { amount: 1 }).deadline(Duration::from_secs(60));
    let answer = world.block_on(ask, 100 * SECOND).expect("the session times out before the deadline");
    assert_eq!(answer, Err(AskError::Unknown(Unknown::PeerLost)));
    assert!(nodes[0].peer(B).last_down.is_some());

    let tell = counter.tell(Add { amount: 1 });
    assert!(tell.is_ok(), "from outside the shards a tell is queued; its refusal is a dead letter");
    let answer = world.block_on(counter.ask(Add { amount: 1 }), 100 * SECOND).expect("refused at once");
    assert_eq!(answer, Err(AskError::Rejected(Rejected::Unavailable)));

    world.heal_all();
    assert!(world.run_until(|_| nodes[0].peer(B).sessions == 2, 60 * SECOND), "{:?}", nodes[0].peer(B));
    let answer = world.block_on(counter.ask(Add { amount: 5 }), 10 * SECOND).expect("it ends");
    assert!(matches!(answer, Ok(total) if total == 5 || total == 6), "{answer:?}");
}

#[test]
fn a_deadline_ends_an_ask_whose_answer_is_on_its_way() {
    let world = SimWorld::new(SimOptions::seeded(4));
    let nodes = start_both(&world);
    let key = key_on(&nodes[0], B);
    world.cut(B, A);
    let ask = nodes[0].actor::<Counter>(key).ask(Add { amount: 1 }).deadline(Duration::from_millis(50));
    let before = world.now_ns();
    let answer = world.block_on(ask, 10 * SECOND).expect("the deadline ends it");
    assert_eq!(answer, Err(AskError::Unknown(Unknown::Deadline)));
    assert!(world.now_ns() - before >= 50_000_000, "never early");
}

#[test]
fn a_killed_node_loses_its_volatile_actors_and_nothing_else() {
    let world = SimWorld::new(SimOptions::seeded(5));
    let [a, b] = start_both(&world);
    let (here, there) = (key_on(&a, A), key_on(&a, B));
    for key in [&here, &there] {
        let answer = world.block_on(a.actor::<Counter>(key.as_str()).ask(Add { amount: 2 }), SECOND).expect("it ends");
        assert_eq!(answer, Ok(2));
    }
    world.kill(B);
    drop(b);
    let b = start(&world, B);
    let back = world.run_until(|_| a.peer(B).sessions == 2 && b.peer(A).sessions == 2, 120 * SECOND);
    assert!(back, "a sees {:?}, b sees {:?}", a.peer(B), b.peer(A));
    let ask = |key: &str| world.block_on(a.actor::<Counter>(key).ask(Add { amount: 3 }), 10 * SECOND).expect("it ends");
    assert_eq!(ask(&here), Ok(5));
    assert_eq!(ask(&there), Ok(3));
}

#[test]
fn an_unregistered_type_is_named_at_once() {
    #[derive(Default)]
    struct Stranger;
    impl shardstage::Actor for Stranger {}
    impl shardstage::VirtualActor for Stranger {
        const TYPE: &'static str = "test.stranger";
        fn activate(_key: &str) -> Self {
            Self
        }
    }
    impl shardstage::Handler<Add> for Stranger {
        fn handle(&mut self, _add: Add, _cx: &mut shardstage::Context<Self>) -> u64 {
            0
        }
    }
    let world = SimWorld::new(SimOptions::seeded(6));
    let nodes = start_both(&world);
    let refused = nodes[0].actor::<Stranger>("x").tell(Add { amount: 1 });
    assert!(matches!(refused, Err(TellError::NoHandler(Add { amount: 1 }))));
}

/// Messages of a mebibyte, of which a broken connection takes the first only.
struct Bulk {
    counter: shardstage::VirtualRef<Counter>,
}

impl shardstage::Actor for Bulk {}

/// Send so many; answers how many were taken.
struct Send(usize);

impl shardstage::Message for Send {
    type Reply = usize;
}

impl shardstage::Handler<Send> for Bulk {
    fn handle(&mut self, send: Send, _cx: &mut shardstage::Context<Self>) -> usize {
        let blob = || Blob { bytes: vec![1; 1 << 20] };
        (0..send.0).take_while(|_| self.counter.tell(blob()).is_ok()).count()
    }
}

#[test]
fn tells_that_never_left_are_dead_letters_when_the_session_ends() {
    let world = SimWorld::new(SimOptions::seeded(7));
    let nodes = start_both(&world);
    let counter = nodes[0].actor::<Counter>(key_on(&nodes[0], B));
    let sender = nodes[0].spawn_on(0, move || Bulk { counter: counter.clone() }).expect("it runs");
    world.cut(A, B);
    world.cut(B, A);
    let taken = world.block_on(sender.ask(Send(6)), SECOND).expect("it ends").expect("it answers");
    assert_eq!(taken, 6, "the session looks alive");
    assert!(world.run_until(|_| nodes[0].peer(B).sessions == 0, 100 * SECOND));
    let lost = nodes[0].dead_letters().count(shardstage::Reason::Unavailable);
    assert!((4..6).contains(&lost), "{lost} of 6; of the first one or two, a part had left");
}
