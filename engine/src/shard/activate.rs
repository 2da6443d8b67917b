//! Activation: an actor's share of a turn. Here a message meets its handler.
//!
//! Invariant: an activation takes at most what was queued when it began, and at most its budget; the state is out of its
//! cell while handlers run, so nothing can run it a second time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use super::actor_box::{ActorBox, BuildError};
use super::cell::Life;
use super::{ShardCell, current, drop_contained};
use crate::actor::StopReason;
use crate::context::Seat;
use crate::context_block::Asker;
use crate::envelope::{Class, Delivery, Envelope, EpochTag, Meta, PackedAddress};
use crate::error::{AskError, Panicked, Rejected};
use crate::limits::ACTIVATION_BUDGET;
use crate::link::ShardLink;
use crate::reply::{self, ReplyAddress};

/// Whether an activation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A message was handled; another may follow.
    Another,
    /// A message was handled, and the actor must be looked at before the next.
    Enough,
    /// There is nothing to handle.
    Nothing,
}

/// Who runs: the cell, and what its handlers need of it.
#[derive(Clone, Copy)]
struct Running {
    index: u32,
    generation: u32,
    epoch: Option<EpochTag>,
}

impl ShardCell {
    /// Runs one actor; returns how many messages it handled.
    pub(super) fn activate(&self, index: u32) -> u32 {
        let Some((mut state, running, share, life)) = self.begin(index) else { return 0 };
        if life == Life::New && !self.build(&mut state, running) {
            drop(state);
            self.core.borrow_mut().running = None;
            self.abandon(index);
            return 1;
        }
        if !self.resume(&mut state, running) {
            self.put_back(state, running);
            return 1;
        }
        let mut handled = 0;
        while handled < share {
            match self.dispatch(&mut state, running) {
                Next::Another => handled += 1,
                Next::Enough => {
                    handled += 1;
                    break;
                }
                Next::Nothing => break,
            }
        }
        self.put_back(state, running);
        handled.max(1)
    }

    /// Takes the state out of its cell.
    fn begin(&self, index: u32) -> Option<(ActorBox, Running, u32, Life)> {
        let mut core = self.core.borrow_mut();
        let now_ms = core.now_ms();
        let cell = core.cells.slot(index)?;
        let state = cell.state.take()?;
        cell.active_ms = now_ms;
        let epoch = cell.extra.as_ref().and_then(|extra| extra.identity.as_ref()).map(|_| cell.epoch);
        let running = Running { index, generation: cell.generation, epoch };
        let (share, life) = (cell.len().min(ACTIVATION_BUDGET), cell.life);
        core.running = Some(core.address(index, running.generation));
        Some((state, running, share, life))
    }

    /// Puts the state back, or stops the actor if that is due.
    fn put_back(&self, state: ActorBox, running: Running) {
        let mut core = self.core.borrow_mut();
        let core_ref = &mut *core;
        core_ref.running = None;
        let cell = core_ref.cells.slot(running.index).expect("a running actor keeps its cell");
        cell.state = Some(state);
        let drained = cell.life == Life::Draining && cell.len() == 0 && !cell.suspended;
        if cell.life == Life::Stopping || drained {
            drop(core);
            self.finish_stop(running.index);
            return;
        }
        let ready = if cell.suspended { cell.woken } else { cell.len() > 0 || cell.woken };
        cell.scheduled = ready;
        if ready {
            core_ref.run_queue.push_back(running.index);
        }
    }

    fn seat(&self, running: Running, sender: Option<PackedAddress>) -> Seat {
        Seat::new(self, running.index, running.generation, sender)
    }

    /// Builds the state for the first time; on failure the actor must be abandoned.
    fn build(&self, state: &mut ActorBox, running: Running) -> bool {
        let result = state.build(self.seat(running, None));
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        match result {
            Ok(()) => {
                if cell.life == Life::New {
                    cell.life = Life::Live;
                }
                let latches = cell.extra.as_mut().map(|extra| std::mem::take(&mut extra.start_latches));
                drop(core);
                for latch in latches.into_iter().flatten() {
                    latch.set(Ok(()));
                }
                true
            }
            Err(error) => {
                let why = match error {
                    BuildError::NoFactory => "its factory works once only".to_owned(),
                    BuildError::Failed(why) => why,
                };
                cell.life = Life::Stopping;
                cell.extra().stop_reason = Some(StopReason::StartFailed(why));
                false
            }
        }
    }

