//! `Producer` and `Consumer`: one bounded ring from one thread to one other, filled and emptied in batches.
//!
//! ```text
//!            released        read           published       written
//!  slots  ----+---------------+---------------+---------------+-------> positions, never reduced; slot = position % N
//!    vacant   | being taken   | published     | in the making |  vacant
//!             | (consumer)    |               | (producer)    |
//! ```
//!
//! Invariant: `released <= read <= published <= written <= released + N`. A slot belongs to the producer while its position
//! is not published, to the consumer until it is released. Two stores carry that over: `publish` (the tail) and `release`
//! (the head), each with release order, each read with acquire order by the other side and remembered there until it says
//! full or empty. No fence, no read-modify-write. After Lamport, "Specifying concurrent program modules" (1983); remembering
//! the other side's index after FastForward and MCRingBuffer.
//!
//! Each half belongs to one thread. Stands on the message path between shards, under `shard/mesh.rs`. One of the few files
//! with `unsafe`.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// Alone on its cache line and on the one that the processor fetches with it.
#[repr(align(128))]
struct Line<T>(T);

type Slot<T> = UnsafeCell<MaybeUninit<T>>;

struct Shared<T, const N: usize> {
    /// Written by the producer's `publish`.
    tail: Line<AtomicUsize>,
    /// Written by the consumer's `release`.
    head: Line<AtomicUsize>,
    slots: Line<Box<[Slot<T>; N]>>,
}

// SAFETY: a slot is reached by one half at a time, as the module's head says; what it holds moves between their threads.
unsafe impl<T: Send, const N: usize> Sync for Shared<T, N> {}

impl<T, const N: usize> Shared<T, N> {
    #[inline(always)]
    fn slot(&self, position: usize) -> &Slot<T> {
        &self.slots.0[position % N]
    }

    /// Drops the messages at `from..to`, also those behind one whose drop panics.
    ///
    /// # Safety
    /// They were written and not taken, and are the caller's: nobody else reaches those slots, now or later.
    unsafe fn drop_slots(&self, from: usize, to: usize) {
        let mut left = Left { shared: self, from, to };
        left.drop_all();
    }
}

/// Messages that are still to be dropped; made by `drop_slots`, whose contract it carries.
struct Left<'a, T, const N: usize> {
    shared: &'a Shared<T, N>,
    from: usize,
    to: usize,
}

impl<T, const N: usize> Left<'_, T, N> {
    fn drop_all(&mut self) {
        while self.from != self.to {
            let slot = self.shared.slot(self.from);
            self.from = self.from.wrapping_add(1);
            slot.with_mut(|slot| {
                // SAFETY: the contract of `drop_slots`; each position is passed once.
                unsafe { slot.cast::<T>().drop_in_place() }
            });
        }
    }
}

impl<T, const N: usize> Drop for Left<'_, T, N> {
    fn drop(&mut self) {
        // Something is left only while a drop unwinds; if another one panics then, the process ends.
        self.drop_all();
    }
}

impl<T, const N: usize> Drop for Shared<T, N> {
    fn drop(&mut self) {
        // Both halves are gone and have stored how far they came.
        let (head, tail) = (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Acquire));
        // SAFETY: published and not released, and a consumer releases what it has taken when it goes.
        unsafe { self.drop_slots(head, tail) }
    }
}

/// The writing half.
pub(crate) struct Producer<T, const N: usize> {
    shared: Arc<Shared<T, N>>,
    written: usize,
    published: usize,
    /// The head as last read.
    released: usize,
}

/// The reading half.
pub(crate) struct Consumer<T, const N: usize> {
    shared: Arc<Shared<T, N>>,
    read: usize,
    released: usize,
    /// The tail as last read.
    published: usize,
}

