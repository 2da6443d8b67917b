//! Passivation: virtual actors leave when they are idle, when there are too many of them, or when they are told to.
//!
//! Invariant: none leaves that has something to do (a message, an answer to come, a suspension, something put aside), save one
//! that was told to and has used up its time; and then what it had not handled goes to its next life, in order. A message that
//! comes before an actor has left keeps it. Shard thread only.

use super::ShardCell;
use super::activate::Crossing;
use super::cell::{Cell, Life};
use super::core::ShardCore;
use super::moved::request_move;
use crate::actor::StopReason;
use crate::actor_ref::on_shard_of;
use crate::cluster::directory::{Age, Leaving};
use crate::cluster::registry::RegisteredType;
use crate::dead_letter::Reason;
use crate::envelope::{Class, Envelope, EpochTag};
use crate::key::Key;
use crate::latch::LatchGuard;
use crate::limits::{PASSIVATION_LOOKS, PASSIVATION_RETRY_NS};

/// An actor that has nothing to do.
struct Candidate {
    index: u32,
    generation: u32,
    actor_type: usize,
    /// It is not idle for long: there are too many.
    pressed: bool,
}

/// Who waits for an answer, sorted; looked up only once somebody could leave.
type Waiting = Option<Vec<(u32, u32)>>;

