//! Credit between nodes: who is told too much at another node hears `Full` from then on instead of losing messages, and goes on
//! once there is room.

#![forbid(unsafe_code)]

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{NodeId, Reason, Resume};
use shardstage_codec::{ActorTypeId, AlignedBytes, FrameHeader, FrameKind, ReplyStatus, append_frame_bytes, slot_of};
use shardstage_quic::Quic;
use shardstage_tests::scripted::Scripted;
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};

mod wire {
    /// To be counted.
    #[shardstage::message(id = "credit.item")]
    pub struct Item {
        pub number: u64,
    }

    /// Stand still, or go on.
    #[shardstage::message(id = "credit.still")]
    pub struct Still {
        pub still: bool,
    }
}
use wire::{Item, Still};

const CAPACITY: u32 = 16;

/// Counts until a neighbour makes it stand still.
#[derive(Default)]
struct Receiver;

impl Actor for Receiver {}

impl VirtualActor for Receiver {
    const TYPE: &'static str = "credit.receiver";

    fn activate(_key: &str) -> Self {
        Self
    }
}

thread_local! {
    /// What makes the receiver stand still. The simulator runs every node on the test's thread.
    static STILL: std::cell::RefCell<Option<Resume>> = const { std::cell::RefCell::new(None) };
    static COUNTED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Handler<Item> for Receiver {
    fn handle(&mut self, item: Item, _cx: &mut Context<Self>) {
        COUNTED.with_borrow_mut(|counted| counted.push(item.number));
    }
}

impl Handler<Still> for Receiver {
    fn handle(&mut self, still: Still, cx: &mut Context<Self>) {
        assert!(still.still);
        STILL.with_borrow_mut(|resume| *resume = Some(cx.suspend()));
    }
}

/// Tells items from node `a`.
struct Teller {
    receiver: VirtualRef<Receiver>,
    next: u64,
}

impl Actor for Teller {}

/// Tell so many; answers how many were refused as full.
struct Tell(u64);

impl Message for Tell {
    type Reply = u64;
}

impl Handler<Tell> for Teller {
    fn handle(&mut self, tell: Tell, _cx: &mut Context<Self>) -> u64 {
        let mut full = 0;
        for _ in 0..tell.0 {
            match self.receiver.tell(Item { number: self.next }) {
                Ok(()) => self.next += 1,
                Err(TellError::Full(_)) => full += 1,
                Err(error) => panic!("{error}"),
            }
        }
        full
    }
}

fn start(world: &SimWorld, me: NodeId) -> Engine {
    Engine::builder()
        .register::<Receiver>(|it| it.accept::<Item, _>().accept::<Still, _>().mailbox_capacity(CAPACITY))
        .cluster(cluster("sim", me))
        .transport(Quic::new(quic("ca", if me == A { "a" } else { "b" })))
        .start_in_sim(world, me)
        .expect("a sound description")
}

/// A key at node `b`, on this shard; messages from shard 0 of node `a` reach it directly or by way of a ring.
fn key(shard: u16) -> String {
    let lives_there = |key: &String| {
        let slot = slot_of(ActorTypeId::of(Receiver::TYPE), key);
        slot.group().get() % 2 == 1 && slot.get() % 2 == shard
    };
    (0..).map(|number| format!("key-{number}")).find(lives_there).expect("a quarter of all keys live there")
}

fn overrun(shard: u16, seed: u64) {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let nodes = [start(&world, A), start(&world, B)];
    let meet = || world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 60 * SECOND);
    assert!(meet());
    let receiver = nodes[0].actor::<Receiver>(key(shard));
    let theirs = receiver.clone();
    let teller = nodes[0].spawn_on(0, move || Teller { receiver: theirs.clone(), next: 0 }).expect("it runs");
    let tell = |count| world.block_on(teller.ask(Tell(count)), 5 * SECOND).expect("it ends").expect("it answers");
    let settle = || world.run_for(SECOND / 2);
    let lost = || nodes[0].dead_letters().count(Reason::Full);

    receiver.tell(Still { still: true }).expect("the lane has room");
    settle();
    let capacity = u64::from(CAPACITY);
    assert_eq!(tell(3 * capacity), 0, "nobody knows yet");
    settle();
    assert_eq!(lost(), 2 * capacity, "what was on its way");
    assert_eq!(tell(100), 100, "now it is known");
    assert!(receiver.tell(Item { number: 0 }).is_err(), "outside the shards too");
    settle();
    assert_eq!(lost(), 2 * capacity, "nothing more is lost");

    drop(STILL.take());
    settle();
    assert_eq!(tell(1), 0, "there is room again");
    settle();
    let counted = COUNTED.take();
    assert_eq!(counted, (0..capacity).chain([3 * capacity]).collect::<Vec<_>>(), "in order, once");

    // A session takes what it knew along.
    receiver.tell(Still { still: true }).expect("there is room");
    settle();
    tell(2 * capacity);
    settle();
    assert_eq!(tell(1), 1);
    world.cut(A, B);
    world.cut(B, A);
    assert!(world.run_until(|_| nodes[0].peer(B).sessions == 0, 60 * SECOND));
    world.heal_all();
    assert!(meet());
    assert_eq!(tell(1), 0, "it is asked anew");
    drop(STILL.take());
    COUNTED.take();
}

