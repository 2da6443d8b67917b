//! The schedule of an open-loop phase: which operations leave, in which order, and when each is meant to leave.
//!
//! Invariant: a schedule is fixed before its phase starts and never waits for an answer. Operations are ordered by UTC time
//! of the replayed day; they are paced evenly, so the day runs faster when fewer flights are in the air.
//!
//! Every flight belongs to one generator (by flight and copy), so the reports of a flight keep their order.

use crate::data::Day;
use crate::geo::{GreatCircle, Position, Square};
use crate::limits::{BOARD_EVERY, COPY_SHIFT_S, REPORT_INTERVAL_MIN_S};

/// What an operation is, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A position report inside the square of the report before it.
    Report,
    /// A position report that enters a square, leaves one, or both: its answer waits for durable events.
    Cross,
    /// A question to an airport's board.
    Board,
}

impl Kind {
    /// All of them, by index.
    pub const ALL: [Self; 3] = [Self::Report, Self::Cross, Self::Board];

    /// As printed and sent over the pipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Cross => "enter/leave",
            Self::Board => "board",
        }
    }
}

/// A time-shifted copy of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId {
    /// Index of the flight in the day.
    pub flight: u32,
    /// 0 for the flight itself.
    pub copy: u16,
}

/// One operation of the schedule.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// A flight reports where it is.
    Report {
        /// Which flight.
        id: FlightId,
        /// Number of the report in the flight, from 0.
        step: u16,
        /// Whether this is its last report, at the destination.
        landed: bool,
        /// Whether the square differs from that of the report before, or the flight starts or ends.
        crosses: bool,
        /// Interpolated degrees north.
        latitude: f32,
        /// Interpolated degrees east.
        longitude: f32,
    },
    /// Who is near this airport?
    Board {
        /// Index of the airport.
        airport: u16,
    },
}

impl Operation {
    /// Its kind, for counting.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Report { crosses: true, .. } => Kind::Cross,
            Self::Report { .. } => Kind::Report,
            Self::Board { .. } => Kind::Board,
        }
    }
}

/// Which part of the flights one generator has.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// This generator.
    pub index: usize,
    /// All generators.
    pub of: usize,
}

impl Share {
    fn has(self, flight: usize, copy: u64) -> bool {
        (flight + copy as usize) % self.of == self.index
    }
}

/// How densely the day is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Density {
    /// Simulated seconds between two reports of one flight.
    pub interval_s: f64,
    /// How often each flight flies, shifted in time.
    pub copies: u64,
    /// Only every n-th flight flies; 1 unless the rate is too low for all.
    pub every: usize,
}

/// With fewer reports than this a flight would jump over squares: then fewer flights fly.
const REPORTS_PER_FLIGHT_MIN: u64 = 8;

impl Density {
    /// The density that spreads about `operations` over the whole day.
    #[must_use]
    pub fn for_operations(day: &Day, operations: u64) -> Self {
        let reports = operations - operations / BOARD_EVERY;
        let flights = day.flights.len() as u64;
        let seconds: f64 = day.flights.iter().map(|flight| flight.duration_s).sum();
        let wanted = (reports / REPORTS_PER_FLIGHT_MIN).max(1);
        if wanted < flights {
            let every = flights.div_ceil(wanted);
            let flying = flights.div_ceil(every);
            let inner = reports.saturating_sub(flying).max(1) as f64;
            return Self { interval_s: seconds / every as f64 / inner, copies: 1, every: every as usize };
        }
        // Each flight has one report more than it has intervals.
        let densest = (seconds / REPORT_INTERVAL_MIN_S) as u64 + flights;
        let copies = reports.div_ceil(densest);
        let inner = (reports - copies * flights).max(1) as f64;
        Self { interval_s: copies as f64 * seconds / inner, copies, every: 1 }
    }
}

