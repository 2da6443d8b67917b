//! Wakes of suspended actors from other threads: a node per actor, pushed to its shard's list at most once at a time.
//!
//! ```text
//!             announce: swap(QUEUED) found IDLE            push: CAS on the list's head
//!   IDLE ---------------------------------> QUEUED, owned by the waking thread ------> QUEUED, in the list
//!    ^                                                                                       |
//!    |   drain: read `next`, then swap(IDLE); the actor is scheduled after that              |
//!    +---------------------------------------------------------------------------------------+
//! ```
//!
//! A wake that finds QUEUED does nothing more: its swap is read by the swap of `drain` (read-modify-writes keep the release
//! sequence whole), so whatever the waking thread wrote before is seen by the poll that follows. A wake after `drain`'s swap
//! queues the node again.
//!
//! Invariant: the list owns one count of each node in it; only the thread that took a node from IDLE to QUEUED pushes it, and
//! only the shard takes nodes out, so `next` has one writer at a time. After `close` every push is given up. Neither waking
//! nor draining allocates. One of the few files with `unsafe`: the list holds counts as raw pointers.

use std::ptr;
use std::task::Wake;

use crate::link::ShardLink;
use crate::shard::current;
use crate::sync::{Arc, AtomicBool, AtomicPtr, Ordering};

/// What is queued, with the link to the next one.
pub(crate) struct WakeNode<T> {
    queued: AtomicBool,
    next: AtomicPtr<Self>,
    pub(crate) what: T,
}

impl<T> WakeNode<T> {
    pub(crate) fn new(what: T) -> Self {
        Self { queued: AtomicBool::new(false), next: AtomicPtr::new(ptr::null_mut()), what }
    }

    /// Takes the node from idle to queued; `true` obliges the caller to push it.
    fn announce(&self) -> bool {
        // Releases what the waking thread wrote, also when the node is queued already. Pair: `WakeList::drain`.
        !self.queued.swap(true, Ordering::AcqRel)
    }
}

/// Nodes that were woken since the last drain.
pub(crate) struct WakeList<T> {
    head: AtomicPtr<WakeNode<T>>,
}

impl<T> WakeList<T> {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Stands for the head of a list that takes no more nodes; never dereferenced.
    fn closed() -> *mut WakeNode<T> {
        ptr::without_provenance_mut(1)
    }

    /// Queues a node unless it is queued; `true` when it was put into the list, and its owner must be woken.
    pub(crate) fn wake(&self, node: &Arc<WakeNode<T>>) -> bool {
        node.announce() && self.push(Arc::clone(node))
    }

    fn push(&self, node: Arc<WakeNode<T>>) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == Self::closed() {
                return false;
            }
            node.next.store(head, Ordering::Relaxed);
            let raw = Arc::as_ptr(&node).cast_mut();
            // Releases `next`. Pair: the swap in `take`.
            match self.head.compare_exchange_weak(head, raw, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // The count is the list's now.
        std::mem::forget(node);
        true
    }

    /// Whether nobody was woken since the last drain.
    pub(crate) fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        head.is_null() || head == Self::closed()
    }

    /// Takes all nodes out, in the order in which they were woken. Called by the shard only.
    pub(crate) fn drain(&self, mut each: impl FnMut(&T)) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut taken = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut first = ptr::null_mut();
        while !taken.is_null() {
            // SAFETY: a node in the list is alive through the list's count.
            let node = unsafe { &*taken };
            let next = node.next.swap(first, Ordering::Relaxed);
            first = std::mem::replace(&mut taken, next);
        }
        while !first.is_null() {
            // SAFETY: `push` left the list one count of this node, which is taken back here, once.
            let node = unsafe { Arc::from_raw(first) };
            first = node.next.load(Ordering::Relaxed);
            // Idle before the actor is scheduled: what is woken from here on is queued again. Pair: `announce`.
            node.queued.swap(false, Ordering::AcqRel);
            each(&node.what);
        }
        true
    }

    /// Drops what is queued and whatever is pushed later. Called once, when nobody drains any more.
    pub(crate) fn close(&self) {
        let mut taken = self.head.swap(Self::closed(), Ordering::AcqRel);
        while !taken.is_null() && taken != Self::closed() {
            // SAFETY: as in `drain`.
            let node = unsafe { Arc::from_raw(taken) };
            taken = node.next.load(Ordering::Relaxed);
        }
    }
}

/// Whom a waker wakes.
pub(crate) struct Sleeper {
    link: &'static ShardLink,
    index: u32,
    generation: u32,
}

/// Wakes one suspended actor, from any thread and at any time, also when the actor or its engine is gone.
pub(crate) type ActorWaker = WakeNode<Sleeper>;

impl ActorWaker {
    /// The waker of the actor in this cell.
    pub(crate) fn of(
        link: &'static ShardLink,
        index: u32,
        generation: u32,
    ) -> std::sync::Arc<impl Wake + Send + Sync + 'static> {
        let node = Arc::new(Self::new(Sleeper { link, index, generation }));
        #[cfg(loom)]
        let node = std::sync::Arc::new(Held(node));
        node
    }

    fn rouse(this: &Arc<Self>) {
        let link = this.what.link;
        current(|shard| match shard {
            Some(shard) if ptr::eq(shard.link, link) => this.what.rise(&mut shard.core.borrow_mut()),
            _ => {
                if link.wakes.wake(this) {
                    link.wake();
                }
            }
        });
    }
}

impl Sleeper {
    /// Schedules the actor; called on its shard.
    pub(crate) fn rise(&self, core: &mut crate::shard::ShardCore) {
        core.wake(self.index, self.generation);
    }
}

#[cfg(not(loom))]
impl Wake for ActorWaker {
    fn wake(self: Arc<Self>) {
        Self::rouse(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Self::rouse(self);
    }
}

/// A task's waker is made of the standard library's `Arc`; under loom nodes are in loom's.
#[cfg(loom)]
struct Held(Arc<ActorWaker>);

#[cfg(loom)]
impl Wake for Held {
    fn wake(self: std::sync::Arc<Self>) {
        ActorWaker::rouse(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;

    #[test]
    fn a_node_is_queued_once_and_comes_out_in_order() {
        let list = WakeList::new();
        let nodes = [1, 2, 3].map(|number| Arc::new(WakeNode::new(number)));
        assert!(list.is_empty());
        assert_eq!([0, 1, 0, 2].map(|at: usize| list.wake(&nodes[at])), [true, true, false, true]);
        let mut seen = Vec::new();
        assert!(list.drain(|number| seen.push(*number)));
        assert_eq!(seen, [1, 2, 3]);
        assert!(!list.drain(|_| panic!("it is empty")));
        assert!(list.wake(&nodes[1]), "idle again");
        list.close();
        assert!(!list.wake(&nodes[0]) && list.is_empty());
        assert!(nodes.iter().all(|node| Arc::strong_count(node) == 1), "the list has let go of all");
    }

    #[test]
    fn no_wake_of_many_threads_is_lost() {
        let list = Arc::new(WakeList::new());
        let node = Arc::new(WakeNode::new(AtomicUsize::new(0)));
        let rounds = 2000;
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        node.what.fetch_add(1, Ordering::Relaxed);
                        list.wake(&node);
                    }
                });
            }
            let mut seen = 0;
            while seen < 3 * rounds {
                list.drain(|count| seen = count.load(Ordering::Relaxed));
                std::hint::spin_loop();
            }
        });
        list.close();
        assert_eq!(Arc::strong_count(&node), 1);
    }
}
