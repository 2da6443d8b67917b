//! Positions on the globe: great circles and the grid of one-degree squares.
//!
//! Invariant: a [`Square`] is a pure function of a position, so the generator and the actors always agree on it.

use std::fmt;

/// Mean radius of the earth, miles.
const EARTH_RADIUS_MILES: f64 = 3_958.8;

/// A place, degrees north and east.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

impl Position {
    fn unit(self) -> [f64; 3] {
        let (latitude, longitude) = (self.latitude.to_radians(), self.longitude.to_radians());
        [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
    }
}

/// The shortest way between two places.
#[derive(Clone, Copy, Debug)]
pub struct GreatCircle {
    from: [f64; 3],
    to: [f64; 3],
    angle: f64,
}

impl GreatCircle {
    /// The way from one place to another.
    #[must_use]
    pub fn new(from: Position, to: Position) -> Self {
        let (from, to) = (from.unit(), to.unit());
        let cosine: f64 = from.iter().zip(&to).map(|(a, b)| a * b).sum();
        Self { from, to, angle: cosine.clamp(-1.0, 1.0).acos() }
    }

    /// Its length, miles.
    #[must_use]
    pub fn miles(&self) -> f64 {
        self.angle * EARTH_RADIUS_MILES
    }

    /// The place after `fraction` (0 to 1) of the way: an interpolation, not a record of where an aircraft was.
    #[must_use]
    pub fn at(&self, fraction: f64) -> Position {
        let sine = self.angle.sin();
        let [x, y, z] = if sine.abs() < 1e-9 {
            self.from
        } else {
            let (a, b) = (((1.0 - fraction) * self.angle).sin() / sine, (fraction * self.angle).sin() / sine);
            [0, 1, 2].map(|axis| a * self.from[axis] + b * self.to[axis])
        };
        Position { latitude: z.clamp(-1.0, 1.0).asin().to_degrees(), longitude: y.atan2(x).to_degrees() }
    }
}

/// One square degree, named by its south-west corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Square {
    /// Whole degrees north of the southern edge, -90 to 89.
    pub south: i16,
    /// Whole degrees east of the western edge, -180 to 179.
    pub west: i16,
}

impl Square {
    /// The square that holds a position.
    #[must_use]
    pub fn of(position: Position) -> Self {
        let west = (position.longitude.floor() as i16 + 180).rem_euclid(360) - 180;
        Self { south: (position.latitude.floor() as i16).clamp(-90, 89), west }
    }

    /// The four squares that touch the corner nearest to a position: all within half a degree of it lie in them.
    #[must_use]
    pub fn around(position: Position) -> [Self; 4] {
        let mut squares = [Self { south: 0, west: 0 }; 4];
        let offsets = [(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)];
        for (square, (north, east)) in squares.iter_mut().zip(offsets) {
            *square = Self::of(Position { latitude: position.latitude + north, longitude: position.longitude + east });
        }
        squares
    }
}

impl fmt::Display for Square {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ns, ew) = (if self.south < 0 { 'S' } else { 'N' }, if self.west < 0 { 'W' } else { 'E' });
        write!(f, "{ns}{:02}{ew}{:03}", self.south.unsigned_abs(), self.west.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JFK: Position = Position { latitude: 40.6398, longitude: -73.7789 };
    const LAX: Position = Position { latitude: 33.9425, longitude: -118.4081 };

    #[test]
    fn jfk_to_lax_is_about_2470_miles_and_bends_north() {
        let way = GreatCircle::new(JFK, LAX);
        assert!((way.miles() - 2_470.0).abs() < 10.0, "{}", way.miles());
        let middle = way.at(0.5);
        assert!(middle.latitude > 39.0, "the great circle lies north of the mean latitude: {middle:?}");
    }

    #[test]
    fn both_ends_are_met_and_a_way_to_the_same_place_stays_there() {
        let way = GreatCircle::new(JFK, LAX);
        assert!((way.at(0.0).latitude - JFK.latitude).abs() < 1e-9);
        assert!((way.at(1.0).longitude - LAX.longitude).abs() < 1e-9);
        assert!((GreatCircle::new(JFK, JFK).at(0.7).longitude - JFK.longitude).abs() < 1e-9);
    }

    #[test]
    fn squares_are_named_by_their_south_west_corner_and_wrap_at_the_date_line() {
        assert_eq!(Square::of(JFK).to_string(), "N40W074");
        assert_eq!(Square::of(Position { latitude: -0.5, longitude: 180.2 }).to_string(), "S01W180");
    }

    #[test]
    fn the_four_squares_around_a_place_differ_and_hold_it() {
        let around = Square::around(JFK);
        assert!(around.contains(&Square::of(JFK)));
        for (index, square) in around.iter().enumerate() {
            assert!(!around[..index].contains(square));
        }
    }
}
