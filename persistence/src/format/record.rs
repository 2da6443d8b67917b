//! `RecordHeader`: 32 bytes before each record of a section, and the key definition.
//!
//! ```text
//!  0 u32 crc       CRC32C of bytes 8..32, payload and meta
//!  4 u32 head_crc  CRC32C of bytes 8..32
//!  8 u24 len       payload and meta, without the padding
//! 11 u8  kind
//! 12 u32 entity    number of the entity within this log; a key definition precedes its first use in each segment
//! 16 u40 seq       version of the entity: events 1, 2, ...; a snapshot has that of the last event in it
//! 21 u8  flags     1: last of its command; 2: has meta
//! 22 u16 schema_version
//! 24 u64 prev      where the entity's record before this one stands, 0 for none; see `Position`
//! 32 payload, then meta and u16 its length if it has one, then zeros up to a multiple of 16
//! ```
//!
//! Payloads therefore start at multiples of 16, which is what archives need to be read in place. An entity's records are a
//! list from its last one back to its first, so that nothing but the end of that list needs to be known in memory.
//!
//! Invariant: a record can be verified alone, without its frame, and its head without the rest, so that a damaged snapshot
//! does not cut off what is older.

use crate::format::checksum::crc32c;
use shardstage_codec::GroupId;

use super::position::Position;
use super::{put, u16_at, u32_at, u64_at};

/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Records start at multiples of this within a frame.
pub const RECORD_ALIGN_BYTES: usize = 16;
/// This record is the last one of its command.
pub const FLAG_LAST_OF_COMMAND: u8 = 1;
/// The record ends in meta and its length.
const FLAG_META: u8 = 2;
/// Bytes of the length behind the meta.
const META_LEN_BYTES: usize = 2;
/// One above the highest version of an entity.
pub const MAX_SEQ: u64 = 1 << 40;

/// What a record is. Numbers 4 to 8 and 10 are kept for what [`reserved_kind`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// An event of an entity.
    Event = 1,
    /// Gives an entity number its actor type and key; see [`KeyDef`].
    KeyDef = 2,
    /// An entity's state after `seq` events, or as it was saved as a whole under number `seq`.
    Snapshot = 3,
    /// A message that leaves after its command is durable, until it is known to have arrived.
    Outbox = 9,
    /// A command that was carried out, by client and sequence, with its reply.
    Dedup = 11,
    /// Outbox messages that have arrived; others have not yet.
    OutboxDone = 12,
    /// A key of an entity's state was set.
    StatePut = 13,
    /// A key of an entity's state was deleted.
    StateDelete = 14,
    /// Outbox messages that have arrived, the last of them.
    OutboxSettled = 15,
}

impl RecordKind {
    fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Event),
            2 => Some(Self::KeyDef),
            3 => Some(Self::Snapshot),
            9 => Some(Self::Outbox),
            11 => Some(Self::Dedup),
            12 => Some(Self::OutboxDone),
            13 => Some(Self::StatePut),
            14 => Some(Self::StateDelete),
            15 => Some(Self::OutboxSettled),
            _ => None,
        }
    }

    /// The entity's version after a record of this kind with number `seq`, when `last` was its version before.
    ///
    /// # Errors
    /// The number that would have fitted.
    ///
    /// # Panics
    /// For a key definition, which has no place in an entity's order.
    pub fn follows(self, last: u64, seq: u64) -> Result<u64, u64> {
        let fits = match self {
            Self::KeyDef => panic!("key definitions are written by the store itself"),
            Self::Event => seq == last + 1,
            Self::Snapshot => seq == last || seq == last + 1,
            Self::Outbox
            | Self::Dedup
            | Self::OutboxDone
            | Self::OutboxSettled
            | Self::StatePut
            | Self::StateDelete => seq == last,
        };
        match fits {
            true => Ok(seq),
            false => Err(if self == Self::Event { last + 1 } else { last }),
        }
    }
}

/// What a kind that this version does not know is kept for: named in the refusal.
#[must_use]
pub fn reserved_kind(kind: u8) -> &'static str {
    match kind {
        4 => "a newer version wrote this record: a tombstone",
        5 => "a newer version wrote this record: a truncation",
        6 => "a newer version wrote this record: a reminder that is set",
        7 => "a newer version wrote this record: a reminder that is cancelled",
        8 => "a newer version wrote this record: a reminder that fired",
        10 => "a newer version wrote this record: an offset",
        _ => "a newer version wrote this record: its kind is unknown",
    }
}

