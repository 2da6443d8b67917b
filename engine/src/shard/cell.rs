//! The actor cell: one actor's mailbox, flags and state on its shard, and the table of all cells.
//!
//! ```text
//! cell, 128 bytes: generation, conduct, flags, epoch, incarnation, why it stops | state | extra | backlog, its head, length, bound | one message in place
//! ```
//!
//! One file because the table hands out what the cells are made of, and both keep one invariant.
//!
//! Invariant: a cell's generation rises when its actor is gone; one whose generation would wrap is
//! retired.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::actor::StopReason;
use crate::envelope::{Envelope, EpochTag, GENERATION_MAX, INDEX_BITS};
use crate::error::Rejected;
use crate::limits::CELLS_SKIPPED;
use crate::policy::{Mailbox as Policy, Overflow};
use crate::reentrancy::{Reentrancy, Turns};
use crate::run_queue::{Ready, RunQueue};
use crate::supervision::Step;

use super::actor_box::ActorBox;
pub(crate) use super::extra::{CellExtra, Midway};
use super::kin::Kin;
use super::mailbox::{BacklogPool, Mailbox};

/// Indices per chunk, which never moves.
pub(super) const CHUNK_INDICES: usize = 1024;
/// Cells per chunk: one less, so that a chunk stays within 128 KiB with the room that allocators add for its alignment. With
/// one more it took the next size, 160 KiB: 32 bytes an actor.
const CHUNK_CELLS: usize = CHUNK_INDICES - 1;
/// Cells that a shard has for itself, and as many again for threads outside it: what half of the
/// indices that an address has bits for leave.
pub(crate) const CELLS_MAX: u32 = (1 << (INDEX_BITS - 1)) / CHUNK_INDICES as u32 * CHUNK_CELLS as u32;

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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

/// An actor's life and what keeps it from its messages: four bytes that the message path reads as one word.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub(crate) struct Conduct {
    pub(crate) life: Life,
    /// Waits for a future or a resume; keeps its messages.
    pub(crate) suspended: bool,
    /// The future of a suspended actor was woken.
    pub(crate) woken: bool,
    /// A resume hook is due.
    pub(crate) resumed: bool,
}

impl Conduct {
    /// A `life` in which nothing keeps the actor from its messages.
    const fn plain(life: Life) -> Self {
        Self { life, suspended: false, woken: false, resumed: false }
    }

    /// Begins another life. The word is stored as a whole, as it is read: a processor cannot forward the store of one byte to
    /// the load of four. As an atomic, because a compiler makes one byte of a store of which only that byte is new.
    #[inline(always)]
    pub(crate) fn begin(&mut self, life: Life) {
        let next = Self { life, ..*self };
        // SAFETY: four aligned bytes that nobody else has, and `next` is a valid value.
        let word = unsafe { AtomicU32::from_ptr(std::ptr::from_mut(self).cast()) };
        word.store(next.word().to_le(), Relaxed);
    }

    /// The life in the lowest byte; any flag sets a bit above it.
    #[inline(always)]
    fn word(self) -> u32 {
        // SAFETY: four bytes without padding.
        u32::from_le(unsafe { std::mem::transmute::<Self, u32>(self) })
    }
}

/// Why an actor stops, where one byte says it: most actors end without a word.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Why {
    /// It does not.
    Unsaid,
    Stopped,
    Drained,
    Passivated,
    Shutdown,
    Killed,
    ParentStopped,
    Restarting,
    /// [`CellExtra`] has the words.
    InWords,
}

/// One actor.
#[repr(C, align(128))]
pub(crate) struct Cell {
    pub(crate) generation: u32,
    pub(crate) conduct: Conduct,
    /// In the run queue, or running.
    pub(crate) scheduled: bool,
    /// Marked in the link's table of receivers without room.
    pub(crate) short: bool,
    epoch: EpochTag,
    pub(crate) incarnation: u16,
    is_virtual: bool,
    why: Why,
    pub(crate) state: Option<ActorBox>,
    pub(crate) extra: Option<Box<CellExtra>>,
    pub(crate) mailbox: Mailbox,
}

const _: () = assert!(size_of::<Cell>() == 128);

