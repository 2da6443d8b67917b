//! Timers of one shard: messages to come, and ends to come.
//!
//! Invariant: a timer fires at most once per due time, never early, in order of due time and then of setting; one that was
//! cancelled or whose actor is gone fires nothing. Setting, cancelling and firing cost a bounded number of steps whatever
//! else is set, beside the order within one granule of 65.5 us, which is a heap's. Shard thread only.

mod context;
mod near;
mod slab;
mod wheel;

use crate::envelope::Envelope;
use near::Near;
use slab::{Links, NIL, Place, Slab};
use wheel::Wheel;

/// Names a timer, to cancel it. Never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    number: u64,
    index: u32,
}

/// A timer that outlives its due times: how long between two of them, and what makes its messages.
pub(crate) struct Repeating {
    pub(crate) period_ns: u64,
    pub(crate) make: Box<dyn FnMut() -> Envelope + Send>,
    /// Ticks that were left out.
    pub(crate) missed: u64,
}

/// Bits of a timer's number that count the timers of one shard.
const NUMBER_BITS: u32 = 48;

/// A timer on its way to another shard with its actor.
pub(crate) struct Leaving {
    pub(crate) id: TimerId,
    /// When it is due; `None` for one that waits until its message was handled.
    pub(crate) at_ns: Option<u64>,
    pub(crate) body: Body,
}

/// What a timer does when its time has come.
pub(crate) enum Body {
    /// Sends a message.
    Once(Envelope),
    /// What few timers do.
    Other(Other),
}

/// Beside messages that are sent once.
pub(crate) enum Other {
    /// Sends messages at a fixed rate.
    Rate(Repeating),
    /// Sends messages, each so long after the last one was handled.
    Delay(Repeating),
    /// Sends messages when nobody has spoken to the actor for a period.
    Idle(Repeating),
    /// Stops its actor.
    Stop,
    /// Kills its actor.
    Kill,
    /// Ends a supervisor's wait before it restarts this actor.
    Restart,
    /// Ends this supervisor's wait before it restarts a group of its children.
    RestartGroup,
    /// Nothing: the node is free, or the timer fires just now.
    Gone,
}

impl Body {
    const GONE: Self = Self::Other(Other::Gone);

    /// Whether it says when its actor ends, whatever happens to the actor's state meanwhile.
    fn is_end(&self) -> bool {
        matches!(self, Self::Other(Other::Stop | Other::Kill))
    }
}

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A timer whose time has come.
pub(crate) struct Due {
    pub(crate) id: TimerId,
    pub(crate) at_ns: u64,
    pub(crate) owner: Owner,
    pub(crate) body: Body,
}

/// All timers of a shard. 112 bytes each, in chunks that are kept, and 4 to 8 bytes for each index of a cell up to the
/// highest that ever had one; what is near, 32 bytes more.
pub(crate) struct Timers {
    nodes: Slab,
    wheel: Wheel,
    near: Near,
    /// The latest timer of the actor in each cell.
    owned: Vec<u32>,
    last_number: u64,
    /// Timers whose message was handled: their next period begins with the next turn.
    handled: Vec<TimerId>,
}

