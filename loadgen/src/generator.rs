//! The open loop: sends every operation when the schedule says, whatever became of the ones before.
//!
//! Runs on one thread of its own. Answers are stamped where they arise (see [`crate::in_flight`]) and collected
//! between operations.

use crate::clock::{now_ns, sleep_until, spin_until};
use crate::in_flight::{InFlight, Pending};
use crate::ledger::AreaEvent;
use crate::limits::{COLLECT_PERIOD, DRAIN, IDLE_PERIOD, SEARCH_GRACE};
use crate::schedule::{Kind, Operation, Pace};
use crate::stats::{Stats, Times};

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; with the durable events that its answer acknowledged (a leave, an enter, both or none).
    Done([Option<AreaEvent>; 2]),
    /// Not done, or not known; why.
    Failed(String),
}

/// Turns operations into messages.
pub trait Client {
    /// Sends one operation; never blocks.
    fn send(&mut self, operation: &Operation) -> Pending<Outcome>;
}

/// Where a phase stands, once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole seconds since the start.
    pub second: u64,
    /// Sent so far.
    pub sent: u64,
    /// Answered so far.
    pub completed: u64,
    /// Failed so far.
    pub failed: u64,
    /// Acknowledged durable events so far.
    pub events: u64,
    /// p50 of the response times in the last second, nanoseconds.
    pub p50_ns: u64,
    /// p99 of the same.
    pub p99_ns: u64,
}

/// Who hears of a phase while it runs.
pub trait Listener {
    /// A second has passed.
    fn second(&mut self, progress: Progress);
    /// An event was acknowledged.
    fn acked(&mut self, event: AreaEvent);
}

#[derive(Clone, Copy)]
struct Sent {
    kind: Kind,
    intended_ns: u64,
    sent_ns: u64,
}

/// One phase of one generator.
pub struct Phase<'a> {
    /// What to send, in order; the phase ends early if it runs out.
    pub operations: &'a [Operation],
    /// When.
    pub pace: Pace,
    /// For how long, nanoseconds.
    pub duration_ns: u64,
    /// Whether to spin between operations, which takes a core of its own, or to sleep.
    pub spin: bool,
}

impl Phase<'_> {
    /// Runs the phase to its end: until everything sent was answered, or the drain time is over.
    pub fn run(&self, client: &mut dyn Client, listener: &mut dyn Listener) -> Stats {
        let offered = self.pace.count(self.duration_ns).min(self.operations.len() as u64);
        let end_ns = self.pace.start_ns + self.duration_ns;
        let mut tally = Tally::new(offered, end_ns);
        let mut in_flight = InFlight::default();
        let mut next = 0;
        let mut second = 0;
        sleep_until(self.pace.start_ns);
        loop {
            let now = now_ns();
            // A schedule that slipped past its end is cut off, and the verdict says so.
            while next < offered && self.pace.intended_ns(next) <= now && now <= tally.grace_ns {
                let operation = &self.operations[next as usize];
                let sent = Sent { kind: operation.kind(), intended_ns: self.pace.intended_ns(next), sent_ns: now_ns() };
                tally.stats.sent(sent.intended_ns, sent.sent_ns);
                if let Some((sent, outcome)) = in_flight.start(sent, client.send(operation)) {
                    tally.ended(sent, outcome, now_ns(), listener);
                }
                next += 1;
            }
            in_flight.collect(|sent, outcome, at_ns| tally.ended(sent, outcome, at_ns, listener));
            let elapsed_s = (now.min(end_ns) - self.pace.start_ns) / 1_000_000_000;
            if elapsed_s > second {
                second = elapsed_s;
                listener.second(tally.progress(second));
            }
            let all_sent = next == offered || now > tally.grace_ns;
            if now >= end_ns && all_sent && (in_flight.is_empty() || now > end_ns + DRAIN.as_nanos() as u64) {
                break;
            }
            let due = if all_sent { u64::MAX } else { self.pace.intended_ns(next) };
            self.pause(due, now, all_sent && in_flight.is_empty());
        }
        in_flight.abandon();
        tally.stats
    }

    /// Waits until the next operation is due, or it is time to look for answers.
    fn pause(&self, due_ns: u64, now_ns: u64, idle: bool) {
        let period = if idle { IDLE_PERIOD } else { COLLECT_PERIOD };
        let until_ns = due_ns.min(now_ns + period.as_nanos() as u64);
        if self.spin && !idle {
            spin_until(until_ns);
        } else {
            sleep_until(until_ns);
        }
    }
}

