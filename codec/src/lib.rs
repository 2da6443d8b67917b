//! What bytes mean: ids, frame headers, the schema greeting, the cage around rkyv, checksums.
//!
//! This crate knows no threads, sockets, files or clocks, and nothing in it is unsafe. Everything that
//! turns foreign bytes into something with a type passes through here, in this order:
//!
//! 1. [`FrameHeader::decode`] checks 64 bytes: checksum, version, every length against every other;
//! 2. the engine checks epoch, sender, authorisation and credit, none of which need the payload;
//! 3. [`access`] or [`decode`] validates the payload, whose type is limited to what [`WireValue`] admits.
//!
//! Nothing here allocates because of a length that a peer wrote: a view is returned, or the value is
//! rebuilt from bytes that were validated first.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod fan_out;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod limits;
pub mod request;
pub mod shape;
pub mod short;
pub mod trace_parent;
pub mod wire;

pub use frame::{
    FrameHeader, FrameKind, HeaderError, ReplyStatus, append_frame, append_frame_bytes, append_frame_with, frame_len,
};
pub use hello::{Disagreement, Hello, HelloError, HelloRefusal, Schema, Schemas};
pub use ids::{ActorTypeId, Epoch, GroupId, MessageId, NodeId, ShardId, Slot, slot_of};
pub use limits::{GROUP_COUNT, KEY_BYTES_MAX, MAX_DEPTH, MAX_FRAME_BYTES, PLACEMENT_HASH_VERSION, SLOT_COUNT};
pub use request::{Caller, RequestBlock, RequestError};
pub use shape::{Shape, fingerprint, fingerprint_with_reply};
pub use short::{ShortHeader, append_short_with, is_short};
pub use trace_parent::{TraceParent, TraceParentError};
pub use wire::{AlignedBytes, DecodeError, EncodeError, Wire, WireValue, access, assert_wire, decode, encode};

/// The archive library, for the code that the macros write. Nobody else needs to name it.
#[doc(hidden)]
pub use rkyv;