#[test]
fn a_sender_hears_full_until_there_is_room() {
    overrun(0, 1);
}

#[test]
fn and_so_does_one_whose_receiver_lives_on_another_shard() {
    overrun(1, 2);
}

/// Sends items from node `a`, each when there is room for it.
#[derive(Default)]
struct Patient;

impl Actor for Patient {}

/// Send so many.
#[message]
struct SendAll(VirtualRef<Receiver>, u64);

impl AsyncHandler<SendAll> for Patient {
    async fn handle(&mut self, SendAll(receiver, count): SendAll, _cx: &mut Context<Self>) {
        for number in 0..count {
            receiver.send(Item { number }).await.expect("the session is open");
        }
    }
}

/// What a waiting sender of shard 0 must hear: word of room comes to the shard that the receiver lives on over there.
fn hears_of_room(give_room: impl Fn(&Scripted, FrameHeader, &str)) {
    for from in 0..2 {
        let world = SimWorld::new(SimOptions::seeded(3));
        let script = Scripted::default();
        let engine = Engine::builder()
            .register::<Receiver>(|it| it.accept::<Item, _>().accept::<Still, _>())
            .cluster(cluster("sim", A))
            .transport(script.clone())
            .start_in_sim(&world, A)
            .expect("a sound description");
        (0..2).for_each(|shard| script.up(shard, B));
        world.run_for(SECOND / 100);
        let key = key(1);
        let named = FrameHeader {
            actor_type: ActorTypeId::of(Receiver::TYPE),
            status: ReplyStatus::Full,
            ..FrameHeader::new(FrameKind::Bounce)
        };
        let mut full = AlignedBytes::new();
        append_frame_bytes(&mut full, named, &key, &[]).expect("it fits");
        script.say(1, B, full);
        world.run_for(SECOND / 100);

        let patient = engine.spawn_on(from, Patient::default).expect("it runs");
        patient.tell(SendAll(engine.actor::<Receiver>(key.as_str()), 3)).expect("there is room");
        world.run_for(SECOND / 10);
        assert!(script.take(FrameKind::Tell).is_none(), "it waits");
        give_room(&script, FrameHeader { status: ReplyStatus::Ok, ..named }, &key);
        world.run_for(SECOND / 10);
        for _ in 0..3 {
            let heard = script.take(FrameKind::Tell).expect("it goes on");
            assert_eq!(heard.shard, from);
        }
    }
}

#[test]
fn a_waiting_sender_of_another_shard_hears_of_room() {
    hears_of_room(|script, named, key| {
        let mut room = AlignedBytes::new();
        let header = FrameHeader { kind: FrameKind::Room, ..named };
        append_frame_bytes(&mut room, header, key, &[]).expect("it fits");
        script.say(1, B, room);
    });
}

#[test]
fn and_of_a_session_that_has_ended_with_what_it_knew() {
    hears_of_room(|script, _, _| {
        script.down(1, B);
        script.up(1, B);
    });
}
