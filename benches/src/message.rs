//! What travels: two message types of 32 bytes that alternate, so that dispatch by type is part of every measurement.

/// A message with an even number.
#[derive(Clone, Copy, Debug)]
pub struct Even(pub [u64; 4]);

/// A message with an odd number.
#[derive(Clone, Copy, Debug)]
pub struct Odd(pub [u64; 4]);

/// Either of the two, for peers whose actors take one type.
#[derive(Clone, Copy, Debug)]
pub enum Either {
    /// See [`Even`].
    Even(Even),
    /// See [`Odd`].
    Odd(Odd),
}

impl Either {
    /// What it carries.
    #[must_use]
    pub fn words(self) -> [u64; 4] {
        match self {
            Self::Even(Even(words)) | Self::Odd(Odd(words)) => words,
        }
    }
}

/// The message with this number; the other words are filler.
#[must_use]
pub fn numbered(number: u64) -> Either {
    let words = [number, 1, 2, 3];
    if number.is_multiple_of(2) { Either::Even(Even(words)) } else { Either::Odd(Odd(words)) }
}

/// What the numbers of the first `n` messages add up to.
#[must_use]
pub fn sum_to(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// Whom an actor of the `big` workload talks to next: the same cheap random walk for everyone.
#[derive(Clone, Copy, Debug)]
pub struct Partners {
    state: u64,
}

impl Partners {
    /// The walk of actor `number`.
    #[must_use]
    pub fn of(number: u64) -> Self {
        Self { state: (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }

    /// A number below `count`.
    pub fn next(&mut self, count: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 32) as usize * count) >> 32
    }
}

const _: () = assert!(size_of::<Even>() == 32 && size_of::<Odd>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_everyone() {
        let mut partners = Partners::of(3);
        let mut met = [0_u32; 10];
        (0..1000).for_each(|_| met[partners.next(10)] += 1);
        assert!(met.iter().all(|count| (50..200).contains(count)), "{met:?}");
    }
}
