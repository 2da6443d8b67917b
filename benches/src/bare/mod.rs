//! What the machine allows: the same work without any actor.
//!
//! On one thread the limit is a loop of virtual calls, which no engine reaches: prediction is perfect and nothing is queued.
//! Between two threads it is a bounded single-producer ring in batches, one cache line that two cores hand to and fro, or two
//! threads that wake each other.

pub mod calls;
pub mod line;
pub mod ring;
pub mod tick;
pub mod wakes;

use crate::workload::{Entry, Role, Run, Work};

/// The limits' share of the table.
pub const ENTRIES: &[&[Entry]] = &[calls::ENTRIES, ring::ENTRIES, line::ENTRIES, wakes::ENTRIES, tick::ENTRIES];

const fn limit(work: Work, name: &'static str, run: Run) -> Entry {
    Entry { work, name, role: Role::Limit, run }
}