impl Cell {
    const fn free() -> Self {
        Self {
            generation: 1,
            conduct: Conduct::plain(Life::Free),
            scheduled: false,
            short: false,
            epoch: EpochTag(0),
            incarnation: 0,
            is_virtual: false,
            why: Why::Unsaid,
            state: None,
            extra: None,
            mailbox: Mailbox::new(0),
        }
    }

    /// Fills a free cell.
    fn fill(&mut self, generation: u32, state: ActorBox, capacity: u32, epoch: EpochTag) {
        debug_assert!(self.state.is_none() && self.extra.is_none(), "`clear` left nothing");
        self.generation = generation;
        self.conduct = Conduct::plain(Life::New);
        self.epoch = epoch;
        self.is_virtual = epoch != EpochTag::BY_GENERATION;
        self.state = Some(state);
        self.mailbox.capacity = capacity;
    }

    /// Makes this a free cell of the next generation. Its state and messages are gone already.
    fn clear(&mut self) {
        self.generation = self.generation.saturating_add(1);
        self.conduct = Conduct::plain(Life::Free);
        self.scheduled = false;
        self.short = false;
        self.epoch = EpochTag(0);
        self.incarnation = 0;
        self.is_virtual = false;
        self.why = Why::Unsaid;
        self.state = None;
        self.extra = None;
        self.mailbox.capacity = 0;
    }

    /// Says why the actor stops, or that it does not.
    pub(crate) fn set_stop_reason(&mut self, reason: Option<StopReason>) {
        self.why = match &reason {
            None => Why::Unsaid,
            Some(StopReason::Stopped) => Why::Stopped,
            Some(StopReason::Drained) => Why::Drained,
            Some(StopReason::Passivated) => Why::Passivated,
            Some(StopReason::Shutdown) => Why::Shutdown,
            Some(StopReason::Killed) => Why::Killed,
            Some(StopReason::ParentStopped) => Why::ParentStopped,
            Some(StopReason::Restarting) => Why::Restarting,
            Some(StopReason::StartFailed(_) | StopReason::Panicked(_) | StopReason::LinkBroken(_)) => {
                self.extra().stop_reason = reason;
                Why::InWords
            }
        };
    }

    /// The actor is to stop for `reason`: says so unless it stops already for one that weighs as much.
    pub(crate) fn stop_for(&mut self, reason: StopReason) {
        let hurries = !matches!(reason, StopReason::Stopped | StopReason::Drained);
        if self.stop_reason().is_none_or(|before| before.weight() < reason.weight()) {
            self.set_stop_reason(Some(reason));
        }
        if hurries && let Some(extra) = &mut self.extra {
            extra.hurries = true;
        }
    }

    /// The actor does not stop.
    pub(crate) fn stays(&mut self) {
        self.set_stop_reason(None);
        if let Some(extra) = &mut self.extra {
            extra.hurries = false;
            extra.closing = false;
        }
    }

