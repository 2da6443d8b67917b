//! What an actor lets in while it waits for an answer: nothing, its own chain of calls up to a depth, or everything.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod reentrancy_cast;

use std::time::Duration;

use reentrancy_cast::*;
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::testkit::{Probe, TestKit};
use shardstage::{Deadlock, Mailbox, Reason, Reentrancy, VirtualSettings};
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn without_reentrancy_messages_wait_for_the_answer_in_their_order() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    for shard in [0, 1] {
        let actor = kit.engine().spawn_on(shard, Link::<1>::default).unwrap();
        actor.tell(Hold(probe.recipient(), LONG)).unwrap();
        (1..4).for_each(|number| actor.tell(Note(number)).unwrap());
        probe.expect_msg();
        kit.run_until_idle();
        actor.tell(Note(4)).unwrap();
        kit.advance(Duration::from_secs(1));
        probe.reply(7);
        assert_eq!(actor.ask(Read).wait().unwrap(), ["hold", "Ok(7)", "1", "2", "3", "4"]);
        // Afterwards it is as free as before.
        actor.tell(Note(5)).unwrap();
        assert_eq!(actor.ask(Read).wait().unwrap(), ["5"]);
    }
    // By default everything comes in.
    let actor = link::<0>(&kit, 0);
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    actor.tell(Note(1)).unwrap();
    probe.expect_msg();
    kit.run_until_idle();
    probe.reply(7);
    assert_eq!(actor.ask(Read).wait().unwrap(), ["hold", "1", "Ok(7)"]);
}

#[test]
fn it_waits_for_all_that_it_asked() {
    let kit = TestKit::new();
    let probes: [Probe<Question>; 2] = [kit.probe(), kit.probe()];
    let actor = link::<1>(&kit, 0);
    actor.tell(HoldMany(probes.iter().map(Probe::recipient).collect())).unwrap();
    actor.tell(Note(1)).unwrap();
    // Each is asked alone and as one of all; the last to answer lets the note in.
    for probe in [&probes[1], &probes[0]] {
        for _ in 0..2 {
            probe.expect_msg();
            probe.reply(7);
            kit.run_until_idle();
        }
    }
    assert_eq!(actor.ask(Read).wait().unwrap(), ["Ok(7)", "Ok(7)", "all 2", "1"]);
}

#[test]
fn what_is_attached_waits_for_the_answer_too() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    let actor = link::<1>(&kit, 0);
    actor.tell(HoldAndWork(probe.recipient())).unwrap();
    probe.expect_msg();
    kit.advance(Duration::from_secs(1));
    probe.reply(7);
    // Quiet again, though some of the work never ends.
    kit.run_until_idle();
    assert_eq!(actor.ask(Read).wait().unwrap(), ["Ok(7)", "work 5"]);
    kit.run_until_idle();
}

#[test]
fn a_call_that_comes_back_to_an_actor_without_reentrancy_is_refused_with_the_cycle() {
    let kit = TestKit::new();
    for shard in [0, 1] {
        let strict = link::<1>(&kit, 0);
        let free = link::<0>(&kit, shard);
        let sleeper = kit.engine().spawn_on(shard, || Sleeper).unwrap();
        let began = kit.now();
        // Through one that is free meanwhile, one that waits, and both; to itself.
        let refused = names(walk(&kit, [strict.recipient(), free.recipient(), strict.recipient()]));
        assert!(refused.len() == 3 && shows(&refused[0], strict) && shows(&refused[1], free), "{refused:?}");
        assert!(shows(&refused[2], strict), "{refused:?}");
        let refused = names(walk(&kit, [strict.recipient(), sleeper.recipient(), strict.recipient()]));
        assert!(refused.len() == 3 && shows(&refused[0], strict) && shows(&refused[1], sleeper), "{refused:?}");
        let [a, b, c] = [free.recipient(), sleeper.recipient(), strict.recipient()];
        let refused = names(walk(&kit, [a, c, a, b, a, c]));
        assert_eq!(refused.len(), 5, "{refused:?}");
        assert!(shows(&refused[0], strict) && shows(&refused[4], strict), "{refused:?}");
        assert_eq!(names(walk(&kit, [c, c])).len(), 2);
        // An actor of an async handler cannot take it either.
        if shard == 0 {
            assert_eq!(names(walk(&kit, [b, c, b])).len(), 3);
        }
        assert!(kit.now() - began < Duration::from_millis(50), "nobody waits for a deadline");
        // What came back was not executed, and nobody is held any more.
        assert_eq!(strict.ask(Read).wait().unwrap(), vec!["walk"; if shard == 0 { 5 } else { 4 }]);
        assert_eq!(walk(&kit, [c, a, b]), Ok(3));
    }
    assert_eq!(kit.census().suspended(), 0);
}

