//! `Spec`: how a row is shown, which of our figures counts, and what it must reach.
//!
//! A floor must hold, an aim is what we want. Both may say three things at once: an absolute figure, a multiple of the best
//! peer, and a multiple of the limit.

use crate::ours::{PARKED, SPINNING};
use crate::workload::{Place, Work};

/// What a figure is, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds, less is better.
    Nanoseconds,
    /// So many a second, made of nanoseconds each; more is better.
    PerSecond(&'static str),
    /// Bytes, less is better.
    Bytes,
    /// A number, less is better.
    Count,
    /// Microseconds, less is better.
    Microseconds,
    /// Per cent, less is better.
    Percent,
}

impl Unit {
    /// The figure as the unit counts it, from the raw one, of which less is better.
    #[must_use]
    pub fn of(self, raw: f64) -> f64 {
        if let Self::PerSecond(_) = self { 1e9 / raw } else { raw }
    }

    /// The number with its unit's magnitude, without the unit's name.
    #[must_use]
    pub fn number(self, raw: f64) -> String {
        let value = self.of(raw);
        match self {
            Self::PerSecond(_) => match value {
                value if value >= 1e6 => format!("{} M", short(value / 1e6)),
                value if value >= 1e3 => format!("{} k", short(value / 1e3)),
                value => short(value),
            },
            Self::Nanoseconds if value >= 1e4 => format!("{} k", short(value / 1e3)),
            Self::Percent => format!("{value:.2}"),
            _ => short(value),
        }
    }

    /// Its name, as in the head of a row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::PerSecond(what) => what,
            Self::Bytes => "bytes",
            Self::Count => "number",
            Self::Microseconds => "us",
            Self::Percent => "%",
        }
    }

    fn reaches(self, raw: f64, bound: f64) -> bool {
        if let Self::PerSecond(_) = self { self.of(raw) >= bound } else { raw <= bound }
    }
}

/// Three digits, or all before the point.
fn short(value: f64) -> String {
    match value.abs() {
        zero if zero < 5e-4 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.2}"),
        small if small < 10.0 => format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        middle if middle < 100.0 => format!("{value:.1}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{value:.0}"),
    }
}

/// What a figure must reach; all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// At least or at most this, in the row's unit.
    pub figure: Option<f64>,
    /// So many times better than the best peer.
    pub peer: Option<f64>,
    /// At most so many times the limit's cost.
    pub limit: Option<f64>,
    /// So many times better than these peers.
    pub named: &'static [(&'static str, f64)],
}

/// What a goal is held against.
#[derive(Clone, Debug, Default)]
pub struct Against {
    /// Our figure, raw.
    pub ours: f64,
    /// How many times better than the best peer, if there is one.
    pub peer: Option<f64>,
    /// How many times the limit's cost, if there is one.
    pub limit: Option<f64>,
    /// How many times better than each peer.
    pub peers: Vec<(&'static str, f64)>,
}

impl Goal {
    /// Whether all parts are reached; `None` when there is no goal, or a part cannot be told.
    #[must_use]
    pub fn met(&self, unit: Unit, against: &Against) -> Option<bool> {
        let mut parts = Vec::new();
        parts.extend(self.figure.map(|bound| Some(unit.reaches(against.ours, bound))));
        parts.extend(self.peer.map(|factor| against.peer.map(|reached| reached >= factor)));
        parts.extend(self.limit.map(|factor| against.limit.map(|cost| cost <= factor)));
        let reached = |name| against.peers.iter().find(|(peer, _)| *peer == name).map(|(_, reached)| *reached);
        parts.extend(self.named.iter().map(|&(name, factor)| reached(name).map(|reached| reached >= factor)));
        if parts.is_empty() {
            return None;
        }
        // One part that is missed decides, even beside one that cannot be told.
        if parts.contains(&Some(false)) {
            Some(false)
        } else {
            parts.into_iter().collect::<Option<Vec<_>>>().map(|_| true)
        }
    }

