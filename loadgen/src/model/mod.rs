//! The actors of the replay: flights tell the squares below them, squares remember who enters and leaves, boards ask squares.
//!
//! Keys begin with the phase: `main/flight/1234.0`, `main/square/40,-74`, `main/board/JFK`. A key decides where its actor
//! lives, so a flight and the square below it are usually on different shards, and half of the time on different nodes.

mod area;
mod board;
mod flight;
pub mod messages;

pub use area::{Aloft, Area, Square as AreaState, SquareSnapshot};
pub use board::Board;
pub use flight::Flight;

use shardstage::EngineBuilder;

use crate::geo::Square;
use crate::limits::FLIGHT_IDLE;
use crate::protocol::PhaseName;
use crate::schedule::FlightId;

/// Hosts the three types, and says which messages each takes from other nodes.
#[must_use]
pub fn register(engine: EngineBuilder) -> EngineBuilder {
    use messages::{Enter, History, Leave, Near, Report, Seen, Show};
    engine
        .register::<Flight>(|flight| flight.idle_timeout(FLIGHT_IDLE).accept::<Report, _>())
        .register::<Area>(|area| {
            area.accept::<Enter, _>()
                .accept::<Leave, _>()
                .accept::<Seen, _>()
                .accept::<Near, _>()
                .accept::<History, _>()
        })
        .register::<Board>(|board| board.accept::<Show, _>())
}

/// The key of a flight.
#[must_use]
pub fn flight_key(phase: PhaseName, id: FlightId) -> String {
    format!("{}/flight/{}.{}", phase.name(), id.flight, id.copy)
}

/// The key of a square.
#[must_use]
pub fn area_key(phase: PhaseName, square: Square) -> String {
    format!("{}/square/{},{}", phase.name(), square.south, square.west)
}

/// The key of an airport's board.
#[must_use]
pub fn board_key(phase: PhaseName, iata: &str) -> String {
    format!("{}/board/{iata}", phase.name())
}

/// The phase of a key, and what follows the kind.
fn split_key(key: &str) -> (PhaseName, &str) {
    let mut parts = key.splitn(3, '/');
    let phase = parts.next().unwrap_or_default();
    let phase = PhaseName::ALL.into_iter().find(|name| name.name() == phase).unwrap_or(PhaseName::Main);
    (phase, parts.nth(1).unwrap_or_default())
}

fn flight_of(rest: &str) -> FlightId {
    let (flight, copy) = rest.split_once('.').unwrap_or((rest, "0"));
    FlightId { flight: flight.parse().unwrap_or_default(), copy: copy.parse().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_phase_and_actor() {
        let id = FlightId { flight: 1234, copy: 2 };
        let key = flight_key(PhaseName::Kill, id);
        assert_eq!(key, "kill/flight/1234.2");
        let (phase, rest) = split_key(&key);
        assert_eq!((phase, flight_of(rest)), (PhaseName::Kill, id));
        assert_eq!(area_key(PhaseName::Main, Square { south: 40, west: -74 }), "main/square/40,-74");
        assert_eq!(split_key(&board_key(PhaseName::Search, "JFK")), (PhaseName::Search, "JFK"));
    }
}
