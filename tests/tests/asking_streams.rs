//! Hazard: an answer in many items must come in order, bounded by what the asker grants, and end exactly once.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ItemError, ItemSender, ItemStream, Panicked, item_stream};
use support::Log;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// From an iterator, as room is granted.
    Feed,
    /// From an async handler of the source.
    Async,
    /// One item, then a reason.
    Fail,
    /// One item, then nothing.
    Drop,
}

#[message(reply = ItemStream<u64>)]
struct Count {
    upto: u64,
    way: Way,
}

/// Produces in its own time what an async producer sends.
#[message]
struct Produce(ItemSender<u64>, u64);

#[derive(Default)]
struct Source {
    made: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
}
impl Actor for Source {}

impl Handler<Count> for Source {
    fn handle(&mut self, count: Count, cx: &mut Context<Self>) -> ItemStream<u64> {
        let (items, stream) = item_stream();
        let made = Arc::clone(&self.made);
        match count.way {
            Way::Feed => {
                let counted = move |_: &u64| {
                    made.fetch_add(1, Ordering::Relaxed);
                };
                cx.feed(items, (1..=count.upto).inspect(counted));
            }
            Way::Async => cx.me().tell(Produce(items, count.upto)).unwrap(),
            Way::Fail => {
                assert_eq!(items.try_send(1), Err(ItemError::Full(1)), "nothing was granted so far");
                items.fail(AskError::Failed(Panicked("no more".into())));
            }
            Way::Drop => drop(items),
        }
        stream
    }
}

