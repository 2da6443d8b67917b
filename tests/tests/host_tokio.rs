//! Hazard: a shard inside a runtime that has other work. Everything works there as on its own thread, tokio's tasks and timers
//! go on beside it, and shutdown ends it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use shardstage::host::HostedShard;
use shardstage::prelude::*;
use shardstage::{DriverChoice, Happening};
use support::{Echo, Item, Ping, Relay, Sender0, Sink, config, seen};

/// Hosts a shard on a thread of its own; `beside` runs as another task of the runtime.
fn host(
    shard: HostedShard,
    beside: impl AsyncFnOnce() + Send + 'static,
) -> JoinHandle<Result<(), shardstage::StartError>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let shard = tokio::task::spawn_local(shardstage::host::tokio::run(shard));
            tokio::task::spawn_local(beside()).await.unwrap();
            shard.await.unwrap()
        })
    })
}

fn on_each_driver(test: impl Fn(DriverChoice)) {
    test(DriverChoice::Uring);
    test(DriverChoice::Poll);
}

/// An engine of two hosted shards, and their threads; `beside` runs beside each.
fn hosted<F>(
    driver: DriverChoice,
    beside: impl Fn() -> F,
) -> (Engine, Vec<JoinHandle<Result<(), shardstage::StartError>>>)
where
    F: AsyncFnOnce() + Send + 'static,
{
    let mut config = config(2);
    config.driver = driver;
    let (engine, shards) = Engine::builder().config(config).build_hosted().unwrap();
    let threads: Vec<_> = shards.into_iter().map(|shard| host(shard, beside())).collect();
    // A shard is open once its thread has grown it.
    for shard in [0, 1] {
        let probe = loop {
            match engine.spawn_on(shard, Echo::default) {
                Ok(probe) => break probe,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(probe.ask(Ping(1)).wait(), Ok(1));
    }
    (engine, threads)
}

fn end(engine: Engine, threads: Vec<JoinHandle<Result<(), shardstage::StartError>>>) {
    engine.shutdown().unwrap();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

#[message]
struct Start(u64);

struct Ticker {
    left: u64,
    timer: Option<shardstage::TimerId>,
    out: Sender<u64>,
}
impl Actor for Ticker {}

impl Handler<Start> for Ticker {
    fn handle(&mut self, start: Start, cx: &mut Context<Self>) {
        self.left = start.0;
        self.timer = Some(cx.every(Duration::from_millis(1), Tick));
    }
}

#[derive(Clone)]
#[message]
struct Tick;

impl Handler<Tick> for Ticker {
    fn handle(&mut self, _: Tick, cx: &mut Context<Self>) {
        self.left -= 1;
        if self.left == 0 {
            cx.cancel(self.timer.take().unwrap());
        }
        self.out.send(self.left).unwrap();
    }
}

#[test]
fn tells_asks_spawns_and_timers_work_in_a_host() {
    on_each_driver(|driver| {
        let (engine, threads) = hosted(driver, || async || {});
        for shard in [0, 1] {
            let sink = engine.spawn_on(shard, Sink::default).unwrap();
            for value in 0..1000 {
                while sink.tell(Item(value)).is_err() {
                    std::thread::yield_now();
                }
            }
            assert!(seen(sink).is_sorted());
            let sender = engine.spawn_on(1 - shard, Sender0::default).unwrap();
            let echo = engine.spawn_on(shard, Echo::default).unwrap();
            for value in 0..100 {
                assert_eq!(sender.ask(Relay { echo, value }).wait(), Ok(Ok(value)));
            }
            let (out, ticks) = channel();
            let ticker = engine.spawn_on(shard, move || Ticker { left: 0, timer: None, out: out.clone() }).unwrap();
            ticker.tell(Start(10)).unwrap();
            for left in (0..10).rev() {
                assert_eq!(ticks.recv().unwrap(), left);
            }
        }
        end(engine, threads);
    });
}

/// Keeps its shard busy until it is stopped.
#[message]
struct Spin;

#[derive(Default)]
struct Spinner;
impl Actor for Spinner {}
impl Handler<Spin> for Spinner {
    fn handle(&mut self, _: Spin, cx: &mut Context<Self>) {
        cx.me().tell(Spin).unwrap();
    }
}

#[test]
fn tokio_tasks_and_timers_run_beside_a_busy_shard() {
    on_each_driver(|driver| {
        let mut config = config(1);
        config.driver = driver;
        let (engine, mut shards) = Engine::builder().config(config).build_hosted().unwrap();
        let (out, actors) = channel::<(ActorRef<Spinner>, ActorRef<Echo>)>();
        let (asked, answers) = channel();
        let (go, started) = tokio::sync::oneshot::channel::<()>();
        let thread = host(shards.remove(0), async move || {
            started.await.unwrap();
            let (spinner, echo) = actors.recv().unwrap();
            spinner.tell(Spin).unwrap();
            // Tokio's own timers go on, too.
            let mut pace = tokio::time::interval(Duration::from_micros(100));
            for value in 0..20 {
                pace.tick().await;
                asked.send(echo.ask(Ping(value)).await).unwrap();
            }
            let stopped: Happening<_> = spinner.stop();
            assert_eq!(stopped.await, StopReason::Stopped);
        });
        let spinner = loop {
            match engine.spawn(Spinner::default) {
                Ok(spinner) => break spinner,
                Err(_) => std::thread::yield_now(),
            }
        };
        let echo = engine.spawn(Echo::default).unwrap();
        out.send((spinner, echo)).unwrap();
        go.send(()).unwrap();
        for value in 0..20 {
            assert_eq!(answers.recv().unwrap(), Ok(value));
        }
        spinner.stopped().wait();
        end(engine, vec![thread]);
    });
}

#[test]
fn a_hosted_shard_that_never_ran_is_closed_and_shutdown_ends() {
    let (engine, shards) = Engine::builder().config(config(2)).build_hosted().unwrap();
    assert!(engine.spawn(Echo::default).is_err(), "nobody runs it");
    drop(shards);
    engine.shutdown().unwrap();
}

#[test]
fn a_host_that_goes_away_closes_its_shard() {
    on_each_driver(|driver| {
        let mut config = config(1);
        config.driver = driver;
        let (engine, mut shards) = Engine::builder().config(config).build_hosted().unwrap();
        let (away, gone) = tokio::sync::oneshot::channel::<()>();
        let shard = shards.remove(0);
        let thread = std::thread::spawn(move || {
            support::on_tokio(async {
                tokio::select! {
                    _ = shardstage::host::tokio::run(shard) => panic!("it was not stopped"),
                    _ = gone => {}
                }
            });
        });
        let echo = loop {
            match engine.spawn(Echo::default) {
                Ok(echo) => break echo,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(echo.ask(Ping(1)).wait(), Ok(1));
        let stopped = echo.stopped();
        away.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(stopped.wait(), StopReason::Shutdown);
        assert_eq!(echo.ask(Ping(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
        engine.shutdown().unwrap();
    });
}