/// The header's fields without checksum and lengths, which follow from payload and meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The entity's number in this log.
    pub entity: u64,
    /// The entity's version.
    pub seq: u64,
    /// Version of the payload's schema.
    pub schema_version: u16,
    /// What this is.
    pub kind: RecordKind,
    /// `FLAG_*`.
    pub flags: u8,
    /// Where the entity's record before this one stands.
    pub prev: Option<Position>,
}

/// A record as it lies in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The header.
    pub header: RecordHeader,
    /// The event, key definition or snapshot.
    pub payload: &'a [u8],
    /// Command id and the like.
    pub meta: &'a [u8],
    /// Bytes on the disk, padding included.
    pub stored_bytes: usize,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The lengths do not fit into the bytes.
    BadLength,
    /// The checksum does not match.
    BadCrc,
    /// The kind is unknown: a newer format wrote it.
    UnknownKind(u8),
}

/// Bytes of a record with this payload and meta, padding included.
#[must_use]
pub fn stored_bytes(payload: usize, meta: usize) -> usize {
    (RECORD_HEADER_BYTES + payload + body_tail(meta)).next_multiple_of(RECORD_ALIGN_BYTES)
}

fn body_tail(meta: usize) -> usize {
    if meta == 0 { 0 } else { meta + META_LEN_BYTES }
}

impl RecordHeader {
    /// Appends the record to `out`.
    ///
    /// # Panics
    /// When a field or length exceeds its bits; `append` checks smaller limits first.
    pub fn encode(&self, payload: &[u8], meta: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.encode_unsealed(payload, meta, out);
        seal(&mut out[start..], self.prev);
    }

    /// Appends the record without its checksums and place in the entity's list, which [`seal`] adds.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn encode_unsealed(&self, payload: &[u8], meta: &[u8], out: &mut Vec<u8>) {
        let len = payload.len() + body_tail(meta.len());
        let len_field = u32::try_from(len).expect("records are smaller than a frame");
        assert!(len_field < 1 << 24 && self.seq < MAX_SEQ, "length and sequence fit their bits");
        let entity = u32::try_from(self.entity).expect("a log has fewer than 2^32 entities");
        let start = out.len();
        out.resize(start + RECORD_HEADER_BYTES, 0);
        let header = &mut out[start..];
        put(header, 8, &(len_field | u32::from(self.kind as u8) << 24).to_le_bytes());
        put(header, 12, &entity.to_le_bytes());
        let flags = if meta.is_empty() { self.flags } else { self.flags | FLAG_META };
        put(header, 16, &(self.seq | u64::from(flags) << 40 | u64::from(self.schema_version) << 48).to_le_bytes());
        out.extend_from_slice(payload);
        if !meta.is_empty() {
            let meta_len = u16::try_from(meta.len()).expect("meta is smaller than 64 KiB");
            out.extend_from_slice(meta);
            out.extend_from_slice(&meta_len.to_le_bytes());
        }
        out.resize(start + stored_bytes(payload.len(), meta.len()), 0);
    }

    /// Reads a header from the start of `bytes` with the length of what follows it. Only the head is verified.
    ///
    /// # Errors
    /// See [`RecordError`].
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        let Some(bytes) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else { return Err(RecordError::BadLength) };
        if crc32c(&bytes[8..]) != u32_at(bytes, 4) {
            return Err(RecordError::BadCrc);
        }
        let (first, second) = (u32_at(bytes, 8), u64_at(bytes, 16));
        let kind = RecordKind::from_u8(bytes[11]).ok_or(RecordError::UnknownKind(bytes[11]))?;
        let header = Self {
            entity: u64::from(u32_at(bytes, 12)),
            seq: second & (MAX_SEQ - 1),
            schema_version: u16_at(bytes, 22),
            kind,
            flags: bytes[21],
            prev: Position::from_bits(u64_at(bytes, 24)),
        };
        Ok((header, (first & 0x00ff_ffff) as usize))
    }
}

