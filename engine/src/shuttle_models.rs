//! Whole engines under random schedules, run by shuttle: `RUSTFLAGS="--cfg shuttle" cargo test -p shardstage --lib shuttle`.
//!
//! Invariant of the harness: shards, links, rings, latches and asks are the shipped ones; only threads, locks and the driver,
//! which does nothing but sleep, are the checker's. A lost wake-up shows as a deadlock. Half of the schedules are uniform,
//! half prefer few preemptions at bad places; `SHUTTLE_SCHEDULES` says how many of each (default 500).

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shardstage_codec::ShardId;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Runner, thread};

use crate::builder::Assembly;
use crate::driver::DriverChoice;
use crate::latch::{Latch, LatchGuard};
use crate::port::driver::{
    DatagramBatch, Driver, DriverFactory, DriverKind, FileCompletion, FileId, FileRequest, OpenOptions, SocketId,
    Transmit, Wake,
};
use crate::sync::{Condvar, Mutex};
use crate::{
    Actor, ActorRef, AsyncHandler, Config, Context, Engine, Handler, IdleStrategy, Message, StopReason, runner,
};

const SHARDS: u16 = 2;
/// Steps after which a schedule counts as one that never ends.
const STEPS: usize = 200_000;

/// A wake that comes early is kept.
#[derive(Default)]
struct Sleeper {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Sleeper {
    fn wake(&self) {
        *self.woken.lock().expect("nothing panics in it") = true;
        self.changed.notify_one();
    }
}

/// A driver that sleeps and wakes, and has neither files nor sockets.
struct StillDriver {
    sleeper: Arc<Sleeper>,
    now_ns: u64,
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Driver for StillDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn now_ns(&mut self) -> u64 {
        self.now_ns += 1;
        self.now_ns
    }

    fn wall_unix_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn random_u64(&mut self) -> u64 {
        1
    }

    fn open(&mut self, _: &Path, _: OpenOptions) -> io::Result<FileId> {
        unsupported()
    }

    fn close(&mut self, _: FileId) {}

    fn file_len(&mut self, _: FileId) -> io::Result<u64> {
        unsupported()
    }

    fn list(&mut self, _: &Path) -> io::Result<Vec<String>> {
        unsupported()
    }

    fn create_dir(&mut self, _: &Path) -> io::Result<()> {
        unsupported()
    }

    fn rename(&mut self, _: &Path, _: &Path) -> io::Result<()> {
        unsupported()
    }

    fn remove(&mut self, _: &Path) -> io::Result<()> {
        unsupported()
    }

    fn submit(&mut self, _: FileRequest) {}

    fn completions(&mut self, _: &mut Vec<FileCompletion>) {}

    fn bind(&mut self, _: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        unsupported()
    }

    fn unbind(&mut self, _: SocketId) {}

    fn receive(&mut self, _: SocketId, _: &mut DatagramBatch) -> io::Result<usize> {
        unsupported()
    }

    fn send(&mut self, _: SocketId, _: &Transmit<'_>) -> io::Result<bool> {
        unsupported()
    }

    fn max_segments(&self, _: SocketId) -> usize {
        1
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.sleeper) as Arc<dyn Wake>
    }

    fn park(&mut self, _deadline_ns: Option<u64>) {
        let mut woken = self.sleeper.woken.lock().expect("nothing panics in it");
        while !*woken {
            woken = self.sleeper.changed.wait(woken).expect("nothing panics in it");
        }
        *woken = false;
    }

    fn yield_now(&mut self) {
        thread::yield_now();
    }
}

struct StillDrivers;

impl DriverFactory for StillDrivers {
    fn kind(&self) -> DriverKind {
        DriverKind::Sim
    }

    fn make(&self, _: ShardId) -> io::Result<Box<dyn Driver>> {
        Ok(Box::new(StillDriver { sleeper: Arc::default(), now_ns: 1 }))
    }
}

