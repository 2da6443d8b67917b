//! Recovery: how a failure is carried out, from the panic to the actor's next state.
//!
//! ```text
//! fail -> judge -> Resume
//!               -> Restart: built at once, or: Ordered -> Children stop -> Held (backoff, siblings) -> Ready -> built
//!               -> Stop, Escalate: the actor ends, its supervisor fails in turn
//! ```
//!
//! Invariant: an actor in recovery takes no message and keeps its mailbox; it has no state while it is `Held`. Siblings that
//! restart together are built when all of them are down, oldest first. Shard thread only.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Running;
use crate::actor::StopReason;
use crate::actor_ref::ActorId;
use crate::context::Seat;
use crate::envelope::{CellId, PackedAddress};
use crate::error::Panicked;
use crate::shard::actor_box::ActorBox;
use crate::shard::cell::Life;
use crate::shard::{ShardCell, ShardCore, drop_contained};
use crate::supervision::{Directive, Failure, FailureKind, Recovery, Restart, Step, Strategy, Verdict};
use crate::timer::{Body, Other, Owner};

/// What an actor did when it failed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Doing {
    pub(crate) message: Option<&'static str>,
    pub(crate) sender: Option<PackedAddress>,
}

impl ShardCell {
    /// What a supervisor hears of the actor whose state this is.
    pub(super) fn failure(
        &self,
        state: &mut ActorBox,
        running: Running,
        kind: FailureKind,
        text: &str,
        doing: Doing,
    ) -> Failure {
        let actor = ActorId::new(self.link, running.index, running.generation);
        let sender = doing.sender.filter(|sender| sender.as_node().is_none());
        let engine = self.link.engine();
        Failure {
            actor,
            actor_type: state.actor_name(),
            origin: actor,
            kind,
            message: doing.message,
            sender: sender.map(|sender| ActorId::new(engine.link(sender.shard()), sender.index(), sender.generation())),
            text: text.into(),
            restarts: 0,
        }
    }

    /// A running actor, whose state is out of its cell, has failed: decides what becomes of it, and begins with that. `at_once`
    /// says whether it may be rebuilt here and now.
    #[cold]
    pub(super) fn fail(&self, state: &mut ActorBox, running: Running, mut failure: Failure, at_once: bool) {
        self.drop_future(running);
        let panicked = failure.kind == FailureKind::Panicked;
        let mut wish = Directive::Escalate;
        if panicked {
            self.core.borrow_mut().counters.panics += 1;
            let seat = self.seat(running);
            wish = catch_unwind(AssertUnwindSafe(|| state.panicked(&failure, seat))).unwrap_or(Directive::Escalate);
        }
        if self.life_of(running) == Life::Stopping {
            if !panicked {
                self.end_failed(running, &failure);
            }
            state.tear_down();
            return;
        }
        let verdict = self.judge(running.index, &mut failure, state.rebuilds(), wish);
        let failure = Arc::new(failure);
        self.tell_parent(running.index, &failure, verdict.directive);
        match verdict.directive {
            Directive::Resume => {}
            Directive::Restart => self.restart(state, running, &failure, verdict, at_once),
            Directive::Stop | Directive::Escalate => self.end_failed(running, &failure),
        }
        if verdict.directive == Directive::Escalate {
            self.escalate(running.index, &failure);
        }
    }

    fn life_of(&self, running: Running) -> Life {
        self.core.borrow().cells.peek(running.index, running.generation).map_or(Life::Free, |cell| cell.conduct.life)
    }

