//! `EntityIndex`: which entities a log has, and what is known of those that are in use.
//!
//! Derived from the log and never evidence about it: rebuilt by a scan, or read from a checkpoint and brought up to date by the
//! scan of what came after. An entity that sleeps costs its entry in the [`EntityTable`]; one that is in use has its name in
//! memory besides, because key definitions and appends need it.
//!
//! Invariant: the table tells what is durable, the entities in use what was appended. Shard thread only.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use shardstage_codec::GroupId;

use super::table::{EntityTable, Entry, Fingerprints};
use crate::format::position::Position;
use crate::format::record::{KeyDef, RecordKind};
use crate::recovery::FoundRecord;
use crate::store::EntityId;

fn number_of(id: EntityId) -> u32 {
    // 0 is no entity.
    u32::try_from(id.0).unwrap_or(0)
}

/// Room for this many times the entities in use is too much.
const MOST_ROOM: usize = 8;
/// Room for so many is never too much.
const LEAST_IN_USE: usize = 1024;

/// An entity in use.
#[derive(Debug)]
pub(crate) struct Entity {
    pub(crate) type_name: Box<str>,
    pub(crate) key: Box<str>,
    pub(crate) event_id: u64,
    pub(crate) group: GroupId,
    /// Version that was appended, durable or not.
    pub(crate) appended_seq: u64,
    /// Last batch with a record of this entity, 0 for none.
    pub(crate) batch: u64,
    /// The last record that was sealed into a frame, durable or not.
    pub(crate) tail: Option<Position>,
    /// The latest key definition that was sealed.
    pub(crate) key_at: Option<Position>,
    /// How many use it: with none it sleeps as soon as everything is durable.
    users: u32,
}

/// All entities of one log.
#[derive(Debug)]
pub(crate) struct EntityIndex {
    prints: Fingerprints,
    table: EntityTable,
    in_use: HashMap<u32, Box<Entity>, FixedState>,
}

impl EntityIndex {
    pub(crate) fn new(log_id: u64) -> Self {
        Self { prints: Fingerprints::new(log_id), table: EntityTable::default(), in_use: HashMap::default() }
    }

    /// An index with what a checkpoint told.
    pub(crate) fn with_table(log_id: u64, table: EntityTable) -> Self {
        Self { table, ..Self::new(log_id) }
    }

    /// The entity's number; a new one when the key was never seen. The entity is in use until it is released. `None` when
    /// another key with the same fingerprint is in use.
    pub(crate) fn intern(&mut self, def: &KeyDef<'_>) -> Option<EntityId> {
        let print = self.prints.of(def.type_name, def.key);
        let number = self.table.find(print).unwrap_or_else(|| self.table.add(print));
        if let Some(entity) = self.in_use.get_mut(&number) {
            entity.users += 1;
            let same = *entity.type_name == *def.type_name && *entity.key == *def.key;
            return same.then_some(EntityId(u64::from(number)));
        }
        let entry = self.table.get(number).expect("found or added above");
        let entity = Entity {
            type_name: def.type_name.into(),
            key: def.key.into(),
            event_id: def.event_id,
            group: def.group,
            appended_seq: entry.seq(),
            batch: 0,
            tail: entry.tail(),
            key_at: entry.key_at(),
            users: 1,
        };
        self.in_use.insert(number, Box::new(entity));
        Some(EntityId(u64::from(number)))
    }

    /// One who interned the entity uses it no more. After the last one it sleeps from now on, or from when everything appended for it is durable.
    pub(crate) fn release(&mut self, id: EntityId, durable_batch: u64) {
        let Some(entity) = self.in_use.get_mut(&number_of(id)) else { return };
        entity.users = entity.users.saturating_sub(1);
        self.sleep_if_released(id, durable_batch);
    }

