//! Hazard: a shard inside a runtime that was made for other work. Whatever runtime it is, its own tasks and timers go on beside
//! a busy shard, its tasks get answers from shards on other threads, and both sides can end first. What else a shard does is
//! held by the other files, which run in every host (`SHARDSTAGE_HOST`); tokio has `host_tokio.rs` besides.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use shardstage::host::HostedShard;
use shardstage::port::driver::FileCompletion;
use shardstage::port::service::{Service, ServiceContext, ServiceError, ServiceFactory, ServiceSeat, Started};
use shardstage::prelude::*;
use shardstage::{DriverChoice, StartError};
use support::{Echo, Ping, config};

/// The runtimes, as these tests use them.
trait Runtime {
    fn block_on<F: Future>(future: F) -> F::Output;
    fn spawn(future: impl Future<Output = ()> + 'static);
    /// A millisecond on the runtime's own timer.
    async fn tick();
    async fn host(shard: HostedShard) -> Result<(), StartError>;
}

struct Monoio;

impl Runtime for Monoio {
    fn block_on<F: Future>(future: F) -> F::Output {
        support::runtimes::on_monoio(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) {
        drop(monoio::spawn(future));
    }

    async fn tick() {
        let mut interval = monoio::time::interval(Duration::from_millis(1));
        interval.tick().await;
        interval.tick().await;
    }

    async fn host(shard: HostedShard) -> Result<(), StartError> {
        shardstage::host::monoio::run(shard).await
    }
}

struct Glommio;

impl Runtime for Glommio {
    fn block_on<F: Future>(future: F) -> F::Output {
        support::runtimes::on_glommio(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(future).detach();
    }

    async fn tick() {
        glommio::timer::Timer::new(Duration::from_millis(1)).await;
    }

    async fn host(shard: HostedShard) -> Result<(), StartError> {
        shardstage::host::glommio::run(shard).await
    }
}

struct Tokio;

impl Runtime for Tokio {
    fn block_on<F: Future>(future: F) -> F::Output {
        support::on_tokio(async { tokio::task::LocalSet::new().run_until(future).await })
    }

    fn spawn(future: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(future));
    }

    async fn tick() {
        let mut interval = tokio::time::interval(Duration::from_millis(1));
        interval.tick().await;
        interval.tick().await;
    }

