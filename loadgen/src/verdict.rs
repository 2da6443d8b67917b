//! The verdict on a measured phase: `VALID`, or every reason why its figures mean nothing.

use std::fmt;

use crate::limits::{BUSY_PERCENT_MIN, LAG_PERCENT_OF_P50, SENT_PERCENT_MIN};
use crate::stats::Stats;

/// Why a measurement is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The generator was late: its lag would be mistaken for the engine's.
    Lag {
        /// p99 of the lag, nanoseconds.
        p99_ns: u64,
        /// p50 of the response time, nanoseconds.
        p50_ns: u64,
    },
    /// Part of the schedule never left.
    NotSent {
        /// Operations sent.
        sent: u64,
        /// Operations in the schedule.
        offered: u64,
    },
    /// Nothing was loaded: the figures say how long an idle machine takes to wake.
    Idle {
        /// Busy share of the busiest shard, percent.
        busiest_percent: u64,
    },
    /// Operations failed.
    Failed {
        /// How many.
        count: u64,
    },
    /// Operations were neither answered nor failed when the phase was over.
    Unanswered {
        /// How many.
        count: u64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lag { p99_ns, p50_ns } => write!(
                f,
                "the generator was late: lag p99 {} us is over {LAG_PERCENT_OF_P50} % of the response p50 {} us",
                p99_ns / 1000,
                p50_ns / 1000
            ),
            Self::NotSent { sent, offered } => {
                write!(f, "only {sent} of {offered} operations were sent; {SENT_PERCENT_MIN} % are needed")
            }
            Self::Idle { busiest_percent } => {
                write!(f, "the busiest shard was {busiest_percent} % busy; {BUSY_PERCENT_MIN} % are needed")
            }
            Self::Failed { count } => write!(f, "{count} operations failed"),
            Self::Unanswered { count } => write!(f, "{count} operations were never answered"),
        }
    }
}

/// All flaws of a phase; none means `VALID`. `busiest_percent` is the busy share of its busiest shard.
#[must_use]
pub fn flaws(stats: &Stats, busiest_percent: u64) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let (p99_ns, p50_ns) = (stats.lag.percentile_ns(99.0), stats.response_all().percentile_ns(50.0));
    if p99_ns * 100 > p50_ns * LAG_PERCENT_OF_P50 {
        flaws.push(Flaw::Lag { p99_ns, p50_ns });
    }
    if stats.sent * 100 < stats.offered * SENT_PERCENT_MIN {
        flaws.push(Flaw::NotSent { sent: stats.sent, offered: stats.offered });
    }
    if busiest_percent < BUSY_PERCENT_MIN {
        flaws.push(Flaw::Idle { busiest_percent });
    }
    if stats.failures() > 0 {
        flaws.push(Flaw::Failed { count: stats.failures() });
    }
    let unanswered = stats.sent.saturating_sub(stats.completions() + stats.failures());
    if unanswered > 0 {
        flaws.push(Flaw::Unanswered { count: unanswered });
    }
    flaws
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Kind;

    /// 1,000 operations with the given lag and a response of 1 ms.
    fn run(offered: u64, lag_ns: u64) -> Stats {
        let mut stats = Stats { offered, ..Stats::default() };
        for index in 0..1_000 {
            let intended = index * 1_000_000;
            stats.sent(intended, intended + lag_ns);
            stats.completed(Kind::Report, intended, intended + lag_ns, intended + 1_000_000);
        }
        stats
    }

    #[test]
    fn a_good_run_is_valid() {
        assert_eq!(flaws(&run(1_000, 90_000), 31), []);
    }

    #[test]
    fn each_rule_fires_alone() {
        assert!(matches!(flaws(&run(1_000, 120_000), 31)[..], [Flaw::Lag { .. }]));
        assert!(matches!(flaws(&run(1_020, 90_000), 31)[..], [Flaw::NotSent { sent: 1_000, offered: 1_020 }]));
        assert!(matches!(flaws(&run(1_000, 90_000), 29)[..], [Flaw::Idle { busiest_percent: 29 }]));
        let mut failed = run(1_000, 90_000);
        failed.failed("full".to_owned());
        failed.sent(0, 0);
        assert!(matches!(flaws(&failed, 31)[..], [Flaw::Failed { count: 1 }]));
        let mut lost = run(1_000, 90_000);
        lost.sent(0, 0);
        assert!(matches!(flaws(&lost, 31)[..], [Flaw::Unanswered { count: 1 }]));
    }
}
