//! The header of every frame between two nodes, and how key and payload lie behind it.
//!
//! Invariant: a header that [`FrameHeader::decode`] returned agrees with itself: its lengths add up, stay
//! within [`MAX_FRAME_BYTES`], and fit its kind. Pure functions, callable from any thread. On the message path
//! this stands between a lane's byte stream and the shard's delivery.
//!
//! All integers are little endian. A frame begins at a multiple of 16 bytes of its stream and is zero-padded
//! to one, and so is the key, so that in a 16-aligned buffer every payload is aligned for [`access`](crate::access).
//!
//! ```text
//! offset  size
//!      0     4  len              frame without its padding: 64 + key padded to 16 + payload
//!      4     4  header_crc       CRC-32C of these 64 bytes with this field zero
//!      8     2  header_version   1
//!     10     2  kind             1 Hello, 2 Tell, 3 Ask, 4 Reply, 5 Bounce, 6 Route,
//!                           7 FanOut, 8 Room, 9 TellWith, 10 AskWith
//!     12     2  message_version  version of message_id; 0 without message
//!     14     1  group            slot group of the actor, below 64
//!     15     1  status           Reply and Bounce: how it ended; else 0
//!     16     8  message_id       what the payload is; 0 without message
//!     24     8  actor_type       type of the actor that `key` names; 0 without key
//!     32     8  group_epoch      epoch under which the sender takes `group` to be placed
//!     40     8  correlation      chosen by the sender of an Ask or a Tell, returned in Reply and Bounce; a Route's number
//!     48     8  ttl_ns           time left to the deadline when the frame was written; 0 = none
//!     56     4  payload_len      bytes
//!     60     2  key_len          bytes, at most 512
//!     62     2  shard            the sending node's shard that waits for the answer; returned in Reply and Bounce
//!     64        key, zero-padded to a multiple of 16
//!               payload
//!               zeros to a multiple of 16
//! ```

use core::fmt;

use crate::{
    checksum,
    ids::{ActorTypeId, Epoch, GroupId, MessageId, ShardId},
    limits::{
        ALIGN_BYTES, HEADER_BYTES, HEADER_VERSION, KEY_BYTES_MAX, MAX_FRAME_BYTES, PAYLOAD_BYTES_MAX, ROUTES_MAX,
    },
    wire::{AlignedBytes, EncodeError, WireValue, encode, pad_to_align},
};

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FrameKind {
    /// The first frame of each side: a [`Hello`](crate::Hello).
    Hello = 1,
    /// A message that wants no answer.
    Tell = 2,
    /// A message whose sender waits for a [`Reply`](FrameKind::Reply).
    Ask = 3,
    /// The answer to an [`Ask`](FrameKind::Ask).
    Reply = 4,
    /// A [`Tell`](FrameKind::Tell) that was refused, so that its sender's dead letters can name it.
    Bounce = 5,
    /// From here on in this lane and session, the number in `correlation` means this actor, message and epoch; see
    /// [`short`](crate::short).
    Route = 6,
    /// One message for several actors of one type; [`fan_out`](crate::fan_out) draws the payload.
    FanOut = 7,
    /// The actor that `key` names, which refused a message for want of room, has room again.
    Room = 8,
    /// A [`Tell`](FrameKind::Tell) that carries a request; [`request`](crate::request) draws the payload.
    TellWith = 9,
    /// An [`Ask`](FrameKind::Ask) that carries a request; [`request`](crate::request) draws the payload.
    AskWith = 10,
}

impl FrameKind {
    const fn from_wire(raw: u16) -> Option<Self> {
        match raw {
            1 => Some(Self::Hello),
            2 => Some(Self::Tell),
            3 => Some(Self::Ask),
            4 => Some(Self::Reply),
            5 => Some(Self::Bounce),
            6 => Some(Self::Route),
            7 => Some(Self::FanOut),
            8 => Some(Self::Room),
            9 => Some(Self::TellWith),
            10 => Some(Self::AskWith),
            _ => None,
        }
    }
}

