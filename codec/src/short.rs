//! The short forms of frames: 16 bytes of header instead of 64, where both sides of a session know the rest already.
//!
//! Invariant: a short frame never stands alone. A [`Route`](crate::FrameKind::Route) frame came before it on the same lane
//! of the same session and said what the number means; a reply's number is the asker's own. Pure functions, callable from
//! any thread.
//!
//! ```text
//! offset  size
//!      0     3  len          frame without its padding: 16 + payload
//!      3     1  form         1 Tell, 2 Ask, 3 Reply; 0 is the highest byte of a full frame's length
//!      4     2  route        Tell, Ask: the number that a Route frame gave to actor, message and epoch
//!      6     2  ttl          Ask: time left, 6 bits of exponent and 10 of mantissa, rounded up by at most 0.2 %; 0 = none
//!      4     4  epoch        Reply: the low 32 bits of the epoch under which the actor answered
//!      8     8  correlation  Ask, Reply: chosen by the asker; 0 in a Tell
//!     16        payload, zeros to a multiple of 16
//! ```
//!
//! No checksum: QUIC authenticates every packet, and what a damaged sender could do with a short frame it could do with a
//! full one. A full header keeps its own, because it also guards the definition that many short frames rely on.

use crate::frame::HeaderError;
use crate::limits::{ALIGN_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX, ROUTES_MAX, SHORT_HEADER_BYTES};
use crate::wire::{AlignedBytes, EncodeError, pad_to_align};

const LEN_BITS: u32 = 24;
const LEN_MASK: u32 = (1 << LEN_BITS) - 1;
const MANTISSA_BITS: u32 = 10;
const MANTISSA_MASK: u16 = (1 << MANTISSA_BITS) - 1;

const TELL: u8 = 1;
const ASK: u8 = 2;
const REPLY: u8 = 3;

/// What the 16 bytes of a short header say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortHeader {
    /// A message that wants no answer.
    Tell {
        /// Which actor and message, below [`ROUTES_MAX`].
        route: u16,
    },
    /// A message whose sender waits.
    Ask {
        /// Which actor and message, below [`ROUTES_MAX`].
        route: u16,
        /// Nanoseconds left to the deadline; 0 = none. Arrives rounded up by at most 0.2 %.
        ttl_ns: u64,
        /// Returned in the reply.
        correlation: u64,
    },
    /// The value that an ask is answered with. Every other end travels as a full frame.
    Reply {
        /// The low 32 bits of the epoch under which the actor answered.
        epoch: u32,
        /// From the ask.
        correlation: u64,
    },
}

/// Whether the frame that begins with these bytes is a short one.
#[must_use]
pub fn is_short(frame: &[u8]) -> bool {
    frame.get(3).is_some_and(|form| *form != 0)
}

/// Bytes of a frame without its padding, from its first four bytes; `None` if no frame can begin so.
#[must_use]
pub const fn unpadded_len(first: [u8; 4]) -> Option<usize> {
    let word = u32::from_le_bytes(first);
    let len = (word & LEN_MASK) as usize;
    let least = match (word >> LEN_BITS) as u8 {
        0 => HEADER_BYTES,
        TELL | ASK | REPLY => SHORT_HEADER_BYTES,
        _ => return None,
    };
    if len < least { None } else { Some(len) }
}

impl ShortHeader {
    /// Writes the header of a frame with so many bytes of payload into the first 16 bytes of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter, the payload larger than a frame carries, or the route none: the caller's bug.
    pub fn encode(self, payload_len: usize, out: &mut [u8]) {
        assert!(payload_len <= PAYLOAD_BYTES_MAX, "a payload is bounded before its header is written");
        let out: &mut [u8; SHORT_HEADER_BYTES] =
            out.first_chunk_mut().expect("room for a short header is reserved before it is written");
        let (form, middle, correlation) = match self {
            Self::Tell { route } => (TELL, u32::from(route), 0),
            Self::Ask { route, ttl_ns, correlation } => {
                (ASK, u32::from(route) | u32::from(shorten(ttl_ns)) << 16, correlation)
            }
            Self::Reply { epoch, correlation } => (REPLY, epoch, correlation),
        };
        if let Self::Tell { route } | Self::Ask { route, .. } = self {
            assert!(route < ROUTES_MAX, "routes are numbered below their bound");
        }
        // The bound above is below 2^24.
        let len = (SHORT_HEADER_BYTES + payload_len) as u64 | u64::from(form) << LEN_BITS;
        let [low, high] = [len | u64::from(middle) << 32, correlation].map(u64::to_le_bytes);
        out[..8].copy_from_slice(&low);
        out[8..].copy_from_slice(&high);
    }

