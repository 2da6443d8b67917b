//! Who hears of dead letters as they come: threads through a bounded feed, actors through their mailbox.
//!
//! Invariant: a letter is either handed over or counted as skipped, for each subscriber; a letter about a letter goes to
//! nobody. Any thread; nothing is locked while nobody listens.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::actor_ref::Recipient;
use crate::dead_letter::{DeadLetter, MessageName};
use crate::error::TellError;
use crate::until::Until;

/// Where a subscriber's letters go.
enum Way {
    Thread { waiting: Mutex<VecDeque<DeadLetter>>, arrived: Condvar, capacity: usize },
    Actor(Recipient<DeadLetter>),
}

/// Somebody who listens.
struct Subscriber {
    way: Way,
    skipped: AtomicU64,
    ended: AtomicBool,
}

impl Subscriber {
    fn new(way: Way) -> Arc<Self> {
        Arc::new(Self { way, skipped: AtomicU64::new(0), ended: AtomicBool::new(false) })
    }

    fn hear(&self, letter: &DeadLetter) {
        let taken = match &self.way {
            Way::Thread { waiting, arrived, capacity } => {
                let mut waiting = lock(waiting);
                let has_room = waiting.len() < *capacity;
                if has_room {
                    waiting.push_back(letter.clone());
                    arrived.notify_one();
                }
                has_room
            }
            Way::Actor(actor) if letter.message == MessageName::Type(std::any::type_name::<DeadLetter>()) => {
                // Its own letter that died was one that it did not get; another's is none of its own.
                letter.receiver != Some(actor.id())
            }
            Way::Actor(actor) => match actor.tell(letter.clone()) {
                Ok(()) => true,
                Err(TellError::Closed(_)) => {
                    self.ended.store(true, Ordering::Relaxed);
                    true
                }
                Err(_) => false,
            },
        };
        if !taken {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everybody who listens to one engine.
pub(crate) struct Subscribers {
    all: Mutex<Vec<Arc<Subscriber>>>,
    count: AtomicUsize,
}

impl Subscribers {
    pub(crate) const fn new() -> Self {
        Self { all: Mutex::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    pub(crate) fn feed(&self, capacity: usize) -> DeadLetterFeed {
        let way = Way::Thread { waiting: Mutex::new(VecDeque::new()), arrived: Condvar::new(), capacity };
        DeadLetterFeed(self.add(way))
    }

    pub(crate) fn actor(&self, actor: Recipient<DeadLetter>) -> DeadLetterSubscription {
        DeadLetterSubscription(self.add(Way::Actor(actor)))
    }

    fn add(&self, way: Way) -> Arc<Subscriber> {
        let subscriber = Subscriber::new(way);
        let mut all = lock(&self.all);
        all.push(Arc::clone(&subscriber));
        self.count.store(all.len(), Ordering::Relaxed);
        subscriber
    }

    /// Tells everybody; who has ended is forgotten.
    pub(crate) fn publish(&self, letter: &DeadLetter) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Not under the lock: a tell may run into another dead letter.
        let all = {
            let mut all = lock(&self.all);
            all.retain(|subscriber| !subscriber.ended.load(Ordering::Relaxed));
            self.count.store(all.len(), Ordering::Relaxed);
            all.clone()
        };
        all.iter().for_each(|subscriber| subscriber.hear(letter));
    }
}

/// Dead letters as they come, for a thread. See [`DeadLetters::subscribe`](crate::DeadLetters::subscribe).
pub struct DeadLetterFeed(Arc<Subscriber>);

impl DeadLetterFeed {
    /// The next letter, if one has come.
    #[must_use]
    pub fn try_next(&self) -> Option<DeadLetter> {
        let Way::Thread { waiting, .. } = &self.0.way else { return None };
        lock(waiting).pop_front()
    }

    /// The next letter, waited for no longer than `patience` of real time. Not for shards' threads.
    #[must_use]
    pub fn next_within(&self, patience: Duration) -> Option<DeadLetter> {
        let Way::Thread { waiting, arrived, .. } = &self.0.way else { return None };
        let until = Until::after(patience);
        let mut waiting = lock(waiting);
        loop {
            let left = until.left();
            if !waiting.is_empty() || left.is_zero() {
                return waiting.pop_front();
            }
            (waiting, _) = arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many letters found no room.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.0.skipped.load(Ordering::Relaxed)
    }
}

impl Drop for DeadLetterFeed {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for DeadLetterFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeadLetterFeed(skipped {})", self.skipped())
    }
}

/// An actor hears of dead letters until this is dropped. See [`DeadLetters::tell_to`](crate::DeadLetters::tell_to).
#[must_use = "dropping it ends the subscription"]
pub struct DeadLetterSubscription(Arc<Subscriber>);

impl DeadLetterSubscription {
    /// How many letters found no room in the actor's mailbox.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.0.skipped.load(Ordering::Relaxed)
    }
}

impl Drop for DeadLetterSubscription {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for DeadLetterSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeadLetterSubscription(skipped {})", self.skipped())
    }
}
