//! What the machine allows: the same work without any actor.
//!
//! On one thread the limit is a loop of virtual calls, which no engine reaches: prediction is perfect and nothing is queued.
//! Between two threads it is a bounded single-producer ring in batches (tell), two such rings (ask) and one cache line that
//! two cores hand to and fro (ping-pong). All spin.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::limits::{ASKS_IN_FLIGHT, RING_BATCH, RING_SLOTS};
use crate::message::{Either, Even, Odd, numbered};
use crate::place::{on_core, pin};
use crate::workload::{Entry, Place, Role, Work};

/// The limits' share of the table.
pub const ENTRIES: &[Entry] = &[
    entry(Work::Tell(Place::SameShard), "virtual call", virtual_tell),
    entry(Work::Ask(Place::SameShard), "virtual call", virtual_tell),
    entry(Work::PingPong(Place::SameShard), "virtual call", virtual_ping_pong),
    entry(Work::Tell(Place::OtherShard), "bare ring", ring_tell),
    entry(Work::Ask(Place::OtherShard), "two bare rings", ring_ask),
    entry(Work::PingPong(Place::OtherShard), "cache line", line_ping_pong),
];

const fn entry(work: Work, name: &'static str, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name, role: Role::Limit, run }
}

trait Receive {
    fn receive(&self, counter: &mut u64) -> u64;
}

impl Receive for Even {
    fn receive(&self, counter: &mut u64) -> u64 {
        *counter = counter.wrapping_add(self.0[0]);
        *counter
    }
}

impl Receive for Odd {
    fn receive(&self, counter: &mut u64) -> u64 {
        *counter = counter.wrapping_add(self.0[0]);
        *counter
    }
}

fn virtual_tell(n: u64) -> Duration {
    on_core(0, || {
        let mut counter = 0;
        let start = Instant::now();
        for number in 0..n {
            match numbered(number) {
                Either::Even(message) => black_box::<&dyn Receive>(&message).receive(&mut counter),
                Either::Odd(message) => black_box::<&dyn Receive>(&message).receive(&mut counter),
            };
        }
        black_box(counter);
        start.elapsed()
    })
}

fn virtual_ping_pong(n: u64) -> Duration {
    on_core(0, || {
        let (mut there, mut back) = (0, 0);
        let start = Instant::now();
        for number in 0..n {
            black_box::<&dyn Receive>(&Even([number, 1, 2, 3])).receive(&mut there);
            black_box::<&dyn Receive>(&Odd([number, 1, 2, 3])).receive(&mut back);
        }
        black_box(there + back);
        start.elapsed()
    })
}

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

fn ring_tell(n: u64) -> Duration {
    let (mut producer, mut consumer) = RingBuffer::new(RING_SLOTS);
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(1);
            let (mut taken, mut sum) = (0, 0_u64);
            while taken < n {
                taken += pop_some(&mut consumer, |slot| sum = sum.wrapping_add(slot[0]));
            }
            black_box(sum);
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

fn ring_ask(n: u64) -> Duration {
    let (mut requests, mut inbox) = RingBuffer::<Slot>::new(RING_SLOTS);
    let (mut replies, mut answers) = RingBuffer::<Slot>::new(RING_SLOTS);
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(1);
            let mut taken = 0;
            while taken < n {
                let mut batch = Vec::with_capacity(RING_BATCH);
                taken += pop_some(&mut inbox, |slot| batch.push(slot[0]));
                push_batch(&mut replies, batch[0], batch.len());
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

fn line_ping_pong(n: u64) -> Duration {
    /// Alone on its cache line and the one that the prefetcher takes with it.
    #[repr(align(128))]
    struct Line(AtomicU64);
    let line = Line(AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            for round in 0..n {
                // Pairs with the client's release store of an odd value.
                while line.0.load(Ordering::Acquire) != 2 * round + 1 {
                    spin_loop();
                }
                line.0.store(2 * round + 2, Ordering::Release);
            }
        });
        on_core(0, || {
            let start = Instant::now();
            for round in 0..n {
                line.0.store(2 * round + 1, Ordering::Release);
                // Pairs with the server's release store of an even value.
                while line.0.load(Ordering::Acquire) != 2 * round + 2 {
                    spin_loop();
                }
            }
            start.elapsed()
        })
    })
}