fn sorted(owners: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut owners: Vec<_> = owners.collect();
    owners.sort_unstable();
    owners
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A type's idle time in the unit of ages; `u64::MAX` for never.
fn idle_ms(registered: &RegisteredType) -> u64 {
    let idle = registered.settings.idle;
    if idle == std::time::Duration::MAX { u64::MAX } else { (nanos(idle) >> 20).max(1) }
}

/// Whether the cell's actor has nothing to do now.
fn is_free(cell: &Cell) -> bool {
    cell.conduct.life == Life::Live
        && !cell.scheduled
        && !cell.conduct.suspended
        && cell.len() == 0
        && cell.stashed() == 0
        && !cell.has_work()
}

impl ShardCore {
    /// When a virtual actor last ran, in units of 2^20 ns.
    fn ran_ms(&self, cell: &Cell) -> u64 {
        let ago = cell.extra.as_ref().map_or(0, |extra| self.now_ms().wrapping_sub(extra.active_ms));
        (self.now_ns >> 20).saturating_sub(u64::from(ago))
    }

    /// When an actor that runs now is idle unless it runs again.
    pub(super) fn idle_at_ns(&self, position: usize) -> u64 {
        let idle = self.link.engine().registry.types[position].settings.idle;
        self.now_ns.saturating_add(nanos(idle).max(PASSIVATION_RETRY_NS))
    }

    /// Whether the actor has children, or answers or, where its type says so, timers are on their way to it.
    fn is_awaited(&self, cell: (u32, u32), registered: &RegisteredType, waiting: &mut Waiting) -> bool {
        // One whose children live is in use.
        if self.cells.kin.first_child(cell.0).is_some() {
            return true;
        }
        let answers = waiting.get_or_insert_with(|| sorted(self.replies.owners()));
        if answers.binary_search(&cell).is_ok() {
            return true;
        }
        registered.settings.stays_for_timers && self.timers.owned_by(cell.0) > 0
    }

    /// Takes out who is idle, and who is least recently used where there are too many; at most [`PASSIVATION_LOOKS`] a time.
    fn pick_idle(&mut self, types: &[RegisteredType]) -> Vec<Candidate> {
        let now_ms = self.now_ns >> 20;
        let mut waiting = None;
        let (mut looks, mut candidates, mut busy) = (PASSIVATION_LOOKS, Vec::new(), Vec::new());
        let mut look = |core: &mut Self, actor_type, pressed| {
            if let Some((candidate, free)) = core.look_at_oldest(actor_type, &types[actor_type], &mut waiting) {
                let found = Candidate { pressed, ..candidate };
                if free {
                    candidates.push(found)
                } else {
                    busy.push(found)
                }
                return usize::from(free);
            }
            0
        };
        let mut found = 0;
        let is_due = |age: Age, registered: &RegisteredType| age.ran_ms.saturating_add(idle_ms(registered)) <= now_ms;
        for (actor_type, registered) in types.iter().enumerate() {
            while looks > 0 && self.directory.oldest(actor_type).is_some_and(|age| is_due(age, registered)) {
                looks -= 1;
                found += look(self, actor_type, false);
            }
        }
        let excess = self.directory.excess() as usize;
        while found < excess && looks > 0 {
            let Some(actor_type) = self.directory.oldest_type() else { break };
            looks -= 1;
            found += look(self, actor_type, true);
        }
        for one in busy {
            self.ask_again(&types[one.actor_type], &one);
        }
        self.directory.next_sweep_ns = if looks == 0 { self.now_ns } else { u64::MAX };
        candidates
    }

    /// Takes the oldest activation of a type, and says whether it has nothing to do; `None` if it ran meanwhile and went back, or
    /// is gone.
    fn look_at_oldest(
        &mut self,
        actor_type: usize,
        registered: &RegisteredType,
        waiting: &mut Waiting,
    ) -> Option<(Candidate, bool)> {
        let age = self.directory.take_oldest(actor_type)?;
        let Age { index, generation, .. } = age;
        let cell = self.cells.peek(index, generation)?;
        let ran_ms = self.ran_ms(cell);
        if ran_ms > age.ran_ms {
            self.directory.age(actor_type, Age { ran_ms, ..age });
            return None;
        }
        let free = is_free(cell) && !self.is_awaited((index, generation), registered, waiting);
        Some((Candidate { index, generation, actor_type, pressed: false }, free))
    }

    /// Looks at an actor again that has something to do, or wants to stay: after a quarter of its idle time, or when those that
    /// ran before now have been asked.
    fn ask_again(&mut self, registered: &RegisteredType, one: &Candidate) {
        let idle_ms = idle_ms(registered);
        let now_ms = self.now_ns >> 20;
        let soon_ms = now_ms.saturating_sub(idle_ms - (idle_ms / 4).max(1));
        let ran_ms = if one.pressed { now_ms } else { soon_ms };
        self.directory.age(one.actor_type, Age { ran_ms, index: one.index, generation: one.generation });
    }

    /// When the next look is due: not much later than somebody is idle, and no more often than pays.
    fn plan_sweep(&mut self, types: &[RegisteredType]) {
        let now_ns = self.now_ns;
        let mut next_ns = self.directory.next_sweep_ns;
        for (actor_type, registered) in types.iter().enumerate() {
            let (Some(age), idle_ms) = (self.directory.oldest(actor_type), idle_ms(registered)) else { continue };
            let due_ms = age.ran_ms.saturating_add(idle_ms);
            if due_ms < u64::MAX >> 20 {
                let rest_ns = (idle_ms << 20) / 8;
                next_ns = next_ns.min((due_ms << 20).max(now_ns + rest_ns.max(PASSIVATION_RETRY_NS)));
            }
        }
        if self.directory.excess() > 0 || !self.directory.leaving.is_empty() {
            next_ns = next_ns.min(now_ns + PASSIVATION_RETRY_NS);
        }
        self.directory.next_sweep_ns = next_ns;
    }

    /// Has an active virtual actor leave as soon as it has nothing to do, or after its type's drain time.
    pub(crate) fn tell_to_leave(&mut self, index: u32, generation: u32) {
        let types = &self.link.engine().registry.types;
        let home = self.cells.get(index, generation).and_then(Cell::here).and_then(|here| here.home.as_ref());
        if let Some((_, _, home)) = home {
            let home = *home;
            return home.link().run(Box::new(move |shard| {
                shard.core.borrow_mut().tell_to_leave(home.index(), home.generation());
            }));
        }
        let Some(position) = self.cells.peek(index, generation).and_then(Cell::position) else { return };
        if !self.directory.leaving.iter().any(|other| (other.index, other.generation) == (index, generation)) {
            let until_ns = self.now_ns.saturating_add(nanos(types[position].settings.drain_timeout));
            self.directory.leaving.push(Leaving { index, generation, until_ns });
        }
        self.directory.next_sweep_ns = self.now_ns;
    }

    /// Counts an actor that has left, and hands the messages that it was given but has not handled to its next life, which they
    /// begin, in the same epoch, whichever way the messages came. If the epoch has risen since, they are fenced: what they were
    /// admitted to was the activation of an older one. What was not a message (answers, signals) ends with it.
    #[cold]
    pub(super) fn end_passivation(&mut self, identity: Option<&(usize, Key)>, epoch: EpochTag, carried: Vec<Envelope>) {
        self.counters.passivated += 1;
        let engine = self.link.engine();
        let current = identity.map(|(position, key)| {
            let registered = &engine.registry.types[*position];
            // Workers go by one name, whatever their numbers.
            let name = if registered.workers.is_empty() { key.as_str() } else { "" };
            EpochTag::of(engine.placement.epoch(shardstage_codec::slot_of(registered.id, name).group()))
        });
        let mut heir = None;
        for mut envelope in carried {
            let is_message = envelope.vtable().class != Class::System;
            if is_message && current.is_some_and(|current| current != epoch) {
                self.counters.fenced += 1;
                self.bury(envelope, Reason::Fenced);
                continue;
            }
            let next = identity
                .filter(|_| is_message)
                .and_then(|(position, key)| self.activate_virtual(*position, key, epoch).ok());
            let Some((index, generation)) = next else {
                self.bury(envelope, Reason::Closed);
                continue;
            };
            envelope.index = index;
            envelope.generation = generation;
            self.push_reserved(envelope);
            heir = next;
        }
        if let Some(cell) = heir.and_then(|(index, generation)| self.cells.get(index, generation)) {
            cell.recount();
        }
    }
}

impl ShardCell {
    /// Has virtual actors leave that are idle, too many, or told to.
    pub(super) fn passivate_idle(&self) {
        let types = &self.link.engine().registry.types;
        let candidates = self.core.borrow_mut().pick_idle(types);
        for one in candidates {
            if !self.ask_to_leave(one.index, one.generation) {
                self.core.borrow_mut().ask_again(&types[one.actor_type], &one);
            }
        }
        self.see_off();
        self.core.borrow_mut().plan_sweep(types);
    }

    /// Asks an actor that has nothing to do whether it may leave, and has it stop if so.
    fn ask_to_leave(&self, index: u32, generation: u32) -> bool {
        let state = self.core.borrow_mut().cells.get(index, generation).and_then(|cell| cell.state.take());
        let Some(mut state) = state else {
            self.call_home(index, generation);
            return false;
        };
        // The user's code; one that panics keeps its actor active.
        let may = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state.may_passivate())).unwrap_or(false);
        self.core.borrow_mut().cells.get(index, generation).expect("it was not running").state = Some(state);
        if may {
            self.request_stop(index, generation, StopReason::Passivated);
        }
        may
    }

    /// Has an actor come back that lives on another shard: it leaves from here.
    fn call_home(&self, index: u32, generation: u32) {
        let there = self.core.borrow_mut().away_to((index, generation));
        if let Some(there) = there {
            let home = self.link;
            on_shard_of(there, move |shard| request_move(shard, there, home, None));
        }
    }

    /// Looks at those that were told to leave.
    fn see_off(&self) {
        let leaving = std::mem::take(&mut self.core.borrow_mut().directory.leaving);
        for leaving in leaving {
            let Leaving { index, generation, until_ns } = leaving;
            let mut core = self.core.borrow_mut();
            let types = &self.link.engine().registry.types;
            let Some(cell) = core.cells.peek(index, generation) else { continue };
            let position = cell.position().expect("virtual actors only are told to leave");
            let free = is_free(cell) && !core.is_awaited((index, generation), &types[position], &mut None);
            let overdue = until_ns <= core.now_ns;
            core.directory.leaving.push(leaving);
            if overdue {
                if core.away_to((index, generation)).is_some() {
                    drop(core);
                    self.call_home(index, generation);
                    continue;
                }
                let children = core.cells.children(index);
                if children.is_empty() {
                    core.make_leave(index, generation);
                }
                drop(core);
                for (child, generation) in children.into_iter().rev() {
                    self.request_stop(child, generation, StopReason::ParentStopped);
                }
            } else if free {
                drop(core);
                self.ask_to_leave(index, generation);
            }
        }
    }
}