/// The operations of one generator in one phase, in UTC order.
#[derive(Debug)]
pub struct Plan {
    operations: Vec<Operation>,
    /// How many flights (copies included) it holds.
    pub flights: u64,
}

impl Plan {
    /// Lays out the day from `from_utc_s` (seconds after midnight) on. About 200 ns an operation.
    #[must_use]
    pub fn new(day: &Day, share: Share, density: Density, from_utc_s: f64) -> Self {
        let mut timed: Vec<(f64, Operation, u16)> = Vec::new();
        let mut flights = 0;
        for (index, flight) in day.flights.iter().enumerate().step_by(density.every) {
            for copy in (0..density.copies).filter(|copy| share.has(index / density.every, *copy)) {
                // Spread over the minute, so that flights of one minute do not report in step.
                let second = (index * 37 % 60) as f64;
                let departure_s = f64::from(flight.departure_utc_minute) * 60.0 + second + copy as f64 * COPY_SHIFT_S;
                let id = FlightId { flight: index as u32, copy: copy as u16 };
                let before = timed.len();
                let reports = Reports { id, way: flight.way, duration_s: flight.duration_s, departure_s, density };
                reports.lay_out(from_utc_s, |at_s, report| timed.push((at_s, report, flight.destination)));
                flights += u64::from(timed.len() > before);
            }
        }
        // Stable: reports of one moment stay in the order of the flights.
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut operations = Vec::with_capacity(timed.len() + timed.len() / 16);
        for (_, report, destination) in timed {
            operations.push(report);
            if operations.len() as u64 % BOARD_EVERY == BOARD_EVERY - 1 {
                operations.push(Operation::Board { airport: destination });
            }
        }
        Self { operations, flights }
    }

    /// In order.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

/// One flight's reports.
struct Reports {
    id: FlightId,
    way: GreatCircle,
    duration_s: f64,
    departure_s: f64,
    density: Density,
}

impl Reports {
    fn lay_out(&self, from_utc_s: f64, mut each: impl FnMut(f64, Operation)) {
        let steps = (self.duration_s / self.density.interval_s).round().clamp(1.0, f64::from(u16::MAX)) as u16;
        let mut previous = None;
        for step in 0..=steps {
            let fraction = f64::from(step) / f64::from(steps);
            let at_s = self.departure_s + fraction * self.duration_s;
            if at_s < from_utc_s {
                continue;
            }
            let position = self.way.at(fraction);
            // What travels is rounded to 32 bits; the square is taken from what travels.
            let (latitude, longitude) = (position.latitude as f32, position.longitude as f32);
            let square = Square::of(Position { latitude: f64::from(latitude), longitude: f64::from(longitude) });
            let landed = step == steps;
            let crosses = landed || previous != Some(square);
            previous = Some(square);
            each(at_s, Operation::Report { id: self.id, step, landed, crosses, latitude, longitude });
        }
    }
}

/// When each operation is meant to leave.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Start of the phase on the monotonic clock, nanoseconds.
    pub start_ns: u64,
    /// Operations a second of this generator.
    pub rate: f64,
}

