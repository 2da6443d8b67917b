//! The turn: what a shard does each time it is called.
//!
//! Order: completions, system requests, rings, injector, timers, services, transport, actors within a budget, ask deadlines,
//! dead letters, flush. Invariant: everything that a turn produced is published at its end, and the returned wait is never later than the
//! earliest deadline of anything on the shard.

use std::cell::RefCell;
use std::sync::Arc;

use super::core::{Counters, ShardCore};
use super::{CoreCell, ShardCell, enter};
use crate::actor::StopReason;
use crate::cluster::inbound::Inbound;
use crate::dead_letter::Reason;
use crate::error::{AskError, StartError, Unknown};
use crate::limits::{CREDIT_CALM_NS, LINGER_LOOKS, LINGER_ROUNDS, RING_BATCH, TURN_BUDGET, YIELD_QUANTUM_NS};
use crate::link::Queues;
use crate::port::driver::{Driver, FileCompletion};
use crate::port::service::{Service, ServiceContext, Started};
use crate::port::transport::Transport;
use crate::reply::ReplyAddress;
use crate::stats::ShardStats;

/// Called with the outcome of a shard's start, on its thread.
pub(crate) type OnStarted = Box<dyn FnOnce(Result<(), StartError>)>;

/// When a shard wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// At once.
    Now,
    /// At this time on the driver's clock, or when woken.
    Until(u64),
    /// When woken.
    Idle,
    /// Never: it has stopped and may be dropped.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Services are starting; no actor runs.
    Starting,
    Running,
    /// No actor is left; services, then the transport, finish.
    Closing,
    Stopped,
}

/// One shard with everything that lives on it.
pub(crate) struct Shard {
    cell: Box<ShardCell>,
    queues: Arc<Queues>,
    phase: Phase,
    /// Services and transport have finished.
    finished: bool,
    ready: Vec<bool>,
    started_ns: u64,
    last_turn_ns: u64,
    last_turn_was_busy: bool,
    last_turn_handled: u32,
    lingers: bool,
    completions: Vec<FileCompletion>,
    injected: Vec<crate::envelope::Envelope>,
    expired: Vec<ReplyAddress>,
    on_started: Option<OnStarted>,
    /// Waiting senders to wake at the end of the turn.
    wakers: Vec<std::task::Waker>,
}

impl Shard {
    /// A shard ready for its first turn. `on_started` runs once, when its services and transport have started or failed to.
    pub(crate) fn new(
        core: ShardCore,
        services: Vec<Box<dyn Service>>,
        transport: Option<Box<dyn Transport>>,
        queues: Arc<Queues>,
        on_started: OnStarted,
    ) -> Self {
        let ready = vec![false; services.len()];
        let services = services.into_iter().map(RefCell::new).collect();
        let cell = Box::new(ShardCell::new(core.link, CoreCell::new(core), services, RefCell::new(transport)));
        Self {
            cell,
            queues,
            phase: Phase::Starting,
            finished: false,
            ready,
            started_ns: 0,
            last_turn_ns: 0,
            last_turn_was_busy: false,
            last_turn_handled: 0,
            lingers: false,
            completions: Vec::new(),
            injected: Vec::with_capacity(RING_BATCH),
            expired: Vec::new(),
            on_started: Some(on_started),
            wakers: Vec::new(),
        }
    }

    /// Takes one turn.
    pub(crate) fn turn(&mut self, driver: &mut dyn Driver) -> Wait {
        let cell: *const ShardCell = &*self.cell;
        // SAFETY: the box is owned by `self` and outlives this call; only shared references to it are made.
        let cell = unsafe { &*cell };
        let _entered = enter(cell);
        let now_ns = driver.now_ns();
        self.account(now_ns);
        let mut busy = self.complete(cell, driver, now_ns);
        let mut moved = false;
        busy |= self.run_system(cell);
        match self.phase {
            Phase::Starting => self.start(cell, driver, now_ns),
            Phase::Running => {
                busy |= self.receive(cell);
                busy |= self.fire(cell, now_ns);
                busy |= self.poll_services(cell, driver, now_ns);
                moved = self.poll_transport(cell, driver);
                busy |= moved;
                let mut handled = self.run_actors(cell, 0);
                // Frames that wait for the flush are somebody's round trip.
                if self.lingers && !moved {
                    handled = self.linger(cell, handled);
                }
                cell.link.blame.runs_none();
                self.last_turn_handled = handled;
                driver.charge_messages(handled);
                busy |= handled > 0;
                busy |= self.expire(cell, now_ns);
                cell.sweep_asks(&mut self.expired);
                cell.chase(now_ns);
                let core = cell.core.borrow();
                if core.draining && core.cells.live() == 0 {
                    self.phase = Phase::Closing;
                }
            }
            Phase::Closing => {
                // Read before the last look into the rings: whoever is closing has published its last message.
                let all_closing = cell.all_closing();
                busy |= self.receive(cell);
                let nothing_comes = all_closing && !self.has_arrivals(&cell.core.borrow());
                self.close(cell, driver, now_ns, nothing_comes);
            }
            Phase::Stopped => {}
        }
        cell.bury_dead();
        self.relieve(cell, moved);
        self.flush(cell, driver, now_ns);
        if self.phase == Phase::Closing {
            cell.link.begin_close();
        }
        self.last_turn_was_busy = busy;
        self.publish(cell, now_ns);
        self.next_wait(cell, busy)
    }

