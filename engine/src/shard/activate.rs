//! Activation: an actor's share of a turn. Here a message meets its handler.
//!
//! Invariant: an activation takes at most what was queued when it began, and at most its budget; the cell of a running actor
//! says `scheduled`, so nothing can run it a second time. One of the few files with `unsafe`.

pub(super) mod attend;
mod depart;
mod in_request;
mod intercepted;
mod recover;
pub(super) mod rigged;
pub(super) mod turns;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context as TaskContext, Poll, Waker};

pub(super) use self::depart::Crossing;
pub(crate) use self::recover::Doing;
use super::actor_box::ActorBox;
use super::cell::{Life, Midway};
use super::{ShardCell, drop_contained};
use crate::actor::StopReason;
use crate::context_block::Asker;
use crate::envelope::{CellId, Class, Delivery, Envelope, Front, GIVEN_UP_NS, Meta, PackedAddress, VTable};
use crate::error::{AskError, Panicked, Rejected};
use crate::limits::ACTIVATION_BUDGET;
use crate::reply::{self, ReplyAddress};
use crate::run_queue::Ready;
use crate::signal::Signal;
use crate::supervision::FailureKind;
use crate::waker::ActorWaker;

/// An actor's part of a turn.
struct Share {
    generation: u32,
    /// The actor's state, which is in the cell.
    state: *mut u8,
    /// How many messages: what was queued when it began, at most the budget.
    messages: u32,
}

/// What the message at the front of a mailbox turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// To be handled: the sender of a tell, or where the answer goes.
    Ready(Option<PackedAddress>, Option<ReplyAddress>),
    /// Its deadline has passed.
    Expired(Option<ReplyAddress>),
    /// Not for a handler.
    Signal,
    /// Part of a request; its meta word is where it was.
    InRequest,
}

/// Who runs: the cell, and what its handlers need of it.
#[derive(Clone, Copy)]
struct Running {
    index: u32,
    generation: u32,
}

impl ShardCell {
    /// Runs one actor; returns how many messages it handled, or 1 for whatever else it did.
    #[inline]
    pub(super) fn activate(&self, ready: Ready) -> u32 {
        loop {
            if let Some(share) = self.begin(ready) {
                return self.run(ready, share);
            }
            if !self.look_after(ready.index) {
                return 1;
            }
        }
    }

    /// Begins the share of an actor that has messages, and nothing else to do than to handle them.
    #[inline(always)]
    fn begin(&self, ready: Ready) -> Option<Share> {
        // SAFETY: until the end of this function; numbers and flags only.
        let mut core = unsafe { self.core.quick() };
        let Ready { mut cell, index } = ready;
        // SAFETY: cells never move and live as long as the shard; nobody else has a reference into one now.
        let cell = unsafe { cell.as_mut() };
        if !cell.takes_messages() || cell.len() == 0 {
            return None;
        }
        let state = cell.state.as_ref()?.state_ptr();
        if cell.epoch().is_some() {
            cell.extra().active_ms = core.now_ms();
        }
        core.running = Some(core.address(index, cell.generation));
        Some(Share { generation: cell.generation, state, messages: cell.len().min(ACTIVATION_BUDGET).min(core.budget) })
    }

