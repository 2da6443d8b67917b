//! The actor cell: one actor's mailbox, flags and state on its shard, and the table of all cells.
//!
//! ```text
//! cell, 128 bytes: generation, flags, capacity, epoch, incarnation, activity | state | backlog | extra | one message in place
//! ```
//!
//! Invariant: a cell's generation rises when its actor is gone; one whose generation would wrap is
//! retired.

use crate::actor::StopReason;
use crate::actor_ref::ActorId;
use crate::envelope::{EpochTag, GENERATION_MAX};
use crate::error::Rejected;
use crate::key::Key;
use crate::latch::LatchGuard;
use crate::limits::CELLS_SKIPPED;

use super::actor_box::ActorBox;
use super::async_slot::AsyncSlot;
use super::mailbox::Mailbox;

/// Cells per chunk: a chunk is 128 KiB and never moves.
const CHUNK_CELLS: usize = 1024;
/// Indices from here on are given out by threads outside the shard.
pub(crate) const FOREIGN_INDEX: u32 = 1 << 26;

/// What few actors need.
#[derive(Default)]
pub(crate) struct CellExtra {
    /// A virtual actor's type (position in the registry) and key.
    pub(crate) identity: Option<(usize, Key)>,
    /// Told when the actor has stopped and its state is dropped.
    pub(crate) stop_latches: Vec<LatchGuard<StopReason>>,
    /// Told when the actor has started, or that it never will.
    pub(crate) start_latches: Vec<LatchGuard<Result<(), StopReason>>>,
    /// Actors that watch this one.
    pub(crate) watchers: Vec<ActorId>,
    /// The room of a suspended async handler.
    pub(crate) async_slot: AsyncSlot,
    /// A suspension without a future, begun by `Context::suspend`.
    pub(crate) suspensions: u32,
    /// Why the actor is stopping, once it is.
    pub(crate) stop_reason: Option<StopReason>,
}

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// No actor here.
    Free,
    /// Spawned; the factory has not run.
    New,
    /// Handles messages.
    Live,
    /// Stops after the messages that are queued; takes no new ones.
    Draining,
    /// Stops before the next message.
    Stopping,
}

/// One actor.
#[repr(C, align(64))]
pub(crate) struct Cell {
    pub(crate) generation: u32,
    pub(crate) capacity: u32,
    pub(crate) life: Life,
    /// In the run queue, or running.
    pub(crate) scheduled: bool,
    /// Waits for a future or a resume; keeps its messages.
    pub(crate) suspended: bool,
    /// The future of a suspended actor was woken.
    pub(crate) woken: bool,
    /// A resume hook is due.
    pub(crate) resumed: bool,
    /// Marked in the link's table of receivers without room.
    pub(crate) short: bool,
    pub(crate) epoch: EpochTag,
    pub(crate) incarnation: u16,
    /// When it last ran, in units of about a millisecond of the driver's clock.
    pub(crate) active_ms: u32,
    pub(crate) state: Option<ActorBox>,
    pub(crate) extra: Option<Box<CellExtra>>,
    pub(crate) mailbox: Mailbox,
}

const _: () = assert!(size_of::<Cell>() == 128);

impl Cell {
    const fn free() -> Self {
        Self {
            generation: 1,
            capacity: 0,
            life: Life::Free,
            scheduled: false,
            suspended: false,
            woken: false,
            resumed: false,
            short: false,
            epoch: EpochTag(0),
            incarnation: 0,
            active_ms: 0,
            state: None,
            extra: None,
            mailbox: Mailbox::new(),
        }
    }

    /// Messages queued.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.mailbox.len()
    }

    /// Whether a user's message may enter.
    #[inline]
    pub(crate) fn admit(&self, epoch: EpochTag) -> Result<(), Rejected> {
        if !self.admits() {
            return Err(Rejected::Closed);
        }
        if epoch != self.epoch && epoch != EpochTag::BY_GENERATION {
            return Err(Rejected::Unavailable);
        }
        if self.len() >= self.capacity {
            return Err(Rejected::Full);
        }
        Ok(())
    }

    /// Whether it takes messages, given room.
    #[inline]
    pub(crate) fn admits(&self) -> bool {
        matches!(self.life, Life::Live | Life::New)
    }

    /// Whether a future or a suspension keeps the actor from its messages.
    pub(crate) fn waits(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.suspensions > 0 || extra.async_slot.is_live())
    }

    pub(crate) fn extra(&mut self) -> &mut CellExtra {
        self.extra.get_or_insert_default()
    }
}