    /// Polls a woken future and runs the resume hook. Returns whether the actor may take messages.
    fn resume(&self, state: &mut ActorBox, running: Running) -> bool {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        if !cell.suspended {
            cell.woken = false;
            return true;
        }
        if cell.life == Life::Stopping || !std::mem::take(&mut cell.woken) {
            return false;
        }
        if cell.extra().async_slot.is_live() {
            drop(core);
            self.poll_future(state, running);
            core = self.core.borrow_mut();
        }
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        // The hook needs the state, which a live future has borrowed.
        if !cell.waits() && std::mem::take(&mut cell.resumed) {
            cell.suspended = false;
            drop(core);
            self.contain(state, running, |state, shard| state.resumed(shard.seat(running, None)));
            core = self.core.borrow_mut();
        }
        !core.cells.slot(running.index).expect("a running actor keeps its cell").suspended
    }

    /// Runs the message at the front of the mailbox.
    fn dispatch(&self, state: &mut ActorBox, running: Running) -> Next {
        let mut core_ref = self.core.borrow_mut();
        let core = &mut *core_ref;
        let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
        if cell.suspended || cell.life == Life::Stopping {
            return Next::Nothing;
        }
        let Some(mut slot) = cell.mailbox.front() else { return Next::Nothing };
        if cell.short && cell.len() * 2 <= cell.capacity + 1 {
            cell.short = false;
            core.link.short.clear(running.index, running.generation);
            core.owed_room.has_room(running.index, running.generation);
        }
        core.counters.handled += 1;
        // SAFETY: the slot is valid until the mailbox is used again, which nobody does while the core is borrowed here.
        let envelope = unsafe { slot.as_mut() };
        let vtable = envelope.vtable();
        let (sender, reply, deadline_ns) = match envelope.take_meta() {
            Meta::None => (None, None, 0),
            Meta::Sender(sender) => (Some(sender), None, 0),
            Meta::Reply(address) => (None, Some(address), core.replies.deadline_ns(address).unwrap_or(0)),
            Meta::Context(context) => {
                let reply = match context.asker {
                    Asker::None => None,
                    Asker::Slot(address) => Some(address),
                    Asker::Foreign(_) => unreachable!("foreign askers got a slot on delivery"),
                };
                (context.sender, reply, context.deadline_ns)
            }
        };
        let expired = deadline_ns != 0 && deadline_ns <= core.now_ns;
        if expired || crate::signal::is_terminated(vtable) {
            core.counters.expired += u64::from(expired);
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            let envelope = cell.mailbox.pop(&mut core.pool).expect("it is at the front");
            drop(core_ref);
            return self.dispatch_rare(state, running, envelope, reply, expired);
        }
        let run = vtable.run;
        let delivery = Delivery::new(
            self,
            (running.index, running.generation),
            state.state_ptr(),
            sender,
            reply,
            running.epoch,
            core_ref,
            slot,
        );
        // SAFETY: the cell's actor is of the type that the envelope's vtable was made for (the generation matched, and a
        // generation is one actor), it is built, and its state is out of the cell, so this is the only access.
        match catch_unwind(AssertUnwindSafe(|| unsafe { run(delivery) })) {
            Ok(()) => Next::Another,
            Err(panic) => {
                let reply = reply.filter(|_| vtable.class == Class::Plain);
                self.panicked(state, running, reply, &*panic)
            }
        }
    }

    /// A message that expired, or a signal.
    #[cold]
    fn dispatch_rare(
        &self,
        state: &mut ActorBox,
        running: Running,
        envelope: Envelope,
        reply: Option<ReplyAddress>,
        expired: bool,
    ) -> Next {
        if !expired {
            let (who, why) = crate::signal::into_terminated(envelope);
            return self.contain(state, running, |state, shard| state.terminated(who, &why, shard.seat(running, None)));
        }
        if let Some(address) = reply {
            reply::answer_failure(self, address, AskError::Rejected(Rejected::Expired));
        }
        self.contain(state, running, |_, _| drop(envelope))
    }

    /// Runs a hook and contains its panic.
    fn contain(&self, state: &mut ActorBox, running: Running, user_code: impl FnOnce(&mut ActorBox, &Self)) -> Next {
        match catch_unwind(AssertUnwindSafe(|| user_code(state, self))) {
            Ok(()) => Next::Another,
            Err(panic) => self.panicked(state, running, None, &*panic),
        }
    }

