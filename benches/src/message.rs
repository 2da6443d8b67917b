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

/// The message with this number; the other words are filler.
#[must_use]
pub fn numbered(number: u64) -> Either {
    let words = [number, 1, 2, 3];
    if number.is_multiple_of(2) { Either::Even(Even(words)) } else { Either::Odd(Odd(words)) }
}

const _: () = assert!(size_of::<Even>() == 32 && size_of::<Odd>() == 32);
