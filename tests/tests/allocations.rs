//! Hazard: a message that allocates. Counts every allocation of the process while messages go round in steady state: none
//! for tell, ask, timer and async handler, on one shard and between shards; one for a message of more than 40 bytes, and one
//! for an ask from a thread outside the shards.
//!
//! One test, since the counter sees all threads.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::alloc::System;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use shardstage::prelude::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::config;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Operations before the count begins: tables and queues have grown to what they need.
const WARM_UP: u64 = 20_000;
/// Operations that are counted.
const COUNTED: u64 = 20_000;
/// Operations under way at a time.
const WIDTH: u64 = 32;

#[derive(Clone, Copy, Debug)]
enum Row {
    Tell,
    Tell48,
    Ask,
    Ask40,
    Ask48,
    Timer,
    Async,
    /// An async handler that another thread wakes.
    Wake,
}

#[message]
struct Ball(ActorRef<Player>);
#[message]
struct Back;
#[message]
struct BigBall(ActorRef<Player>, #[allow(dead_code)] [u64; 4]);
#[message]
struct BigBack(#[allow(dead_code)] [u64; 6]);
#[message(reply = u64)]
struct Question(u64);
#[message(reply = u64)]
struct Question40([u64; 5]);
#[message(reply = u64)]
struct Question48([u64; 6]);
#[message]
struct Tick;
#[message]
struct Go;

struct Wall;
impl Actor for Wall {}

impl Handler<Ball> for Wall {
    fn handle(&mut self, ball: Ball, _cx: &mut Context<Self>) {
        ball.0.tell(Back).unwrap();
    }
}

impl Handler<BigBall> for Wall {
    fn handle(&mut self, ball: BigBall, _cx: &mut Context<Self>) {
        ball.0.tell(BigBack([0; 6])).unwrap();
    }
}

impl Handler<Question> for Wall {
    fn handle(&mut self, question: Question, _cx: &mut Context<Self>) -> u64 {
        question.0
    }
}

impl Handler<Question40> for Wall {
    fn handle(&mut self, question: Question40, _cx: &mut Context<Self>) -> u64 {
        question.0[4]
    }
}

impl Handler<Question48> for Wall {
    fn handle(&mut self, question: Question48, _cx: &mut Context<Self>) -> u64 {
        question.0[5]
    }
}

/// The count when it is done. Unlike a channel, it allocates nothing for whoever comes to wait after the count has begun.
#[derive(Clone, Default)]
struct Counted(Arc<(Mutex<Option<usize>>, Condvar)>);

impl Counted {
    fn set(&self, count: usize) {
        *self.0.0.lock().unwrap() = Some(count);
        self.0.1.notify_one();
    }

    fn wait(&self) -> usize {
        let count = self.0.1.wait_while(self.0.0.lock().unwrap(), |count| count.is_none()).unwrap();
        count.expect("waited for")
    }
}

/// Keeps [`WIDTH`] operations of one kind under way and counts allocations meanwhile.
struct Player {
    row: Row,
    wall: ActorRef<Wall>,
    done: u64,
    region: Option<Region<'static, System>>,
    counted: usize,
    clock: AlarmClock,
    out: Counted,
}
impl Actor for Player {}

impl Player {
    fn begin(&mut self, cx: &mut Context<Self>) {
        match self.row {
            Row::Tell => self.wall.tell(Ball(cx.me())).unwrap(),
            Row::Tell48 => self.wall.tell(BigBall(cx.me(), [0; 4])).unwrap(),
            Row::Ask => cx.ask(self.wall, Question(1)).then(|this, reply, cx| this.ended(reply == Ok(1), cx)),
            Row::Ask40 => cx.ask(self.wall, Question40([2; 5])).then(|this, reply, cx| this.ended(reply == Ok(2), cx)),
            Row::Ask48 => cx.ask(self.wall, Question48([3; 6])).then(|this, reply, cx| this.ended(reply == Ok(3), cx)),
            Row::Timer => {
                cx.after(Duration::from_nanos(1), Tick);
            }
            Row::Async => cx.me().tell(Go).unwrap(),
            Row::Wake => cx.me().tell(Sleep).unwrap(),
        }
    }

    fn ended(&mut self, well: bool, cx: &mut Context<Self>) {
        assert!(well);
        self.done += 1;
        if self.done == WARM_UP {
            self.region = Some(Region::new(ALLOCATOR));
        }
        if self.done == WARM_UP + COUNTED {
            let change = self.region.as_ref().unwrap().change();
            self.counted = change.allocations + change.reallocations;
        }
        if self.done < WARM_UP + COUNTED {
            self.begin(cx);
        } else if self.done == WARM_UP + COUNTED + WIDTH - 1 {
            self.out.set(self.counted);
        }
    }
}

impl AsyncHandler<Sleep> for Player {
    async fn handle(&mut self, _: Sleep, cx: &mut Context<Self>) {
        Asleep { clock: &self.clock, begun: false }.await;
        self.ended(true, cx);
    }
}

/// Sleep until the alarm clock wakes you.
#[message]
struct Sleep;

/// Wakers that a thread of its own takes and wakes.
#[derive(Clone, Default)]
struct AlarmClock(Arc<(Mutex<Option<Waker>>, Condvar)>);

impl AlarmClock {
    fn run(&self) {
        let (waker, set) = &*self.0;
        let mut waker = waker.lock().unwrap();
        while Arc::strong_count(&self.0) > 1 {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
            waker = set.wait_timeout(waker, Duration::from_millis(10)).unwrap().0;
        }
    }
}

struct Asleep<'a> {
    clock: &'a AlarmClock,
    begun: bool,
}

impl Future for Asleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.begun, true) && self.clock.0.0.lock().unwrap().is_none() {
            return Poll::Ready(());
        }
        *self.clock.0.0.lock().unwrap() = Some(cx.waker().clone());
        self.clock.0.1.notify_one();
        Poll::Pending
    }
}