/// A ring of `N` slots, a power of two.
pub(crate) fn ring<T, const N: usize>() -> (Producer<T, N>, Consumer<T, N>) {
    const { assert!(N.is_power_of_two(), "a position finds its slot by its low bits, also when positions wrap") };
    let slots: Box<[Slot<T>]> = (0..N).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let Ok(slots) = slots.try_into() else { unreachable!("made with N slots") };
    let shared =
        Arc::new(Shared { tail: Line(AtomicUsize::new(0)), head: Line(AtomicUsize::new(0)), slots: Line(slots) });
    let producer = Producer { shared: Arc::clone(&shared), written: 0, published: 0, released: 0 };
    (producer, Consumer { shared, read: 0, released: 0, published: 0 })
}

impl<T, const N: usize> Producer<T, N> {
    /// How many messages fit, at least; the other side is asked only when none is known to fit.
    #[inline]
    pub(crate) fn room(&mut self) -> usize {
        if self.written.wrapping_sub(self.released) == N {
            // Pairs with the store in `release`: the slots before the head are vacant.
            self.released = self.shared.head.0.load(Ordering::Acquire);
        }
        N - self.written.wrapping_sub(self.released)
    }

    /// Writes what `make` returns straight into its slot. It stays invisible until [`publish`](Self::publish).
    ///
    /// # Panics
    /// When the ring is full; ask for [`room`](Self::room) first. A panic of `make` leaves the ring as it was.
    #[inline(always)]
    pub(crate) fn push_with(&mut self, make: impl FnOnce() -> T) {
        assert!(self.written.wrapping_sub(self.released) < N, "whoever pushes has seen room");
        self.shared.slot(self.written).with_mut(|slot| {
            // SAFETY: the slot is vacant: `written` is less than N ahead of a head that the consumer has stored.
            unsafe { slot.cast::<T>().write(make()) }
        });
        self.written = self.written.wrapping_add(1);
    }

    /// The slot of the next message, which counts as pushed: the caller writes it before anything else. For messages that are
    /// built from registers, where a closure would carry them through memory.
    ///
    /// # Panics
    /// When the ring is full; ask for [`room`](Self::room) first.
    #[inline(always)]
    pub(crate) fn claim(&mut self) -> NonNull<T> {
        assert!(self.written.wrapping_sub(self.released) < N, "whoever claims has seen room");
        let slot = self.shared.slot(self.written).with_mut(|slot| NonNull::new(slot.cast::<T>()));
        self.written = self.written.wrapping_add(1);
        slot.expect("a slot has an address")
    }

    /// Messages that were pushed and are not visible yet.
    #[inline(always)]
    pub(crate) fn unpublished(&self) -> usize {
        self.written.wrapping_sub(self.published)
    }

    /// Makes everything pushed visible with one store; returns how many messages that were.
    #[inline]
    pub(crate) fn publish(&mut self) -> usize {
        let count = self.unpublished();
        if count > 0 {
            self.published = self.written;
            // Pairs with the load in `refresh`: what was written to the slots before the tail is seen there.
            self.shared.tail.0.store(self.written, Ordering::Release);
        }
        count
    }
}

impl<T, const N: usize> Drop for Producer<T, N> {
    fn drop(&mut self) {
        // SAFETY: written and never published, so still this half's, which ends here.
        unsafe { self.shared.drop_slots(self.published, self.written) }
    }
}

impl<T, const N: usize> Consumer<T, N> {
    /// Messages that can be taken; the other side is asked only when none is known.
    #[inline]
    pub(crate) fn available(&mut self) -> usize {
        match self.published.wrapping_sub(self.read) {
            0 => self.refresh(),
            known => known,
        }
    }

    /// Messages that can be taken, all that were published before the call among them.
    #[inline]
    pub(crate) fn refresh(&mut self) -> usize {
        // Pairs with the store in `publish`.
        self.published = self.shared.tail.0.load(Ordering::Acquire);
        self.published.wrapping_sub(self.read)
    }