#[test]
fn a_call_that_nobody_waits_for_is_held_and_not_refused() {
    let kit = TestKit::new();
    let (probe, heard) = (kit.probe::<Question>(), kit.probe::<Heard>());
    for shard in [0, 1] {
        let strict = link::<1>(&kit, 0);
        let (back, to) = (strict.recipient(), heard.recipient());
        let aside = |first_answers| {
            kit.engine().spawn_on(shard, move || Aside { back, first_answers, heard: to }).unwrap().recipient()
        };
        // What a tell sets off is for nobody's answer.
        assert_eq!(walk(&kit, [back, aside(false)]), Ok(2));
        heard.expect_msg_eq(Heard(Ok(Ok(1))));
        // What comes after the answer is held by the next wait, and does not hold it up.
        strict.tell(HoldAfter(aside(true), probe.recipient())).unwrap();
        probe.expect_msg();
        heard.expect_no_msg(Duration::from_secs(1));
        probe.reply(7);
        heard.expect_msg_eq(Heard(Ok(Ok(1))));
    }
}

#[test]
fn a_chain_lets_in_its_own_calls_and_nothing_else() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    for shard in [0, 1] {
        let chained = link::<32>(&kit, 0);
        let free = link::<0>(&kit, shard);
        let sleeper = kit.engine().spawn_on(shard, || Sleeper).unwrap();
        let [a, b, c] = [chained.recipient(), free.recipient(), sleeper.recipient()];
        assert_eq!(walk(&kit, [a, b, a, c, a, a, b]), Ok(7));
        assert_eq!(chained.ask(Read).wait().unwrap(), vec!["walk"; 4]);
        // Another chain waits, whoever it is, and so does a tell.
        chained.tell(Hold(probe.recipient(), LONG)).unwrap();
        probe.expect_msg();
        let asked = kit.block_on(async {
            let other = b.ask(Walk(vec![a])).deadline(LONG);
            let patience = std::pin::pin!(async { probe.expect_no_msg(Duration::from_secs(1)) });
            chained.tell(Note(1)).unwrap();
            patience.await;
            probe.reply(7);
            other.await
        });
        assert_eq!(asked, Ok(Ok(2)));
        let log = chained.ask(Read).wait().unwrap();
        assert_eq!(log[..2], ["hold", "Ok(7)"], "{log:?}");
        assert_eq!(log.len(), 4, "{log:?}");
    }
    assert_eq!(kit.census().suspended(), 0);
}

#[test]
fn a_chain_deeper_than_its_depth_is_refused_with_depth_and_actor() {
    let kit = TestKit::new();
    for shard in [0, 1] {
        let twice = link::<2>(&kit, 0);
        let free = link::<0>(&kit, shard);
        let [a, b] = [twice.recipient(), free.recipient()];
        assert_eq!(walk(&kit, [a, b, a]), Ok(3));
        let began = kit.now();
        let refused = walk(&kit, [b, a, b, a, b, a]);
        let Err(AskError::Deadlock(Deadlock(text))) = &refused else { panic!("too deep: {refused:?}") };
        assert!(text.contains("Link<2>") && text.contains("lets in 2 calls of one chain"), "{text}");
        let ways = names(refused);
        assert!(ways.len() == 5 && shows(&ways[0], twice) && shows(&ways[4], twice), "{ways:?}");
        assert!(kit.now() - began < Duration::from_millis(50));
        // Two frames each time, and the third never began.
        assert_eq!(twice.ask(Read).wait().unwrap(), vec!["walk"; 4]);
        // Two chains one after the other are not one that is twice as deep.
        for _ in 0..3 {
            assert_eq!(walk(&kit, [a, b, a]), Ok(3));
        }
    }
}