    /// Drops the future of an actor, which borrows its state.
    fn drop_future(&self, running: Running) {
        let future = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(running.index).expect("an actor that runs keeps its cell");
            let Some(extra) = &mut cell.extra else { return };
            let future = std::mem::take(&mut extra.async_slot);
            cell.conduct.suspended = cell.waits() || cell.conduct.resumed;
            future
        };
        drop_contained(future);
    }

    /// Ends an actor for its failure, after this turn.
    fn end_failed(&self, running: Running, failure: &Failure) {
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(running.index).expect("an actor that runs keeps its cell");
        cell.conduct.begin(Life::Stopping);
        let text = failure.text.to_string();
        cell.set_stop_reason(Some(match failure.kind {
            FailureKind::StartFailed => StopReason::StartFailed(text),
            _ => StopReason::Panicked(text),
        }));
        // It was to be built, and is not.
        if let Some(extra) = &mut cell.extra {
            extra.recovery.take_if(|recovery| recovery.step == Step::Ready);
        }
    }

    /// Restarts an actor that has failed, at once if nothing has to be waited for.
    fn restart(&self, state: &mut ActorBox, running: Running, failure: &Arc<Failure>, verdict: Verdict, at_once: bool) {
        let group = verdict.strategy != Strategy::One;
        let is_parent = self.core.borrow().cells.kin.first_child(running.index).is_some();
        if at_once && !group && !is_parent && verdict.delay_ns == 0 {
            self.reset(running);
            match state.build(self.seat(running)) {
                Ok(()) => {
                    let seat = self.seat(running);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| state.restarted(failure, seat))) {
                        let text = Panicked::from_payload(&*panic).0;
                        let failed = self.failure(state, running, FailureKind::Panicked, &text, Doing::default());
                        self.fail(state, running, failed, false);
                    }
                }
                Err(error) => {
                    let failed =
                        self.failure(state, running, FailureKind::StartFailed, &error.into_text(), Doing::default());
                    self.fail(state, running, failed, false);
                }
            }
            return;
        }
        // What has failed runs no hook any more.
        state.tear_down();
        self.order(running.index, failure, verdict);
        self.take_down(state, running);
    }

    /// Forgets what belonged to the state that ends: timers, asks, suspensions, attached work. Mailbox and what was put aside stay.
    fn reset(&self, running: Running) {
        let mut core = self.core.borrow_mut();
        let core_ref = &mut *core;
        core_ref.replies.owner_has_gone();
        let cell = core_ref.cells.slot(running.index).expect("an actor that runs keeps its cell");
        cell.incarnation = cell.incarnation.wrapping_add(1);
        cell.conduct.suspended = false;
        cell.conduct.woken = false;
        cell.conduct.resumed = false;
        cell.unstash(&mut core_ref.pool);
        let mut work = Vec::new();
        if let Some(extra) = &mut cell.extra {
            extra.suspensions = 0;
            super::attend::Attended::take_idle(&mut extra.attended);
            if let Some(turns) = &mut extra.turns {
                turns.forget();
            }
            work = std::mem::take(&mut extra.work);
        }
        drop(core);
        drop_contained(work);
        self.end_timers(running.index, false);
    }

    /// Has an actor, and those of its siblings that restart with it, taken down in their next turns.
    fn order(&self, index: u32, failure: &Arc<Failure>, verdict: Verdict) {
        let group = verdict.strategy != Strategy::One;
        let mut leaving = Vec::new();
        {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let recovery = |group| Recovery {
                failure: Arc::clone(failure),
                step: Step::Ordered,
                delay_ns: verdict.delay_ns,
                group,
            };
            core.order(index, recovery(group));
            let Some(parent) = core.cells.kin.parent(index).filter(|_| group) else { return };
            let supervisor = core.cells.slot(parent).expect("a child never outlives its parent").extra();
            supervisor.supervisor.get_or_insert_default().delay_ns = verdict.delay_ns;
            let children = core.cells.children(parent);
            let first = children.iter().position(|(child, _)| *child == index).unwrap_or(0);
            let from = if verdict.strategy == Strategy::Rest { first } else { 0 };
            for (sibling, generation) in children.into_iter().skip(from).filter(|(sibling, _)| *sibling != index) {
                let cell = core.cells.slot(sibling).expect("a live child");
                let spec = cell.extra.as_ref().map(|extra| extra.spec).unwrap_or_default();
                let rebuilds = cell.state.as_ref().is_some_and(ActorBox::rebuilds);
                if spec.restart == Restart::Never || !rebuilds {
                    leaving.push((sibling, generation));
                } else {
                    core.order(sibling, recovery(true));
                }
            }
        }
        for (sibling, generation) in leaving.into_iter().rev() {
            self.request_stop(sibling, generation, StopReason::ParentStopped);
        }
    }

    /// Goes on with a recovery; whether there is one, so that the actor does nothing else now.
    pub(super) fn recover(&self, state: &mut ActorBox, running: Running) -> bool {
        let (step, has_children) = {
            let mut core = self.core.borrow_mut();
            let has_children = core.cells.kin.first_child(running.index).is_some();
            let cell = core.cells.slot(running.index).expect("an actor that runs keeps its cell");
            let Some(recovery) = cell.extra.as_ref().and_then(|extra| extra.recovery.as_ref()) else { return false };
            if recovery.step == Step::Ready || cell.conduct.life == Life::Stopping {
                return false;
            }
            cell.conduct.woken = false;
            (recovery.step, has_children)
        };
        match step {
            Step::Ordered => self.take_down(state, running),
            Step::Children if !has_children => self.put_down(state, running),
            Step::Children | Step::Held | Step::Ready => {}
        }
        true
    }

    /// Begins to take an actor down: its first hook runs, if its state is sound, then its children stop.
    fn take_down(&self, state: &mut ActorBox, running: Running) {
        self.drop_future(running);
        state.stopping(&StopReason::Restarting, self.seat(running));
        self.reset(running);
        let children = {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let cell = core.cells.slot(running.index).expect("an actor that runs keeps its cell");
            if cell.conduct.life == Life::Stopping {
                return;
            }
            let drains = cell.conduct.life == Life::Draining;
            cell.conduct.begin(Life::New);
            cell.conduct.suspended = true;
            let extra = cell.extra();
            extra.drains |= drains;
            extra.recovery.as_mut().expect("ordered before").step = Step::Children;
            core.cells.children(running.index)
        };
        if children.is_empty() {
            return self.put_down(state, running);
        }
        for (child, generation) in children.into_iter().rev() {
            self.request_stop(child, generation, StopReason::ParentStopped);
        }
    }

    /// Drops the state of an actor without children, which then waits for its time.
    fn put_down(&self, state: &mut ActorBox, running: Running) {
        state.stopped(&StopReason::Restarting, self.seat(running));
        state.tear_down();
        // What the last hook began, too.
        self.reset(running);
        self.core.borrow_mut().hold(running.index);
    }

    /// Brings an actor back that has ended although its supervisor wants it to live; whether it does. Its hooks have run.
    pub(in crate::shard) fn bring_back(
        &self,
        state: ActorBox,
        id: CellId,
        reason: &StopReason,
    ) -> Result<(), ActorBox> {
        let running = Running { index: id.index(), generation: id.generation() };
        if !self.core.borrow_mut().is_wanted(id.index(), reason) {
            return Err(state);
        }
        let mut state = state;
        let mut failure =
            self.failure(&mut state, running, FailureKind::Ended, &format!("{reason:?}"), Doing::default());
        let verdict = self.judge(id.index(), &mut failure, state.rebuilds(), Directive::Escalate);
        let failure = Arc::new(failure);
        state.tear_down();
        self.tell_parent(id.index(), &failure, verdict.directive);
        if verdict.directive == Directive::Escalate {
            self.escalate(id.index(), &failure);
        }
        if verdict.directive != Directive::Restart {
            return Err(state);
        }
        self.reset(running);
        let latches = {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.slot(id.index()).expect("it has not gone yet");
            cell.conduct.begin(Life::New);
            cell.stays();
            cell.scheduled = false;
            cell.state = Some(state);
            std::mem::take(&mut cell.extra().stop_latches)
        };
        self.order(id.index(), &failure, verdict);
        self.core.borrow_mut().hold(id.index());
        for latch in latches {
            latch.set(reason.clone());
        }
        Ok(())
    }

    /// The supervisor of an actor gives up: it fails in turn, and so on upwards.
    fn escalate(&self, index: u32, origin: &Failure) {
        let mut next = self.core.borrow().cells.kin.parent(index);
        while let Some(index) = next {
            let (mut failure, rebuilds, running) = {
                let mut core = self.core.borrow_mut();
                let cell = core.cells.slot(index).expect("a child never outlives its parent");
                if cell.conduct.life == Life::Stopping {
                    return;
                }
                let running = Running { index, generation: cell.generation };
                let Some(state) = &mut cell.state else { return };
                let (actor_type, rebuilds) = (state.actor_name(), state.rebuilds());
                let actor = ActorId::new(self.link, index, running.generation);
                (Failure { actor, actor_type, kind: FailureKind::Escalated, ..origin.clone() }, rebuilds, running)
            };
            let verdict = self.judge(index, &mut failure, rebuilds, Directive::Escalate);
            let failure = Arc::new(failure);
            self.tell_parent(index, &failure, verdict.directive);
            match verdict.directive {
                Directive::Resume => {}
                Directive::Restart => self.order(index, &failure, verdict),
                Directive::Stop | Directive::Escalate => {
                    let reason = StopReason::Panicked(failure.text.to_string());
                    self.request_stop(index, running.generation, reason);
                }
            }
            let up = verdict.directive == Directive::Escalate;
            next = self.core.borrow().cells.kin.parent(index).filter(|_| up);
        }
    }

    /// Tells the supervisor of an actor what has failed, and what came of it.
    fn tell_parent(&self, index: u32, failure: &Arc<Failure>, directive: Directive) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(parent) = core.cells.kin.parent(index) else { return };
        let cell = core.cells.slot(parent).expect("a child never outlives its parent");
        if cell.conduct.life == Life::Stopping {
            // Its next state has other children.
            return;
        }
        let generation = cell.generation;
        core.notify(crate::signal::child_failed((parent, generation), Arc::clone(failure), directive));
    }

    /// An actor's own wait before its restart is over.
    pub(in crate::shard) fn restart_is_due(&self, owner: Owner) {
        let mut core = self.core.borrow_mut();
        let Some(cell) = core.cells.get(owner.index, owner.generation) else { return };
        let recovery = cell.extra.as_ref().and_then(|extra| extra.recovery.as_ref());
        if recovery.is_some_and(|recovery| recovery.step == Step::Held && !recovery.group) {
            core.release(owner.index);
        }
    }

    /// The wait of children that an actor restarts together is over; says nothing of the actor's own, which may be down itself.
    pub(in crate::shard) fn group_is_due(&self, owner: Owner) {
        let mut core = self.core.borrow_mut();
        if core.cells.get(owner.index, owner.generation).is_some() {
            core.release_group(owner.index);
        }
    }

    /// The seat for hooks of an actor that runs.
    pub(super) fn seat(&self, running: Running) -> Seat {
        Seat::new(self, CellId::new(running.index, running.generation), None)
    }
}

