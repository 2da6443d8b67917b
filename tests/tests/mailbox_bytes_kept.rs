//! Hazard: heavy messages that do not just pass through a mailbox: what is put aside, what a rebuild, a next life or another shard takes
//! over, what comes from another node. Their bytes count where they are, once.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::testkit::TestKit;
use shardstage::{
    ArchivedHandler, BoxError, Mailbox, MoveError, Moving, NodeId, Reason, Resume, ShardId, StartError, StashFull,
    StopReason,
};
use shardstage_codec::{ActorTypeId, slot_of};
use shardstage_quic::Quic;
use shardstage_tests::heavy::{ArchivedBlob, BYTES, Blob, queued, told};
use shardstage_tests::sim_cluster::{A, B, SECOND, cluster, quic};
use support::Log;

/// Puts blobs aside until it is told to take them up.
struct Hoarder {
    log: Log<u64>,
    hoards: bool,
}

impl Actor for Hoarder {
    const MAILBOX: Mailbox = Mailbox::new().bytes(BYTES);
}

/// How many it has taken up, and whether a byte more would have found room.
#[message(reply = (usize, bool))]
struct TakeUp;

impl Handler<Blob> for Hoarder {
    fn handle(&mut self, blob: Blob, cx: &mut Context<Self>) {
        if !self.hoards {
            return self.log.push(blob.number);
        }
        if let Err(StashFull(blob)) = cx.stash(blob) {
            self.log.push(1000 + blob.number);
        }
    }
}

impl Handler<TakeUp> for Hoarder {
    fn handle(&mut self, _: TakeUp, cx: &mut Context<Self>) -> (usize, bool) {
        self.hoards = false;
        (cx.unstash(), cx.me().tell(Blob::new(9, 1)).is_ok())
    }
}

#[test]
fn what_is_put_aside_is_bounded_by_the_same_bytes_and_counts_again_when_it_is_back() {
    let kit = TestKit::new();
    let log = Log::new();
    let for_hoarder = log.clone();
    let hoarder = kit.spawn_on(0, move || Hoarder { log: for_hoarder.clone(), hoards: true }).unwrap();
    kit.run_until_idle();
    assert_eq!(told(&kit, None, hoarder.recipient(), 0, &[400, 400]), [true, true]);
    assert_eq!(told(&kit, None, hoarder.recipient(), 2, &[400, 200, 1]), [true; 3]);
    assert_eq!(log.all(), [1002, 1004], "800 bytes and 200 are all");
    assert_eq!(queued(&kit, hoarder), (0, 0));
    let taken = kit.block_on(hoarder.ask(TakeUp)).unwrap();
    assert_eq!(taken, (3, false), "they count again at once");
    kit.run_until_idle();
    assert_eq!((log.all(), queued(&kit, hoarder)), (vec![1002, 1004, 0, 1, 3], (0, 0)));
}

/// Panics at every third blob, moves at its own wish, and counts.
struct Rover {
    handled: Arc<AtomicU64>,
}

impl Actor for Rover {
    const MAILBOX: Mailbox = Mailbox::new().bytes(BYTES);
}

impl Handler<Blob> for Rover {
    fn handle(&mut self, blob: Blob, _cx: &mut Context<Self>) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        assert!(!blob.number.is_multiple_of(3), "planted");
    }
}

#[test]
fn a_rebuild_keeps_the_mailbox_and_what_it_weighs() {
    let kit = TestKit::new();
    kit.allow_panics();
    let handled = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&handled);
    let rover = kit.spawn_on(0, move || Rover { handled: Arc::clone(&theirs) }).unwrap();
    kit.run_until_idle();
    for round in 0..4 {
        let stall = kit.stall(rover);
        assert_eq!(told(&kit, Some(0), rover.recipient(), round * 6, &[200; 6]), [true, true, true, true, true, false]);
        assert_eq!(queued(&kit, rover), (5, 1000));
        drop(stall);
        kit.advance(Duration::from_secs(5));
        assert_eq!(queued(&kit, rover), (0, 0));
    }
    assert_eq!(handled.load(Ordering::Relaxed), 20);
}

/// Goes from shard to shard with what it has.
struct Nomad {
    log: Log<u64>,
}

impl Actor for Nomad {
    const MAILBOX: Mailbox = Mailbox::new().bytes(BYTES);

    fn moving() -> Moving<Self> {
        Moving::value()
    }

    fn moved(&mut self, _from: Result<ShardId, MoveError>, cx: &mut Context<Self>) {
        if self.log.len() == 0 {
            // Eight hundred bytes have come along.
            assert!(cx.me().tell(Blob::new(999, 201)).is_err());
        }
    }
}

#[message(reply = Result<(), MoveError>)]
struct GoTo(u16);

