//! The trace parent of W3C Trace Context: which trace a message belongs to, and which span sent it.
//!
//! Invariant: a [`TraceParent`] has a trace id and a parent id that are not zero, so that what is written can be read again.
//! Pure functions, callable from any thread.
//!
//! ```text
//! 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//! version, trace id (16 bytes), parent id (8 bytes), flags, in lower-case hexadecimal
//! ```

use core::fmt;
use core::num::{NonZeroU64, NonZeroU128};
use core::str::FromStr;

use crate::limits::TRACE_PARENT_TEXT_BYTES_MAX;

/// Bytes of the text of version 00.
const TEXT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// A trace, the span in it that sent a message, and whether the trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: NonZeroU128,
    parent_id: NonZeroU64,
    flags: u8,
}

impl TraceParent {
    /// A trace parent; `None` when one of the ids is zero, which the standard forbids.
    #[must_use]
    pub const fn new(trace_id: u128, parent_id: u64, sampled: bool) -> Option<Self> {
        match (NonZeroU128::new(trace_id), NonZeroU64::new(parent_id)) {
            (Some(trace_id), Some(parent_id)) => Some(Self { trace_id, parent_id, flags: sampled as u8 }),
            _ => None,
        }
    }

    /// The same trace with another span as parent: what a span of its own hands on. `None` when it is zero.
    #[must_use]
    pub const fn with_parent_id(self, parent_id: u64) -> Option<Self> {
        match NonZeroU64::new(parent_id) {
            Some(parent_id) => Some(Self { parent_id, ..self }),
            None => None,
        }
    }

    /// The trace.
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace_id.get()
    }

    /// The span that sent the message.
    #[must_use]
    pub const fn parent_id(&self) -> u64 {
        self.parent_id.get()
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags as they were read.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    pub(crate) const fn from_parts(trace_id: u128, parent_id: u64, flags: u8) -> Option<Self> {
        match Self::new(trace_id, parent_id, false) {
            Some(parent) => Some(Self { flags, ..parent }),
            None => None,
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// Why a text is no trace parent. Nothing was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceParentError {
    /// Not 55 bytes in version 00; fewer, or more than are looked at, in a later one.
    Length {
        /// Bytes of the text.
        len: usize,
    },
    /// Version ff, which the standard forbids.
    Version,
    /// No `-` where one must stand.
    Separator {
        /// Byte of the text.
        at: usize,
    },
    /// No lower-case hexadecimal digit where one must stand.
    Digit {
        /// Byte of the text.
        at: usize,
    },
    /// A trace id of zeros.
    TraceId,
    /// A parent id of zeros.
    ParentId,
}

impl fmt::Display for TraceParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len } => write!(f, "a trace parent of {len} bytes where version 00 has {TEXT_BYTES}"),
            Self::Version => write!(f, "a trace parent of version ff"),
            Self::Separator { at } => write!(f, "no `-` at byte {at} of a trace parent"),
            Self::Digit { at } => write!(f, "no lower-case hexadecimal digit at byte {at} of a trace parent"),
            Self::TraceId => write!(f, "a trace id of zeros"),
            Self::ParentId => write!(f, "a parent id of zeros"),
        }
    }
}

impl core::error::Error for TraceParentError {}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads a `traceparent` header. Of a later version than 00 the fields that 00 has are read, and of the flags whether it
    /// is sampled, as the standard says.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let bytes = text.as_bytes();
        let length = Err(TraceParentError::Length { len: bytes.len() });
        if bytes.len() < TEXT_BYTES || bytes.len() > TRACE_PARENT_TEXT_BYTES_MAX {
            return length;
        }
        let version = number(bytes, 0, 2)? as u8;
        match version {
            0xff => return Err(TraceParentError::Version),
            0 if bytes.len() != TEXT_BYTES => return length,
            _ => {}
        }
        let separators = [2, 35, 52, TEXT_BYTES];
        if let Some(at) = separators.into_iter().find(|at| bytes.get(*at).is_some_and(|byte| *byte != b'-')) {
            return Err(TraceParentError::Separator { at });
        }
        let trace_id = number(bytes, 3, 35)?;
        let parent_id = number(bytes, 36, 52)? as u64;
        let flags = number(bytes, 53, TEXT_BYTES)? as u8;
        let flags = if version == 0 { flags } else { flags & SAMPLED };
        if trace_id == 0 {
            return Err(TraceParentError::TraceId);
        }
        Self::from_parts(trace_id, parent_id, flags).ok_or(TraceParentError::ParentId)
    }
}

/// The number in these digits, at most 32 of them.
fn number(bytes: &[u8], from: usize, to: usize) -> Result<u128, TraceParentError> {
    bytes[from..to].iter().zip(from..).try_fold(0, |number: u128, (byte, at)| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(TraceParentError::Digit { at }),
        };
        Ok(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_comes_back() {
        let parent: TraceParent = TEXT.parse().expect("it is valid");
        assert_eq!(parent.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.parent_id(), parent.is_sampled()), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(parent.to_string(), TEXT);
        let child = parent.with_parent_id(7).expect("not zero");
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
        assert_eq!(parent.with_parent_id(0), None);
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes";
        let parent: TraceParent = later.parse().expect("it is valid");
        assert_eq!(parent.to_string(), TEXT);
    }

    #[test]
    fn what_is_no_trace_parent_is_refused_by_name() {
        let read = |text: &str| text.parse::<TraceParent>().expect_err("it is refused");
        let with = |at: usize, byte: u8| {
            let mut bytes = TEXT.as_bytes().to_vec();
            bytes[at] = byte;
            read(core::str::from_utf8(&bytes).expect("ASCII"))
        };
        assert_eq!(read(""), TraceParentError::Length { len: 0 });
        assert_eq!(read(&format!("{TEXT}-")), TraceParentError::Length { len: 56 });
        assert_eq!(read(&"0".repeat(1 << 20)), TraceParentError::Length { len: 1 << 20 });
        assert_eq!(read(&TEXT.replacen("00", "ff", 1)), TraceParentError::Version);
        assert_eq!(read(&format!("{}x", TEXT.replacen("00", "01", 1))), TraceParentError::Separator { at: 55 });
        for at in [2, 35, 52] {
            assert_eq!(with(at, b'_'), TraceParentError::Separator { at });
        }
        for at in [0, 3, 34, 36, 51, 53, 54] {
            assert_eq!(with(at, b'A'), TraceParentError::Digit { at });
        }
        assert_eq!(read("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), TraceParentError::TraceId);
        assert_eq!(read("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"), TraceParentError::ParentId);
    }
}
