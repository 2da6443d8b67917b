//! The engine's counters as text for Prometheus, in its text format 0.0.4.
//!
//! Invariant: only what shards publish anyway is read, so a scrape asks no shard for anything. No key of an actor and nothing
//! else without a bound stands in a label.

use std::fmt::{Display, Write};
use std::time::Duration;

use crate::blame::Culprit;
use crate::dead_letter::DeadLetters;
use crate::engine_link::EngineLink;
use crate::stats::ShardStats;

/// Counters that also fall, by their names in [`ShardStats`].
const GAUGES: [&str; 4] = ["elapsed_ns", "actors", "asks", "timers"];

/// Everything, as of each shard's last turn.
pub(crate) fn page(engine: &'static EngineLink) -> String {
    let mut out = String::new();
    family(&mut out, "shardstage_build_info", "gauge", "Always 1; says which version runs.");
    sample(&mut out, "shardstage_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let stats: Vec<(String, ShardStats)> =
        engine.links().iter().map(|link| (link.shard().to_string(), link.counters.read(link.shard()))).collect();
    for (field, help) in ShardStats::FIELDS {
        let is_gauge = GAUGES.contains(field);
        let name = metric_name(field, is_gauge);
        family(&mut out, &name, if is_gauge { "gauge" } else { "counter" }, &without_links(help));
        for (shard, stats) in &stats {
            let value = stats.get(field).unwrap_or_default();
            let labels = [("shard", shard.as_str())];
            if field.ends_with("_ns") {
                sample(&mut out, &name, &labels, Seconds(value));
            } else {
                sample(&mut out, &name, &labels, value);
            }
        }
    }
    let name = "shardstage_shard_injected_messages";
    family(&mut out, name, "gauge", "Messages of threads outside that wait to be taken in.");
    for (link, (shard, _)) in engine.links().iter().zip(&stats) {
        sample(&mut out, name, &[("shard", shard)], link.injected());
    }
    let name = "shardstage_dead_letters_total";
    family(&mut out, name, "counter", "Messages that could not be delivered, by reason.");
    for (reason, count) in DeadLetters(&engine.dead_letters).by_reason() {
        sample(&mut out, name, &[("reason", &snake_case(&format!("{reason:?}")))], count);
    }
    let blamed = engine.long_turns.view().blamed();
    let seconds = |time: Duration| Seconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let name = "shardstage_blamed_seconds_total";
    family(&mut out, name, "counter", "Time of long turns, by whose fault they were.");
    for entry in &blamed {
        sample(&mut out, name, &labels(&entry.culprit), seconds(entry.total));
    }
    let name = "shardstage_blamed_longest_seconds";
    family(&mut out, name, "gauge", "The longest turn, by whose fault it was.");
    for entry in &blamed {
        sample(&mut out, name, &labels(&entry.culprit), seconds(entry.longest));
    }
    out
}

fn labels(culprit: &Culprit) -> [(&'static str, &'static str); 2] {
    [("actor", culprit.actor), ("message", culprit.message)]
}

/// Nanoseconds, shown as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

fn metric_name(field: &str, is_gauge: bool) -> String {
    let base = field.strip_suffix("_ns").map_or_else(|| field.to_owned(), |base| format!("{base}_seconds"));
    if is_gauge { format!("shardstage_shard_{base}") } else { format!("shardstage_shard_{base}_total") }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a string takes everything");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    writeln!(out, "{name}{{{}}} {value}", labels.join(",")).expect("a string takes everything");
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `NoHandler` as `no_handler`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A line of documentation as people read it.
fn without_links(doc: &str) -> String {
    let (mut out, mut rest) = (String::new(), doc.trim());
    while let Some((before, link)) = rest.split_once("](") {
        out.push_str(before);
        rest = link.split_once(')').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out.retain(|c| !matches!(c, '[' | '`'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_help_are_what_prometheus_takes() {
        assert_eq!(metric_name("busy_ns", false), "shardstage_shard_busy_seconds_total");
        assert_eq!(metric_name("actors", true), "shardstage_shard_actors");
        assert_eq!(snake_case("NoHandler"), "no_handler");
        assert_eq!(without_links(" Longer than [`a::b`](crate::a::b), or `c`. "), "Longer than a::b, or c.");
        let mut out = String::new();
        sample(&mut out, "a", &[("b", "x\\y\"z\n"), ("c", "d")], Seconds(1_500_000_000));
        assert_eq!(out, "a{b=\"x\\\\y\\\"z\\n\",c=\"d\"} 1.500000000\n");
    }

    #[test]
    fn every_gauge_is_a_field() {
        for gauge in GAUGES {
            assert!(ShardStats::FIELDS.iter().any(|(field, _)| *field == gauge), "{gauge}");
        }
    }
}