/// How a message ended at the node that received it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReplyStatus {
    /// Handled; the payload is the reply. Also what frames carry that report no end.
    #[default]
    Ok = 0,
    /// Not executed: the actor's mailbox is full.
    Full = 1,
    /// Not executed: the actor is gone, or its node is stopping.
    Closed = 2,
    /// Not executed: the deadline had passed.
    Expired = 3,
    /// Not executed: the actor's type does not take this message here.
    NoHandler = 4,
    /// Not executed: whoever must handle it cannot just now.
    Unavailable = 5,
    /// Begun and not finished: the handler panicked. The payload may say why, as text.
    Failed = 6,
    /// Unknown: the group moved on to another epoch meanwhile.
    Fenced = 7,
    /// Unknown: whoever handled it waited for something in vain.
    Deadline = 8,
    /// Unknown: whoever handled it lost the node that it needed.
    PeerLost = 9,
}

impl ReplyStatus {
    /// Whether the message was surely not executed.
    #[must_use]
    pub const fn is_rejection(self) -> bool {
        matches!(self, Self::Full | Self::Closed | Self::Expired | Self::NoHandler | Self::Unavailable)
    }

    const fn from_wire(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Ok),
            1 => Some(Self::Full),
            2 => Some(Self::Closed),
            3 => Some(Self::Expired),
            4 => Some(Self::NoHandler),
            5 => Some(Self::Unavailable),
            6 => Some(Self::Failed),
            7 => Some(Self::Fenced),
            8 => Some(Self::Deadline),
            9 => Some(Self::PeerLost),
            _ => None,
        }
    }
}

/// The first 64 bytes of a frame. The file's head draws them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is for.
    pub kind: FrameKind,
    /// Version of `message_id`.
    pub message_version: u16,
    /// Slot group of the addressed or answering actor.
    pub group: GroupId,
    /// How it ended, in `Reply` and `Bounce`; `Ok` otherwise.
    pub status: ReplyStatus,
    /// What the payload is; 0 in a `Hello`.
    pub message_id: MessageId,
    /// Type of the actor that the key names; 0 without a key.
    pub actor_type: ActorTypeId,
    /// Epoch under which the sender takes `group` to be placed.
    pub group_epoch: Epoch,
    /// Chosen by the sender of an `Ask` or `Tell`, returned in `Reply` and `Bounce`.
    pub correlation: u64,
    /// Nanoseconds left to the deadline when the frame was written; 0 = no deadline.
    pub ttl_ns: u64,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Bytes of the key.
    pub key_len: u16,
    /// The asking node's shard that waits for the answer.
    pub shard: ShardId,
}

impl FrameHeader {
    /// A header of this kind with nothing else said: group 0, epoch 1, no message, key, payload or deadline.
    #[must_use]
    pub const fn new(kind: FrameKind) -> Self {
        Self {
            kind,
            message_version: 0,
            group: GroupId::new(0).expect("the first group exists"),
            status: ReplyStatus::Ok,
            message_id: MessageId::new(0),
            actor_type: ActorTypeId::new(0),
            group_epoch: Epoch::FIRST,
            correlation: 0,
            ttl_ns: 0,
            payload_len: 0,
            key_len: 0,
            shard: ShardId::new(0),
        }
    }

    /// Bytes of the frame without its padding, header included.
    #[must_use]
    pub const fn unpadded_len(&self) -> usize {
        self.payload_start() + self.payload_len as usize
    }

