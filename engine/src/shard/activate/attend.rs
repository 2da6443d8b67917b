//! Actors that are looked after before each message: those that want to hear when nobody speaks to them, those whose messages
//! go by priority, and those whose mailbox is bounded by bytes.
//!
//! Invariant: while such an actor has no future to wait for, its cell says `woken` between its shares, so each of them begins in
//! `look_after`, which hands its messages over one at a time here. The shares of plain actors know nothing of it. Shard
//! thread only.

use super::ShardCell;
use crate::envelope::Class;
use crate::shard::cell::Life;
use crate::timer::TimerId;

/// What is looked at before each message of an actor.
#[derive(Default)]
pub(crate) struct Attended {
    /// Its idle timeout.
    pub(crate) idle: Option<Idle>,
    /// Its messages go by priority: how many at the front of its mailbox are in order.
    pub(crate) ordered: Option<u32>,
    /// Its messages are weighed.
    pub(crate) weighed: bool,
}

impl Attended {
    /// Takes the idle timeout out of an actor that may have one; it is attended no more if nothing else is looked at.
    pub(crate) fn take_idle(attended: &mut Option<Box<Self>>) -> Option<Idle> {
        let idle = attended.as_mut()?.idle.take();
        if attended.as_ref().is_some_and(|attended| attended.ordered.is_none() && !attended.weighed) {
            *attended = None;
        }
        idle
    }
}

/// An idle timeout.
pub(crate) struct Idle {
    pub(crate) timer: TimerId,
    /// When somebody last spoke to the actor.
    pub(crate) spoken_ns: u64,
}

impl ShardCell {
    /// Whether the actor is attended; notes that somebody speaks to it if it `may` take what is at the front.
    pub(super) fn note_spoken(&self, index: u32, may: bool) -> bool {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let now_ns = core.now_ns;
        let Some(cell) = core.cells.slot(index) else { return false };
        let extra = cell.extra.as_mut();
        let Some(attended) = extra.and_then(|extra| extra.attended.as_mut()) else { return false };
        if let Some(ordered) = &mut attended.ordered {
            if may {
                cell.mailbox.order(&mut core.pool, ordered);
            }
            // The front one goes now, or somebody else has taken some.
            *ordered = if may { ordered.saturating_sub(1) } else { 0 };
        }
        if may && let Some(idle) = &mut attended.idle {
            let front = cell.mailbox.peek().map(|envelope| envelope.vtable().class);
            if matches!(front, Some(Class::Plain | Class::OwnsReply)) {
                idle.spoken_ns = now_ns;
            }
        }
        true
    }

    /// After an actor was looked after: `may` says whether it may take messages now. One that is attended takes at most one,
    /// here; any other goes on as `may` says.
    pub(super) fn attend(&self, index: u32, may: bool) -> bool {
        if !self.note_spoken(index, may) {
            return may;
        }
        if may {
            self.run_one(index);
        }
        if let Some(cell) = self.core.borrow_mut().cells.slot(index)
            && cell.extra.as_ref().is_some_and(|extra| extra.attended.is_some())
            && !cell.conduct.suspended
            && matches!(cell.conduct.life, Life::Live | Life::Draining)
        {
            cell.conduct.woken = true;
        }
        false
    }
}
