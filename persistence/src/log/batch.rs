//! `Batch`: records that wait for a frame, and sealing them into one.
//!
//! Invariant: a batch with all its key definitions fits into one frame; its records keep their append order within each
//! (group, epoch). Shard thread only.

use shardstage_codec::{Epoch, GroupId};

use super::index::EntityIndex;
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::position::Position;
use crate::format::record::{KeyDef, RecordHeader, RecordKind, seal, stored_bytes};
use crate::format::section::{SECTION_HEADER_BYTES, SectionHeader};
use crate::limits::{GROUPS, PART_KEPT_BYTES};
use crate::recovery::GroupTail;
use crate::store::{EntityId, Held, NewRecord};

/// A record in an unsealed part.
struct Mark {
    entity: EntityId,
    kind: RecordKind,
    seq: u64,
    offset: usize,
    stored_bytes: usize,
}

/// Records of one group under one epoch: the section to be. Its memory is used again by later ones.
struct Part {
    group: GroupId,
    epoch: Epoch,
    /// Entities whose first record of this batch is here.
    first_used: Vec<EntityId>,
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    parts: Vec<Part>,
    /// Empty ones, of earlier batches.
    spare: Vec<Part>,
    /// Key definitions of the section that is being sealed.
    keys: Vec<u8>,
    /// Bytes of the frame if every entity needs its key definition.
    worst_bytes: usize,
    pub(crate) records: u64,
    pub(crate) effects: Vec<Held>,
    /// Where its records are, once it is sealed.
    pub(crate) placed: Vec<Placed>,
}

/// A record of a sealed frame.
pub(crate) struct Placed {
    pub(crate) entity: EntityId,
    pub(crate) kind: RecordKind,
    pub(crate) seq: u64,
    pub(crate) position: Position,
}

/// What sealing wrote into the frame's buffer.
pub(crate) struct Sealed {
    pub(crate) len: usize,
    pub(crate) record_count: u32,
    pub(crate) section_count: u16,
}

impl Batch {
    /// An empty batch with this number, in the memory of a [cleared](Self::clear) one.
    pub(crate) fn begin(self, number: u64) -> Self {
        debug_assert!(self.parts.is_empty() && self.effects.is_empty() && self.placed.is_empty());
        Self { number, worst_bytes: FRAME_HEADER_BYTES, records: 0, ..self }
    }

    /// Drops what it has and keeps most of the memory for the next batch.
    pub(crate) fn clear(&mut self) {
        for mut part in self.parts.drain(..) {
            part.first_used.clear();
            part.bytes.clear();
            part.marks.clear();
            if self.spare.len() < GROUPS && part.bytes.capacity() <= PART_KEPT_BYTES {
                self.spare.push(part);
            }
        }
        self.keys.clear();
        self.effects.clear();
        self.placed.clear();
    }

    /// Upper bound of the frame's length without padding.
    pub(crate) fn worst_bytes(&self) -> usize {
        self.worst_bytes
    }

    /// Upper bound of what `records` of an entity add to a batch.
    pub(crate) fn cost(type_name: &str, key: &str, records: &[NewRecord<'_>]) -> usize {
        let bodies: usize = records.iter().map(|record| stored_bytes(record.payload.len(), record.meta.len())).sum();
        SECTION_HEADER_BYTES + KeyDef::record_bytes(type_name, key) + bodies
    }

    /// Adds the records of one command.
    pub(crate) fn add(
        &mut self,
        group: GroupId,
        epoch: Epoch,
        id: EntityId,
        records: &[NewRecord<'_>],
        index: &mut EntityIndex,
    ) {
        let entity = index.get_mut(id);
        let at = match self.parts.iter().rposition(|part| part.group == group && part.epoch == epoch) {
            Some(at) => at,
            None => {
                self.worst_bytes += SECTION_HEADER_BYTES;
                let part = match self.spare.pop() {
                    Some(part) => Part { group, epoch, ..part },
                    None => Part { group, epoch, first_used: Vec::new(), bytes: Vec::new(), marks: Vec::new() },
                };
                self.parts.push(part);
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        if entity.batch != self.number {
            entity.batch = self.number;
            part.first_used.push(id);
            self.worst_bytes += KeyDef::record_bytes(&entity.type_name, &entity.key);
        }
        for (nth, record) in records.iter().enumerate() {
            let last = nth + 1 == records.len();
            let header = RecordHeader {
                entity: id.0,
                seq: record.seq,
                schema_version: record.schema_version,
                kind: record.kind,
                flags: if last { crate::format::record::FLAG_LAST_OF_COMMAND } else { 0 },
                // Known when the frame is sealed.
                prev: None,
            };
            let offset = part.bytes.len();
            header.encode_unsealed(record.payload, record.meta, &mut part.bytes);
            let stored_bytes = part.bytes.len() - offset;
            part.marks.push(Mark { entity: id, kind: record.kind, seq: record.seq, offset, stored_bytes });
            self.worst_bytes += stored_bytes;
            self.records += 1;
        }
    }

    /// Writes the sections to `frame[64..]`, for a frame at byte `frame_at` of `segment`. The header is the caller's.
    pub(crate) fn seal(
        &mut self,
        segment: u64,
        frame_at: u64,
        frame: &mut [u8],
        groups: &mut [GroupTail],
        index: &mut EntityIndex,
    ) -> Sealed {
        let mut at = FRAME_HEADER_BYTES;
        let mut record_count = 0u32;
        let Self { parts, keys, placed, .. } = self;
        for part in &*parts {
            keys.clear();
            let body_at = at + SECTION_HEADER_BYTES;
            let mut count = 0u32;
            for id in &part.first_used {
                let entity = index.get_mut(*id);
                if entity.key_at.is_some_and(|key_at| key_at.segment() == segment) {
                    continue;
                }
                let def = KeyDef {
                    event_id: entity.event_id,
                    group: entity.group,
                    type_name: &entity.type_name,
                    key: &entity.key,
                };
                let offset = keys.len();
                def.encode(id.0, keys);
                let position = Position::new(segment, frame_at + (body_at + offset) as u64, keys.len() - offset);
                entity.key_at = Some(position);
                placed.push(Placed { entity: *id, kind: RecordKind::KeyDef, seq: 0, position });
                count += 1;
            }
            let records_at = body_at + keys.len();
            let end = records_at + part.bytes.len();
            frame[body_at..records_at].copy_from_slice(keys);
            frame[records_at..end].copy_from_slice(&part.bytes);
            for mark in &part.marks {
                let start = records_at + mark.offset;
                let position = Position::new(segment, frame_at + start as u64, mark.stored_bytes);
                let prev = index.get_mut(mark.entity).tail.replace(position);
                seal(&mut frame[start..start + mark.stored_bytes], prev);
                placed.push(Placed { entity: mark.entity, kind: mark.kind, seq: mark.seq, position });
            }
            count += u32::try_from(part.marks.len()).expect("a frame holds fewer than 2^32 records");
            let group = &mut groups[usize::from(part.group.get())];
            let header = SectionHeader {
                bytes: u32::try_from(end - body_at).expect("a frame is smaller than 4 GiB"),
                epoch: part.epoch,
                first_sequence: group.records + 1,
                count,
                group: part.group,
            };
            header.encode(&mut frame[at..end]);
            group.records += u64::from(count);
            record_count += count;
            at = end;
        }
        debug_assert!(at <= self.worst_bytes);
        let section_count = u16::try_from(self.parts.len()).expect("a frame has fewer than 2^16 sections");
        Sealed { len: at, record_count, section_count }
    }
}
