//! Hazard: answers of another node that come to one shard and are for another, which is slow: they wait there, and no more of them than
//! a bound says. A script plays the other node.
#![forbid(unsafe_code)]

use shardstage::limits::{PASSED_ON_BYTES, PASSED_ON_OVERHEAD};
use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{Reason, ShardId};
use shardstage_codec::ActorTypeId;
use shardstage_tests::scripted::{Scripted, key_at};
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster};

#[shardstage::message(id = "answers.fetch", reply = Vec<u8>)]
struct Fetch;

/// Lives at the other node.
#[derive(Default)]
struct Store;
impl Actor for Store {}

impl VirtualActor for Store {
    const TYPE: &'static str = "answers.store";

    fn activate(_key: &str) -> Self {
        Self
    }
}

impl Handler<Fetch> for Store {
    fn handle(&mut self, _: Fetch, _cx: &mut Context<Self>) -> Vec<u8> {
        Vec::new()
    }
}

/// A reply slot of shard 1 that nobody waits for, as its address.
const NOBODY: u64 = 1 << 54 | 5 << 27 | 9;

#[test]
fn answers_for_a_slow_shard_are_bounded_and_those_that_fit_arrive() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let script = Scripted::default();
    let engine = Engine::builder()
        .register::<Store>(|store| store.accept::<Fetch, _>())
        .cluster(cluster("sim", A))
        .transport(script.clone())
        .start_in_sim(&world, A)
        .expect("a sound description");
    (0..2).for_each(|shard| script.up(shard, B));
    world.run_for(SECOND / 100);
    let _ = ActorTypeId::of(Store::TYPE);
    let store = engine.actor::<Store>(key_at::<Store>(B, 2, 1).as_str());
    let mut ask = std::pin::pin!(store.ask(Fetch));
    let mut asked = None;
    let big = vec![7_u8; 1 << 20];
    let fits = PASSED_ON_BYTES / ((1 << 20) + PASSED_ON_OVERHEAD);
    let answer = world.block_on(
        std::future::poll_fn(|cx| {
            let polled = ask.as_mut().poll(cx);
            if asked.is_none()
                && let Some(heard) = script.take(shardstage_codec::FrameKind::Ask)
            {
                assert_eq!(heard.shard, 1);
                asked = Some(heard.header.correlation);
                world.stall(A, ShardId::new(1), SECOND / 10);
                // By the link of the other shard, as from a node with fewer shards.
                script.answer(0, B, heard.header.correlation, &big);
                (0..fits + 10).for_each(|_| script.answer(0, B, NOBODY, &big));
            }
            cx.waker().wake_by_ref();
            polled
        }),
        4 * SECOND,
    );
    assert_eq!(answer.expect("it ends").map(|bytes| bytes.len()), Ok(1 << 20));
    let dropped = engine.dead_letters().count(Reason::Full);
    assert!((11..=13).contains(&dropped), "{dropped}: the archive is a little longer than what is in it");
    // What has waited has been taken: there is room again.
    script.answer(0, B, NOBODY, &big);
    world.run_for(SECOND / 10);
    assert_eq!(engine.dead_letters().count(Reason::Full), dropped);
}
