//! Actors that move: what their cells know of each other, and how one place hands over to the next.
//!
//! ```text
//!   asked to move -> the places where it was hold back -> all that they passed on is here -> it leaves with its mailbox
//!                                                                                               |
//!   they pass on again, to the new place  <-  it has arrived, its old mailbox before all else  <-+
//! ```
//!
//! An actor keeps a cell on each shard on which it has been, for as long as it lives: the one in which it lives, and forwarders
//! that pass on what comes to its older references (`forward.rs`). When it comes back to a shard it takes its cell there again, so
//! there are never more cells than shards, and no message is passed on twice but by a move that it meets on its way.
//!
//! Invariant: a forwarder passes on to one place at a time, and to the next one only when all that it had passed on before has
//! gone along with the actor. So the messages of one sender by one reference never overtake each other. When the actor ends,
//! so do its forwarders, for the same reason. Shard thread only; requests travel between the places.

use std::any::TypeId;

use crate::actor::StopReason;
use crate::actor_ref::{ActorId, on_shard_of};
use crate::key::Key;
use crate::link::ShardLink;
use crate::moving::MoveError;
use crate::timer::TimerId;
use crate::waiting::WaiterId;

use super::ShardCell;
use super::actor_box::Luggage;
use super::cell::{Cell, Life};
use super::core::ShardCore;

/// Who is told what became of a move; when it is dropped, that the actor has stopped.
pub(crate) type Told = Box<dyn FnOnce(Result<ActorId, MoveError>) + Send>;

/// What a cell knows of the moves of its actor.
pub(crate) enum Moved {
    /// The actor lives here.
    Here(Here),
    /// It lives elsewhere.
    Away(Away),
}

/// In the cell where an actor lives that has moved, or is to move.
#[derive(Default)]
pub(crate) struct Here {
    /// Its forwarders.
    pub(crate) others: Vec<ActorId>,
    pub(crate) request: Option<Request>,
    /// It has come and has had no turn yet.
    pub(crate) arrival: Option<Arrival>,
    /// Timers that have come along: as the actor knows them, and as this shard does.
    pub(crate) timers: Vec<(TimerId, TimerId)>,
    /// A virtual actor's type and key, and its forwarder where its messages come in.
    pub(crate) home: Option<(usize, Key, ActorId)>,
}

/// A move to come.
pub(crate) struct Request {
    pub(crate) to: &'static ShardLink,
    /// `None` when the actor itself asked.
    pub(crate) told: Option<Told>,
    pub(crate) step: Step,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing has happened.
    Asked,
    /// So many forwarders have passed on messages that may not have arrived.
    Waiting(usize),
    /// All of them hold back, and what they had passed on is here.
    Quiet,
}

/// An actor that has come.
pub(crate) struct Arrival {
    pub(crate) luggage: Option<Luggage>,
    pub(crate) from: ActorId,
    pub(crate) told: Option<Told>,
}

/// In the cell that an actor has left.
pub(crate) struct Away {
    /// Where messages are passed on to.
    pub(crate) to: ActorId,
    pub(crate) actor_type: TypeId,
    /// Messages wait, because the actor is about to move.
    pub(crate) holds: bool,
    /// The stop, or the drain, that has been passed on.
    pub(crate) passed_on: Option<StopReason>,
    /// The actor has ended.
    pub(crate) over: bool,
    /// A place in the line of senders that wait for room.
    pub(crate) waits: Option<WaiterId>,
}

impl Cell {
    pub(crate) fn moved(&mut self) -> Option<&mut Moved> {
        self.extra.as_mut()?.moved.as_deref_mut()
    }

    /// What is known where the actor lives; `None` in a forwarder, or where nothing is known yet.
    pub(crate) fn here(&mut self) -> Option<&mut Here> {
        match self.moved()? {
            Moved::Here(here) => Some(here),
            Moved::Away(_) => None,
        }
    }

    /// The forwarder, if this is one.
    pub(crate) fn away(&mut self) -> Option<&mut Away> {
        match self.moved()? {
            Moved::Away(away) => Some(away),
            Moved::Here(_) => None,
        }
    }

    /// The type of the actor here, or of the one that has moved on; `None` while it runs.
    pub(crate) fn actor_type(&mut self) -> Option<TypeId> {
        let state = self.state.as_mut().map(|state| state.actor_type());
        state.or_else(|| self.away().map(|away| away.actor_type))
    }

    /// Whether the next step of a move is the actor's own.
    pub(crate) fn is_leaving(&mut self) -> bool {
        self.here()
            .and_then(|here| here.request.as_ref())
            .is_some_and(|request| matches!(request.step, Step::Asked | Step::Quiet))
    }

    /// A timer that came along, by the number that it has here.
    pub(crate) fn timer_here(&self, timer: TimerId) -> Option<TimerId> {
        let Moved::Here(here) = self.extra.as_ref()?.moved.as_deref()? else { return None };
        here.timers.iter().find(|(known, _)| *known == timer).map(|(_, here)| *here)
    }
}

