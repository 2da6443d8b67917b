//! Hazard: timers. In the simulator time is exact: order, periods, cancelled and missed ticks. On the real drivers only what
//! does not depend on how fast the machine is.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::testkit::TestKit;
use shardstage::{NodeId, TimerId};
use support::{Log, config, engine};

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[message]
struct Fired(u64);

/// Sets timers: each pair is (delay in ms, number).
#[message]
struct After(Vec<(u32, u64)>);

#[message]
struct Every {
    period: Duration,
    number: u64,
    ticks: u64,
}

#[message]
struct SetAndCancel;

#[message]
struct Boom;

#[message]
struct Hold(Sender<shardstage::Resume>);

struct Clock {
    log: Log<(u64, u64)>,
    repeating: Option<TimerId>,
    left: u64,
    done: Option<Sender<()>>,
    began_ns: u64,
}

impl Clock {
    fn new(log: Log<(u64, u64)>, done: Option<Sender<()>>) -> Self {
        Self { log, repeating: None, left: u64::MAX, done, began_ns: 0 }
    }
}

impl Actor for Clock {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.began_ns = cx.now_ns();
        Ok(())
    }
}

impl Handler<Fired> for Clock {
    fn handle(&mut self, fired: Fired, cx: &mut Context<Self>) {
        self.log.push(((cx.now_ns() - self.began_ns) / 1_000_000, fired.0));
        self.left -= 1;
        if self.left == 0 {
            assert!(cx.cancel(self.repeating.take().unwrap()), "it would have gone on");
            if let Some(done) = &self.done {
                done.send(()).unwrap();
            }
        }
    }
}

impl Handler<After> for Clock {
    fn handle(&mut self, after: After, cx: &mut Context<Self>) {
        for (delay, number) in after.0 {
            cx.after(MS * delay, Fired(number));
        }
    }
}

impl Handler<Every> for Clock {
    fn handle(&mut self, every: Every, cx: &mut Context<Self>) {
        self.left = every.ticks;
        self.repeating = Some(cx.every(every.period, Fired(every.number)));
    }
}

impl Handler<SetAndCancel> for Clock {
    fn handle(&mut self, _: SetAndCancel, cx: &mut Context<Self>) {
        let never = cx.after(Duration::ZERO, Fired(1));
        cx.after(Duration::ZERO, Fired(2));
        assert!(cx.cancel(never), "in time");
        assert!(!cx.cancel(never), "only once");
        // Ends never, and is no reason to overflow.
        cx.after(Duration::MAX, Fired(3));
        // Many that are cancelled leave nothing behind.
        for _ in 0..10_000 {
            let timer = cx.after(Duration::from_secs(3600), Fired(4));
            cx.cancel(timer);
        }
    }
}

