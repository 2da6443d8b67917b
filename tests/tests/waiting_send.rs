//! Hazard: a sender that waits for room. It waits alone, in line, is woken once, loses nothing when it gives up, and hears
//! when the receiver has stopped.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use shardstage::prelude::*;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{MessageName, NodeId, Reason, Sending, limits};
use support::{Echo, Item, Log, Ping, Sink, config, engine_with_mailboxes, hold, lost, on_tokio, seen};

/// Sends items `from..to`, each when there is room for it.
#[message(reply = Result<(), TellError<Item>>)]
struct SendAll {
    sink: ActorRef<Sink>,
    from: u64,
    to: u64,
}

#[derive(Default)]
struct Patient;
impl Actor for Patient {}

impl AsyncHandler<SendAll> for Patient {
    async fn handle(&mut self, all: SendAll, _cx: &mut Context<Self>) -> Result<(), TellError<Item>> {
        for value in all.from..all.to {
            all.sink.send(Item(value)).await?;
        }
        Ok(())
    }
}

/// Blocks inside a handler, which must not be.
#[message]
struct Block(ActorRef<Sink>);

impl Handler<Block> for Patient {
    fn handle(&mut self, block: Block, _cx: &mut Context<Self>) {
        block.0.send(Item(0)).wait().unwrap();
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(sending: &mut Sending<Item>, waker: &Waker) -> Poll<Result<(), TellError<Item>>> {
    Pin::new(sending).poll(&mut TaskContext::from_waker(waker))
}

/// A held sink with a full mailbox of four, and senders of the items `4..4 + n` in line.
fn line(engine: &Engine, n: u64, waker: &Waker) -> (ActorRef<Sink>, shardstage::Resume, Vec<Sending<Item>>) {
    let sink = engine.spawn(Sink::default).unwrap();
    let held = hold(sink);
    for value in 0..4 {
        sink.send(Item(value)).wait().unwrap();
    }
    let echo = engine.spawn(Echo::default).unwrap();
    for round in 0..3 {
        // The last of these comes in a turn after the one in which the four arrived.
        echo.ask(Ping(round)).wait().unwrap();
    }
    let mut senders: Vec<_> = (4..4 + n).map(|value| sink.send(Item(value))).collect();
    for sender in &mut senders {
        assert!(poll(sender, waker).is_pending());
    }
    (sink, held, senders)
}

#[test]
fn an_async_handler_waits_alone_and_its_shard_runs_on() {
    let engine = engine_with_mailboxes(2, 4);
    for shard in [0, 1] {
        let (patient, sink) =
            (engine.spawn_on(0, Patient::default).unwrap(), engine.spawn_on(shard, Sink::default).unwrap());
        let neighbour = engine.spawn_on(0, Echo::default).unwrap();
        let held = hold(sink);
        let sent = std::thread::scope(|scope| {
            let sending = scope.spawn(|| patient.ask(SendAll { sink, from: 0, to: 1000 }).wait());
            for round in 0..50 {
                assert_eq!(neighbour.ask(Ping(round)).wait(), Ok(round), "beside a sender that waits");
            }
            drop(held);
            sending.join().unwrap()
        });
        assert_eq!(sent, Ok(Ok(())));
        while seen(sink).len() < 1000 {}
        assert_eq!(seen(sink), (0..1000).collect::<Vec<_>>(), "in order, none twice");
    }
    // What `seen` asks may find no room meanwhile.
    let overran = std::iter::from_fn(|| engine.dead_letters().take())
        .filter(|letter| matches!(letter.message, MessageName::Type(name) if name.ends_with("::Item")));
    assert_eq!(overran.count(), 0, "who waits never overruns");
    engine.shutdown().unwrap();
}

#[test]
fn threads_and_tasks_wait() {
    let engine = engine_with_mailboxes(1, 2);
    let sink = engine.spawn(Sink::default).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..500).for_each(|value| sink.send(Item(value)).wait().unwrap()));
        scope.spawn(|| {
            on_tokio(async {
                for value in 500..1000 {
                    sink.recipient::<Item, _>().send(Item(value)).await.unwrap();
                }
            });
        });
    });
    while seen(sink).len() < 1000 {}
    let all = seen(sink);
    let part =
        |range: std::ops::Range<u64>| all.iter().copied().filter(|value| range.contains(value)).collect::<Vec<_>>();
    assert_eq!((part(0..500), part(500..1000)), ((0..500).collect(), (500..1000).collect()));
    engine.shutdown().unwrap();
}

#[test]
fn waiters_are_served_in_line_and_woken_once() {
    let engine = engine_with_mailboxes(1, 4);
    let wakes = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let (sink, held, mut senders) = line(&engine, 40, &waker);
    drop(held);
    // Only the first in line looks, so it must be its turn.
    for sender in &mut senders {
        loop {
            if let Poll::Ready(sent) = poll(sender, &waker) {
                break sent.unwrap();
            }
            std::thread::yield_now();
        }
    }
    while seen(sink).len() < 44 {}
    assert_eq!(seen(sink), (0..44).collect::<Vec<_>>());
    let woken = wakes.0.load(Ordering::SeqCst);
    assert!(woken <= 40, "{woken} wakes for 40 waiters");
    let lost = lost(&engine);
    assert!(lost.is_empty(), "{lost:?}");
    engine.shutdown().unwrap();
}