impl ShardCore {
    /// Has an actor move after what it does now.
    ///
    /// # Errors
    /// What stands against it already.
    fn ask(&mut self, index: u32, to: &'static ShardLink, told: Option<Told>) -> Result<(), (MoveError, Option<Told>)> {
        let (parent, child) = (self.cells.kin.parent(index), self.cells.kin.first_child(index));
        let cell = self.cells.slot(index).expect("the caller has looked");
        let generation = cell.generation;
        let stands_against = match cell.conduct.life {
            Life::Free | Life::Stopping | Life::Draining => Some(MoveError::Stopped),
            _ if parent.is_some() => Some(MoveError::HasParent),
            _ if child.is_some() => Some(MoveError::HasChildren),
            _ => None,
        };
        if let Some(error) = stands_against {
            return Err((error, told));
        }
        let moved = cell.extra().moved.get_or_insert_with(|| Box::new(Moved::Here(Here::default())));
        let Moved::Here(here) = &mut **moved else { unreachable!("forwarders pass requests on") };
        if here.request.is_some() || here.arrival.is_some() {
            return Err((MoveError::Moving, told));
        }
        here.request = Some(Request { to, told, step: Step::Asked });
        if !cell.conduct.suspended {
            self.wake(index, generation);
        }
        Ok(())
    }

    /// The same for the actor that runs.
    pub(crate) fn ask_to_move(&mut self, index: u32, to: &'static ShardLink) -> Result<(), MoveError> {
        if std::ptr::eq(to, self.link) {
            return Ok(());
        }
        self.ask(index, to, None).map_err(|(error, _)| error)
    }

    /// Where the actor of a forwarder is.
    pub(crate) fn away_to(&mut self, (index, generation): (u32, u32)) -> Option<ActorId> {
        self.cells.get(index, generation)?.away().map(|away| away.to)
    }
}

/// Has an actor move to the shard behind `to`; its forwarders pass the request on.
pub(crate) fn request_move(shard: &ShardCell, id: ActorId, to: &'static ShardLink, told: Option<Told>) {
    let told = told.unwrap_or_else(|| Box::new(drop));
    let mut core = shard.core.borrow_mut();
    let Some(cell) = core.cells.get(id.index(), id.generation()) else {
        drop(core);
        return told(Err(MoveError::Stopped));
    };
    if let Some(away) = cell.away() {
        let there = away.to;
        drop(core);
        return on_shard_of(there, move |shard| request_move(shard, there, to, Some(told)));
    }
    if std::ptr::eq(to, shard.link) {
        drop(core);
        return told(Ok(id));
    }
    let refused = core.ask(id.index(), to, Some(told));
    drop(core);
    if let Err((error, Some(told))) = refused {
        told(Err(error));
    }
}

impl ShardCell {
    /// A forwarder passes nothing on from now on, and `actor` hears when all that it has passed on has arrived.
    pub(super) fn hold_back(&self, forwarder: ActorId, actor: ActorId) {
        let waits = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.get(forwarder.index(), forwarder.generation());
            cell.and_then(Cell::away).and_then(|away| {
                away.holds = true;
                away.waits.take()
            })
        };
        self.leave_line(actor, waits);
        self.behind_messages(actor, move |shard| shard.has_gone_quiet(actor));
    }

    /// Runs `f` on another shard, after all messages that this one has sent there.
    pub(super) fn behind_messages(&self, to: ActorId, f: impl FnOnce(&Self) + Send + 'static) {
        self.publish_now();
        let f = Box::new(f);
        to.link().run(Box::new(move |shard: &Self| shard.core.borrow_mut().deferred.push(f)));
    }

    /// Gives up a place in the line of senders to `actor`.
    pub(super) fn leave_line(&self, actor: ActorId, waits: Option<WaiterId>) {
        if let Some(waits) = waits
            && actor.link().waiting.leave(waits, false)
        {
            actor.link().wake();
        }
    }

    /// What one forwarder has passed on to an actor has arrived.
    fn has_gone_quiet(&self, actor: ActorId) {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.get(actor.index(), actor.generation());
        let Some(request) = cell.and_then(Cell::here).and_then(|here| here.request.as_mut()) else { return };
        let Step::Waiting(left) = &mut request.step else { return };
        *left -= 1;
        if *left == 0 {
            request.step = Step::Quiet;
            core.wake(actor.index(), actor.generation());
        }
    }

    /// A forwarder passes on to `to`, what it has held back first.
    pub(super) fn pass_on_to(&self, forwarder: ActorId, to: ActorId) {
        let mut core = self.core.borrow_mut();
        let Some(cell) = core.cells.get(forwarder.index(), forwarder.generation()) else { return };
        let Some(away) = cell.away() else { return };
        (away.to, away.holds) = (to, false);
        core.wake(forwarder.index(), forwarder.generation());
    }

    /// The actor of a forwarder has ended.
    fn forwarder_ends(&self, forwarder: ActorId, reason: StopReason) {
        let mut core = self.core.borrow_mut();
        let Some(cell) = core.cells.get(forwarder.index(), forwarder.generation()) else { return };
        let Some(away) = cell.away() else { return };
        away.over = true;
        cell.conduct.begin(Life::Stopping);
        cell.set_stop_reason(Some(reason));
        core.wake(forwarder.index(), forwarder.generation());
    }

    /// The end of what a cell knew that is free now.
    pub(super) fn forget_moves(&self, moved: Moved, reason: &StopReason) {
        match moved {
            Moved::Here(here) => end_forwarders(here.others, reason),
            Moved::Away(away) => self.leave_line(away.to, away.waits),
        }
    }
}

/// Ends the forwarders of an actor that has ended.
pub(super) fn end_forwarders(forwarders: Vec<ActorId>, reason: &StopReason) {
    for forwarder in forwarders {
        let reason = reason.clone();
        on_shard_of(forwarder, move |shard| shard.forwarder_ends(forwarder, reason));
    }
}