    /// Whether nothing that was published before the call is left.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Pairs with the store in `publish`.
        self.published == self.read && self.shared.tail.0.load(Ordering::Acquire) == self.read
    }

    /// The same, for one who looks again and again: fetches the next message's line together with the tail's, instead of only
    /// when the tail has moved. Where a line travels 215 ns, that takes a round trip over two rings from 940 to 770.
    #[inline]
    pub(crate) fn is_still_empty(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        self.shared.slot(self.published).with_mut(|slot| {
            // SAFETY: a prefetch reads nothing that the program sees.
            unsafe { std::arch::x86_64::_mm_prefetch(slot.cast_const().cast(), std::arch::x86_64::_MM_HINT_T0) }
        });
        self.is_empty()
    }

    /// Hands over the front message in its slot; `None` when none is known to be there.
    ///
    /// The message is the caller's from now on: it moves it out or drops it in place, or it leaks. The address is valid, and
    /// nobody else uses it, until [`release`](Self::release) or until this half is dropped.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<NonNull<T>> {
        if self.published == self.read {
            return None;
        }
        let slot = self.shared.slot(self.read).with_mut(|slot| NonNull::new(slot.cast::<T>()));
        self.read = self.read.wrapping_add(1);
        slot
    }

    /// Moves the front message out; `None` when none is known to be there.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        // SAFETY: handed over just now, and read once.
        self.take().map(|slot| unsafe { slot.read() })
    }

    /// Gives the slots of all taken messages back with one store.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.released != self.read {
            self.released = self.read;
            // Pairs with the load in `room`: the messages were moved out before.
            self.shared.head.0.store(self.read, Ordering::Release);
        }
    }
}

