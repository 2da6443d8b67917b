//! Hazard: actors that move between shards. Nothing is lost, doubled or reordered, whatever is under way when they do, and old
//! references, timers, names, watches and links go on as before.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::rc::Rc;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{MoveError, Moving, Placement, ShardId};

/// Counts what comes, and asserts that it comes in order.
struct Tally {
    last: [u32; 8],
    sum: u64,
    hops: Vec<Result<u16, MoveError>>,
}

impl Tally {
    fn new() -> Self {
        Self { last: [0; 8], sum: 0, hops: Vec::new() }
    }
}

impl Actor for Tally {
    fn moving() -> Moving<Self> {
        Moving::value()
    }

    fn moved(&mut self, from: Result<ShardId, MoveError>, _: &mut Context<Self>) {
        self.hops.push(from.map(ShardId::get));
    }
}

#[message(reply = u64)]
struct Numbered {
    from: usize,
    number: u32,
}

#[message(reply = u64)]
struct Sum;

#[message(reply = Vec<Result<u16, MoveError>>)]
struct Hops;

#[message(reply = u16)]
struct Where;

#[message(reply = Result<(), MoveError>)]
struct GoTo(u16);

impl Handler<Numbered> for Tally {
    fn handle(&mut self, message: Numbered, _: &mut Context<Self>) -> u64 {
        let last = &mut self.last[message.from];
        assert_eq!(message.number, *last + 1, "of sender {}", message.from);
        *last = message.number;
        self.sum += u64::from(message.number);
        self.sum
    }
}

impl Handler<Sum> for Tally {
    fn handle(&mut self, _: Sum, _: &mut Context<Self>) -> u64 {
        self.sum
    }
}

impl Handler<Hops> for Tally {
    fn handle(&mut self, _: Hops, _: &mut Context<Self>) -> Vec<Result<u16, MoveError>> {
        self.hops.clone()
    }
}

impl Handler<Where> for Tally {
    fn handle(&mut self, _: Where, cx: &mut Context<Self>) -> u16 {
        cx.me().id().shard().get()
    }
}

impl Handler<GoTo> for Tally {
    fn handle(&mut self, to: GoTo, cx: &mut Context<Self>) -> Result<(), MoveError> {
        cx.move_to(to.0)
    }
}

/// Sends numbers to a tally, and waits for room.
struct Sender {
    to: ActorRef<Tally>,
    from: usize,
}
impl Actor for Sender {}

#[message]
struct Flood(u32);

#[message(reply = u32)]
struct AskAll(u32);

impl AsyncHandler<Flood> for Sender {
    async fn handle(&mut self, flood: Flood, _: &mut Context<Self>) {
        for number in 1..=flood.0 {
            self.to.send(Numbered { from: self.from, number }).await.unwrap();
        }
    }
}

impl AsyncHandler<AskAll> for Sender {
    /// How many answers came.
    async fn handle(&mut self, asks: AskAll, _: &mut Context<Self>) -> u32 {
        let mut answers = 0;
        for number in 1..=asks.0 {
            self.to.ask(Numbered { from: self.from, number }).await.unwrap();
            answers += 1;
        }
        answers
    }
}

fn senders(kit: &TestKit, to: ActorRef<Tally>) -> Vec<ActorRef<Sender>> {
    (0..4).map(|from| kit.spawn_on(from as u16 % 3, move || Sender { to, from }).unwrap()).collect()
}

fn kit_with_mailboxes(shards: u16, capacity: u32) -> shardstage::testkit::TestKitBuilder {
    TestKit::builder().shards(shards).engine(move |builder| {
        let mut config = Config::default();
        config.shards = Some(shards);
        config.mailbox_capacity = capacity;
        builder.config(config)
    })
}