impl ShardCore {
    /// Puts an actor into recovery, unless it ends, or has not started yet.
    fn order(&mut self, index: u32, recovery: Recovery) {
        let parent = self.cells.kin.parent(index);
        let cell = self.cells.slot(index).expect("a live actor");
        let life = cell.conduct.life;
        let before = cell.extra.as_ref().and_then(|extra| extra.recovery.as_ref()).map(|recovery| recovery.step);
        let is_sibling = recovery.failure.actor.index() != index;
        if life == Life::Stopping || (life == Life::New && before.is_none() && is_sibling) {
            return;
        }
        // What is down already stays down.
        let step = match before {
            Some(Step::Held | Step::Ready) if is_sibling => Step::Held,
            Some(Step::Children) => Step::Children,
            _ => Step::Ordered,
        };
        cell.conduct.suspended = true;
        cell.conduct.woken = true;
        if !cell.scheduled {
            cell.scheduled = true;
            self.run_queue.push(cell.ready(index));
        }
        let recovery = Recovery { step, ..recovery };
        let more = recovery.holds_up_group();
        let less = cell.extra().recovery.replace(Box::new(recovery)).is_some_and(|before| before.holds_up_group());
        if let Some(parent) = parent.filter(|_| more != less) {
            let extra = self.cells.slot(parent).expect("a child never outlives its parent").extra();
            let supervisor = extra.supervisor.get_or_insert_default();
            supervisor.going_down = if more { supervisor.going_down + 1 } else { supervisor.going_down - 1 };
        }
    }