impl Handler<Boom> for Clock {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Handler<Hold> for Clock {
    fn handle(&mut self, hold: Hold, cx: &mut Context<Self>) {
        hold.0.send(cx.suspend()).unwrap();
    }
}

fn run(world: &SimWorld, time: Duration) {
    world.run_for(u64::try_from(time.as_nanos()).unwrap());
}

/// A clock in a simulated world, and the world.
fn simulated(log: &Log<(u64, u64)>, mailbox: u32) -> (SimWorld, Engine, ActorRef<Clock>) {
    let world = SimWorld::new(SimOptions::seeded(7));
    let mut config = config(1);
    config.mailbox_capacity = mailbox;
    let engine = Engine::builder().config(config).start_in_sim(&world, NodeId::new(0)).unwrap();
    let log = log.clone();
    let clock = engine.spawn(move || Clock::new(log.clone(), None)).unwrap();
    (world, engine, clock)
}

#[test]
fn timers_fire_in_order_of_their_time_and_never_early() {
    let log = Log::new();
    let (world, _engine, clock) = simulated(&log, 1024);
    clock.tell(After(vec![(30, 3), (10, 1), (20, 2), (10, 11)])).unwrap();
    run(&world, 50 * MS);
    let numbers: Vec<_> = log.all().iter().map(|entry| entry.1).collect();
    assert_eq!(numbers, [1, 11, 2, 3]);
    for (at_ms, number) in log.all() {
        let due = if number == 11 { 10 } else { number * 10 };
        assert!((due..due + 2).contains(&at_ms), "{number} at {at_ms} ms");
    }
}

#[test]
fn repeating_timers_keep_their_rate_until_they_are_cancelled() {
    let log = Log::new();
    let (world, _engine, clock) = simulated(&log, 1024);
    clock.tell(Every { period: 10 * MS, number: 5, ticks: 7 }).unwrap();
    run(&world, 200 * MS);
    assert_eq!(log.len(), 7);
    for (tick, (at_ms, _)) in (1..).zip(log.all()) {
        assert!((tick * 10..tick * 10 + 2).contains(&at_ms), "tick {tick} at {at_ms} ms: the rate is fixed");
    }
}

#[test]
fn ticks_that_find_no_room_are_counted_and_left_out() {
    let log = Log::new();
    let (world, engine, clock) = simulated(&log, 4);
    clock.tell(Every { period: 10 * MS, number: 5, ticks: u64::MAX }).unwrap();
    run(&world, MS);
    let (out, held) = channel();
    clock.tell(Hold(out)).unwrap();
    run(&world, 1000 * MS);
    assert_eq!(log.len(), 0);
    let missed = engine.stats()[0].missed_ticks;
    assert!((94..=97).contains(&missed), "four found room: {missed}");
    drop(held.recv().unwrap());
    run(&world, 95 * MS);
    assert!((12..=14).contains(&log.len()), "the four, and then one every 10 ms: {}", log.len());
}

#[test]
fn a_rebuilt_or_stopped_actor_gets_no_timer_of_its_predecessor() {
    let log = Log::new();
    let (world, engine, clock) = simulated(&log, 1024);
    clock.tell(After(vec![(10, 1)])).unwrap();
    clock.tell(Every { period: 10 * MS, number: 5, ticks: u64::MAX }).unwrap();
    clock.tell(Boom).unwrap();
    clock.tell(After(vec![(20, 2)])).unwrap();
    run(&world, 100 * MS);
    assert_eq!(log.all().iter().map(|entry| entry.1).collect::<Vec<_>>(), [2]);
    clock.tell(After(vec![(20, 3)])).unwrap();
    run(&world, 5 * MS);
    let stopped = clock.stop();
    run(&world, 100 * MS);
    assert_eq!(world.block_on(stopped, 1_000_000_000), Some(StopReason::Stopped));
    assert_eq!(log.len(), 1);
    assert_eq!(engine.dead_letters().total(), 0, "a timer that ends with its actor is no dead letter");
}

#[test]
fn real_timers_fire_once_and_cancelled_ones_never() {
    let engine = engine(1);
    let log = Log::new();
    let for_factory = log.clone();
    let (done, ticked) = channel();
    let clock = engine.spawn(move || Clock::new(for_factory.clone(), Some(done.clone()))).unwrap();
    clock.ask(SetAndCancel).wait().unwrap();
    clock.tell(Every { period: MS, number: 9, ticks: 20 }).unwrap();
    ticked.recv().unwrap();
    let numbers: Vec<_> = log.all().iter().map(|entry| entry.1).collect();
    assert_eq!(
        numbers.iter().filter(|number| **number == 9).count() as u64
            + numbers.iter().filter(|number| **number == 2).count() as u64,
        numbers.len() as u64
    );
    assert!(numbers.contains(&2) && !numbers.contains(&1));
    for (tick, (at_ms, _)) in (1..).zip(log.all().into_iter().filter(|entry| entry.1 == 9)) {
        assert!(at_ms >= tick, "tick {tick} came early, at {at_ms} ms");
    }
    engine.shutdown().unwrap();
}

/// Repeats at a fixed delay; a tick takes [`Slow::takes`].
struct Slow {
    ticks: Log<u64>,
    takes: Duration,
    timer: Option<TimerId>,
    resume: Option<shardstage::Resume>,
}

#[derive(Clone)]
#[message]
struct SlowTick;
#[derive(Clone)]
#[message]
struct Done;
#[message(reply = (bool, u64))]
struct CancelSlow;

impl Actor for Slow {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.timer = Some(cx.every_with_delay(10 * MS, SlowTick));
        Ok(())
    }
}

/// Waits in an `async fn` for a helper that answers after [`Slow::takes`].
#[message]
struct Nap(Duration);

struct Bed(Option<shardstage::Reply<()>>);
impl Actor for Bed {}

impl shardstage::DeferredHandler<Nap> for Bed {
    fn handle(&mut self, nap: Nap, reply: shardstage::Reply<()>, cx: &mut Context<Self>) {
        self.0 = Some(reply);
        cx.after(nap.0, Done);
    }
}