    /// Reads and checks a whole short frame; returns the header and the payload, which is 16-aligned if `frame` is.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`]: the stream cannot be followed any further.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let Some(head) = frame.first_chunk::<SHORT_HEADER_BYTES>() else {
            return Err(HeaderError::Short { len: frame.len() });
        };
        let [low, correlation] = [0, 8].map(|at| u64::from_le_bytes(*head[at..].first_chunk().expect("16 bytes")));
        let form = (low >> LEN_BITS) as u8;
        let need = unpadded_len((low as u32).to_le_bytes())
            .filter(|_| form != 0)
            .ok_or(HeaderError::Kind { kind: u16::from(form) })?;
        if need - SHORT_HEADER_BYTES > PAYLOAD_BYTES_MAX {
            return Err(HeaderError::Payload { payload_len: (need - SHORT_HEADER_BYTES) as u32 });
        }
        let payload = frame.get(SHORT_HEADER_BYTES..need).ok_or(HeaderError::Incomplete { len: frame.len(), need })?;
        let (route, ttl) = ((low >> 32) as u16, (low >> 48) as u16);
        let contradiction = |what| Err(HeaderError::Contradiction { what });
        let header = match form {
            TELL if ttl != 0 || correlation != 0 => return contradiction("a Tell with deadline or correlation"),
            TELL => Self::Tell { route },
            ASK => Self::Ask { route, ttl_ns: lengthen(ttl), correlation },
            _ => return Ok((Self::Reply { epoch: (low >> 32) as u32, correlation }, payload)),
        };
        if route >= ROUTES_MAX {
            return contradiction("a route beyond the last");
        }
        Ok((header, payload))
    }
}

/// Appends one whole short frame whose payload is whatever `write_payload` appends, and returns its padded length.
///
/// `write_payload` returns how many bytes it appended.
///
/// # Errors
///
/// See [`EncodeError`]; `out` is as it was.
pub fn append_short_with(
    out: &mut AlignedBytes,
    header: ShortHeader,
    write_payload: impl FnOnce(&mut AlignedBytes) -> Result<usize, EncodeError>,
) -> Result<usize, EncodeError> {
    let before = out.len();
    pad_to_align(out);
    let start = out.len();
    out.extend_from_slice(&[0; SHORT_HEADER_BYTES]);
    let payload_len = match write_payload(out) {
        Ok(len) => len,
        Err(error) => {
            out.resize(before, 0);
            return Err(error);
        }
    };
    header.encode(payload_len, &mut out[start..]);
    pad_to_align(out);
    Ok(out.len() - start)
}

/// Nanoseconds as exponent and mantissa, rounded up: a deadline never comes early.
fn shorten(ns: u64) -> u16 {
    let mut exponent = (u64::BITS - ns.leading_zeros()).saturating_sub(MANTISSA_BITS);
    let mut mantissa = ns >> exponent;
    if mantissa << exponent != ns {
        mantissa += 1;
        if mantissa >> MANTISSA_BITS != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    // At most 55 and 1,023.
    (exponent as u16) << MANTISSA_BITS | mantissa as u16
}

fn lengthen(short: u16) -> u64 {
    let ns = u128::from(short & MANTISSA_MASK) << (short >> MANTISSA_BITS);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

const _: () = assert!(SHORT_HEADER_BYTES.is_multiple_of(ALIGN_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(header: ShortHeader, payload: &[u8]) -> ShortHeader {
        let mut out = AlignedBytes::new();
        let len = append_short_with(&mut out, header, |out| {
            out.extend_from_slice(payload);
            Ok(payload.len())
        })
        .expect("it fits");
        assert!(is_short(&out) && len == out.len() && len.is_multiple_of(ALIGN_BYTES));
        assert_eq!(unpadded_len([out[0], out[1], out[2], out[3]]), Some(SHORT_HEADER_BYTES + payload.len()));
        let (back, read) = ShortHeader::decode(&out).expect("what was encoded");
        assert_eq!(read, payload);
        back
    }

    #[test]
    fn headers_come_back_and_look_as_drawn() {
        for header in [
            ShortHeader::Tell { route: 0 },
            ShortHeader::Tell { route: ROUTES_MAX - 1 },
            ShortHeader::Ask { route: 7, ttl_ns: 0, correlation: u64::MAX },
            ShortHeader::Reply { epoch: u32::MAX, correlation: 1 << 63 },
        ] {
            assert_eq!(round_trip(header, &[9; 33]), header);
            assert_eq!(round_trip(header, &[]), header);
        }
        let mut bytes = [0; 16];
        ShortHeader::Ask { route: 0x0102, ttl_ns: 512, correlation: 3 }.encode(64, &mut bytes);
        assert_eq!(bytes, [80, 0, 0, 2, 2, 1, 0, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_deadline_never_comes_early_and_hardly_late() {
        for shift in 0..64 {
            for ns in [1_u64 << shift, (1 << shift) + 1, (1_u64 << shift).wrapping_mul(3), u64::MAX >> shift] {
                let back = lengthen(shorten(ns));
                assert!(back >= ns && back - ns <= ns / 512, "{ns} became {back}");
            }
        }
        assert_eq!(lengthen(shorten(0)), 0);
    }

    #[test]
    fn what_is_no_short_frame_is_refused() {
        let mut good = [0; 32];
        ShortHeader::Tell { route: 1 }.encode(16, &mut good);
        assert!(ShortHeader::decode(&good).is_ok());
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            ShortHeader::decode(&bytes).map(|(header, _)| header)
        };
        assert_eq!(with(3, 0), Err(HeaderError::Kind { kind: 0 }));
        assert_eq!(with(3, 4), Err(HeaderError::Kind { kind: 4 }));
        assert!(matches!(with(0, 15), Err(HeaderError::Kind { .. })));
        assert!(matches!(with(0, 33), Err(HeaderError::Incomplete { .. })));
        assert!(matches!(with(2, 255), Err(HeaderError::Payload { .. })));
        assert!(matches!(with(5, 255), Err(HeaderError::Contradiction { .. })));
        assert!(matches!(with(8, 1), Err(HeaderError::Contradiction { .. })));
        assert!(matches!(ShortHeader::decode(&good[..15]), Err(HeaderError::Short { len: 15 })));
    }
}
