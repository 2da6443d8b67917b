//! `Names`: the entities of a log by number, learnt from its key definitions, and how far their records are whole.
//!
//! Invariant: an entity's records are admitted in order and without a gap: each names the one before it, and its number
//! follows.

use std::collections::BTreeMap;

use shardstage_codec::GroupId;

use crate::format::position::Position;
use crate::format::record::{KeyDef, RECORD_ALIGN_BYTES, RecordKind, RecordView};
use crate::limits::MAX_SEGMENT_BYTES;

/// One entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// Name of the actor type.
    pub type_name: Box<str>,
    /// Its key.
    pub key: Box<str>,
    /// Stable id of the type's events.
    pub event_id: u64,
    /// Its slot group.
    pub group: GroupId,
    /// Its version after the last admitted record.
    pub last_seq: u64,
    /// Where that record stands.
    pub tail: Option<Position>,
}

/// Why a record does not continue its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfPlace {
    /// No key definition gave the entity a name.
    Nameless,
    /// The record before it was not admitted, or its number does not follow.
    Gap {
        /// The entity's version after its last admitted record.
        last_seq: u64,
    },
    /// A key definition cannot be read, or names an entity otherwise than an earlier one.
    KeyDefinition,
}

/// See the module's head. About 150 bytes an entity.
#[derive(Clone, Debug, Default)]
pub struct Names {
    entities: BTreeMap<u64, Entity>,
}

impl Names {
    /// Takes the log's next record, which stands at byte `offset` of `segment`.
    ///
    /// # Errors
    /// [`OutOfPlace`]: the record does not continue its entity, and nothing changed.
    pub fn admit(&mut self, segment: u64, offset: u64, record: &RecordView<'_>) -> Result<(), OutOfPlace> {
        let header = &record.header;
        if header.kind == RecordKind::KeyDef {
            return self.define(header.entity, record.payload);
        }
        let entity = self.entities.get_mut(&header.entity).ok_or(OutOfPlace::Nameless)?;
        let gap = OutOfPlace::Gap { last_seq: entity.last_seq };
        let has_position = (1..=u64::from(u32::MAX)).contains(&segment)
            && offset < MAX_SEGMENT_BYTES
            && offset.is_multiple_of(RECORD_ALIGN_BYTES as u64);
        if header.prev != entity.tail || !has_position {
            return Err(gap);
        }
        entity.last_seq = header.kind.follows(entity.last_seq, header.seq).map_err(|_| gap)?;
        entity.tail = Some(Position::new(segment, offset, record.stored_bytes));
        Ok(())
    }

    /// The entity of this number.
    #[must_use]
    pub fn get(&self, entity: u64) -> Option<&Entity> {
        self.entities.get(&entity)
    }

    /// All entities by number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Entity)> {
        self.entities.iter().map(|(number, entity)| (*number, entity))
    }

    fn define(&mut self, number: u64, payload: &[u8]) -> Result<(), OutOfPlace> {
        let def = KeyDef::decode(payload).ok_or(OutOfPlace::KeyDefinition)?;
        match self.entities.get(&number) {
            Some(known) if *known.type_name == *def.type_name && *known.key == *def.key => Ok(()),
            Some(_) => Err(OutOfPlace::KeyDefinition),
            None => {
                let entity = Entity {
                    type_name: def.type_name.into(),
                    key: def.key.into(),
                    event_id: def.event_id,
                    group: def.group,
                    last_seq: 0,
                    tail: None,
                };
                self.entities.insert(number, entity);
                Ok(())
            }
        }
    }
}