impl Handler<GoTo> for Nomad {
    fn handle(&mut self, to: GoTo, cx: &mut Context<Self>) -> Result<(), MoveError> {
        cx.move_to(to.0)
    }
}

impl Handler<Blob> for Nomad {
    fn handle(&mut self, blob: Blob, _cx: &mut Context<Self>) {
        self.log.push(blob.number);
    }
}

#[test]
fn a_move_takes_the_bytes_along_and_both_places_are_bounded() {
    let kit = TestKit::new();
    let log = Log::new();
    let for_nomad = log.clone();
    let nomad = kit.spawn_on(0, move || Nomad { log: for_nomad.clone() }).unwrap();
    kit.run_until_idle();
    // It is asked to go while blobs wait behind that; they go along.
    let stall = kit.stall(nomad);
    nomad.recipient::<GoTo, _>().tell(GoTo(1)).unwrap();
    assert_eq!(told(&kit, Some(0), nomad.recipient(), 0, &[200; 4]), [true; 4]);
    drop(stall);
    kit.run_until_idle();
    assert_eq!(log.all(), [0, 1, 2, 3]);
    let find = || kit.engine().introspect().of::<Nomad>().wait().actors.iter().map(|it| it.id).collect::<Vec<_>>();
    let there = find().into_iter().find(|id| id.shard().get() == 1).unwrap();
    assert_eq!(queued(&kit, there), (0, 0));
    let stall = kit.stall(there);
    // By way of its old place.
    let mut taken = 0;
    for round in 0..8 {
        let of_round = told(&kit, Some(0), nomad.recipient(), 10 + 5 * round, &[200; 5]);
        taken += of_round.iter().filter(|taken| **taken).count();
    }
    let most = 2 * 5 + shardstage::limits::WEIGHED_AHEAD as usize;
    assert!((10..=most).contains(&taken), "{taken}: five here, five there");
    assert!(queued(&kit, there).1 <= u64::from(BYTES) + 4 * 200);
    drop(stall);
    kit.run_until_idle();
    assert_eq!(log.len(), 4 + taken, "nothing is lost");
    assert!(log.all().is_sorted());
    // And back again, with some.
    let stall = kit.stall(there);
    nomad.recipient::<GoTo, _>().tell(GoTo(0)).unwrap();
    kit.run_until_idle();
    assert_eq!(told(&kit, Some(0), nomad.recipient(), 100, &[200; 4]), [true; 4]);
    drop(stall);
    kit.run_until_idle();
    assert_eq!(queued(&kit, nomad), (0, 0));
    let stall = kit.stall(nomad);
    assert_eq!(told(&kit, Some(0), nomad.recipient(), 200, &[200; 6]), [true, true, true, true, true, false]);
    drop(stall);
    kit.run_until_idle();
    assert_eq!(log.len(), 4 + taken + 9);
}

/// A virtual actor that notes what it handles, and stands still when it is told to.
struct Keeper;

impl Actor for Keeper {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        if PROBES.take() {
            ROOM.set(Some(cx.me().tell(Blob::new(99, 1)).is_ok()));
        }
        Ok(())
    }
}

thread_local! {
    /// What keepers have noted, and what makes one of them stand still. The simulator runs all nodes on the test's thread.
    static NOTED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static STILL: RefCell<Vec<Resume>> = const { RefCell::new(Vec::new()) };
    /// Whether the next keeper to start tells itself a byte more, and whether that found room.
    static PROBES: Cell<bool> = const { Cell::new(false) };
    static ROOM: Cell<Option<bool>> = const { Cell::new(None) };
    static HERE: RefCell<Option<shardstage::ActorId>> = const { RefCell::new(None) };
}

impl VirtualActor for Keeper {
    const TYPE: &'static str = "heavy.keeper";

    fn activate(_key: &str) -> Self {
        Self
    }
}

#[message(id = "heavy.still")]
struct Still;

impl Handler<Blob> for Keeper {
    fn handle(&mut self, blob: Blob, _cx: &mut Context<Self>) {
        NOTED.with_borrow_mut(|noted| noted.push(blob.number));
    }
}

impl Handler<Still> for Keeper {
    fn handle(&mut self, _: Still, cx: &mut Context<Self>) {
        HERE.set(Some(cx.me().id()));
        STILL.with_borrow_mut(|still| still.push(cx.suspend()));
    }
}

/// Reads blobs where they are.
struct Reader;
impl Actor for Reader {}

impl VirtualActor for Reader {
    const TYPE: &'static str = "heavy.reader";

    fn activate(_key: &str) -> Self {
        Self
    }
}

impl ArchivedHandler<Blob> for Reader {
    fn handle(&mut self, blob: &ArchivedBlob, _cx: &mut Context<Self>) {
        NOTED.with_borrow_mut(|noted| noted.push(blob.number.to_native()));
    }
}