    /// Bytes of the frame in its stream: where the next one begins.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        frame_len(self.key_len as usize, self.payload_len as usize)
    }

    /// Writes the header into the first 64 bytes of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter, or the header would not pass [`decode`](Self::decode): both are the caller's bug.
    pub fn encode(&self, out: &mut [u8]) {
        if let Err(error) = self.check() {
            panic!("a frame header is consistent before it is written: {error}");
        }
        let out: &mut [u8; HEADER_BYTES] =
            out.first_chunk_mut().expect("room for a frame header is reserved before it is written");
        let words = [
            // The frame's bound is below 2^32; the checksum's place is zero.
            self.unpadded_len() as u64,
            u64::from(HEADER_VERSION)
                | u64::from(self.kind as u16) << 16
                | u64::from(self.message_version) << 32
                | u64::from(self.group.get()) << 48
                | u64::from(self.status as u8) << 56,
            self.message_id.get(),
            self.actor_type.get(),
            self.group_epoch.get(),
            self.correlation,
            self.ttl_ns,
            u64::from(self.payload_len) | u64::from(self.key_len) << 32 | u64::from(self.shard.get()) << 48,
        ];
        let bytes = HeaderBytes::of(words);
        out.copy_from_slice(&bytes.0);
        out[CRC_AT].copy_from_slice(&checksum::crc32c(&bytes.0).to_le_bytes());
    }

    /// Reads and checks the header in the first 64 bytes of `bytes`; the rest of the frame need not be there yet.
    ///
    /// Cost: one checksum over 64 bytes; no allocation.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Short`] below 64 bytes: wait for more. Anything else means that the stream cannot be
    /// followed any further: close it.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Short { len: bytes.len() });
        };
        let mut words = [0; HEADER_BYTES / 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let stored = (words[0] >> 32) as u32;
        words[0] &= u64::from(u32::MAX);
        let computed = checksum::crc32c(&HeaderBytes::of(words).0);
        if stored != computed {
            return Err(HeaderError::Checksum { stored, computed });
        }
        // Every cast below cuts a field out of its word.
        let [len, kinds, message_id, actor_type, group_epoch, correlation, ttl_ns, lengths] = words;
        let version = kinds as u16;
        if version != HEADER_VERSION {
            return Err(HeaderError::Version { version });
        }
        let (kind, group, status) = ((kinds >> 16) as u16, (kinds >> 48) as u8, (kinds >> 56) as u8);
        let header = Self {
            kind: FrameKind::from_wire(kind).ok_or(HeaderError::Kind { kind })?,
            message_version: (kinds >> 32) as u16,
            group: GroupId::new(group).ok_or(HeaderError::Group { group })?,
            status: ReplyStatus::from_wire(status).ok_or(HeaderError::Status { status })?,
            message_id: MessageId::new(message_id),
            actor_type: ActorTypeId::new(actor_type),
            group_epoch: Epoch::new(group_epoch),
            correlation,
            ttl_ns,
            payload_len: lengths as u32,
            key_len: (lengths >> 32) as u16,
            shard: ShardId::new((lengths >> 48) as u16),
        };
        header.check()?;
        let len = len as u32;
        if len as usize != header.unpadded_len() {
            return Err(HeaderError::Len { len, key_len: header.key_len, payload_len: header.payload_len });
        }
        Ok(header)
    }

    /// The key in `frame`, which begins with this header; empty where the frame has none.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Incomplete`] if `frame` ends before the payload does, [`HeaderError::KeyText`] if the key is no UTF-8.
    pub fn key<'f>(&self, frame: &'f [u8]) -> Result<&'f str, HeaderError> {
        let key = &self.complete(frame)?[HEADER_BYTES..HEADER_BYTES + usize::from(self.key_len)];
        core::str::from_utf8(key).map_err(|_| HeaderError::KeyText)
    }

    /// The payload in `frame`, which begins with this header. In a 16-aligned `frame` it is 16-aligned too.
    ///
    /// # Errors
    ///
    /// [`HeaderError::Incomplete`] if `frame` ends before the payload does.
    pub fn payload<'f>(&self, frame: &'f [u8]) -> Result<&'f [u8], HeaderError> {
        Ok(&self.complete(frame)?[self.payload_start()..])
    }

    /// `frame` without what follows the payload.
    fn complete<'f>(&self, frame: &'f [u8]) -> Result<&'f [u8], HeaderError> {
        let need = self.unpadded_len();
        frame.get(..need).ok_or(HeaderError::Incomplete { len: frame.len(), need })
    }

    const fn payload_start(&self) -> usize {
        HEADER_BYTES + padded(self.key_len as usize)
    }

    /// What must hold of every header, written or read.
    fn check(&self) -> Result<(), HeaderError> {
        if usize::from(self.key_len) > KEY_BYTES_MAX {
            return Err(HeaderError::Key { key_len: self.key_len });
        }
        if self.payload_len as usize > PAYLOAD_BYTES_MAX {
            return Err(HeaderError::Payload { payload_len: self.payload_len });
        }
        let kind = self.kind;
        let (key, message, status) = (self.key_len != 0, self.message_id.get() != 0, self.status != ReplyStatus::Ok);
        let wrong = match kind {
            FrameKind::Hello if key || message || status => Some("a Hello with key, message or status"),
            FrameKind::Tell
            | FrameKind::Ask
            | FrameKind::Route
            | FrameKind::FanOut
            | FrameKind::TellWith
            | FrameKind::AskWith
                if !message || status =>
            {
                Some(if message { "a message with a status" } else { "a message without id" })
            }
            FrameKind::FanOut if key => Some("a FanOut with a key"),
            FrameKind::Room if message || status || self.payload_len != 0 => {
                Some("a Room with message, status or payload")
            }
            FrameKind::Route if self.payload_len != 0 || self.correlation >= u64::from(ROUTES_MAX) => {
                Some("a Route with payload or beyond the last number")
            }
            FrameKind::Bounce if !status => Some("a Bounce without reason"),
            FrameKind::Bounce if self.payload_len != 0 => Some("a Bounce with payload"),
            FrameKind::Reply if self.status.is_rejection() && self.payload_len != 0 => Some("a rejection with payload"),
            _ => None,
        };
        wrong.map_or(Ok(()), |what| Err(HeaderError::Contradiction { what }))
    }
}

