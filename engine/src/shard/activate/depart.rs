//! The two turns of an actor that moves: its last on one shard, its first on the other.
//!
//! Invariant: it leaves between two messages, and nothing that belongs to its old shard is left behind: it does not leave while it
//! waits for anything there. Shard thread only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Doing, Running};
use crate::actor_ref::ActorId;
use crate::error::Panicked;
use crate::moving::MoveError;
use crate::shard::ShardCell;
use crate::shard::actor_box::{ActorBox, NotLeaving};
use crate::shard::cell::{Cell, Life};
use crate::shard::moved::{Arrival, Away, Request, Step};
use crate::signal::is_tick_handled;
use crate::supervision::FailureKind;

/// What an actor does first in a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::shard) enum Crossing {
    /// It leaves, as a virtual actor that must.
    Leaves,
    /// It has come from another shard.
    Arrives,
}

impl ShardCell {
    /// The next step of a move that is the actor's own. The state comes back if the actor has not left.
    pub(super) fn depart(&self, state: ActorBox, running: Running) -> Result<(), ActorBox> {
        let me = ActorId::new(self.link, running.index, running.generation);
        let Some((step, to, others)) = self.next_step(running) else { return Err(state) };
        if let Some(error) = self.stands_against(running) {
            return Err(self.stays(state, running, error));
        }
        if step == Step::Asked && !others.is_empty() {
            for other in others {
                crate::actor_ref::on_shard_of(other, move |shard| shard.hold_back(other, me));
            }
            return Err(state);
        }
        let (index, generation) = match others.iter().find(|other| std::ptr::eq(other.link(), to)) {
            Some(before) => (before.index(), before.generation()),
            None => match to.take_index() {
                Ok(place) => place,
                Err(_) => return Err(self.stays(state, running, MoveError::Closed)),
            },
        };
        let mut state = state;
        let actor_type = state.actor_type();
        let packed = match state.leave() {
            Ok(packed) => packed,
            Err((state, why)) => {
                if !others.iter().any(|other| std::ptr::eq(other.link(), to)) {
                    to.give_back_index((index, generation));
                }
                return Err(self.did_not_leave(state, running, why));
            }
        };
        let actor = ActorId::new(to, index, generation);
        let told = self.take_request(running).and_then(|request| request.told);
        let away = Away { to: actor, actor_type, holds: false, passed_on: None, over: false, waits: None };
        let cargo = {
            let mut core = self.core.borrow_mut();
            core.running = None;
            core.load(me, actor, packed, told, away)
        };
        self.ship(cargo);
        self.forward(running.index);
        Ok(())
    }

    fn next_step(&self, running: Running) -> Option<(Step, &'static crate::link::ShardLink, Vec<ActorId>)> {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        let here = cell.here()?;
        let request = here.request.as_mut()?;
        let step = request.step;
        if step == Step::Asked && !here.others.is_empty() {
            request.step = Step::Waiting(here.others.len());
        }
        Some((step, request.to, here.others.clone()))
    }

    /// Why an actor cannot leave now.
    fn stands_against(&self, running: Running) -> Option<MoveError> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        if core.cells.kin.first_child(running.index).is_some() {
            return Some(MoveError::HasChildren);
        }
        let awaits = core.replies.owners().any(|owner| owner == (running.index, running.generation));
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        let is_own = |envelope: &mut crate::envelope::Envelope| {
            envelope.vtable().class == crate::envelope::Class::System && !is_tick_handled(envelope)
        };
        (awaits || cell.is_held() || cell.has_work() || cell.mailbox.find(is_own)).then_some(MoveError::Awaits)
    }

    fn take_request(&self, running: Running) -> Option<Request> {
        let mut core = self.core.borrow_mut();
        core.cells.slot(running.index).and_then(Cell::here).and_then(|here| here.request.take())
    }

    /// An actor stays where it is: its forwarders go on, and whoever asked hears why.
    fn stays(&self, mut state: ActorBox, running: Running, error: MoveError) -> ActorBox {
        let me = ActorId::new(self.link, running.index, running.generation);
        let request = self.take_request(running);
        let others = {
            let mut core = self.core.borrow_mut();
            let here = core.cells.slot(running.index).and_then(Cell::here);
            here.map(|here| here.others.clone()).unwrap_or_default()
        };
        for other in others {
            crate::actor_ref::on_shard_of(other, move |shard| shard.pass_on_to(other, me));
        }
        match request.map(|request| request.told) {
            Some(Some(told)) => told(Err(error)),
            Some(None) => {
                self.contain(&mut state, running, |state, shard| state.moved(Err(error), shard.seat(running)))
            }
            None => {}
        }
        state
    }

    fn did_not_leave(&self, state: ActorBox, running: Running, why: NotLeaving) -> ActorBox {
        match why {
            NotLeaving::Refused(error) => self.stays(state, running, error),
            NotLeaving::Panicked(panic) => {
                let text = Panicked::from_payload(&*panic).0.to_string();
                let mut state = self.stays(state, running, MoveError::Panicked(text));
                self.panicked(&mut state, running, Doing::default(), None, &*panic);
                state
            }
        }
    }

    /// The first turn of an actor that has come; whether it may go on.
    pub(super) fn arrive(&self, state: &mut ActorBox, running: Running) -> bool {
        let (arrival, life) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            let life = cell.conduct.life;
            (cell.here().and_then(|here| here.arrival.take()), life)
        };
        let Some(Arrival { luggage, from, told }) = arrival else { return true };
        if let Some(luggage) = luggage
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| state.unpack(luggage)))
        {
            let text = Panicked::from_payload(&*panic).0.to_string();
            if let Some(told) = told {
                told(Err(MoveError::Panicked(text.clone())));
            }
            let failure = self.failure(state, running, FailureKind::Panicked, &text, Doing::default());
            self.fail(state, running, failure, false);
            return false;
        }
        if life == Life::Stopping {
            return true;
        }
        if let Some(told) = told {
            told(Ok(ActorId::new(self.link, running.index, running.generation)));
        }
        self.contain(state, running, |state, shard| state.moved(Ok(from.shard()), shard.seat(running)));
        true
    }
}
