//! `Table`: small integer keys for files and sockets.
//!
//! Invariant: a key of a removed entry finds nothing until its slot was reused 65,536 times, so a late event or a stale
//! id cannot reach somebody else's file.

/// A slot map with 16 bits of index and 16 bits of generation in each key.
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
}

struct Slot<T> {
    generation: u16,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Stores `value`; gives it back when all 65,536 slots are taken.
    pub(super) fn insert(&mut self, value: T) -> Result<u32, T> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[usize::from(index)];
            assert!(slot.value.is_none(), "a free slot is empty");
            slot.value = Some(value);
            return Ok(key(index, slot.generation));
        }
        let Ok(index) = u16::try_from(self.slots.len()) else { return Err(value) };
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Ok(key(index, 0))
    }

    pub(super) fn get(&self, key: u32) -> Option<&T> {
        let (index, generation) = split(key);
        self.slots.get(index).filter(|slot| slot.generation == generation)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        let (index, generation) = split(key);
        self.slots.get_mut(index).filter(|slot| slot.generation == generation)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<T> {
        let (index, generation) = split(key);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(u16::try_from(index).expect("indexes are 16 bits wide"));
        Some(value)
    }

    /// All entries with their keys, by slot.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let index = u16::try_from(index).expect("indexes are 16 bits wide");
            let generation = slot.generation;
            slot.value.as_mut().map(|value| (key(index, generation), value))
        })
    }
}

fn key(index: u16, generation: u16) -> u32 {
    u32::from(generation) << 16 | u32::from(index)
}

fn split(key: u32) -> (usize, u16) {
    let [low, high] = [key & 0xffff, key >> 16];
    (low as usize, u16::try_from(high).expect("the upper half of a u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_finds_nothing_after_its_slot_is_reused() {
        let mut table = Table::new();
        let old = table.insert('a').expect("there is room");
        assert_eq!(table.remove(old), Some('a'));
        let new = table.insert('b').expect("there is room");
        assert_ne!(old, new);
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&'b'));
        assert_eq!(table.iter_mut().map(|(key, _)| key).collect::<Vec<_>>(), vec![new]);
    }
}
