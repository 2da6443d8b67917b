//! Which cores threads run on: the generators and the parent keep the first one, the shards get the others.
//!
//! A generator that has to wait for a core is late, and its lateness would be counted as the engine's. So where there is more
//! than one core, no shard runs on the generators'.

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

/// The cores for shards among `cores`: all but the first, or that one if there is no other.
#[must_use]
pub fn for_shards(cores: &[usize]) -> &[usize] {
    if cores.len() > 1 { &cores[1..] } else { cores }
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
    fn shards_stay_off_the_first_core_if_there_is_another() {
        assert_eq!(for_shards(&[2, 3, 5]), [3, 5]);
        assert_eq!(for_shards(&[2]), [2]);
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