    /// Why the actor stops, once that was said.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        match self.why {
            Why::Unsaid => None,
            Why::Stopped => Some(StopReason::Stopped),
            Why::Drained => Some(StopReason::Drained),
            Why::Passivated => Some(StopReason::Passivated),
            Why::Shutdown => Some(StopReason::Shutdown),
            Why::Killed => Some(StopReason::Killed),
            Why::ParentStopped => Some(StopReason::ParentStopped),
            Why::Restarting => Some(StopReason::Restarting),
            Why::InWords => self.extra.as_ref().and_then(|extra| extra.stop_reason.clone()),
        }
    }

    /// Messages queued.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.mailbox.len()
    }

    /// Whether it is alive, and no future, wake-up or resume hook has to be looked at.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.conduct.word() == u32::from(Life::Live as u8)
    }

    /// Whether its messages are handled now: plain, or draining and otherwise plain.
    #[inline(always)]
    pub(crate) fn takes_messages(&self) -> bool {
        const { assert!(Life::Live as u8 | 1 == Life::Draining as u8 && Life::Live as u8 & 1 == 0) };
        self.conduct.word() & !1 == u32::from(Life::Live as u8)
    }

    /// Whether they would be, had it not been woken.
    pub(crate) fn would_take_messages(&self) -> bool {
        let asleep = Conduct { woken: false, ..self.conduct };
        asleep.word() & !1 == u32::from(Life::Live as u8)
    }

    /// The epoch under which a virtual actor runs.
    #[inline(always)]
    pub(crate) fn epoch(&self) -> Option<EpochTag> {
        self.is_virtual.then_some(self.epoch)
    }

    /// Its entry in the run queue.
    #[inline(always)]
    pub(crate) fn ready(&mut self, index: u32) -> Ready {
        Ready { cell: NonNull::from_mut(self), index }
    }

    /// A slot for one more message, which the caller writes at once; the actor is put into the run queue.
    #[inline(always)]
    pub(crate) fn claim(&mut self, index: u32, pool: &mut BacklogPool, run_queue: &mut RunQueue) -> NonNull<Envelope> {
        let slot = self.mailbox.claim(pool);
        if !self.scheduled && !self.conduct.suspended {
            self.scheduled = true;
            run_queue.push(self.ready(index));
        }
        slot
    }

    /// Puts what `make` returns into the mailbox, and the actor into the run queue. `make` runs no code of users.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        index: u32,
        pool: &mut BacklogPool,
        run_queue: &mut RunQueue,
        make: impl FnOnce() -> Envelope,
    ) {
        let slot = self.claim(index, pool, run_queue);
        // SAFETY: just claimed.
        unsafe { slot.write(make()) };
    }

    /// Whether a user's message may enter.
    #[inline(always)]
    pub(crate) fn admit(&self, epoch: EpochTag) -> Result<(), Rejected> {
        if !self.admits() {
            return Err(Rejected::Closed);
        }
        if epoch != self.epoch && epoch != EpochTag::BY_GENERATION {
            return Err(Rejected::Unavailable);
        }
        if self.mailbox.is_full() {
            return Err(Rejected::Full);
        }
        Ok(())
    }

    /// What happens to a message that finds the mailbox full.
    pub(crate) fn overflow(&self) -> Overflow {
        self.extra.as_ref().map_or(Overflow::HandBack, |extra| extra.overflow)
    }

    /// Gives the mailbox what its type or its spawn asks for beyond a bound.
    #[cold]
    pub(crate) fn adopt(&mut self, policy: Policy) {
        let extra = self.extra();
        extra.overflow = policy.on_overflow();
        if policy.is_by_priority() {
            extra.attended.get_or_insert_default().ordered = Some(0);
        }
        if let Some(bytes) = policy.own_bytes() {
            self.limit_bytes(bytes);
        }
        self.limit(policy.reentrancy());
    }

    /// Says what it lets in while it waits.
    pub(crate) fn limit(&mut self, reentrancy: Reentrancy) {
        self.extra().turns = Turns::new(reentrancy);
    }

    /// Whether it waits for an answer and does not let everything in.
    pub(crate) fn is_held(&self) -> bool {
        self.extra.as_ref().and_then(|extra| extra.turns.as_ref()).is_some_and(|turns| turns.waits())
    }

    /// Whether it takes messages, given room.
    #[inline]
    pub(crate) fn admits(&self) -> bool {
        matches!(self.conduct.life, Life::Live | Life::New)
    }

    /// Whether a future, a suspension or a restart under way keeps the actor from its messages.
    pub(crate) fn waits(&self) -> bool {
        let suspended = |extra: &CellExtra| extra.suspensions > 0 || extra.async_slot.is_live();
        self.extra.as_deref().is_some_and(suspended) || self.is_down()
    }

    /// Whether it is being restarted and its next state is not due yet.
    pub(crate) fn is_down(&self) -> bool {
        let recovery = self.extra.as_ref().and_then(|extra| extra.recovery.as_ref());
        recovery.is_some_and(|recovery| recovery.step != Step::Ready)
    }

    /// Whether an actor that stops handles its current message to the end before: an async handler waits, and the stop is one
    /// that lets it.
    pub(crate) fn finishes_first(&self) -> bool {
        let waits = |extra: &CellExtra| extra.async_slot.is_live() && !extra.hurries;
        self.why == Why::Stopped && self.extra.as_deref().is_some_and(waits)
    }

    /// Turns tokens back into room; those of a predecessor under the same name are none of this actor's.
    pub(crate) fn return_credit(&mut self, tokens: u32) {
        if let Some(extra) = &mut self.extra {
            let tokens = tokens.min(extra.credit_out);
            extra.credit_out -= tokens;
            match &mut extra.budget {
                None => self.mailbox.capacity += tokens,
                Some(budget) => budget.capacity += tokens,
            }
        }
    }

    /// Whether it waits for the end of its children before its own.
    pub(crate) fn is_closing(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.closing)
    }

    /// A virtual actor's type, as its position in the registry.
    pub(crate) fn position(&self) -> Option<usize> {
        self.extra.as_ref()?.identity.as_ref().map(|(position, _)| *position)
    }

    /// Messages put aside.
    pub(crate) fn stashed(&self) -> usize {
        let stash = self.extra.as_ref().and_then(|extra| extra.stash.as_ref());
        stash.map_or(0, |stash| stash.messages.len())
    }

    /// Puts what was put aside in front of the mailbox, in its order; returns how many.
    pub(crate) fn unstash(&mut self, pool: &mut BacklogPool) -> usize {
        let Some(stash) = self.extra.as_mut().and_then(|extra| extra.stash.take()) else { return 0 };
        let count = stash.messages.len();
        if let Some(attended) = self.extra.as_mut().and_then(|extra| extra.attended.as_mut()) {
            attended.ordered = attended.ordered.map(|_| 0);
        }
        stash.messages.into_iter().rev().for_each(|envelope| self.mailbox.push_front(envelope, pool));
        self.recount();
        count
    }

    pub(crate) fn extra(&mut self) -> &mut CellExtra {
        self.extra.get_or_insert_default()
    }
}