/// Gives an unsealed record its place in the entity's list and its checksums.
///
/// # Panics
/// When `record` does not start with a record.
pub fn seal(record: &mut [u8], prev: Option<Position>) {
    let end = RECORD_HEADER_BYTES + (u32_at(record, 8) & 0x00ff_ffff) as usize;
    put(record, 24, &prev.map_or(0, Position::bits).to_le_bytes());
    let head_crc = crc32c(&record[8..RECORD_HEADER_BYTES]);
    let crc = crc32c(&record[8..end]);
    put(record, 4, &head_crc.to_le_bytes());
    put(record, 0, &crc.to_le_bytes());
}

impl<'a> RecordView<'a> {
    /// Reads the record at the start of `bytes`.
    ///
    /// # Errors
    /// See [`RecordError`].
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (header, len) = RecordHeader::decode(bytes)?;
        let end = RECORD_HEADER_BYTES + len;
        let stored_bytes = end.next_multiple_of(RECORD_ALIGN_BYTES);
        if stored_bytes > bytes.len() {
            return Err(RecordError::BadLength);
        }
        let body = &bytes[RECORD_HEADER_BYTES..end];
        if crc32c(&bytes[8..end]) != u32_at(bytes, 0) {
            return Err(RecordError::BadCrc);
        }
        if header.flags & FLAG_META == 0 {
            return Ok(Self { header, payload: body, meta: &[], stored_bytes });
        }
        let meta_end = len.checked_sub(META_LEN_BYTES).ok_or(RecordError::BadLength)?;
        let meta_len = usize::from(u16_at(body, meta_end));
        let meta_start = meta_end.checked_sub(meta_len).ok_or(RecordError::BadLength)?;
        Ok(Self { header, payload: &body[..meta_start], meta: &body[meta_start..meta_end], stored_bytes })
    }
}

/// The payload of a [`RecordKind::KeyDef`] record.
///
/// ```text
/// 0 u64 event_id   stable id of the actor type's event type
/// 8 u16 type_len  10 u16 key_len  12 u8 group  13 u8[3] zero
/// 16 type name, then key, both UTF-8
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDef<'a> {
    /// Stable id of the event type.
    pub event_id: u64,
    /// Slot group of the entity.
    pub group: GroupId,
    /// Name of the actor type.
    pub type_name: &'a str,
    /// The entity's key.
    pub key: &'a str,
}

/// Bytes of a key definition before its two strings.
const KEY_DEF_FIXED_BYTES: usize = 16;

impl<'a> KeyDef<'a> {
    /// Bytes of the record that [`encode`](Self::encode) appends.
    #[must_use]
    pub fn record_bytes(type_name: &str, key: &str) -> usize {
        stored_bytes(KEY_DEF_FIXED_BYTES + type_name.len() + key.len(), 0)
    }

    /// Appends the whole record to `out`.
    ///
    /// # Panics
    /// When a string is longer than 65,535 bytes; `intern` checks the smaller limit first.
    pub fn encode(&self, entity: u64, out: &mut Vec<u8>) {
        let type_len = u16::try_from(self.type_name.len()).expect("checked when the key was interned");
        let key_len = u16::try_from(self.key.len()).expect("checked when the key was interned");
        let mut payload = Vec::with_capacity(KEY_DEF_FIXED_BYTES + self.type_name.len() + self.key.len());
        payload.extend_from_slice(&self.event_id.to_le_bytes());
        payload.extend_from_slice(&type_len.to_le_bytes());
        payload.extend_from_slice(&key_len.to_le_bytes());
        payload.extend_from_slice(&[self.group.get(), 0, 0, 0]);
        payload.extend_from_slice(self.type_name.as_bytes());
        payload.extend_from_slice(self.key.as_bytes());
        let header = RecordHeader { entity, seq: 0, schema_version: 0, kind: RecordKind::KeyDef, flags: 0, prev: None };
        header.encode(&payload, &[], out);
    }

    /// Reads the payload; `None` when it is malformed.
    #[must_use]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        if payload.len() < KEY_DEF_FIXED_BYTES {
            return None;
        }
        let type_end = KEY_DEF_FIXED_BYTES + usize::from(u16_at(payload, 8));
        let key_end = type_end + usize::from(u16_at(payload, 10));
        if key_end != payload.len() {
            return None;
        }
        Some(Self {
            event_id: u64_at(payload, 0),
            group: GroupId::new(payload[12])?,
            type_name: std::str::from_utf8(&payload[KEY_DEF_FIXED_BYTES..type_end]).ok()?,
            key: std::str::from_utf8(&payload[type_end..key_end]).ok()?,
        })
    }
}
