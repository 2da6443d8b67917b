//! The payload of a fan-out frame: for whom the message is, as numbers of routes, then the message, once.
//!
//! Invariant: what [`decode`] returns was checked: every number is a route's, and the archive is aligned as the frame is.
//! Pure functions, callable from any thread.
//!
//! ```text
//! offset  size
//!      0     4  count     receivers
//!      4     4  zero
//!      8     2  number    of a route that was defined on this lane and session before, `count` times
//!               zeros to a multiple of 16
//!               the message's archive
//! ```

use crate::frame::HeaderError;
use crate::limits::{ALIGN_BYTES, ROUTES_MAX};
use crate::wire::{AlignedBytes, pad_to_align};

const HEAD_BYTES: usize = 8;

/// Appends the list of receivers; `out` must end at a multiple of 16, and the message's archive follows at the next one.
/// Returns the bytes that the list takes.
///
/// # Panics
///
/// If a number is no route's, or there are more than there can be routes: the caller's bug.
pub fn append_receivers(out: &mut AlignedBytes, numbers: &[u16]) -> usize {
    assert!(numbers.len() <= usize::from(ROUTES_MAX), "a receiver is named once");
    let before = out.len();
    debug_assert!(before.is_multiple_of(ALIGN_BYTES));
    // Bounded just now.
    out.extend_from_slice(&(numbers.len() as u64).to_le_bytes());
    for number in numbers {
        assert!(*number < ROUTES_MAX, "routes are numbered below their bound");
        out.extend_from_slice(&number.to_le_bytes());
    }
    pad_to_align(out);
    out.len() - before
}

/// Splits a payload into the numbers of the receivers and the message's archive.
///
/// # Errors
///
/// [`HeaderError::Contradiction`]: the sender is broken.
pub fn decode(payload: &[u8]) -> Result<(impl ExactSizeIterator<Item = u16> + '_, &[u8]), HeaderError> {
    let wrong = |what| HeaderError::Contradiction { what };
    let count = payload.first_chunk::<HEAD_BYTES>().ok_or(wrong("a fan-out without receivers"))?;
    let count = u64::from_le_bytes(*count);
    if count > u64::from(ROUTES_MAX) {
        return Err(wrong("a fan-out to more receivers than there are routes"));
    }
    let end = HEAD_BYTES + 2 * count as usize;
    let numbers = payload.get(HEAD_BYTES..end).ok_or(wrong("a fan-out that ends before its receivers do"))?;
    let archive = payload.get(end.next_multiple_of(ALIGN_BYTES)..).ok_or(wrong("a fan-out without message"))?;
    let numbers = numbers.as_chunks::<2>().0;
    if numbers.iter().any(|number| u16::from_le_bytes(*number) >= ROUTES_MAX) {
        return Err(wrong("a route beyond the last"));
    }
    Ok((numbers.iter().map(|number| u16::from_le_bytes(*number)), archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_and_message_come_back() {
        for count in [0_u16, 1, 3, 4, 5, 1000] {
            let numbers: Vec<u16> = (0..count).collect();
            let mut out = AlignedBytes::new();
            let len = append_receivers(&mut out, &numbers);
            assert_eq!((len, len % ALIGN_BYTES), (out.len(), 0));
            out.extend_from_slice(b"message");
            let (back, archive) = decode(&out).expect("what was encoded");
            assert_eq!((back.collect::<Vec<_>>(), archive), (numbers, &b"message"[..]));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let mut out = AlignedBytes::new();
        append_receivers(&mut out, &[1, 2, 3, 4, 5]);
        assert!(decode(&out).is_ok());
        assert!(decode(&out[..7]).is_err() && decode(&out[..16]).is_err());
        let with = |at: usize, byte: u8| {
            let mut bytes = out.to_vec();
            bytes[at] = byte;
            decode(&bytes).is_err()
        };
        assert!(with(7, 1) && with(0, 13) && with(9, 0xff));
    }
}