/// Bytes of a frame with padding, from the bytes of its key and payload.
#[must_use]
pub const fn frame_len(key_len: usize, payload_len: usize) -> usize {
    padded(HEADER_BYTES + padded(key_len) + payload_len)
}

/// Appends one whole frame with `value` as payload and returns its padded length.
///
/// Lengths in `header` are set here; everything else is the caller's. `out` is first padded to a multiple of
/// 16. Cost: one copy of the value, no allocation once `out` has grown.
///
/// # Errors
///
/// See [`EncodeError`]; `out` is as it was.
///
/// # Panics
///
/// If `header` contradicts itself, as [`FrameHeader::encode`].
pub fn append_frame<T: WireValue>(
    out: &mut AlignedBytes,
    header: FrameHeader,
    key: &str,
    value: &T,
) -> Result<usize, EncodeError> {
    append_frame_with(out, header, key, |out| encode(value, out))
}

/// Appends one whole frame whose payload is `payload` as it stands, and returns its padded length.
///
/// # Errors
///
/// See [`EncodeError`]; `out` is as it was.
///
/// # Panics
///
/// If `header` contradicts itself, as [`FrameHeader::encode`].
pub fn append_frame_bytes(
    out: &mut AlignedBytes,
    header: FrameHeader,
    key: &str,
    payload: &[u8],
) -> Result<usize, EncodeError> {
    append_frame_with(out, header, key, |out| {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EncodeError::TooLarge { limit: PAYLOAD_BYTES_MAX });
        }
        out.extend_from_slice(payload);
        Ok(payload.len())
    })
}

/// Appends one whole frame whose payload is whatever `write_payload` appends, and returns its padded length.
///
/// `write_payload` returns how many bytes it appended.
///
/// # Errors
///
/// See [`EncodeError`]; `out` is as it was.
///
/// # Panics
///
/// If `header` contradicts itself, as [`FrameHeader::encode`].
pub fn append_frame_with(
    out: &mut AlignedBytes,
    header: FrameHeader,
    key: &str,
    write_payload: impl FnOnce(&mut AlignedBytes) -> Result<usize, EncodeError>,
) -> Result<usize, EncodeError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(EncodeError::KeyTooLong { len: key.len(), limit: KEY_BYTES_MAX });
    }
    let before = out.len();
    pad_to_align(out);
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    out.extend_from_slice(key.as_bytes());
    pad_to_align(out);
    let payload_len = match write_payload(out) {
        Ok(len) => len,
        Err(error) => {
            out.resize(before, 0);
            return Err(error);
        }
    };
    pad_to_align(out);
    // Both are within their bounds, which fit.
    let header = FrameHeader { key_len: key.len() as u16, payload_len: payload_len as u32, ..header };
    header.encode(&mut out[start..]);
    debug_assert_eq!(out.len() - start, header.frame_len());
    Ok(out.len() - start)
}

const fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN_BYTES)
}

/// Where the checksum stands in a header.
const CRC_AT: core::ops::Range<usize> = 4..8;

/// A header's bytes, aligned for the checksum, which takes eight at a time from there: unaligned it costs twice as much.
#[repr(align(8))]
struct HeaderBytes([u8; HEADER_BYTES]);

impl HeaderBytes {
    fn of(words: [u64; HEADER_BYTES / 8]) -> Self {
        let mut bytes = Self([0; HEADER_BYTES]);
        for (bytes, word) in bytes.0.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }
}

/// What is wrong with a frame. Nothing was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer than 64 bytes so far: wait for more.
    Short {
        /// Bytes so far.
        len: usize,
    },
    /// The frame's bytes end before its payload does: wait for more.
    Incomplete {
        /// Bytes so far.
        len: usize,
        /// Bytes of the frame without padding.
        need: usize,
    },
    /// The header is damaged.
    Checksum {
        /// What the header says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A header layout of another version.
    Version {
        /// The version.
        version: u16,
    },
    /// A kind of frame that does not exist in this version.
    Kind {
        /// The number.
        kind: u16,
    },
    /// A slot group that does not exist.
    Group {
        /// The number.
        group: u8,
    },
    /// A status that does not exist in this version.
    Status {
        /// The number.
        status: u8,
    },
    /// A key longer than [`KEY_BYTES_MAX`].
    Key {
        /// Bytes of the key.
        key_len: u16,
    },
    /// A payload longer than [`PAYLOAD_BYTES_MAX`].
    Payload {
        /// Bytes of the payload.
        payload_len: u32,
    },
    /// The frame's length is not that of header, key and payload.
    Len {
        /// The frame's length.
        len: u32,
        /// Bytes of the key.
        key_len: u16,
        /// Bytes of the payload.
        payload_len: u32,
    },
    /// Fields that do not go together.
    Contradiction {
        /// Which.
        what: &'static str,
    },
    /// The key is no UTF-8.
    KeyText,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => write!(f, "{len} bytes of a 64-byte frame header"),
            Self::Incomplete { len, need } => write!(f, "{len} bytes of a frame of {need}"),
            Self::Checksum { stored, computed } => {
                write!(f, "frame header checksum {stored:08x} where its bytes give {computed:08x}")
            }
            Self::Version { version } => write!(f, "frame header version {version}; this node reads {HEADER_VERSION}"),
            Self::Kind { kind } => write!(f, "frame kind {kind} does not exist"),
            Self::Group { group } => write!(f, "slot group {group} does not exist"),
            Self::Status { status } => write!(f, "reply status {status} does not exist"),
            Self::Key { key_len } => write!(f, "an actor key of {key_len} bytes, more than {KEY_BYTES_MAX}"),
            Self::Payload { payload_len } => {
                write!(f, "a payload of {payload_len} bytes, more than {PAYLOAD_BYTES_MAX}")
            }
            Self::Len { len, key_len, payload_len } => {
                write!(f, "a frame length of {len} bytes with a key of {key_len} and a payload of {payload_len}")
            }
            Self::Contradiction { what } => write!(f, "{what}"),
            Self::KeyText => write!(f, "an actor key that is not UTF-8"),
        }
    }
}

impl core::error::Error for HeaderError {}

const _: () = assert!(MAX_FRAME_BYTES == frame_len(KEY_BYTES_MAX, PAYLOAD_BYTES_MAX));
