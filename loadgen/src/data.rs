//! One real day of departures: 16,663 flights between 222 airports, compiled into the binary.
//!
//! The records hold departures, not positions. Arrival times and positions are made from the great circle between the two
//! airports, at 450 miles an hour plus 0.4 hours; whoever prints them says so. Source: `data/README.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use crate::geo::{GreatCircle, Position};
use crate::limits::{CRUISE_MPH, GROUND_H};

static AIRPORTS_CSV: &[u8] = include_bytes!("../data/airports.csv");
static FLIGHTS_CSV_GZ: &[u8] = include_bytes!("../data/flights-2001-01-10.csv.gz");

/// Why the data could not be read: the files were changed, since they are part of the binary.
#[derive(Debug)]
pub struct DataError {
    /// Which file, and where in it.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flight data, {}: {}", self.place, self.reason)
    }
}

impl std::error::Error for DataError {}

/// An airport.
#[derive(Clone, Debug)]
pub struct Airport {
    /// Three-letter code.
    pub iata: String,
    /// Where it lies.
    pub position: Position,
    utc_offset_minutes: i32,
}

/// A flight of the day.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Departure, minutes after midnight UTC of 10 January 2001; may lie on the next day.
    pub departure_utc_minute: i32,
    /// Index of the airport it comes from.
    pub origin: u16,
    /// Index of the airport it goes to.
    pub destination: u16,
    /// The way between the two.
    pub way: GreatCircle,
    /// Time from departure to arrival, seconds, from the length of the way.
    pub duration_s: f64,
}

/// The whole day.
#[derive(Debug)]
pub struct Day {
    /// All airports, by code.
    pub airports: Vec<Airport>,
    /// All flights, by UTC departure.
    pub flights: Vec<Flight>,
}

impl Day {
    /// Reads the files that are part of the binary; takes about 10 ms.
    ///
    /// # Errors
    /// Names the row that does not fit.
    pub fn load() -> Result<Self, DataError> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(FLIGHTS_CSV_GZ)
            .read_to_end(&mut text)
            .map_err(|error| DataError { place: "flights".to_owned(), reason: error.to_string() })?;
        Self::parse(AIRPORTS_CSV, &text)
    }

    fn parse(airports_csv: &[u8], flights_csv: &[u8]) -> Result<Self, DataError> {
        let mut airports = Vec::new();
        let mut by_code = BTreeMap::new();
        for row in Rows::new("airports", airports_csv)? {
            let row = row?;
            let position = Position { latitude: row.number("latitude")?, longitude: row.number("longitude")? };
            let iata = row.text("iata")?.to_owned();
            by_code.insert(iata.clone(), airports.len());
            airports.push(Airport { iata, position, utc_offset_minutes: row.number("utc_offset_minutes")? });
        }
        let mut flights = Vec::new();
        for row in Rows::new("flights", flights_csv)? {
            let row = row?;
            let index = |column| {
                let code = row.text(column)?;
                by_code.get(code).copied().ok_or_else(|| row.error(format!("{code} is no known airport")))
            };
            let (origin, destination) = (index("origin")?, index("destination")?);
            let (from, to) = (&airports[origin], &airports[destination]);
            let way = GreatCircle::new(from.position, to.position);
            let local: i32 = row.number("departure_minute")?;
            flights.push(Flight {
                departure_utc_minute: local - from.utc_offset_minutes,
                origin: u16::try_from(origin).map_err(|_| row.error("too many airports".to_owned()))?,
                destination: u16::try_from(destination).map_err(|_| row.error("too many airports".to_owned()))?,
                way,
                duration_s: (way.miles() / CRUISE_MPH + GROUND_H) * 3600.0,
            });
        }
        flights.sort_by_key(|flight| flight.departure_utc_minute);
        Ok(Self { airports, flights })
    }
}

/// The rows of one CSV file, with errors that say where.
struct Rows<'a> {
    file: &'static str,
    columns: csv::StringRecord,
    records: csv::StringRecordsIntoIter<&'a [u8]>,
}

impl<'a> Rows<'a> {
    fn new(file: &'static str, text: &'a [u8]) -> Result<Self, DataError> {
        let mut reader = csv::Reader::from_reader(text);
        let columns =
            reader.headers().map_err(|error| DataError { place: file.to_owned(), reason: error.to_string() })?.clone();
        Ok(Self { file, columns, records: reader.into_records() })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(
            record
                .map(|record| Row { file: self.file, columns: self.columns.clone(), record })
                .map_err(|error| DataError { place: self.file.to_owned(), reason: error.to_string() }),
        )
    }
}

struct Row {
    file: &'static str,
    columns: csv::StringRecord,
    record: csv::StringRecord,
}

impl Row {
    fn error(&self, reason: String) -> DataError {
        let line = self.record.position().map_or(0, csv::Position::line);
        DataError { place: format!("{} line {line}", self.file), reason }
    }

    fn text(&self, column: &str) -> Result<&str, DataError> {
        let index = self.columns.iter().position(|name| name == column);
        index.and_then(|index| self.record.get(index)).ok_or_else(|| self.error(format!("there is no column {column}")))
    }

    fn number<N: std::str::FromStr>(&self, column: &str) -> Result<N, DataError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| self.error(format!("{column} is {text:?}, not a number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_has_its_flights_in_utc_order() {
        let day = Day::load().expect("the files are part of the binary");
        assert_eq!((day.flights.len(), day.airports.len()), (16_663, 222));
        assert!(day.flights.is_sorted_by_key(|flight| flight.departure_utc_minute));
        // 16,663 departures from five time zones: the first leaves just after midnight on the east coast.
        assert_eq!(day.flights[0].departure_utc_minute, 308);
        let hours: f64 = day.flights.iter().map(|flight| flight.duration_s / 3600.0).sum();
        assert!((hours - 33_304.0).abs() < 10.0, "{hours}");
    }

    #[test]
    fn local_departure_becomes_utc() {
        let airports = b"iata,latitude,longitude,utc_offset_minutes\nDEN,39.86,-104.67,-420\nSLC,40.79,-111.98,-420\n";
        let flights = b"departure_minute,origin,destination\n2,DEN,SLC\n";
        let day = Day::parse(airports, flights).expect("well formed");
        assert_eq!(day.flights[0].departure_utc_minute, 422);
        let hours = day.flights[0].duration_s / 3600.0;
        assert!((hours - (390.0 / 450.0 + 0.4)).abs() < 0.02, "{hours}");
    }

    #[test]
    fn a_bad_row_is_named() {
        let airports = b"iata,latitude,longitude,utc_offset_minutes\nDEN,39.86,-104.67,-420\n";
        let why = |flights: &[u8]| Day::parse(airports, flights).expect_err("must be refused").to_string();
        assert_eq!(
            why(b"departure_minute,origin,destination\n2,DEN,XXX\n"),
            "flight data, flights line 2: XXX is no known airport"
        );
        assert!(why(b"departure_minute,origin,destination\nx,DEN,DEN\n").contains("not a number"));
        assert!(why(b"origin,destination\nDEN,DEN\n").contains("no column departure_minute"));
    }
}
