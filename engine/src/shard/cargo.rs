//! `Cargo`: an actor on its way to another shard, with all that goes along.
//!
//! Invariant: what was queued where it came from is handled before whatever has come, or comes, to where it goes. A cargo that
//! never arrives, because the engine stops, ends the actor's forwarders. Made on the old shard's thread, unloaded on the new one's.

use crate::actor::StopReason;
use crate::actor_ref::{ActorId, on_shard_of};
use crate::bonds::Bonds;
use crate::envelope::{CellId, Envelope, EpochTag};
use crate::key::Key;
use crate::policy::Overflow;
use crate::reentrancy::Reentrancy;
use crate::signal::{open_tick_handled, tick_handled};
use crate::supervision::{Supervision, Supervisor, Window};
use crate::timer::{Body, Leaving, Owner, TimerId};

use super::activate::attend::Attended;
use super::actor_box::Packed;
use super::cell::{Cell, CellExtra, Life};
use super::core::ShardCore;
use super::moved::{Arrival, Away, Here, Moved, Told, end_forwarders};
use super::{ShardCell, Spawn};

/// See the module's head.
pub(super) struct Cargo {
    /// The actor where it arrives.
    pub(super) actor: ActorId,
    pub(super) from: ActorId,
    /// Its forwarders, the cell that it has left and, if it has been there, the one to which it goes among them.
    pub(super) others: Vec<ActorId>,
    /// By which names it is found.
    pub(super) names: Vec<Key>,
    load: Option<Load>,
}

/// What is unloaded.
struct Load {
    packed: Packed,
    told: Option<Told>,
    capacity: u32,
    /// The bound of its mailbox in bytes, if it has one.
    bytes: Option<u32>,
    queued: Vec<Envelope>,
    stashed: Vec<Envelope>,
    timers: Vec<Leaving>,
    /// Timers that came along before: as the actor knows them, and as the old shard did.
    known_timers: Vec<(TimerId, TimerId)>,
    home: Option<(usize, Key, ActorId)>,
    bonds: Option<Box<Bonds>>,
    attended: Option<Box<Attended>>,
    overflow: Overflow,
    /// What it lets in while it waits, where that is not everything.
    reentrancy: Option<Reentrancy>,
    window: Option<Box<Window>>,
    policy: Option<Box<Supervision>>,
    supervisor: Option<Box<Supervisor>>,
}

impl Drop for Cargo {
    fn drop(&mut self) {
        if self.load.is_some() {
            crate::naming::release_all(self.actor.link().engine(), &self.names, self.actor);
            end_forwarders(std::mem::take(&mut self.others), &StopReason::Shutdown);
        }
    }
}

impl ShardCore {
    /// Takes an actor out of its cell, which becomes its forwarder.
    pub(super) fn load(
        &mut self,
        from: ActorId,
        actor: ActorId,
        packed: Packed,
        told: Option<Told>,
        away: Away,
    ) -> Cargo {
        let now_ns = self.now_ns;
        let timers = self.timers.take_owned(from.index(), now_ns);
        let cell = self.cells.slot(from.index()).expect("a leaving actor keeps its cell");
        let epoch = cell.epoch();
        let mut queued = Vec::with_capacity(cell.len() as usize);
        queued.extend(std::iter::from_fn(|| cell.pop(&mut self.pool)));
        let (room, bytes) = (cell.room(), cell.bytes().map(|(_, limit)| limit));
        let extra = cell.extra.as_deref_mut().expect("it was asked to move");
        let capacity = room.capacity + room.out;
        let mut stashed = extra.stash.take().map_or_else(Vec::new, |stash| stash.messages);
        let moved = extra.moved.replace(Box::new(Moved::Away(away)));
        let Some(Moved::Here(here)) = moved.map(|moved| *moved) else { unreachable!("it lived here") };
        let home = here.home.or_else(|| extra.identity.clone().map(|(position, key)| (position, key, from)));
        let names = std::mem::take(&mut extra.names);
        extra.intercepted = None;
        extra.async_slot = Default::default();
        let load = Load {
            packed,
            told,
            capacity,
            bytes,
            timers,
            known_timers: here.timers,
            home,
            bonds: extra.bonds.as_ref().map(|bonds| Box::new(bonds.to_go_along())),
            attended: extra.attended.take(),
            overflow: extra.overflow,
            reentrancy: extra.turns.take().map(|turns| turns.setting),
            window: extra.window.take(),
            policy: extra.policy.take(),
            supervisor: extra.supervisor.take(),
            queued: Vec::new(),
            stashed: Vec::new(),
        };
        cell.conduct.woken = false;
        for envelope in queued.iter_mut().chain(&mut stashed) {
            let weight = envelope.weight();
            self.readdress(envelope, actor, epoch);
            // It is not asked again.
            if let Some(weight) = weight {
                envelope.set_weight(weight);
            }
        }
        let mut others = here.others;
        others.push(from);
        for name in &names {
            self.link.engine().names.lead_to(name, from, actor);
        }
        Cargo { actor, from, others, names, load: Some(Load { queued, stashed, ..load }) }
    }
}

