//! `Laps`: round trips counted, and each one timed where a percentile is wanted.
//!
//! A percentile costs one read of the processor's counter a lap; a mean costs nothing inside the run. The counter's rate is
//! taken from the run's own length. With `counted.rs` one of the two files with `unsafe`: the processor's counter.

use std::time::{Duration, Instant};

/// The laps of one run, kept by whoever sees them end.
#[derive(Debug, Default)]
pub struct Laps {
    wanted: u64,
    done: u64,
    /// Counter steps of every lap, where they are kept.
    each: Option<Vec<u64>>,
    last: u64,
    begin: Option<(Instant, u64)>,
    end: Option<(Instant, u64)>,
}

impl Laps {
    /// Counts `n` laps.
    #[must_use]
    pub fn total(n: u64) -> Self {
        Self { wanted: n, ..Self::default() }
    }

    /// Counts `n` laps and times each.
    #[must_use]
    pub fn each(n: u64) -> Self {
        let room = usize::try_from(n).expect("laps fit into memory");
        Self { each: Some(Vec::with_capacity(room)), ..Self::total(n) }
    }

    /// The first lap begins.
    pub fn start(&mut self) {
        let now = counter();
        self.begin = Some((Instant::now(), now));
        self.last = now;
    }

    /// A lap ends, and the next one begins unless this was the last: then `true`.
    #[inline]
    pub fn lap(&mut self) -> bool {
        self.done += 1;
        if let Some(each) = &mut self.each {
            let now = counter();
            each.push(now.wrapping_sub(self.last));
            self.last = now;
        }
        if self.done < self.wanted {
            return false;
        }
        self.end = Some((Instant::now(), counter()));
        true
    }

    /// From the first lap's begin to the last one's end.
    ///
    /// # Panics
    /// Before the last lap.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let (begin, end) = self.ends();
        end.0 - begin.0
    }

    /// The middle lap, nanoseconds.
    ///
    /// # Panics
    /// Before the last lap, and when only the total was wanted.
    #[must_use]
    pub fn p50_ns(mut self) -> f64 {
        let (begin, end) = self.ends();
        let step_ns = (end.0 - begin.0).as_secs_f64() * 1e9 / (end.1 - begin.1) as f64;
        let mut each = self.each.take().expect("each lap was timed");
        assert_eq!(each.len() as u64, self.wanted, "no lap is missing");
        let middle = each.len() / 2;
        *each.select_nth_unstable(middle).1 as f64 * step_ns
    }

    fn ends(&self) -> ((Instant, u64), (Instant, u64)) {
        (self.begin.expect("the run began"), self.end.expect("the run ended"))
    }
}

/// A counter that runs at a steady rate on all cores.
#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets user code run it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A counter that runs at a steady rate on all cores.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    use std::sync::OnceLock;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos()).expect("less than 584 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_lap_is_found() {
        let mut laps = Laps::each(3);
        laps.start();
        let ended: Vec<bool> = (0..3).map(|_| laps.lap()).collect();
        assert_eq!(ended, [false, false, true]);
        laps.each = Some(vec![9, 1_000_000, 1]);
        let (begin, end) = laps.ends();
        laps.end = Some((begin.0 + Duration::from_nanos(100), begin.1 + 50));
        assert!(end.0 >= begin.0);
        assert!((laps.p50_ns() - 18.0).abs() < 1e-9);
    }
}
