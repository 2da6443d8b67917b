//! `Flight`: takes position reports and tells the square below.
//!
//! Invariant: reports of one flight arrive in order, so the square of the last one is the square it is in.

use std::cell::RefCell;
use std::rc::Rc;

use shardstage::prelude::*;

use super::messages::{Enter, Leave, Mark, Report, Seen, Taken};
use super::{Area, area_key, flight_of, split_key};
use crate::geo::{Position, Square};
use crate::protocol::PhaseName;
use crate::schedule::FlightId;

/// A flight in the air.
pub struct Flight {
    phase: PhaseName,
    id: FlightId,
    above: Option<(Square, VirtualRef<Area>)>,
}

impl Actor for Flight {}

impl VirtualActor for Flight {
    const TYPE: &'static str = "traffic.flight";

    fn activate(key: &str) -> Self {
        let (phase, rest) = split_key(key);
        Self { phase, id: flight_of(rest), above: None }
    }
}

/// A change of squares: answered when every square has recorded its part.
struct Crossing {
    reply: Option<Reply<Taken>>,
    taken: Taken,
    missing: u8,
}

impl Crossing {
    fn part(crossing: &Rc<RefCell<Self>>, mark: Result<Mark, String>, entered: bool) {
        let mut this = crossing.borrow_mut();
        match mark {
            Ok(mark) if entered => this.taken.entered = Some(mark),
            Ok(mark) => this.taken.left = Some(mark),
            Err(why) => this.taken.failed = Some(why),
        }
        this.missing -= 1;
        if this.missing == 0
            && let Some(reply) = this.reply.take()
        {
            reply.send(std::mem::take(&mut this.taken));
        }
    }
}

impl Flight {
    fn cross(&mut self, report: Report, square: Square, reply: Reply<Taken>, cx: &mut Context<Self>) {
        let Report { step, latitude, longitude, landed } = report;
        let FlightId { flight, copy } = self.id;
        let left = self.above.take();
        let missing = u8::from(left.is_some()) + u8::from(!landed);
        if missing == 0 {
            return reply.send(Taken::default());
        }
        let crossing = Rc::new(RefCell::new(Crossing { reply: Some(reply), taken: Taken::default(), missing }));
        let mark = |square: Square, number| Mark { south: square.south, west: square.west, number };
        if let Some((old, area)) = left {
            let crossing = Rc::clone(&crossing);
            cx.ask(&area, Leave { flight, copy, step }).then(move |_, number, _| {
                let left = number.map(|number| mark(old, number)).map_err(|error| error.to_string());
                Crossing::part(&crossing, left, false);
            });
        }
        if !landed {
            let area = cx.actor::<Area>(area_key(self.phase, square));
            cx.ask(&area, Enter { flight, copy, step, latitude, longitude }).then(move |_, number, _| {
                let entered = number.map(|number| mark(square, number)).map_err(|error| error.to_string());
                Crossing::part(&crossing, entered, true);
            });
            self.above = Some((square, area));
        }
    }
}

impl DeferredHandler<Report> for Flight {
    fn handle(&mut self, report: Report, reply: Reply<Taken>, cx: &mut Context<Self>) {
        let Report { landed, latitude, longitude, .. } = report;
        let square = Square::of(Position { latitude: f64::from(latitude), longitude: f64::from(longitude) });
        match &self.above {
            Some((above, area)) if *above == square && !landed => {
                let FlightId { flight, copy } = self.id;
                let told = area.tell(Seen { flight, copy, latitude, longitude });
                let failed = told.err().map(|error| format!("square not told: {error}"));
                reply.send(Taken { failed, ..Taken::default() });
            }
            _ => self.cross(report, square, reply, cx),
        }
    }
}
