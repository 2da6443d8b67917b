//! Looking at a log that is down, for tools: what stands where, what is damaged, and what of it can still be read.
//!
//! [`Survey`] goes on behind damage, where [`crate::recovery::Scan`] stops; [`Names`] says which entity a record belongs to
//! and whether its sequence is whole. Pure functions of bytes: who reads the files is the caller's choice.
//!
//! Invariant: whatever a survey calls intact carries checksums of its own. The verdict whether a log may be opened is that
//! of `Scan` alone.

mod names;
mod survey;

pub use names::{Entity, Names, OutOfPlace};
pub use survey::{Damage, Seen, SeenFrame, SeenRecord, Survey};
