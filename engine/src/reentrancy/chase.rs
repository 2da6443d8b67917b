//! Cycles of waiting calls across the shards of a process, found by edge chasing (Chandy, Misra, Haas 1983).
//!
//! Nothing travels with a call for it. Ten times a second a shard looks at its reply slots for actors that have waited long, by an
//! async handler or by a `then` that lets nothing in, while asks wait in their mailboxes. For each such ask a probe goes the waits
//! backwards: who has asked waits, so whoever asked that one waits too, if it is handled there or waits in that mailbox; and so
//! on, from shard to shard. A probe that comes home to the mailbox from which it started has found a cycle, and the ask there is
//! what ends: it was surely not executed, as it is taken out of the mailbox, and its asker hears of the cycle.
//!
//! No cycle is reported that never was. A probe that comes home goes the very same way once more, and each wait has to be there
//! still. A wait is a slot of the reply table with its generation, which is opened once: what was open in both rounds was open all
//! the time between, so when the first round ended, all waits of the way were open at one and the same moment. A wait that has
//! ended by then, by an answer, a deadline or because it was given up, ends the probe. A message under way between two shards is
//! not seen and found the next time.
//!
//! One cycle has one victim: a probe that meets, waiting in a mailbox, an ask with a lower address than its own leaves the way to
//! the probe of that one.
//!
//! Invariant: looking changes nothing; what is looked at in a turn is bounded. Shard thread only.

use std::collections::BTreeSet;

use super::callers::shown;
use super::cycle::{blocked_at, name_of};
use crate::envelope::{Envelope, PackedAddress};
use crate::error::{AskError, Deadlock};
use crate::limits::{
    CALLERS_LOOKED_AT, CHASE_ASKS, CHASE_EVERY_NS, CHASE_FUEL, CHASE_PROBES, CHASE_SLOTS, WAITS_LONG_NS,
};
use crate::reply::{self, ReplyAddress, Waiter};
use crate::shard::{ShardCell, ShardCore, asked_by, drop_contained};

/// Where the search of a shard is.
#[derive(Default)]
pub(crate) struct Chase {
    /// When it goes on, on the driver's clock.
    pub(crate) next_ns: u64,
    /// The reply slot that is looked at next.
    slot: usize,
}

/// An actor that waits at a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Edge {
    actor: PackedAddress,
    slot: ReplyAddress,
}

/// What goes round.
struct Probe {
    /// The actor in whose mailbox the ask waits.
    home: PackedAddress,
    /// Who waits for `home`, who waits for that one, and so on. The first one's slot is that of the ask.
    way: Vec<Edge>,
    round: Round,
}

enum Round {
    /// Looks for the way; next is who waits at this slot. May look at so many more.
    Search(ReplyAddress, u32),
    /// Goes it again; with the names so far.
    Confirm(Vec<String>),
}

impl Probe {
    /// The slot that is looked at next.
    fn next(&self) -> Option<ReplyAddress> {
        match &self.round {
            Round::Search(slot, _) => Some(*slot),
            Round::Confirm(names) => self.way.get(names.len()).map(|edge| edge.slot),
        }
    }
}

impl ShardCell {
    /// Sends probes for asks that wait in the mailboxes of actors that wait, if it is time.
    pub(crate) fn chase(&self, now_ns: u64) {
        if now_ns < self.core.borrow().chase.next_ns {
            return;
        }
        let probes = self.core.borrow_mut().suspects(now_ns);
        self.send_probes(probes);
    }

    /// Has probes go on where the slots are that they look at next.
    fn send_probes(&self, mut probes: Vec<Probe>) {
        while let Some(mut probe) = probes.pop() {
            let Some(next) = probe.next() else { continue };
            let shard = next.0.shard();
            if shard != self.link.shard().get() {
                let there = self.link.engine().link(shard);
                there.run(Box::new(move |shard| shard.send_probes(vec![probe])));
                continue;
            }
            let Some((deadlock, envelope)) = self.core.borrow_mut().step(&mut probe, &mut probes) else { continue };
            self.end_ask(envelope, deadlock);
        }
    }

    /// Ends an ask that closes a cycle.
    fn end_ask(&self, mut envelope: Envelope, deadlock: Deadlock) {
        let (asker, _) = asked_by(&mut envelope);
        // Without its meta word a message that is dropped answers nobody.
        drop(envelope.take_meta());
        if let Some(address) = asker {
            reply::answer_failure(self, address, AskError::Deadlock(deadlock));
        }
        drop_contained(envelope);
    }
}