    /// An actor is down: it waits for its time, or for its siblings.
    fn hold(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let parent = self.cells.kin.parent(index);
        let cell = self.cells.slot(index).expect("an actor in recovery keeps its cell");
        let owner = Owner { index, generation: cell.generation };
        cell.conduct.suspended = true;
        let Some(recovery) = cell.extra.as_mut().and_then(|extra| extra.recovery.as_mut()) else { return };
        let held_up = recovery.holds_up_group();
        recovery.step = Step::Held;
        match (recovery.group, recovery.delay_ns) {
            (true, _) => {
                if let Some(parent) = parent {
                    self.group_member_is_down(parent, held_up);
                }
            }
            (false, 0) => self.release(index),
            (false, delay_ns) => {
                self.timers.insert(now_ns.saturating_add(delay_ns), owner, Body::Other(Other::Restart));
            }
        }
    }

    /// A child for which its siblings waited is down, or gone.
    pub(in crate::shard) fn group_member_is_down(&mut self, parent: u32, held_up: bool) {
        let now_ns = self.now_ns;
        let cell = self.cells.slot(parent).expect("a child never outlives its parent");
        let owner = Owner { index: parent, generation: cell.generation };
        let supervisor = cell.extra().supervisor.get_or_insert_default();
        supervisor.going_down -= u32::from(held_up);
        if supervisor.going_down > 0 {
            return;
        }
        match supervisor.delay_ns {
            // One of them may be running: they start in order when none is.
            0 => self.deferred.push(Box::new(move |shard| shard.group_is_due(owner))),
            delay_ns => {
                self.timers.insert(now_ns.saturating_add(delay_ns), owner, Body::Other(Other::RestartGroup));
            }
        }
    }