#[test]
fn a_dropped_send_has_not_sent_and_the_next_moves_up() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, held, mut senders) = line(&engine, 12, Waker::noop());
    drop(senders.remove(3));
    drop(sink.send(Item(99)));
    drop(held);
    // The first in line gets its turn, and gives it up.
    let echo = engine.spawn(Echo::default).unwrap();
    for round in 0..3 {
        echo.ask(Ping(round)).wait().unwrap();
    }
    drop(senders.remove(0));
    for sender in senders {
        sender.wait().unwrap();
    }
    while seen(sink).len() < 14 {}
    assert_eq!(seen(sink), [0, 1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    // All grants have come back: the mailbox has room for four again.
    let held = hold(sink);
    for value in 20..24 {
        sink.send(Item(value)).wait().unwrap();
    }
    drop(held);
    while seen(sink).len() < 18 {}
    let lost = lost(&engine);
    assert!(lost.is_empty(), "{lost:?}");
    engine.shutdown().unwrap();
}

#[test]
fn who_waits_hears_that_the_receiver_stopped() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, held, senders) = line(&engine, 3, Waker::noop());
    sink.stop().wait();
    for (sender, value) in senders.into_iter().zip(4..) {
        assert_eq!(sender.wait(), Err(TellError::Closed(Item(value))));
    }
    drop(held);
    let (_, _held, senders) = line(&engine, 3, Waker::noop());
    drop(engine);
    for (sender, value) in senders.into_iter().zip(4..) {
        assert_eq!(sender.wait(), Err(TellError::Closed(Item(value))));
    }
}

#[test]
fn the_table_of_waiters_is_bounded() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, held, mut senders) = line(&engine, limits::WAITERS_PER_SHARD as u64, Waker::noop());
    assert_eq!(sink.send(Item(7)).wait(), Err(TellError::TooManyWaiters(Item(7))));
    senders.pop();
    let mut one_more = sink.send(Item(8));
    assert!(poll(&mut one_more, Waker::noop()).is_pending());
    drop((senders, one_more, held));
    engine.shutdown().unwrap();
}

#[test]
fn waiting_on_a_shards_thread_panics_and_names_itself() {
    let engine = engine_with_mailboxes(1, 4);
    let (patient, sink) = (engine.spawn(Patient::default).unwrap(), engine.spawn(Sink::default).unwrap());
    let Err(AskError::Failed(panic)) = patient.ask(Block(sink)).wait() else { panic!("it must not block") };
    assert!(panic.0.contains("Sending::wait()"), "{}", panic.0);
    engine.shutdown().unwrap();
}

/// Keeps what it is sent, as a virtual actor too.
struct Hall;
impl Actor for Hall {}

thread_local! {
    /// What the hall of this thread's simulated node has got.
    static ARRIVED: std::cell::RefCell<Log<(u32, u64)>> = std::cell::RefCell::default();
}

impl VirtualActor for Hall {
    const TYPE: &'static str = "waiting.hall";

    fn activate(_key: &str) -> Self {
        Self
    }
}

/// One guest of one sender.
#[message(id = "waiting.guest")]
#[derive(Clone, Debug, PartialEq)]
struct Guest {
    from: u32,
    number: u64,
}

impl Handler<Guest> for Hall {
    fn handle(&mut self, guest: Guest, _cx: &mut Context<Self>) {
        ARRIVED.with_borrow(|arrived| arrived.push((guest.from, guest.number)));
    }
}

/// Sends guests, waiting for room each time.
struct Coach {
    hall: Result<ActorRef<Hall>, VirtualRef<Hall>>,
    me: u32,
}
impl Actor for Coach {}

#[message]
struct Drive(u64);

impl AsyncHandler<Drive> for Coach {
    async fn handle(&mut self, drive: Drive, _cx: &mut Context<Self>) {
        for number in 0..drive.0 {
            let guest = Guest { from: self.me, number };
            match &self.hall {
                Ok(hall) => hall.send(guest).await.unwrap(),
                Err(hall) => hall.send(guest).await.unwrap(),
            }
        }
    }
}

#[test]
fn many_senders_of_all_shards_wait_without_a_loss() {
    const EACH: u64 = 500;
    const COACHES: u32 = 9;
    for seed in 0..6 {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut config = config(3);
        config.mailbox_capacity = [1, 3, 16][seed as usize % 3];
        let builder = Engine::builder().config(config).register::<Hall>(|kind| kind.accept::<Guest, _>());
        let engine = builder.start_in_sim(&world, NodeId::new(0)).unwrap();
        let arrived = Log::new();
        ARRIVED.set(arrived.clone());
        let plain = engine.spawn_on(0, || Hall).unwrap();
        for me in 0..COACHES {
            let named = engine.actor::<Hall>("the hall");
            let make = move || Coach { hall: if seed < 3 { Ok(plain) } else { Err(named.clone()) }, me };
            engine.spawn_on((me % 3) as u16, make).unwrap().tell(Drive(EACH)).unwrap();
        }
        let all = EACH as usize * COACHES as usize;
        let bounced = |engine: &Engine| engine.dead_letters().count(Reason::Full) as usize;
        assert!(
            world.run_until(|_| arrived.len() + bounced(&engine) >= all, 100_000_000_000),
            "seed {seed}: {} arrived, {} bounced of {all}",
            arrived.len(),
            bounced(&engine)
        );
        let arrived = arrived.all();
        for me in 0..COACHES {
            assert!(arrived.iter().filter(|guest| guest.0 == me).is_sorted_by(|a, b| a.1 < b.1), "in order");
        }
        assert_eq!((arrived.len(), bounced(&engine)), (all, 0), "who waits never overruns");
    }
}
