//! A disk that fails, lies or dawdles, at every I/O of two lives of a log: what was acknowledged is there afterwards, or is
//! refused by name, or the log was poisoned and said Unknown; never silence.
//!
//! `SHARDSTAGE_DISK_FAULTS` sets how many calls of each life are hit with each fault (default 60; 0 for every call).
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use common::{NODE, Plan, Shared, ledger, must_recover, settle, start, world};
use shardstage::sim::{DiskFault, DiskOp, DiskOpKind, SimWorld};
use shardstage_persistence::PlantedBug;

const ACCOUNTS: usize = 3;
const FIRST: Plan = Plan { commands: 90, stop: false };
/// Longer than a log waits with its heartbeat.
const IDLE_NS: u64 = 50_000_000;
const SECOND: Plan = Plan { commands: 40, stop: true };

/// A fault, and which calls it can hit.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    applies: fn(&DiskOp<'_>) -> bool,
    fault: fn(u64) -> DiskFault,
    /// Whether the device says well where it did not do well, so that a later start may have to refuse.
    lies: bool,
}

fn any(_: &DiskOp<'_>) -> bool {
    true
}

fn transfer(op: &DiskOp<'_>) -> bool {
    op.kind != DiskOpKind::Sync
}

fn read(op: &DiskOp<'_>) -> bool {
    op.kind == DiskOpKind::Read
}

fn write(op: &DiskOp<'_>) -> bool {
    op.kind == DiskOpKind::Write
}

const KINDS: [Kind; 12] = [
    Kind { name: "EIO", applies: any, fault: |_| DiskFault::Error, lies: false },
    Kind { name: "ENOSPC", applies: any, fault: |_| DiskFault::NoSpace, lies: false },
    Kind { name: "short, nothing", applies: transfer, fault: |_| DiskFault::Short(0), lies: false },
    Kind { name: "short, a sector", applies: transfer, fault: |_| DiskFault::Short(512), lies: false },
    Kind { name: "short, a block", applies: transfer, fault: |_| DiskFault::Short(4096), lies: false },
    Kind { name: "late by 3 ms", applies: any, fault: |_| DiskFault::Slow(3_000_000), lies: false },
    Kind { name: "late by a minute", applies: any, fault: |_| DiskFault::Slow(60_000_000_000), lies: false },
    Kind { name: "stale read", applies: read, fault: |_| DiskFault::Stale, lies: false },
    Kind { name: "read from a block later", applies: read, fault: |at| DiskFault::Misdirected(at + 4096), lies: false },
    Kind { name: "lost write", applies: write, fault: |_| DiskFault::Lost, lies: true },
    Kind { name: "write a block later", applies: write, fault: |at| DiskFault::Misdirected(at + 4096), lies: true },
    Kind { name: "write to the start", applies: write, fault: |_| DiskFault::Misdirected(0), lies: true },
];

/// The first life; ends by a crash.
fn first_life(seed: u64) -> (SimWorld, Shared) {
    let world = world(seed);
    let ledger = ledger(ACCOUNTS);
    (world, ledger)
}

fn live(world: &SimWorld, ledger: &Shared, plan: Plan, seed: u64) {
    start(world, ledger, plan, PlantedBug::None, seed);
    settle(world, ledger, plan);
}

/// Hits the `n`th call of those that `kind` can hit, counted from here. The cell says whether it was hit, and what.
fn hit(world: &SimWorld, kind: Kind, n: u64) -> Rc<Cell<bool>> {
    let done = Rc::new(Cell::new(false));
    let seen = Rc::clone(&done);
    let mut count = 0;
    // The offset is known when the call is seen, so there is one rule for each block that it may have.
    let target = Rc::new(Cell::new(None));
    for block in 0..64u64 {
        let (seen, target) = (Rc::clone(&seen), Rc::clone(&target));
        let first = block == 0;
        world.disk_fault(NODE, (kind.fault)(block * 4096), move |op| {
            if first && !seen.get() && (kind.applies)(op) {
                count += 1;
                if count == n {
                    target.set(Some(op.offset));
                    seen.set(true);
                }
            }
            let now = target.get() == Some(block * 4096) || first && target.get().is_some_and(|at| at >= 64 * 4096);
            if now {
                target.set(None);
            }
            now
        });
    }
    done
}

