//! Mailboxes bounded by bytes: what is queued weighs so much, and what comes finds room beside it or does not.
//!
//! A cell with such a mailbox says in its hot words that it holds no message at all. So whatever comes takes the way of a message that
//! finds a full mailbox, and is weighed there; mailboxes bounded by count alone know nothing of it. A message that was let in says
//! its own weight (`Envelope::weight`), so nobody is asked again when it leaves.
//!
//! Invariant: `used` is the sum of the weights of the messages in the mailbox. What has room of its own (replies, timers, signals)
//! weighs nothing. Messages are weighed, which is code of users, while nothing of the shard is borrowed. Shard thread only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::cell::Cell;
use super::core::ShardCore;
use super::mailbox::BacklogPool;
use super::{ShardCell, drop_contained};
use crate::credit::Room;
use crate::dead_letter::Reason;
use crate::envelope::Envelope;
use crate::error::Rejected;
use crate::limits::WEIGHED_AHEAD;
use crate::policy::Overflow;

/// Bytes that a message counts, exactly up to 2,047 and rounded up by less than 0.1 % above: eleven bits and how far they are shifted, in
/// the sixteen that an envelope has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(u16);

const DIGITS: u32 = 11;
const SHIFT_MAX: u32 = (1 << (u16::BITS - DIGITS)) - 1;
const DIGITS_MAX: u64 = (1 << DIGITS) - 1;

impl Weight {
    /// The weight of so many bytes; 4 TB are the most.
    pub(crate) fn of(bytes: usize) -> Self {
        let bytes = (bytes as u64).min(DIGITS_MAX << SHIFT_MAX);
        let mut shift = (u64::BITS - bytes.leading_zeros()).saturating_sub(DIGITS);
        let mut digits = bytes.div_ceil(1 << shift);
        if digits > DIGITS_MAX {
            (digits, shift) = (digits / 2, shift + 1);
        }
        #[expect(clippy::cast_possible_truncation, reason = "eleven bits and five")]
        Self((u64::from(shift) << DIGITS | digits) as u16)
    }

    /// As it stands in an envelope.
    pub(crate) fn bits(self) -> u16 {
        self.0
    }

    pub(crate) fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    pub(crate) fn bytes(self) -> u64 {
        (u64::from(self.0) & DIGITS_MAX) << (self.0 >> DIGITS)
    }
}

/// The bound of a mailbox that is bounded by bytes.
pub(crate) struct Budget {
    /// Messages, less those that senders elsewhere hold tokens for.
    pub(crate) capacity: u32,
    /// Bytes.
    limit: u32,
    used: u64,
    /// What the last message weighed that found no room: as much is to be free before others are let in who wait for it.
    wanted: u64,
}

impl Budget {
    /// Whether so many bytes fit in beside what is queued. One message that alone is heavier than all enters when nothing that
    /// weighs is queued, so that nobody waits for room that never comes.
    fn takes(&self, weight: Weight) -> bool {
        self.used == 0 || self.used + weight.bytes() <= u64::from(self.limit)
    }

    /// How many messages beside `out` may be let in before they are weighed, if they weigh what the last one did that found no room.
    fn ahead(&self, out: u32) -> u32 {
        let fit = u64::from(self.limit).saturating_sub(self.used) / self.wanted.max(1);
        let fit = u32::try_from(fit).unwrap_or(u32::MAX).saturating_sub(out);
        let least = u32::from(self.used == 0 && out == 0);
        fit.max(least).min(WEIGHED_AHEAD.saturating_sub(out))
    }

    fn give_back(&mut self, envelope: &Envelope) {
        if let Some(weight) = envelope.weight() {
            self.used = self.used.saturating_sub(weight.bytes());
        }
    }
}

impl Cell {
    fn budget(&self) -> Option<&Budget> {
        self.extra.as_ref()?.budget.as_deref()
    }

    /// Whether its messages are weighed.
    pub(crate) fn is_weighed(&self) -> bool {
        self.budget().is_some()
    }

    /// Bytes queued, and the bound; `None` where messages are only counted.
    pub(crate) fn bytes(&self) -> Option<(u64, u32)> {
        self.budget().map(|budget| (budget.used, budget.limit))
    }

    /// Bounds the mailbox by bytes too, from now on. What is queued was weighed elsewhere, or weighs nothing.
    #[cold]
    pub(crate) fn limit_bytes(&mut self, limit: u32) {
        let capacity = std::mem::take(&mut self.mailbox.capacity);
        let extra = self.extra();
        // Its shares begin where one message at a time is handed over.
        extra.attended.get_or_insert_default().weighed = true;
        match &mut extra.budget {
            Some(budget) => budget.limit = limit,
            None => extra.budget = Some(Box::new(Budget { capacity, limit, used: 0, wanted: 0 })),
        }
    }

