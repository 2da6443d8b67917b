//! `Area`: one square degree. It knows who is above it and remembers who entered and left.

use std::collections::{BTreeMap, VecDeque};

use shardstage::prelude::*;

use super::messages::{Enter, History, Leave, Near, Passage, Seen};
use crate::limits::{AREA_HISTORY_EVENTS, HISTORY_PAGE_EVENTS};

/// A square degree.
#[derive(Default)]
pub struct Area {
    /// Who is above, and where it was seen last.
    above: BTreeMap<(u32, u16), (f32, f32)>,
    events: u64,
    recent: VecDeque<Passage>,
}

impl Actor for Area {}

impl VirtualActor for Area {
    const TYPE: &'static str = "traffic.area";

    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

impl Area {
    fn record(&mut self, flight: u32, copy: u16, step: u16, entered: bool) -> u64 {
        self.events += 1;
        if self.recent.len() == AREA_HISTORY_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(Passage { number: self.events, flight, copy, step, entered });
        self.events
    }
}

impl Handler<Enter> for Area {
    fn handle(&mut self, enter: Enter, _cx: &mut Context<Self>) -> u64 {
        self.above.insert((enter.flight, enter.copy), (enter.latitude, enter.longitude));
        self.record(enter.flight, enter.copy, enter.step, true)
    }
}

impl Handler<Leave> for Area {
    fn handle(&mut self, leave: Leave, _cx: &mut Context<Self>) -> u64 {
        self.above.remove(&(leave.flight, leave.copy));
        self.record(leave.flight, leave.copy, leave.step, false)
    }
}

impl Handler<Seen> for Area {
    fn handle(&mut self, seen: Seen, _cx: &mut Context<Self>) {
        if let Some(position) = self.above.get_mut(&(seen.flight, seen.copy)) {
            *position = (seen.latitude, seen.longitude);
        }
    }
}

impl Handler<Near> for Area {
    fn handle(&mut self, near: Near, _cx: &mut Context<Self>) -> u32 {
        let close = |a: f32, b: f32| (a - b).abs() <= 0.5;
        let count =
            self.above.values().filter(|(north, east)| close(*north, near.latitude) && close(*east, near.longitude));
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    }
}

impl Handler<History> for Area {
    fn handle(&mut self, history: History, _cx: &mut Context<Self>) -> Vec<Passage> {
        self.recent
            .iter()
            .filter(|passage| passage.number > history.after)
            .take(HISTORY_PAGE_EVENTS)
            .copied()
            .collect()
    }
}
