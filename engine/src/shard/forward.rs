//! The forwarder: a cell whose actor lives on another shard, and passes on what comes here.
//!
//! Its mailbox, its bound and its credit are those of any actor, so a sender by an old reference is told `Full` when too much waits
//! here. What it passes on takes credit of the actor's, or a place in the line of senders there; it is never dropped on the way.
//!
//! Invariant: messages are passed on in the order in which they came, each once, with all that it carries. An ask is answered by way
//! of this shard, in the room that it has reserved. It has no state, so nothing of its cell ever runs. Shard thread only.

use std::sync::Arc;
use std::task::Waker;

use crate::actor::StopReason;
use crate::actor_ref::{ActorId, on_shard_of};
use crate::context_block::{Asker, ContextBlock};
use crate::credit::Credit;
use crate::envelope::{CellId, Envelope, EpochTag, GIVEN_UP_NS, Meta};
use crate::error::Rejected;
use crate::limits::ACTIVATION_BUDGET;
use crate::reply::{Relayed, ReplyAddress};
use crate::waiting::{Turn, Whom};
use crate::waker::ActorWaker;

use super::ShardCell;
use super::cell::Life;
use super::core::ShardCore;

/// What came of one step.
enum Step {
    /// A message was passed on.
    Sent,
    /// Nothing is to be done until something comes.
    Rest,
    /// The ring is full.
    Again,
    /// Stands in line for room, or is to be.
    NeedsRoom(ActorId),
    /// Tells the actor to stop for this reason.
    Stop(ActorId, StopReason),
    /// Tells the actor to drain.
    Drain(ActorId),
    /// It has ended.
    End,
}

impl ShardCell {
    /// A share of a cell that has no state: a forwarder's, if it is one.
    #[cold]
    pub(super) fn forward(&self, index: u32) {
        if !self.begin_forwarding(index) {
            return;
        }
        self.forward_notices(index);
        let mut left = ACTIVATION_BUDGET;
        let again = loop {
            let step = self.core.borrow_mut().forward_one(index, None);
            match step {
                Step::Sent if left > 1 => left -= 1,
                Step::Sent | Step::Again => break true,
                Step::Rest => break false,
                Step::NeedsRoom(to) => match self.stand_in_line(index, to) {
                    Some(again) => break again,
                    None => left = left.saturating_sub(1),
                },
                Step::Stop(to, reason) => {
                    on_shard_of(to, move |shard| shard.request_stop(to.index(), to.generation(), reason));
                }
                Step::Drain(to) => {
                    self.behind_messages(to, move |shard| shard.request_drain(to.index(), to.generation()));
                }
                Step::End => return self.end_forwarder(index),
            }
        };
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let cell = core.cells.slot(index).expect("a forwarder keeps its cell");
        cell.mailbox.rest(&mut core.pool);
        cell.scheduled = again;
        if again {
            core.run_queue.push_back(cell.ready(index));
        }
    }

    /// Whether the cell is a forwarder.
    fn begin_forwarding(&self, index: u32) -> bool {
        let mut core = self.core.borrow_mut();
        let now_ms = core.now_ms();
        let Some(cell) = core.cells.slot(index) else { return false };
        if cell.away().is_none() {
            return false;
        }
        cell.conduct.woken = false;
        if cell.epoch().is_some() && cell.len() > 0 {
            cell.extra().active_ms = now_ms;
        }
        true
    }

    /// Passes on word of the ends of others.
    fn forward_notices(&self, index: u32) {
        loop {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a forwarder keeps its cell");
            let to = cell.away().expect("a forwarder").to;
            let Some(mut notice) = cell.extra().notices.pop_front() else { return };
            drop(core);
            notice.readdress(to.index(), to.generation());
            on_shard_of(to, move |shard| shard.core.borrow_mut().notify(notice));
        }
    }

    /// Stands in line for room, and sends in it when it is granted. `None` when it was; else whether to try again without being
    /// woken.
    fn stand_in_line(&self, index: u32, to: ActorId) -> Option<bool> {
        let (generation, waits) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a forwarder keeps its cell");
            (cell.generation, cell.away().expect("a forwarder").waits)
        };
        let waker = || Waker::from(ActorWaker::of(self.link, index, generation));
        let line = &to.link().waiting;
        let Some(id) = waits else {
            let entered = line.enter(to.credit_key(), Whom::Cell(to.index(), to.generation()), waker());
            let again = match entered {
                Ok(id) => {
                    self.note_line(index, Some(id));
                    to.link().wake();
                    false
                }
                Err(Rejected::Full) => true,
                // Its shard is gone.
                Err(_) => {
                    self.core.borrow_mut().forward_one(index, Some(Credit::Open));
                    return None;
                }
            };
            return Some(again);
        };
        match line.look(id, &waker()) {
            Turn::Waiting => Some(false),
            // Gone: the message is to be a dead letter there.
            turn @ (Turn::Granted | Turn::Retry | Turn::Over(_)) => {
                let credit = if turn == Turn::Granted { Credit::Token } else { Credit::Open };
                let sent = matches!(self.core.borrow_mut().forward_one(index, Some(credit)), Step::Sent);
                if !sent {
                    // Its place is kept, and so is its room.
                    return Some(true);
                }
                self.note_line(index, None);
                line.leave(id, turn == Turn::Granted);
                None
            }
        }
    }

    fn note_line(&self, index: u32, waits: Option<crate::waiting::WaiterId>) {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index).expect("a forwarder keeps its cell");
        cell.away().expect("a forwarder").waits = waits;
    }

    /// Frees the cell of a forwarder whose actor has ended, or whose engine stops.
    fn end_forwarder(&self, index: u32) {
        let generation = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a forwarder keeps its cell");
            if cell.stop_reason().is_none() {
                cell.set_stop_reason(Some(StopReason::Shutdown));
            }
            cell.generation
        };
        self.leave_directory(CellId::new(index, generation));
        self.abandon(index);
    }
}

