//! The wheel: timers that are not near, in lists by the digits of their due time.
//!
//! ```text
//! due time, ns: | digit 5 | digit 4 | digit 3 | digit 2 | digit 1 | digit 0 | 16 bits: a granule of 65.5 us |
//!                3,570 a    13.9 a    19.9 d    1.3 h     4.3 s     16.8 ms   (a slot of level 2 spans 4.3 s, and so on)
//! ```
//!
//! A timer waits on the level of the highest digit in which its granule differs from the one that was opened last. Opening a
//! slot spreads its list over the levels below, so a timer moves at most six times, and most move two or three times.
//!
//! Invariant: the granules of all timers here come after `opened`; a list is in order of insertion, and every timer in a
//! list was inserted before any that will join its members on a lower level, so timers of one time keep their order.
//! Shard thread only.

use super::near::Near;
use super::slab::{Links, NIL, Place, Slab};
use crate::limits::TIMER_GRANULE_BITS;

/// Bits of a digit.
const DIGIT_BITS: u32 = 8;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = ((u64::BITS - TIMER_GRANULE_BITS) / DIGIT_BITS) as usize;

const _: () = assert!(LEVELS as u32 * DIGIT_BITS + TIMER_GRANULE_BITS == u64::BITS, "every time has its place");

/// One list, and the earliest time that was ever in it since it was empty.
#[derive(Clone, Copy)]
struct Slot {
    first: u32,
    last: u32,
    earliest_ns: u64,
}

const EMPTY: Slot = Slot { first: NIL, last: NIL, earliest_ns: u64::MAX };

/// The lists of one digit.
struct Level {
    /// One bit a list that is not empty.
    used: [u64; SLOTS / 64],
    slots: [Slot; SLOTS],
}

impl Level {
    /// The lowest list that is not empty.
    fn lowest(&self) -> Option<u8> {
        let word = self.used.iter().position(|word| *word != 0)?;
        u8::try_from(word as u32 * 64 + self.used[word].trailing_zeros()).ok()
    }
}

/// See the module's head. Levels are made when they are first used, 4 KiB each.
pub(super) struct Wheel {
    opened: u64,
    levels: [Option<Box<Level>>; LEVELS],
}

impl Wheel {
    pub(super) const fn new() -> Self {
        Self { opened: 0, levels: [const { None }; LEVELS] }
    }

    /// Puts a timer into its list, or into `near` if its granule was opened.
    pub(super) fn put(&mut self, index: u32, nodes: &mut Slab, near: &mut Near) {
        let at_ns = nodes[index].at_ns;
        let granule = at_ns >> TIMER_GRANULE_BITS;
        if granule <= self.opened {
            nodes[index].place = Place::Near;
            nodes[index].wheel = Links::NONE;
            return near.push(at_ns, nodes[index].number, index);
        }
        let highest = u64::BITS - 1 - (granule ^ self.opened).leading_zeros();
        let level = highest / DIGIT_BITS;
        let slot = (granule >> (level * DIGIT_BITS)) as u8;
        let level = level as u8;
        let lists = self.levels[usize::from(level)]
            .get_or_insert_with(|| Box::new(Level { used: [0; SLOTS / 64], slots: [EMPTY; SLOTS] }));
        lists.used[usize::from(slot) / 64] |= 1 << (slot % 64);
        let list = &mut lists.slots[usize::from(slot)];
        list.earliest_ns = list.earliest_ns.min(at_ns);
        let before = std::mem::replace(&mut list.last, index);
        if before == NIL {
            list.first = index;
        } else {
            nodes[before].wheel.after = index;
        }
        let node = &mut nodes[index];
        node.wheel = Links { before, after: NIL };
        node.place = Place::Wheel { level, slot };
    }

    /// Takes a timer out of its list.
    pub(super) fn unlink(&mut self, (level, slot): (u8, u8), index: u32, nodes: &mut Slab) {
        let Links { before, after } = nodes[index].wheel;
        let lists = self.levels[usize::from(level)].as_mut().expect("a timer is on this level");
        let list = &mut lists.slots[usize::from(slot)];
        if before == NIL {
            list.first = after
        } else {
            nodes[before].wheel.after = after
        }
        if after == NIL {
            list.last = before
        } else {
            nodes[after].wheel.before = before
        }
        if list.first == NIL {
            *list = EMPTY;
            lists.used[usize::from(slot) / 64] &= !(1 << (slot % 64));
        }
    }

    /// The first slot that is not empty, in order of time: on the lowest level that has any.
    fn first(&self) -> Option<(u8, u8)> {
        let mut levels = (0_u8..).zip(&self.levels);
        levels.find_map(|(number, level)| Some((number, level.as_ref()?.lowest()?)))
    }

    /// Opens granules up to the one of `now_ns`, until one of them had timers, which are near then. Returns whether one had.
    pub(super) fn open(&mut self, now_ns: u64, nodes: &mut Slab, near: &mut Near) -> bool {
        let target = now_ns >> TIMER_GRANULE_BITS;
        while let Some((level, slot)) = self.first() {
            let shift = u32::from(level) * DIGIT_BITS;
            let above = (self.opened >> shift) & !(SLOTS as u64 - 1);
            let begins = (above | u64::from(slot)) << shift;
            if begins > target {
                break;
            }
            debug_assert!(begins > self.opened, "what was opened is empty");
            self.opened = begins;
            let lists = self.levels[usize::from(level)].as_mut().expect("a timer is on this level");
            let mut next = std::mem::replace(&mut lists.slots[usize::from(slot)], EMPTY).first;
            lists.used[usize::from(slot) / 64] &= !(1 << (slot % 64));
            while next != NIL {
                let index = next;
                next = nodes[index].wheel.after;
                self.put(index, nodes, near);
            }
            if !near.is_empty() {
                return true;
            }
        }
        self.opened = self.opened.max(target);
        false
    }

    /// The earliest time in the first slot; one that was cancelled may have been earlier.
    pub(super) fn earliest_ns(&self) -> Option<u64> {
        let (level, slot) = self.first()?;
        let level = self.levels[usize::from(level)].as_ref().expect("it has a first slot");
        Some(level.slots[usize::from(slot)].earliest_ns)
    }
}
