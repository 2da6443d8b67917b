//! The lines between the parent and its nodes: commands down a node's standard input, facts up its standard output.
//!
//! Both ends are the same binary, so a line that does not parse is this program's own bug and ends the run by name.

use std::fmt;
use std::str::FromStr;

use crate::generator::Progress;
use crate::geo::Square;
use crate::ledger::AreaEvent;
use crate::schedule::Density;

/// The part of a run that a flight or square belongs to; its keys start with it, so that phases share no actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseName {
    /// Looking for the highest rate.
    Search,
    /// The measured phase.
    Main,
    /// The phase in which a node is killed.
    Kill,
}

impl PhaseName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Search, Self::Main, Self::Kill];

    /// As in keys and lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Main => "main",
            Self::Kill => "kill",
        }
    }
}

/// What the parent orders.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Lay out a plan.
    Prepare {
        /// For which phase.
        phase: PhaseName,
        /// How densely.
        density: Density,
        /// From which second of the day on.
        from_utc_s: f64,
    },
    /// Run the next part of the plan.
    Go {
        /// Start on the monotonic clock, nanoseconds.
        start_ns: u64,
        /// Operations a second of this generator.
        rate: f64,
        /// Length, nanoseconds.
        duration_ns: u64,
        /// Say each acknowledged event.
        ledger: bool,
    },
    /// Say all events of these squares in the kill phase.
    History(Vec<Square>),
    /// Shut down.
    Stop,
}

/// What a shard did during a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ShardFacts {
    /// Messages that actors handled.
    pub messages: u64,
    /// Time spent in turns, nanoseconds.
    pub busy_ns: u64,
    /// Length of the phase, nanoseconds.
    pub elapsed_ns: u64,
}

impl ShardFacts {
    /// Share of the phase spent in turns, percent.
    #[must_use]
    pub fn busy_percent(&self) -> u64 {
        (self.busy_ns * 100).checked_div(self.elapsed_ns).unwrap_or(0)
    }
}

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It serves.
    Ready {
        /// Its driver's name.
        driver: String,
    },
    /// Its plan is laid out.
    Prepared {
        /// Operations in it.
        operations: u64,
        /// Flights in it.
        flights: u64,
    },
    /// A second of a phase passed.
    Second(Progress),
    /// An event was acknowledged to its generator.
    Acked(AreaEvent),
    /// One line of its statistics.
    Stats(String),
    /// What one of its shards did.
    Shard(usize, ShardFacts),
    /// One event of a square's history.
    Event(AreaEvent),
    /// The command is done.
    End,
    /// It cannot go on; why.
    Error(String),
}

/// A line was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine(pub String);

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a line between the processes was not understood: {:?}", self.0)
    }
}

impl std::error::Error for BadLine {}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare { phase, density: Density { interval_s, copies, every }, from_utc_s } => {
                write!(f, "prepare {} {interval_s} {copies} {every} {from_utc_s}", phase.name())
            }
            Self::Go { start_ns, rate, duration_ns, ledger } => {
                write!(f, "go {start_ns} {rate} {duration_ns} {ledger}")
            }
            Self::History(squares) => {
                f.write_str("history")?;
                squares.iter().try_for_each(|square| write!(f, " {} {}", square.south, square.west))
            }
            Self::Stop => f.write_str("stop"),
        }
    }
}

impl FromStr for Command {
    type Err = BadLine;

    fn from_str(line: &str) -> Result<Self, BadLine> {
        parse_command(line).ok_or_else(|| BadLine(line.to_owned()))
    }
}

