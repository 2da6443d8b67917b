//! Hazard: names. A name is one actor's, of one type, until that actor has stopped, and whoever waits for it hears of it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, GetOrSpawnError, LookupError, NameWaitError, RegisterError};
use support::{engine as start, on_tokio};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Lobby {
    guests: u32,
}
impl Actor for Lobby {}

#[message(reply = u32)]
#[derive(Debug)]
struct Enter;

#[message(reply = u32)]
struct Trip;

impl Handler<Enter> for Lobby {
    fn handle(&mut self, _: Enter, _cx: &mut Context<Self>) -> u32 {
        self.guests += 1;
        self.guests
    }
}

impl Handler<Trip> for Lobby {
    fn handle(&mut self, _: Trip, _cx: &mut Context<Self>) -> u32 {
        panic!("stumbled");
    }
}

#[derive(Default)]
struct Bar;
impl Actor for Bar {}

fn name_of<T>() -> &'static str {
    std::any::type_name::<T>()
}

#[test]
fn a_name_finds_its_actor_and_a_wrong_type_names_both() {
    let kit = TestKit::new();
    let lobby = kit.spawn(Lobby::default).unwrap();
    assert_eq!(kit.lookup::<Lobby>("lobby"), Err(LookupError::NotFound));
    kit.register("lobby", lobby).unwrap();
    kit.register("hall", lobby).unwrap();
    let found = kit.lookup::<Lobby>("lobby").unwrap();
    assert_eq!(found, lobby);
    assert_eq!(found.ask(Enter).wait(), Ok(1));
    let wrong = kit.lookup::<Bar>("lobby").unwrap_err();
    assert_eq!(wrong, LookupError::WrongType { wanted: name_of::<Bar>(), found: name_of::<Lobby>() });
    assert!(wrong.to_string().contains("Bar") && wrong.to_string().contains("Lobby"), "{wrong}");
    let listed: Vec<_> = kit.names().into_iter().map(|named| (named.name.to_string(), named.actor)).collect();
    assert_eq!(listed, [("hall".to_owned(), lobby.id()), ("lobby".to_owned(), lobby.id())]);
    assert_eq!(kit.unregister("hall"), Some(lobby.id()));
    assert_eq!(kit.unregister("hall"), None);
    assert_eq!(kit.lookup::<Lobby>("hall"), Err(LookupError::NotFound));
    assert_eq!(found.ask(Enter).wait(), Ok(2), "who loses a name goes on");
}

#[test]
fn a_taken_name_names_its_holder_and_spawns_nothing() {
    let kit = TestKit::new();
    let first = kit.spawn_named("lobby", Lobby::default).unwrap();
    let other = kit.spawn(|| Bar).unwrap();
    let taken = RegisterError::Taken { holder: first.id(), holder_type: name_of::<Lobby>() };
    assert_eq!(kit.register("lobby", other), Err(taken));
    assert_eq!(kit.register("lobby", first), Err(taken), "twice is once too often");
    let before = kit.census().actors.len();
    assert_eq!(kit.spawn_named("lobby", || -> Bar { panic!("never built") }), Err(taken));
    kit.run_until_idle();
    assert_eq!(kit.census().actors.len(), before);
    assert!(taken.to_string().contains("Lobby"), "{taken}");
}