    fn account(&mut self, now_ns: u64) {
        let mut core = self.cell.core.borrow_mut();
        if self.last_turn_was_busy {
            self.end_turn(&mut core, now_ns);
        }
        core.counters.turns += 1;
        core.now_ns = now_ns;
        self.last_turn_ns = now_ns;
        self.last_turn_handled = 0;
        if self.started_ns == 0 {
            self.started_ns = now_ns;
        }
    }

    /// Takes stock of a turn that found work.
    fn end_turn(&self, core: &mut ShardCore, now_ns: u64) {
        let took_ns = now_ns.saturating_sub(self.last_turn_ns);
        crate::blame::end_turn(core, took_ns, self.last_turn_handled);
        // A service's commits need the core between turns.
        if !self.cell.services.is_empty() {
            core.budget = next_budget(core.budget, took_ns, self.last_turn_handled);
        }
    }

    /// Ends the busy time of the last turn: the thread does something else now.
    pub(crate) fn rest(&mut self, now_ns: u64) {
        if std::mem::take(&mut self.last_turn_was_busy) {
            let mut core = self.cell.core.borrow_mut();
            self.end_turn(&mut core, now_ns);
        }
    }

    /// Ends the busy time of the last turn when the shard goes to sleep.
    pub(crate) fn parking(&mut self, now_ns: u64) {
        self.rest(now_ns);
        self.cell.core.borrow_mut().counters.parks += 1;
    }

    fn complete(&mut self, cell: &ShardCell, driver: &mut dyn Driver, now_ns: u64) -> bool {
        driver.completions(&mut self.completions);
        let any = !self.completions.is_empty();
        for mut completion in self.completions.drain(..) {
            let (service, token) = ServiceContext::split_token(completion.token);
            completion.token = token;
            let mut cx = ServiceContext::new(driver, service, cell.link.shard(), now_ns);
            cell.services[service as usize].borrow_mut().completed(completion, &mut cx);
        }
        any
    }

    fn run_system(&mut self, cell: &ShardCell) -> bool {
        let mut any = false;
        // As many as were there: one that puts itself back waits for the next turn.
        for _ in 0..self.queues.system.len() {
            let Some(op) = self.queues.system.pop() else { break };
            op(cell);
            any = true;
        }
        any | cell.link.wakes.drain(|sleeper| sleeper.rise(&mut cell.core.borrow_mut()))
    }

    fn start(&mut self, cell: &ShardCell, driver: &mut dyn Driver, now_ns: u64) {
        for (index, ready) in (0_u8..).zip(&mut self.ready) {
            if *ready {
                continue;
            }
            let mut cx = ServiceContext::new(driver, index, cell.link.shard(), now_ns);
            match cell.services[index as usize].borrow_mut().start(&mut cx) {
                Ok(Started::Ready) => *ready = true,
                Ok(Started::Pending) => return,
                Err(error) => {
                    self.phase = Phase::Stopped;
                    return self.report_start(Err(StartError::Service(error)));
                }
            }
        }
        if let Some(transport) = cell.transport.borrow_mut().as_mut()
            && let Err(error) = transport.start(driver)
        {
            self.phase = Phase::Stopped;
            return self.report_start(Err(StartError::Transport(error)));
        }
        self.phase = Phase::Running;
        self.report_start(Ok(()));
    }

