//! Hazard: what belongs to an actor that moves between shards: timers, names, bonds, answers that it owes, messages put aside; what
//! keeps it where it is, and what ends it on its way.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Activity, ActorId, LookupError, MoveError, Moving, TimerId, VirtualSettings};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What it has heard and done, in order, with the shard on which it was.
type Diary = Arc<Mutex<Vec<(u16, String)>>>;

#[derive(Default)]
struct Traveller {
    diary: Diary,
    timers: Vec<TimerId>,
    owed: Vec<Reply<u32>>,
    busy: bool,
}

impl Traveller {
    fn note(&self, cx: &Context<Self>, what: impl Into<String>) {
        self.diary.lock().unwrap().push((cx.shard().get(), what.into()));
    }
}

impl Actor for Traveller {
    fn moving() -> Moving<Self> {
        Moving::value()
    }

    fn terminated(&mut self, _: ActorId, reason: &StopReason, cx: &mut Context<Self>) {
        self.note(cx, format!("{reason:?}"));
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut Context<Self>) {
        self.note(cx, format!("stopped: {reason:?}"));
    }
}

#[message]
#[derive(Clone)]
struct Tick(&'static str);

#[message]
enum Do {
    Set,
    Cancel(usize),
    Watch(ActorId),
    Unwatch(ActorId),
    Link(ActorId),
    Unlink(ActorId),
    Trap,
    Child,
    AskLater(Recipient<Question>),
    Answer(u32),
    Busy(bool),
    Boom,
}

#[message(reply = u32)]
#[derive(Debug)]
struct Question;

#[message(reply = u32)]
#[derive(Debug, PartialEq)]
struct Count(u32);

#[message(reply = u32)]
struct Wait(Duration);

#[message(reply = usize)]
struct Owing;

impl Handler<Owing> for Traveller {
    fn handle(&mut self, _: Owing, _: &mut Context<Self>) -> usize {
        self.owed.len()
    }
}

impl Handler<Tick> for Traveller {
    fn handle(&mut self, tick: Tick, cx: &mut Context<Self>) {
        // Virtual time begins at a second.
        self.note(cx, format!("{} {}", tick.0, (cx.now_ns() + 500_000) / 1_000_000 % 1000));
    }
}

impl Handler<Do> for Traveller {
    fn handle(&mut self, what: Do, cx: &mut Context<Self>) {
        match what {
            Do::Set => {
                self.timers.push(cx.after(10 * MILLI, Tick("once")));
                self.timers.push(cx.every(4 * MILLI, Tick("rate")));
                self.timers.push(cx.every_with_delay(6 * MILLI, Tick("delay")));
                cx.set_idle_timeout(50 * MILLI, Tick("idle"));
            }
            Do::Cancel(which) => assert!(cx.cancel(self.timers[which])),
            Do::Watch(other) => cx.watch(other),
            Do::Unwatch(other) => cx.unwatch(other),
            Do::Link(other) => cx.link(other),
            Do::Unlink(other) => cx.unlink(other),
            Do::Trap => cx.trap_links(true),
            Do::Child => drop(cx.spawn(Self::default).unwrap()),
            Do::AskLater(to) => cx.ask(to, Question).then(|this, answer, cx| this.note(cx, format!("{answer:?}"))),
            Do::Answer(value) => self.owed.drain(..).for_each(|reply| reply.send(value)),
            Do::Busy(busy) => {
                self.busy = busy;
                cx.unstash();
            }
            Do::Boom => panic!("planted"),
        }
    }
}

impl DeferredHandler<Question> for Traveller {
    fn handle(&mut self, _: Question, reply: Reply<u32>, _: &mut Context<Self>) {
        self.owed.push(reply);
    }
}

impl DeferredHandler<Count> for Traveller {
    fn handle(&mut self, count: Count, reply: Reply<u32>, cx: &mut Context<Self>) {
        if self.busy {
            return cx.stash_ask(count, reply).unwrap_or_else(|_| panic!("there is room"));
        }
        self.note(cx, format!("{}", count.0));
        reply.send(count.0);
    }
}

impl AsyncHandler<Wait> for Traveller {
    async fn handle(&mut self, wait: Wait, cx: &mut Context<Self>) -> u32 {
        let other = cx.spawn_on(0, || Sleeper).unwrap();
        other.ask(Wait(wait.0)).deadline(SECOND).await.unwrap_or(7)
    }
}

/// Never answers.
struct Sleeper;
impl Actor for Sleeper {}
impl AsyncHandler<Wait> for Sleeper {
    async fn handle(&mut self, _: Wait, _: &mut Context<Self>) -> u32 {
        std::future::pending().await
    }
}

struct Trip {
    diary: Diary,
    actor: ActorRef<Traveller>,
}

fn traveller(kit: &TestKit, shard: u16) -> Trip {
    let diary = Diary::default();
    let its = Arc::clone(&diary);
    let actor = kit.spawn_on(shard, move || Traveller { diary: Arc::clone(&its), ..Traveller::default() }).unwrap();
    actor.started().wait().unwrap();
    Trip { diary, actor }
}

impl Trip {
    fn does(&self, kit: &TestKit, what: Do) {
        self.actor.send(what).wait().unwrap();
        kit.run_until_idle();
    }

    fn diary(&self, kit: &TestKit) -> Vec<(u16, String)> {
        kit.run_until_idle();
        std::mem::take(&mut *self.diary.lock().unwrap())
    }

    fn entries(&self, kit: &TestKit) -> Vec<String> {
        self.diary(kit).into_iter().map(|(_, what)| what).collect()
    }
}

#[test]
fn timers_go_along_with_their_due_times_and_their_names() {
    let kit = TestKit::builder().shards(3).start();
    let trip = traveller(&kit, 0);
    trip.actor.tell(Do::Set).unwrap();
    kit.advance(5 * MILLI);
    trip.actor.move_to(1).wait().unwrap();
    kit.advance(6 * MILLI);
    let heard = trip.diary(&kit);
    let expected = [(0, "rate 4"), (1, "delay 6"), (1, "rate 8"), (1, "once 10")];
    assert_eq!(heard, expected.map(|(shard, what)| (shard, what.to_owned())));
    // By the names that they were given on another shard.
    trip.actor.move_to(2).wait().unwrap();
    trip.does(&kit, Do::Cancel(1));
    kit.advance(7 * MILLI);
    trip.actor.move_to(0).wait().unwrap();
    trip.does(&kit, Do::Cancel(2));
    kit.advance(60 * MILLI);
    let heard = trip.diary(&kit);
    assert_eq!(heard[..2], [(2, "delay 12".to_owned()), (2, "delay 18".to_owned())]);
    assert!(heard.len() == 3 && heard[2].0 == 0 && heard[2].1.starts_with("idle 6"), "{heard:?}");
    trip.actor.stop().wait();
    kit.run_until_idle();
    assert_eq!(kit.engine().stats().iter().map(|stats| stats.timers).sum::<u64>(), 0);
}

#[test]
fn a_panic_after_a_move_rebuilds_it_where_it_is_with_its_mailbox() {
    let kit = TestKit::new();
    kit.allow_panics();
    let trip = traveller(&kit, 0);
    let there = trip.actor.move_to(1).wait().unwrap();
    there.tell(Do::Busy(true)).unwrap();
    there.tell(Do::Boom).unwrap();
    there.tell(Tick("kept")).unwrap();
    trip.actor.tell(Tick("kept")).unwrap();
    assert_eq!(there.ask(Count(3)).wait(), Ok(3), "not busy: another state");
    let shards: Vec<_> = trip.diary(&kit).into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(shards, [1, 1, 1]);
}

#[test]
fn names_lead_to_where_it_is_and_end_with_it() {
    let kit = TestKit::new();
    let trip = traveller(&kit, 0);
    kit.register("traveller", trip.actor).unwrap();
    kit.run_until_idle();
    let there = trip.actor.move_to(1).wait().unwrap();
    assert_eq!(kit.lookup::<Traveller>("traveller"), Ok(there));
    kit.register("under way", trip.actor).unwrap();
    kit.run_until_idle();
    trip.actor.stop().wait();
    kit.run_until_idle();
    for name in ["traveller", "under way"] {
        assert_eq!(kit.lookup::<Traveller>(name), Err(LookupError::NotFound));
    }
}

#[test]
fn watches_hold_on_both_sides_and_end_when_they_are_ended() {
    let kit = TestKit::builder().shards(3).start();
    let (one, other, third) = (traveller(&kit, 0), traveller(&kit, 1), traveller(&kit, 2));
    one.does(&kit, Do::Watch(other.actor.id()));
    one.does(&kit, Do::Watch(third.actor.id()));
    other.does(&kit, Do::Watch(one.actor.id()));
    let there = one.actor.move_to(2).wait().unwrap();
    third.does(&kit, Do::Watch(there.id()));
    one.does(&kit, Do::Unwatch(third.actor.id()));
    assert_eq!(kit.census().watches(), 3, "and none of the one that was ended");
    third.actor.stop().wait();
    assert_eq!(one.entries(&kit), Vec::<String>::new(), "unwatched after the move");
    other.actor.stop().wait();
    assert_eq!(one.entries(&kit), ["Stopped"], "watched before the move");
    assert_eq!(other.entries(&kit), ["stopped: Stopped"]);

    let (watcher, later) = (traveller(&kit, 1), traveller(&kit, 1));
    watcher.does(&kit, Do::Watch(one.actor.id()));
    later.does(&kit, Do::Watch(there.id()));
    one.actor.stop().wait();
    assert_eq!((watcher.entries(&kit), later.entries(&kit)), (vec!["Stopped".to_owned()], vec!["Stopped".to_owned()]));
    assert_eq!(kit.census().watches(), 0);
}

#[test]
fn links_take_along_in_both_directions_and_can_be_ended() {
    for (breaks, unlinks) in [(0, false), (1, false), (0, true), (1, true)] {
        let kit = TestKit::new();
        kit.allow_panics();
        let (one, other) = (traveller(&kit, 0), traveller(&kit, 1));
        one.does(&kit, Do::Link(other.actor.id()));
        one.actor.move_to(1).wait().unwrap();
        if unlinks {
            one.does(&kit, Do::Unlink(other.actor.id()));
        }
        let (victim, linked) = if breaks == 0 { (&one, &other) } else { (&other, &one) };
        assert_eq!(victim.actor.kill().wait(), StopReason::Killed);
        let heard = linked.entries(&kit);
        assert_eq!(heard.iter().any(|what| what.contains("LinkBroken")), !unlinks, "{breaks} {heard:?}");
        assert_eq!(kit.census().of::<Traveller>(), usize::from(unlinks));
    }
    let kit = TestKit::new();
    let (one, other) = (traveller(&kit, 0), traveller(&kit, 1));
    one.does(&kit, Do::Link(other.actor.id()));
    one.actor.move_to(1).wait().unwrap();
    one.does(&kit, Do::Trap);
    other.actor.kill().wait();
    assert_eq!(one.entries(&kit), ["Killed"], "told, and it lives");
}

#[test]
fn what_stays_on_a_shard_keeps_it_there_until_it_is_done() {
    let kit = TestKit::new();
    let probe = kit.probe::<Question>();
    let trip = traveller(&kit, 0);
    trip.does(&kit, Do::AskLater(probe.recipient()));
    assert_eq!(trip.actor.move_to(1).wait(), Err(MoveError::Awaits));
    probe.expect_msg();
    probe.reply(3);
    assert_eq!(trip.diary(&kit), [(0, "Ok(3)".to_owned())]);
    // An async handler is waited for.
    let answer = trip.actor.ask(Wait(MILLI)).deadline(60 * SECOND);
    let moved = trip.actor.move_to(1);
    kit.block_on(async {
        let (answer, moved) = (Box::pin(answer.into_future()), moved);
        assert_eq!(answer.await, Ok(7));
        assert_eq!(moved.await.unwrap().id().shard().get(), 1);
    });
    trip.does(&kit, Do::Child);
    assert_eq!(trip.actor.move_to(0).wait(), Err(MoveError::HasChildren));
    let parent = traveller(&kit, 0);
    let boss = kit.spawn_on(0, || Boss).unwrap();
    let child = boss.ask(Hire).wait().unwrap();
    assert_eq!(child.move_to(1).wait(), Err(MoveError::HasParent));
    let local = boss.ask(Found).wait().unwrap();
    assert_eq!(local.move_to(1).wait(), Err(MoveError::LocalFactory));
    parent.actor.stop().wait();
}

struct Boss;
impl Actor for Boss {}

#[message(reply = ActorRef<Traveller>)]
struct Hire;

#[message(reply = ActorRef<Traveller>)]
struct Found;

impl Handler<Hire> for Boss {
    fn handle(&mut self, _: Hire, cx: &mut Context<Self>) -> ActorRef<Traveller> {
        cx.spawn(Traveller::default).unwrap()
    }
}

impl Handler<Found> for Boss {
    fn handle(&mut self, _: Found, cx: &mut Context<Self>) -> ActorRef<Traveller> {
        cx.spawn_named("local", Traveller::default).unwrap()
    }
}

#[test]
fn what_it_owes_and_what_it_has_put_aside_goes_along() {
    let kit = TestKit::new();
    let trip = traveller(&kit, 0);
    let owed = trip.actor.ask(Question).deadline(SECOND).into_future();
    trip.does(&kit, Do::Busy(true));
    let aside = trip.actor.ask(Count(5)).deadline(SECOND).into_future();
    kit.block_on(async {
        let (mut owed, mut aside) = (Box::pin(owed), Box::pin(aside));
        // Sends both questions.
        std::future::poll_fn(|cx| {
            assert!(owed.as_mut().poll(cx).is_pending() && aside.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(trip.actor.ask(Owing).await, Ok(1));
        let there = trip.actor.move_to(1).await.unwrap();
        assert_eq!(there.ask(Owing).await, Ok(1));
        trip.actor.tell(Do::Answer(4)).unwrap();
        trip.actor.tell(Do::Busy(false)).unwrap();
        assert_eq!((owed.await, aside.await), (Ok(4), Ok(5)));
    });
}

#[test]
fn whatever_ends_it_on_its_way_ends_it_everywhere_and_counts_what_is_lost() {
    TestKit::builder().shards(3).check_seeds(0..150, |kit| {
        kit.allow_dead_letters(|_| true);
        kit.allow_panics();
        let trip = traveller(kit, 0);
        let places = [trip.actor, trip.actor.move_to(1).wait().unwrap()];
        let watcher = traveller(kit, 2);
        for place in places {
            watcher.does(kit, Do::Watch(place.id()));
        }
        let told = 60;
        for number in 0..told {
            places[number as usize % 2].tell(Tick("told")).unwrap();
            if number == 20 {
                drop(places[0].move_to(u16::try_from(kit.seed() % 3).unwrap()));
            }
            if number == 40 {
                let place = places[kit.seed() as usize / 3 % 2];
                drop(match kit.seed() % 4 {
                    0 => place.stop(),
                    1 => place.kill(),
                    2 => place.drain(),
                    _ => trip.actor.stop(),
                });
            }
        }
        kit.run_until_idle();
        let handled = trip.entries(kit).iter().filter(|what| what.starts_with("told")).count() as u64;
        assert_eq!(handled + kit.engine().dead_letters().total(), u64::from(told as u32));
        assert_eq!(watcher.entries(kit).len(), 2, "one end for each reference that is watched");
        for place in places {
            assert_eq!(place.ask(Count(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
        }
        watcher.actor.stop().wait();
        kit.run_until_idle();
        assert!(kit.census().actors.is_empty(), "{:?}", kit.census().actors);
    });
}

#[test]
fn by_an_old_reference_a_kill_is_faster_than_a_stop_and_a_stop_than_a_drain() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|_| true);
    let trip = traveller(&kit, 0);
    let there = trip.actor.move_to(1).wait().unwrap();
    let stall = kit.stall(there);
    there.tell(Tick("never")).unwrap();
    kit.run_until(|| kit.census().actors.iter().any(|actor| actor.queued == 1));
    let (drained, stopped) = (trip.actor.drain(), trip.actor.stop());
    assert_eq!((drained.wait(), stopped.wait()), (StopReason::Stopped, StopReason::Stopped));
    assert_eq!(trip.entries(&kit), ["stopped: Stopped"]);
    drop(stall);

    let trip = traveller(&kit, 0);
    trip.actor.move_to(1).wait().unwrap();
    let waits = trip.actor.ask(Wait(MILLI)).deadline(60 * SECOND);
    kit.block_on(async {
        let mut waits = Box::pin(waits.into_future());
        std::future::poll_fn(|cx| {
            assert!(waits.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        while !kit.census().actors.iter().any(|actor| actor.suspended) {
            let _ = trip.actor.started().await;
        }
        let (stopped, killed) = (trip.actor.stop(), trip.actor.kill());
        assert_eq!((stopped.await, killed.await), (StopReason::Killed, StopReason::Killed));
        assert!(waits.await.is_err(), "its future was dropped where it waited");
    });
}

#[test]
fn a_drain_by_an_old_reference_handles_what_was_sent_by_it() {
    TestKit::builder().shards(3).check_seeds(0..50, |kit| {
        let trip = traveller(kit, 0);
        trip.actor.move_to(1).wait().unwrap();
        for _ in 0..40 {
            trip.actor.tell(Tick("told")).unwrap();
        }
        assert_eq!(trip.actor.drain().wait(), StopReason::Drained);
        assert_eq!(trip.entries(kit).len(), 41);
    });
}

#[test]
fn a_forwarder_is_as_bounded_as_an_actor_and_loses_nothing() {
    let kit = TestKit::builder().shards(2).engine(|builder| {
        let mut config = Config::default();
        config.shards = Some(2);
        config.mailbox_capacity = 8;
        builder.config(config)
    });
    let kit = kit.start();
    let trip = traveller(&kit, 0);
    let there = trip.actor.move_to(1).wait().unwrap();
    let stall = kit.stall(there);
    let flood = kit.spawn_on(0, {
        let to = trip.actor;
        move || Flood { to, accepted: 0 }
    });
    let flood = flood.unwrap();
    for _ in 0..100 {
        flood.tell(Tick("")).unwrap();
        kit.advance(MILLI);
    }
    let accepted = flood.ask(Question).wait().unwrap();
    assert!((8..=8 + 8 + 8).contains(&accepted), "two mailboxes, and what was under way: {accepted}");
    drop(stall);
    kit.advance(SECOND);
    assert_eq!(trip.entries(&kit).len() as u32, accepted);
    assert_eq!(kit.engine().dead_letters().total(), 0);
}

struct Flood {
    to: ActorRef<Traveller>,
    accepted: u32,
}
impl Actor for Flood {}
impl Handler<Tick> for Flood {
    fn handle(&mut self, _: Tick, _: &mut Context<Self>) {
        self.accepted += u32::from(self.to.tell(Tick("flood")).is_ok());
    }
}
impl Handler<Question> for Flood {
    fn handle(&mut self, _: Question, _: &mut Context<Self>) -> u32 {
        self.accepted
    }
}

/// Says where it is, and how often it was asked in this life.
struct Account {
    asked: u32,
}
impl Actor for Account {
    fn moving() -> Moving<Self> {
        Moving::value()
    }
}
impl VirtualActor for Account {
    const TYPE: &'static str = "moving.account";

    fn activate(_: &str) -> Self {
        Self { asked: 0 }
    }

    fn settings() -> VirtualSettings {
        VirtualSettings::default().idle_timeout(10 * SECOND)
    }
}

#[message(id = "moving.look", reply = (u16, u32))]
struct Look;

impl Handler<Look> for Account {
    fn handle(&mut self, _: Look, cx: &mut Context<Self>) -> (u16, u32) {
        assert_eq!(cx.key().unwrap().as_str(), "alice");
        self.asked += 1;
        (cx.shard().get(), self.asked)
    }
}

#[test]
fn a_virtual_actor_moves_comes_home_to_sleep_and_wakes_there() {
    let kit = TestKit::builder()
        .shards(3)
        .engine(|builder| builder.register::<Account>(|account| account.accept::<Look, _>()));
    let kit = kit.start();
    let alice = kit.actor::<Account>("alice");
    assert_eq!(alice.move_to(0).unwrap().wait(), Err(MoveError::Stopped), "asleep");
    let (home, _) = alice.ask(Look).wait().unwrap();
    let away = (home + 1) % 3;
    alice.move_to(away).unwrap().wait().unwrap();
    assert_eq!(alice.ask(Look).wait(), Ok((away, 2)));
    kit.advance(60 * SECOND);
    assert_eq!(alice.activity().wait(), Activity::Asleep);
    assert_eq!(alice.ask(Look).wait(), Ok((home, 1)), "another life, at home");
    alice.move_to(away).unwrap().wait().unwrap();
    assert_eq!(alice.passivate().unwrap().wait(), StopReason::Passivated);
    assert_eq!(alice.ask(Look).wait(), Ok((home, 1)));
    alice.move_to(away).unwrap().wait().unwrap().stop().wait();
    kit.run_until_idle();
    assert_eq!(alice.ask(Look).wait(), Ok((home, 1)), "stopped on the way, activated at home");
    assert_eq!(kit.engine().dead_letters().total(), 0);
}

#[test]
fn on_real_threads_nothing_is_lost_either() {
    let engine = support::engine_with_mailboxes(3, 32);
    let diary = Diary::default();
    let its = Arc::clone(&diary);
    let actor = engine.spawn_on(0, move || Traveller { diary: Arc::clone(&its), ..Traveller::default() }).unwrap();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            std::thread::spawn(move || {
                for number in 0..500 {
                    if number % 10 == 0 {
                        let asked = || actor.ask(Count(sender * 1000 + number)).wait();
                        // Not executed then, and asked again.
                        let full = Err(AskError::Rejected(Rejected::Full));
                        let answer = std::iter::repeat_with(asked).find(|answer| *answer != full);
                        assert_eq!(answer, Some(Ok(sender * 1000 + number)));
                    } else {
                        actor.send(Count(sender * 1000 + number)).wait().unwrap();
                    }
                }
            })
        })
        .collect();
    let mut place = actor;
    for hop in 0..60 {
        place = if hop % 2 == 0 { actor } else { place }.move_to(hop % 3).wait().unwrap();
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    actor.drain().wait();
    let mut last = [None; 4];
    for (_, what) in diary.lock().unwrap().iter().filter(|(_, what)| !what.starts_with("stopped")) {
        let count: u32 = what.parse().unwrap();
        let (sender, number) = ((count / 1000) as usize, count % 1000);
        assert_eq!(last[sender].map_or(0, |last: u32| last + 1), number);
        last[sender] = Some(number);
    }
    assert_eq!(last, [Some(499); 4]);
    engine.shutdown().unwrap();
}