impl ShardCell {
    /// Sends a cargo on its way.
    pub(super) fn ship(&self, cargo: Cargo) {
        on_shard_of(cargo.actor, move |shard| shard.unload(cargo));
    }

    /// An actor has arrived: it gets its cell and all that is its, and its forwarders hear of it.
    fn unload(&self, mut cargo: Cargo) {
        if self.core.borrow().draining {
            return super::drop_contained(cargo);
        }
        let mut load = cargo.load.take().expect("a cargo is unloaded once");
        let actor = cargo.actor;
        for envelope in load.queued.iter_mut().chain(&mut load.stashed) {
            self.prepare_here(envelope);
        }
        let was_here = cargo.others.iter().position(|other| *other == actor).map(|at| cargo.others.swap_remove(at));
        let mut core = self.core.borrow_mut();
        let (state, luggage) = load.packed.into_parts();
        if was_here.is_none() {
            let spawn =
                Spawn { state, capacity: load.capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
            let refused = core.spawn_at(actor.index(), actor.generation(), spawn);
            debug_assert!(refused.is_none(), "not draining");
        } else {
            core.cells.get(actor.index(), actor.generation()).expect("a forwarder lives as long as its actor").state =
                Some(state);
        }
        let arrival = Arrival { luggage, from: cargo.from, told: load.told };
        let owner = Owner { index: actor.index(), generation: actor.generation() };
        let id = CellId::new(actor.index(), actor.generation());
        let timers = core.take_timers(owner, load.timers);
        let renamed = |timer: TimerId| timers.iter().find(|(before, _)| *before == timer).map(|(_, here)| *here);
        let mut known = load.known_timers;
        known.retain_mut(|(_, timer)| renamed(*timer).map(|here| *timer = here).is_some());
        known.extend(&timers);
        let core = &mut *core;
        let cell = core.cells.get(actor.index(), actor.generation()).expect("just put there");
        for envelope in load.queued.into_iter().rev() {
            let envelope = match open_tick_handled(envelope) {
                Ok(timer) => match renamed(timer) {
                    Some(timer) => tick_handled(id, timer),
                    None => continue,
                },
                Err(envelope) => envelope,
            };
            cell.mailbox.push_front(envelope, &mut core.pool);
        }
        if let Some(bytes) = load.bytes {
            cell.limit_bytes(bytes);
        }
        cell.recount();
        if cell.conduct.life == Life::New {
            cell.conduct.begin(Life::Live);
        }
        let extra = cell.extra();
        let others = std::mem::take(&mut cargo.others);
        for other in others.iter().filter(|other| **other != cargo.from) {
            let other = *other;
            on_shard_of(other, move |shard| shard.pass_on_to(other, actor));
        }
        let home = load.home.filter(|(_, _, home)| *home != actor);
        let here = Here { others, request: None, arrival: Some(arrival), timers: known, home };
        extra.moved = Some(Box::new(Moved::Here(here)));
        extra.names.append(&mut cargo.names);
        extra.take_in(load.attended, load.stashed);
        extra.overflow = load.overflow;
        (extra.window, extra.policy, extra.supervisor) = (load.window, load.policy, load.supervisor);
        if let Some(bonds) = load.bonds {
            extra.bonds.get_or_insert_default().come_back(*bonds);
        }
        if let Some(idle) = extra.attended.as_mut().and_then(|attended| attended.idle.as_mut()) {
            idle.timer = renamed(idle.timer).unwrap_or(idle.timer);
        }
        if let Some(reentrancy) = load.reentrancy {
            cell.limit(reentrancy);
            core.has_turns = true;
        }
        core.wake(actor.index(), actor.generation());
    }
}

impl CellExtra {
    /// What is looked at before each message, and what was put aside.
    fn take_in(&mut self, attended: Option<Box<Attended>>, stashed: Vec<Envelope>) {
        self.attended = attended;
        if let Some(ordered) = self.attended.as_mut().and_then(|attended| attended.ordered.as_mut()) {
            *ordered = 0;
        }
        if !stashed.is_empty() {
            let stash = self.stash.get_or_insert_default();
            stashed.into_iter().for_each(|envelope| stash.push(envelope));
        }
    }
}

impl ShardCore {
    /// Sets the timers of an actor that has arrived; their names before and now.
    fn take_timers(&mut self, owner: Owner, timers: Vec<Leaving>) -> Vec<(TimerId, TimerId)> {
        let take = |timer: Leaving| {
            let Leaving { id, at_ns, mut body } = timer;
            if let Body::Once(envelope) = &mut body {
                envelope.readdress(owner.index, owner.generation);
            }
            (id, self.timers.take_in(owner, at_ns, body))
        };
        timers.into_iter().map(take).collect()
    }
}

impl Cell {
    /// The type of the actor here, for people.
    pub(crate) fn actor_name(&mut self) -> &'static str {
        if self.away().is_some() {
            return "an actor that has moved";
        }
        self.state.as_ref().map_or("an actor that runs", super::ActorBox::actor_name)
    }
}