/// Start.
#[message]
struct Serve;

impl Handler<Serve> for Player {
    fn handle(&mut self, _: Serve, cx: &mut Context<Self>) {
        for _ in 0..WIDTH {
            self.begin(cx);
        }
    }
}

impl Handler<Back> for Player {
    fn handle(&mut self, _: Back, cx: &mut Context<Self>) {
        self.ended(true, cx);
    }
}

impl Handler<BigBack> for Player {
    fn handle(&mut self, _: BigBack, cx: &mut Context<Self>) {
        self.ended(true, cx);
    }
}

impl Handler<Tick> for Player {
    fn handle(&mut self, _: Tick, cx: &mut Context<Self>) {
        self.ended(true, cx);
    }
}

impl AsyncHandler<Go> for Player {
    async fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        let reply = self.wall.ask(Question(4)).await;
        self.ended(reply == Ok(4), cx);
    }
}

fn row(engine: &Engine, row: Row, shard: u16) -> usize {
    let wall = engine.spawn_on(shard, || Wall).unwrap();
    let result = Counted::default();
    let out = result.clone();
    let clock = AlarmClock::default();
    let wakes = clock.clone();
    // A thread allocates while it starts: the count waits for that.
    let started = Arc::new(Barrier::new(2));
    let start = started.clone();
    let thread = std::thread::spawn(move || {
        start.wait();
        wakes.run();
    });
    started.wait();
    let make = move || Player { row, wall, done: 0, region: None, counted: 0, clock: clock.clone(), out: out.clone() };
    let player = engine.spawn_on(0, make).unwrap();
    player.tell(Serve).unwrap();
    let count = result.wait();
    player.stop().wait();
    wall.stop().wait();
    thread.join().unwrap();
    count
}

fn asks_from_outside(engine: &Engine) -> f64 {
    let wall = engine.spawn_on(0, || Wall).unwrap();
    let ask = |n: u64| (0..n).for_each(|n| assert_eq!(wall.ask(Question(n)).wait(), Ok(n)));
    ask(2000);
    let region = Region::new(ALLOCATOR);
    ask(2000);
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / 2000.0
}

#[test]
fn messages_allocate_nothing_in_steady_state() {
    // On the shards' own threads, whatever host the other tests run in: a runtime's own allocations are not the engine's.
    let engine = Engine::start(config(2)).unwrap();
    let per_message = |count: usize| count as f64 / COUNTED as f64;
    let mut table = String::new();
    let mut wrong = Vec::new();
    let rows = [
        (Row::Tell, 0.0),
        (Row::Tell48, 2.0),
        (Row::Ask, 0.0),
        (Row::Ask40, 0.0),
        (Row::Ask48, 1.0),
        (Row::Timer, 0.0),
        (Row::Async, 0.0),
        (Row::Wake, 0.0),
    ];
    for shard in [0, 1] {
        for (kind, expected) in rows {
            let count = per_message(row(&engine, kind, shard));
            let place = ["same shard", "other shard"][usize::from(shard)];
            writeln!(table, "{kind:?}, {place}: {count} allocations an operation").unwrap();
            // What is under way when the count begins or ends may be counted or not.
            if (count - expected).abs() > if expected == 0.0 { 0.0 } else { 0.01 } {
                wrong.push((kind, place, count));
            }
        }
    }
    let outside = asks_from_outside(&engine);
    writeln!(table, "ask from outside: {outside} allocations an operation").unwrap();
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(outside <= 1.01, "{outside} instead of the one in which the answer comes");
    engine.shutdown().unwrap();
}