/// An engine whose shards are threads of the checker; a shutdown waits for them as for hosted ones.
fn start() -> Engine {
    let config = Config { idle: IdleStrategy::Park, driver: DriverChoice::Auto, ..Config::default() };
    let Assembly { engine, seeds, config } =
        Engine::builder().config(config).assemble(SHARDS).expect("a plain configuration");
    let mut engine = Engine::of(engine, &config, DriverKind::Sim, false);
    let mut outcomes = Vec::new();
    for seed in seeds {
        let (started, ended) = (Latch::new(), Latch::new());
        outcomes.push(Arc::clone(&started));
        engine.hosted.push(Arc::clone(&ended));
        thread::spawn(move || {
            let _ended = LatchGuard::new(ended, StopReason::Shutdown);
            let drivers: Arc<dyn DriverFactory> = Arc::new(StillDrivers);
            let report = Box::new(move |result: Result<(), _>| started.set(result.is_ok()));
            runner::run(seed, &drivers, None, config.idle, report);
        });
    }
    assert!(outcomes.iter().all(|started| started.wait()));
    engine
}

/// Runs `model` under many schedules.
fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let schedules = std::env::var("SHUTTLE_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS);
    config.stack_size = 1 << 18;
    Runner::new(RandomScheduler::new(schedules), config.clone()).run(model.clone());
    Runner::new(PctScheduler::new(3, schedules), config).run(model);
}

/// Counts what it handles where everyone can see it.
struct Counter(Arc<AtomicU64>);

impl Actor for Counter {}

struct Add(u64);

impl Message for Add {
    type Reply = u64;
}

impl Handler<Add> for Counter {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> u64 {
        self.0.fetch_add(add.0, Ordering::Relaxed) + add.0
    }
}

/// Asks or tells a counter on the other shard.
struct Relay(ActorRef<Counter>);

impl Actor for Relay {}

struct AskOn(u64);

impl Message for AskOn {
    type Reply = u64;
}

impl AsyncHandler<AskOn> for Relay {
    async fn handle(&mut self, ask: AskOn, _cx: &mut Context<Self>) -> u64 {
        self.0.ask(Add(ask.0)).await.unwrap_or(0)
    }
}

struct TellOn(u64);

impl Message for TellOn {
    type Reply = ();
}

impl Handler<TellOn> for Relay {
    fn handle(&mut self, tell: TellOn, _cx: &mut Context<Self>) {
        for _ in 0..tell.0 {
            assert!(self.0.tell(Add(1)).is_ok(), "neither full nor closed");
        }
    }
}

fn counter(engine: &Engine, shard: u16) -> (ActorRef<Counter>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    (engine.spawn_on(shard, move || Counter(Arc::clone(&count))).expect("the engine runs"), seen)
}

#[test]
fn an_engine_that_does_nothing_starts_and_ends() {
    check(|| start().shutdown().expect("nothing to drain"));
}

#[test]
fn an_ask_across_sleeping_shards_is_answered() {
    check(|| {
        let engine = start();
        let (counter, _) = counter(&engine, 1);
        let relay = engine.spawn_on(0, move || Relay(counter)).expect("the engine runs");
        assert_eq!(relay.ask(AskOn(3)).wait(), Ok(3));
        assert_eq!(counter.ask(Add(4)).wait(), Ok(7));
        engine.shutdown().expect("it drains");
    });
}

#[test]
fn what_was_told_before_a_shutdown_is_handled() {
    check(|| {
        let engine = start();
        let (counter, seen) = counter(&engine, 1);
        let relay = engine.spawn_on(0, move || Relay(counter)).expect("the engine runs");
        assert!(relay.tell(TellOn(3)).is_ok());
        assert!(counter.tell(Add(1)).is_ok());
        engine.shutdown().expect("it drains");
        assert_eq!(seen.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn a_shutdown_beside_senders_handles_what_it_accepted() {
    check(|| {
        let engine = start();
        let (counter, seen) = counter(&engine, 0);
        let senders: Vec<_> = (0..2)
            .map(|_| thread::spawn(move || (0..2).filter(|_| counter.tell(Add(1)).is_ok()).count() as u64))
            .collect();
        engine.shutdown().expect("it drains");
        let accepted: u64 = senders.into_iter().map(|sender| sender.join().expect("no sender panics")).sum();
        assert!(seen.load(Ordering::Relaxed) <= accepted, "what came between drain and stop is a dead letter");
        assert!(counter.tell(Add(1)).is_err());
    });
}

#[test]
fn an_ask_beside_a_stop_ends() {
    check(|| {
        let engine = start();
        let (counter, _) = counter(&engine, 1);
        let relay = engine.spawn_on(0, move || Relay(counter)).expect("the engine runs");
        let asker = thread::spawn(move || drop(relay.ask(AskOn(1)).wait()));
        engine.begin_stop();
        asker.join().expect("the asker does not panic");
        engine.shutdown().expect("it has stopped");
    });
}
