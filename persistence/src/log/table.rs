//! `EntityTable`: what is known in memory of every entity of a log: 32 bytes each, and 5 to 10 for finding it by name.
//!
//! Names are not kept: an entity is found by an 87-bit fingerprint of its type and key, and whoever loads it compares the name
//! that stands in the log. An entry says where the entity's last record stands; each record says where the one before it does.
//!
//! Invariant: entries change only when the records that they tell of are durable. Shard thread only.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::format::position::Position;
use crate::format::record::{MAX_SEQ, RecordKind};
use crate::limits::REVIVE_SCAN;

/// Entities of one chunk of the table, which is allocated as a whole: 128 KiB.
pub(crate) const CHUNK_ENTITIES: usize = 4096;
/// Bytes of one entity, in memory and in a checkpoint.
pub(crate) const ENTRY_BYTES: usize = 32;
/// The first size of the finder, in places.
const FIRST_PLACES: usize = 64;
/// The finder doubles when it is fuller than four fifths.
const FULL: (usize, usize) = (4, 5);

/// Names an entity by its type and key, with a chance of 1 in 2^87 that two have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    hash: u64,
    /// 23 bits.
    more: u32,
}

/// Makes the fingerprints of one log.
#[derive(Clone, Debug)]
pub(crate) struct Fingerprints {
    first: FixedState,
    second: FixedState,
}

impl Fingerprints {
    /// Seeded with the log's random identity, so that nobody can choose keys with equal fingerprints.
    pub(crate) fn new(log_id: u64) -> Self {
        Self { first: FixedState::with_seed(log_id), second: FixedState::with_seed(!log_id) }
    }

    pub(crate) fn of(&self, type_name: &str, key: &str) -> Fingerprint {
        let hash = self.first.hash_one((type_name, key));
        let more = self.second.hash_one((type_name, key));
        Fingerprint { hash, more: u32::try_from(more >> 41).expect("23 bits are left") }
    }

    /// A value that differs when fingerprints are made in another way than before.
    pub(crate) fn check(&self) -> u64 {
        self.first.hash_one(("type", "key")) ^ self.second.hash_one(("type", "key")).rotate_left(2)
    }
}

/// What is durable of one entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Entry {
    hash: u64,
    /// Bits 0..40: version; 40..63: the fingerprint's rest; 63: outbox messages have not arrived.
    seq: u64,
    /// Bits of the last record's position.
    tail: u64,
    /// Bits of the position of the latest key definition.
    key_at: u64,
}

/// In [`Entry::seq`].
const OWES: u64 = 1 << 63;

const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);
const _: () = assert!(MAX_SEQ == 1 << 40);

impl Entry {
    fn new(print: Fingerprint) -> Self {
        Self { hash: print.hash, seq: u64::from(print.more) << 40, tail: 0, key_at: 0 }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint { hash: self.hash, more: u32::try_from((self.seq & !OWES) >> 40).expect("23 bits are left") }
    }

    /// The entity's version: its last event or saved state; 0 for none.
    pub(crate) fn seq(&self) -> u64 {
        self.seq & (MAX_SEQ - 1)
    }

    pub(crate) fn tail(&self) -> Option<Position> {
        Position::from_bits(self.tail)
    }

    pub(crate) fn key_at(&self) -> Option<Position> {
        Position::from_bits(self.key_at)
    }

    /// The entity's last record is this one now.
    pub(crate) fn advance(&mut self, seq: u64, tail: Position) {
        debug_assert!(seq < MAX_SEQ && tail.bits() > self.tail);
        self.seq = self.seq & !(MAX_SEQ - 1) | seq;
        self.tail = tail.bits();
    }

    pub(crate) fn define(&mut self, key_at: Position) {
        self.key_at = key_at.bits();
    }

    /// Whether the entity's latest outbox record says that messages have not arrived.
    fn owes(&self) -> bool {
        self.seq & OWES != 0
    }

    /// Whether the log has nothing of the entity.
    fn is_unwritten(&self) -> bool {
        self.tail == 0 && self.key_at == 0
    }

