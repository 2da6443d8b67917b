//! What a phase measured: histograms and counts of one generator, addable and printable as lines for the pipe.
//!
//! Three clocks, kept apart: *response* runs from the intended send, so it contains every wait that the schedule's user
//! would feel; *service* runs from the actual send; *lag* is the difference, and belongs to the generator, not the engine.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::limits::HISTOGRAM_MAX_NS;
use crate::schedule::Kind;

/// A histogram of nanoseconds with three significant digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, HISTOGRAM_MAX_NS, 3);
        Self(histogram.expect("the bounds are constants in order"))
    }
}

impl Times {
    /// Adds one; more than the maximum counts as the maximum.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `percent` of all do not exceed, nanoseconds.
    #[must_use]
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// The longest, nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.0.max()
    }

    /// `value:count` pairs.
    #[must_use]
    pub fn to_text(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter_recorded()
            .map(|step| format!("{}:{}", step.value_iterated_to(), step.count_at_value()))
            .collect();
        pairs.join(" ")
    }

    /// The reverse of [`to_text`](Self::to_text); `None` for anything else.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut times = Self::default();
        for pair in text.split_ascii_whitespace() {
            let (value, count) = pair.split_once(':')?;
            times.0.record_n(value.parse().ok()?, count.parse().ok()?).ok()?;
        }
        Some(times)
    }
}

/// Why an operation did not complete, in the engine's words.
pub type Reason = String;

/// What one phase measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Operations in the schedule.
    pub offered: u64,
    /// Operations that left.
    pub sent: u64,
    /// Operations that were answered in time, by kind.
    pub completed: [u64; 3],
    /// Operations that completed by the phase's end plus grace.
    pub in_time: u64,
    /// Operations that failed, by reason.
    pub failed: BTreeMap<Reason, u64>,
    /// Durable events that were acknowledged.
    pub events: u64,
    /// From the intended send, by kind.
    pub response: [Times; 3],
    /// From the actual send, by kind.
    pub service: [Times; 3],
    /// Actual minus intended send.
    pub lag: Times,
}

impl Stats {
    /// One operation left.
    pub fn sent(&mut self, intended_ns: u64, sent_ns: u64) {
        self.sent += 1;
        self.lag.record(sent_ns.saturating_sub(intended_ns));
    }

    /// One operation was answered.
    pub fn completed(&mut self, kind: Kind, intended_ns: u64, sent_ns: u64, completed_ns: u64) {
        self.completed[kind as usize] += 1;
        self.response[kind as usize].record(completed_ns.saturating_sub(intended_ns));
        self.service[kind as usize].record(completed_ns.saturating_sub(sent_ns));
    }

    /// One operation failed.
    pub fn failed(&mut self, reason: Reason) {
        *self.failed.entry(reason).or_default() += 1;
    }

    /// All failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// All answers.
    #[must_use]
    pub fn completions(&self) -> u64 {
        self.completed.iter().sum()
    }

    /// Response times of all kinds together.
    #[must_use]
    pub fn response_all(&self) -> Times {
        sum(&self.response)
    }

    /// Service times of all kinds together.
    #[must_use]
    pub fn service_all(&self) -> Times {
        sum(&self.service)
    }

    /// Adds another generator's.
    pub fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.in_time += other.in_time;
        self.events += other.events;
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
        for kind in 0..Kind::ALL.len() {
            self.completed[kind] += other.completed[kind];
            self.response[kind].add(&other.response[kind]);
            self.service[kind].add(&other.service[kind]);
        }
        self.lag.add(&other.lag);
    }

    /// One line a fact, for the pipe.
    #[must_use]
    pub fn to_lines(&self) -> Vec<String> {
        let [report, cross, board] = self.completed;
        let mut lines = vec![format!(
            "counts {} {} {report} {cross} {board} {} {}",
            self.offered, self.sent, self.in_time, self.events
        )];
        lines.extend(self.failed.iter().map(|(reason, count)| format!("failed {count} {reason}")));
        for kind in 0..Kind::ALL.len() {
            lines.push(format!("response {kind} {}", self.response[kind].to_text()));
            lines.push(format!("service {kind} {}", self.service[kind].to_text()));
        }
        lines.push(format!("lag {}", self.lag.to_text()));
        lines
    }

    /// Takes one of [`to_lines`](Self::to_lines) in; `None` for anything else.
    pub fn take_line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "counts" => {
                let numbers: Vec<u64> = rest.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
                let [offered, sent, report, cross, board, in_time, events] = numbers[..] else {
                    return None;
                };
                (self.offered, self.sent, self.in_time, self.events) = (offered, sent, in_time, events);
                self.completed = [report, cross, board];
            }
            "failed" => {
                let (count, reason) = rest.split_once(' ')?;
                self.failed.insert(reason.to_owned(), count.parse().ok()?);
            }
            "response" | "service" => {
                let (kind, text) = rest.split_once(' ')?;
                let kind: usize = kind.parse().ok()?;
                let times = if word == "response" { &mut self.response } else { &mut self.service };
                *times.get_mut(kind)? = Times::from_text(text)?;
            }
            "lag" => self.lag = Times::from_text(rest)?,
            _ => return None,
        }
        Some(())
    }
}

fn sum(times: &[Times; 3]) -> Times {
    let mut all = Times::default();
    times.iter().for_each(|one| all.add(one));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Stats {
        let mut stats = Stats { offered: 3, in_time: 1, events: 2, ..Stats::default() };
        stats.sent(1_000_000, 1_100_000);
        stats.sent(2_000_000, 2_000_500);
        stats.completed(Kind::Cross, 1_000_000, 1_100_000, 3_000_000);
        stats.failed("unknown: the deadline passed".to_owned());
        stats
    }

    #[test]
    fn response_counts_from_the_intended_send_and_service_from_the_actual_one() {
        let stats = example();
        let close = |times: &Times, ns: u64| times.max_ns().abs_diff(ns) <= ns / 200;
        assert!(close(&stats.response[1], 2_000_000), "{}", stats.response[1].max_ns());
        assert!(close(&stats.service[1], 1_900_000), "{}", stats.service[1].max_ns());
        assert!(close(&stats.lag, 100_000), "{}", stats.lag.max_ns());
    }

    #[test]
    fn lines_carry_everything() {
        let stats = example();
        let mut back = Stats::default();
        for line in stats.to_lines() {
            back.take_line(&line).expect("own lines are understood");
        }
        assert_eq!(back.to_lines(), stats.to_lines());
        assert_eq!(back.take_line("counts 1 2"), None);
        assert_eq!(back.take_line("nonsense 1"), None);
    }

    #[test]
    fn two_generators_add_up() {
        let mut both = example();
        both.add(&example());
        assert_eq!((both.offered, both.sent, both.completions(), both.failures(), both.events), (6, 4, 2, 2, 4));
        assert_eq!(both.response_all().count(), 2);
        assert_eq!(both.service_all().count(), 2);
        assert_eq!(both.lag.count(), 4);
    }

    #[test]
    fn a_time_beyond_the_histogram_counts_as_its_end() {
        let mut times = Times::default();
        times.record(u64::MAX);
        assert!(times.max_ns() >= HISTOGRAM_MAX_NS);
    }
}
