//! Hazard: virtual actors on one node. Activation and passivation are invisible: no message is lost between two lives.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, EngineBuilder, Error, NodeId, Reason, StartError};
use support::{config, on_tokio, start_built};

#[message(id = "hazard.add", reply = u64)]
struct Add {
    amount: u64,
}

#[message(id = "hazard.lives", reply = u64)]
struct Lives;

/// Writes what happens to it into a place that the test made for its key.
#[derive(Default)]
struct Account {
    total: u64,
    place: Option<Arc<Place>>,
}

#[derive(Default)]
struct Place {
    activations: AtomicU64,
    passivations: AtomicU64,
    handled: AtomicU64,
}

/// One place a test, by the prefix of the key; tests run in one process, their keys do not meet.
static PLACES: std::sync::Mutex<Vec<(String, Arc<Place>)>> = std::sync::Mutex::new(Vec::new());

fn place(key: &str) -> Arc<Place> {
    let prefix = key.split('/').next().unwrap();
    let mut places = PLACES.lock().unwrap();
    if let Some((_, place)) = places.iter().find(|entry| entry.0 == prefix) {
        return Arc::clone(place);
    }
    let place = Arc::new(Place::default());
    places.push((prefix.to_owned(), Arc::clone(&place)));
    place
}

impl Actor for Account {
    fn stopped(&mut self, reason: &StopReason, _cx: &mut Context<Self>) {
        if *reason == StopReason::Passivated {
            self.place.as_ref().unwrap().passivations.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl VirtualActor for Account {
    const TYPE: &'static str = "hazard.account";

    fn activate(key: &str) -> Self {
        let place = place(key);
        place.activations.fetch_add(1, Ordering::Relaxed);
        Self { total: 0, place: Some(place) }
    }
}

impl Handler<Add> for Account {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> u64 {
        self.place.as_ref().unwrap().handled.fetch_add(1, Ordering::Relaxed);
        self.total += add.amount;
        self.total
    }
}

impl Handler<Lives> for Account {
    fn handle(&mut self, _: Lives, cx: &mut Context<Self>) -> u64 {
        assert!(cx.key().is_some());
        self.place.as_ref().unwrap().activations.load(Ordering::Relaxed)
    }
}

struct Unregistered;
impl Actor for Unregistered {}
impl VirtualActor for Unregistered {
    const TYPE: &'static str = "hazard.unregistered";
    fn activate(_: &str) -> Self {
        Self
    }
}
impl Handler<Add> for Unregistered {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> u64 {
        add.amount
    }
}

fn builder(shards: u16, idle: Duration) -> EngineBuilder {
    Engine::builder()
        .config(config(shards))
        .register::<Account>(|account| account.accept::<Add, _>().accept::<Lives, _>().idle_timeout(idle))
}

const LONG: Duration = Duration::from_secs(3600);

/// Tells and asks an account from a shard.
#[message(reply = Result<u64, AskError>)]
struct Use(String);

#[derive(Default)]
struct User;
impl Actor for User {}

impl AsyncHandler<Use> for User {
    async fn handle(&mut self, using: Use, cx: &mut Context<Self>) -> Result<u64, AskError> {
        let account = cx.actor::<Account>(using.0);
        account.tell(Add { amount: 1 }).unwrap();
        account.ask(Add { amount: 1 }).await
    }
}

#[test]
fn the_first_message_activates_and_the_key_is_one_actor() {
    let engine = start_built(builder(2, LONG)).unwrap();
    let users = [engine.spawn_on(0, User::default).unwrap(), engine.spawn_on(1, User::default).unwrap()];
    for number in 0..20 {
        let key = format!("first/{number}");
        let account = engine.actor::<Account>(key.as_str());
        account.tell(Add { amount: 5 }).unwrap();
        assert_eq!(account.ask(Add { amount: 1 }).wait(), Ok(6));
        assert_eq!(users[0].ask(Use(key.clone())).wait(), Ok(Ok(8)));
        assert_eq!(users[1].ask(Use(key.clone())).wait(), Ok(Ok(10)));
        assert_eq!(on_tokio(async { engine.actor::<Account>(&key).ask(Add { amount: 0 }).await }), Ok(10));
    }
    assert_eq!(place("first/").activations.load(Ordering::Relaxed), 20);
    engine.shutdown().unwrap();
}

#[test]
fn idle_actors_are_passivated_and_come_back() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let engine = builder(1, Duration::from_millis(100)).start_in_sim(&world, NodeId::new(0)).unwrap();
    let account = engine.actor::<Account>("idle/1");
    let second = 1_000_000_000;
    assert_eq!(world.block_on(account.ask(Add { amount: 5 }), second), Some(Ok(5)));
    world.run_for(50_000_000);
    assert_eq!(world.block_on(account.ask(Add { amount: 5 }), second), Some(Ok(10)), "not idle for long enough");
    world.run_for(300_000_000);
    assert_eq!(place("idle/").passivations.load(Ordering::Relaxed), 1);
    assert_eq!(world.block_on(account.ask(Add { amount: 5 }), second), Some(Ok(5)), "a new life");
    assert_eq!(place("idle/").activations.load(Ordering::Relaxed), 2);
}

#[test]
fn no_message_is_lost_between_two_lives() {
    // So short that actors are passivated all the time while messages come.
    let engine = start_built(builder(2, Duration::from_nanos(1))).unwrap();
    let users = [engine.spawn_on(0, User::default).unwrap(), engine.spawn_on(1, User::default).unwrap()];
    let mut sent = 0;
    while sent < 4000 || place("lives/").passivations.load(Ordering::Relaxed) < 20 {
        for number in 0..4 {
            let key = format!("lives/{number}");
            engine.actor::<Account>(key.as_str()).tell(Add { amount: 1 }).unwrap();
            engine.actor::<Account>(key.as_str()).ask(Add { amount: 1 }).wait().unwrap();
            users[number % 2].ask(Use(key)).wait().unwrap().unwrap();
            sent += 4;
        }
        std::thread::yield_now();
    }
    for number in 0..4 {
        engine.actor::<Account>(format!("lives/{number}")).ask(Lives).wait().unwrap();
    }
    let letters = engine.dead_letters();
    engine.shutdown().unwrap();
    assert_eq!(place("lives/").handled.load(Ordering::Relaxed), sent);
    assert_eq!(letters.total(), 0);
}

#[test]
fn each_type_has_its_own_mailbox_bound() {
    let world = SimWorld::new(SimOptions::seeded(3));
    let engine = Engine::builder()
        .config(config(1))
        .register::<Account>(|account| account.accept::<Add, _>().mailbox_capacity(3))
        .start_in_sim(&world, NodeId::new(0))
        .unwrap();
    let account = engine.actor::<Account>("bound/1");
    // No turn is taken meanwhile, so all arrive at once.
    for _ in 0..5 {
        account.tell(Add { amount: 1 }).unwrap();
    }
    world.run_for(1_000_000_000);
    assert_eq!(place("bound/").handled.load(Ordering::Relaxed), 3);
    assert_eq!(engine.dead_letters().count(Reason::Full), 2);
}

#[test]
fn a_type_that_is_not_registered_has_no_handler() {
    let engine = start_built(builder(1, LONG)).unwrap();
    let nobody = engine.actor::<Unregistered>("x");
    assert!(matches!(nobody.tell(Add { amount: 1 }), Err(TellError::NoHandler(Add { amount: 1 }))));
    assert_eq!(nobody.ask(Add { amount: 1 }).wait(), Err(AskError::Rejected(Rejected::NoHandler)));
    engine.shutdown().unwrap();
}

#[test]
fn a_type_registered_twice_does_not_start() {
    let twice = builder(1, LONG).register::<Account>(|account| account.accept::<Add, _>()).start();
    match twice {
        Err(StartError::Config(why)) => assert!(why.contains("hazard.account") && why.contains("twice"), "{why}"),
        other => panic!("{other:?}"),
    }
    let error: Error = builder(1, LONG).register::<Account>(|account| account).start().unwrap_err().into();
    assert!(error.to_string().starts_with("configuration"));
}