struct Tally {
    stats: Stats,
    grace_ns: u64,
    last_second: Times,
}

impl Tally {
    fn new(offered: u64, end_ns: u64) -> Self {
        let stats = Stats { offered, ..Stats::default() };
        Self { stats, grace_ns: end_ns + SEARCH_GRACE.as_nanos() as u64, last_second: Times::default() }
    }

    fn ended(&mut self, sent: Sent, outcome: Outcome, at_ns: u64, listener: &mut dyn Listener) {
        match outcome {
            Outcome::Done(events) => {
                self.stats.completed(sent.kind, sent.intended_ns, sent.sent_ns, at_ns);
                self.last_second.record(at_ns.saturating_sub(sent.intended_ns));
                self.stats.in_time += u64::from(at_ns <= self.grace_ns);
                for event in events.into_iter().flatten() {
                    self.stats.events += 1;
                    listener.acked(event);
                }
            }
            Outcome::Failed(reason) => self.stats.failed(reason),
        }
    }

    fn progress(&mut self, second: u64) -> Progress {
        let last = std::mem::take(&mut self.last_second);
        Progress {
            second,
            sent: self.stats.sent,
            completed: self.stats.completions(),
            failed: self.stats.failures(),
            events: self.stats.events,
            p50_ns: last.percentile_ns(50.0),
            p99_ns: last.percentile_ns(99.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::Square;
    use crate::schedule::FlightId;

    /// Answers boards at once, fails the others.
    struct Fake;

    impl Client for Fake {
        fn send(&mut self, operation: &Operation) -> Pending<Outcome> {
            let id = FlightId { flight: 1, copy: 0 };
            let event = AreaEvent { square: Square { south: 1, west: 1 }, number: 1, id, step: 0, entered: true };
            let outcome = match operation {
                Operation::Board { airport: 0 } => Outcome::Done([Some(event), None]),
                Operation::Board { .. } => return Box::pin(std::future::pending()),
                Operation::Report { .. } => Outcome::Failed("full".to_owned()),
            };
            Box::pin(std::future::ready(outcome))
        }
    }

    #[derive(Default)]
    struct Heard {
        seconds: Vec<Progress>,
        acked: u64,
    }

    impl Listener for Heard {
        fn second(&mut self, progress: Progress) {
            self.seconds.push(progress);
        }

        fn acked(&mut self, _event: AreaEvent) {
            self.acked += 1;
        }
    }

    fn report() -> Operation {
        let id = FlightId { flight: 1, copy: 0 };
        Operation::Report { id, step: 0, landed: false, crosses: true, latitude: 1.0, longitude: 1.0 }
    }

    #[test]
    fn everything_is_sent_counted_and_reported() {
        let mut operations = vec![Operation::Board { airport: 0 }; 600];
        operations.extend([report(); 100]);
        let pace = Pace { start_ns: now_ns(), rate: 700.0 };
        let mut heard = Heard::default();
        let stats =
            Phase { operations: &operations, pace, duration_ns: 1_000_000_000, spin: false }.run(&mut Fake, &mut heard);
        assert_eq!((stats.offered, stats.sent), (700, 700));
        assert_eq!((stats.completions(), stats.in_time, stats.failures()), (600, 600, 100));
        assert_eq!((stats.events, heard.acked), (600, 600));
        assert_eq!(stats.lag.count(), 700);
        assert_eq!(heard.seconds.len(), 1);
    }

    #[test]
    fn a_schedule_that_starts_too_late_is_cut_off_not_compressed() {
        let operations = vec![Operation::Board { airport: 0 }; 100];
        let pace = Pace { start_ns: now_ns() - 10_000_000_000, rate: 100.0 };
        let stats = Phase { operations: &operations, pace, duration_ns: 1_000_000_000, spin: false }
            .run(&mut Fake, &mut Heard::default());
        assert_eq!((stats.offered, stats.sent), (100, 0));
    }
}
