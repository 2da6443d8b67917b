//! The ring: what is published arrives once, in order, and what is left is dropped once.

use std::sync::Arc;

use loom::thread;

use super::check;
use crate::ring::ring;

/// `messages` go through `N` slots, published and released in batches of at most the given sizes.
fn pass<const N: usize>(messages: usize, publish: usize, release: usize) {
    check(move || {
        let (mut producer, mut consumer) = ring::<usize, N>();
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while sent < messages {
                let batch = producer.room().min(publish).min(messages - sent);
                for _ in 0..batch {
                    producer.push_with(|| sent);
                    sent += 1;
                }
                if producer.publish() == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut received = 0;
        while received < messages {
            let batch = consumer.available().min(release);
            for _ in 0..batch {
                assert_eq!(consumer.pop(), Some(received));
                received += 1;
            }
            consumer.release();
            if batch == 0 {
                thread::yield_now();
            }
        }
        sender.join().expect("the sender does not panic");
        assert!(consumer.is_empty());
    });
}

#[test]
fn messages_pass_one_slot() {
    pass::<1>(3, 1, 1);
}

#[test]
fn messages_pass_two_slots_one_by_one() {
    pass::<2>(4, 1, 1);
}

#[test]
fn messages_pass_two_slots_in_batches() {
    pass::<2>(4, 2, 2);
}

#[test]
fn messages_are_dropped_once_while_both_halves_go() {
    check(|| {
        let token = Arc::new(());
        let (mut producer, mut consumer) = ring::<Arc<()>, 4>();
        let given = Arc::clone(&token);
        let sender = thread::spawn(move || {
            producer.push_with(|| Arc::clone(&given));
            producer.publish();
            producer.push_with(|| Arc::clone(&given));
            producer.publish();
            producer.push_with(|| given);
        });
        if consumer.available() > 0 {
            drop(consumer.pop());
        }
        drop(consumer);
        sender.join().expect("the sender does not panic");
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

#[test]
fn a_slot_handed_over_is_not_reused_before_its_release() {
    check(|| {
        let (mut producer, mut consumer) = ring::<usize, 1>();
        producer.push_with(|| 1);
        producer.publish();
        assert_eq!(consumer.refresh(), 1);
        let slot = consumer.take().expect("published");
        let sender = thread::spawn(move || {
            if producer.room() > 0 {
                producer.push_with(|| 2);
                producer.publish();
            }
        });
        // SAFETY: handed over, and read once before the release.
        assert_eq!(unsafe { slot.read() }, 1);
        consumer.release();
        sender.join().expect("the sender does not panic");
        if consumer.refresh() == 1 {
            assert_eq!(consumer.pop(), Some(2));
        }
    });
}