    /// A panic of user code was caught: the asker is told, the actor is rebuilt.
    #[cold]
    fn panicked(
        &self,
        state: &mut ActorBox,
        running: Running,
        reply: Option<ReplyAddress>,
        panic: &(dyn std::any::Any + Send),
    ) -> Next {
        let panic = Panicked::from_payload(panic);
        if let Some(address) = reply {
            reply::answer_failure(self, address, AskError::Failed(panic.clone()));
        }
        self.fail_orphans(&panic);
        self.rebuild(state, running, &panic);
        Next::Enough
    }

    /// Replaces the state after a panic, keeping the mailbox; stops the actor where that is not possible.
    fn rebuild(&self, state: &mut ActorBox, running: Running, panic: &Panicked) {
        {
            let mut core = self.core.borrow_mut();
            core.counters.panics += 1;
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            cell.incarnation = cell.incarnation.wrapping_add(1);
            cell.suspended = false;
            cell.woken = false;
            cell.resumed = false;
            if let Some(extra) = &mut cell.extra {
                extra.suspensions = 0;
                let future = std::mem::take(&mut extra.async_slot);
                drop(core);
                drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
            }
        }
        if let Err(error) = state.build(self.seat(running, None)) {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            cell.life = Life::Stopping;
            cell.extra().stop_reason = Some(match error {
                BuildError::NoFactory => StopReason::Panicked(panic.0.to_string()),
                BuildError::Failed(why) => StopReason::StartFailed(why),
            });
        }
    }

    /// Polls the suspended future of a running actor.
    fn poll_future(&self, state: &mut ActorBox, running: Running) {
        let (mut slot, waker) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
            let mut slot = std::mem::take(&mut cell.extra().async_slot);
            let waker =
                slot.waker(|| Waker::from(Arc::new(ActorWaker::new(self.link, running.index, running.generation))));
            (slot, waker)
        };
        let polled = catch_unwind(AssertUnwindSafe(|| slot.poll(&mut TaskContext::from_waker(&waker))));
        match polled {
            Ok(poll) => {
                let mut core = self.core.borrow_mut();
                let cell = core.cells.slot(running.index).expect("a running actor keeps its cell");
                debug_assert_eq!(slot.is_live(), poll == Poll::Pending);
                cell.extra().async_slot = slot;
                cell.suspended = cell.waits() || cell.resumed;
            }
            Err(panic) => {
                let panic = Panicked::from_payload(&*panic);
                drop_contained(slot);
                self.fail_orphans(&panic);
                self.rebuild(state, running, &panic);
            }
        }
    }

    /// Starts an async handler: polls it at once and keeps it only if it waits.
    ///
    /// # Safety
    /// The future borrows the state of the actor at (`index`, `generation`) and nothing shorter-lived.
    pub(crate) unsafe fn start_future<F: Future<Output = ()>>(&self, index: u32, generation: u32, future: F) {
        let (mut slot, waker) = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            let mut slot = std::mem::take(&mut cell.extra().async_slot);
            let waker = slot.waker(|| Waker::from(Arc::new(ActorWaker::new(self.link, index, generation))));
            (slot, waker)
        };
        // SAFETY: the caller's contract; `rebuild` and `finish_stop` drop the slot before the state.
        unsafe { slot.put(future) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| slot.poll(&mut TaskContext::from_waker(&waker)))) {
            drop_contained(slot);
            resume_unwind(panic);
        }
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        cell.extra().async_slot = slot;
        cell.suspended = cell.waits() || cell.resumed;
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

/// Wakes a suspended actor from any thread.
struct ActorWaker {
    link: &'static ShardLink,
    index: u32,
    generation: u32,
}

impl ActorWaker {
    fn new(link: &'static ShardLink, index: u32, generation: u32) -> Self {
        Self { link, index, generation }
    }
}

impl Wake for ActorWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (index, generation) = (self.index, self.generation);
        current(|shard| match shard {
            Some(shard) if std::ptr::eq(shard.link, self.link) => shard.core.borrow_mut().wake(index, generation),
            _ => self.link.run(Box::new(move |shard| shard.core.borrow_mut().wake(index, generation))),
        });
    }
}
