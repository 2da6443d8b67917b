//! Hazard: where actors are spawned. A placement means the shard that it says, and a reference may be used before the actor is
//! there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Placement, SpawnError};
use support::engine;

#[derive(Default)]
struct Where {
    asked: u32,
}
impl Actor for Where {}

#[message(reply = (u16, u32))]
struct Ask;

impl Handler<Ask> for Where {
    fn handle(&mut self, _: Ask, cx: &mut Context<Self>) -> (u16, u32) {
        self.asked += 1;
        (cx.shard().get(), self.asked)
    }
}

/// Spawns on other shards and uses what it has spawned at once.
#[derive(Default)]
struct Spawner;
impl Actor for Spawner {}

#[message(reply = (u16, u32))]
struct SpawnAndAsk(Placement);

impl AsyncHandler<SpawnAndAsk> for Spawner {
    async fn handle(&mut self, spawn: SpawnAndAsk, cx: &mut Context<Self>) -> (u16, u32) {
        let made = cx.spawn_on(spawn.0, Where::default).unwrap();
        assert_eq!(cx.children(), []);
        made.tell(Ask).unwrap();
        made.ask(Ask).await.unwrap()
    }
}

/// Keeps its shard busy: each message takes virtual time.
#[message]
struct Work;

struct Worker;
impl Actor for Worker {}
impl Handler<Work> for Worker {
    fn handle(&mut self, _: Work, cx: &mut Context<Self>) {
        let _ = cx.me().tell(Work);
    }
}

fn shard_of(actor: ActorRef<Where>) -> u16 {
    actor.ask(Ask).wait().unwrap().0
}

#[test]
fn a_placement_is_the_shard_that_it_says() {
    TestKit::builder().shards(3).check_seeds(0..20, |kit| {
        let first = kit.spawn_on(2, Where::default).unwrap();
        assert_eq!(shard_of(first), 2);
        assert_eq!(shard_of(kit.spawn_on(first, Where::default).unwrap()), 2);
        assert_eq!(shard_of(kit.spawn_on(Placement::With(first.id()), Where::default).unwrap()), 2);
        let in_turn = [(); 3].map(|()| shard_of(kit.spawn_on(Placement::InTurn, Where::default).unwrap()));
        let mut sorted = in_turn;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
        for shard in 0..3 {
            let spawner = kit.spawn_on(shard, || Spawner).unwrap();
            assert_eq!(spawner.ask(SpawnAndAsk(Placement::Here)).wait(), Ok((shard, 2)));
            assert_eq!(spawner.ask(SpawnAndAsk(first.into())).wait(), Ok((2, 2)), "used at once, in order");
            assert_eq!(spawner.ask(SpawnAndAsk(Placement::Shard(0))).wait(), Ok((0, 2)));
        }
    });
}

#[test]
fn the_least_loaded_shard_has_fewer_actors_and_less_to_do() {
    let kit = TestKit::builder().shards(4).start();
    for _ in 0..40 {
        kit.spawn_on(1, Where::default).unwrap();
    }
    kit.run_until_idle();
    // A burst, between two turns: it is spread all the same.
    let burst: Vec<_> = (0..30).map(|_| kit.spawn_on(Placement::LeastLoaded, Where::default).unwrap()).collect();
    let mut counts = [0; 4];
    burst.iter().for_each(|actor| counts[usize::from(actor.id().shard().get())] += 1);
    assert_eq!(counts, [10, 0, 10, 10]);

    let kit = TestKit::builder().shards(2).start();
    let worker = kit.spawn_on(0, || Worker).unwrap();
    worker.tell(Work).unwrap();
    for _ in 0..10 {
        kit.world().run_for(150_000_000);
        let placed = kit.spawn_on(Placement::LeastLoaded, Where::default).unwrap();
        kit.world().run_for(150_000_000);
        let again = kit.spawn_on(Placement::LeastLoaded, Where::default).unwrap();
        assert_eq!((placed.id().shard().get(), again.id().shard().get()), (1, 1), "shard 0 is busy all the time");
    }
    worker.stop().wait();
    kit.allow_dead_letters(|_| true);
    kit.advance(Duration::from_secs(1));
    kit.spawn_on(1, || Spawner).unwrap().ask(SpawnAndAsk(Placement::Here)).wait().unwrap();
    kit.spawn_on(Placement::LeastLoaded, Where::default).unwrap();
    kit.advance(Duration::from_secs(1));
    kit.spawn_on(1, || Spawner).unwrap().ask(SpawnAndAsk(Placement::Here)).wait().unwrap();
    let calm = kit.spawn_on(Placement::LeastLoaded, Where::default).unwrap();
    assert_eq!(calm.id().shard().get(), 0, "it has fewer actors, and nothing to do any more");
}

#[test]
fn a_shard_that_is_not_there_or_shuts_down_is_refused() {
    let running = engine(2);
    let other = engine(1);
    let stranger = other.spawn(Where::default).unwrap();
    let no_shard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.spawn_on(2, Where::default)));
    let text = *no_shard.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("no shard 2"), "{text}");
    let of_other =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.spawn_on(stranger, Where::default)));
    assert!(of_other.unwrap_err().downcast::<String>().unwrap().contains("another engine"));
    other.begin_stop();
    assert_eq!(other.spawn_on(Placement::LeastLoaded, Where::default), Err(SpawnError::Closed));
    other.shutdown().unwrap();
    running.shutdown().unwrap();
}
