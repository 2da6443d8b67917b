//! The parked flag with rings: no wake-up is lost, and a park takes at most one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::thread;

use super::{Sleeper, check};
use crate::parked::{Parked, order_publication};
use crate::ring::{Consumer, Producer, ring};

/// What the sending and the receiving shard share beside their rings.
struct Shard {
    parked: Parked,
    sleeper: Arc<Sleeper>,
    announced: AtomicUsize,
    wakes: AtomicUsize,
}

impl Shard {
    fn new() -> Arc<Self> {
        let (announced, wakes) = Default::default();
        Arc::new(Self { parked: Parked::new(), sleeper: Sleeper::new(), announced, wakes })
    }

    fn wake(&self) {
        if self.parked.claim() {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.sleeper.wake();
        }
    }

    /// Takes `messages` from the rings and sleeps whenever there is nothing.
    fn receive<const N: usize>(&self, rings: &mut [Consumer<usize, N>], messages: usize) {
        let mut received = 0;
        loop {
            for ring in &mut *rings {
                ring.available();
                while ring.pop().is_some() {
                    received += 1;
                }
                ring.release();
            }
            if received == messages {
                return;
            }
            self.announced.fetch_add(1, Ordering::Relaxed);
            self.parked.prepare();
            if rings.iter().all(Consumer::is_empty) {
                self.sleeper.sleep();
            }
            self.parked.finish();
        }
    }

    /// A claim between the announcement and the second look counts too: it ends the shard's next sleep at once.
    fn assert_one_wake_a_park(&self) {
        let (announced, wakes) = (self.announced.load(Ordering::Relaxed), self.wakes.load(Ordering::Relaxed));
        assert!(wakes <= announced, "{wakes} wakes for {announced} announced parks");
    }
}

fn send<const N: usize>(ring: &mut Producer<usize, N>, shard: &Shard, value: usize) {
    while ring.room() == 0 {
        thread::yield_now();
    }
    ring.push_with(|| value);
    ring.publish();
    order_publication();
    shard.wake();
}

#[test]
fn no_message_is_left_in_the_ring_of_a_sleeper() {
    check(|| {
        let shard = Shard::new();
        let (mut producer, consumer) = ring::<usize, 2>();
        let sending = Arc::clone(&shard);
        let sender = thread::spawn(move || {
            send(&mut producer, &sending, 1);
            send(&mut producer, &sending, 2);
        });
        shard.receive(&mut [consumer], 2);
        sender.join().expect("the sender does not panic");
        shard.assert_one_wake_a_park();
    });
}

#[test]
fn two_senders_wake_a_sleeper_between_them() {
    check(|| {
        let shard = Shard::new();
        let (mut consumers, mut senders) = (Vec::new(), Vec::new());
        for value in 0..2 {
            let (mut producer, consumer) = ring::<usize, 1>();
            consumers.push(consumer);
            let sending = Arc::clone(&shard);
            senders.push(thread::spawn(move || send(&mut producer, &sending, value)));
        }
        shard.receive(&mut consumers, 2);
        for sender in senders {
            sender.join().expect("the sender does not panic");
        }
        shard.assert_one_wake_a_park();
    });
}

#[test]
fn one_fence_serves_two_sleepers() {
    check(|| {
        let shards = [Shard::new(), Shard::new()];
        let (mut producers, mut receivers) = (Vec::new(), Vec::new());
        for shard in &shards {
            let (producer, consumer) = ring::<usize, 1>();
            producers.push(producer);
            let shard = Arc::clone(shard);
            receivers.push(thread::spawn(move || shard.receive(&mut [consumer], 1)));
        }
        for producer in &mut producers {
            producer.push_with(|| 1);
            producer.publish();
        }
        order_publication();
        for shard in &shards {
            shard.wake();
        }
        for receiver in receivers {
            receiver.join().expect("the receiver does not panic");
        }
    });
}

#[test]
fn a_promise_seen_late_costs_a_fence_and_nothing_else() {
    check(|| {
        let shard = Shard::new();
        let (mut producer, mut consumer) = ring::<usize, 1>();
        let sending = Arc::clone(&shard);
        let sender = thread::spawn(move || {
            producer.push_with(|| 1);
            producer.publish();
            if sending.parked.may_park() {
                order_publication();
                sending.wake();
            }
        });
        shard.parked.promise_never();
        while consumer.available() == 0 {
            thread::yield_now();
        }
        sender.join().expect("the sender does not panic");
        assert_eq!(shard.wakes.load(Ordering::Relaxed), 0);
    });
}
