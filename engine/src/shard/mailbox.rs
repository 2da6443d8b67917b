//! The mailbox: one message in place, a backlog in a ring borrowed from the shard.
//!
//! Messages are written straight into their slot and read from it once: copying a 64-byte envelope that was just written
//! word by word costs more than handling it (the processor cannot forward narrow stores to wide loads).
//!
//! Invariant: `first` is older than everything in the backlog and is used only when the mailbox is empty, so order is first
//! in, first out; exactly the slots from `head` over `len` are initialised. One of the few files with `unsafe`; the oracle
//! test below drives it with random operations.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::envelope::{Class, Envelope};
use crate::limits::{BACKLOG_FIRST_SLOTS, BACKLOG_KEPT_CAPACITY, BACKLOG_LOG2_MAX, BACKLOGS_KEPT};
use crate::policy::Priority;

/// The slots of a backlog: a power of two of them, one cache line each. Owns memory, not the messages in it.
#[derive(Clone, Copy)]
struct Slots {
    first: NonNull<Envelope>,
    mask: u32,
}

impl Slots {
    /// Room for `count` messages, a power of two.
    fn allocate(count: u32) -> Self {
        debug_assert!(count.is_power_of_two());
        let layout = Self::layout(count);
        // SAFETY: the layout's size is not zero.
        let room = unsafe { alloc(layout) };
        let Some(first) = NonNull::new(room.cast::<Envelope>()) else { handle_alloc_error(layout) };
        Self { first, mask: count - 1 }
    }

    fn layout(count: u32) -> Layout {
        let bytes = size_of::<Envelope>() * count as usize;
        Layout::from_size_align(bytes, size_of::<Envelope>()).expect("a backlog's size is bounded")
    }

    /// The slot at `position`, taken modulo the number of slots.
    #[inline(always)]
    fn at(self, position: u32) -> NonNull<Envelope> {
        // SAFETY: the masked position is below the number of slots that were allocated.
        unsafe { self.first.add((position & self.mask) as usize) }
    }

    /// Frees the memory; what is in it is forgotten.
    fn free(self) {
        // SAFETY: `allocate` got it with this layout, and whoever frees it forgets it.
        unsafe { dealloc(self.first.as_ptr().cast(), Self::layout(self.mask + 1)) };
    }
}

/// Empty backlogs, shared by the actors of a shard.
#[derive(Default)]
pub(crate) struct BacklogPool {
    free: Vec<Slots>,
}

impl BacklogPool {
    fn take(&mut self) -> Slots {
        self.free.pop().unwrap_or_else(|| Slots::allocate(BACKLOG_FIRST_SLOTS))
    }

    fn give_back(&mut self, slots: Slots) {
        if self.free.len() < BACKLOGS_KEPT && slots.mask < BACKLOG_KEPT_CAPACITY {
            self.free.push(slots);
        } else {
            slots.free();
        }
    }
}

impl Drop for BacklogPool {
    fn drop(&mut self) {
        for slots in self.free.drain(..) {
            slots.free();
        }
    }
}

/// The messages of one actor.
#[repr(C)]
pub(crate) struct Mailbox {
    slots: Option<NonNull<Envelope>>,
    /// Position of the backlog's oldest message, below the number of slots; [`FIRST`] is set while `first` holds the oldest of
    /// all.
    head: u32,
    len: u32,
    /// The bound for users' messages. What has reserved its room (replies, timers, signals) may exceed it.
    pub(crate) capacity: u32,
    /// The number of slots less one.
    mask: u32,
    first: MaybeUninit<Envelope>,
}

/// The bit of `head` that says that `first` holds a message. No backlog has that many slots.
const FIRST: u32 = 1 << 31;

const _: () = assert!(size_of::<Mailbox>() == 24 + size_of::<Envelope>());
const _: () = assert!(1 << BACKLOG_LOG2_MAX < FIRST);

impl Mailbox {
    pub(crate) const fn new(capacity: u32) -> Self {
        Self { slots: None, head: 0, len: 0, capacity, mask: 0, first: MaybeUninit::uninit() }
    }

