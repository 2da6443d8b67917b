//! `Area`: one square degree. It records durably who entered and left, and knows who is above it.
//!
//! Where its flights were seen last is no part of the record: it is kept beside the durable state, changes without an event and
//! is forgotten by a restart, after which the next report brings it back.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventSourced};

use super::messages::{Enter, History, Leave, Near, Passage, Seen};
use crate::limits::{AREA_HISTORY_EVENTS, AREA_SNAPSHOT_EVERY, HISTORY_PAGE_EVENTS};

/// A square degree as an actor.
pub type Area = Durable<Square>;

/// Index of a flight in the day, and its copy.
type Flight = (u32, u16);

/// Degrees north and east.
type Place = (f32, f32);

/// The durable state of a square: the fold of its passages.
#[derive(Default)]
pub struct Square {
    /// How many events there were.
    passages: u64,
    /// The last of them.
    recent: VecDeque<Passage>,
    /// Who is above, and where it was seen last, if it was since the start.
    above: RefCell<BTreeMap<Flight, Option<Place>>>,
}

/// A square's state as it is written to the log.
#[wire]
pub struct SquareSnapshot {
    passages: u64,
    recent: Vec<Passage>,
    above: Vec<Aloft>,
}

/// A flight above a square.
#[wire]
pub struct Aloft {
    flight: u32,
    copy: u16,
}

impl EventSourced for Square {
    const TYPE: &'static str = "traffic.area";
    const SNAPSHOT_EVERY: u64 = AREA_SNAPSHOT_EVERY;

    type Event = Passage;
    type Snapshot = SquareSnapshot;

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, passage: &Passage) {
        let flight = (passage.flight, passage.copy);
        if passage.entered {
            self.above.get_mut().insert(flight, None);
        } else {
            self.above.get_mut().remove(&flight);
        }
        self.passages = passage.number;
        if self.recent.len() == AREA_HISTORY_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(*passage);
    }

    fn snapshot(&self) -> Option<SquareSnapshot> {
        Some(SquareSnapshot {
            passages: self.passages,
            recent: self.recent.iter().copied().collect(),
            above: self.above.borrow().keys().map(|&(flight, copy)| Aloft { flight, copy }).collect(),
        })
    }

    fn restore(&mut self, snapshot: SquareSnapshot) {
        self.passages = snapshot.passages;
        self.recent = snapshot.recent.into();
        *self.above.get_mut() = snapshot.above.iter().map(|aloft| ((aloft.flight, aloft.copy), None)).collect();
    }
}

impl Square {
    fn record(&self, flight: Flight, step: u16, entered: bool) -> Effect<Self, u64> {
        let number = self.passages + 1;
        Effect::persist(Passage { number, flight: flight.0, copy: flight.1, step, entered }).reply(number)
    }

    fn see(&self, flight: Flight, place: Place) {
        if let Some(seen) = self.above.borrow_mut().get_mut(&flight) {
            *seen = Some(place);
        }
    }
}

impl CommandHandler<Enter> for Square {
    fn handle(&self, enter: Enter, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        self.record((enter.flight, enter.copy), enter.step, true)
    }
}

impl CommandHandler<Leave> for Square {
    fn handle(&self, leave: Leave, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        self.record((leave.flight, leave.copy), leave.step, false)
    }
}

impl CommandHandler<Seen> for Square {
    fn handle(&self, seen: Seen, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        self.see((seen.flight, seen.copy), (seen.latitude, seen.longitude));
        Effect::none()
    }
}

impl CommandHandler<Near> for Square {
    fn handle(&self, near: Near, _cx: &CommandContext<'_, Self>) -> Effect<Self, u32> {
        let close = |a: f32, b: f32| (a - b).abs() <= 0.5;
        let is_near = |(north, east): Place| close(north, near.latitude) && close(east, near.longitude);
        // One that was not seen since it entered is somewhere in the square.
        let count = self.above.borrow().values().filter(|place| place.is_none_or(is_near)).count();
        Effect::none().reply(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

impl CommandHandler<History> for Square {
    fn handle(&self, history: History, _cx: &CommandContext<'_, Self>) -> Effect<Self, Vec<Passage>> {
        let later = self.recent.iter().filter(|passage| passage.number > history.after);
        Effect::none().reply(later.take(HISTORY_PAGE_EVENTS).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(number: u64, flight: u32, entered: bool) -> Passage {
        Passage { number, flight, copy: 0, step: 1, entered }
    }

    #[test]
    fn a_snapshot_holds_what_the_events_made() {
        let mut square = Square::new("x");
        for event in [passage(1, 7, true), passage(2, 8, true), passage(3, 7, false)] {
            square.apply(&event);
        }
        let mut restored = Square::new("x");
        restored.restore(square.snapshot().expect("squares have snapshots"));
        assert_eq!(restored.passages, 3);
        assert_eq!(restored.recent, square.recent);
        assert_eq!(restored.above.borrow().keys().copied().collect::<Vec<_>>(), [(8, 0)]);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut square = Square::new("x");
        for number in 1..=AREA_HISTORY_EVENTS as u64 + 5 {
            square.apply(&passage(number, 1, number % 2 == 1));
        }
        assert_eq!(square.recent.len(), AREA_HISTORY_EVENTS);
        assert_eq!(square.recent.front().map(|first| first.number), Some(6));
    }

    #[test]
    fn only_flights_above_are_seen() {
        let mut square = Square::new("x");
        square.apply(&passage(1, 7, true));
        square.see((7, 0), (40.0, -74.0));
        square.see((9, 0), (40.0, -74.0));
        assert_eq!(square.above.borrow().get(&(7, 0)), Some(&Some((40.0, -74.0))));
        assert_eq!(square.above.borrow().len(), 1);
    }
}