impl Pace {
    /// The intended send time of operation `index`.
    #[must_use]
    pub fn intended_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * 1e9 / self.rate) as u64
    }

    /// How many operations are meant to leave within `duration_ns`.
    #[must_use]
    pub fn count(&self, duration_ns: u64) -> u64 {
        (duration_ns as f64 * self.rate / 1e9).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn day() -> Day {
        Day::load().expect("the files are part of the binary")
    }

    fn plan_all(day: &Day, operations: u64) -> (Density, [Plan; 2]) {
        let density = Density::for_operations(day, operations);
        (density, [0, 1].map(|index| Plan::new(day, Share { index, of: 2 }, density, 0.0)))
    }

    #[test]
    fn the_plan_has_about_as_many_operations_as_asked_for() {
        let day = day();
        for operations in [20_000, 200_000, 1_000_000, 4_000_000] {
            let (density, plans) = plan_all(&day, operations);
            let planned: usize = plans.iter().map(|plan| plan.operations().len()).sum();
            let ratio = planned as f64 / operations as f64;
            assert!((0.97..1.03).contains(&ratio), "{operations}: {planned} with {density:?}");
        }
    }

    #[test]
    fn every_flight_of_the_day_flies_when_the_rate_allows_it_and_copies_when_it_needs_them() {
        let day = day();
        let (density, plans) = plan_all(&day, 600_000);
        assert_eq!((density.copies, density.every), (1, 1));
        assert_eq!(plans.iter().map(|plan| plan.flights).sum::<u64>(), 16_663);
        let (density, plans) = plan_all(&day, 5_000_000);
        assert_eq!(density.copies, 3);
        assert!(density.interval_s >= REPORT_INTERVAL_MIN_S);
        assert_eq!(plans.iter().map(|plan| plan.flights).sum::<u64>(), 3 * 16_663);
        let (density, plans) = plan_all(&day, 20_000);
        assert!(density.every > 1 && plans.iter().map(|plan| plan.flights).sum::<u64>() < 16_663);
    }

    #[test]
    fn a_flight_belongs_to_one_generator_and_its_reports_are_in_order() {
        let day = day();
        let (_, plans) = plan_all(&day, 300_000);
        let mut owner = BTreeMap::new();
        for (generator, plan) in plans.iter().enumerate() {
            let mut next = BTreeMap::new();
            for operation in plan.operations() {
                let Operation::Report { id, step, landed, .. } = *operation else {
                    continue;
                };
                assert_eq!(*owner.entry(id).or_insert(generator), generator);
                let expected = next.entry(id).or_insert(Some(0));
                assert_eq!(*expected, Some(step), "{id:?}");
                *expected = (!landed).then_some(step + 1);
            }
            assert!(next.values().all(Option::is_none), "every flight lands");
        }
    }

    #[test]
    fn first_report_and_landing_cross_and_a_report_in_the_same_square_does_not() {
        let day = day();
        let (_, plans) = plan_all(&day, 1_000_000);
        let mut squares = BTreeMap::new();
        let mut kinds = [0_u64; 3];
        for operation in plans[0].operations() {
            kinds[operation.kind() as usize] += 1;
            let Operation::Report { id, landed, crosses, latitude, longitude, .. } = *operation else {
                continue;
            };
            let square = Square::of(Position { latitude: f64::from(latitude), longitude: f64::from(longitude) });
            let before = squares.insert(id, square);
            assert_eq!(crosses, landed || before != Some(square));
        }
        assert!(kinds.iter().all(|count| *count > 10_000), "{kinds:?}");
        let boards = kinds[2] as f64 / kinds.iter().sum::<u64>() as f64;
        assert!((boards - 0.05).abs() < 0.001, "{boards}");
    }

    #[test]
    fn a_late_start_skips_what_flew_before() {
        let day = day();
        let density = Density { interval_s: 120.0, copies: 1, every: 1 };
        let all = Plan::new(&day, Share { index: 0, of: 1 }, density, 0.0);
        let late = Plan::new(&day, Share { index: 0, of: 1 }, density, 17.0 * 3600.0);
        assert!(late.operations().len() < all.operations().len() * 3 / 4);
        assert!(late.operations().len() > all.operations().len() / 4);
    }

    #[test]
    fn the_pace_is_even() {
        let pace = Pace { start_ns: 1_000, rate: 2_500.0 };
        let times: Vec<u64> = (0..6).map(|index| pace.intended_ns(index)).collect();
        assert_eq!(times, [1_000, 401_000, 801_000, 1_201_000, 1_601_000, 2_001_000]);
        assert_eq!(pace.count(1_000_000_000), 2_500);
        assert!(pace.intended_ns(2_499) < 1_000 + 1_000_000_000);
    }
}
