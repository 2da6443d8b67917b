//! The mailbox: one message in place, a backlog in a ring borrowed from the shard.
//!
//! Messages are written straight into their slot and read from it once: copying a 64-byte envelope that was just written
//! word by word costs more than handling it (the processor cannot forward narrow stores to wide loads).
//!
//! Invariant: `first` is older than everything in the backlog and is used only when the mailbox is empty, so order is first
//! in, first out; exactly the slots from `head` over `len` are initialised. One of the few files with `unsafe`; the oracle
//! test below drives it with random operations.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::envelope::Envelope;
use crate::limits::{BACKLOG_FIRST_SLOTS, BACKLOG_KEPT_CAPACITY, BACKLOGS_KEPT};

/// A growable ring of envelopes.
pub(crate) struct Backlog {
    slots: Box<[MaybeUninit<Envelope>]>,
    head: u32,
    len: u32,
}

impl Backlog {
    fn new(slots: usize) -> Self {
        debug_assert!(slots.is_power_of_two());
        Self { slots: Box::new_uninit_slice(slots), head: 0, len: 0 }
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The slot behind the newest message, counted as full from now on.
    #[inline]
    fn claim(&mut self) -> &mut MaybeUninit<Envelope> {
        if self.len as usize == self.slots.len() {
            self.grow();
        }
        let at = (self.head as usize + self.len as usize) & self.mask();
        self.len += 1;
        &mut self.slots[at]
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::new(self.slots.len() * 2);
        for offset in 0..self.len as usize {
            let from = (self.head as usize + offset) & self.mask();
            std::mem::swap(&mut larger.slots[offset], &mut self.slots[from]);
        }
        larger.len = self.len;
        *self = larger;
    }

    #[inline]
    fn front(&mut self) -> NonNull<Envelope> {
        debug_assert!(self.len > 0);
        NonNull::from_mut(&mut self.slots[self.head as usize]).cast()
    }

    #[inline]
    fn advance(&mut self) {
        debug_assert!(self.len > 0);
        #[expect(clippy::cast_possible_truncation, reason = "masked below the number of slots, which fits u32")]
        let next = ((self.head as usize + 1) & self.mask()) as u32;
        self.head = next;
        self.len -= 1;
    }
}

/// Empty backlogs, shared by the actors of a shard.
#[derive(Default)]
pub(crate) struct BacklogPool {
    #[expect(clippy::vec_box, reason = "the box moves between pool and mailbox; a mailbox has room for one word")]
    backlogs: Vec<Box<Backlog>>,
}

impl BacklogPool {
    fn take(&mut self) -> Box<Backlog> {
        self.backlogs.pop().unwrap_or_else(|| Box::new(Backlog::new(BACKLOG_FIRST_SLOTS)))
    }

    fn give_back(&mut self, backlog: Box<Backlog>) {
        debug_assert_eq!(backlog.len, 0);
        if self.backlogs.len() < BACKLOGS_KEPT && backlog.slots.len() <= BACKLOG_KEPT_CAPACITY {
            self.backlogs.push(backlog);
        }
    }
}

/// The messages of one actor.
pub(crate) struct Mailbox {
    first: MaybeUninit<Envelope>,
    backlog: Option<Box<Backlog>>,
    has_first: bool,
}

impl Mailbox {
    pub(crate) const fn new() -> Self {
        Self { first: MaybeUninit::uninit(), backlog: None, has_first: false }
    }

    /// Messages queued.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        u32::from(self.has_first) + self.backlog.as_ref().map_or(0, |backlog| backlog.len)
    }

    /// Appends what `make` returns, which is built in its slot.
    #[inline(always)]
    pub(crate) fn push(&mut self, pool: &mut BacklogPool, make: impl FnOnce() -> Envelope) {
        if !self.has_first && self.backlog.is_none() {
            self.first.write(make());
            self.has_first = true;
        } else {
            self.backlog.get_or_insert_with(|| pool.take()).claim().write(make());
        }
    }

    /// The oldest message, still in its slot: valid until the mailbox is used again. Whoever moves it out calls
    /// [`advance`](Self::advance) at once.
    #[inline]
    pub(crate) fn front(&mut self) -> Option<NonNull<Envelope>> {
        if self.has_first {
            return Some(NonNull::from_mut(&mut self.first).cast());
        }
        self.backlog.as_mut().map(|backlog| backlog.front())
    }

    /// Forgets the oldest message, which has been moved out of its slot.
    #[inline]
    pub(crate) fn advance(&mut self, pool: &mut BacklogPool) {
        if self.has_first {
            self.has_first = false;
            return;
        }
        let backlog = self.backlog.as_mut().expect("something was at the front");
        backlog.advance();
        if backlog.len == 0
            && let Some(backlog) = self.backlog.take()
        {
            pool.give_back(backlog);
        }
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self, pool: &mut BacklogPool) -> Option<Envelope> {
        let front = self.front()?;
        // SAFETY: the slot at the front is initialised, and `advance` forgets it right away.
        let envelope = unsafe { front.read() };
        self.advance(pool);
        Some(envelope)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mut pool = BacklogPool::default();
        while let Some(envelope) = self.pop(&mut pool) {
            drop(envelope);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::envelope::{Class, Delivery, EpochTag, Meta, VTable, drop_message};
    use crate::random::Random;

    unsafe fn never(_: Delivery<'_>) {
        unreachable!("not delivered in this test");
    }

    static VTABLE: VTable = VTable {
        run: never,
        drop_message: drop_message::<Box<u64>>,
        message_name: || "u64",
        actor_name: || "",
        class: Class::Plain,
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
            let (mut mailbox, mut pool, mut model) = (Mailbox::new(), BacklogPool::default(), VecDeque::new());
            for step in 0..2000 {
                // Long stretches of growth and of draining, so that the ring wraps, grows and goes back to the pool.
                let growing = step / 100 % 2 == 0;
                if random.next_u64() % 4 < if growing { 3 } else { 1 } {
                    mailbox.push(&mut pool, || envelope(step));
                    model.push_back(step);
                } else {
                    assert_eq!(mailbox.pop(&mut pool).map(number), model.pop_front(), "seed {seed}, step {step}");
                }
                assert_eq!(mailbox.len() as usize, model.len());
            }
        }
    }
}
