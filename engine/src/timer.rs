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
    /// The end of a supervisor's wait before it restarts its owner, or its owner's children.
    Restart,
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

/// A timer in the table, in line with the others of its owner.
struct Entry {
    owner: Owner,
    body: Body,
    previous: Option<u64>,
    next: Option<u64>,
}

/// All timers of a shard: a heap of due times over a table of bodies, so that a cancel costs one look-up.
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: HashMap<u64, Entry, FixedState>,
    /// The latest timer of each actor that has some.
    latest: HashMap<(u32, u32), u64, FixedState>,
    next: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        let (bodies, latest) = (HashMap::default(), HashMap::default());
        Self { heap: BinaryHeap::new(), bodies, latest, next: 0 }
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
        let previous = self.latest.insert((owner.index, owner.generation), id.0);
        if let Some(previous) = previous {
            self.bodies.get_mut(&previous).expect("in line").next = Some(id.0);
        }
        self.bodies.insert(id.0, Entry { owner, body, previous, next: None });
    }

    /// Takes a timer out of the table and out of its owner's line.
    fn take(&mut self, id: u64) -> Option<(Owner, Body)> {
        let Entry { owner, body, previous, next } = self.bodies.remove(&id)?;
        if let Some(previous) = previous {
            self.bodies.get_mut(&previous).expect("in line").next = next;
        }
        match (next, previous) {
            (Some(next), _) => self.bodies.get_mut(&next).expect("in line").previous = previous,
            (None, Some(previous)) => drop(self.latest.insert((owner.index, owner.generation), previous)),
            (None, None) => drop(self.latest.remove(&(owner.index, owner.generation))),
        }
        Some((owner, body))
    }

    /// Takes out all timers of an actor that is gone or rebuilt, at the cost of these; the caller drops them outside the shard's
    /// borrow.
    pub(crate) fn remove_owner(&mut self, index: u32, generation: u32) -> Vec<Body> {
        let mut removed = Vec::new();
        while let Some(id) = self.latest.get(&(index, generation)) {
            removed.extend(self.cancel(TimerId(*id)));
        }
        removed
    }

    /// Takes a timer out; the caller drops its message outside the shard's borrow.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<Body> {
        let (_, body) = self.take(id.0)?;
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
            if let Some((owner, body)) = self.take(id) {
                return Some(Due { id: TimerId(id), at_ns, owner, body });
            }
        }
    }

    /// Whether any is to come for this actor.
    pub(crate) fn has_owner(&self, index: u32, generation: u32) -> bool {
        self.latest.contains_key(&(index, generation))
    }

    /// How many are to come.
    pub(crate) fn len(&self) -> usize {
        self.bodies.len()
    }

    /// Whose they are, in no order.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        self.bodies.values().map(|entry| entry.owner)
    }

    /// When the next timer may be due.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_ns, _))| *at_ns)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::random::Random;

    const OWNER: Owner = Owner { index: 1, generation: 2, incarnation: 3 };

    /// A body that is known by its number.
    fn body(number: u64) -> Body {
        Body::Every(Period { period_ns: number, make: Box::new(|| unreachable!("not made in this test")) })
    }

    fn number(body: &Body) -> u64 {
        match body {
            Body::Every(period) => period.period_ns,
            Body::Once(_) | Body::Restart => unreachable!("not made in this test"),
        }
    }

    /// What timers are: a list of (due time, creation, number), looked through from end to end.
    #[derive(Default)]
    struct Model(Vec<(u64, TimerId, u64)>);

    impl Model {
        fn pop_due(&mut self, now_ns: u64) -> Option<(u64, TimerId, u64)> {
            let earliest = (0..self.0.len()).min_by_key(|at| (self.0[*at].0, self.0[*at].1.0))?;
            (self.0[earliest].0 <= now_ns).then(|| self.0.remove(earliest))
        }
    }

    #[test]
    fn an_owner_leaves_with_its_timers_and_no_others() {
        let other = Owner { index: 7, ..OWNER };
        let mut timers = Timers::new();
        for step in 0..100 {
            let owner = if step % 3 == 0 { other } else { OWNER };
            let id = timers.insert(step, owner, body(step));
            if step % 5 == 0 {
                timers.cancel(id);
            }
        }
        assert!(timers.pop_due(1).is_some_and(|due| due.owner.index == OWNER.index));
        let removed = timers.remove_owner(OWNER.index, OWNER.generation);
        assert_eq!(removed.len(), (2..100).filter(|step| step % 3 != 0 && step % 5 != 0).count());
        assert!(removed.iter().all(|body| !number(body).is_multiple_of(3)));
        assert!(timers.remove_owner(OWNER.index, OWNER.generation).is_empty());
        assert!(timers.owners().all(|owner| owner.index == other.index));
        assert_eq!(timers.len(), (0..100).filter(|step| step % 3 == 0 && step % 5 != 0).count());
        assert!(timers.latest.len() == 1);
    }

    #[test]
    fn random_operations_agree_with_a_list() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let (mut timers, mut model, mut now_ns, mut ids) = (Timers::new(), Model::default(), 0, Vec::new());
            for step in 0..2000 {
                match random.next_u64() % 8 {
                    0..=2 => {
                        let at_ns = now_ns + random.next_u64() % 50;
                        let id = timers.insert(at_ns, OWNER, body(step));
                        model.0.push((at_ns, id, step));
                        ids.push(id);
                    }
                    // Often one that has fired or was cancelled before.
                    3..=5 if !ids.is_empty() => {
                        let id = ids[random.next_u64() as usize % ids.len()];
                        let expected = model.0.iter().position(|timer| timer.1 == id).map(|at| model.0.remove(at).2);
                        assert_eq!(timers.cancel(id).as_ref().map(number), expected, "seed {seed}, step {step}");
                    }
                    _ => {
                        now_ns += random.next_u64() % 20;
                        loop {
                            let (due, expected) = (timers.pop_due(now_ns), model.pop_due(now_ns));
                            let seen = due.as_ref().map(|due| (due.at_ns, due.id, number(&due.body)));
                            assert_eq!(seen, expected, "seed {seed}, step {step}");
                            let Some(due) = due else { break };
                            if random.next_u64().is_multiple_of(4) {
                                // It repeats.
                                let at_ns = now_ns + 1 + random.next_u64() % 50;
                                model.0.push((at_ns, due.id, number(&due.body)));
                                timers.again(due.id, at_ns, due.owner, due.body);
                            }
                        }
                    }
                }
                let earliest = model.0.iter().map(|timer| timer.0).min();
                let next = timers.next_deadline_ns();
                // A cancelled timer may still wake the shard, too early; a live one never too late.
                assert!(next <= earliest.or(next), "seed {seed}, step {step}");
                assert!(next.is_some() || earliest.is_none(), "seed {seed}, step {step}");
            }
        }
    }
}
