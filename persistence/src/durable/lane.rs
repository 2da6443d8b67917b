//! `Lane`: commands from one client to one actor, sent in order and again until their answers are known.
//!
//! Up to [`LANE_WINDOW`] are on their way at once; each names the one before it, so that the actor runs none too early whatever
//! is lost between. A failure ends in a pause that grows with every further one. Before there is a session, one goes alone.
//!
//! Invariant: a command that may have run is sent again under the same session and number only, and commands leave the lane
//! settled or lost, each once. No thread, no clock, no I/O: the caller brings the time.

use std::collections::VecDeque;

use super::idempotent::NotRun;
use crate::limits::{LANE_PAUSE_MAX_NS, LANE_PAUSE_NS, LANE_WINDOW};

#[derive(Debug)]
struct Item<T> {
    seq: u64,
    body: T,
    in_flight: bool,
    /// An attempt ended without telling whether it ran.
    maybe_ran: bool,
}

/// What goes out with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) opened: u64,
    pub(crate) seq: u64,
    pub(crate) after: u64,
    pub(crate) acked: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has run, now or before.
    Ran,
    /// It has not, for this reason.
    NotRun(NotRun),
    /// It surely has not: something on the way refused it, or its handler panicked.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What an outcome does to its command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    /// It stays and goes again.
    Again,
    /// It stays; the session's number came.
    Opened(u64),
    /// It has run.
    Settled(T),
    /// Whether it has run will never be known; it never will again.
    Lost(T),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    opened: u64,
    next: u64,
    items: VecDeque<Item<T>>,
    failures: u32,
    /// No attempt before this.
    resume_ns: u64,
    /// The session is gone: what may have run in it gets its verdict, then another one is opened.
    stale: bool,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { opened: 0, next: 1, items: VecDeque::new(), failures: 0, resume_ns: 0, stale: false }
    }
}

impl<T> Lane<T> {
    /// A lane that goes on with a recorded session behind the number `next`.
    pub(crate) fn resumed(opened: u64, next: u64) -> Self {
        Self { opened, next, ..Self::default() }
    }

    /// Takes a command; its number.
    pub(crate) fn push(&mut self, body: T) -> u64 {
        let seq = self.next;
        self.next += 1;
        self.items.push_back(Item { seq, body, in_flight: false, maybe_ran: false });
        seq
    }

    /// Takes a command that was recorded under this number; `false` when it is here already.
    pub(crate) fn insert(&mut self, seq: u64, body: T) -> bool {
        let at = self.items.partition_point(|item| item.seq < seq);
        if self.items.get(at).is_some_and(|item| item.seq == seq) {
            return false;
        }
        self.next = self.next.max(seq.saturating_add(1));
        self.items.insert(at, Item { seq, body, in_flight: false, maybe_ran: false });
        true
    }

    /// The next attempt, marked as on its way; `ready` says whether a command may leave yet.
    pub(crate) fn attempt(&mut self, now_ns: u64, ready: impl FnOnce(&T) -> bool) -> Option<(Attempt, &T)> {
        if now_ns < self.resume_ns {
            return None;
        }
        let in_flight = self.items.iter().filter(|item| item.in_flight).count();
        if self.stale && in_flight == 0 && self.items.iter().all(|item| !item.maybe_ran) {
            (self.stale, self.opened) = (false, 0);
        }
        let window = if self.opened == 0 || self.stale { 1 } else { LANE_WINDOW };
        if in_flight >= window {
            return None;
        }
        let stale = self.stale;
        let at = self.items.iter().position(|item| !item.in_flight && (item.maybe_ran || !stale))?;
        if !ready(&self.items[at].body) {
            return None;
        }
        let acked = self.acked();
        let after = if at == 0 { acked } else { self.items[at - 1].seq };
        let item = &mut self.items[at];
        item.in_flight = true;
        Some((Attempt { opened: self.opened, seq: item.seq, after, acked }, &item.body))
    }

    /// An attempt ended. `jitter` is random: pauses of many lanes shall not end together.
    pub(crate) fn answered(&mut self, seq: u64, outcome: Outcome, now_ns: u64, jitter: u64) -> Step<T> {
        let Some(at) = self.items.iter().position(|item| item.seq == seq) else { return Step::Again };
        let item = &mut self.items[at];
        item.in_flight = false;
        match outcome {
            // A restart may not know that it was settled and acknowledged before.
            Outcome::Ran | Outcome::NotRun(NotRun::Acknowledged) => {
                (self.failures, self.resume_ns) = (0, 0);
                return Step::Settled(self.remove(at));
            }
            Outcome::NotRun(NotRun::Open { opened }) if self.opened == 0 => {
                self.opened = opened;
                return Step::Opened(opened);
            }
            Outcome::NotRun(NotRun::Open { .. } | NotRun::SessionExpired) => {
                self.stale = true;
                if item.maybe_ran {
                    return Step::Lost(self.remove(at));
                }
            }
            Outcome::NotRun(NotRun::Misnumbered) => return Step::Lost(self.remove(at)),
            Outcome::NotRun(NotRun::Gap | NotRun::WindowFull) | Outcome::Refused => self.pause(now_ns, jitter),
            Outcome::Unknown => {
                // Without a session nothing runs.
                item.maybe_ran |= self.opened != 0;
                self.pause(now_ns, jitter);
            }
        }
        Step::Again
    }

    /// Everything in the lane may have been sent before: what a restart has to assume.
    pub(crate) fn assume_sent(&mut self) {
        for item in &mut self.items {
            item.maybe_ran = self.opened != 0;
        }
    }

    /// Takes a command out: it will never be sent again. Also whether it may have run already.
    pub(crate) fn give_up(&mut self, seq: u64) -> Option<(T, bool)> {
        let at = self.items.iter().position(|item| item.seq == seq)?;
        let maybe_ran = self.items[at].maybe_ran;
        Some((self.remove(at), maybe_ran))
    }

    /// Goes on with a recorded session.
    pub(crate) fn open(&mut self, opened: u64) {
        self.opened = opened;
    }

    /// When the pause ends, if there is one and something waits for it.
    pub(crate) fn resume_ns(&self, now_ns: u64) -> Option<u64> {
        (self.resume_ns > now_ns && !self.items.is_empty()).then_some(self.resume_ns)
    }

    /// All commands up to this number are settled.
    pub(crate) fn acked(&self) -> u64 {
        self.items.front().map_or(self.next, |item| item.seq) - 1
    }

    /// The session's number, 0 for none.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// The number of the next command.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The commands that wait, with their numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().map(|item| (item.seq, &item.body))
    }

    fn remove(&mut self, at: usize) -> T {
        self.items.remove(at).expect("found a moment ago").body
    }

    /// Followers of a failed attempt fail with it: they do not make the pause longer.
    fn pause(&mut self, now_ns: u64, jitter: u64) {
        if self.resume_ns > now_ns {
            return;
        }
        let pause_ns = LANE_PAUSE_NS.saturating_mul(1 << self.failures.min(32)).min(LANE_PAUSE_MAX_NS);
        self.failures = self.failures.saturating_add(1);
        self.resume_ns = now_ns + pause_ns / 2 + jitter % (pause_ns / 2 + 1);
    }
}

#[cfg(test)]
mod tests;
