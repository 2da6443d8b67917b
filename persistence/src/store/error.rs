//! Why a store refuses: one enum for appending, one for loading.
//!
//! Invariant: an error means that nothing was written and no state changed.

use std::fmt;

use shardstage_codec::Epoch;

/// Why records were not appended. Nothing was written and no state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The epoch is not current for the entity's slot group; stop serving it.
    Fenced {
        /// The current epoch.
        current: Epoch,
    },
    /// A record's number is not the one after the entity's last: somebody else appended; load it again.
    WrongSequence {
        /// The number that would have fitted.
        expected: u64,
    },
    /// The command's records do not fit into one frame; never will.
    TooLarge {
        /// The most bytes that do.
        limit: usize,
    },
    /// Too much waits for the disk; try again after a commit.
    Full,
    /// The disk is full. Reading still works, and so do snapshots of what is there, from a reserve.
    LowSpace,
    /// A write failed earlier; nothing is accepted until the process restarts.
    Poisoned,
    /// The store is still starting, or was stopped.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced { current } => write!(f, "fenced: the group's epoch is {}", current.get()),
            Self::WrongSequence { expected } => write!(f, "the next record's number would be {expected}"),
            Self::TooLarge { limit } => write!(f, "the records of one command exceed {limit} bytes"),
            Self::Full => f.write_str("too much waits for the disk"),
            Self::LowSpace => f.write_str("the disk is full"),
            Self::Poisoned => f.write_str("the store is poisoned by an earlier write error"),
            Self::Closed => f.write_str("the store is not running"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Why an entity could not be loaded. Nothing changed; other entities are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A record is damaged.
    Damaged {
        /// The segment.
        segment: u64,
        /// Byte offset of the record.
        offset: u64,
        /// Sequence of the record when it is a snapshot: an older one may do, see
        /// [`LoadFrom::Before`](super::LoadFrom::Before).
        snapshot: Option<u64>,
    },
    /// The records that [`LoadFrom`](super::LoadFrom) asks for are not kept any more.
    NotKept,
    /// Another key has the same fingerprint: this one cannot be stored here. A chance of one in 2^88 for each pair of keys.
    SameFingerprint,
    /// A file operation failed; says which.
    Io(String),
    /// The store is poisoned or stopped.
    Closed,
    /// The type name or the key is longer than [`crate::limits::KEY_BYTES`].
    KeyTooLong,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { segment, offset, .. } => {
                write!(f, "the record in segment {segment:016x} at byte {offset} is damaged")
            }
            Self::NotKept => f.write_str("the store does not know the records that far back any more"),
            Self::SameFingerprint => f.write_str("another key has the same fingerprint as this one"),
            Self::Io(why) => f.write_str(why),
            Self::Closed => f.write_str("the store is poisoned or stopped"),
            Self::KeyTooLong => f.write_str("the actor's type name or key is too long"),
        }
    }
}

impl std::error::Error for LoadError {}