#[test]
fn a_value_goes_over_and_old_references_reach_it() {
    let kit = TestKit::builder().shards(3).start();
    let old = kit.spawn_on(0, Tally::new).unwrap();
    old.tell(Numbered { from: 0, number: 1 }).unwrap();
    let new = old.move_to(1).wait().unwrap();
    assert_eq!(new.id().shard().get(), 1);
    old.tell(Numbered { from: 0, number: 2 }).unwrap();
    assert_eq!(old.ask(Sum).wait(), Ok(3));
    assert_eq!(new.ask(Sum).wait(), Ok(3));
    assert_eq!((old.ask(Where).wait(), new.ask(Where).wait()), (Ok(1), Ok(1)));
    // There already.
    assert_eq!(old.move_to(1).wait(), Ok(new));
    let newest = new.move_to(2).wait().unwrap();
    assert_eq!([old, new, newest].map(|tally| tally.ask(Where).wait().unwrap()), [2; 3]);
    assert_eq!(old.move_to(0).wait(), Ok(old), "it takes its cell again");
    assert_eq!([old, new, newest].map(|tally| tally.ask(Where).wait().unwrap()), [0; 3]);
    assert_eq!(old.ask(Hops).wait(), Ok(vec![Ok(0), Ok(1), Ok(2)]));
    assert_eq!(new.stop().wait(), StopReason::Stopped);
    kit.run_until_idle();
    for tally in [old, new, newest] {
        assert_eq!(tally.ask(Sum).wait(), Err(AskError::Rejected(Rejected::Closed)));
    }
    kit.allow_dead_letters(|_| true);
    kit.assert_no_leaks();
}

#[test]
fn a_flood_meets_an_actor_that_moves_to_and_fro() {
    kit_with_mailboxes(3, 16).check_seeds(0..200, |kit| {
        let tally = kit.spawn_on(0, Tally::new).unwrap();
        let senders = senders(kit, tally);
        for sender in &senders {
            sender.tell(Flood(100)).unwrap();
        }
        let mut place = tally;
        for hop in 0..12_u64 {
            let to = u16::try_from((kit.seed() + hop * 7 / 3) % 3).unwrap();
            place = if hop % 2 == 0 { place.move_to(to).wait().unwrap() } else { tally.move_to(to).wait().unwrap() };
            assert_eq!(place.id().shard().get(), to);
        }
        kit.run_until_idle();
        assert_eq!(tally.ask(Sum).wait(), Ok(4 * 5050));
        assert_eq!(kit.engine().dead_letters().total(), 0);
        tally.stop().wait();
        for sender in senders {
            sender.stop().wait();
        }
        kit.run_until_idle();
        kit.assert_no_leaks();
    });
}