    fn report_start(&mut self, result: Result<(), StartError>) {
        if let Some(on_started) = self.on_started.take() {
            on_started(result);
        }
    }

    /// Messages and replies from other shards, and messages from threads outside.
    fn receive(&mut self, cell: &ShardCell) -> bool {
        let deferred = std::mem::take(&mut cell.core.borrow_mut().deferred);
        // A deferred request comes after all that is there now, so all of it is taken.
        let limit = if deferred.is_empty() { RING_BATCH } else { usize::MAX };
        let (replies, from_rings) = {
            let mut core = cell.core.borrow_mut();
            let (replies, messages) = (core.mesh.begin_replies(), core.mesh.begin_batch(limit));
            core.counters.ring_received += messages as u64;
            (replies, messages)
        };
        // Looked at first: an empty queue's `pop` has a fence, which waits until all that was published before is visible.
        if !self.queues.user.is_empty() {
            for _ in 0..limit.min(self.queues.user.capacity()) {
                let Some(envelope) = self.queues.user.pop() else { break };
                self.injected.push(envelope);
            }
            cell.core.borrow_mut().ledger.received += self.injected.len() as u64;
        }
        let any = replies + from_rings + self.injected.len() > 0;
        if any {
            // What was requested before these were sent comes first: spawns of actors that they speak of.
            self.run_system(cell);
            cell.deliver_replies(replies);
            cell.deliver_batch();
            for envelope in self.injected.drain(..) {
                cell.deliver(envelope);
            }
        }
        for request in deferred {
            request(cell);
        }
        any
    }

    /// Timers and idle virtual actors.
    fn fire(&mut self, cell: &ShardCell, now_ns: u64) -> bool {
        let any = cell.fire(now_ns);
        if now_ns >= cell.core.borrow().directory.next_sweep_ns {
            cell.passivate_idle();
        }
        any
    }

    /// Ends asks whose time is over. After the actors: an answer of this turn, or a message dropped as expired, says more.
    fn expire(&mut self, cell: &ShardCell, now_ns: u64) -> bool {
        cell.core.borrow_mut().replies.expired(now_ns, &mut self.expired);
        let any = !self.expired.is_empty();
        for address in self.expired.drain(..) {
            crate::reply::fail_here(cell, address, AskError::Unknown(Unknown::Deadline));
        }
        any
    }

    /// Room goes to the senders that wait for it, then to those elsewhere that count.
    fn relieve(&mut self, cell: &ShardCell, moved: bool) {
        let mut core = cell.core.borrow_mut();
        cell.link.waiting.serve(&mut core, moved, &mut self.wakers);
        if !core.ledger.is_empty() {
            core.settle_credit();
        }
        drop(core);
        if !self.wakers.is_empty() {
            self.wakers.drain(..).for_each(super::wake_contained);
        }
    }

    fn poll_services(&mut self, cell: &ShardCell, driver: &mut dyn Driver, now_ns: u64) -> bool {
        let mut any = false;
        for (index, service) in (0_u8..).zip(&cell.services) {
            let mut cx = ServiceContext::new(driver, index, cell.link.shard(), now_ns);
            any |= service.borrow_mut().poll(&mut cx);
        }
        any
    }

    fn poll_transport(&mut self, cell: &ShardCell, driver: &mut dyn Driver) -> bool {
        match cell.transport.borrow_mut().as_mut() {
            Some(transport) => transport.poll(driver, &mut Inbound { shard: cell }),
            None => false,
        }
    }

    /// A function of its own: within the turn, everything else competes for the registers that its loops need.
    #[inline(never)]
    fn run_actors(&mut self, cell: &ShardCell, mut handled: u32) -> u32 {
        let budget = cell.core.borrow().budget;
        while handled < budget {
            // SAFETY: taking a number out of a queue runs no code but the queue's.
            let next = unsafe { cell.core.quick() }.run_queue.pop();
            let Some(ready) = next else { break };
            let share = cell.activate(ready);
            // SAFETY: as above.
            unsafe { cell.core.quick() }.run_queue.charge(share);
            handled += share;
        }
        handled
    }