    /// The goal in words.
    #[must_use]
    pub fn text(&self, unit: Unit) -> String {
        let mut parts = Vec::new();
        if let Some(bound) = self.figure {
            let (sign, raw) = if let Unit::PerSecond(_) = unit { (">=", 1e9 / bound) } else { ("<=", bound) };
            parts.push(if bound == 0.0 { "0".to_owned() } else { format!("{sign} {}", unit.number(raw)) });
        }
        parts.extend(self.peer.map(|factor| format!("{} x peer", short(factor))));
        parts.extend(self.limit.map(|factor| match unit {
            Unit::PerSecond(_) => format!("{} x limit", short(1.0 / factor)),
            _ => format!("{} x limit", short(factor)),
        }));
        parts.extend(self.named.iter().map(|(name, factor)| format!("{} x {name}", short(*factor))));
        if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// How its figures are written.
    pub unit: Unit,
    /// Whose figure is held against the goals: parked shards or spinning ones.
    pub ours: &'static str,
    /// What must hold.
    pub floor: Goal,
    /// What we want.
    pub aim: Goal,
}

const fn goal(figure: f64) -> Goal {
    Goal { figure: Some(figure), ..NONE }
}

const fn goal_x(figure: f64, peer: f64) -> Goal {
    Goal { figure: Some(figure), peer: Some(peer), ..NONE }
}

pub(crate) const fn of_limit(limit: f64) -> Goal {
    Goal { limit: Some(limit), ..NONE }
}

pub(crate) const NONE: Goal = Goal { figure: None, peer: None, limit: None, named: &[] };

/// The row of a work. Works without goals here are shown in nanoseconds.
#[must_use]
pub fn spec(work: Work) -> Spec {
    use Place::{OtherShard, SameShard};
    const MESSAGES: Unit = Unit::PerSecond("messages/s");
    const ACTORS: Unit = Unit::PerSecond("actors/s");
    const ASKS: Unit = Unit::PerSecond("asks/s");
    let (unit, ours, floor, aim) = match work {
        Work::PingPong(SameShard) => (Unit::Nanoseconds, PARKED, goal_x(30.0, 5.0), goal(18.0)),
        Work::Tell(SameShard) => (MESSAGES, PARKED, goal_x(110e6, 5.0), goal(160e6)),
        Work::FanIn => (MESSAGES, PARKED, goal_x(100e6, 4.0), goal(150e6)),
        Work::Ask(SameShard) => (ASKS, PARKED, goal_x(25e6, 4.0), goal(45e6)),
        Work::Big(SameShard) => (MESSAGES, PARKED, goal_x(35e6, 2.5), goal(55e6)),
        Work::SpawnStop => (ACTORS, PARKED, goal(10e6), goal(30e6)),
        Work::Fibonacci => (ACTORS, PARKED, goal(5e6), goal(10e6)),
        Work::IdleMemory => (Unit::Bytes, PARKED, goal(192.0), goal(160.0)),
        Work::TellAllocations | Work::AskAllocations => (Unit::Count, PARKED, goal(0.0), goal(0.0)),
        Work::TickLateness => (Unit::Microseconds, SPINNING, goal(1000.0), goal(250.0)),
        Work::TickMissed => (Unit::Count, SPINNING, goal(0.0), goal(0.0)),
        Work::IdleCpu => (Unit::Percent, PARKED, goal(0.5), goal(0.1)),
        Work::PingPong(OtherShard) => (Unit::Nanoseconds, SPINNING, of_limit(1.5), of_limit(1.15)),
        Work::PingPongParked => (Unit::Nanoseconds, PARKED, of_limit(1.15), of_limit(1.05)),
        Work::Tell(OtherShard) => {
            let floor = Goal { peer: Some(2.5), limit: Some(1.0 / 0.3), ..NONE };
            (MESSAGES, SPINNING, floor, of_limit(1.0 / 0.5))
        }
        Work::TellBounced => (Unit::Percent, SPINNING, goal(crate::limits::BOUNCED_MAX), goal(0.0)),
        Work::Ask(OtherShard) => {
            let times = |factor| Goal { peer: Some(factor), ..NONE };
            (ASKS, SPINNING, times(3.5), times(6.0))
        }
        Work::Big(OtherShard) => (MESSAGES, SPINNING, goal_x(40e6, 2.5), goal(60e6)),
        Work::Pairs(1) => (MESSAGES, SPINNING, NONE, NONE),
        // The limit of several shards is as many times what one does.
        Work::Pairs(_) => (MESSAGES, SPINNING, of_limit(1.0 / 0.8), of_limit(1.0 / 0.95)),
        Work::Log(work) => return work.spec(),
        _ => (Unit::Nanoseconds, PARKED, NONE, NONE),
    };
    Spec { unit, ours, floor, aim }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_by_all_of_its_parts() {
        let ping_pong = spec(Work::PingPong(Place::SameShard));
        let met = |ours, peer| ping_pong.floor.met(ping_pong.unit, &Against { ours, peer, ..Against::default() });
        assert_eq!(met(30.0, Some(5.0)), Some(true));
        assert_eq!(met(31.0, Some(5.0)), Some(false));
        assert_eq!(met(30.0, Some(4.9)), Some(false));
        assert_eq!(met(30.0, None), None, "no peer ran");
        assert_eq!(met(31.0, None), Some(false));
        let tell = spec(Work::Tell(Place::SameShard));
        let against = Against { ours: 10.0, peer: Some(9.0), ..Against::default() };
        assert_eq!(tell.floor.met(tell.unit, &against), Some(false), "100 M/s are too few");
        assert_eq!(NONE.met(Unit::Bytes, &against), None);
    }

    #[test]
    fn goals_and_figures_read_well() {
        let tell = spec(Work::Tell(Place::SameShard));
        assert_eq!(tell.floor.text(tell.unit), ">= 110 M, 5 x peer");
        let cross = spec(Work::Tell(Place::OtherShard));
        assert_eq!(cross.floor.text(cross.unit), "2.5 x peer, 0.30 x limit");
        assert_eq!(tell.unit.number(7.25), "138 M");
        assert_eq!(Unit::Nanoseconds.number(48_300.0), "48.3 k");
        assert_eq!(Unit::Nanoseconds.number(12.5), "12.5");
        assert_eq!(Unit::Count.number(0.0), "0");
        assert_eq!(spec(Work::TickMissed).floor.text(Unit::Count), "0");
    }
}