/// Cells by index, in chunks that never move. Indices from [`FOREIGN_INDEX`] on have a table of their own.
pub(crate) struct CellTable {
    own: Vec<Box<[Cell]>>,
    foreign: Vec<Box<[Cell]>>,
    free: Vec<u32>,
    next: u32,
    live: u32,
}

impl Default for CellTable {
    fn default() -> Self {
        Self { own: Vec::new(), foreign: Vec::new(), free: Vec::new(), next: CELLS_SKIPPED, live: 0 }
    }
}

impl CellTable {
    /// The cell, if its index was ever used.
    #[inline]
    pub(crate) fn slot(&mut self, index: u32) -> Option<&mut Cell> {
        let (table, index) =
            if index < FOREIGN_INDEX { (&mut self.own, index) } else { (&mut self.foreign, index - FOREIGN_INDEX) };
        table.get_mut(index as usize / CHUNK_CELLS).map(|chunk| &mut chunk[index as usize % CHUNK_CELLS])
    }

    /// The cell of a live actor.
    #[inline]
    pub(crate) fn get(&mut self, index: u32, generation: u32) -> Option<&mut Cell> {
        self.slot(index).filter(|cell| cell.generation == generation && cell.life != Life::Free)
    }

    /// How many actors live here.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// A free index of the shard's own, with its generation; `None` when all 2^26 are taken.
    pub(crate) fn allocate(&mut self) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.next < FOREIGN_INDEX => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.grow_to(index);
        let generation = self.slot(index).expect("grown to it").generation;
        Some((index, generation))
    }

    /// Makes room for an index that was given out by another thread.
    pub(crate) fn grow_to(&mut self, index: u32) {
        let (table, index) =
            if index < FOREIGN_INDEX { (&mut self.own, index) } else { (&mut self.foreign, index - FOREIGN_INDEX) };
        while table.len() <= index as usize / CHUNK_CELLS {
            table.push((0..CHUNK_CELLS).map(|_| Cell::free()).collect());
        }
    }

    /// Puts a new actor into a free cell.
    pub(crate) fn occupy(&mut self, index: u32, generation: u32, state: ActorBox, capacity: u32, epoch: EpochTag) {
        let cell = self.slot(index).expect("the index was allocated");
        assert!(cell.life == Life::Free && cell.generation <= generation, "an index is given out once per generation");
        *cell = Cell { generation, capacity, life: Life::New, epoch, state: Some(state), ..Cell::free() };
        self.live += 1;
    }

    /// Frees a cell; returns the next (index, generation) if another thread gives this index out.
    pub(crate) fn release(&mut self, index: u32) -> Option<(u32, u32)> {
        let cell = self.slot(index).expect("a live cell");
        let generation = cell.generation;
        *cell = Cell { generation: generation.saturating_add(1), ..Cell::free() };
        self.live -= 1;
        if generation == GENERATION_MAX {
            return None;
        }
        if index >= FOREIGN_INDEX {
            return Some((index, generation + 1));
        }
        self.free.push(index);
        None
    }

    /// Whether no actor has a message, a future or a suspension. Looks at every cell.
    pub(crate) fn are_quiet(&self) -> bool {
        let mut cells = self.own.iter().chain(&self.foreign).flat_map(|chunk| chunk.iter());
        cells.all(|cell| cell.life == Life::Free || (cell.len() == 0 && !cell.suspended))
    }

    /// All live actors.
    pub(crate) fn live_indices(&self) -> Vec<(u32, u32)> {
        let of = |table: &[Box<[Cell]>], base: u32| {
            let cells = table.iter().flat_map(|chunk| chunk.iter());
            (base..)
                .zip(cells)
                .filter(|(_, cell)| cell.life != Life::Free)
                .map(|(index, cell)| (index, cell.generation))
                .collect::<Vec<_>>()
        };
        let mut all = of(&self.own, 0);
        all.extend(of(&self.foreign, FOREIGN_INDEX));
        all
    }
}