    /// Publishes what was sent to other shards, and handles what they answer, before the turn goes on with what costs more and
    /// can wait a little: a shard that spins has nothing better to do. Returns how many messages were handled with `handled`.
    fn linger(&mut self, cell: &ShardCell, mut handled: u32) -> u32 {
        for _ in 0..LINGER_ROUNDS {
            if !cell.core.borrow().run_queue.is_empty() {
                break;
            }
            cell.publish_now();
            let waited = {
                let core = cell.core.borrow();
                (0..LINGER_LOOKS).take_while(|_| core.mesh.looks_empty()).map(|_| std::hint::spin_loop()).count()
            };
            if waited == LINGER_LOOKS as usize {
                break;
            }
            self.receive(cell);
            handled = self.run_actors(cell, handled);
        }
        handled
    }

    /// From now on turns linger, where there is anybody to wait for: for hosts that spin.
    pub(crate) fn lingers(&mut self) {
        self.lingers = !self.cell.core.borrow().mesh.is_alone();
    }

    fn flush(&mut self, cell: &ShardCell, driver: &mut dyn Driver, now_ns: u64) {
        for (index, service) in (0_u8..).zip(&cell.services) {
            let mut cx = ServiceContext::new(driver, index, cell.link.shard(), now_ns);
            if self.phase == Phase::Running || self.phase == Phase::Closing {
                service.borrow_mut().flush(&mut cx);
            }
        }
        crate::cluster::outbound::send_due_room(cell);
        loop {
            let Some(frame) = cell.core.borrow_mut().frames.pop_front() else { break };
            if let Err(reason) = crate::cluster::outbound::send(cell, frame.peer, frame.lane, &frame.bytes) {
                cell.link.engine().dead_letters.count(Reason::from(reason));
            }
        }
        if self.phase == Phase::Running
            && let Some(transport) = cell.transport.borrow_mut().as_mut()
        {
            let goes_on = !cell.core.borrow().run_queue.is_empty();
            if goes_on { transport.flush_soon(driver) } else { transport.flush(driver) }
        }
        let mut core = cell.core.borrow_mut();
        core.purse.empty();
        let sent = core.mesh.flush();
        core.counters.ring_sent += sent;
    }

    /// Finishes services and transport; the shard ends when no other can send it anything either.
    fn close(&mut self, cell: &ShardCell, driver: &mut dyn Driver, now_ns: u64, nothing_comes: bool) {
        let mut done = true;
        if self.finished {
            if nothing_comes {
                self.phase = Phase::Stopped;
            }
            return;
        }
        for (index, service) in (0_u8..).zip(&cell.services) {
            let mut cx = ServiceContext::new(driver, index, cell.link.shard(), now_ns);
            done &= service.borrow_mut().stop(&mut cx);
        }
        if let Some(transport) = cell.transport.borrow_mut().as_mut() {
            done &= transport.stop(driver);
        }
        self.finished = done;
        if done && nothing_comes {
            self.phase = Phase::Stopped;
        }
    }

    fn publish(&mut self, cell: &ShardCell, now_ns: u64) {
        let core = cell.core.borrow();
        let Counters {
            handled,
            turns,
            long_turns,
            busy_ns,
            parks,
            panics,
            expired,
            cancelled,
            ring_sent,
            ring_received,
            frames_sent,
            frames_received,
            fan_out_encoded,
            fan_out_shared,
            fenced,
            missed_ticks,
            activated,
            passivated,
        } = core.counters;
        cell.link.counters.publish(&ShardStats {
            shard: cell.link.shard().get(),
            handled,
            turns,
            long_turns,
            busy_ns,
            elapsed_ns: now_ns - self.started_ns,
            parks,
            panics,
            expired,
            cancelled,
            ring_sent,
            ring_received,
            frames_sent,
            frames_received,
            fan_out_encoded,
            fan_out_shared,
            fenced,
            missed_ticks,
            activated,
            passivated,
            actors: u64::from(core.cells.live()),
            asks: u64::from(core.replies.live()),
            timers: core.timers.len() as u64,
        });
    }

