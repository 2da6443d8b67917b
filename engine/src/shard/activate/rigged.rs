//! Faults that a test plants in one actor: its n-th message panics, or is lost. Actors with interceptors come by here too.
//!
//! Invariant: while an actor has a fault to come, its cell says `woken`, so each share begins in `look_after`, which hands the
//! actor's messages over one at a time here. An actor without faults never gets here with messages; the shares of plain
//! actors know nothing of it. Shard thread only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Doing, Opened, ShardCell};
use crate::actor_ref::ActorId;
use crate::envelope::Class;
use crate::shard::{Life, drop_contained};

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its handler panics before it has done anything.
    Panic,
    /// It vanishes before it is handled, and nobody is told.
    Lose,
}

/// A fault to come.
pub(crate) struct Rig {
    pub(crate) actor: ActorId,
    pub(crate) fault: Fault,
    /// Which message of the actor, from now on: 1 for the next.
    pub(crate) at: u64,
    /// Set when it has happened.
    pub(crate) fired: Arc<AtomicBool>,
}

impl ShardCell {
    /// Plants a fault; nothing happens if the actor is gone.
    pub(crate) fn plant(&self, rig: Rig) {
        let mut core = self.core.borrow_mut();
        let (index, generation) = (rig.actor.index(), rig.actor.generation());
        let Some(cell) = core.cells.get(index, generation) else { return };
        cell.conduct.woken = true;
        core.rigs.push(rig);
        core.is_rigged = true;
    }

    /// After an actor was looked after: `may` says whether it may take messages now. One with faults to come takes at most one,
    /// here; any other goes on as `may` says.
    pub(super) fn rigged(&self, index: u32, may: bool) -> bool {
        if !self.core.borrow().is_rigged {
            return may;
        }
        let chain = self.interceptors_of(index);
        let here = |rig: &Rig| rig.actor.index() == index;
        {
            // Actors that are gone have no faults to come.
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            core.rigs.retain(|rig| core.cells.get(rig.actor.index(), rig.actor.generation()).is_some());
            if !core.rigs.iter().any(here) && chain.is_none() {
                return may;
            }
        }
        if may {
            match (self.next_fault(index), &chain) {
                (None, None) => self.run_one(index),
                (None, Some(chain)) => self.run_intercepted(index, chain),
                (Some(fault), _) => self.suffer(index, fault),
            }
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        if let Some(cell) = core.cells.slot(index)
            && cell.conduct.life != Life::Free
            && (core.rigs.iter().any(here) || cell.extra.as_ref().is_some_and(|extra| extra.intercepted.is_some()))
        {
            cell.conduct.woken = true;
        }
        false
    }

    /// Counts the message at the front; what is to happen to it.
    fn next_fault(&self, index: u32) -> Option<Fault> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let front = core.cells.slot(index).and_then(|cell| cell.mailbox.peek())?;
        if front.vtable().class == Class::System {
            return None;
        }
        let mut fault = None;
        core.rigs.retain_mut(|rig| {
            if rig.actor.index() == index {
                rig.at -= 1;
                if rig.at == 0 {
                    rig.fired.store(true, Ordering::Relaxed);
                    fault.get_or_insert(rig.fault);
                }
            }
            rig.at > 0
        });
        fault
    }

    /// Handles one message in the ordinary way.
    pub(super) fn run_one(&self, index: u32) {
        let ready = self.core.borrow_mut().cells.slot(index).map(|cell| cell.ready(index));
        let ready = ready.expect("a running actor keeps its cell");
        if let Some(share) = self.begin(ready) {
            if let Some(cell) = self.core.borrow_mut().cells.slot(index) {
                cell.front_leaves();
            }
            self.run(ready, super::Share { messages: 1, ..share });
        }
    }

    /// Takes a message that is not handled.
    fn suffer(&self, index: u32, fault: Fault) {
        let (mut state, running) = self.take_out(index);
        let mut envelope = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            core.counters.handled += u64::from(fault == Fault::Panic);
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            cell.pop(&mut core.pool).expect("it was looked at")
        };
        // Without its meta word a message that is dropped answers nobody.
        let (sender, reply) = match self.open(&mut envelope) {
            Opened::Ready(sender, reply) => (sender, reply),
            Opened::Expired(reply) => (None, reply),
            Opened::Signal => (None, None),
            Opened::InRequest => {
                let taken = super::in_request::take(&mut envelope);
                (taken.sender, taken.reply)
            }
        };
        let doing = Doing { message: Some((envelope.vtable().message_name)()), sender };
        drop_contained(envelope);
        if fault == Fault::Panic {
            self.panicked(&mut state, running, doing, reply, &"a panic that the test planted");
        }
        self.put_back(state, running);
    }
}