impl ShardCore {
    /// The next step of a forwarder. `room` says in which room a message is sent, if it has any already.
    fn forward_one(&mut self, index: u32, room: Option<Credit>) -> Step {
        let draining = self.draining;
        let cell = self.cells.slot(index).expect("a forwarder keeps its cell");
        let (life, reason, epoch, queued) = (cell.conduct.life, cell.stop_reason(), cell.epoch(), cell.len());
        let away = cell.away().expect("a forwarder");
        let to = away.to;
        if away.over || draining {
            return Step::End;
        }
        if life == Life::Stopping {
            let reason = reason.unwrap_or(StopReason::Stopped);
            if away.passed_on.replace(reason.clone()).as_ref() == Some(&reason) {
                return Step::Rest;
            }
            return Step::Stop(to, reason);
        }
        if away.holds {
            return Step::Rest;
        }
        if queued == 0 {
            if life != Life::Draining || away.passed_on.replace(StopReason::Drained).is_some() {
                return Step::Rest;
            }
            return Step::Drain(to);
        }
        let shard = to.link().shard().get();
        if away.waits.is_some() && room.is_none() {
            return Step::NeedsRoom(to);
        }
        if !self.mesh.has_room(shard) {
            return Step::Again;
        }
        let credit = match room {
            None => match self.purse.take(to) {
                Ok(credit) => credit,
                Err(_) => return Step::NeedsRoom(to),
            },
            Some(room) => room,
        };
        let cell = self.cells.slot(index).expect("a forwarder keeps its cell");
        let mut envelope = cell.pop(&mut self.pool).expect("it has messages");
        self.readdress(&mut envelope, to, epoch);
        envelope.set_patient();
        envelope.set_credit(credit);
        self.mesh.push(shard, envelope);
        Step::Sent
    }

    /// Sends a message on to where its actor lives. Whoever waits for an answer gets it by way of this shard, under the epoch of
    /// the cell that the message came to.
    pub(super) fn readdress(&mut self, envelope: &mut Envelope, to: ActorId, epoch: Option<EpochTag>) {
        envelope.take_credit();
        envelope.readdress(to.index(), to.generation());
        let meta = match envelope.take_meta() {
            Meta::Reply(address) => {
                let until_ns = envelope.deadline_ns().or_else(|| self.deadline_of(address));
                let context = self.relayed(address, epoch, until_ns, ContextBlock::new());
                Meta::Context(to.link().contexts.make(context))
            }
            Meta::Context(mut context) => {
                let until_ns = Some(context.deadline_ns).filter(|until_ns| *until_ns != 0);
                let taken = std::mem::replace(&mut *context, ContextBlock::new());
                *context = match &taken.asker {
                    Asker::Slot(address) | Asker::InRequest(_, Some(address)) => {
                        self.relayed(*address, epoch, until_ns, taken)
                    }
                    _ => taken,
                };
                Meta::Context(context)
            }
            meta => meta,
        };
        envelope.set_meta(meta);
    }

    /// When an asker of this shard gives up; `None` for one of another shard, which did not say.
    fn deadline_of(&mut self, address: ReplyAddress) -> Option<u64> {
        let own = address.0.shard() == self.shard.get();
        own.then(|| self.replies.deadline_ns(address).unwrap_or(GIVEN_UP_NS))
    }

    /// The context of a message whose answer goes by way of this shard.
    fn relayed(
        &self,
        address: ReplyAddress,
        epoch: Option<EpochTag>,
        until_ns: Option<u64>,
        context: ContextBlock,
    ) -> ContextBlock {
        let ttl_ns = until_ns.map_or(u64::MAX, |until_ns| until_ns.saturating_sub(self.now_ns));
        let relayed = Arc::new(Relayed::new(self.link, address, epoch));
        let asker = match context.asker {
            Asker::InRequest(request, _) => Asker::ForeignInRequest(Box::new((relayed, request))),
            _ => Asker::Foreign(relayed),
        };
        ContextBlock { asker, ttl_ns, deadline_ns: 0, ..context }
    }
}
