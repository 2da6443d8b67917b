//! What a person reads: live lines while it runs, and one screen at the end that explains itself.

use std::fmt::Write;

use crate::generator::Progress;
use crate::protocol::ShardFacts;
use crate::schedule::Kind;
use crate::stats::{Stats, Times};
use crate::verdict::Flaw;

/// The measured phase, complete.
pub struct Measured {
    /// Operations and times of both generators together.
    pub stats: Stats,
    /// Length of the phase, seconds.
    pub seconds: f64,
    /// `(node, shard, what it did)`.
    pub shards: Vec<(usize, usize, ShardFacts)>,
}

impl Measured {
    /// Busy share of the busiest shard, percent.
    #[must_use]
    pub fn busiest_percent(&self) -> u64 {
        self.shards.iter().map(|(_, _, facts)| facts.busy_percent()).max().unwrap_or(0)
    }
}

/// Digits in groups of three.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time with three digits and a unit that suits it.
#[must_use]
pub fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

/// One live line.
#[must_use]
pub fn second(progress: &Progress, previous: &Progress) -> String {
    format!(
        "  {:>3} s   sent {:>9}/s   completed {:>9}/s   failed {:>6}   durable events {:>8}/s   p50 {:>8}   p99 {:>8}",
        progress.second,
        grouped(progress.sent - previous.sent),
        grouped(progress.completed - previous.completed),
        grouped(progress.failed - previous.failed),
        grouped(progress.events - previous.events),
        time(progress.p50_ns),
        time(progress.p99_ns),
    )
}

fn times_row(out: &mut String, name: &str, times: &Times) {
    let cells: Vec<String> = [50.0, 90.0, 99.0, 99.9]
        .into_iter()
        .map(|percent| times.percentile_ns(percent))
        .chain([times.max_ns()])
        .map(|ns| format!("{:>10}", if times.count() == 0 { "-".to_owned() } else { time(ns) }))
        .collect();
    writeln!(out, "  {name:<20}{:>12}{}", grouped(times.count()), cells.concat()).expect("a string takes all");
}

fn times_table(out: &mut String, title: &str, by_kind: &[Times; 3], all: &Times) {
    writeln!(
        out,
        "\n{title}\n  {:<20}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "count", "p50", "p90", "p99", "p99.9", "max"
    )
    .expect("a string takes all");
    for kind in Kind::ALL {
        times_row(out, kind.name(), &by_kind[kind as usize]);
    }
    times_row(out, "all", all);
}

/// The figures of the measured phase.
#[must_use]
pub fn screen(measured: &Measured, flaws: &[Flaw]) -> String {
    let Measured { stats, seconds, shards } = measured;
    let mut out = String::new();
    let per_second = |count: u64| grouped((count as f64 / seconds) as u64);
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("operations        {:>12}{:>12}", "count", "a second"));
    for (name, count) in [
        ("offered", stats.offered),
        ("sent", stats.sent),
        ("completed", stats.completions()),
        ("failed", stats.failures()),
        ("durable events", stats.events),
    ] {
        line(format!("  {name:<16}{:>12}{:>12}", grouped(count), per_second(count)));
    }
    for (reason, count) in &stats.failed {
        line(format!("    failed {}: {reason}", grouped(*count)));
    }
    times_table(
        &mut out,
        "response time: from when the schedule wanted it sent; contains every wait",
        &stats.response,
        &stats.response_all(),
    );
    times_table(&mut out, "service time: from when it was really sent", &stats.service, &stats.service_all());
    writeln!(
        out,
        "\nschedule lag (the generator's own lateness, part of response time): p50 {}, p99 {}, max {}",
        time(stats.lag.percentile_ns(50.0)),
        time(stats.lag.percentile_ns(99.0)),
        time(stats.lag.max_ns())
    )
    .expect("a string takes all");
    writeln!(out, "\nnode/shard     messages/s   busy").expect("a string takes all");
    for (node, shard, facts) in shards {
        let rate = |count: u64| grouped(count.saturating_mul(1_000_000_000) / facts.elapsed_ns.max(1));
        writeln!(out, "  {node}/{shard}        {:>12}  {:>4} %", rate(facts.messages), facts.busy_percent())
            .expect("a string takes all");
    }
    if flaws.is_empty() {
        out.push_str("\nVALID: the schedule was kept, everything was answered, and the shards were loaded\n");
    } else {
        out.push_str("\nINVALID\n");
        for flaw in flaws {
            writeln!(out, "  {flaw}").expect("a string takes all");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_times_get_a_unit() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1_234, 45_600, 456_000].map(time), ["1.23 us", "45.6 us", "456 us"]);
        assert_eq!([1_500_000, 2_000_000_000].map(time), ["1.50 ms", "2.00 s"]);
    }

    #[test]
    fn the_screen_fits_and_says_why_it_is_invalid() {
        let mut stats = Stats { offered: 2, ..Stats::default() };
        stats.sent(0, 10);
        stats.completed(Kind::Board, 0, 10, 900_000);
        stats.failed("full".to_owned());
        let facts = ShardFacts { messages: 5_000, busy_ns: 450_000_000, elapsed_ns: 1_000_000_000 };
        let measured = Measured { stats, seconds: 1.0, shards: vec![(0, 0, facts), (1, 1, facts)] };
        assert_eq!(measured.busiest_percent(), 45);
        let text = screen(&measured, &[Flaw::Failed { count: 1 }]);
        assert!(text.lines().count() <= 40, "one screen: {}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 120));
        for part in ["INVALID", "1 operations failed", "failed 1: full", "45 %", "5,000", "board"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(screen(&measured, &[]).contains("\nVALID"));
    }
}
