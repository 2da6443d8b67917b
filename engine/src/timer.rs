//! Timers of one shard: messages to come.
//!
//! Invariant: a timer fires at most once per due time, never early, in order of due time and then of creation; one that was
//! cancelled or whose actor is gone or was rebuilt fires nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use foldhash::fast::FixedState;

use crate::envelope::Envelope;
use crate::limits::CANCELLED_TIMERS_KEPT;

/// Names a timer, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(u64);

/// A repeating timer.
pub(crate) struct Period {
    pub(crate) period_ns: u64,
    pub(crate) make: Box<dyn FnMut() -> Envelope>,
}

pub(crate) enum Body {
    Once(Envelope),
    Every(Period),
}

/// Whose timer it is: index, generation, and incarnation, which a rebuild raises.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) incarnation: u16,
}

/// A timer whose time has come.
pub(crate) struct Due {
    pub(crate) id: TimerId,
    pub(crate) at_ns: u64,
    pub(crate) owner: Owner,
    pub(crate) body: Body,
}

/// All timers of a shard: a heap of due times over a table of bodies, so that a cancel costs one look-up.
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: HashMap<u64, (Owner, Body), FixedState>,
    next: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), bodies: HashMap::with_hasher(FixedState::default()), next: 0 }
    }

    pub(crate) fn insert(&mut self, at_ns: u64, owner: Owner, body: Body) -> TimerId {
        let id = self.next;
        self.next += 1;
        self.again(TimerId(id), at_ns, owner, body);
        TimerId(id)
    }

    /// Puts a repeating timer back under its id.
    pub(crate) fn again(&mut self, id: TimerId, at_ns: u64, owner: Owner, body: Body) {
        self.heap.push(Reverse((at_ns, id.0)));
        self.bodies.insert(id.0, (owner, body));
    }

    /// Takes a timer out; the caller drops its message outside the shard's borrow.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<Body> {
        let (_, body) = self.bodies.remove(&id.0)?;
        // Due times of cancelled timers never outnumber the others by much.
        if self.heap.len() > CANCELLED_TIMERS_KEPT + 2 * self.bodies.len() {
            let bodies = &self.bodies;
            self.heap.retain(|Reverse((_, id))| bodies.contains_key(id));
        }
        Some(body)
    }

    /// The next timer that is due.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Due> {
        loop {
            let Reverse((at_ns, id)) = *self.heap.peek()?;
            if at_ns > now_ns {
                return None;
            }
            self.heap.pop();
            if let Some((owner, body)) = self.bodies.remove(&id) {
                return Some(Due { id: TimerId(id), at_ns, owner, body });
            }
        }
    }

    /// When the next timer may be due.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_ns, _))| *at_ns)
    }
}