/// Calls of a life that `kind` can hit.
fn calls(world: &SimWorld, kind: Kind) -> Rc<Cell<u64>> {
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    world.disk_fault(NODE, DiskFault::Slow(0), move |op| {
        counting.set(counting.get() + u64::from((kind.applies)(op)));
        false
    });
    count
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Nothing was noticed and nothing was lost.
    Intact,
    /// The log was poisoned; everything acknowledged was there afterwards.
    Poisoned,
    /// A start named what is wrong; after a device that told the truth, the next one found everything.
    Refused,
    /// A later start, or a load of the entities concerned, refuses by name: the device had lied.
    RefusedLater,
}

/// One life with one fault, then the judgement of the next ones.
fn one(seed: u64, life: u32, kind: Kind, n: u64) -> Result<Option<Outcome>, String> {
    let (world, ledger) = first_life(seed);
    if life == 2 {
        live(&world, &ledger, FIRST, seed);
        world.crash(NODE);
    }
    let plan = if life == 1 { FIRST } else { SECOND };
    let done = hit(&world, kind, n);
    live(&world, &ledger, plan, seed + 1);
    if !done.get() {
        return Ok(None);
    }
    let (start_error, load_error, poisoned) = {
        let ledger = ledger.borrow();
        if let Some(why) = &ledger.order_broken {
            return Err(why.clone());
        }
        (ledger.start_error.clone(), ledger.load_error.clone(), ledger.poisoned.clone())
    };
    if let Some(why) = start_error.as_ref().or(poisoned.as_ref()).or(load_error.as_ref())
        && !names_a_reason(why)
    {
        return Err(format!("a refusal without a reason: {why}"));
    }
    // A heartbeat, if the log still runs: it ends the window in which the loss of the last frame cannot be seen.
    world.run_for(IDLE_NS);
    world.crash(NODE);
    match must_recover(&world, &ledger, PlantedBug::None) {
        Ok(()) if start_error.is_some() || load_error.is_some() => Ok(Some(Outcome::Refused)),
        Ok(()) if poisoned.is_some() => Ok(Some(Outcome::Poisoned)),
        Ok(()) => Ok(Some(Outcome::Intact)),
        Err(why) if kind.lies && names_a_reason(&why) => {
            let ledger = ledger.borrow();
            let refused = ledger.start_error.is_some() || ledger.load_error.is_some();
            if refused { Ok(Some(Outcome::RefusedLater)) } else { Err(why) }
        }
        Err(why) => Err(format!("{why} (before: {start_error:?} {load_error:?} {poisoned:?})")),
    }
}

/// A file, a segment, or what of the frame failed.
fn names_a_reason(why: &str) -> bool {
    ["/data/log-0", "cannot ", "segment 0", "a frame's", "manifest", "directory"].iter().any(|name| why.contains(name))
}

fn campaign(life: u32) {
    let most: u64 = std::env::var("SHARDSTAGE_DISK_FAULTS").map_or(60, |value| value.parse().unwrap());
    let seed = 40 + u64::from(life);
    let mut silent = Vec::new();
    for kind in KINDS {
        let (world, ledger) = first_life(seed);
        if life == 2 {
            live(&world, &ledger, FIRST, seed);
            world.crash(NODE);
        }
        let count = calls(&world, kind);
        live(&world, &ledger, if life == 1 { FIRST } else { SECOND }, seed + 1);
        let count = count.get();
        let cases = if most == 0 { count } else { most.min(count) };
        let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
        for case in 0..cases {
            let n = 1 + case * count / cases;
            match one(seed, life, kind, n) {
                Ok(Some(outcome)) => *outcomes.entry(outcome).or_default() += 1,
                Ok(None) => panic!("{}: call {n} of {count} never came", kind.name),
                Err(why) => silent.push(format!("{}, call {n} of {count}: {why}", kind.name)),
            }
        }
        println!("life {life}, {}: {cases} of {count} calls: {outcomes:?}", kind.name);
    }
    assert!(silent.is_empty(), "{} cases went wrong:\n{}", silent.len(), silent.join("\n"));
}

#[test]
fn every_fault_at_the_calls_of_a_first_life() {
    campaign(1);
}

#[test]
fn every_fault_at_the_calls_of_a_life_after_a_crash() {
    campaign(2);
}