impl Handler<Done> for Bed {
    fn handle(&mut self, _: Done, _cx: &mut Context<Self>) {
        self.0.take().unwrap().send(());
    }
}

impl AsyncHandler<SlowTick> for Slow {
    async fn handle(&mut self, _: SlowTick, cx: &mut Context<Self>) {
        self.ticks.push(cx.now_ns() / 1_000_000);
        let bed = cx.spawn(|| Bed(None)).unwrap();
        bed.ask(Nap(self.takes)).await.unwrap();
    }
}

impl Handler<CancelSlow> for Slow {
    fn handle(&mut self, _: CancelSlow, cx: &mut Context<Self>) -> (bool, u64) {
        drop(self.resume.take());
        let timer = self.timer.unwrap();
        (cx.cancel(timer), cx.missed_ticks(timer))
    }
}

#[test]
fn a_fixed_delay_counts_from_the_end_of_the_handler() {
    let kit = TestKit::new();
    let ticks = Log::new();
    let log = ticks.clone();
    let slow = kit.spawn(move || Slow { ticks: log.clone(), takes: 7 * MS, timer: None, resume: None }).unwrap();
    kit.advance(200 * MS);
    let seen = ticks.all();
    assert!((10..=12).contains(&seen.len()), "one every 17 ms: {seen:?}");
    for pair in seen.windows(2) {
        assert!((17..=18).contains(&(pair[1] - pair[0])), "10 ms after the handler's end: {seen:?}");
    }
    let stats = kit.engine().stats();
    assert_eq!(stats.iter().map(|shard| shard.missed_ticks).sum::<u64>(), 0, "it never waits behind itself");
    assert_eq!(slow.ask(CancelSlow).wait().unwrap(), (true, 0));
    assert_eq!(slow.ask(CancelSlow).wait().unwrap(), (false, 0), "once");
    kit.advance(200 * MS);
    assert!(ticks.len() <= seen.len() + 1);
    assert_eq!(kit.engine().stats().iter().map(|shard| shard.timers).sum::<u64>(), 0);
}

/// Tells what its timer missed, and lives for a bounded time.
struct Mayfly {
    tick: Option<TimerId>,
}

#[message(reply = u64)]
struct Missed;
#[message]
struct Panic;
#[message(reply = TimerId)]
struct TheTimer;
#[message(reply = bool)]
struct CancelThis(TimerId);

impl Actor for Mayfly {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.tick = Some(cx.every(10 * MS, SlowTick));
        Ok(())
    }
}

impl Handler<SlowTick> for Mayfly {
    fn handle(&mut self, _: SlowTick, _cx: &mut Context<Self>) {}
}

impl Handler<After> for Mayfly {
    fn handle(&mut self, after: After, cx: &mut Context<Self>) {
        let (delay, kind) = after.0[0];
        if kind == 0 {
            cx.stop_after(MS * delay)
        } else {
            cx.kill_after(MS * delay)
        };
    }
}

impl Handler<Missed> for Mayfly {
    fn handle(&mut self, _: Missed, cx: &mut Context<Self>) -> u64 {
        cx.missed_ticks(self.tick.unwrap())
    }
}

