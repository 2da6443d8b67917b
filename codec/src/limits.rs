//! Every bound of the wire format, with its unit and its reason.
//!
//! Invariant: whatever fits these bounds fits the integer fields of the frame header; the `const`
//! assertions at the end hold that.

/// Slots of the placement space. Fixed when a cluster is made: a slot is where an actor key hashes to, and
/// 4,096 of them leave 64 to a group, so that a group can later be split without rehashing any key.
pub const SLOT_COUNT: u16 = 4096;

/// Slot groups: the unit of placement, fencing, replication and moving. 64 is enough to spread over a few
/// dozen nodes and few enough that a table of (node, epoch) per group is one cache-friendly kilobyte.
pub const GROUP_COUNT: u8 = 64;

/// Slots in a group.
pub const SLOTS_PER_GROUP: u16 = SLOT_COUNT / GROUP_COUNT as u16;

/// Version of [`slot_of`](crate::slot_of). Nodes whose versions differ must not talk: they would place the
/// same key in two slots.
pub const PLACEMENT_HASH_VERSION: u16 = 1;

/// Version of the frame header layout and of the rules that [`FrameHeader::decode`](crate::FrameHeader::decode) applies.
pub const HEADER_VERSION: u16 = 1;

/// Version of the node-to-node protocol above the header: who greets first, which kinds exist.
pub const PROTOCOL_VERSION: u16 = 3;

/// Bytes of a frame header. One cache line.
pub const HEADER_BYTES: usize = 64;

/// Bytes of a short frame's header: what alignment leaves no less of.
pub const SHORT_HEADER_BYTES: usize = 16;

/// Routes (receiver and message under one number) that one lane of one session may have at a time. Bounds what a peer can
/// make us keep: at most 600 bytes each with the longest keys, 10 MB in all.
pub const ROUTES_MAX: u16 = 16_384;

/// Frames, keys and payloads begin at multiples of this many bytes: the strictest alignment that an archive
/// can ask for (`u128`).
pub const ALIGN_BYTES: usize = 16;

/// Bytes of user data that a message must be able to carry.
pub const USER_BYTES_MAX: usize = 1 << 20;

/// Bytes beside the user data in an archive: lengths, offsets, padding, the other fields.
pub const ARCHIVE_SLACK_BYTES: usize = 64 << 10;

/// Bytes of one archive, at most. Refused at the sender while it is being written, and at the receiver
/// before a byte of it is looked at.
pub const PAYLOAD_BYTES_MAX: usize = USER_BYTES_MAX + ARCHIVE_SLACK_BYTES;

/// Bytes of an actor's key, at most: long enough for a path or a URL, short enough to hash without thought.
pub const KEY_BYTES_MAX: usize = 512;

/// Bytes of one frame with header, key and padding, at most.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + KEY_BYTES_MAX + PAYLOAD_BYTES_MAX;

/// Containers around a scalar in a wire value, at most. Validation recurses once a level, so this bounds its stack.
pub const MAX_DEPTH: u32 = 8;

/// Bytes of a message's or actor type's wire name, at most.
pub const NAME_BYTES_MAX: usize = 128;

/// Headers of a request, at most: what identifies a tenant, a user and a flow, not a payload.
pub const REQUEST_HEADERS_MAX: usize = 16;

/// Bytes of a request header's name, at most.
pub const REQUEST_NAME_BYTES_MAX: usize = 64;

/// Bytes of a request header's value, at most.
pub const REQUEST_VALUE_BYTES_MAX: usize = 512;

/// Bytes of the names and values of all headers of a request, at most: they are written with every message of the chain.
pub const REQUEST_TEXT_BYTES_MAX: usize = 2048;

/// Actors that may wait for each other up one chain of calls, actors.
pub const CALLERS_MAX: usize = 32;

/// Bytes of the text that names one of them, at most; longer ones are cut.
pub const CALLER_LABEL_BYTES_MAX: usize = 80;

/// Bytes of a request between nodes, at most.
pub const REQUEST_BYTES_MAX: usize =
    64 + 3 * REQUEST_HEADERS_MAX + REQUEST_TEXT_BYTES_MAX + CALLERS_MAX * (17 + CALLER_LABEL_BYTES_MAX);

/// Bytes of a `traceparent` text that are looked at, at most: later versions may be longer than the 55 bytes of version 00.
pub const TRACE_PARENT_TEXT_BYTES_MAX: usize = 512;

/// Schemas in a greeting, at most: a greeting of the longest names then still fits one frame.
pub const SCHEMA_COUNT_MAX: usize = 4096;

const _: () = assert!(SLOT_COUNT.is_power_of_two() && SLOT_COUNT.is_multiple_of(GROUP_COUNT as u16));
const _: () = assert!(SLOTS_PER_GROUP as u32 * GROUP_COUNT as u32 == SLOT_COUNT as u32);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize && KEY_BYTES_MAX.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(MAX_FRAME_BYTES <= u32::MAX as usize && MAX_FRAME_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(MAX_FRAME_BYTES < 1 << 24, "the highest byte of a frame's length tells short forms");
const _: () = assert!(NAME_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(SCHEMA_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(REQUEST_NAME_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(CALLER_LABEL_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(REQUEST_VALUE_BYTES_MAX <= u16::MAX as usize && REQUEST_HEADERS_MAX <= u8::MAX as usize);
const _: () = assert!(CALLERS_MAX <= u8::MAX as usize && REQUEST_BYTES_MAX <= ARCHIVE_SLACK_BYTES);
const _: () = assert!(
    SCHEMA_COUNT_MAX * (crate::hello::SCHEMA_FIXED_BYTES + NAME_BYTES_MAX) + crate::hello::HELLO_FIXED_BYTES
        <= PAYLOAD_BYTES_MAX
);
