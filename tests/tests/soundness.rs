//! Hazard: erased types. Messages, replies, states and closures of every size and alignment arrive whole, and each is dropped
//! exactly once, wherever it ends.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::{AskError, Message};
use support::{Echo, block, config, engine, on_tokio, start};

/// Counts how many exist.
struct Counted(Arc<AtomicI64>);

impl Counted {
    fn new(count: &Arc<AtomicI64>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A message of `N` bytes beside its count; answers itself.
#[derive(Clone)]
struct Sized<const N: usize>(Counted, [u8; N]);

impl<const N: usize> Message for Sized<N> {
    type Reply = Self;
}

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(align(16))]
struct Align16(u8);

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(align(64))]
struct Align64([u8; 3]);

/// A value of type `T`; answers it.
struct Exact<T>(T);

impl<T: Send + 'static> Message for Exact<T> {
    type Reply = T;
}

/// Its state is not `Send`.
struct Mirror {
    seen: Rc<RefCell<u64>>,
    _state: Counted,
}

impl Actor for Mirror {}

impl<const N: usize> Handler<Sized<N>> for Mirror {
    fn handle(&mut self, sized: Sized<N>, _cx: &mut Context<Self>) -> Sized<N> {
        *self.seen.borrow_mut() += 1;
        assert!(sized.1.iter().zip(0_u8..=250).all(|(byte, at)| *byte == at % 251 || N > 251));
        sized
    }
}

impl<T: Send + 'static> DeferredHandler<Exact<T>> for Mirror {
    fn handle(&mut self, exact: Exact<T>, reply: Reply<T>, _cx: &mut Context<Self>) {
        assert_eq!((&raw const exact.0).addr() % align_of::<T>(), 0);
        reply.send(exact.0);
    }
}

#[message]
struct Boom;