    /// Whether a tick, or whatever else has room of its own but should not pile up, finds some.
    pub(crate) fn has_room(&self) -> bool {
        match self.budget() {
            None => !self.mailbox.is_full(),
            Some(budget) => self.len() < budget.capacity && budget.used < u64::from(budget.limit),
        }
    }

    /// What a grant of credit depends on. Of messages that are to be weighed few are let in ahead of that.
    pub(crate) fn room(&self) -> Room {
        let out = self.extra.as_ref().map_or(0, |extra| extra.credit_out);
        let queued = self.len();
        let Some(budget) = self.budget() else {
            let capacity = self.mailbox.capacity;
            return Room { queued, capacity, out, free: capacity.saturating_sub(queued) };
        };
        let (capacity, limit) = (budget.capacity, u64::from(budget.limit));
        let free = capacity.saturating_sub(queued).min(budget.ahead(out));
        #[expect(clippy::cast_possible_truncation, reason = "at most the bound, which is a count of messages")]
        let as_full = (budget.used.min(limit) * u64::from(capacity + out) / limit) as u32;
        Room { queued: queued.max(as_full), capacity, out, free }
    }

    /// Takes room out of the bound for tokens.
    pub(crate) fn lend(&mut self, tokens: u32) {
        let extra = self.extra.get_or_insert_default();
        extra.credit_out += tokens;
        match &mut extra.budget {
            None => self.mailbox.capacity -= tokens,
            Some(budget) => budget.capacity -= tokens,
        }
    }

    /// Takes the oldest message out of the mailbox, to do something else with it than to handle it.
    pub(crate) fn pop(&mut self, pool: &mut BacklogPool) -> Option<Envelope> {
        let envelope = self.mailbox.pop(pool)?;
        self.has_left(&envelope);
        Some(envelope)
    }

    /// Takes the message with so many before it.
    pub(crate) fn take_at(&mut self, position: u32, pool: &mut BacklogPool) -> Option<Envelope> {
        let envelope = self.mailbox.take_at(position, pool)?;
        self.has_left(&envelope);
        Some(envelope)
    }

    /// A message was taken out of the mailbox.
    pub(crate) fn has_left(&mut self, envelope: &Envelope) {
        if let Some(budget) = self.extra.as_mut().and_then(|extra| extra.budget.as_mut()) {
            budget.give_back(envelope);
        }
    }

    /// The message at the front is about to be taken out.
    pub(crate) fn front_leaves(&mut self) {
        if let Some(budget) = self.extra.as_mut().and_then(|extra| extra.budget.as_mut())
            && let Some(front) = self.mailbox.peek()
        {
            budget.give_back(front);
        }
    }

    /// Messages that were weighed before have come into the mailbox.
    pub(crate) fn recount(&mut self) {
        if self.is_weighed() {
            let used = self.queued_bytes();
            if let Some(budget) = self.extra.as_mut().and_then(|extra| extra.budget.as_mut()) {
                budget.used = used;
            }
        }
    }

    fn queued_bytes(&mut self) -> u64 {
        let mut bytes = 0;
        self.mailbox.find(|envelope| {
            bytes += envelope.weight().map_or(0, Weight::bytes);
            false
        });
        bytes
    }
}

impl ShardCore {
    /// Whether messages for this cell are weighed.
    pub(crate) fn weighs(&self, (index, generation): (u32, u32)) -> bool {
        self.cells.peek(index, generation).is_some_and(Cell::is_weighed)
    }

    /// Makes room for a message of this weight, which the caller puts into the mailbox at once.
    pub(crate) fn admit_weight(&mut self, cell: (u32, u32), weight: Weight) -> Result<(), Rejected> {
        let now_ms = self.now_ms();
        let (mut gave_way, mut reclaimed) = (false, false);
        loop {
            let receiver = self.cells.get(cell.0, cell.1).filter(|cell| cell.admits()).ok_or(Rejected::Closed)?;
            debug_assert_eq!(Some(receiver.queued_bytes()), receiver.bytes().map(|(used, _)| used));
            let (queued, overflow, short) = (receiver.len(), receiver.overflow(), receiver.short);
            let budget = receiver.extra().budget.as_mut().ok_or(Rejected::Full)?;
            // What has room of its own may exceed the bound, as where messages are only counted.
            if budget.takes(weight) && (gave_way || queued < budget.capacity) {
                budget.used += weight.bytes();
                return Ok(());
            }
            budget.wanted = weight.bytes();
            if overflow == Overflow::DropOldest {
                self.give_way(cell)?;
                gave_way = true;
            } else if short && !std::mem::replace(&mut reclaimed, true) {
                let tokens = self.ledger.reclaim(&self.link.credit, cell, now_ms);
                receiver.return_credit(tokens);
            } else {
                return Err(Rejected::Full);
            }
        }
    }