#[test]
fn a_panic_a_deadline_and_a_dropped_ask_end_the_waiting() {
    let kit = TestKit::new();
    kit.allow_panics();
    let probe = kit.probe::<Question>();
    let actor = link::<1>(&kit, 0);
    // The turn of the answer panics: what waits is the rebuilt actor's, in order.
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    (1..4).for_each(|number| actor.tell(Note(number)).unwrap());
    probe.expect_msg();
    probe.reply(13);
    assert_eq!(actor.ask(Read).wait().unwrap(), ["1", "2", "3"]);
    // While it waits what comes is held.
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    probe.expect_msg();
    actor.tell(Note(4)).unwrap();
    kit.run_until_idle();
    // The deadline.
    probe.reply(7);
    assert_eq!(actor.ask(Read).wait().unwrap(), ["hold", "Ok(7)", "4"]);
    actor.tell(Hold(probe.recipient(), Duration::from_secs(2))).unwrap();
    actor.tell(Note(5)).unwrap();
    probe.expect_msg();
    let began = kit.now();
    let log = actor.ask(Read).deadline(LONG).wait().unwrap();
    assert_eq!(log, ["hold", "Err(Unknown(Deadline))", "5"]);
    assert!(kit.now() - began > Duration::from_secs(1), "not before");
    probe.reply(0);
    // What its own timers send waits too.
    actor.tell(HoldLoosely(probe.recipient())).unwrap();
    actor.tell(Note(6)).unwrap();
    probe.expect_msg();
    kit.advance(Duration::from_secs(10));
    probe.reply(1);
    assert_eq!(actor.ask(Read).wait().unwrap(), ["Ok(1)", "6", "let go"]);
    // The ask is given up by somebody else.
    let (keeper, to) = (link::<0>(&kit, 0), probe.recipient());
    actor.tell(HoldFor(keeper, to)).unwrap();
    actor.tell(Note(7)).unwrap();
    probe.expect_msg();
    kit.advance(Duration::from_secs(10));
    keeper.tell(LetGo).unwrap();
    assert_eq!(actor.ask(Read).wait().unwrap(), ["7"]);
    probe.reply(1);
}

/// One that fails while it waits begins anew: its next state waits for nothing, and the answer comes to nobody.
fn fails_while_it_waits<const D: u16>() {
    let kit = TestKit::builder().shards(1).start();
    kit.allow_panics();
    // The busy one's last message to itself.
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    let (probe, others) = (kit.probe::<Question>(), kit.probe::<Question>());
    // A shard that always has something to do, and many asks, does not look soon for those that nobody waits for any more.
    let (busy, asks) = (kit.spawn(|| Busy).unwrap(), link::<0>(&kit, 0));
    (0..64).for_each(|_| asks.tell(Hold(others.recipient(), LONG)).unwrap());
    let actor = link::<D>(&kit, 0);
    kit.run_until_idle();
    busy.tell(Spin).unwrap();
    actor.tell(HoldAndFail(probe.recipient())).unwrap();
    (1..3).for_each(|number| actor.tell(Note(number)).unwrap());
    let read = actor.ask(Read).deadline(Duration::from_millis(10)).wait();
    assert_eq!(read, Ok(vec!["1".to_owned(), "2".to_owned()]), "at once");
    busy.stop().wait();
    probe.expect_msg();
    probe.reply(7);
    actor.tell(Note(3)).unwrap();
    assert_eq!(actor.ask(Read).wait().unwrap(), ["3"]);
}

#[test]
fn a_rebuilt_actor_does_not_wait_for_what_its_predecessor_asked() {
    fails_while_it_waits::<1>();
    fails_while_it_waits::<2>();
}

#[test]
fn a_stop_does_not_wait_for_the_answer_and_a_drain_handles_what_is_held() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    let actor = link::<1>(&kit, 0);
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    let held = kit.block_on(async {
        let walk = actor.recipient().ask(Walk(Vec::new())).deadline(LONG);
        let mut walk = std::pin::pin!(walk);
        std::future::poll_fn(|cx| std::task::Poll::Ready(walk.as_mut().poll(cx).is_pending())).await;
        probe.expect_msg();
        assert_eq!(actor.stop().await, StopReason::Stopped);
        walk.await
    });
    assert_eq!(held, Err(AskError::Rejected(Rejected::Closed)));
    kit.expect_dead_letter(|letter| letter.reason == Reason::Closed);
    probe.reply(0);
    // A drain waits, since what is queued waits.
    let actor = link::<1>(&kit, 0);
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    let walk = kit.block_on(async {
        let mut walk = std::pin::pin!(actor.recipient().ask(Walk(Vec::new())).deadline(LONG));
        std::future::poll_fn(|cx| std::task::Poll::Ready(walk.as_mut().poll(cx).is_pending())).await;
        probe.expect_msg();
        let drained = actor.drain();
        probe.expect_no_msg(Duration::from_secs(1));
        probe.reply(7);
        (walk.await, drained.await)
    });
    assert_eq!(walk, (Ok(Ok(1)), StopReason::Drained));
    assert_eq!(kit.census().suspended(), 0);
}

#[test]
fn what_is_held_counts_against_the_bound_of_the_mailbox() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    let bounded = Mailbox::new().capacity(4);
    let actor = kit.engine().spawn_with_mailbox(bounded, Link::<1>::default).unwrap();
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    probe.expect_msg();
    for number in 0..4 {
        actor.tell(Note(number)).unwrap();
        kit.run_until_idle();
    }
    let refused = actor.ask(Read).wait();
    assert_eq!(refused, Err(AskError::Rejected(Rejected::Full)));
    probe.reply(7);
    kit.run_until_idle();
    assert_eq!(actor.ask(Read).wait().unwrap(), ["hold", "Ok(7)", "0", "1", "2", "3"]);
}