impl<T, const N: usize> Drop for Consumer<T, N> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::*;
    use crate::random::Random;

    fn below(random: &mut Random, bound: usize) -> usize {
        random.next_u64() as usize % bound
    }

    /// The ring and what it must behave like, with every step that the two halves can take.
    struct Both<const N: usize> {
        producer: Producer<Arc<u64>, N>,
        consumer: Consumer<Arc<u64>, N>,
        unpublished: VecDeque<u64>,
        published: VecDeque<u64>,
        /// Taken and not released.
        held: usize,
        next: u64,
    }

    impl<const N: usize> Both<N> {
        fn step(&mut self, random: &mut Random) {
            match below(random, 6) {
                0 | 1 => {
                    let full = self.unpublished.len() + self.published.len() + self.held == N;
                    if full {
                        assert_eq!(self.producer.room(), 0);
                        return;
                    }
                    assert!(self.producer.room() > 0);
                    if self.next.is_multiple_of(2) {
                        self.producer.push_with(|| Arc::new(self.next));
                    } else {
                        // SAFETY: just claimed.
                        unsafe { self.producer.claim().write(Arc::new(self.next)) };
                    }
                    self.unpublished.push_back(self.next);
                    self.next += 1;
                }
                2 => {
                    assert_eq!(self.producer.publish(), self.unpublished.len());
                    self.published.append(&mut self.unpublished);
                }
                3 => {
                    assert_eq!(self.consumer.is_empty(), self.published.is_empty());
                    assert_eq!(self.consumer.refresh(), self.published.len());
                }
                4 => {
                    assert_eq!(self.consumer.available() == 0, self.published.is_empty());
                    let popped = self.consumer.pop().map(|value| *value);
                    assert_eq!(popped, self.published.pop_front());
                    self.held += usize::from(popped.is_some());
                }
                _ => {
                    self.consumer.release();
                    self.held = 0;
                }
            }
        }
    }

    fn oracle<const N: usize>(seed: u64) {
        let (producer, consumer) = ring();
        let (unpublished, published) = Default::default();
        let mut both: Both<N> = Both { producer, consumer, unpublished, published, held: 0, next: 0 };
        let mut random = Random::new(seed);
        for _ in 0..50_000 {
            both.step(&mut random);
        }
        assert!(both.next > 1000, "{} messages", both.next);
    }

    #[test]
    fn random_operations_agree_with_a_queue() {
        for seed in 0..4 {
            oracle::<1>(seed);
            oracle::<2>(seed);
            oracle::<8>(seed);
            oracle::<64>(seed);
        }
    }

    #[test]
    fn positions_wrap() {
        let (mut producer, mut consumer) = ring::<usize, 4>();
        let near = usize::MAX - 5;
        (producer.written, producer.published, producer.released) = (near, near, near);
        (consumer.read, consumer.released, consumer.published) = (near, near, near);
        producer.shared.head.0.store(near, Ordering::Relaxed);
        producer.shared.tail.0.store(near, Ordering::Relaxed);
        for round in 0..20 {
            for item in 0..4 {
                assert_eq!(producer.room(), 4 - item);
                producer.push_with(|| 4 * round + item);
            }
            assert_eq!((producer.room(), producer.publish()), (0, 4));
            assert_eq!(consumer.available(), 4);
            assert_eq!(
                std::iter::from_fn(|| consumer.pop()).collect::<Vec<_>>(),
                (4 * round..).take(4).collect::<Vec<_>>()
            );
            assert_eq!(producer.room(), 0, "taken, but not released");
            consumer.release();
        }
    }

    #[test]
    fn two_threads_pass_everything_on_in_order() {
        const MESSAGES: u64 = 200_000;
        let (mut producer, mut consumer) = ring::<Box<u64>, 16>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut random = Random::new(1);
                let mut next = 0;
                while next < MESSAGES {
                    let batch = (below(&mut random, 20)).min(producer.room());
                    for _ in 0..batch {
                        producer.push_with(|| Box::new(next));
                        next += 1;
                    }
                    if producer.publish() == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let mut random = Random::new(2);
            let mut expected = 0;
            while expected < MESSAGES {
                let batch = (below(&mut random, 20)).min(consumer.available());
                for _ in 0..batch {
                    assert_eq!(consumer.pop().as_deref(), Some(&expected));
                    expected += 1;
                }
                consumer.release();
                if batch == 0 {
                    std::thread::yield_now();
                }
            }
        });
    }

    #[test]
    fn what_is_left_is_dropped_once_whoever_goes_first() {
        for producer_first in [true, false] {
            let token = Arc::new(());
            let (mut producer, mut consumer) = ring::<Arc<()>, 8>();
            for _ in 0..5 {
                producer.push_with(|| Arc::clone(&token));
            }
            producer.publish();
            for _ in 0..3 {
                producer.push_with(|| Arc::clone(&token));
            }
            assert_eq!(consumer.available(), 5);
            drop(consumer.pop());
            drop(consumer.pop());
            assert_eq!(Arc::strong_count(&token), 7);
            if producer_first {
                drop(producer);
                assert_eq!(Arc::strong_count(&token), 4, "what was never published goes with its producer");
                drop(consumer);
            } else {
                drop(consumer);
                assert_eq!(Arc::strong_count(&token), 7, "what was published waits for the producer's end");
                drop(producer);
            }
            assert_eq!(Arc::strong_count(&token), 1);
        }
    }

    #[test]
    fn a_panic_in_the_making_leaves_the_ring_as_it_was() {
        let (mut producer, mut consumer) = ring::<u32, 2>();
        producer.push_with(|| 1);
        assert!(catch_unwind(AssertUnwindSafe(|| producer.push_with(|| panic!("no message")))).is_err());
        producer.push_with(|| 2);
        assert!(catch_unwind(AssertUnwindSafe(|| producer.push_with(|| 3))).is_err(), "full");
        assert!(catch_unwind(AssertUnwindSafe(|| producer.claim())).is_err(), "full");
        assert_eq!(producer.publish(), 2);
        assert_eq!((consumer.available(), consumer.pop(), consumer.pop(), consumer.pop()), (2, Some(1), Some(2), None));
    }

    #[test]
    fn a_message_whose_drop_panics_is_dropped_once() {
        struct Loud(Arc<()>);
        impl Drop for Loud {
            fn drop(&mut self) {
                assert!(Arc::strong_count(&self.0) != 3, "dropped as the third last");
            }
        }
        let token = Arc::new(());
        let (mut producer, consumer) = ring::<Loud, 4>();
        for _ in 0..4 {
            producer.push_with(|| Loud(Arc::clone(&token)));
        }
        producer.publish();
        drop(consumer);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(producer))).is_err());
        assert_eq!(Arc::strong_count(&token), 1, "the one behind it is dropped too");
    }
}