impl ShardCore {
    /// Has an actor stop before its next message, whatever it has to do. Until its turn comes it takes messages like any other
    /// that waits; they are its next life's.
    fn make_leave(&mut self, index: u32, generation: u32) {
        let Some(cell) = self.cells.get(index, generation) else { return };
        if cell.conduct.life == Life::Live {
            cell.extra().must_leave = true;
            cell.conduct.suspended = true;
            self.wake(index, generation);
        }
    }

    /// Begins the end of an actor that must leave, and says who has come from elsewhere; looked at whenever an actor does something
    /// else than to handle messages.
    pub(super) fn crossing(&mut self, index: u32) -> Option<Crossing> {
        let cell = self.cells.slot(index).expect("a running actor keeps its cell");
        if cell.extra.as_ref()?.must_leave && cell.conduct.life == Life::Live {
            cell.conduct.begin(Life::Stopping);
            cell.set_stop_reason(Some(StopReason::Passivated));
            return Some(Crossing::Leaves);
        }
        cell.here()?.arrival.is_some().then_some(Crossing::Arrives)
    }
}

/// Told when the actor has left; at once if it is not active.
pub(crate) fn passivate(shard: &ShardCell, position: usize, key: &Key, left: LatchGuard<StopReason>) {
    let mut core = shard.core.borrow_mut();
    let active = core.directory.get(position, key);
    let Some((index, generation)) = active else {
        drop(core);
        return left.set(StopReason::Passivated);
    };
    let extra = core.cells.get(index, generation).expect("directory entries are live").extra();
    let given_up = crate::latch::keep(&mut extra.stop_latches, left);
    core.tell_to_leave(index, generation);
    drop(core);
    drop(given_up);
}