impl Handler<Boom> for Mirror {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

/// Holds its message while it waits.
#[message]
struct Slow(#[allow(dead_code)] Counted, ActorRef<Echo>);

impl AsyncHandler<Slow> for Mirror {
    async fn handle(&mut self, slow: Slow, _cx: &mut Context<Self>) {
        let kept = slow.0.clone();
        let _ = slow.1.ask(support::Ping(0)).await;
        drop(kept);
    }
}

fn bytes<const N: usize>() -> [u8; N] {
    std::array::from_fn(|at| u8::try_from(at % 251).unwrap())
}

/// Asks `mirror` on behalf of the test, with `.then` and a closure that holds something.
#[message(reply = Result<Sized<90>, AskError>)]
struct Relay(ActorRef<Mirror>, Sized<90>);

#[derive(Default)]
struct Relayer;
impl Actor for Relayer {}

impl DeferredHandler<Relay> for Relayer {
    fn handle(&mut self, relay: Relay, reply: Reply<Result<Sized<90>, AskError>>, cx: &mut Context<Self>) {
        let held = [relay.1.0.clone(), relay.1.0.clone(), relay.1.0.clone(), relay.1.0.clone(), relay.1.0.clone()];
        cx.ask(relay.0, relay.1).then(move |_, answer, _| {
            drop(held);
            reply.send(answer);
        });
    }
}

#[test]
fn every_size_and_alignment_arrives_whole_and_is_dropped_once() {
    let count = Arc::new(AtomicI64::new(0));
    let engine = engine(2);
    for shard in [0, 1] {
        let state = Arc::clone(&count);
        let mirror =
            engine.spawn_on(shard, move || Mirror { seen: Rc::default(), _state: Counted::new(&state) }).unwrap();
        let relayer = engine.spawn_on(0, Relayer::default).unwrap();
        macro_rules! sizes {
            ($($size:literal)*) => {$(
                let sent = Sized::<$size>(Counted::new(&count), bytes());
                mirror.tell(sent.clone()).unwrap();
                let back = mirror.ask(sent).wait().unwrap();
                assert_eq!(back.1, bytes::<$size>());
                drop(back);
                drop(on_tokio(async { mirror.ask(Sized::<$size>(Counted::new(&count), bytes())).await.unwrap() }));
            )*};
        }
        sizes!(0 1 31 32 33 40 41 4096);
        assert_eq!(mirror.ask(Exact(())).wait(), Ok(()));
        assert_eq!(mirror.ask(Exact([7_u8; 40])).wait(), Ok([7; 40]));
        assert_eq!(mirror.ask(Exact([7_u8; 41])).wait(), Ok([7; 41]));
        assert_eq!(mirror.ask(Exact([7_u64; 512])).wait(), Ok([7; 512]));
        assert_eq!(mirror.ask(Exact(Align16(3))).wait(), Ok(Align16(3)));
        assert_eq!(mirror.ask(Exact(Align64([1, 2, 3]))).wait(), Ok(Align64([1, 2, 3])));
        assert_eq!(mirror.ask(Exact(u128::MAX)).wait(), Ok(u128::MAX));
        let relayed = relayer.ask(Relay(mirror, Sized(Counted::new(&count), bytes()))).wait().unwrap();
        assert_eq!(relayed.unwrap().1, bytes::<90>());
    }
    engine.shutdown().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn refused_bounced_expired_and_interrupted_values_are_dropped_once() {
    let count = Arc::new(AtomicI64::new(0));
    let mut config = config(2);
    config.mailbox_capacity = 2;
    let engine = start(config);
    for shard in [0, 1] {
        let echo = engine.spawn_on(shard, Echo::default).unwrap();
        let relayer = engine.spawn_on(1 - shard, Relayer::default).unwrap();
        let state = Arc::clone(&count);
        let mirror =
            engine.spawn_on(shard, move || Mirror { seen: Rc::default(), _state: Counted::new(&state) }).unwrap();
        // Bounced on arrival, and handed back.
        let blocked = block(echo);
        for _ in 0..10 {
            drop(mirror.tell(Sized::<60>(Counted::new(&count), bytes())));
        }
        drop(blocked);
        for _ in 0..10 {
            let answer = relayer.ask(Relay(mirror, Sized(Counted::new(&count), bytes()))).wait();
            drop(answer);
        }
        // Expired; given up before and after it was sent.
        drop(on_tokio(async { mirror.ask(Sized::<8>(Counted::new(&count), bytes())).deadline(Duration::ZERO).await }));
        drop(mirror.ask(Sized::<8>(Counted::new(&count), bytes())));
        let mut begun = Box::pin(mirror.ask(Sized::<8>(Counted::new(&count), bytes())));
        on_tokio(std::future::poll_fn(|cx| {
            let _ = begun.as_mut().poll(cx);
            std::task::Poll::Ready(())
        }));
        drop(begun);
        // The state of an actor that panicked, and the messages behind that one.
        let _ = mirror.tell(Boom);
        let _ = mirror.tell(Sized::<8>(Counted::new(&count), bytes()));
        // A future that is dropped with its actor.
        let _ = mirror.tell(Slow(Counted::new(&count), engine.spawn_on(1 - shard, Echo::default).unwrap()));
        mirror.stop().wait();
        drop(mirror.tell(Sized::<8>(Counted::new(&count), bytes())));
    }
    engine.shutdown().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dropped_engine_drops_everything_once() {
    let count = Arc::new(AtomicI64::new(0));
    for round in 0..30 {
        let engine = engine(2);
        let state = Arc::clone(&count);
        let mirror = engine.spawn_on(0, move || Mirror { seen: Rc::default(), _state: Counted::new(&state) }).unwrap();
        let relayer = engine.spawn_on(1, Relayer::default).unwrap();
        let echo = engine.spawn_on(1, Echo::default).unwrap();
        for _ in 0..round * 10 {
            drop(mirror.tell(Sized::<100>(Counted::new(&count), bytes())));
            drop(mirror.tell(Slow(Counted::new(&count), echo)));
            drop(relayer.tell(Relay(mirror, Sized(Counted::new(&count), bytes()))));
        }
        drop(engine);
        assert_eq!(count.load(Ordering::SeqCst), 0, "round {round}");
    }
}