    pub(crate) fn write_to(&self, bytes: &mut [u8]) {
        let words = [self.hash, self.seq, self.tail, self.key_at];
        for (bytes, word) in bytes[..ENTRY_BYTES].chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn read_from(bytes: &[u8]) -> Self {
        let word = |at| crate::format::u64_at(bytes, at);
        Self { hash: word(0), seq: word(8), tail: word(16), key_at: word(24) }
    }
}

type Chunk = [Entry; CHUNK_ENTITIES];

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct EntityTable {
    /// Entity `n` is entry `n - 1`.
    chunks: Vec<Option<Box<Chunk>>>,
    /// Entities by fingerprint, in open addressing; 0 for a free place.
    finder: Vec<u32>,
    used: usize,
    /// Entities that owe outbox messages.
    owing: usize,
    /// Numbers below `last` that have no entity, and were given back.
    free: Vec<u32>,
    last: u32,
}

impl EntityTable {
    /// How many entities there are.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// The highest number in use so far.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// The entries of one chunk; `None` when all are unused.
    pub(crate) fn chunk(&self, number: usize) -> Option<&Chunk> {
        self.chunks.get(number)?.as_deref()
    }

    /// Takes the entries of a checkpoint, the first of which is entity `first`; whether all fit. Unused ones are passed over.
    pub(crate) fn restore_all(&mut self, first: u32, bytes: &[u8]) -> bool {
        let entries = bytes.chunks_exact(ENTRY_BYTES).map(Entry::read_from);
        (first..).zip(entries).all(|(number, entry)| entry.is_unwritten() || self.restore(number, entry))
    }

    /// The entity with this fingerprint.
    pub(crate) fn find(&self, print: Fingerprint) -> Option<u32> {
        let mut place = self.first_place(print.hash)?;
        loop {
            let number = self.finder[place];
            if number == 0 {
                return None;
            }
            if self.entry(number).fingerprint() == print {
                return Some(number);
            }
            place = (place + 1) & (self.finder.len() - 1);
        }
    }

    /// A number for a new entity.
    pub(crate) fn add(&mut self, print: Fingerprint) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| self.last.checked_add(1).expect("a log has fewer entities"));
        self.insert(number, Entry::new(print));
        number
    }

    /// Makes `number` an entity that was found in the log; `None` when it is another one already, or the fingerprint is taken.
    pub(crate) fn add_as(&mut self, number: u32, print: Fingerprint) -> Option<&mut Entry> {
        if number == 0 {
            return None;
        }
        match self.find(print) {
            Some(found) if found == number => {}
            None if self.get(number).is_none() => self.insert(number, Entry::new(print)),
            _ => return None,
        }
        Some(self.entry_mut(number))
    }

    /// Takes an entry of a checkpoint; whether it fits.
    fn restore(&mut self, number: u32, entry: Entry) -> bool {
        let fits = !entry.is_unwritten() && number > 0 && self.get(number).is_none();
        if fits && self.find(entry.fingerprint()).is_none() {
            self.owing += usize::from(entry.owes());
            self.insert(number, entry);
            return true;
        }
        false
    }

    /// A record of this kind became durable.
    #[inline]
    pub(crate) fn note_outbox(&mut self, number: u32, kind: RecordKind) {
        let owes = match kind {
            RecordKind::Outbox | RecordKind::OutboxDone => true,
            RecordKind::OutboxSettled => false,
            _ => return,
        };
        let entry = self.entry_mut(number);
        let before = entry.owes();
        entry.seq = entry.seq & !OWES | if owes { OWES } else { 0 };
        self.owing = self.owing + usize::from(owes) - usize::from(before);
    }

    /// Up to `most` entities behind the number `after` that owe outbox messages, and the number to go on behind: 0 at the end.
    /// Looks at a bounded part of the table.
    pub(crate) fn owing(&self, after: u32, most: usize) -> (Vec<u32>, u32) {
        let mut found = Vec::new();
        if self.owing == 0 {
            return (found, 0);
        }
        let end = self.last.min(after.saturating_add(u32::try_from(REVIVE_SCAN).expect("it fits")));
        for number in after + 1..=end {
            if self.get(number).is_some_and(Entry::owes) {
                found.push(number);
                if found.len() == most {
                    return (found, number);
                }
            }
        }
        (found, if end == self.last { 0 } else { end })
    }

    /// Forgets an entity of which the log has nothing; its number may be used again.
    pub(crate) fn remove_unwritten(&mut self, number: u32) {
        let Some(entry) = self.get(number) else { return };
        if !entry.is_unwritten() {
            return;
        }
        let Some(mut place) = self.first_place(entry.hash) else { return };
        while self.finder[place] != number {
            place = (place + 1) & (self.finder.len() - 1);
        }
        self.close_gap(place);
        *self.entry_mut(number) = Entry::default();
        self.free.push(number);
        self.used -= 1;
    }

    /// The entity; `None` when there is none with this number.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Entry> {
        let at = number.checked_sub(1)? as usize;
        let entry = &self.chunks.get(at / CHUNK_ENTITIES)?.as_ref()?[at % CHUNK_ENTITIES];
        (*entry != Entry::default()).then_some(entry)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Entry> {
        let at = number.checked_sub(1)? as usize;
        let entry = &mut self.chunks.get_mut(at / CHUNK_ENTITIES)?.as_mut()?[at % CHUNK_ENTITIES];
        (*entry != Entry::default()).then_some(entry)
    }

    fn entry(&self, number: u32) -> &Entry {
        let at = number as usize - 1;
        &self.chunks[at / CHUNK_ENTITIES].as_ref().expect("numbers in use have their chunk")[at % CHUNK_ENTITIES]
    }

    fn entry_mut(&mut self, number: u32) -> &mut Entry {
        let at = number as usize - 1;
        &mut self.chunks[at / CHUNK_ENTITIES].as_mut().expect("numbers in use have their chunk")[at % CHUNK_ENTITIES]
    }

    fn insert(&mut self, number: u32, entry: Entry) {
        let at = number as usize - 1;
        let chunk = at / CHUNK_ENTITIES;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(new_chunk);
        chunk[at % CHUNK_ENTITIES] = entry;
        self.last = self.last.max(number);
        self.used += 1;
        if self.used * FULL.1 > self.finder.len() * FULL.0 {
            self.grow();
        }
        self.place(number);
    }

    fn grow(&mut self) {
        let places = (self.finder.len() * 2).max(FIRST_PLACES);
        let old = std::mem::replace(&mut self.finder, vec![0; places]);
        for number in old.into_iter().filter(|number| *number != 0) {
            self.place(number);
        }
    }

    fn place(&mut self, number: u32) {
        let hash = self.entry(number).hash;
        let mut place = self.first_place(hash).expect("the finder has places");
        while self.finder[place] != 0 {
            place = (place + 1) & (self.finder.len() - 1);
        }
        self.finder[place] = number;
    }

    fn first_place(&self, hash: u64) -> Option<usize> {
        let mask = self.finder.len().checked_sub(1)?;
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the place")]
        Some(hash as usize & mask)
    }

    /// Frees a place and moves what was pushed behind it.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.finder.len() - 1;
        let mut place = gap;
        loop {
            place = (place + 1) & mask;
            let number = self.finder[place];
            if number == 0 {
                break;
            }
            let home = self.first_place(self.entry(number).hash).expect("the finder has places");
            // It may move back when the gap is not before its home.
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(gap) & mask) {
                self.finder[gap] = number;
                gap = place;
            }
        }
        self.finder[gap] = 0;
    }
}