    /// Starts all children again that wait for each other, oldest first.
    fn release_group(&mut self, parent: u32) {
        let cell = self.cells.slot(parent).expect("a live actor");
        let supervisor = cell.extra.as_ref().and_then(|extra| extra.supervisor.as_ref());
        if supervisor.is_none_or(|supervisor| supervisor.going_down > 0) {
            return;
        }
        for (child, _) in self.cells.children(parent) {
            let cell = self.cells.slot(child).expect("a live child");
            let recovery = cell.extra.as_ref().and_then(|extra| extra.recovery.as_ref());
            if recovery.is_some_and(|recovery| recovery.group && recovery.step == Step::Held) {
                self.release(child);
            }
        }
    }

    /// Has an actor that is down built in its next turn.
    fn release(&mut self, index: u32) {
        let cell = self.cells.slot(index).expect("an actor in recovery keeps its cell");
        if cell.conduct.life != Life::New {
            return;
        }
        cell.extra().recovery.as_mut().expect("the caller has looked").step = Step::Ready;
        cell.conduct.suspended = false;
        cell.conduct.woken = true;
        if !cell.scheduled {
            cell.scheduled = true;
            // Not with priority: those that are released together start in order.
            self.run_queue.push_back(cell.ready(index));
        }
    }

    /// Whether an actor that ends for this reason is to live on: the wish of a supervisor that lives on itself.
    fn is_wanted(&mut self, index: u32, reason: &StopReason) -> bool {
        let Some(parent) = self.cells.kin.parent(index) else { return false };
        let spec =
            self.cells.slot(index).and_then(|cell| cell.extra.as_ref()).map(|extra| extra.spec).unwrap_or_default();
        let wanted = match reason {
            StopReason::Stopped | StopReason::Drained | StopReason::Killed => spec.restart == Restart::Permanent,
            StopReason::LinkBroken(_) => spec.restart != Restart::Never,
            _ => false,
        };
        if !wanted || self.draining {
            return false;
        }
        let parent = self.cells.slot(parent).expect("a child never outlives its parent");
        let recovery = parent.extra.as_ref().and_then(|extra| extra.recovery.as_ref());
        parent.conduct.life != Life::Stopping && recovery.is_none_or(|recovery| recovery.step == Step::Ready)
    }
}
