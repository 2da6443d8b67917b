//! Hazard: stateless workers. One identity, several activations a shard, local to who sends; one's trouble is not another's.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Reason, StartError};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3600);

/// Counts what it has done since it was made.
struct Resizer {
    done: u32,
}
impl Actor for Resizer {}

impl VirtualActor for Resizer {
    const TYPE: &'static str = "workers.resizer";

    fn activate(number: &str) -> Self {
        assert!(number.parse::<u16>().is_ok());
        Self { done: 0 }
    }
}

/// Says which worker of which shard did it, and how many it has done.
#[message(reply = (u16, String, u32))]
#[derive(Debug)]
struct Resize;

/// Waits for an answer that comes when the test says so.
#[message(reply = u16)]
struct Hold;

#[message]
struct Trip;

impl Handler<Resize> for Resizer {
    fn handle(&mut self, _: Resize, cx: &mut Context<Self>) -> (u16, String, u32) {
        self.done += 1;
        (cx.shard().get(), cx.key().unwrap().to_string(), self.done)
    }
}

impl AsyncHandler<Hold> for Resizer {
    async fn handle(&mut self, _: Hold, cx: &mut Context<Self>) -> u16 {
        let gate = cx.lookup::<Gate>("gate").unwrap();
        let _ = gate.ask(Pass).deadline(LONG).await;
        cx.key().unwrap().parse().unwrap()
    }
}

impl Handler<Trip> for Resizer {
    fn handle(&mut self, _: Trip, _cx: &mut Context<Self>) {
        panic!("stumbled");
    }
}

/// Lets nobody pass until it is opened.
#[derive(Default)]
struct Gate(Vec<Reply<()>>);
impl Actor for Gate {}

#[message]
struct Pass;

#[message]
struct Open;

impl DeferredHandler<Pass> for Gate {
    fn handle(&mut self, _: Pass, reply: Reply<()>, _cx: &mut Context<Self>) {
        self.0.push(reply);
    }
}

impl Handler<Open> for Gate {
    fn handle(&mut self, _: Open, _cx: &mut Context<Self>) {
        self.0.drain(..).for_each(|reply| reply.send(()));
    }
}

/// Uses the workers of its shard.
struct Client;
impl Actor for Client {}

#[message(reply = (u16, String, u32))]
struct UseOne;

#[message(reply = (u32, u32))]
struct Flood(u32);

impl DeferredHandler<UseOne> for Client {
    fn handle(&mut self, _: UseOne, reply: Reply<(u16, String, u32)>, cx: &mut Context<Self>) {
        let workers = cx.workers::<Resizer>();
        cx.ask(&workers, Resize).then(|_, answer, _| reply.send(answer.unwrap()));
    }
}

impl Handler<Flood> for Client {
    /// How many were taken and handed back.
    fn handle(&mut self, flood: Flood, cx: &mut Context<Self>) -> (u32, u32) {
        let workers = cx.workers::<Resizer>();
        let sent = (0..flood.0).map(|_| workers.tell(Hold));
        let full = sent.filter(|sent| matches!(sent, Err(TellError::Full(Hold)))).count() as u32;
        (flood.0 - full, full)
    }
}

fn kit(shards: u16, workers: u16, mailbox: u32) -> TestKit {
    let described = TestKit::builder().engine(move |builder| {
        let mut config = Config::default();
        config.shards = Some(shards);
        builder.config(config).register::<Resizer>(|resizer| {
            resizer.workers_per_shard(workers).idle_timeout(10 * SECOND).mailbox_capacity(mailbox)
        })
    });
    let kit = described.start();
    kit.spawn_named("gate", Gate::default).unwrap();
    kit
}

fn active(kit: &TestKit) -> u64 {
    kit.stats().iter().map(|shard| shard.activated - shard.passivated).sum()
}

#[test]
fn messages_go_to_workers_of_the_senders_shard() {
    let kit = kit(3, 4, 16);
    for shard in 0..3 {
        let client = kit.spawn_on(shard, || Client).unwrap();
        for done in 1..=5 {
            assert_eq!(client.ask(UseOne).wait(), Ok((shard, "0".to_owned(), done)), "who is free takes it");
        }
    }
    assert_eq!(active(&kit), 3, "no more than were needed");
    // From outside the shards take turns.
    let mut shards: Vec<_> = (0..3).map(|_| kit.workers::<Resizer>().ask(Resize).wait().unwrap().0).collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 1, 2]);
    let unregistered = TestKit::new();
    assert!(matches!(unregistered.workers::<Resizer>().tell(Resize), Err(TellError::NoHandler(Resize))));
    let none = Engine::builder().register::<Resizer>(|resizer| resizer.workers_per_shard(0)).start();
    assert!(matches!(none, Err(StartError::Config(why)) if why.contains("workers_per_shard is 0")));
}

#[test]
fn a_type_of_actors_with_keys_has_no_workers() {
    let kit = TestKit::builder().engine(|builder| builder.register::<Resizer>(|resizer| resizer)).start();
    assert!(matches!(kit.workers::<Resizer>().tell(Resize), Err(TellError::NoHandler(Resize))));
}

#[test]
fn busy_workers_get_company_up_to_the_bound_and_then_the_least_loaded_gets_it() {
    let kit = kit(1, 3, 2);
    let workers = kit.workers::<Resizer>();
    let client = kit.spawn_on(0, || Client).unwrap();
    // Three handlers wait, and six messages wait for them.
    assert_eq!(client.ask(Flood(9)).wait(), Ok((6, 3)), "three mailboxes of two");
    kit.run_until_idle();
    assert_eq!(active(&kit), 3);
    assert_eq!(client.ask(Flood(9)).wait(), Ok((3, 6)), "one of each is being handled");
    assert_eq!(client.ask(Flood(9)).wait(), Ok((0, 9)), "a full pool hands back");
    assert_eq!(kit.dead_letters().total(), 0);
    // From outside the shard says so when it has arrived there.
    assert_eq!(workers.ask(Resize).wait(), Err(AskError::Rejected(Rejected::Full)));
    let gate = kit.lookup::<Gate>("gate").unwrap();
    for _ in 0..4 {
        gate.tell(Open).unwrap();
        kit.run_until_idle();
    }
    assert_eq!(workers.ask(Resize).wait().map(|(shard, number, _)| (shard, number)), Ok((0, "0".to_owned())));
    kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
    // The burst is over: idle ones leave.
    kit.advance(13 * SECOND);
    assert_eq!(active(&kit), 0);
    assert_eq!(workers.ask(Resize).wait(), Ok((0, "0".to_owned(), 1)), "and come back");
}

#[test]
fn a_workers_panic_is_its_own() {
    let kit = kit(1, 2, 16);
    kit.allow_panics();
    let workers = kit.workers::<Resizer>();
    let mut held = std::pin::pin!(workers.ask(Hold).deadline(LONG));
    let first = kit.block_on(std::future::poll_fn(|cx| std::task::Poll::Ready(held.as_mut().poll(cx))));
    assert!(first.is_pending());
    kit.run_until_idle();
    assert_eq!(workers.ask(Resize).wait(), Ok((0, "1".to_owned(), 1)));
    assert!(matches!(workers.ask(Trip).wait(), Err(AskError::Failed(_))), "the second one's");
    assert_eq!(workers.ask(Resize).wait(), Ok((0, "1".to_owned(), 1)), "it was made anew");
    kit.lookup::<Gate>("gate").unwrap().tell(Open).unwrap();
    assert_eq!(kit.block_on(held), Ok(0), "the first one noticed nothing");
}