impl Handler<Panic> for Mayfly {
    fn handle(&mut self, _: Panic, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Handler<TheTimer> for Mayfly {
    fn handle(&mut self, _: TheTimer, _cx: &mut Context<Self>) -> TimerId {
        self.tick.unwrap()
    }
}

impl Handler<CancelThis> for Mayfly {
    fn handle(&mut self, cancel: CancelThis, cx: &mut Context<Self>) -> bool {
        cx.cancel(cancel.0)
    }
}

#[test]
fn missed_ticks_are_counted_for_each_timer() {
    let kit = TestKit::new();
    let busy = kit.spawn(|| Mayfly { tick: None }).unwrap();
    kit.run_until_idle();
    let shard = busy.id().shard();
    kit.stall_shard(shard.get(), 95 * MS);
    kit.advance(95 * MS);
    let other = kit.spawn(|| Mayfly { tick: None }).unwrap();
    kit.advance(20 * MS);
    let missed = busy.ask(Missed).wait().unwrap();
    assert!((7..=9).contains(&missed), "the shard was late by 95 ms: {missed}");
    assert_eq!(other.ask(Missed).wait().unwrap(), 0);
}

#[test]
fn an_actor_cancels_its_own_timers_only() {
    let kit = TestKit::builder().shards(1).start();
    let (one, other) = (kit.spawn(|| Mayfly { tick: None }).unwrap(), kit.spawn(|| Mayfly { tick: None }).unwrap());
    let timer = one.ask(TheTimer).wait().unwrap();
    assert!(!other.ask(CancelThis(timer)).wait().unwrap());
    assert!(one.ask(CancelThis(timer)).wait().unwrap());
    assert!(!one.ask(CancelThis(timer)).wait().unwrap());
}

#[test]
fn stop_after_bounds_the_life_across_rebuilds_and_no_other_timer_outlives_its_state() {
    let kit = TestKit::builder().shards(1).start();
    kit.allow_panics();
    let mayfly = kit.spawn(|| Mayfly { tick: None }).unwrap();
    let timers = || kit.engine().stats().iter().map(|shard| shard.timers).sum::<u64>();
    mayfly.tell(After(vec![(95, 0)])).unwrap();
    kit.run_until_idle();
    assert_eq!(timers(), 2);
    mayfly.tell(Panic).unwrap();
    kit.run_until_idle();
    assert_eq!(timers(), 2, "its successor's tick, and its own end");
    kit.advance(90 * MS);
    assert_eq!(mayfly.ask(Missed).wait(), Ok(0));
    kit.advance(10 * MS);
    assert_eq!(kit.engine().stats()[0].actors, 0, "it has ended");
    assert_eq!(timers(), 0, "nothing is left of it");
    let mayfly = kit.spawn(|| Mayfly { tick: None }).unwrap();
    let stopped = mayfly.stopped();
    mayfly.tell(After(vec![(20, 1)])).unwrap();
    kit.advance(21 * MS);
    assert_eq!(stopped.wait(), StopReason::Killed);
    kit.finish();
}

/// Notes when it was idle; its own ticks do not count.
struct Quiet {
    idle: Log<u64>,
    began_ns: u64,
}

#[derive(Clone)]
#[message]
struct Idle;
#[message(reply = bool)]
struct Clear;

impl Actor for Quiet {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.began_ns = cx.now_ns();
        cx.set_idle_timeout(Duration::from_secs(5), Done);
        cx.set_idle_timeout(100 * MS, Idle);
        cx.every(7 * MS, SlowTick);
        Ok(())
    }
}

impl Handler<Idle> for Quiet {
    fn handle(&mut self, _: Idle, cx: &mut Context<Self>) {
        self.idle.push((cx.now_ns() - self.began_ns) / 1_000_000);
    }
}

impl Handler<Done> for Quiet {
    fn handle(&mut self, _: Done, _cx: &mut Context<Self>) {
        unreachable!("it was replaced");
    }
}

impl Handler<SlowTick> for Quiet {
    fn handle(&mut self, _: SlowTick, _cx: &mut Context<Self>) {}
}

impl Handler<Clear> for Quiet {
    fn handle(&mut self, _: Clear, cx: &mut Context<Self>) -> bool {
        cx.clear_idle_timeout()
    }
}

impl Handler<Panic> for Quiet {
    fn handle(&mut self, _: Panic, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

#[test]
fn an_idle_timeout_counts_from_the_last_message_of_somebody_else() {
    let kit = TestKit::new();
    kit.allow_panics();
    let idle = Log::new();
    let log = idle.clone();
    let quiet = kit.spawn(move || Quiet { idle: log.clone(), began_ns: 0 }).unwrap();
    kit.run_until_idle();
    // Spoken to every 60 ms: never idle.
    for _ in 0..5 {
        kit.advance(60 * MS);
        quiet.tell(SlowTick).unwrap();
    }
    kit.run_until_idle();
    assert_eq!(idle.len(), 0, "{:?}", idle.all());
    kit.advance(250 * MS);
    let seen = idle.all();
    assert!(seen.len() == 2 && (400..402).contains(&seen[0]) && (500..502).contains(&seen[1]), "{seen:?}");
    // A rebuild begins anew, with the timeout that the new state sets.
    quiet.tell(Panic).unwrap();
    kit.advance(95 * MS);
    assert_eq!(idle.len(), 2);
    kit.advance(10 * MS);
    assert_eq!(idle.len(), 3);
    assert!(quiet.ask(Clear).wait().unwrap());
    assert!(!quiet.ask(Clear).wait().unwrap(), "there is none any more");
    kit.advance(1000 * MS);
    assert_eq!(idle.len(), 3);
}