    /// Messages queued.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Whether a user's message finds no room.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.capacity
    }

    /// Messages in the backlog.
    #[inline(always)]
    fn backlog_len(&self) -> u32 {
        self.len - self.head / FIRST
    }

    #[inline(always)]
    fn backlog(&self) -> Option<Slots> {
        self.slots.map(|first| Slots { first, mask: self.mask })
    }

    /// A slot for one more message, which counts as queued: the caller writes it before anything else.
    #[inline(always)]
    pub(crate) fn claim(&mut self, pool: &mut BacklogPool) -> NonNull<Envelope> {
        let queued = self.backlog_len();
        let slot = if self.len == 0 {
            // The whole word: a processor cannot forward the store of one byte to the load of four.
            self.head = FIRST;
            NonNull::from_mut(&mut self.first).cast()
        } else {
            let slots = match self.backlog() {
                Some(slots) if queued <= slots.mask => slots,
                _ => self.make_room(pool),
            };
            slots.at(self.head.wrapping_add(queued))
        };
        self.len += 1;
        slot
    }

    /// Borrows a backlog, or moves a full one into one twice as large.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, pool: &mut BacklogPool) -> Slots {
        let slots = match self.backlog() {
            None => pool.take(),
            Some(old) => {
                assert!(old.mask < 1 << BACKLOG_LOG2_MAX, "what reserves room in a mailbox is bounded");
                let larger = Slots::allocate(2 * (old.mask + 1));
                for offset in 0..self.backlog_len() {
                    // SAFETY: the old slot holds a message, the new one does not, and the old one is freed unread below.
                    unsafe { larger.at(offset).copy_from_nonoverlapping(old.at(self.head.wrapping_add(offset)), 1) };
                }
                old.free();
                larger
            }
        };
        self.head &= FIRST;
        self.slots = Some(slots.first);
        self.mask = slots.mask;
        slots
    }

    /// The slot of the oldest message: valid until the mailbox is used again. Whoever moves it out calls
    /// [`advance`](Self::advance), before or after. Branches, which are predicted, where choosing between addresses would make
    /// every message wait for the one before.
    #[inline(always)]
    pub(crate) fn front(&mut self) -> Option<NonNull<Envelope>> {
        if self.head >= FIRST {
            return Some(NonNull::from_mut(&mut self.first).cast());
        }
        if self.len == 0 {
            return None;
        }
        self.backlog().map(|slots| slots.at(self.head))
    }

    /// Forgets the oldest message, which has been moved out of its slot, or is before anything else happens.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        debug_assert!(self.len > 0);
        self.len -= 1;
        self.head = if self.head >= FIRST { self.head - FIRST } else { (self.head + 1) & self.mask };
    }

    /// Gives an empty backlog back; called when the actor goes idle.
    #[inline(always)]
    pub(crate) fn rest(&mut self, pool: &mut BacklogPool) {
        if let Some(slots) = self.backlog()
            && self.backlog_len() == 0
        {
            self.slots = None;
            self.head &= FIRST;
            pool.give_back(slots);
        }
    }

    /// Looks at the oldest message.
    pub(crate) fn peek(&mut self) -> Option<&Envelope> {
        let front = self.front()?;
        // SAFETY: the slot at the front is initialised, and the reference borrows the mailbox.
        Some(unsafe { front.as_ref() })
    }

    /// Looks at every message, oldest first, until `done` says so.
    pub(crate) fn find(&mut self, mut done: impl FnMut(&mut Envelope) -> bool) -> bool {
        let first = (self.head >= FIRST).then(|| NonNull::from_mut(&mut self.first).cast::<Envelope>());
        let (head, queued, backlog) = (self.head & !FIRST, self.backlog_len(), self.backlog());
        let behind = backlog.into_iter().flat_map(|slots| (0..queued).map(move |at| slots.at(head.wrapping_add(at))));
        for mut slot in first.into_iter().chain(behind) {
            // SAFETY: these are the slots that hold a message, and the mailbox is borrowed exclusively.
            if done(unsafe { slot.as_mut() }) {
                return true;
            }
        }
        false
    }

    /// The oldest message, to be changed where it is.
    pub(crate) fn peek_mut(&mut self) -> Option<&mut Envelope> {
        let mut front = self.front()?;
        // SAFETY: the slot at the front is initialised, and the reference borrows the mailbox.
        Some(unsafe { front.as_mut() })
    }

    /// Puts the most urgent messages first and leaves those of one urgency in their order, if they are not. The first `ordered` are,
    /// since this was last called; afterwards all are.
    pub(crate) fn order(&mut self, pool: &mut BacklogPool, ordered: &mut u32) {
        let (mut at, mut last, known) = (0, u8::MAX, *ordered);
        let disorder = self.find(|envelope| {
            at += 1;
            if at < known {
                return false;
            }
            let before = std::mem::replace(&mut last, urgency(envelope));
            last > before
        });
        *ordered = self.len;
        if disorder {
            let mut all: Vec<_> = std::iter::from_fn(|| self.pop(pool)).collect();
            all.sort_by_key(|envelope| std::cmp::Reverse(urgency(envelope)));
            for envelope in all {
                let slot = self.claim(pool);
                // SAFETY: just claimed.
                unsafe { slot.write(envelope) };
            }
        }
    }

    /// Takes the oldest message of the least urgency that somebody sent, to make room. What the actor's own timers and asks
    /// have sent has room of its own and stays.
    pub(crate) fn give_way(&mut self, by_priority: bool, pool: &mut BacklogPool) -> Option<Envelope> {
        let (mut at, mut victim) = (0, None);
        self.find(|envelope| {
            let urgency = urgency(envelope);
            if matches!(envelope.vtable().class, Class::Plain | Class::OwnsReply)
                && victim.is_none_or(|(_, least)| by_priority && urgency < least)
            {
                victim = Some((at, urgency));
            }
            at += 1;
            !by_priority && victim.is_some()
        });
        let (position, _) = victim?;
        self.take_at(position, pool)
    }

    /// Takes the message with so many before it.
    pub(crate) fn take_at(&mut self, position: u32, pool: &mut BacklogPool) -> Option<Envelope> {
        let before: Vec<_> = (0..position).map_while(|_| self.pop(pool)).collect();
        let taken = self.pop(pool);
        before.into_iter().rev().for_each(|envelope| self.push_front(envelope, pool));
        taken
    }

    /// Puts a message in front of all others.
    pub(crate) fn push_front(&mut self, envelope: Envelope, pool: &mut BacklogPool) {
        if self.head >= FIRST {
            let slots = match self.backlog() {
                Some(slots) if self.backlog_len() <= slots.mask => slots,
                _ => self.make_room(pool),
            };
            let position = (self.head & !FIRST).wrapping_sub(1) & self.mask;
            // SAFETY: `first` holds a message, the slot before the backlog's oldest holds none, and `first` is written below.
            unsafe { slots.at(position).copy_from_nonoverlapping(NonNull::from_mut(&mut self.first).cast(), 1) };
            self.head = position;
        }
        self.first.write(envelope);
        self.head |= FIRST;
        self.len += 1;
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self, pool: &mut BacklogPool) -> Option<Envelope> {
        let front = self.front()?;
        // SAFETY: the slot at the front is initialised, and `advance` forgets it right away.
        let envelope = unsafe { front.read() };
        self.advance();
        self.rest(pool);
        Some(envelope)
    }
}

