//! Operations that wait for their answers, without a thread or a wake-up for each.
//!
//! Invariant: the time of an answer is taken by the thread that completes it, at the moment it wakes the operation's waker;
//! the generator only collects. So a busy generator neither delays the stamp nor has to be woken for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::clock::now_ns;

/// An operation under way.
pub type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// Slots that were woken, with the time of the wake.
#[derive(Default)]
struct Woken(Mutex<Vec<(usize, u64)>>);

struct SlotWaker {
    slot: usize,
    /// Already in the list; keeps the list as short as the number of slots.
    listed: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Pairs with the release store in `InFlight::collect`.
        if !self.listed.swap(true, Ordering::AcqRel) {
            let at_ns = now_ns();
            self.woken.0.lock().unwrap_or_else(PoisonError::into_inner).push((self.slot, at_ns));
        }
    }
}

struct Slot<K, T> {
    work: Option<(K, Pending<T>)>,
    flag: Arc<SlotWaker>,
    waker: Waker,
}

/// All operations of one generator that wait; `K` is what the generator wants back with the answer.
pub struct InFlight<K, T> {
    slots: Vec<Slot<K, T>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    batch: Vec<(usize, u64)>,
}

impl<K, T> Default for InFlight<K, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), woken: Arc::default(), batch: Vec::new() }
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
        let index = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            let flag = Arc::new(SlotWaker { slot, listed: AtomicBool::new(false), woken: Arc::clone(&self.woken) });
            self.slots.push(Slot { work: None, waker: Waker::from(Arc::clone(&flag)), flag });
            slot
        });
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

    /// Hands out every answer that arrived, with the time at which it did.
    pub fn collect(&mut self, mut each: impl FnMut(K, T, u64)) {
        let mut batch = std::mem::take(&mut self.batch);
        std::mem::swap(&mut batch, &mut *self.woken.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (index, at_ns) in batch.drain(..) {
            let slot = &mut self.slots[index];
            // Cleared before the poll: a wake during the poll lists the slot again. Pairs with the swap in `wake_by_ref`.
            slot.flag.listed.store(false, Ordering::Release);
            let Some((key, mut work)) = slot.work.take() else {
                continue;
            };
            match work.as_mut().poll(&mut Context::from_waker(&slot.waker)) {
                Poll::Ready(answer) => {
                    self.free.push(index);
                    each(key, answer, at_ns);
                }
                Poll::Pending => slot.work = Some((key, work)),
            }
        }
        self.batch = batch;
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
    use std::sync::mpsc;
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
