//! Operations that wait for their answers, without a thread or a wake-up for each.
//!
//! Invariant: the time of an answer is taken by the thread that completes it, at the moment it wakes the operation's waker;
//! the generator only collects. So a busy generator neither delays the stamp nor has to be woken for it. Nothing here is
//! locked: a shard that loses its core in the middle of a wake must not keep the generator waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::clock::now_ns;

/// An operation under way.
pub type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// Slots that share one word of woken bits.
const BLOCK_SLOTS: usize = 64;

/// Which of 64 slots were woken, and when.
struct Block {
    woken: AtomicU64,
    at_ns: [AtomicU64; BLOCK_SLOTS],
}

struct SlotWaker {
    place: usize,
    block: Arc<Block>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.block.at_ns[self.place].store(now_ns(), Ordering::Relaxed);
        // Makes the time visible with the bit; pairs with the acquiring swap in `InFlight::collect`.
        self.block.woken.fetch_or(1 << self.place, Ordering::Release);
    }
}

struct Slot<K, T> {
    work: Option<(K, Pending<T>)>,
    waker: Waker,
}

/// All operations of one generator that wait; `K` is what the generator wants back with the answer.
pub struct InFlight<K, T> {
    slots: Vec<Slot<K, T>>,
    blocks: Vec<Arc<Block>>,
    free: Vec<usize>,
}

impl<K, T> Default for InFlight<K, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), blocks: Vec::new(), free: Vec::new() }
    }
}

impl<K, T> InFlight<K, T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts an operation. Returns its answer at once if it has one already.
    pub fn start(&mut self, key: K, mut work: Pending<T>) -> Option<(K, T)> {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let slot = &mut self.slots[index];
        match work.as_mut().poll(&mut Context::from_waker(&slot.waker)) {
            Poll::Ready(answer) => {
                self.free.push(index);
                Some((key, answer))
            }
            Poll::Pending => {
                slot.work = Some((key, work));
                None
            }
        }
    }

    /// A slot more.
    fn grow(&mut self) -> usize {
        let index = self.slots.len();
        let place = index % BLOCK_SLOTS;
        if place == 0 {
            let at_ns = [const { AtomicU64::new(0) }; BLOCK_SLOTS];
            self.blocks.push(Arc::new(Block { woken: AtomicU64::new(0), at_ns }));
        }
        let block = Arc::clone(&self.blocks[index / BLOCK_SLOTS]);
        self.slots.push(Slot { work: None, waker: Waker::from(Arc::new(SlotWaker { place, block })) });
        index
    }

    /// Hands out every answer that arrived, with the time at which it did.
    pub fn collect(&mut self, mut each: impl FnMut(K, T, u64)) {
        for (number, block) in self.blocks.iter().enumerate() {
            if block.woken.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Cleared before the polls: a wake during a poll sets the bit again. Pairs with the release in `wake_by_ref`.
            let mut woken = block.woken.swap(0, Ordering::Acquire);
            while woken != 0 {
                let place = woken.trailing_zeros() as usize;
                woken &= woken - 1;
                let index = number * BLOCK_SLOTS + place;
                let slot = &mut self.slots[index];
                let Some((key, mut work)) = slot.work.take() else { continue };
                match work.as_mut().poll(&mut Context::from_waker(&slot.waker)) {
                    Poll::Ready(answer) => {
                        self.free.push(index);
                        each(key, answer, block.at_ns[place].load(Ordering::Relaxed));
                    }
                    Poll::Pending => slot.work = Some((key, work)),
                }
            }
        }
    }

    /// Gives up everything that waits; returns how many that were.
    pub fn abandon(&mut self) -> usize {
        let mut abandoned = 0;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.work.take().is_some() {
                self.free.push(index);
                abandoned += 1;
            }
        }
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};
    use std::thread;

    /// A future that another thread completes.
    #[derive(Clone, Default)]
    struct Reply(Arc<Mutex<(Option<u32>, Option<Waker>)>>);

    impl Reply {
        fn complete(&self, answer: u32) {
            let mut inner = self.0.lock().expect("no panic holds it");
            inner.0 = Some(answer);
            if let Some(waker) = inner.1.take() {
                waker.wake();
            }
        }
    }

    impl Future for Reply {
        type Output = u32;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
            let mut inner = self.0.lock().expect("no panic holds it");
            inner.1 = Some(cx.waker().clone());
            inner.0.map_or(Poll::Pending, Poll::Ready)
        }
    }

    #[test]
    fn an_answer_is_stamped_when_it_is_given_not_when_it_is_collected() {
        let mut in_flight = InFlight::default();
        let reply = Reply::default();
        assert!(in_flight.start("key", Box::pin(reply.clone())).is_none());
        in_flight.collect(|_, _, _| panic!("not answered yet"));
        let (give, take) = mpsc::channel();
        let other = thread::spawn(move || {
            let before = now_ns();
            reply.complete(5);
            give.send((before, now_ns())).expect("the test waits");
        });
        let (before, after) = take.recv().expect("the thread sends");
        other.join().expect("no panic");
        let collected_from = now_ns();
        let mut answers = Vec::new();
        in_flight.collect(|key, answer, at_ns| answers.push((key, answer, at_ns)));
        let [("key", 5, at_ns)] = answers[..] else { panic!("{answers:?}") };
        assert!((before..=after).contains(&at_ns) && at_ns <= collected_from);
        assert!(in_flight.is_empty());
    }

    #[test]
    fn an_answer_that_is_there_already_comes_back_at_once_and_slots_are_used_again() {
        let mut in_flight = InFlight::default();
        let reply = Reply::default();
        reply.complete(9);
        assert_eq!(in_flight.start(1, Box::pin(reply)), Some((1, 9)));
        let waits: Vec<Reply> = (0..3).map(|_| Reply::default()).collect();
        for (key, reply) in waits.iter().enumerate() {
            assert!(in_flight.start(key, Box::pin(reply.clone())).is_none());
        }
        assert_eq!((in_flight.len(), in_flight.slots.len()), (3, 3));
        waits[1].complete(11);
        let mut keys = Vec::new();
        in_flight.collect(|key, answer, _| keys.push((key, answer)));
        assert_eq!(keys, [(1, 11)]);
        assert_eq!(in_flight.abandon(), 2);
        assert!(in_flight.is_empty());
    }
}
