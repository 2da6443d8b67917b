//! What the actors say to each other. All of it may cross nodes.

#![allow(missing_docs, reason = "the wire derive writes items that cannot carry docs")]

use shardstage::prelude::*;

/// A flight says where it is.
#[message(id = "traffic.report", reply = Taken)]
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Number of the report in the flight, from 0.
    pub step: u16,
    /// Whether this is the last one.
    pub landed: bool,
    /// Degrees north.
    pub latitude: f32,
    /// Degrees east.
    pub longitude: f32,
}

/// The report was taken, and this became durable through it.
#[wire]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// The flight left this square.
    pub left: Option<Mark>,
    /// The flight entered this square.
    pub entered: Option<Mark>,
    /// What did not work.
    pub failed: Option<String>,
}

/// An event's place in the history of a square.
#[wire]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// South-west corner, degrees north.
    pub south: i16,
    /// South-west corner, degrees east.
    pub west: i16,
    /// From 1, without gaps.
    pub number: u64,
}

/// A flight is above the square now. Answers the event's number once the event is durable.
#[message(id = "traffic.enter", reply = u64)]
#[derive(Clone, Copy, Debug)]
pub struct Enter {
    /// Index of the flight in the day.
    pub flight: u32,
    /// Its copy.
    pub copy: u16,
    /// Which of its reports says so.
    pub step: u16,
    /// Degrees north.
    pub latitude: f32,
    /// Degrees east.
    pub longitude: f32,
}

/// A flight is no longer above the square. Answers the event's number once the event is durable.
#[message(id = "traffic.leave", reply = u64)]
#[derive(Clone, Copy, Debug)]
pub struct Leave {
    /// Index of the flight in the day.
    pub flight: u32,
    /// Its copy.
    pub copy: u16,
    /// Which of its reports says so.
    pub step: u16,
}

/// A flight is still above the square, here.
#[message(id = "traffic.seen")]
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Index of the flight in the day.
    pub flight: u32,
    /// Its copy.
    pub copy: u16,
    /// Degrees north.
    pub latitude: f32,
    /// Degrees east.
    pub longitude: f32,
}

/// How many flights are above the square?
#[message(id = "traffic.near", reply = u32)]
#[derive(Clone, Copy, Debug)]
pub struct Near {
    /// Degrees north of the place that asks.
    pub latitude: f32,
    /// Degrees east of it.
    pub longitude: f32,
}

/// How many flights are near the airport? Answers the count, or what did not work.
#[message(id = "traffic.show", reply = Result<u32, String>)]
#[derive(Clone, Copy, Debug)]
pub struct Show {
    /// The airport's degrees north.
    pub latitude: f32,
    /// The airport's degrees east.
    pub longitude: f32,
}

/// The events of a square after number `after`, a page at a time.
#[message(id = "traffic.history", reply = Vec<Passage>)]
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// 0 for the first page.
    pub after: u64,
}

/// A flight entered or left a square: the event that a square persists.
#[wire(id = "traffic.passage")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passage {
    /// From 1, without gaps.
    pub number: u64,
    /// Index of the flight in the day.
    pub flight: u32,
    /// Its copy.
    pub copy: u16,
    /// Which of its reports did it.
    pub step: u16,
    /// Entered; otherwise left.
    pub entered: bool,
}
