//! CPU pinning: which CPUs this process may use, and binding the calling thread to one of them.
//!
//! Invariant: only the calling thread is changed, and never to a CPU outside the process's allowed set.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that the calling thread may run on, ascending. A container's or `taskset`'s limits are respected.
///
/// Call it before pinning: a pinned thread sees its own CPU only. Never empty: where the kernel does not say, CPU 0.
#[must_use]
pub fn available_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// Binds the calling thread to `cpu`.
///
/// # Errors
/// `InvalidInput` when the CPU does not exist or the process may not use it; nothing changed.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {cpu} is beyond the {} that can be named", CpuSet::MAX_CPU),
        ));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("pinning to CPU {cpu}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_an_allowed_cpu_and_refuses_others() {
        std::thread::spawn(|| {
            let cpus = available_cpus();
            let last = *cpus.last().expect("at least one CPU");
            pin_current_thread(last).expect("an allowed CPU");
            assert_eq!(available_cpus(), vec![last]);
            assert_eq!(rustix::thread::sched_getcpu(), last);
            let refused = pin_current_thread(CpuSet::MAX_CPU).expect_err("no such CPU");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(available_cpus(), vec![last]);
        })
        .join()
        .expect("the pinned thread ends well");
    }
}