    /// A message that was made room for does not come.
    #[cold]
    pub(crate) fn forgo(&mut self, cell: (u32, u32), weight: Option<Weight>) {
        let cell = self.cells.get(cell.0, cell.1);
        let budget = cell.and_then(|cell| cell.extra().budget.as_mut());
        if let (Some(budget), Some(weight)) = (budget, weight) {
            budget.used = budget.used.saturating_sub(weight.bytes());
        }
    }

    /// The mailbox has refused a message by its count: puts in what `make` returns if it goes by weight, and this one has room.
    #[cold]
    pub(crate) fn enter_by_weight(
        &mut self,
        cell: (u32, u32),
        reason: Rejected,
        weight: Weight,
        make: impl FnOnce() -> Envelope,
    ) -> Result<(), Rejected> {
        if reason != Rejected::Full || !self.weighs(cell) {
            return Err(reason);
        }
        self.admit_weight(cell, weight)?;
        self.enqueue_with(cell.0, || make().weighing(weight));
        Ok(())
    }

    /// A weighed message that came from elsewhere. It enters, or is reported.
    fn deliver_weighed(&mut self, mut envelope: Envelope, weight: Weight) {
        let cell = (envelope.index, envelope.generation);
        let reason = match self.admit_weight(cell, weight) {
            Ok(()) => {
                let receiver = self.cells.get(cell.0, cell.1).expect("admitted to it");
                let room = receiver.room();
                if room.queued * 2 >= room.capacity && !receiver.short && receiver.overflow() == Overflow::HandBack {
                    self.mark_short(cell.0, cell.1);
                }
                return self.enqueue_with(cell.0, || envelope.weighing(weight));
            }
            Err(reason) => reason,
        };
        if self.drops_newest(cell, reason) {
            return self.bury(envelope, Reason::Dropped);
        }
        if reason == Rejected::Full {
            self.mark_short(cell.0, cell.1);
            if envelope.is_patient() {
                // No more than was let in ahead, or was under way at the mark.
                let budget = self.cells.get(cell.0, cell.1).and_then(|cell| cell.extra().budget.as_mut());
                if let Some(budget) = budget {
                    budget.used += weight.bytes();
                }
                envelope.set_weight(weight);
                return self.enqueue_with(cell.0, || envelope);
            }
        }
        self.bury(envelope, Reason::from(reason));
    }
}

impl ShardCell {
    /// What a message says that it weighs; one whose own code panics weighs as much as an envelope.
    pub(crate) fn weigh(&self, weigh: impl FnOnce() -> usize) -> Weight {
        let weighed = catch_unwind(AssertUnwindSafe(weigh));
        let bytes = weighed.unwrap_or_else(|panic| {
            drop_contained(panic);
            self.core.borrow_mut().counters.panics += 1;
            size_of::<Envelope>()
        });
        Weight::of(bytes)
    }

    /// The mailbox has refused a message by its count: makes room if it goes by weight, for the caller to put the message in at once.
    /// Nothing is borrowed.
    #[cold]
    pub(crate) fn admit_by_weight(
        &self,
        cell: (u32, u32),
        reason: Rejected,
        weigh: impl FnOnce() -> usize,
    ) -> Result<Weight, Rejected> {
        if reason != Rejected::Full || !self.core.borrow().weighs(cell) {
            return Err(reason);
        }
        let weight = self.weigh(weigh);
        self.core.borrow_mut().admit_weight(cell, weight).map(|()| weight)
    }

    /// The same for a message that is an envelope already.
    #[cold]
    pub(crate) fn admit_envelope(
        &self,
        cell: (u32, u32),
        reason: Rejected,
        envelope: &mut Envelope,
    ) -> Result<(), Rejected> {
        let weight = self.admit_by_weight(cell, reason, || envelope.weigh())?;
        envelope.set_weight(weight);
        Ok(())
    }

    /// Delivers a message that arrived for a mailbox that goes by weight. Its token is redeemed already.
    #[cold]
    pub(super) fn deliver_by_weight(&self, envelope: Envelope) {
        let weight = self.weigh(|| envelope.weigh());
        self.core.borrow_mut().deliver_weighed(envelope, weight);
    }
}

#[cfg(test)]
mod tests {
    use super::Weight;

    #[test]
    fn weights_are_exact_where_they_are_small_and_never_less_than_what_they_stand_for() {
        for bytes in (0..5000).chain((0..40).map(|shift| (1 << shift) + 3)).chain([u64::from(u32::MAX), 1 << 41]) {
            let weight = Weight::of(usize::try_from(bytes).expect("64 bits")).bytes();
            assert!(weight >= bytes && weight - bytes <= bytes / 1000, "{bytes}: {weight}");
            assert!(bytes > 2047 || weight == bytes);
            assert_eq!(Weight::of(usize::try_from(weight).expect("64 bits")).bytes(), weight, "it is its own weight");
        }
        assert_eq!(Weight::of(usize::MAX).bytes(), 2047 << 31);
    }
}
