//! The outside ledger: every durable event that was acknowledged to a generator, kept by a process that is never killed.
//!
//! Invariant: an entry is made from an answer that a node really gave, and is never changed. After the kill each square is
//! asked for its events, and [`Ledger::check`] holds them against the entries: there, once, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::geo::Square;
use crate::schedule::FlightId;

/// A flight entered or left a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AreaEvent {
    /// Where.
    pub square: Square,
    /// Position in the square's own history, from 1, without gaps.
    pub number: u64,
    /// Who.
    pub id: FlightId,
    /// Which of its reports did it.
    pub step: u16,
    /// Entered; otherwise left.
    pub entered: bool,
}

impl fmt::Display for AreaEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.entered { "enter" } else { "leave" };
        write!(
            f,
            "{} {} {} {} {} {} {verb}",
            self.square.south, self.square.west, self.number, self.id.flight, self.id.copy, self.step
        )
    }
}

/// The text was no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnEvent;

impl FromStr for AreaEvent {
    type Err = NotAnEvent;

    fn from_str(text: &str) -> Result<Self, NotAnEvent> {
        fn number<N: FromStr>(word: &str) -> Result<N, NotAnEvent> {
            word.parse().map_err(|_| NotAnEvent)
        }
        let words: Vec<&str> = text.split(' ').collect();
        let [south, west, place, flight, copy, step, verb] = words[..] else {
            return Err(NotAnEvent);
        };
        Ok(Self {
            square: Square { south: number(south)?, west: number(west)? },
            number: number(place)?,
            id: FlightId { flight: number(flight)?, copy: number(copy)? },
            step: number(step)?,
            entered: match verb {
                "enter" => true,
                "leave" => false,
                _ => return Err(NotAnEvent),
            },
        })
    }
}

/// How a square's history contradicts the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// An acknowledged event is not at its place.
    Lost(AreaEvent),
    /// Another event stands at an acknowledged event's place.
    Replaced {
        /// What was acknowledged.
        acked: AreaEvent,
        /// What stands there.
        found: AreaEvent,
    },
    /// The same event stands in the history twice.
    Twice(AreaEvent),
    /// The history is not numbered 1, 2, 3, ...
    Gap {
        /// The first event after the gap.
        found: AreaEvent,
        /// The number it should have.
        expected: u64,
    },
    /// A generator was given two answers that claim one place.
    AckedTwice(AreaEvent),
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(event) => write!(f, "acknowledged, but lost: {event}"),
            Self::Replaced { acked, found } => {
                write!(f, "acknowledged: {acked}, but found in its place: {found}")
            }
            Self::Twice(event) => write!(f, "recorded twice: {event}"),
            Self::Gap { found, expected } => {
                write!(f, "expected number {expected}, found: {found}")
            }
            Self::AckedTwice(event) => write!(f, "two acknowledgements for one place: {event}"),
        }
    }
}

/// Acknowledged events by square and number.
#[derive(Debug, Default)]
pub struct Ledger {
    squares: BTreeMap<Square, BTreeMap<u64, AreaEvent>>,
    breaches: Vec<Breach>,
    entries: u64,
}

impl Ledger {
    /// Takes an acknowledgement in.
    pub fn acked(&mut self, event: AreaEvent) {
        self.entries += 1;
        if self.squares.entry(event.square).or_default().insert(event.number, event).is_some() {
            self.breaches.push(Breach::AckedTwice(event));
        }
    }

    /// How many acknowledgements it holds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// All squares with an acknowledged event.
    pub fn squares(&self) -> impl Iterator<Item = Square> {
        self.squares.keys().copied()
    }

    /// Holds the histories of all squares (each in the order that the square gave) against the entries.
    #[must_use]
    pub fn check(&self, histories: &BTreeMap<Square, Vec<AreaEvent>>) -> Vec<Breach> {
        let mut breaches = self.breaches.clone();
        for (square, acked) in &self.squares {
            let history = histories.get(square).map_or(&[][..], Vec::as_slice);
            let mut seen = BTreeSet::new();
            for (expected, event) in (1..).zip(history) {
                if event.number != expected {
                    breaches.push(Breach::Gap { found: *event, expected });
                    break;
                }
                if !seen.insert((event.id, event.step, event.entered)) {
                    breaches.push(Breach::Twice(*event));
                }
            }
            for event in acked.values() {
                match history.get(event.number as usize - 1) {
                    Some(found) if found == event => {}
                    Some(found) => breaches.push(Breach::Replaced { acked: *event, found: *found }),
                    None => breaches.push(Breach::Lost(*event)),
                }
            }
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: Square = Square { south: 40, west: -74 };

    fn event(number: u64, flight: u32) -> AreaEvent {
        AreaEvent { square: SQUARE, number, id: FlightId { flight, copy: 0 }, step: 3, entered: true }
    }

    fn breaches(acked: &[AreaEvent], history: &[AreaEvent]) -> Vec<Breach> {
        let mut ledger = Ledger::default();
        acked.iter().for_each(|event| ledger.acked(*event));
        ledger.check(&BTreeMap::from([(SQUARE, history.to_vec())]))
    }

    #[test]
    fn an_event_survives_the_pipe() {
        let event = AreaEvent { entered: false, ..event(7, 16_000) };
        assert_eq!(event.to_string(), "40 -74 7 16000 0 3 leave");
        assert_eq!(event.to_string().parse(), Ok(event));
        assert_eq!("40 -74 7".parse::<AreaEvent>(), Err(NotAnEvent));
    }

    #[test]
    fn events_without_an_answer_may_be_there() {
        assert_eq!(breaches(&[event(2, 20)], &[event(1, 10), event(2, 20), event(3, 30)]), []);
    }

    #[test]
    fn each_breach_is_found() {
        let (one, two) = (event(1, 10), event(2, 20));
        assert_eq!(breaches(&[one, two], &[one]), [Breach::Lost(two)]);
        assert_eq!(breaches(&[one], &[event(1, 99)]), [Breach::Replaced { acked: one, found: event(1, 99) }]);
        assert_eq!(breaches(&[one], &[one, event(2, 10)]), [Breach::Twice(event(2, 10))]);
        assert_eq!(breaches(&[one], &[one, event(3, 30)]), [Breach::Gap { found: event(3, 30), expected: 2 }]);
        assert_eq!(breaches(&[one, one], &[one]), [Breach::AckedTwice(one)]);
        let swapped = [event(1, 20), event(2, 10)];
        assert_eq!(breaches(&[one, two], &swapped).len(), 2, "order counts");
    }
}