#[test]
fn by_priority_the_chain_still_comes_first() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    let by_priority = Mailbox::new().by_priority();
    let actor = kit.engine().spawn_with_mailbox(by_priority, Link::<32>::default).unwrap();
    let free = link::<0>(&kit, 0);
    actor.tell(Hold(probe.recipient(), LONG)).unwrap();
    probe.expect_msg();
    (1..4).for_each(|number| actor.tell(Note(number)).unwrap());
    kit.run_until_idle();
    probe.reply(7);
    assert_eq!(walk(&kit, [actor.recipient(), free.recipient(), actor.recipient()]), Ok(3));
    assert_eq!(actor.ask(Read).wait().unwrap(), ["hold", "Ok(7)", "1", "2", "3", "walk", "walk"]);
}

/// Asks on along keys, on either node.
#[derive(Default)]
struct Place;
impl Actor for Place {}
impl VirtualActor for Place {
    const TYPE: &'static str = "test.place";
    fn activate(_key: &str) -> Self {
        Self
    }
    fn settings() -> VirtualSettings {
        VirtualSettings::default().reentrancy(Reentrancy::Off)
    }
}

#[message(id = "test.tour", reply = Vec<String>)]
#[derive(Debug, Clone)]
struct Tour {
    keys: Vec<String>,
}

impl DeferredHandler<Tour> for Place {
    fn handle(&mut self, mut tour: Tour, reply: Reply<Vec<String>>, cx: &mut Context<Self>) {
        let Some(next) = tour.keys.pop() else { return reply.send(vec!["home".into()]) };
        let next = cx.actor::<Self>(next);
        cx.ask(next, tour).deadline(LONG).then(|_, said, _| {
            reply.send(said.unwrap_or_else(|error| vec![error.to_string()]));
        });
    }
}

#[test]
fn a_registration_says_what_its_actors_let_in() {
    let tour = |setting: Option<Reentrancy>| {
        let kit = TestKit::builder()
            .engine(move |engine| {
                engine.register::<Place>(|place| {
                    let place = place.accept::<Tour, _>();
                    match setting {
                        Some(setting) => place.reentrancy(setting),
                        None => place,
                    }
                })
            })
            .start();
        let keys = ["alice", "bob"].map(str::to_owned).to_vec();
        kit.engine().actor::<Place>("alice").ask(Tour { keys }).wait().unwrap()
    };
    let refused = tour(None);
    let (alice, bob) = (refused[0].find("(\"alice\")").unwrap(), refused[0].find("(\"bob\")").unwrap());
    assert!(alice < bob && refused[0].rfind("(\"alice\")").unwrap() > bob, "{refused:?}");
    assert_eq!(tour(Some(Reentrancy::Full)), ["home"]);
    assert_eq!(tour(Some(Reentrancy::Chain { depth: 2 })), ["home"]);
    assert!(tour(Some(Reentrancy::Chain { depth: 1 }))[0].contains("lets in 1 calls"));
}

#[test]
fn a_call_that_comes_back_from_another_node_is_refused_with_the_cycle() {
    let world = SimWorld::new(SimOptions::seeded(5));
    let nodes = [(A, "a"), (B, "b")].map(|(me, file)| {
        let builder = Engine::builder().register::<Place>(|place| place.accept::<Tour, _>());
        let transport = shardstage_quic::Quic::new(quic("ca", file));
        builder.cluster(cluster("sim", me)).transport(transport).start_in_sim(&world, me).unwrap()
    });
    let met = world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 10 * SECOND);
    assert!(met);
    let key = |node: shardstage::NodeId, number: u32| {
        (number * 1000..)
            .map(|number| format!("key-{number}"))
            .find(|key| u32::from(nodes[0].actor::<Place>(key.as_str()).slot().group().get()) % 2 == node.get())
            .unwrap()
    };
    let (here, there, also_here) = (key(A, 1), key(B, 2), key(A, 3));
    let tour = |keys: &[&String]| {
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).clone()).collect();
        let first = keys.remove(0);
        keys.reverse();
        let ask = nodes[0].actor::<Place>(first).ask(Tour { keys }).deadline(LONG);
        world.block_on(ask, 70 * SECOND).unwrap().unwrap()
    };
    assert_eq!(tour(&[&here, &there, &also_here]), ["home"]);
    let refused = tour(&[&here, &there, &also_here, &here]).remove(0);
    let at: Vec<usize> = [&here, &there, &also_here].map(|key| refused.find(&format!("({key:?})")).unwrap()).to_vec();
    assert!(at.is_sorted() && refused.rfind(&format!("({here:?})")).unwrap() > at[2], "{refused}");
    let refused = tour(&[&here, &there, &there]).remove(0);
    assert!(refused.contains("would wait for itself"), "{refused}");
}