impl Handler<Still> for Reader {
    fn handle(&mut self, _: Still, cx: &mut Context<Self>) {
        STILL.with_borrow_mut(|still| still.push(cx.suspend()));
    }
}

#[test]
fn a_virtual_type_has_such_a_bound_and_its_next_life_what_was_left() {
    let kit = TestKit::builder()
        .engine(|builder| {
            let mut config = Config::default();
            config.shards = Some(1);
            builder
                .config(config)
                .register::<Keeper>(|it| it.accept::<Blob, _>().accept::<Still, _>().mailbox_bytes(BYTES))
        })
        .start();
    NOTED.take();
    let keeper = kit.actor::<Keeper>("k");
    let tell = |number, bytes| keeper.tell(Blob::new(number, bytes));
    keeper.tell(Still).unwrap();
    kit.run_until_idle();
    (0..4).for_each(|number| tell(number, 250).unwrap());
    kit.run_until_idle();
    let first = HERE.take().unwrap();
    assert_eq!(queued(&kit, first), (4, 1000));
    // It does not come to an end, and has to go: what is queued is its next life's.
    PROBES.set(true);
    let left = keeper.passivate().unwrap();
    kit.advance(Duration::from_secs(7));
    assert_eq!(left.wait(), StopReason::Passivated);
    kit.run_until_idle();
    assert_eq!(NOTED.take(), [0, 1, 2, 3]);
    assert_eq!(ROOM.take(), Some(false), "what was left counts from the first turn on");
    keeper.tell(Still).unwrap();
    kit.run_until_idle();
    let second = HERE.take().unwrap();
    assert_ne!(first, second);
    kit.allow_dead_letters(|letter| letter.reason == Reason::Full);
    (4..10).for_each(|number| drop(tell(number, 250)));
    kit.run_until_idle();
    assert_eq!(queued(&kit, second), (4, 1000));
    STILL.take();
    kit.run_until_idle();
    assert_eq!((NOTED.take(), queued(&kit, second)), (vec![4, 5, 6, 7], (0, 0)));
    let refused = Engine::builder().register::<Keeper>(|it| it.mailbox_bytes(0)).start();
    let Err(StartError::Config(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("mailbox_bytes"), "{why}");
}

fn start(world: &SimWorld, me: NodeId) -> Engine {
    Engine::builder()
        .register::<Keeper>(|it| it.accept::<Blob, _>().accept::<Still, _>().mailbox_bytes(BYTES))
        .register::<Reader>(|it| it.accept::<Blob, _>().accept::<Still, _>().mailbox_bytes(BYTES))
        .cluster(cluster("sim", me))
        .transport(Quic::new(quic("ca", if me == A { "a" } else { "b" })))
        .start_in_sim(world, me)
        .unwrap()
}

/// What comes from another node: of so many blobs of 300 bytes, as many are handled as fit, and senders hear of it.
fn from_another_node<R, K, S>()
where
    R: VirtualActor + shardstage::Receive<Blob, K> + shardstage::Receive<Still, S>,
    K: 'static,
    S: 'static,
{
    for shard in 0..2 {
        NOTED.take();
        let world = SimWorld::new(SimOptions::seeded(1));
        let nodes = [start(&world, A), start(&world, B)];
        let met = || nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2;
        assert!(world.run_until(|_| met(), 60 * SECOND));
        let lives_there = |key: &String| {
            let slot = slot_of(ActorTypeId::of(R::TYPE), key);
            slot.group().get() % 2 == 1 && slot.get() % 2 == shard
        };
        let key = (0..).map(|number| format!("key-{number}")).find(lives_there).unwrap();
        let receiver = nodes[0].actor::<R>(key.as_str());
        let settle = || world.run_for(SECOND / 2);
        let lost = || nodes[0].dead_letters().count(Reason::Full);
        receiver.tell(Still).unwrap();
        settle();
        (0..8).for_each(|number| receiver.tell(Blob::new(number, 300)).unwrap());
        settle();
        assert_eq!(lost(), 5, "on shard {shard}: three fit");
        assert!(matches!(receiver.tell(Blob::new(8, 300)), Err(TellError::Full(blob)) if blob.number == 8));
        settle();
        STILL.take();
        settle();
        receiver.tell(Blob::new(9, 300)).unwrap();
        settle();
        assert_eq!((NOTED.take(), lost()), (vec![0, 1, 2, 9], 5));
        nodes.into_iter().for_each(|node| node.shutdown().unwrap());
    }
}

#[test]
fn what_comes_from_another_node_is_weighed_on_arrival() {
    from_another_node::<Keeper, _, _>();
}

#[test]
fn what_is_read_in_place_weighs_its_archive() {
    from_another_node::<Reader, _, _>();
}