impl ShardCore {
    /// Probes for the asks in the mailboxes of actors that have waited long, from the next slots on.
    #[cold]
    fn suspects(&mut self, now_ns: u64) -> Vec<Probe> {
        let slots = self.replies.slots();
        let until = slots.min(self.chase.slot + CHASE_SLOTS);
        let looked_at = self.chase.slot..until;
        self.chase.slot = if until == slots { 0 } else { until };
        self.chase.next_ns = now_ns + CHASE_EVERY_NS / slots.div_ceil(CHASE_SLOTS).max(1) as u64;
        let mut waiting = BTreeSet::new();
        for index in looked_at {
            let Some((slot, waiter, _)) = self.replies.waiting_at(index) else { continue };
            if matches!(waiter, Waiter::Task { owner: Some(_), .. } | Waiter::Then { .. })
                && let Some(blocked) = blocked_at(self, slot)
                && now_ns.saturating_sub(blocked.since_ns) >= WAITS_LONG_NS
            {
                waiting.insert(blocked.place);
            }
        }
        let mut probes = Vec::new();
        for (index, generation) in waiting {
            let home = self.address(index, generation);
            for slot in self.asks_in(index, generation) {
                if probes.len() < CHASE_PROBES {
                    probes.push(Probe { home, way: Vec::new(), round: Round::Search(slot, CHASE_FUEL) });
                }
            }
        }
        probes
    }

    /// Some of the asks that wait in a mailbox: all if they are few, others each time if they are many.
    fn asks_in(&mut self, index: u32, generation: u32) -> Vec<ReplyAddress> {
        let random = self.random.next_u64();
        let Some(cell) = self.cells.get(index, generation).filter(|cell| cell.len() > 0) else { return Vec::new() };
        let mut asks = Vec::new();
        cell.mailbox.find(|envelope| {
            asks.extend(asked_by(envelope).0);
            false
        });
        if asks.len() > CHASE_ASKS {
            #[expect(clippy::cast_possible_truncation, reason = "below the length")]
            let first = (random % asks.len() as u64) as usize;
            asks.rotate_left(first);
            asks.truncate(CHASE_ASKS);
        }
        asks
    }

    /// One step of a probe whose next slot is here. New probes are to be sent on; a cycle comes with the ask that ends for it.
    fn step(&mut self, probe: &mut Probe, on: &mut Vec<Probe>) -> Option<(Deadlock, Envelope)> {
        let slot = probe.next()?;
        let blocked = blocked_at(self, slot)?;
        let edge = Edge { actor: self.address(blocked.place.0, blocked.place.1), slot };
        match &mut probe.round {
            Round::Search(_, fuel) => {
                let fuel = fuel.saturating_sub(1);
                let is_known = probe.way.iter().any(|other| other.actor == edge.actor);
                if is_known || fuel == 0 || probe.way.len() >= CALLERS_LOOKED_AT {
                    return None;
                }
                probe.way.push(edge);
                if edge.actor == probe.home {
                    let way = std::mem::take(&mut probe.way);
                    self.ask_at_home(probe.home, way.first()?.slot)?;
                    on.push(Probe { home: probe.home, way, round: Round::Confirm(Vec::new()) });
                    return None;
                }
                let own = probe.way.first()?.slot.0;
                // Whoever waits in the mailbox with a lower address has a probe of its own.
                let mut next = self.asks_in(blocked.place.0, blocked.place.1);
                next.retain(|slot| slot.0 > own);
                next.extend(blocked.answering);
                let share = fuel / u32::try_from(next.len().max(1)).unwrap_or(u32::MAX);
                on.extend(next.into_iter().map(|slot| Probe {
                    home: probe.home,
                    way: probe.way.clone(),
                    round: Round::Search(slot, share),
                }));
                None
            }
            Round::Confirm(names) => {
                if probe.way.get(names.len()) != Some(&edge) {
                    return None;
                }
                names.push(name_of(self, blocked.place));
                if names.len() < probe.way.len() {
                    let names = std::mem::take(names);
                    on.push(Probe {
                        home: probe.home,
                        way: std::mem::take(&mut probe.way),
                        round: Round::Confirm(names),
                    });
                    return None;
                }
                // The last one is at home: it waits for the one before it, and that one for the one before, down to the ask.
                let at = self.ask_at_home(probe.home, probe.way.first()?.slot)?;
                let mut ways: Vec<&str> = names.iter().rev().map(String::as_str).collect();
                ways.push(names.last()?);
                let deadlock = Deadlock(shown(&ways).into());
                let cell = self.cells.get(probe.home.index(), probe.home.generation())?;
                if let Some(attended) = cell.extra.as_mut().and_then(|extra| extra.attended.as_mut()) {
                    attended.ordered = attended.ordered.map(|_| 0);
                }
                let envelope = cell.take_at(at, &mut self.pool)?;
                Some((deadlock, envelope))
            }
        }
    }

    /// How many messages are before the ask whose answer goes to `slot`, if it waits in the mailbox of `home`, an actor of this
    /// shard.
    fn ask_at_home(&mut self, home: PackedAddress, slot: ReplyAddress) -> Option<u32> {
        let cell = self.cells.get(home.index(), home.generation())?;
        let mut at = 0;
        let found = cell.mailbox.find(|envelope| {
            let found = asked_by(envelope).0 == Some(slot);
            at += u32::from(!found);
            found
        });
        found.then_some(at)
    }
}