    async fn host(shard: HostedShard) -> Result<(), StartError> {
        shardstage::host::tokio::run(shard).await
    }
}

fn on_each_driver(test: impl Fn(DriverChoice)) {
    test(DriverChoice::Uring);
    test(DriverChoice::Poll);
}

/// An engine whose shards each run on a thread of their own, with nothing beside them.
fn hosted<R: Runtime>(shards: u16, driver: DriverChoice) -> Engine {
    let mut config = config(shards);
    config.driver = driver;
    let spawn = |shard| std::thread::Builder::new().spawn(move || R::block_on(R::host(shard)));
    Engine::builder().config(config).start_hosted(spawn).unwrap()
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

fn tasks_and_timers_run_beside_a_busy_shard<R: Runtime>() {
    on_each_driver(|driver| {
        let mut config = config(1);
        config.driver = driver;
        let (engine, mut shards) = Engine::builder().config(config).build_hosted().unwrap();
        let shard = shards.remove(0);
        R::block_on(async {
            let (ended, end) = tokio::sync::oneshot::channel();
            R::spawn(async {
                ended.send(R::host(shard).await).unwrap();
            });
            let spinner = loop {
                match engine.spawn(Spinner::default) {
                    Ok(spinner) => break spinner,
                    Err(_) => R::tick().await,
                }
            };
            let echo = engine.spawn(Echo::default).unwrap();
            spinner.tell(Spin).unwrap();
            for value in 0..10 {
                R::tick().await;
                assert_eq!(echo.ask(Ping(value)).await, Ok(value));
            }
            assert_eq!(spinner.stop().await, StopReason::Stopped);
            engine.begin_stop();
            end.await.unwrap().unwrap();
        });
        engine.shutdown().unwrap();
    });
}

fn a_task_gets_answers_from_a_shard_on_another_thread<R: Runtime>() {
    on_each_driver(|driver| {
        let engine = hosted::<R>(2, driver);
        let echoes = [0, 1].map(|shard| engine.spawn_on(shard, Echo::default).unwrap());
        R::block_on(async {
            for value in 0..200 {
                for echo in echoes {
                    assert_eq!(echo.ask(Ping(value)).await, Ok(value));
                }
            }
        });
        engine.shutdown().unwrap();
    });
}

fn a_host_that_goes_away_closes_its_shard<R: Runtime>() {
    on_each_driver(|driver| {
        let mut config = config(1);
        config.driver = driver;
        let (engine, mut shards) = Engine::builder().config(config).build_hosted().unwrap();
        let shard = shards.remove(0);
        let echo = R::block_on(async {
            let mut host = Box::pin(R::host(shard));
            let echo = loop {
                let tick = R::tick();
                tokio::select! {
                    _ = &mut host => panic!("it was not stopped"),
                    () = tick => {}
                }
                if let Ok(echo) = engine.spawn(Echo::default) {
                    break echo;
                }
            };
            tokio::select! {
                _ = &mut host => panic!("it was not stopped"),
                answer = echo.ask(Ping(1)) => assert_eq!(answer, Ok(1)),
            }
            echo
        });
        assert_eq!(echo.stopped().wait(), StopReason::Shutdown);
        assert_eq!(echo.ask(Ping(1)).wait(), Err(AskError::Rejected(Rejected::Closed)));
        engine.shutdown().unwrap();
    });
}

/// Refuses to be made on shard 0, and is a service without work elsewhere.
struct Refused;
impl ServiceFactory for Refused {
    fn make(&self, seat: &ServiceSeat) -> io::Result<Box<dyn Service>> {
        if seat.shard.get() == 0 { Err(io::Error::other("planted")) } else { Ok(Box::new(Idle)) }
    }
}

struct Idle;
impl Service for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn start(&mut self, _: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        Ok(Started::Ready)
    }

    fn completed(&mut self, _: FileCompletion, _: &mut ServiceContext<'_>) {}

    fn poll(&mut self, _: &mut ServiceContext<'_>) -> bool {
        false
    }

    fn flush(&mut self, _: &mut ServiceContext<'_>) {}

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }

    fn commit_in_flight(&self) -> bool {
        false
    }

    fn stop(&mut self, _: &mut ServiceContext<'_>) -> bool {
        true
    }
}

#[test]
fn a_start_that_fails_ends_the_shards_that_had_not_come_up_yet() {
    for _ in 0..20 {
        let refused = Engine::builder().config(config(4)).service(Refused).start();
        assert!(matches!(&refused, Err(StartError::Config(why)) if why == "planted"), "{refused:?}");
    }
}

/// The thread of a hosted shard; `alive` counts those that have not ended.
fn thread<R: Runtime>(
    shard: HostedShard,
    alive: &Arc<()>,
) -> io::Result<std::thread::JoinHandle<Result<(), StartError>>> {
    let alive = Arc::clone(alive);
    std::thread::Builder::new().spawn(move || {
        let _alive = alive;
        R::block_on(R::host(shard))
    })
}

fn a_start_that_fails_says_why_and_leaves_no_thread<R: Runtime>() {
    let alive = Arc::new(());
    let refused = Engine::builder().config(config(2)).service(Refused).start_hosted(|shard| thread::<R>(shard, &alive));
    assert!(matches!(&refused, Err(StartError::Config(why)) if why == "planted"), "{refused:?}");
    let no_thread = Engine::builder().config(config(2)).start_hosted(|shard| match shard.shard().get() {
        0 => thread::<R>(shard, &alive),
        _ => Err(io::Error::other("planted")),
    });
    assert!(matches!(&no_thread, Err(StartError::Thread(why)) if why.to_string() == "planted"), "{no_thread:?}");
    let no_host = Engine::builder().config(config(2)).start_hosted(|shard| match shard.shard().get() {
        0 => thread::<R>(shard, &alive),
        _ => std::thread::Builder::new().spawn(move || {
            drop(shard);
            Ok(())
        }),
    });
    assert!(matches!(&no_host, Err(StartError::Thread(why)) if why.to_string().contains("went away")), "{no_host:?}");
    assert_eq!(Arc::strong_count(&alive), 1, "every thread was joined");
}

macro_rules! in_each_runtime {
    ($($name:ident)*) => {
        mod in_monoio { $(#[test] fn $name() { super::$name::<super::Monoio>(); })* }
        mod in_glommio { $(#[test] fn $name() { super::$name::<super::Glommio>(); })* }
        mod in_tokio { $(#[test] fn $name() { super::$name::<super::Tokio>(); })* }
    };
}

in_each_runtime! {
    tasks_and_timers_run_beside_a_busy_shard
    a_task_gets_answers_from_a_shard_on_another_thread
    a_host_that_goes_away_closes_its_shard
    a_start_that_fails_says_why_and_leaves_no_thread
}