    fn next_wait(&self, cell: &ShardCell, busy: bool) -> Wait {
        if self.phase == Phase::Stopped {
            return Wait::Stopped;
        }
        if self.phase == Phase::Closing {
            return if self.finished && !cell.all_closing() { Wait::Idle } else { Wait::Now };
        }
        let core = cell.core.borrow();
        if busy || !core.run_queue.is_empty() || !core.deferred.is_empty() || self.has_arrivals(&core) {
            return Wait::Now;
        }
        let services = cell.services.iter().filter_map(|service| service.borrow().next_deadline_ns()).min();
        let transport = cell.transport.borrow().as_ref().and_then(|transport| transport.next_deadline_ns());
        let sweep = Some(core.directory.next_sweep_ns).filter(|at| *at != u64::MAX);
        let calm = core.ledger.is_calming().then(|| core.now_ns + CREDIT_CALM_NS);
        let chase = (core.replies.live() > 0).then(|| core.chase.next_ns.max(core.now_ns + 1));
        let earliest =
            [core.timers.next_deadline_ns(), core.replies.next_deadline_ns(), services, transport, sweep, calm, chase]
                .into_iter()
                .flatten()
                .min();
        earliest.map_or(Wait::Idle, Wait::Until)
    }

    fn has_arrivals(&self, core: &ShardCore) -> bool {
        !self.queues.system.is_empty()
            || !self.queues.user.is_empty()
            || core.mesh.has_arrivals()
            || !core.link.wakes.is_empty()
            || core.link.waiting.wants_attention()
            || core.credit_is_due()
    }

    /// Announces parking and looks for work once more; `false` when there is some. Pair: `finish_park`.
    pub(crate) fn prepare_park(&mut self) -> bool {
        self.cell.link.prepare_park();
        let may_end = self.phase == Phase::Closing && self.finished && self.cell.all_closing();
        let idle = !may_end && !self.has_arrivals(&self.cell.core.borrow());
        if !idle {
            self.cell.link.finish_park();
        }
        idle
    }

    /// Ends what `prepare_park` began.
    pub(crate) fn finish_park(&mut self) {
        self.cell.link.finish_park();
    }

    /// When the last turn began, on the driver's clock.
    pub(crate) fn turn_began_ns(&self) -> u64 {
        self.last_turn_ns
    }

    /// Whether a service has a durable write on its way.
    pub(crate) fn commit_in_flight(&self) -> bool {
        self.cell.services.iter().any(|service| service.borrow().commit_in_flight())
    }
}

/// Messages that the next turn may handle, from what the last one took: as many as fit between two yields, at least one, and at
/// most twice as many as before, so that one cheap turn between dear ones promises nothing.
fn next_budget(budget: u32, took_ns: u64, handled: u32) -> u32 {
    if handled == 0 {
        return budget;
    }
    let fitting = YIELD_QUANTUM_NS.saturating_mul(u64::from(handled)) / took_ns.max(1);
    let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
    fitting.min(budget.saturating_mul(2)).clamp(1, TURN_BUDGET)
}

impl ShardCell {
    /// Whether nothing is left to do here but what comes from outside: for draining.
    pub(crate) fn is_quiet(&self) -> bool {
        let core = self.core.borrow();
        core.run_queue.is_empty()
            && core.running.is_none()
            && core.deferred.is_empty()
            && !self.link.has_injected()
            && core.replies.live() == 0
            && !core.mesh.has_arrivals()
            && core.frames.is_empty()
            && !self.services.iter().any(|service| service.try_borrow().is_ok_and(|service| service.commit_in_flight()))
            && core.cells.are_quiet()
    }

    /// Whether no shard of the engine has an actor left.
    fn all_closing(&self) -> bool {
        self.link.engine().links().iter().all(crate::link::ShardLink::is_closing)
    }

    /// Publishes what this turn has staged for other shards, ahead of its end.
    pub(crate) fn publish_now(&self) {
        let mut core = self.core.borrow_mut();
        core.counters.ring_sent += core.mesh.flush();
    }

    /// Asks every actor to stop, and refuses new activations.
    pub(crate) fn stop_all(&self) {
        let live = {
            let mut core = self.core.borrow_mut();
            core.draining = true;
            core.cells.live_indices()
        };
        for (index, generation) in live {
            self.request_stop(index, generation, StopReason::Shutdown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_takes_no_more_than_fits_between_two_yields() {
        assert_eq!(next_budget(TURN_BUDGET, 1_000, 64), TURN_BUDGET, "cheap messages: all of them");
        assert_eq!(next_budget(TURN_BUDGET, 64 * 20_000, 64), 2, "20 us each");
        assert_eq!(next_budget(2, 10_000_000, 1), 1, "one always");
        assert_eq!(next_budget(2, 100, 2), 4, "it grows step by step");
        assert_eq!(next_budget(7, 1_000_000, 0), 7, "a turn without messages says nothing");
        assert_eq!(next_budget(64, 0, 64), TURN_BUDGET);
    }
}