/// Registers, spawns and looks up inside a handler.
#[message(reply = Result<ActorRef<Lobby>, RegisterError>)]
struct OpenLobby(&'static str);

#[message(reply = Result<(), RegisterError>)]
struct Rename(ActorRef<Lobby>, &'static str);

#[message(reply = Result<ActorRef<Lobby>, GetOrSpawnError>)]
struct LobbyOf(&'static str, Arc<AtomicU32>);

#[derive(Default)]
struct Porter;
impl Actor for Porter {}

impl Handler<OpenLobby> for Porter {
    fn handle(&mut self, open: OpenLobby, cx: &mut Context<Self>) -> Result<ActorRef<Lobby>, RegisterError> {
        let made = cx.spawn_named(open.0, Lobby::default)?;
        assert_eq!(cx.lookup::<Lobby>(open.0), Ok(made));
        Ok(made)
    }
}

impl Handler<Rename> for Porter {
    fn handle(&mut self, rename: Rename, cx: &mut Context<Self>) -> Result<(), RegisterError> {
        cx.register(rename.1, rename.0)
    }
}

impl Handler<LobbyOf> for Porter {
    fn handle(&mut self, of: LobbyOf, cx: &mut Context<Self>) -> Result<ActorRef<Lobby>, GetOrSpawnError> {
        let built = of.1;
        cx.get_or_spawn(of.0, move || {
            built.fetch_add(1, Ordering::Relaxed);
            Lobby::default()
        })
    }
}

#[test]
fn handlers_give_and_find_names_and_a_dead_actor_gets_none() {
    let kit = TestKit::new();
    let porters = [kit.spawn_on(0, || Porter).unwrap(), kit.spawn_on(1, || Porter).unwrap()];
    let lobby = porters[0].ask(OpenLobby("north")).wait().unwrap().unwrap();
    let taken = RegisterError::Taken { holder: lobby.id(), holder_type: name_of::<Lobby>() };
    assert_eq!(porters[1].ask(OpenLobby("north")).wait(), Ok(Err(taken)));
    assert_eq!(porters[1].ask(Rename(lobby, "south")).wait(), Ok(Ok(())), "of another shard");
    assert_eq!(kit.lookup::<Lobby>("south"), Ok(lobby));
    lobby.stop().wait();
    assert_eq!(kit.names(), []);
    assert_eq!(porters[0].ask(Rename(lobby, "east")).wait(), Ok(Err(RegisterError::Closed)), "its own shard knows");
    // Elsewhere the name is given at first and taken away when its shard has looked.
    let _ = kit.register("west", lobby);
    kit.run_until_idle();
    assert_eq!(kit.names(), []);
}

#[test]
fn a_rebuilt_actor_keeps_its_name() {
    let kit = TestKit::new();
    kit.allow_panics();
    let lobby = kit.spawn_named("lobby", Lobby::default).unwrap();
    lobby.ask(Enter).wait().unwrap();
    assert!(matches!(lobby.ask(Trip).wait(), Err(AskError::Failed(_))));
    assert_eq!(kit.lookup::<Lobby>("lobby"), Ok(lobby));
    assert_eq!(lobby.ask(Enter).wait(), Ok(1));
}

/// Takes the name of the actor that it watches as soon as it hears of its end.
struct Heir {
    outcome: Recipient<Outcome>,
}

#[message]
#[derive(Debug, PartialEq)]
struct Outcome(Result<(), RegisterError>);

#[message(reply = ())]
struct Await(ActorId);

impl Actor for Heir {
    fn terminated(&mut self, _who: ActorId, _reason: &StopReason, cx: &mut Context<Self>) {
        let outcome = cx.register("throne", cx.me());
        let _ = self.outcome.tell(Outcome(outcome));
    }
}

impl Handler<Await> for Heir {
    fn handle(&mut self, of: Await, cx: &mut Context<Self>) {
        cx.watch(of.0);
    }
}

#[test]
fn a_name_is_free_before_anybody_hears_of_the_end() {
    TestKit::check_seeds(0..50, |kit| {
        let probe = kit.probe::<Outcome>();
        let to = probe.recipient();
        let mut holder = kit.spawn_named("throne", Lobby::default).unwrap().id();
        let lobby = kit.lookup::<Lobby>("throne").unwrap();
        let heir = kit.spawn(move || Heir { outcome: to }).unwrap();
        heir.ask(Await(holder)).wait().unwrap();
        lobby.stop().wait();
        probe.expect_msg_eq(Outcome(Ok(())));
        holder = kit.lookup::<Heir>("throne").unwrap().id();
        assert_eq!(holder, heir.id());
        heir.stop().wait();
        kit.spawn_named("throne", Lobby::default).unwrap();
    });
    // On real threads, where the awaited stop is another thread's.
    let engine = start(2);
    for round in 0..500 {
        let lobby = engine.spawn_named("throne", Lobby::default).unwrap_or_else(|error| panic!("{round}: {error}"));
        if round % 2 == 0 {
            lobby.ask(Enter).wait().unwrap();
        }
        lobby.stop().wait();
    }
    engine.shutdown().unwrap();
}

#[test]
fn threads_and_shards_that_get_or_spawn_at_once_get_one_actor() {
    let engine = Arc::new(start(2));
    let porters = [engine.spawn_on(0, || Porter).unwrap(), engine.spawn_on(1, || Porter).unwrap()];
    const NAMES: [&str; 40] = {
        let mut names = [""; 40];
        let all = "0123456789abcdefghijklmnopqrstuvwxyzABCD";
        let mut at = 0;
        while at < 40 {
            names[at] = all.split_at(at).1.split_at(1).0;
            at += 1;
        }
        names
    };
    for name in NAMES {
        let built = Arc::new(AtomicU32::new(0));
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|number: usize| {
                let (engine, built, barrier) = (Arc::clone(&engine), Arc::clone(&built), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    if number < 2 {
                        return porters[number].ask(LobbyOf(name, built)).wait().unwrap().unwrap();
                    }
                    let make = move || {
                        built.fetch_add(1, Ordering::Relaxed);
                        Lobby::default()
                    };
                    engine.get_or_spawn(name, make).unwrap()
                })
            })
            .collect();
        let found: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(found.iter().all(|lobby| *lobby == found[0]), "{found:?}");
        assert_eq!(found[0].ask(Enter).wait(), Ok(1));
        assert_eq!(built.load(Ordering::Relaxed), 1);
    }
    assert_eq!(
        engine.get_or_spawn("0", || Bar),
        Err(GetOrSpawnError::WrongType { wanted: name_of::<Bar>(), found: name_of::<Lobby>() })
    );
    Arc::into_inner(engine).unwrap().shutdown().unwrap();
}

#[test]
fn who_waits_for_a_name_gets_it_or_the_reason() {
    let kit = TestKit::new();
    assert_eq!(kit.when_named::<Lobby>("lobby").deadline(SECOND).wait(), Err(NameWaitError::Deadline));
    assert_eq!(kit.now().as_secs(), 1);
    let waiting = kit.when_named::<Lobby>("lobby");
    let (found, lobby) = kit.block_on(async {
        // Both are polled in turn: the first waits while the second spawns.
        let mut waiting = std::pin::pin!(waiting);
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(first);
        let lobby = kit.spawn_named("lobby", Lobby::default).unwrap();
        (waiting.await, lobby)
    });
    assert_eq!(found, Ok(lobby));
    assert_eq!(kit.when_named::<Lobby>("lobby").wait(), Ok(lobby), "at once");
    let wrong = kit.when_named::<Bar>("lobby").wait();
    assert_eq!(wrong, Err(NameWaitError::WrongType { wanted: name_of::<Bar>(), found: name_of::<Lobby>() }));
    drop(kit.when_named::<Lobby>("nobody"));
    kit.run_until_idle();
    assert_eq!(kit.stats().iter().map(|shard| shard.asks).sum::<u64>(), 0, "nothing is left of any wait");
}

#[message]
struct Seek(&'static str, Duration);

/// What a seeker found, as text.
#[message]
#[derive(Debug, PartialEq)]
struct Sought(Result<u32, NameWaitError>);

struct Seeker {
    to: Recipient<Sought>,
}
impl Actor for Seeker {}

impl Handler<Seek> for Seeker {
    fn handle(&mut self, seek: Seek, cx: &mut Context<Self>) {
        cx.when_named::<Lobby>(seek.0).deadline(seek.1).then(|this, found, cx| match found {
            Err(error) => this.to.tell(Sought(Err(error))).unwrap(),
            Ok(lobby) => cx.ask(lobby, Enter).then(|this, guests, _cx| {
                this.to.tell(Sought(Ok(guests.unwrap()))).unwrap();
            }),
        });
    }
}

#[test]
fn a_handler_waits_for_a_name_and_is_free_meanwhile() {
    TestKit::check_seeds(0..20, |kit| {
        let probe = kit.probe::<Sought>();
        let to = probe.recipient();
        let seeker = kit.spawn(move || Seeker { to }).unwrap();
        seeker.tell(Seek("lobby", 60 * SECOND)).unwrap();
        seeker.tell(Seek("nobody", SECOND)).unwrap();
        probe.expect_msg_eq(Sought(Err(NameWaitError::Deadline)));
        probe.expect_no_msg(30 * SECOND);
        kit.spawn_named("lobby", Lobby::default).unwrap();
        probe.expect_msg_eq(Sought(Ok(1)));
        seeker.tell(Seek("lobby", SECOND)).unwrap();
        probe.expect_msg_eq(Sought(Ok(2)));
        // One that stops while it waits leaves nothing that a later name would find.
        seeker.tell(Seek("later", 60 * SECOND)).unwrap();
        seeker.tell(Seek("never", 60 * SECOND)).unwrap();
        kit.run_until_idle();
        seeker.stop().wait();
        kit.spawn_named("later", Lobby::default).unwrap();
        kit.advance(61 * SECOND);
        probe.expect_no_msg(SECOND);
        assert_eq!(kit.stats().iter().map(|shard| shard.asks).sum::<u64>(), 0);
    });
}

#[test]
fn an_engines_end_ends_all_waiting_and_its_names() {
    let engine = start(2);
    let lobby = engine.spawn_named("lobby", Lobby::default).unwrap();
    assert_eq!(on_tokio(async { engine.when_named::<Lobby>("lobby").await }), Ok(lobby));
    let watched = engine.when_named::<Lobby>("nobody").deadline(600 * SECOND);
    let seeker = std::thread::spawn(move || watched.wait());
    let elsewhere = start(1);
    assert_eq!(elsewhere.lookup::<Lobby>("lobby"), Err(LookupError::NotFound), "engines stay apart");
    assert_eq!(elsewhere.register("guest", lobby), Err(RegisterError::OtherEngine));
    let of_its_own = elsewhere.spawn_named("lobby", Lobby::default).unwrap();
    assert_ne!(of_its_own, lobby);
    let late = engine.when_named::<Lobby>("late").deadline(600 * SECOND);
    engine.shutdown().unwrap();
    assert_eq!(seeker.join().unwrap(), Err(NameWaitError::Closed));
    assert_eq!(late.wait(), Err(NameWaitError::Closed));
    elsewhere.shutdown().unwrap();
}

#[test]
fn random_names_agree_with_a_map() {
    const NAMES: [&str; 5] = ["ann", "bob", "cyd", "dan", "eve"];
    TestKit::check_seeds(0..200, |kit| {
        let mut random = kit.seed();
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut model: BTreeMap<&str, ActorId> = BTreeMap::new();
        let mut live: Vec<ActorRef<Lobby>> = Vec::new();
        let porters = [0_u16, 1].map(|shard| kit.spawn_on(shard, || Porter).unwrap());
        for step in 0..60 {
            let name = NAMES[draw(5) as usize];
            let holder = model.get(name).copied();
            let taken = holder.map(|holder| RegisterError::Taken { holder, holder_type: name_of::<Lobby>() });
            match draw(9) {
                0 => live.push(kit.spawn(Lobby::default).unwrap()),
                1 if !live.is_empty() => {
                    let actor = live[draw(live.len() as u64) as usize];
                    assert_eq!(kit.register(name, actor).err(), taken, "step {step}");
                    model.entry(name).or_insert(actor.id());
                }
                2 => {
                    let spawned = kit.spawn_named(name, Lobby::default);
                    assert_eq!(spawned.err(), taken, "step {step}");
                    if let Ok(actor) = spawned {
                        model.insert(name, actor.id());
                        live.push(actor);
                    }
                }
                3 => {
                    let found = kit.get_or_spawn(name, Lobby::default).unwrap();
                    assert!(holder.is_none_or(|holder| holder == found.id()), "step {step}");
                    if model.insert(name, found.id()).is_none() {
                        live.push(found);
                    }
                }
                4 => {
                    let porter = porters[draw(2) as usize];
                    let found = porter.ask(LobbyOf(name, Arc::default())).wait().unwrap().unwrap();
                    assert!(holder.is_none_or(|holder| holder == found.id()), "step {step}");
                    if model.insert(name, found.id()).is_none() {
                        live.push(found);
                    }
                }
                5 => {
                    assert_eq!(kit.unregister(name), holder, "step {step}");
                    model.remove(name);
                }
                6 | 7 if !live.is_empty() => {
                    let actor = live.swap_remove(draw(live.len() as u64) as usize);
                    actor.stop().wait();
                    model.retain(|_, holder| *holder != actor.id());
                }
                _ => {
                    let found = kit.lookup::<Lobby>(name).map(|actor| actor.id());
                    assert_eq!(found.ok(), holder, "step {step}");
                }
            }
            let listed: Vec<_> = kit.names().into_iter().map(|named| (named.name.to_string(), named.actor)).collect();
            let expected: Vec<_> = model.iter().map(|(name, holder)| ((*name).to_owned(), *holder)).collect();
            assert_eq!(listed, expected, "step {step}");
        }
    });
}
