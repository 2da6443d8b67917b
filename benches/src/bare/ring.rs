//! A bounded ring between two threads that spin: 64-byte slots, published in batches; two of them for requests and replies.

use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use super::limit;
use crate::limits::{ASKS_IN_FLIGHT, RING_BATCH, RING_SLOTS};
use crate::message::sum_to;
use crate::place::{on_core, pin};
use crate::workload::{Entry, Place, Run, Work};

/// The rings' share of the table.
pub const ENTRIES: &[Entry] = &[
    limit(Work::Tell(Place::OtherShard), "bare ring", Run::Time(tell)),
    limit(Work::Ask(Place::OtherShard), "two bare rings", Run::Time(ask)),
];

/// As large as an envelope.
type Slot = [u64; 8];

fn push_batch(ring: &mut Producer<Slot>, first: u64, count: usize) {
    loop {
        if let Ok(chunk) = ring.write_chunk_uninit(count) {
            chunk.fill_from_iter((first..).map(|number| [number; 8]).take(count));
            return;
        }
        spin_loop();
    }
}

/// Takes what is there, at least one.
fn pop_some(ring: &mut Consumer<Slot>, mut each: impl FnMut(Slot)) -> u64 {
    loop {
        let ready = ring.slots().min(RING_BATCH);
        if ready > 0
            && let Ok(chunk) = ring.read_chunk(ready)
        {
            chunk.into_iter().for_each(&mut each);
            return ready as u64;
        }
        spin_loop();
    }
}

fn tell(n: u64) -> Duration {
    let (mut producer, mut consumer) = RingBuffer::new(RING_SLOTS);
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(1);
            let (mut taken, mut sum) = (0, 0_u64);
            while taken < n {
                taken += pop_some(&mut consumer, |slot| sum = sum.wrapping_add(slot[0]));
            }
            assert_eq!(sum, sum_to(n), "all came");
            Instant::now()
        });
        let start = on_core(0, || {
            let start = Instant::now();
            let mut sent = 0;
            while sent < n {
                let count = RING_BATCH.min((n - sent) as usize);
                push_batch(&mut producer, sent, count);
                sent += count as u64;
            }
            start
        });
        server.join().expect("the consumer does not panic") - start
    })
}

fn ask(n: u64) -> Duration {
    let (mut requests, mut inbox) = RingBuffer::<Slot>::new(RING_SLOTS);
    let (mut replies, mut answers) = RingBuffer::<Slot>::new(RING_SLOTS);
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(1);
            let mut taken = 0;
            while taken < n {
                let mut first = None;
                let count = pop_some(&mut inbox, |slot| _ = first.get_or_insert(slot[0]));
                push_batch(&mut replies, first.expect("something was taken"), count as usize);
                taken += count;
            }
        });
        on_core(0, || {
            let start = Instant::now();
            let (mut sent, mut answered) = (0, 0);
            while answered < n {
                let count = (ASKS_IN_FLIGHT - (sent - answered)).min(n - sent);
                if count > 0 {
                    push_batch(&mut requests, sent, count as usize);
                    sent += count;
                }
                answered += pop_some(&mut answers, |slot| {
                    black_box(slot);
                });
            }
            start.elapsed()
        })
    })
}
