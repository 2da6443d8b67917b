//! Open-loop load and what it found: when events are due, and how long they took from then on.
//!
//! Invariant: an event's latency runs from the moment when it was due, whether or not the store was ready for it; so a store
//! that stalls is charged for everything that came meanwhile.

use std::time::{Duration, Instant};

/// Moments at which events are due: a Poisson process.
pub struct Schedule {
    start: Instant,
    gap_s: f64,
    at_s: f64,
    random: u64,
}

impl Schedule {
    /// So many events a second, from now on.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        let mut schedule = Self { start: Instant::now(), gap_s: 1.0 / rate, at_s: 0.0, random: SEED };
        schedule.step();
        schedule
    }

    /// Half of the rate at which an event takes so many nanoseconds: a store that is asked for more than it can do has no
    /// latency worth a figure.
    #[must_use]
    pub fn at_half(event_ns: f64) -> Self {
        Self::new(0.5e9 / event_ns)
    }

    /// The same events, from now on.
    #[must_use]
    pub fn restarted(self) -> Self {
        Self { start: Instant::now(), ..self }
    }

    /// When the next event is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.at_s)
    }

    /// Takes the next event if it is due by `now`.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due();
        (due <= now).then(|| {
            self.step();
            due
        })
    }

    /// Goes on to the event after the next.
    pub fn step(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // In (0, 1]: its logarithm is finite.
        let uniform = ((self.random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        self.at_s -= uniform.ln() * self.gap_s;
    }
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Percentiles of latencies, microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// The middle.
    pub p50_us: f64,
    /// What one in a hundred exceeds.
    pub p99_us: f64,
    /// What one in a thousand exceeds.
    pub p999_us: f64,
}

impl Tail {
    /// Of these latencies.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn of(mut latencies: Vec<Duration>) -> Self {
        assert!(!latencies.is_empty(), "something was measured");
        latencies.sort_unstable();
        let at = |share: f64| {
            let rank = (latencies.len() as f64 * share).ceil() as usize;
            latencies[rank.clamp(1, latencies.len()) - 1].as_secs_f64() * 1e6
        };
        Self { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999) }
    }

    /// The words of [`Tail::parse`].
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {} {}", self.p50_us, self.p99_us, self.p999_us)
    }

    /// From three numbers.
    #[must_use]
    pub fn parse(words: &[&str]) -> Option<Self> {
        let [p50, p99, p999] = words else { return None };
        Some(Self { p50_us: p50.parse().ok()?, p99_us: p99.parse().ok()?, p999_us: p999.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let tail = Tail::of((1..=1000).map(Duration::from_micros).collect());
        let microseconds = [tail.p50_us, tail.p99_us, tail.p999_us].map(f64::round);
        assert_eq!(microseconds, [500.0, 990.0, 999.0]);
        assert_eq!(Tail::parse(&tail.text().split(' ').collect::<Vec<_>>()), Some(tail));
    }

    #[test]
    fn the_rate_is_kept() {
        let mut schedule = Schedule::new(1000.0);
        let end = schedule.start + Duration::from_secs(100);
        let mut count = 0;
        while schedule.take(end).is_some() {
            count += 1;
        }
        assert!((99_000..101_000).contains(&count), "{count} of 100,000");
        assert!(schedule.due() > end);
    }
}