    fn sleep_if_released(&mut self, id: EntityId, durable_batch: u64) {
        let number = number_of(id);
        let sleeps = self.in_use.get(&number).is_some_and(|entity| entity.users == 0 && entity.batch <= durable_batch);
        if sleeps {
            self.in_use.remove(&number);
            self.table.remove_unwritten(number);
            // After a storm of activations the room for so many names is given back, in steps that keep this rare.
            if self.in_use.capacity() > MOST_ROOM * self.in_use.len().max(LEAST_IN_USE) {
                self.in_use.shrink_to(2 * self.in_use.len());
            }
        }
    }

    /// Takes a record that the scan found; the error says how it contradicts what came before. A record that a checkpoint
    /// knows already is passed over.
    #[inline]
    pub(crate) fn replay(&mut self, found: &FoundRecord<'_>) -> Result<(), &'static str> {
        let header = &found.view.header;
        let number = number_of(EntityId(header.entity));
        let position = Position::new(found.segment, found.offset, found.view.stored_bytes);
        if header.kind == RecordKind::KeyDef {
            return self.replay_key(number, found.view.payload, position);
        }
        let Some(entry) = self.table.get_mut(number) else {
            return Err("a record's entity has no key definition before it");
        };
        if entry.tail().is_some_and(|tail| tail >= position) {
            return Ok(());
        }
        if header.prev != entry.tail() {
            return Err("a record does not follow its entity's last one");
        }
        let Ok(seq) = header.kind.follows(entry.seq(), header.seq) else {
            return Err("an entity's sequence has a gap");
        };
        entry.advance(seq, position);
        self.table.note_outbox(number, header.kind);
        Ok(())
    }

    fn replay_key(&mut self, number: u32, payload: &[u8], position: Position) -> Result<(), &'static str> {
        let Some(def) = KeyDef::decode(payload) else { return Err("a key definition is malformed") };
        let print = self.prints.of(def.type_name, def.key);
        let entry = self.table.add_as(number, print).ok_or("an entity number has two keys, or a key two numbers")?;
        if entry.key_at().is_none_or(|known| known < position) {
            entry.define(position);
        }
        Ok(())
    }

    /// Takes a record whose frame is durable now, the newest of its entity.
    pub(crate) fn committed(&mut self, id: EntityId, kind: RecordKind, seq: u64, position: Position) {
        let entry = self.table.get_mut(number_of(id)).expect("entities in use have their entry");
        match kind {
            RecordKind::KeyDef => entry.define(position),
            _ => entry.advance(seq, position),
        }
        self.table.note_outbox(number_of(id), kind);
    }

    /// All records of the entity up to this batch are durable and were told of.
    pub(crate) fn settled(&mut self, id: EntityId, durable_batch: u64) {
        self.sleep_if_released(id, durable_batch);
    }

    /// Entities that owe outbox messages; see [`EntityTable::owing`].
    pub(crate) fn owing(&self, after: EntityId, most: usize) -> (Vec<EntityId>, EntityId) {
        let (numbers, next) = self.table.owing(number_of(after), most);
        (numbers.into_iter().map(|number| EntityId(number.into())).collect(), EntityId(next.into()))
    }

    /// What is durable of an entity.
    pub(crate) fn durable(&self, id: EntityId) -> Option<&Entry> {
        self.table.get(number_of(id))
    }

    /// The entity, if it is in use.
    pub(crate) fn find(&self, id: EntityId) -> Option<&Entity> {
        self.in_use.get(&number_of(id)).map(|entity| &**entity)
    }

    pub(crate) fn get(&self, id: EntityId) -> &Entity {
        self.find(id).expect("an entity with records on their way is in use")
    }

    pub(crate) fn get_mut(&mut self, id: EntityId) -> &mut Entity {
        self.in_use.get_mut(&number_of(id)).expect("an entity with records on their way is in use")
    }

    pub(crate) fn table(&self) -> &EntityTable {
        &self.table
    }

    /// How many entities are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.len()
    }

    /// Differs when fingerprints are made in another way than those in a checkpoint.
    pub(crate) fn check(&self) -> u64 {
        self.prints.check()
    }
}
