//! Wakes of suspended actors from other threads: none is lost, a node is in the list once at a time and is freed once,
//! whichever ends first, waker, actor or engine.

use std::array;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use loom::thread;

use super::{Sleeper, check};
use crate::gate::Gate;
use crate::parked::{Parked, order_publication};
use crate::sync::{self, Ordering};
use crate::waker::{WakeList, WakeNode};

/// What `ShardLink` is to wakers.
struct Link {
    wakes: WakeList<Actor>,
    parked: Parked,
    driver: Gate<Arc<Sleeper>>,
}

struct Actor {
    link: Arc<Link>,
    /// Wakes so far. Relaxed, so that only the wakes themselves order it.
    called: sync::AtomicUsize,
    freed: Arc<AtomicUsize>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

type Node = sync::Arc<WakeNode<Actor>>;

impl Link {
    /// A shard with suspended actors, and the count of those that are freed.
    fn open<const N: usize>() -> (Arc<Self>, Arc<Sleeper>, [Node; N], Arc<AtomicUsize>) {
        let sleeper = Sleeper::new();
        let link = Arc::new(Self { wakes: WakeList::new(), parked: Parked::new(), driver: Gate::new() });
        link.driver.open(Arc::clone(&sleeper));
        let freed = Arc::new(AtomicUsize::new(0));
        let nodes = array::from_fn(|_| {
            let (link, called, freed) = (Arc::clone(&link), sync::AtomicUsize::new(0), Arc::clone(&freed));
            sync::Arc::new(WakeNode::new(Actor { link, called, freed }))
        });
        (link, sleeper, nodes, freed)
    }

    /// As in `link.rs`.
    fn wake(&self) {
        order_publication();
        if self.parked.claim() {
            self.driver.pass(|driver| driver.map(|driver| driver.wake()));
        }
    }

    fn park(&self, sleeper: &Sleeper) {
        self.parked.prepare();
        if self.wakes.is_empty() {
            sleeper.sleep();
        }
        self.parked.finish();
    }

    /// As in `link.rs`.
    fn close(&self) {
        assert!(self.driver.close().is_some(), "closed once");
        self.wakes.close();
    }
}

/// As an actor's waker does on a foreign thread.
fn wake(node: &Node) {
    node.what.called.fetch_add(1, Ordering::Relaxed);
    let link = &node.what.link;
    if link.wakes.wake(node) {
        link.wake();
    }
}

fn wake_elsewhere(nodes: impl IntoIterator<Item = Node> + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || nodes.into_iter().for_each(|node| wake(&node)))
}

#[test]
fn a_wake_from_another_thread_reaches_a_suspended_actor() {
    check(|| {
        let (link, sleeper, [node], freed) = Link::open();
        let threads = [(); 2].map(|()| wake_elsewhere([sync::Arc::clone(&node)]));
        // The first poll, then one for each time that the shard found the actor woken.
        let mut seen = node.what.called.load(Ordering::Relaxed);
        while seen < 2 {
            let mut risen = 0;
            if link.wakes.drain(|_| risen += 1) {
                assert_eq!(risen, 1, "the actor is in the list once");
                seen = node.what.called.load(Ordering::Relaxed);
            } else {
                link.park(&sleeper);
            }
        }
        for thread in threads {
            thread.join().expect("no waking thread panics");
        }
        link.close();
        assert_eq!(sync::Arc::strong_count(&node), 1, "the list has let go of it");
        drop(node);
        assert_eq!(freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn every_woken_actor_rises_as_often_as_it_was_queued() {
    check(|| {
        let (link, sleeper, [first, second], _) = Link::open();
        let threads = [
            wake_elsewhere([sync::Arc::clone(&first), sync::Arc::clone(&second)]),
            wake_elsewhere([sync::Arc::clone(&second)]),
        ];
        let mut risen = [0; 2];
        let mut drain = || {
            let any = link.wakes.drain(|actor| risen[usize::from(std::ptr::eq(actor, &second.what))] += 1);
            (any, risen)
        };
        loop {
            let (any, risen) = drain();
            if !risen.contains(&0) {
                break;
            }
            if !any {
                link.park(&sleeper);
            }
        }
        for thread in threads {
            thread.join().expect("no waking thread panics");
        }
        let (_, [of_first, of_second]) = drain();
        assert!(of_first == 1 && (1..=2).contains(&of_second), "{of_first} and {of_second}");
    });
}

#[test]
fn a_wake_against_the_end_of_the_actor_frees_it_once() {
    check(|| {
        let (link, _, [node], freed) = Link::open();
        let thread = wake_elsewhere([sync::Arc::clone(&node)]);
        drop(node);
        let mut risen = 0;
        link.wakes.drain(|_| risen += 1);
        thread.join().expect("the waking thread does not panic");
        link.wakes.drain(|_| risen += 1);
        assert_eq!((risen, freed.load(Ordering::Relaxed)), (1, 1));
    });
}

#[test]
fn a_wake_against_the_end_of_the_engine_is_given_up() {
    check(|| {
        let (link, _, nodes, freed) = Link::open::<2>();
        let threads = nodes.each_ref().map(|node| wake_elsewhere([sync::Arc::clone(node)]));
        link.wakes.drain(|_| {});
        link.close();
        for thread in threads {
            thread.join().expect("no waking thread panics");
        }
        wake(&nodes[0]);
        assert!(link.wakes.is_empty(), "nothing comes after the close");
        drop(nodes);
        assert_eq!(freed.load(Ordering::Relaxed), 2);
    });
}
