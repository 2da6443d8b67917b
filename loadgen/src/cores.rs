//! Which cores threads run on: each generator keeps one, the shards get the others, the parent sleeps beside the first generator.
//!
//! A generator that has to wait for a core is late, and its lateness would be counted as the engine's. So where there is more
//! than one core, no shard runs on a generator's, and the generator spins there between operations.

use crate::limits::NODES;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that the calling thread may use, in order.
#[must_use]
pub fn available() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Keeps the calling thread, and threads and processes that it starts, to these cores.
pub fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    // A refusal costs precision, not correctness.
    let _refused = sched_setaffinity(None, &set);
}

/// How many nodes generate load: every one where that leaves as many cores to the shards, else the first alone.
#[must_use]
pub fn generators(cores: &[usize]) -> usize {
    if cores.len() >= 2 * NODES { NODES } else { 1 }
}

/// The generators' cores and the shards'; the same one if there is no other.
#[must_use]
pub fn divide(cores: &[usize]) -> (&[usize], &[usize]) {
    if cores.len() > 1 { cores.split_at(generators(cores)) } else { (cores, cores) }
}

/// As on a command line.
#[must_use]
pub fn to_text(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The reverse of [`to_text`]; `None` for anything else.
#[must_use]
pub fn from_text(text: &str) -> Option<Vec<usize>> {
    text.split(',').filter(|word| !word.is_empty()).map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_stay_off_the_generators_cores_if_there_are_others() {
        assert_eq!(divide(&[2, 3]), (&[2][..], &[3][..]));
        assert_eq!(divide(&[2, 3, 5, 7, 8]), (&[2, 3][..], &[5, 7, 8][..]));
        assert_eq!(divide(&[2]), (&[2][..], &[2][..]));
        assert_eq!(from_text(&to_text(&[2, 3, 5])), Some(vec![2, 3, 5]));
        assert_eq!((from_text(""), from_text("x")), (Some(vec![]), None));
    }

    #[test]
    fn a_pinned_thread_has_that_core_only() {
        let first = available()[0];
        std::thread::spawn(move || {
            pin(&[first]);
            assert_eq!(available(), [first]);
        })
        .join()
        .expect("the assertion holds");
    }
}
