//! Credit: each token is somewhere once, none goes to a successor, and a sender that wanted one is seen.

use std::sync::Arc;

use loom::thread;

use super::{Sleeper, check};
use crate::credit::{Credit, CreditKey, CreditTable, Decision, Ledger, Room};
use crate::parked::{Parked, order_publication};

const CELL: (u32, u32) = (6, 1);

/// A receiver without messages that has this much room left and this many tokens out.
fn room(capacity: u32, out: u32) -> Room {
    Room { queued: 0, capacity, out, free: capacity }
}

/// A table in which [`CELL`] is marked as short, and its shard's side of it.
fn short() -> (Arc<CreditTable>, Ledger, CreditKey) {
    let (table, mut ledger) = (Arc::new(CreditTable::new()), Ledger::default());
    let key = CreditKey::of_cell(CELL.0, CELL.1);
    assert!(ledger.mark(&table, key, CELL, 0, 0));
    (table, ledger, key)
}

fn granted(decision: Decision) -> u32 {
    match decision {
        Decision::Grant(tokens) => tokens,
        Decision::Nothing | Decision::Clear => 0,
    }
}

/// Takes a token; if it is `unsent`, tries to give it back. Answers how many are on their way, or have come home as room.
fn spend(table: &CreditTable, key: CreditKey, unsent: bool) -> u32 {
    match table.take(key) {
        Credit::Token if unsent => u32::from(!table.give_back(key, 1)),
        credit => credit.tokens(),
    }
}

#[test]
fn tokens_that_were_granted_are_taken_or_left() {
    check(|| {
        let (table, mut ledger, key) = short();
        let mut out = granted(ledger.decide(&table, 0, room(2, 0), 0));
        let senders = [true, false].map(|unsent| {
            let table = Arc::clone(&table);
            thread::spawn(move || spend(&table, key, unsent))
        });
        out -= ledger.reclaim_all(&table, CELL);
        out += granted(ledger.decide(&table, 0, room(4, out), 0));
        out -= ledger.clear(&table, 0);
        let taken: u32 = senders.into_iter().map(|sender| sender.join().expect("no sender panics")).sum();
        assert_eq!(taken, out);
        assert_eq!(table.take(key), Credit::Open, "nothing is left behind the word");
    });
}

#[test]
fn a_successors_tokens_are_its_own() {
    check(|| {
        let (table, mut ledger, key) = short();
        let mut out = granted(ledger.decide(&table, 0, room(2, 0), 0));
        assert_eq!(out, 1);
        let senders = [true, false].map(|unsent| {
            let table = Arc::clone(&table);
            thread::spawn(move || spend(&table, key, unsent))
        });
        out -= ledger.clear(&table, 0);
        // Finds the place of its predecessor free, and its home is the same.
        let next = (CELL.0, CELL.1 + 1);
        assert!(ledger.mark(&table, CreditKey::of_cell(next.0, next.1), next, 0, 0));
        assert_eq!(granted(ledger.decide(&table, 0, room(4, 0), 0)), 2);
        let taken: u32 = senders.into_iter().map(|sender| sender.join().expect("no sender panics")).sum();
        assert_eq!(taken, out, "what was granted to the predecessor");
        assert_eq!(ledger.clear(&table, 0), 2, "nobody has sent to the successor");
    });
}

#[test]
fn a_sender_that_wanted_a_token_is_seen() {
    check(|| {
        let (table, mut ledger, key) = short();
        let (parked, sleeper) = (Arc::new(Parked::new()), Sleeper::new());
        let senders = [(); 2].map(|()| {
            let (table, parked, sleeper) = (Arc::clone(&table), Arc::clone(&parked), Arc::clone(&sleeper));
            // As in `link.rs`.
            thread::spawn(move || {
                let credit = table.take(key);
                if credit == Credit::Spent(true) {
                    order_publication();
                    if parked.claim() {
                        sleeper.wake();
                    }
                }
                credit.tokens()
            })
        });
        // Nobody has a token yet, so the first to come wants one.
        parked.prepare();
        if !ledger.is_due(&table, |_, _| 1) {
            sleeper.sleep();
        }
        parked.finish();
        assert!(ledger.is_due(&table, |_, _| 1), "it was woken, or saw the mark");
        assert_eq!(granted(ledger.decide(&table, 0, room(4, 0), 0)), 2);
        let taken: u32 = senders.into_iter().map(|sender| sender.join().expect("no sender panics")).sum();
        assert!(taken < 2, "one went without");
        assert_eq!(ledger.clear(&table, 0), 2 - taken);
    });
}
