//! `Traffic`: the client side of the model. Turns operations of the schedule into asks of flights and boards.

use std::collections::BTreeMap;

use shardstage::{Engine, VirtualRef};

use crate::data::Day;
use crate::generator::{Client, Outcome};
use crate::geo::Square;
use crate::in_flight::Pending;
use crate::ledger::AreaEvent;
use crate::model::messages::{Mark, Report, Show};
use crate::model::{Board, Flight, board_key, flight_key};
use crate::protocol::PhaseName;
use crate::schedule::{FlightId, Operation};

/// Sends the operations of one phase through one engine.
pub struct Traffic<'a> {
    engine: &'a Engine,
    day: &'a Day,
    phase: PhaseName,
    /// Flights in the air, so that a key is written once a flight.
    flights: BTreeMap<FlightId, VirtualRef<Flight>>,
    boards: Vec<VirtualRef<Board>>,
}

impl<'a> Traffic<'a> {
    /// For one phase.
    #[must_use]
    pub fn new(engine: &'a Engine, day: &'a Day, phase: PhaseName) -> Self {
        let boards = day.airports.iter().map(|airport| engine.actor(board_key(phase, &airport.iata))).collect();
        Self { engine, day, phase, flights: BTreeMap::new(), boards }
    }
}

impl Client for Traffic<'_> {
    fn send(&mut self, operation: &Operation) -> Pending<Outcome> {
        match *operation {
            Operation::Report { id, step, landed, latitude, longitude, .. } => {
                let (engine, phase) = (self.engine, self.phase);
                let flight = self.flights.entry(id).or_insert_with(|| engine.actor(flight_key(phase, id)));
                let report = flight.ask(Report { step, landed, latitude, longitude });
                if landed {
                    self.flights.remove(&id);
                }
                Box::pin(async move {
                    let taken = match report.await {
                        Ok(taken) => taken,
                        Err(error) => return Outcome::Failed(error.to_string()),
                    };
                    if let Some(why) = taken.failed {
                        return Outcome::Failed(why);
                    }
                    let event = |mark: Mark, entered| AreaEvent {
                        square: Square { south: mark.south, west: mark.west },
                        number: mark.number,
                        id,
                        step,
                        entered,
                    };
                    Outcome::Done([
                        taken.left.map(|mark| event(mark, false)),
                        taken.entered.map(|mark| event(mark, true)),
                    ])
                })
            }
            Operation::Board { airport } => {
                let position = self.day.airports[usize::from(airport)].position;
                let show = Show { latitude: position.latitude as f32, longitude: position.longitude as f32 };
                let shown = self.boards[usize::from(airport)].ask(show);
                Box::pin(async move {
                    match shown.await {
                        Ok(Ok(_near)) => Outcome::Done([None, None]),
                        Ok(Err(why)) => Outcome::Failed(why),
                        Err(error) => Outcome::Failed(error.to_string()),
                    }
                })
            }
        }
    }
}