#[test]
fn asks_are_answered_once_over_moves() {
    kit_with_mailboxes(3, 16).check_seeds(0..100, |kit| {
        let tally = kit.spawn_on(1, Tally::new).unwrap();
        let answers: Vec<_> = senders(kit, tally).into_iter().map(|sender| sender.ask(AskAll(40))).collect();
        let mut answers: Vec<_> =
            answers.into_iter().map(|ask| Box::pin(std::future::IntoFuture::into_future(ask))).collect();
        let mut hop = 0;
        let mut moves = tally.move_to(0);
        let done = std::future::poll_fn(|cx| {
            use std::future::Future;
            use std::pin::Pin;
            if hop < 20
                && let std::task::Poll::Ready(moved) = Pin::new(&mut moves).poll(cx)
            {
                moved.unwrap();
                hop += 1;
                moves = tally.move_to(hop % 3);
                cx.waker().wake_by_ref();
            }
            answers.retain_mut(|ask| match ask.as_mut().poll(cx) {
                std::task::Poll::Ready(answers) => {
                    assert_eq!(answers, Ok(40));
                    false
                }
                std::task::Poll::Pending => true,
            });
            if answers.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        kit.block_on(done);
        assert_eq!(tally.ask(Sum).wait(), Ok(4 * 820));
        kit.run_until_idle();
        assert_eq!(kit.census().asks, 0);
    });
}

/// Not `Send`: goes as what another one can be made of.
struct Shelf {
    books: Rc<Vec<String>>,
    breaks: Break,
}

#[derive(Clone, Copy, PartialEq)]
enum Break {
    Nowhere,
    Leaving,
    Arriving,
}

impl Actor for Shelf {
    fn moving() -> Moving<Self> {
        Moving::state(
            |shelf: &mut Self| {
                assert!(shelf.breaks != Break::Leaving, "planted at the door");
                (shelf.books.to_vec(), shelf.breaks)
            },
            |(books, breaks)| {
                assert!(breaks != Break::Arriving, "planted on the other side");
                Self { books: Rc::new(books), breaks }
            },
        )
    }
}

#[message(reply = usize)]
struct Put(String);

impl Handler<Put> for Shelf {
    fn handle(&mut self, book: Put, _: &mut Context<Self>) -> usize {
        Rc::get_mut(&mut self.books).unwrap().push(book.0);
        self.books.len()
    }
}

impl Handler<Where> for Shelf {
    fn handle(&mut self, _: Where, cx: &mut Context<Self>) -> u16 {
        cx.me().id().shard().get()
    }
}

#[test]
fn a_state_goes_over_as_what_it_is_made_of() {
    let kit = TestKit::new();
    let shelf = kit.spawn_on(0, || Shelf { books: Rc::default(), breaks: Break::Nowhere }).unwrap();
    assert_eq!(shelf.ask(Put("Faust".to_owned())).wait(), Ok(1));
    let moved = shelf.move_to(1).wait().unwrap();
    assert_eq!(moved.ask(Put("Emma".to_owned())).wait(), Ok(2));
    assert_eq!(shelf.ask(Put("Ulysses".to_owned())).wait(), Ok(3));
}

#[test]
fn a_panic_on_the_way_is_the_actors_own() {
    for (breaks, text, shard) in
        [(Break::Leaving, "planted at the door", 0), (Break::Arriving, "planted on the other side", 1)]
    {
        let kit = TestKit::new();
        kit.allow_panics();
        let shelf = kit.spawn_on(0, move || Shelf { books: Rc::default(), breaks }).unwrap();
        shelf.ask(Put("Faust".to_owned())).wait().unwrap();
        assert_eq!(shelf.move_to(1).wait(), Err(MoveError::Panicked(text.to_owned())));
        // Rebuilt from its factory, where it failed.
        assert_eq!(shelf.ask(Put("Emma".to_owned())).wait(), Ok(1));
        assert_eq!(shelf.ask(Where).wait(), Ok(shard));
        kit.run_until_idle();
        let stats: u64 = kit.engine().stats().iter().map(|stats| stats.panics).sum();
        assert_eq!(stats, 1);
    }
}

/// Says nothing about moving.
struct Rock;
impl Actor for Rock {}
impl Handler<Where> for Rock {
    fn handle(&mut self, _: Where, cx: &mut Context<Self>) -> u16 {
        cx.me().id().shard().get()
    }
}
impl Handler<GoTo> for Rock {
    fn handle(&mut self, to: GoTo, cx: &mut Context<Self>) -> Result<(), MoveError> {
        cx.move_to(to.0)
    }
}

#[test]
fn who_stays_says_why() {
    let kit = TestKit::new();
    let rock = kit.spawn_on(0, || Rock).unwrap();
    assert_eq!(rock.move_to(1).wait(), Err(MoveError::Stays));
    assert_eq!(rock.ask(GoTo(1)).wait(), Ok(Err(MoveError::Stays)));
    assert_eq!(rock.ask(Where).wait(), Ok(0));
    let tally = kit.spawn_on(0, Tally::new).unwrap();
    assert_eq!(tally.move_to(7).wait(), Err(MoveError::NoShard));
    assert_eq!(tally.move_to(Placement::With(rock.id())).wait(), Ok(tally));
    let other = TestKit::new();
    let elsewhere = other.spawn(|| Rock).unwrap();
    assert_eq!(tally.move_to(elsewhere).wait(), Err(MoveError::NoShard));
    tally.stop().wait();
    assert_eq!(tally.move_to(1).wait(), Err(MoveError::Stopped));
}

#[test]
fn an_actor_moves_itself_after_its_message() {
    let kit = TestKit::new();
    let tally = kit.spawn_on(0, Tally::new).unwrap();
    assert_eq!(tally.ask(GoTo(9)).wait(), Ok(Err(MoveError::NoShard)));
    assert_eq!(tally.ask(GoTo(1)).wait(), Ok(Ok(())));
    assert_eq!(tally.ask(Where).wait(), Ok(1));
    assert_eq!(tally.ask(Hops).wait(), Ok(vec![Ok(0)]));
}

#[test]
fn two_moves_at_once_are_one_too_many() {
    let kit = TestKit::new();
    let tally = kit.spawn_on(0, Tally::new).unwrap();
    tally.started().wait().unwrap();
    let (first, second) = (tally.move_to(1), tally.move_to(1));
    assert!(first.wait().is_ok());
    assert_eq!(second.wait(), Err(MoveError::Moving));
}