impl Timers {
    /// The timers of one shard. Their numbers are no other shard's, so that a timer which moves with its actor is told from all.
    pub(crate) const fn new(shard: u16) -> Self {
        Self {
            nodes: Slab::new(),
            wheel: Wheel::new(),
            near: Near::new(),
            owned: Vec::new(),
            last_number: (shard as u64) << NUMBER_BITS,
            handled: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, at_ns: u64, owner: Owner, body: Body) -> TimerId {
        self.last_number += 1;
        let number = self.last_number;
        let index = self.nodes.take(number, at_ns, owner, body);
        self.own(index, owner);
        self.wheel.put(index, &mut self.nodes, &mut self.near);
        TimerId { number, index }
    }

    /// Puts a timer back that fired, under its id; gives the body back if it was cancelled meanwhile.
    pub(crate) fn again(&mut self, id: TimerId, at_ns: u64, body: Body) -> Option<Body> {
        let Some(node) = self.nodes.get(id.index, id.number) else { return Some(body) };
        debug_assert!(node.place == Place::Out, "it fired");
        node.body = body;
        node.at_ns = at_ns;
        self.wheel.put(id.index, &mut self.nodes, &mut self.near);
        None
    }

    /// Keeps the body of a timer that fired until [`handled`](Self::handled) says that its message was.
    pub(crate) fn keep(&mut self, id: TimerId, body: Body) -> Option<Body> {
        let Some(node) = self.nodes.get(id.index, id.number) else { return Some(body) };
        node.body = body;
        None
    }

    /// The message of this timer was handled.
    pub(crate) fn handled(&mut self, id: TimerId) {
        self.handled.push(id);
    }

    /// Begins the next period of the timers whose messages were handled.
    pub(crate) fn go_on(&mut self, now_ns: u64) {
        while let Some(id) = self.handled.pop() {
            let Some(node) = self.nodes.get(id.index, id.number) else { continue };
            if let (Place::Out, Body::Other(Other::Delay(repeating))) = (node.place, &node.body) {
                node.at_ns = now_ns.saturating_add(repeating.period_ns);
                self.wheel.put(id.index, &mut self.nodes, &mut self.near);
            }
        }
    }

    /// Takes a timer of `owner` out; the caller drops its message outside the shard's borrow.
    pub(crate) fn cancel(&mut self, id: TimerId, owner: Owner) -> Option<Body> {
        self.nodes.get(id.index, id.number).filter(|node| node.owner == owner)?;
        Some(self.remove(id.index))
    }

    /// Takes out one timer of the actor in this cell, if there is any; the caller drops what it held outside the shard's
    /// borrow, and asks again. `ends` says whether those count that end the actor.
    pub(crate) fn remove_owned(&mut self, cell: u32, ends: bool) -> Option<Body> {
        let mut next = self.owned.get(cell as usize).copied().unwrap_or(NIL);
        while next != NIL {
            if ends || !self.nodes[next].body.is_end() {
                return Some(self.remove(next));
            }
            next = self.nodes[next].owned.after;
        }
        None
    }

    /// Takes out all timers of the actor in this cell, in the order in which they were set.
    pub(crate) fn take_owned(&mut self, cell: u32, now_ns: u64) -> Vec<Leaving> {
        self.go_on(now_ns);
        let mut taken = Vec::new();
        while let Some(first) = self.owned.get(cell as usize).copied().filter(|first| *first != NIL) {
            let node = &self.nodes[first];
            let id = TimerId { number: node.number, index: first };
            let at_ns = (node.place != Place::Out).then_some(node.at_ns);
            taken.push(Leaving { id, at_ns, body: self.remove(first) });
        }
        taken.reverse();
        taken
    }

    /// Takes in a timer that came with its actor.
    pub(crate) fn take_in(&mut self, owner: Owner, at_ns: Option<u64>, body: Body) -> TimerId {
        if let Some(at_ns) = at_ns {
            return self.insert(at_ns, owner, body);
        }
        self.last_number += 1;
        let number = self.last_number;
        let index = self.nodes.take(number, 0, owner, body);
        self.own(index, owner);
        TimerId { number, index }
    }

    /// How many timers the actor in this cell has.
    pub(crate) fn owned_by(&self, cell: u32) -> u32 {
        let first = self.owned.get(cell as usize).copied().unwrap_or(NIL);
        let next = |index: &u32| Some(self.nodes[*index].owned.after).filter(|next| *next != NIL);
        let count = std::iter::successors(Some(first).filter(|first| *first != NIL), next).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Ticks that a repeating timer of `owner` has left out; `None` when there is no such timer.
    pub(crate) fn missed(&mut self, id: TimerId, owner: Owner) -> Option<u64> {
        let node = self.nodes.get(id.index, id.number).filter(|node| node.owner == owner)?;
        match &node.body {
            Body::Other(Other::Rate(repeating) | Other::Delay(repeating)) => Some(repeating.missed),
            _ => None,
        }
    }

    /// The next timer that is due. One that sends once is gone then; any other waits for [`again`](Self::again),
    /// [`keep`](Self::keep) or [`end`](Self::end).
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Due> {
        loop {
            let Some(entry) = self.near.first() else {
                if self.wheel.open(now_ns, &mut self.nodes, &mut self.near) {
                    continue;
                }
                return None;
            };
            let live = self.nodes.get(entry.index, entry.number).is_some();
            if live && entry.at_ns > now_ns {
                return None;
            }
            self.near.pop(live);
            if !live {
                continue;
            }
            let node = &mut self.nodes[entry.index];
            node.place = Place::Out;
            let (at_ns, owner) = (node.at_ns, node.owner);
            let body = if matches!(node.body, Body::Once(_)) {
                self.remove(entry.index)
            } else {
                std::mem::replace(&mut node.body, Body::GONE)
            };
            return Some(Due { id: TimerId { number: entry.number, index: entry.index }, at_ns, owner, body });
        }
    }

    /// Lets go of a timer that fired for the last time.
    pub(crate) fn end(&mut self, id: TimerId) {
        if self.nodes.get(id.index, id.number).is_some() {
            self.remove(id.index);
        }
    }

    /// How many are to come.
    pub(crate) fn len(&self) -> usize {
        self.nodes.live()
    }

    /// When the next timer may be due. Never later than it is; earlier where one was cancelled.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        if !self.handled.is_empty() {
            return Some(0);
        }
        self.near.first().map(|entry| entry.at_ns).or_else(|| self.wheel.earliest_ns())
    }

    /// Puts a timer at the head of its owner's list.
    fn own(&mut self, index: u32, owner: Owner) {
        let cell = owner.index as usize;
        if self.owned.len() <= cell {
            self.owned.resize(cell + 1, NIL);
        }
        let after = std::mem::replace(&mut self.owned[cell], index);
        if after != NIL {
            self.nodes[after].owned.before = index;
        }
        self.nodes[index].owned = Links { before: NIL, after };
    }

    /// Takes a timer out of all lists and frees it.
    fn remove(&mut self, index: u32) -> Body {
        let node = &self.nodes[index];
        let (Links { before, after }, owner, place) = (node.owned, node.owner, node.place);
        if before == NIL {
            self.owned[owner.index as usize] = after
        } else {
            self.nodes[before].owned.after = after
        }
        if after != NIL {
            self.nodes[after].owned.before = before;
        }
        if let Place::Wheel { level, slot } = place {
            self.wheel.unlink((level, slot), index, &mut self.nodes);
        }
        let body = self.nodes.free(index);
        if place == Place::Near && self.near.cancel() {
            let nodes = &mut self.nodes;
            self.near.sweep(|entry| nodes.get(entry.index, entry.number).is_some());
        }
        body
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
