//! What a handler does with timers.
//!
//! Invariant: a timer belongs to the actor that set it; nobody else cancels it, and it ends with it.

use std::time::Duration;

use super::{Body, Other, Owner, Repeating, TimerId};
use crate::actor::Actor;
use crate::context::{Context, nanos};
use crate::message::Message;
use crate::receive::Receive;
use crate::shard::{Attended, Idle};

impl<A: Actor> Context<A> {
    /// Sends `message` to this actor after `delay`, unless it stops or is rebuilt before. The message has its own room: a full
    /// mailbox does not refuse it. Timers fire in order of their time, those of one time in the order in which they were set,
    /// and never early.
    ///
    /// Costs no allocation once the shard has had as many timers at a time, and a bounded number of steps however many there
    /// are.
    pub fn after<M, K>(&mut self, delay: Duration, message: M) -> TimerId
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        let envelope = self.own_message::<M, K>(message);
        self.set_timer(nanos(delay), Body::Once(envelope))
    }

    /// Sends a copy of `message` to this actor every `period`, at a fixed rate from now on. Ticks that could not be sent in
    /// time because the shard was late, or because the mailbox was full, are counted as missed and left out: here
    /// ([`missed_ticks`](Self::missed_ticks)) and for the whole shard
    /// ([`ShardStats::missed_ticks`](crate::ShardStats::missed_ticks)). Ends when this actor stops or is rebuilt, or when a copy
    /// panics.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn every<M, K>(&mut self, period: Duration, message: M) -> TimerId
    where
        A: Receive<M, K>,
        M: Message + Clone,
        K: 'static,
    {
        self.repeat::<M, K>(period, message, Other::Rate)
    }

    /// Like [`every`](Self::every), at a fixed delay: the next period begins when the message was handled, for an async handler
    /// when its future has ended, so the message never waits behind itself. A tick that finds the mailbox full is counted as
    /// missed, and the next one comes a period later.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn every_with_delay<M, K>(&mut self, period: Duration, message: M) -> TimerId
    where
        A: Receive<M, K>,
        M: Message + Clone,
        K: 'static,
    {
        self.repeat::<M, K>(period, message, Other::Delay)
    }

    fn repeat<M, K>(&mut self, period: Duration, message: M, kind: fn(Repeating) -> Other) -> TimerId
    where
        A: Receive<M, K>,
        M: Message + Clone,
        K: 'static,
    {
        assert!(!period.is_zero(), "a period has a length");
        let period_ns = nanos(period);
        let repeating = Repeating { period_ns, make: self.own_messages::<M, K>(message), missed: 0 };
        self.set_timer(period_ns, Body::Other(kind(repeating)))
    }

    /// Stops this actor after `delay`, as [`stop`](Self::stop) does. A rebuild does not end this timer: it bounds the actor's
    /// life, not that of its state.
    pub fn stop_after(&mut self, delay: Duration) -> TimerId {
        self.set_timer(nanos(delay), Body::Other(Other::Stop))
    }

    /// Kills this actor after `delay`, as [`ActorRef::kill`](crate::ActorRef::kill) does. Bounds its life, as
    /// [`stop_after`](Self::stop_after).
    pub fn kill_after(&mut self, delay: Duration) -> TimerId {
        self.set_timer(nanos(delay), Body::Other(Other::Kill))
    }

    /// Sends a copy of `message` to this actor whenever nobody has spoken to it for `silence`: once for each such stretch, until
    /// [`clear_idle_timeout`](Self::clear_idle_timeout), or until this actor stops or is rebuilt. Every message that somebody tells
    /// it or asks of it begins the silence anew; its own timers, replies to its asks and notices of ends do not. There is one idle
    /// timeout an actor; setting it again replaces it.
    ///
    /// While it is set, messages are handed to this actor one at a time, some 30 ns more each.
    ///
    /// # Panics
    /// When `silence` is zero.
    pub fn set_idle_timeout<M, K>(&mut self, silence: Duration, message: M)
    where
        A: Receive<M, K>,
        M: Message + Clone,
        K: 'static,
    {
        self.clear_idle_timeout();
        let timer = self.repeat::<M, K>(silence, message, Other::Idle);
        let mut core = self.shard_cell().core.borrow_mut();
        let spoken_ns = core.now_ns;
        let cell = core.cells.get(self.seat().index(), self.seat().generation());
        let cell = cell.expect("a running actor has its cell");
        cell.extra().attended.get_or_insert_default().idle = Some(Idle { timer, spoken_ns });
        cell.conduct.woken |= !cell.conduct.suspended;
    }

    /// Ends this actor's idle timeout; returns whether it had one.
    pub fn clear_idle_timeout(&mut self) -> bool {
        let idle = {
            let mut core = self.shard_cell().core.borrow_mut();
            let cell = core.cells.get(self.seat().index(), self.seat().generation());
            let extra = cell.and_then(|cell| cell.extra.as_mut());
            extra.and_then(|extra| Attended::take_idle(&mut extra.attended))
        };
        idle.is_some_and(|idle| self.cancel(idle.timer))
    }

    /// Cancels a timer of this actor. Returns whether that was in time: `true` when it will send nothing any more; `false` when
    /// its message has been sent already (and may still be in the mailbox), or when this actor has no such timer. What a
    /// repeating timer has sent before stays sent.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        let owner = self.timer_owner();
        let timer = self.timer_here(timer);
        let cancelled = self.shard_cell().core.borrow_mut().timers.cancel(timer, owner);
        cancelled.is_some()
    }

    /// Ticks that a repeating timer of this actor has left out since it was set; 0 when there is no such timer.
    #[must_use]
    pub fn missed_ticks(&self, timer: TimerId) -> u64 {
        let (owner, timer) = (self.timer_owner(), self.timer_here(timer));
        self.shard_cell().core.borrow_mut().timers.missed(timer, owner).unwrap_or(0)
    }

    fn set_timer(&self, delay_ns: u64, body: Body) -> TimerId {
        let owner = self.timer_owner();
        let mut core = self.shard_cell().core.borrow_mut();
        let at_ns = core.now_ns.saturating_add(delay_ns);
        core.timers.insert(at_ns, owner, body)
    }

    /// The timer's name on this shard: another one than it was given if it has come with its actor.
    fn timer_here(&self, timer: TimerId) -> TimerId {
        let core = self.shard_cell().core.borrow();
        let cell = core.cells.peek(self.seat().index(), self.seat().generation());
        cell.and_then(|cell| cell.timer_here(timer)).unwrap_or(timer)
    }

    fn timer_owner(&self) -> Owner {
        Owner { index: self.seat().index(), generation: self.seat().generation() }
    }
}