type Chunk = [Cell; CHUNK_CELLS];

/// Cells by index, in chunks that never move. Every other chunk is for indices that threads outside the shard give out.
pub(crate) struct CellTable {
    chunks: Vec<Option<Box<Chunk>>>,
    /// Who is whose child.
    pub(crate) kin: Kin,
    free: Vec<u32>,
    next: u32,
    live: u32,
}

/// Whether threads outside the shard give this index out.
fn is_foreign(index: u32) -> bool {
    index as usize / CHUNK_INDICES % 2 == 1
}

/// The index of the shard's own cell number `number`.
const fn own_index(number: u32) -> u32 {
    let cells = CHUNK_CELLS as u32;
    number / cells * 2 * CHUNK_INDICES as u32 + number % cells
}

/// The index of cell number `number` among those that threads outside the shard give out.
pub(crate) const fn foreign_index(number: u32) -> u32 {
    own_index(number) + CHUNK_INDICES as u32
}

impl Default for CellTable {
    fn default() -> Self {
        Self { chunks: Vec::new(), kin: Kin::default(), free: Vec::new(), next: CELLS_SKIPPED, live: 0 }
    }
}

impl CellTable {
    /// The cell, if its index was ever used.
    #[inline(always)]
    pub(crate) fn slot(&mut self, index: u32) -> Option<&mut Cell> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK_INDICES)?.as_mut()?;
        chunk.get_mut(index as usize % CHUNK_INDICES)
    }

    /// The cell of a live actor.
    #[inline(always)]
    pub(crate) fn get(&mut self, index: u32, generation: u32) -> Option<&mut Cell> {
        self.slot(index).filter(|cell| cell.generation == generation && cell.conduct.life != Life::Free)
    }

    /// The cell, if a user's message for it may enter now.
    #[inline(always)]
    pub(crate) fn admit(&mut self, index: u32, generation: u32, epoch: EpochTag) -> Result<&mut Cell, Rejected> {
        let cell = self.get(index, generation).ok_or(Rejected::Closed)?;
        cell.admit(epoch)?;
        Ok(cell)
    }

    /// The cell of a live actor, to look at.
    pub(crate) fn peek(&self, index: u32, generation: u32) -> Option<&Cell> {
        let chunk = self.chunks.get(index as usize / CHUNK_INDICES)?.as_ref()?;
        let cell = chunk.get(index as usize % CHUNK_INDICES)?;
        (cell.generation == generation && cell.conduct.life != Life::Free).then_some(cell)
    }

    /// Copies a message that arrived from another shard into its mailbox, if nothing about it or its receiver needs more than
    /// that: no context, nobody who waits, a receiver that is alive, has room and does not run short by it. Returns whether it
    /// did. A token that the message took is room again either way.
    ///
    /// # Safety
    /// `arrival` is a valid envelope; if the answer is `true`, the caller forgets it.
    #[inline(always)]
    pub(crate) unsafe fn take_in(
        &mut self,
        mut arrival: NonNull<Envelope>,
        pool: &mut BacklogPool,
        run_queue: &mut RunQueue,
    ) -> bool {
        // SAFETY: the caller's contract.
        let envelope = unsafe { arrival.as_mut() };
        let (index, generation) = (envelope.index, envelope.generation);
        let Some(cell) = self.get(index, generation) else { return false };
        if envelope.take_credit() {
            cell.return_credit(1);
        }
        let gets_short = cell.len() * 2 >= cell.mailbox.capacity && !cell.short;
        if gets_short || !envelope.is_light() || cell.admit(envelope.epoch()).is_err() {
            return false;
        }
        let slot = cell.claim(index, pool, run_queue);
        // SAFETY: the slot was just claimed, and the two are different memory.
        unsafe { slot.copy_from_nonoverlapping(arrival, 1) };
        true
    }

    /// One above the highest index that was ever used.
    #[expect(clippy::cast_possible_truncation, reason = "an index has 27 bits")]
    pub(crate) fn end(&self) -> u32 {
        (self.chunks.len() * CHUNK_INDICES) as u32
    }

    /// How many actors live here.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// A free index of the shard's own, with its generation; `None` when all 2^26 are taken.
    pub(crate) fn allocate(&mut self) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.next < CELLS_MAX => {
                self.next += 1;
                own_index(self.next - 1)
            }
            None => return None,
        };
        self.grow_to(index);
        let generation = self.slot(index).expect("grown to it").generation;
        Some((index, generation))
    }

    /// Makes room for an index.
    pub(crate) fn grow_to(&mut self, index: u32) {
        let chunk = index as usize / CHUNK_INDICES;
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        self.chunks[chunk].get_or_insert_with(|| {
            let cells: Box<[Cell]> = (0..CHUNK_CELLS).map(|_| Cell::free()).collect();
            cells.try_into().ok().expect("collected as many as a chunk has")
        });
    }

    /// Puts a new actor into a free cell.
    pub(crate) fn occupy(&mut self, index: u32, generation: u32, state: ActorBox, capacity: u32, epoch: EpochTag) {
        let cell = self.slot(index).expect("the index was allocated");
        assert!(
            cell.conduct.life == Life::Free && cell.generation <= generation,
            "an index is given out once per generation"
        );
        cell.fill(generation, state, capacity, epoch);
        self.live += 1;
    }

    /// Frees a cell, whose mailbox is empty; returns the next (index, generation) if another thread gives this index out.
    pub(crate) fn release(&mut self, index: u32) -> Option<(u32, u32)> {
        let cell = self.slot(index).expect("a live cell");
        let generation = cell.generation;
        cell.clear();
        self.live -= 1;
        if generation == GENERATION_MAX {
            return None;
        }
        if is_foreign(index) {
            return Some((index, generation + 1));
        }
        self.free.push(index);
        None
    }

    /// Every cell with its index.
    fn all(&self) -> impl Iterator<Item = (u32, &Cell)> {
        let chunks = (0_u32..).zip(&self.chunks).filter_map(|(number, chunk)| Some((number, chunk.as_ref()?)));
        chunks.flat_map(|(number, chunk)| (number * CHUNK_INDICES as u32..).zip(chunk.iter()))
    }

    /// An actor's children as (index, generation), oldest first.
    pub(crate) fn children(&mut self, index: u32) -> Vec<(u32, u32)> {
        let children: Vec<_> = self.kin.children(index).collect();
        let live = children.into_iter().filter_map(|child| Some((child, self.slot(child)?.generation)));
        live.collect()
    }

    /// Whether no actor has a message, a future or a suspension; one that waits for its restart may have. Looks at every cell.
    pub(crate) fn are_quiet(&self) -> bool {
        let is_quiet = |cell: &Cell| match cell.conduct.life {
            Life::Free => true,
            Life::New if cell.conduct.suspended => true,
            _ => !cell.is_busy(),
        };
        self.all().all(|(_, cell)| is_quiet(cell))
    }

    /// All live actors.
    pub(crate) fn live_indices(&self) -> Vec<(u32, u32)> {
        let live = self.all().filter(|(_, cell)| cell.conduct.life != Life::Free);
        live.map(|(index, cell)| (index, cell.generation)).collect()
    }
}
