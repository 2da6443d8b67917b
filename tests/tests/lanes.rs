//! Lanes are independent: neither messages of a mebibyte nor a receiver without room on one lane move the 99th percentile of
//! asks on another, over the same connection. In virtual time, so what is compared is the order of things, not a machine.

#![forbid(unsafe_code)]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{NodeId, Reason, Resume};
use shardstage_codec::{ActorTypeId, slot_of};
use shardstage_quic::Quic;
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

mod wire {
    /// A question that takes no time.
    #[shardstage::message(id = "lane.ping", reply = u64)]
    pub struct Ping {
        pub number: u64,
    }

    /// A load of words, each of eight bytes.
    #[shardstage::message(id = "lane.load")]
    pub struct Load {
        pub words: Vec<u64>,
        /// Whether its receiver is to stand still for good.
        pub stalls: bool,
    }
}
use wire::{Load, Ping};

/// The same actor twice: `Ordinary` on the ordinary lane, `Bulky` on that for large messages.
macro_rules! receiver {
    ($name:ident, $type:literal) => {
        #[derive(Default)]
        struct $name {
            still: Option<Resume>,
        }

        impl Actor for $name {}

        impl VirtualActor for $name {
            const TYPE: &'static str = $type;

            fn activate(_key: &str) -> Self {
                Self::default()
            }
        }

        impl Handler<Ping> for $name {
            fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) -> u64 {
                ping.number
            }
        }

        impl Handler<Load> for $name {
            fn handle(&mut self, load: Load, cx: &mut Context<Self>) {
                assert!(load.words.len() <= MEBIBYTE_WORDS);
                if load.stalls && self.still.is_none() {
                    self.still = Some(cx.suspend());
                }
            }
        }
    };
}
receiver!(Ordinary, "lane.ordinary");
receiver!(Bulky, "lane.bulky");

/// Words, because an unoptimised test reads a message element by element.
const MEBIBYTE_WORDS: usize = (1 << 20) / 8;

/// Every virtual half millisecond one load to its target, as long as the lane takes it.
struct Loader<A> {
    target: VirtualRef<A>,
    words: usize,
    stalls: bool,
}

impl<A: 'static> Actor for Loader<A> {}

struct Tick;

impl Message for Tick {
    type Reply = ();
}

impl<A: VirtualActor + Handler<Load>> Handler<Tick> for Loader<A> {
    fn handle(&mut self, _: Tick, cx: &mut Context<Self>) {
        let _full = self.target.tell(Load { words: vec![1; self.words], stalls: self.stalls });
        cx.after(Duration::from_micros(500), Tick);
    }
}

fn start(world: &SimWorld, me: NodeId) -> Engine {
    Engine::builder()
        .register::<Ordinary>(|it| it.accept::<Ping, _>().accept::<Load, _>().mailbox_capacity(8))
        .register::<Bulky>(|it| it.accept::<Ping, _>().accept::<Load, _>().mailbox_capacity(8).bulk())
        .cluster(cluster("sim", me))
        .transport(Quic::new(quic("ca", if me == A { "a" } else { "b" })))
        .start_in_sim(world, me)
        .expect("a sound description")
}

/// The nth key of a type that lives on shard 0 of node `b`, and is sent to by way of shard 0 of node `a`.
fn key<A: VirtualActor>(nth: usize) -> String {
    let lives_there = |key: &String| {
        let slot = slot_of(ActorTypeId::of(A::TYPE), key);
        slot.group().get() % 2 == 1 && slot.get().is_multiple_of(2)
    };
    (0..).map(|number| format!("key-{number}")).filter(lives_there).nth(nth).expect("a quarter of all keys live there")
}

/// What happens on the other lane.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    Nothing,
    Mebibytes,
    NoRoom,
}

/// The 99th percentile of asks to a `Measured`, in virtual nanoseconds, while a `Loaded` gets loads or nothing.
fn p99<Measured, Loaded>(seed: u64, other: Other) -> u64
where
    Measured: VirtualActor + Handler<Ping>,
    Loaded: VirtualActor + Handler<Load>,
{
    let world = SimWorld::new(SimOptions::seeded(seed));
    let nodes = [start(&world, A), start(&world, B)];
    let met = world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 10 * SECOND);
    assert!(met);
    if other != Other::Nothing {
        let stalls = other == Other::NoRoom;
        let words = if stalls { 12 } else { MEBIBYTE_WORDS };
        let target = nodes[0].actor::<Loaded>(key::<Loaded>(1));
        let loader = nodes[0].spawn_on(0, move || Loader { target: target.clone(), words, stalls });
        loader.expect("it runs").tell(Tick).expect("its mailbox is empty");
        world.run_for(SECOND / 10);
    }
    let measured = nodes[0].actor::<Measured>(key::<Measured>(0));
    let mut took: Vec<u64> = (0..200)
        .map(|number| {
            let before = world.now_ns();
            let answer = world.block_on(measured.ask(Ping { number }), 5 * SECOND);
            assert_eq!(answer, Some(Ok(number)));
            world.now_ns() - before
        })
        .collect();
    let refused = nodes[0].dead_letters().count(Reason::Full);
    assert_eq!(refused > 0, other == Other::NoRoom, "{refused} loads found no room");
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// How much worse the 99th percentile may become: what waits is at most one datagram of the other lane, in each direction.
fn compare<Measured, Loaded>(other: Other)
where
    Measured: VirtualActor + Handler<Ping>,
    Loaded: VirtualActor + Handler<Load>,
{
    for seed in 1..3 {
        let alone = p99::<Measured, Loaded>(seed, Other::Nothing);
        let beside = p99::<Measured, Loaded>(seed, other);
        println!("seed {seed}: {alone} ns alone, {beside} ns beside");
        assert!(beside <= alone + alone / 5, "seed {seed}: {alone} ns alone, {beside} ns beside the other lane's load");
    }
}

#[test]
fn mebibytes_on_the_bulk_lane_do_not_delay_the_ordinary_one() {
    compare::<Ordinary, Bulky>(Other::Mebibytes);
    // What the lane is for: on one and the same, they do.
    let alone = p99::<Ordinary, Ordinary>(1, Other::Nothing);
    let beside = p99::<Ordinary, Ordinary>(1, Other::Mebibytes);
    assert!(beside > alone + alone / 5, "{alone} ns alone, {beside} ns on the same lane as mebibytes");
}

#[test]
fn mebibytes_on_the_ordinary_lane_do_not_delay_the_bulk_one() {
    compare::<Bulky, Ordinary>(Other::Mebibytes);
}

#[test]
fn a_receiver_without_room_delays_no_other_lane() {
    compare::<Ordinary, Bulky>(Other::NoRoom);
    compare::<Bulky, Ordinary>(Other::NoRoom);
}

/// Nor its own: the lane goes on past a receiver that stands still.
#[test]
fn a_receiver_without_room_does_not_delay_its_own_lane() {
    compare::<Ordinary, Ordinary>(Other::NoRoom);
    compare::<Bulky, Bulky>(Other::NoRoom);
}