fn parse_command(line: &str) -> Option<Command> {
    let words: Vec<&str> = line.split(' ').collect();
    Some(match words[..] {
        ["prepare", phase, interval_s, copies, every, from_utc_s] => Command::Prepare {
            phase: PhaseName::ALL.into_iter().find(|p| p.name() == phase)?,
            density: Density {
                interval_s: interval_s.parse().ok()?,
                copies: copies.parse().ok()?,
                every: every.parse().ok()?,
            },
            from_utc_s: from_utc_s.parse().ok()?,
        },
        ["go", start_ns, rate, duration_ns, ledger] => Command::Go {
            start_ns: start_ns.parse().ok()?,
            rate: rate.parse().ok()?,
            duration_ns: duration_ns.parse().ok()?,
            ledger: ledger.parse().ok()?,
        },
        ["history", ref squares @ ..] => {
            let square = |pair: &[&str]| {
                let [south, west] = pair else { return None };
                Some(Square { south: south.parse().ok()?, west: west.parse().ok()? })
            };
            Command::History(squares.chunks(2).map(square).collect::<Option<_>>()?)
        }
        ["stop"] => Command::Stop,
        _ => return None,
    })
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { driver } => write!(f, "ready {driver}"),
            Self::Prepared { operations, flights } => write!(f, "prepared {operations} {flights}"),
            Self::Second(p) => write!(
                f,
                "second {} {} {} {} {} {} {}",
                p.second, p.sent, p.completed, p.failed, p.events, p.p50_ns, p.p99_ns
            ),
            Self::Acked(event) => write!(f, "acked {event}"),
            Self::Stats(line) => write!(f, "stats {line}"),
            Self::Shard(shard, facts) => {
                write!(f, "shard {shard} {} {} {}", facts.messages, facts.busy_ns, facts.elapsed_ns)
            }
            Self::Event(event) => write!(f, "event {event}"),
            Self::End => f.write_str("end"),
            Self::Error(why) => write!(f, "error {}", why.replace('\n', " / ")),
        }
    }
}

impl FromStr for Said {
    type Err = BadLine;

    fn from_str(line: &str) -> Result<Self, BadLine> {
        parse_said(line).ok_or_else(|| BadLine(line.to_owned()))
    }
}

fn parse_said(line: &str) -> Option<Said> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let numbers = || rest.split(' ').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>();
    Some(match word {
        "ready" => Said::Ready { driver: rest.to_owned() },
        "prepared" => {
            let [operations, flights] = numbers()?[..] else {
                return None;
            };
            Said::Prepared { operations, flights }
        }
        "second" => {
            let [second, sent, completed, failed, events, p50_ns, p99_ns] = numbers()?[..] else {
                return None;
            };
            Said::Second(Progress { second, sent, completed, failed, events, p50_ns, p99_ns })
        }
        "acked" => Said::Acked(rest.parse().ok()?),
        "stats" => Said::Stats(rest.to_owned()),
        "shard" => {
            let [shard, messages, busy_ns, elapsed_ns] = numbers()?[..] else {
                return None;
            };
            Said::Shard(usize::try_from(shard).ok()?, ShardFacts { messages, busy_ns, elapsed_ns })
        }
        "event" => Said::Event(rest.parse().ok()?),
        "end" => Said::End,
        "error" => Said::Error(rest.to_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::FlightId;

    #[test]
    fn commands_survive_the_pipe() {
        let density = Density { interval_s: 63.25, copies: 2, every: 1 };
        for command in [
            Command::Prepare { phase: PhaseName::Kill, density, from_utc_s: 61_200.0 },
            Command::Go { start_ns: u64::MAX, rate: 1234.5, duration_ns: 900_000_000, ledger: true },
            Command::History(vec![Square { south: 40, west: -74 }, Square { south: -1, west: 179 }]),
            Command::History(vec![]),
            Command::Stop,
        ] {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        assert!("go 1 2 3".parse::<Command>().is_err());
        assert!("history 1".parse::<Command>().is_err());
    }

    #[test]
    fn facts_survive_the_pipe() {
        let id = FlightId { flight: 7, copy: 1 };
        let event = AreaEvent { square: Square { south: 40, west: -74 }, number: 3, id, step: 9, entered: true };
        let progress = Progress { second: 1, sent: 2, completed: 3, failed: 4, events: 5, p50_ns: 6, p99_ns: 7 };
        for said in [
            Said::Ready { driver: "uring".to_owned() },
            Said::Prepared { operations: 5, flights: 6 },
            Said::Second(progress),
            Said::Acked(event),
            Said::Stats("counts 1 2 3".to_owned()),
            Said::Shard(1, ShardFacts { messages: 1, busy_ns: 2, elapsed_ns: 3 }),
            Said::Event(event),
            Said::End,
            Said::Error("port taken".to_owned()),
        ] {
            assert_eq!(said.to_string().parse(), Ok(said));
        }
        assert!("second 1 2".parse::<Said>().is_err());
        assert!("gibberish".parse::<Said>().is_err());
    }

    #[test]
    fn busy_is_a_share_of_the_phase() {
        let facts = ShardFacts { messages: 0, busy_ns: 30, elapsed_ns: 100 };
        assert_eq!(facts.busy_percent(), 30);
        assert_eq!(ShardFacts::default().busy_percent(), 0);
    }
}