impl AsyncHandler<Produce> for Source {
    async fn handle(&mut self, Produce(mut items, upto): Produce, _cx: &mut Context<Self>) {
        for item in 1..=upto {
            self.made.fetch_add(1, Ordering::Relaxed);
            if items.send(item).await.is_err() {
                self.closed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        items.finish();
    }
}

/// Reads a stream in its turns.
#[message]
struct Read(ActorRef<Source>, Count);

struct Reader {
    read: Log<String>,
}
impl Actor for Reader {}

impl Handler<Read> for Reader {
    fn handle(&mut self, Read(source, count): Read, cx: &mut Context<Self>) {
        cx.ask(source, count).for_each(|this, item, _| {
            this.read.push(match item {
                Some(Ok(item)) => item.to_string(),
                Some(Err(error)) => format!("{error:?}"),
                None => "end".to_owned(),
            });
        });
    }
}

fn source(kit: &TestKit, shard: u16) -> (ActorRef<Source>, Arc<AtomicU64>, Arc<AtomicU64>) {
    let (made, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (a, b) = (Arc::clone(&made), Arc::clone(&closed));
    let source = kit.spawn_on(shard, move || Source { made: Arc::clone(&a), closed: Arc::clone(&b) }).unwrap();
    (source, made, closed)
}

#[test]
fn items_come_in_order_and_then_the_end_once() {
    TestKit::check_seeds(0..10, |kit| {
        for (source_on, reader_on) in [(0, 0), (0, 1), (1, 0)] {
            for way in [Way::Feed, Way::Async] {
                let (source, ..) = source(kit, source_on);
                let read = Log::new();
                let shared = read.clone();
                let reader = kit.spawn_on(reader_on, move || Reader { read: shared.clone() }).unwrap();
                reader.tell(Read(source, Count { upto: 200, way })).unwrap();
                kit.run_until_idle();
                let expected: Vec<String> =
                    (1..=200_u64).map(|item| item.to_string()).chain(["end".to_owned()]).collect();
                assert_eq!(read.all(), expected);
                // And in a future, from outside.
                let sum = kit.block_on(async {
                    let mut stream = source.ask(Count { upto: 100, way }).await.unwrap();
                    let mut sum = 0;
                    while let Some(item) = stream.next().await {
                        sum += item.unwrap();
                    }
                    assert!(stream.next().await.is_none(), "the end stays the end");
                    sum
                });
                assert_eq!(sum, 5050);
            }
        }
        assert_eq!(kit.census().asks, 0);
    });
}

#[test]
fn no_more_items_are_under_way_than_the_asker_has_granted() {
    TestKit::check_seeds(0..10, |kit| {
        for (source_on, way) in [(0, Way::Feed), (1, Way::Feed), (0, Way::Async), (1, Way::Async)] {
            let (source, made, closed) = source(kit, source_on);
            let mut stream = source.ask(Count { upto: 1000, way }).wait().unwrap().credit(4);
            kit.run_until_idle();
            // The producer holds one item in its hand.
            assert!(made.load(Ordering::Relaxed) <= 1, "nothing is granted before the asker has looked");
            for item in 1..=10 {
                assert_eq!(kit.block_on(stream.next()), Some(Ok(item)));
                kit.run_until_idle();
                assert!(made.load(Ordering::Relaxed) <= item + 4 + 1, "{item}");
            }
            drop(stream);
            kit.run_until_idle();
            assert!(made.load(Ordering::Relaxed) <= 15, "the producer has stopped");
            assert_eq!(closed.load(Ordering::Relaxed), u64::from(way == Way::Async), "and was told");
        }
    });
}

#[test]
fn a_stream_that_does_not_end_well_says_so_once() {
    TestKit::check_seeds(0..5, |kit| {
        for (way, text) in [(Way::Fail, "no more"), (Way::Drop, "the handler dropped its stream unfinished")] {
            let (source, ..) = source(kit, 1);
            let (all, after) = kit.block_on(async {
                let mut stream = source.ask(Count { upto: 1, way }).await.unwrap();
                (stream.next().await, stream.next().await)
            });
            assert_eq!((all, after), (Some(Err(AskError::Failed(Panicked(text.into())))), None));
        }
        // A source that stops, and one that is gone.
        let (source, ..) = source(kit, 1);
        let mut stream = source.ask(Count { upto: 1000, way: Way::Feed }).wait().unwrap().credit(1);
        assert_eq!(kit.block_on(stream.next()), Some(Ok(1)));
        source.stop().wait();
        let rest: Vec<_> = std::iter::from_fn(|| kit.block_on(stream.next())).collect();
        assert!(rest.len() <= 3 && matches!(rest.last(), Some(Err(AskError::Failed(_)))), "{rest:?}");
        let read = Log::new();
        let shared = read.clone();
        let reader = kit.spawn_on(0, move || Reader { read: shared.clone() }).unwrap();
        kit.allow_dead_letters(|_| true);
        reader.tell(Read(source, Count { upto: 1, way: Way::Feed })).unwrap();
        kit.run_until_idle();
        assert_eq!(read.all(), ["Rejected(Closed)", "end"]);
    });
}

#[test]
fn a_reader_that_stops_ends_the_stream_of_its_source() {
    TestKit::check_seeds(0..10, |kit| {
        for source_on in [0, 1] {
            let (source, _, closed) = source(kit, source_on);
            let read = Log::new();
            let shared = read.clone();
            let reader = kit.spawn_on(0, move || Reader { read: shared.clone() }).unwrap();
            reader.tell(Read(source, Count { upto: u64::MAX, way: Way::Async })).unwrap();
            kit.run_until(|| read.len() > 100);
            reader.stop().wait();
            kit.run_until_idle();
            assert_eq!((closed.load(Ordering::Relaxed), kit.census().asks), (1, 0));
        }
    });
}

/// How many items were made.
#[message(reply = u64)]
struct Made(Arc<AtomicU64>);

impl Handler<Made> for Reader {
    fn handle(&mut self, Made(made): Made, _cx: &mut Context<Self>) -> u64 {
        made.load(Ordering::Relaxed)
    }
}

#[test]
fn a_long_iterator_does_not_hold_its_shard() {
    const ITEMS: u64 = 100_000;
    TestKit::check_seeds(0..5, |kit| {
        let (source, made, _) = source(kit, 0);
        let neighbour = kit.spawn_on(0, || Reader { read: Log::new() }).unwrap();
        let stream = kit.block_on(source.ask(Count { upto: ITEMS, way: Way::Feed })).unwrap();
        let mut stream = stream.credit(ITEMS as usize);
        assert_eq!(kit.block_on(stream.next()), Some(Ok(1)));
        let so_far = kit.block_on(neighbour.ask(Made(Arc::clone(&made)))).unwrap();
        assert!(so_far < ITEMS / 10, "{so_far} items were made before a neighbour had its turn");
        for item in 2..=ITEMS {
            assert_eq!(kit.block_on(stream.next()), Some(Ok(item)));
        }
        assert_eq!(kit.block_on(stream.next()), None);
    });
}