fn new_chunk() -> Box<Chunk> {
    let entries = vec![Entry::default(); CHUNK_ENTITIES].into_boxed_slice();
    let Ok(chunk) = entries.try_into() else { unreachable!("the vector has the chunk's length") };
    chunk
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn print(prints: &Fingerprints, at: u64) -> Fingerprint {
        prints.of("account", &format!("player-{at}"))
    }

    #[test]
    fn entities_are_found_added_and_forgotten_as_in_a_map() {
        let prints = Fingerprints::new(7);
        let mut table = EntityTable::default();
        let mut model: BTreeMap<u64, u32> = BTreeMap::new();
        let mut dice = 1u64;
        for _ in 0..60_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = dice >> 33 & 0xfff;
            let print = print(&prints, at);
            assert_eq!(table.find(print), model.get(&at).copied());
            match model.get(&at).copied() {
                None => {
                    let number = table.add(print);
                    assert!(model.values().all(|other| *other != number));
                    model.insert(at, number);
                }
                Some(number) if dice >> 20 & 3 == 0 => {
                    let entry = table.get_mut(number).expect("it was added");
                    let offset = entry.tail().map_or(16, |tail| tail.offset() + 16);
                    entry.advance(entry.seq() + 1, Position::new(1, offset, 16));
                }
                Some(number) => {
                    let written = table.get(number).expect("it was added").seq() > 0;
                    table.remove_unwritten(number);
                    if !written {
                        model.remove(&at);
                    }
                }
            }
            assert_eq!(table.len(), model.len());
        }
        assert!(model.len() > 1000);
    }

    #[test]
    fn a_number_and_a_fingerprint_belong_together() {
        let prints = Fingerprints::new(1);
        let mut table = EntityTable::default();
        assert!(table.add_as(9, print(&prints, 1)).is_some());
        assert!(table.add_as(9, print(&prints, 1)).is_some(), "a second definition of the same");
        assert!(table.add_as(9, print(&prints, 2)).is_none(), "a number with two keys");
        assert!(table.add_as(8, print(&prints, 1)).is_none(), "a key with two numbers");
        assert!(table.add_as(0, print(&prints, 3)).is_none());
        assert_eq!(table.add(print(&prints, 4)), 10);
    }
}