/// In which order messages go in a mailbox in order of priority: replies first.
fn urgency(envelope: &Envelope) -> u8 {
    let vtable = envelope.vtable();
    let is_reply = vtable.class == Class::System && vtable.priority == Priority::Urgent;
    vtable.priority as u8 + u8::from(is_reply)
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if self.len == 0 && self.slots.is_none() {
            return;
        }
        let mut pool = BacklogPool::default();
        while let Some(envelope) = self.pop(&mut pool) {
            drop(envelope);
        }
        self.rest(&mut pool);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::envelope::{Delivery, EpochTag, Front, Meta, VTable, drop_message, weigh_nothing};
    use crate::random::Random;

    unsafe fn never(_: &Delivery<'_>, _: Front) {
        unreachable!("not delivered in this test");
    }

    static VTABLE: VTable = VTable {
        run: never,
        drop_message: drop_message::<Box<u64>>,
        weight: weigh_nothing,
        message_name: || "u64",
        actor_name: || "",
        class: Class::Plain,
        priority: Priority::Normal,
    };

    fn envelope(number: u64) -> Envelope {
        // SAFETY: the vtable drops a `Box<u64>`.
        unsafe { Envelope::new(0, 0, &VTABLE, EpochTag::BY_GENERATION, Meta::None, Box::new(number)) }
    }

    fn number(envelope: Envelope) -> u64 {
        // SAFETY: made by `envelope` above.
        *unsafe { envelope.into_message::<Box<u64>>() }
    }

    #[test]
    fn random_pushes_and_pops_agree_with_a_queue() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut mailbox, mut pool, mut model) = (Mailbox::new(8), BacklogPool::default(), VecDeque::new());
            for step in 0..2000 {
                // Long stretches of growth and of draining, so that the ring wraps, grows and goes back to the pool.
                let growing = step / 100 % 2 == 0;
                if random.next_u64().is_multiple_of(8) {
                    mailbox.push_front(envelope(step), &mut pool);
                    model.push_front(step);
                } else if random.next_u64() % 4 < if growing { 3 } else { 1 } {
                    let slot = mailbox.claim(&mut pool);
                    // SAFETY: just claimed.
                    unsafe { slot.write(envelope(step)) };
                    model.push_back(step);
                } else {
                    assert_eq!(mailbox.pop(&mut pool).map(number), model.pop_front(), "seed {seed}, step {step}");
                }
                assert_eq!(mailbox.len() as usize, model.len());
            }
        }
    }
}
