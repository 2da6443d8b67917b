use super::*;
use crate::random::Random;

fn owner(index: u64) -> Owner {
    Owner { index: u32::try_from(index).expect("small"), generation: 2 }
}

/// A body that is known by its number.
fn body(number: u64) -> Body {
    let make = Box::new(|| unreachable!("not made in this test"));
    Body::Other(Other::Rate(Repeating { period_ns: number, make, missed: 0 }))
}

fn number(body: &Body) -> u64 {
    match body {
        Body::Other(Other::Rate(repeating)) => repeating.period_ns,
        _ => unreachable!("not made in this test"),
    }
}

struct Set {
    at_ns: u64,
    /// When it was put in: equal times fire in this order.
    order: u64,
    id: TimerId,
    number: u64,
    owner: Owner,
}

/// What timers are: a list, looked through from end to end.
#[derive(Default)]
struct Model {
    set: Vec<Set>,
    order: u64,
}

impl Model {
    fn put(&mut self, at_ns: u64, id: TimerId, number: u64, owner: Owner) {
        self.order += 1;
        self.set.push(Set { at_ns, order: self.order, id, number, owner });
    }

    fn pop_due(&mut self, now_ns: u64) -> Option<(u64, TimerId, u64)> {
        let earliest = (0..self.set.len()).min_by_key(|at| (self.set[*at].at_ns, self.set[*at].order))?;
        let set = &self.set[earliest];
        let due = (set.at_ns, set.id, set.number);
        (set.at_ns <= now_ns).then(|| {
            self.set.remove(earliest);
            due
        })
    }
}

/// A step of time: mostly small, sometimes up to the highest level of the wheel.
fn span(random: &mut Random, most_bits: u64) -> u64 {
    let bits = random.next_u64() % most_bits;
    random.next_u64() % (1 << bits)
}

#[test]
fn random_operations_agree_with_a_list() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut timers, mut model, mut ids) = (Timers::new(0), Model::default(), Vec::new());
        let mut now_ns = if seed % 2 == 0 { 1_000_000_000 } else { random.next_u64() >> 3 };
        // Some seeds stay within one granule, some jump over whole levels.
        let most_bits = [8, 20, 40, 56][usize::try_from(seed % 4).expect("small")];
        for step in 0..2000 {
            match random.next_u64() % 16 {
                0..=5 => {
                    let same = model.set.first().map(|set| set.at_ns).filter(|at_ns| *at_ns >= now_ns);
                    // Often the time of one that is set already.
                    let at_ns = same.filter(|_| random.next_u64().is_multiple_of(3));
                    let at_ns = at_ns.unwrap_or_else(|| now_ns.saturating_add(span(&mut random, most_bits)));
                    let owner = owner(random.next_u64() % 5);
                    let id = timers.insert(at_ns, owner, body(step));
                    model.put(at_ns, id, step, owner);
                    ids.push((id, owner));
                }
                // Often one that has fired or was cancelled before.
                6..=9 if !ids.is_empty() => {
                    let (id, owner) = ids[random.next_u64() as usize % ids.len()];
                    let expected = model.set.iter().position(|set| set.id == id).map(|at| model.set.remove(at).number);
                    assert_eq!(timers.cancel(id, owner).as_ref().map(number), expected, "seed {seed}, step {step}");
                }
                10 => {
                    let owner = owner(random.next_u64() % 5);
                    let mut removed = Vec::new();
                    while let Some(body) = timers.remove_owned(owner.index, true) {
                        removed.push(number(&body));
                    }
                    removed.sort_unstable();
                    let expected: Vec<_> =
                        model.set.iter().filter(|set| set.owner == owner).map(|set| set.number).collect();
                    let mut expected = expected;
                    expected.sort_unstable();
                    model.set.retain(|set| set.owner != owner);
                    assert_eq!(removed, expected, "seed {seed}, step {step}");
                }
                11 => {
                    let owner = owner(random.next_u64() % 5);
                    let expected = model.set.iter().filter(|set| set.owner == owner).count();
                    assert_eq!(timers.owned_by(owner.index) as usize, expected, "seed {seed}, step {step}");
                }
                _ => {
                    now_ns = now_ns.saturating_add(span(&mut random, most_bits));
                    loop {
                        let (due, expected) = (timers.pop_due(now_ns), model.pop_due(now_ns));
                        let seen = due.as_ref().map(|due| (due.at_ns, due.id, number(&due.body)));
                        assert_eq!(seen, expected, "seed {seed}, step {step}");
                        let Some(due) = due else { break };
                        if random.next_u64().is_multiple_of(4) {
                            // It repeats.
                            let at_ns = now_ns.saturating_add(1 + span(&mut random, most_bits));
                            model.put(at_ns, due.id, number(&due.body), due.owner);
                            assert!(timers.again(due.id, at_ns, due.body).is_none());
                        } else {
                            timers.end(due.id);
                        }
                    }
                }
            }
            assert_eq!(timers.len(), model.set.len(), "seed {seed}, step {step}");
            let earliest = model.set.iter().map(|set| set.at_ns).min();
            let next = timers.next_deadline_ns();
            // A cancelled timer may still wake the shard, too early; a live one never too late.
            assert!(next <= earliest.or(next), "seed {seed}, step {step}");
            assert!(next.is_some() || earliest.is_none(), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn without_cancels_the_shard_wakes_exactly_when_the_next_one_is_due() {
    let mut random = Random::new(3);
    let mut timers = Timers::new(0);
    let mut due: Vec<u64> = (0..500).map(|_| 1_000_000_000 + span(&mut random, 50)).collect();
    for at_ns in &due {
        timers.insert(*at_ns, owner(1), body(0));
    }
    due.sort_unstable();
    for at_ns in due {
        assert_eq!(timers.next_deadline_ns(), Some(at_ns));
        assert!(timers.pop_due(at_ns - 1).is_none());
        let fired = timers.pop_due(at_ns).expect("it is due");
        assert_eq!(fired.at_ns, at_ns);
        timers.end(fired.id);
    }
    assert_eq!(timers.next_deadline_ns(), None);
}

#[test]
fn cancelled_timers_leave_nothing_behind() {
    let mut timers = Timers::new(0);
    for round in 0_u64..100_000 {
        // Near and far ones.
        let id = timers.insert(1 + (round % 3) * 100_000, owner(1), body(round));
        assert!(timers.cancel(id, owner(2)).is_none(), "another's timer");
        assert!(timers.cancel(id, owner(1)).is_some());
        assert!(timers.cancel(id, owner(1)).is_none(), "once");
    }
    assert_eq!((timers.len(), timers.owned_by(1)), (0, 0));
    assert!(timers.near.len() <= 2 * crate::limits::CANCELLED_TIMERS_KEPT, "{}", timers.near.len());
    assert_eq!(timers.nodes.chunks(), 1, "nodes are used again");
}
