//! The reply table against a list, with addresses of every age.

use super::*;
use crate::erased::Erased;
use crate::random::Random;

fn new_slot(deadline_ns: u64, number: u64) -> NewSlot {
    NewSlot {
        deadline_ns,
        ops: ReplyOps { fail: |_, _, _| {}, complete_bytes: None },
        waiter: Waiter::Foreign,
        closure: Some(Erased::new(number)),
        peer: None,
        group: None,
        incarnation: 0,
    }
}

fn number(taken: Taken) -> u64 {
    // SAFETY: every closure of these tests is a number.
    unsafe { taken.into_closure().take::<u64>() }
}

#[test]
fn random_operations_agree_with_a_list_whatever_the_age_of_an_address() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut table = ReplyTable::new(3, seed << 20);
        // Every address ever given out, with its deadline and number while it is outstanding.
        let mut given: Vec<(ReplyAddress, Option<(u64, u64)>)> = Vec::new();
        let mut out = Vec::new();
        for step in 0..1000 {
            let now_ns = step * 10;
            match random.next_u64() % 6 {
                0..=2 => {
                    let deadline_ns = now_ns + 1 + random.next_u64() % 500;
                    let Ok(address) = table.insert(new_slot(deadline_ns, step)) else { panic!("far from full") };
                    assert!(given.iter().all(|(other, _)| *other != address), "an address names one ask for ever");
                    given.push((address, Some((deadline_ns, step))));
                }
                3..=4 if !given.is_empty() => {
                    let at = random.next_u64() as usize % given.len();
                    let (address, expected) = &mut given[at];
                    assert_eq!(table.waiting(*address).is_some(), expected.is_some(), "seed {seed}, step {step}");
                    assert_eq!(table.deadline_ns(*address), expected.map(|(deadline_ns, _)| deadline_ns));
                    let freed = table.cancel(*address).map(number);
                    assert_eq!(freed, expected.take().map(|(_, number)| number), "seed {seed}, step {step}");
                }
                _ => {
                    table.expired(now_ns, &mut out);
                    for address in out.drain(..) {
                        let (_, outstanding) =
                            given.iter_mut().find(|(given, _)| *given == address).expect("given out");
                        let (deadline_ns, expected) = outstanding.take().expect("outstanding");
                        assert!(deadline_ns <= now_ns, "seed {seed}, step {step}");
                        assert_eq!(table.cancel(address).map(number), Some(expected));
                    }
                    let overdue = |(_, ask): &&(ReplyAddress, Option<(u64, u64)>)| {
                        ask.is_some_and(|(deadline_ns, _)| deadline_ns <= now_ns)
                    };
                    assert_eq!(given.iter().filter(overdue).count(), 0, "seed {seed}, step {step}");
                }
            }
            let outstanding = given.iter().filter(|(_, ask)| ask.is_some()).count();
            assert_eq!(table.live() as usize, outstanding);
        }
        for (address, _) in given {
            table.cancel(address).map(number);
        }
    }
}
