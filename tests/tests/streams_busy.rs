//! Hazard: an attached stream that always has items. The messages between them are handled as those of any other actor: with
//! its interceptors around them, and by priority.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use futures_core::Stream;
use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Interceptor, Mailbox, Received, Verdict};

const ITEMS: u64 = 200;

/// Has the next item whenever it is asked.
struct Numbers(std::ops::Range<u64>);

impl Stream for Numbers {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<u64>> {
        Poll::Ready(self.0.next())
    }
}

#[message]
struct Begin;
#[message(priority = Low)]
struct Cheap(u64);
#[message(priority = Urgent)]
struct Alarm(u64);

/// Tells itself something in the midst of its stream.
struct Busy {
    handled: Arc<Mutex<Vec<u64>>>,
    items: Arc<Mutex<Vec<u64>>>,
}

impl Actor for Busy {
    const MAILBOX: Mailbox = Mailbox::new().by_priority();
}

impl Handler<Begin> for Busy {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        cx.for_each(Numbers(0..ITEMS), |this, item, cx| {
            this.items.lock().unwrap().extend(item);
            if item == Some(ITEMS / 2) {
                cx.me().tell(Cheap(1)).unwrap();
                cx.me().tell(Cheap(2)).unwrap();
                cx.me().tell(Alarm(3)).unwrap();
            }
        });
    }
}

impl Handler<Cheap> for Busy {
    fn handle(&mut self, it: Cheap, _: &mut Context<Self>) {
        self.handled.lock().unwrap().push(it.0);
    }
}

impl Handler<Alarm> for Busy {
    fn handle(&mut self, it: Alarm, _: &mut Context<Self>) {
        self.handled.lock().unwrap().push(it.0);
    }
}

#[derive(Clone, Default)]
struct Counts(Arc<AtomicU32>);

impl Interceptor for Counts {
    fn receive(&self, _: &Received<'_>) -> Verdict {
        self.0.fetch_add(1, Ordering::Relaxed);
        Verdict::Handle
    }
}

#[test]
fn messages_between_the_items_of_a_stream_are_intercepted_and_go_by_priority() {
    for intercepts in [false, true] {
        let counts = Counts::default();
        let its_counts = counts.clone();
        let builder = TestKit::builder()
            .engine(move |engine| if intercepts { engine.intercept_actor::<Busy>(its_counts.clone()) } else { engine });
        let kit = builder.start();
        let (handled, items): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let (its_handled, its_items) = (Arc::clone(&handled), Arc::clone(&items));
        let make = move || Busy { handled: Arc::clone(&its_handled), items: Arc::clone(&its_items) };
        let busy = kit.spawn_on(0, make).unwrap();
        busy.tell(Begin).unwrap();
        kit.run_until_idle();
        assert_eq!(*items.lock().unwrap(), (0..ITEMS).collect::<Vec<_>>());
        assert_eq!(*handled.lock().unwrap(), [3, 1, 2], "intercepted: {intercepts}");
        assert_eq!(counts.0.load(Ordering::Relaxed), if intercepts { 4 } else { 0 });
    }
}