    /// Handles the messages of a share. The state stays in its cell: whoever else looks at the cell meanwhile leaves the state
    /// of a running actor alone.
    #[inline(always)]
    fn run(&self, ready: Ready, share: Share) -> u32 {
        let Ready { mut cell, index } = ready;
        let Share { generation, state, messages } = share;
        // SAFETY: cells never move, and this one is occupied until `finish_stop`, which no handler reaches; the references into
        // it that are made here end before a handler runs.
        let mut delivery = unsafe { Delivery::new(self, cell, CellId::new(index, generation)) };
        let mut handled = 0;
        while handled < messages {
            // SAFETY: as above.
            let actor = unsafe { cell.as_mut() };
            if !actor.takes_messages() {
                break;
            }
            let Some(mut slot) = actor.mailbox.front() else { break };
            // SAFETY: the slot at the front is initialised, and nobody else has a reference to it.
            let envelope = unsafe { slot.as_mut() };
            handled += 1;
            let (sender, reply) = match envelope.plain_sender() {
                Some(sender) => (sender, None),
                None => match self.open(envelope) {
                    Opened::Ready(sender, reply) => (sender, reply),
                    rare => return self.run_rare(index, rare, handled),
                },
            };
            delivery.sender = sender;
            delivery.reply = reply;
            let vtable = envelope.vtable();
            self.link.blame.runs(vtable);
            actor.mailbox.advance();
            let run = vtable.run;
            vtable.steer();
            // SAFETY: the cell's actor is of the type that the envelope's vtable was made for (the generation matched, and a
            // generation is one actor), it is built, and nobody else uses its state while it runs.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { run(&delivery, Front::new(slot, state)) })) {
                let reply = delivery.reply.filter(|_| vtable.class == Class::Plain);
                let doing = (vtable, delivery.sender);
                return self.end_with_panic(index, doing, reply, &*panic, handled);
            }
        }
        self.end(ready, handled);
        handled
    }

    /// Looks at what is not a plain tell, and takes its meta word.
    #[inline(always)]
    fn open(&self, envelope: &mut Envelope) -> Opened {
        // SAFETY: until the end of this function; the context block that is dropped is plain data: its asker holds nothing of a
        // user's once it has a slot.
        let mut core = unsafe { self.core.quick() };
        let (sender, reply, deadline_ns) = match envelope.take_meta() {
            Meta::None => (None, None, 0),
            Meta::Sender(sender) => (Some(sender), None, 0),
            Meta::Reply(address) => {
                let own = || core.replies.deadline_ns(address).unwrap_or(GIVEN_UP_NS);
                (None, Some(address), envelope.deadline_ns().unwrap_or_else(own))
            }
            Meta::Context(context) => {
                let reply = match context.asker {
                    Asker::None => None,
                    Asker::Slot(address) => Some(address),
                    Asker::InRequest(..) => return in_request::leave(envelope, context),
                    Asker::Foreign(_) | Asker::ForeignInRequest(_) => {
                        unreachable!("foreign askers got a slot on delivery")
                    }
                };
                let (sender, deadline_ns) = (context.sender, context.deadline_ns);
                core.link.contexts.recycle(context);
                core.asked_until_ns = deadline_ns;
                (sender, reply, deadline_ns)
            }
            Meta::Signal => return Opened::Signal,
        };
        if deadline_ns != 0 && deadline_ns <= core.now_ns {
            Opened::Expired(reply)
        } else {
            Opened::Ready(sender, reply)
        }
    }

    /// Ends a share: most actors go idle, or back to the queue.
    #[inline(always)]
    fn end(&self, mut ready: Ready, handled: u32) {
        // SAFETY: as in `run`.
        let actor = unsafe { ready.cell.as_mut() };
        {
            // SAFETY: until the end of this block; flags, queues and the memory of an empty backlog, no message is dropped.
            let mut core = unsafe { self.core.quick() };
            let core = &mut *core;
            core.counters.handled += u64::from(handled);
            if actor.is_plain() {
                core.running = None;
                if actor.len() > 0 {
                    core.run_queue.push_back(ready);
                } else {
                    actor.scheduled = false;
                    actor.mailbox.rest(&mut core.pool);
                }
                return;
            }
        }
        let (state, running) = self.take_out(ready.index);
        self.put_back(state, running);
    }

    /// Takes a running actor's state out of its cell.
    fn take_out(&self, index: u32) -> (ActorBox, Running) {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        let running = Running { index, generation: cell.generation };
        (cell.state.take().expect("a running actor's state is in its cell"), running)
    }

    /// Drops a message that expired; then the share ends.
    #[cold]
    #[inline(never)]
    fn run_rare(&self, index: u32, what: Opened, handled: u32) -> u32 {
        if what == Opened::InRequest {
            return self.run_in_request(index, handled);
        }
        assert!(what != Opened::Signal, "notices have a lane of their own");
        let (mut state, running) = self.take_out(index);
        let envelope = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            core.counters.handled += u64::from(handled);
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            let envelope = cell.mailbox.pop(&mut core.pool).expect("it is at the front");
            if let Opened::Expired(reply) = what {
                let given_up = core.has_given_up(&envelope, reply);
                core.counters.cancelled += u64::from(given_up);
                core.counters.expired += u64::from(!given_up);
            }
            envelope
        };
        if let Opened::Expired(Some(address)) = what {
            reply::answer_failure(self, address, AskError::Rejected(Rejected::Expired));
        }
        self.contain(&mut state, running, |_, _| drop(envelope));
        self.put_back(state, running);
        handled
    }

    #[cold]
    #[inline(never)]
    fn end_with_panic(
        &self,
        index: u32,
        (vtable, sender): (&'static VTable, Option<PackedAddress>),
        reply: Option<ReplyAddress>,
        panic: &(dyn std::any::Any + Send),
        handled: u32,
    ) -> u32 {
        let (mut state, running) = self.take_out(index);
        self.core.borrow_mut().counters.handled += u64::from(handled);
        let doing = Doing { message: Some((vtable.message_name)()), sender };
        self.panicked(&mut state, running, doing, reply, panic);
        self.put_back(state, running);
        handled
    }

    /// Looks after an actor that is new, waits or stops, or that has nothing to do. Returns whether it may take messages now.
    #[inline(never)]
    fn look_after(&self, index: u32) -> bool {
        if self.has_turns(index) {
            return self.take_turn(index);
        }
        let may = self.look_closer(index);
        let may = self.rigged(index, may);
        self.attend(index, may)
    }

    fn look_closer(&self, index: u32) -> bool {
        let Some((mut state, running, life)) = self.begin_rare(index) else {
            self.forward(index);
            return false;
        };
        if self.recover(&mut state, running) || (life == Life::New && !self.build(&mut state, running)) {
            self.put_back(state, running);
            return false;
        }
        let crossing = if life == Life::New { None } else { self.core.borrow_mut().crossing(index) };
        if let Some(crossing) = crossing
            && (crossing == Crossing::Leaves || !self.arrive(&mut state, running))
        {
            self.put_back(state, running);
            return false;
        }
        self.resume(&mut state, running);
        self.take_notices(&mut state, running);
        self.step_work(&mut state, running);
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        if cell.conduct.life == Life::Live && !cell.conduct.suspended && cell.is_leaving() {
            drop(core);
            if let Err(state) = self.depart(state, running) {
                self.put_back(state, running);
            }
            return false;
        }
        // Work that goes on takes turns with the messages.
        let again = cell.len() > 0 && cell.has_work() && std::mem::take(&mut cell.conduct.woken);
        if cell.takes_messages() && cell.len() > 0 {
            cell.state = Some(state);
            if !again {
                return true;
            }
            let ready = cell.ready(index);
            drop(core);
            if let Some(share) = self.begin(ready) {
                self.run(ready, share);
            }
            self.core.borrow_mut().wake(index, running.generation);
            return false;
        }
        cell.conduct.woken |= again;
        drop(core);
        self.put_back(state, running);
        false
    }

    /// Handles the notices of ends that wait for the actor, ahead of all messages of users.
    fn take_notices(&self, state: &mut ActorBox, running: Running) {
        loop {
            let notice = {
                let mut core = self.core.borrow_mut();
                let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
                if cell.conduct.suspended || !matches!(cell.conduct.life, Life::Live | Life::Draining) {
                    return;
                }
                cell.extra.as_mut().and_then(|extra| extra.notices.pop_front())
            };
            let Some(notice) = notice else { return };
            match crate::signal::open(notice) {
                Signal::Terminated(who, why) => {
                    // Else it was on its way when the watch ended.
                    if self.takes_news((running.index, running.generation), who) {
                        self.contain(state, running, |state, shard| state.terminated(who, &why, shard.seat(running)));
                    }
                }
                Signal::ChildFailed(failure, taken) => self.contain(state, running, |state, shard| {
                    state.child_failed(&failure, taken, shard.seat(running));
                }),
            }
        }
    }

    /// Takes the state of an actor that is to do something else than to handle messages.
    fn begin_rare(&self, index: u32) -> Option<(ActorBox, Running, Life)> {
        let mut core = self.core.borrow_mut();
        let now_ms = core.now_ms();
        let cell = core.cells.slot(index)?;
        let state = cell.state.take()?;
        if cell.epoch().is_some() {
            cell.extra().active_ms = now_ms;
        }
        let (running, life) = (Running { index, generation: cell.generation }, cell.conduct.life);
        core.running = Some(core.address(index, running.generation));
        Some((state, running, life))
    }

    /// Puts the state back, or stops the actor if that is due.
    fn put_back(&self, state: ActorBox, running: Running) {
        let mut core = self.core.borrow_mut();
        let core_ref = &mut *core;
        core_ref.running = None;
        let cell = core_ref.cells.slot(running.index).expect("a running actor keeps its cell");
        cell.state = Some(state);
        cell.mailbox.rest(&mut core_ref.pool);
        let drained = cell.conduct.life == Life::Draining && cell.len() == 0 && !cell.conduct.suspended;
        if (cell.conduct.life == Life::Stopping && !cell.finishes_first()) || drained {
            drop(core);
            self.finish_stop(running.index);
            return;
        }
        let ready = if cell.conduct.suspended { cell.conduct.woken } else { cell.len() > 0 || cell.conduct.woken };
        cell.scheduled = ready;
        if ready {
            core_ref.run_queue.push_back(cell.ready(running.index));
        }
    }

    /// Builds the state of an actor that has none; whether it may go on.
    fn build(&self, state: &mut ActorBox, running: Running) -> bool {
        self.link.blame.runs_none();
        if let Err(error) = state.build(self.seat(running)) {
            let failure = self.failure(state, running, FailureKind::StartFailed, &error.into_text(), Doing::default());
            self.fail(state, running, failure, false);
            return false;
        }
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        let drains = cell.extra.as_mut().is_some_and(|extra| std::mem::take(&mut extra.drains));
        if cell.conduct.life == Life::New {
            cell.conduct.begin(if drains { Life::Draining } else { Life::Live });
            if drains {
                cell.set_stop_reason(Some(StopReason::Drained));
            }
        }
        let waiting =
            cell.extra.as_mut().map(|extra| (std::mem::take(&mut extra.start_latches), extra.recovery.take()));
        drop(core);
        let Some((latches, recovery)) = waiting else { return true };
        for latch in latches {
            latch.set(Ok(()));
        }
        if let Some(recovery) = recovery {
            self.contain(state, running, |state, shard| state.restarted(&recovery.failure, shard.seat(running)));
        }
        true
    }

    /// Polls a woken future and runs the resume hook.
    fn resume(&self, state: &mut ActorBox, running: Running) {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        if !cell.conduct.suspended {
            if cell.conduct.woken {
                cell.conduct.woken = false;
            }
            return;
        }
        let ends_now = cell.conduct.life == Life::Stopping && !cell.finishes_first();
        if ends_now || !std::mem::take(&mut cell.conduct.woken) {
            return;
        }
        if cell.extra().async_slot.is_live() {
            drop(core);
            self.poll_future(state, running);
            core = self.core.borrow_mut();
        }
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        // The hook needs the state, which a live future has borrowed.
        if !cell.waits() && std::mem::take(&mut cell.conduct.resumed) {
            cell.conduct.suspended = false;
            drop(core);
            self.contain(state, running, |state, shard| state.resumed(shard.seat(running)));
        }
    }

    /// Goes on with what is attached to the actor, unless a future of its own has its state.
    fn step_work(&self, state: &mut ActorBox, running: Running) {
        {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            if !cell.takes_messages() || !cell.has_work() || cell.is_held() {
                return;
            }
        }
        self.contain(state, running, |state, shard| {
            let (state, seat) = (state.state_ptr(), shard.seat(running));
            // SAFETY: the state is built, since its actor takes messages; it is out of its cell, so nobody else uses it.
            unsafe { shard.step_all(state, seat) }
        });
    }

    /// Runs a hook and contains its panic.
    fn contain(&self, state: &mut ActorBox, running: Running, user_code: impl FnOnce(&mut ActorBox, &Self)) {
        self.link.blame.runs_none();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| user_code(state, self))) {
            self.panicked(state, running, Doing::default(), None, &*panic);
        }
    }

    /// A panic of user code was caught: the asker is told, and the actor has failed.
    #[cold]
    fn panicked(
        &self,
        state: &mut ActorBox,
        running: Running,
        doing: Doing,
        reply: Option<ReplyAddress>,
        panic: &(dyn std::any::Any + Send),
    ) {
        let panic = Panicked::from_payload(panic);
        if let Some(address) = reply {
            reply::answer_failure(self, address, AskError::Failed(panic.clone()));
        }
        self.fail_orphans(&panic);
        let failure = self.failure(state, running, FailureKind::Panicked, &panic.0, doing);
        self.fail(state, running, failure, true);
    }

    /// Polls the suspended future of a running actor.
    fn poll_future(&self, state: &mut ActorBox, running: Running) {
        self.link.blame.runs_none();
        let (mut slot, waker) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            let mut slot = std::mem::take(&mut cell.extra().async_slot);
            let waker = slot.waker(|| Waker::from(ActorWaker::of(self.link, running.index, running.generation)));
            (slot, waker)
        };
        let polled = catch_unwind(AssertUnwindSafe(|| slot.poll(&mut TaskContext::from_waker(&waker))));
        match polled {
            Ok(poll) => {
                let mut core = self.core.borrow_mut();
                let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
                debug_assert_eq!(slot.is_live(), poll == Poll::Pending);
                cell.extra().async_slot = slot;
                cell.conduct.suspended = cell.waits() || cell.conduct.resumed;
            }
            Err(panic) => {
                drop_contained(slot);
                let doing =
                    self.core.borrow_mut().cells.slot(running.index).and_then(|cell| cell.extra.as_ref()?.doing);
                self.panicked(state, running, doing.unwrap_or_default(), None, &*panic);
            }
        }
    }

    /// Starts an async handler of such a message: polls it at once and keeps it only if it waits.
    ///
    /// # Safety
    /// The future borrows the state of the delivery's actor and nothing shorter-lived.
    pub(crate) unsafe fn start_future<F: Future<Output = ()>>(
        &self,
        delivery: &Delivery<'_>,
        message: fn() -> &'static str,
        future: F,
    ) {
        let (index, generation) = (delivery.id.index(), delivery.id.generation());
        let (mut slot, waker) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            cell.extra().answering.begin(delivery.reply);
            let mut slot = std::mem::take(&mut cell.extra().async_slot);
            let waker = slot.waker(|| Waker::from(ActorWaker::of(self.link, index, generation)));
            (slot, waker)
        };
        // SAFETY: the caller's contract; `drop_future` and `finish_stop` drop the slot before the state.
        unsafe { slot.put(future) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| slot.poll(&mut TaskContext::from_waker(&waker)))) {
            drop_contained(slot);
            resume_unwind(panic);
        }
        let mut core = self.core.borrow_mut();
        let since_ns = core.now_ns;
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        if slot.is_live() {
            let doing = Doing { message: Some(message()), sender: delivery.sender };
            cell.extra().doing = Some(doing);
            cell.extra().midway = Midway { since_ns, message: Some(message) };
        }
        cell.extra().async_slot = slot;
        cell.conduct.suspended = cell.waits() || cell.conduct.resumed;
    }

    /// Answers the asks whose `Reply` a panic has dropped.
    #[cold]
    pub(super) fn fail_orphans(&self, panic: &Panicked) {
        let orphans = std::mem::take(&mut self.core.borrow_mut().orphans);
        for address in orphans {
            reply::answer_failure(self, address, AskError::Failed(panic.clone()));
        }
    }
}
