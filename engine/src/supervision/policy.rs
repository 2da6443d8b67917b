//! What a user says about failures: `Supervision` of an actor's children, and the `ChildSpec` of one of them.
//!
//! Invariant: plain values; a supervisor asks the user's function at most once a failure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::limits::{RESTARTS, RESTARTS_WITHIN, SUPERVISED_RESTARTS, SUPERVISED_WITHIN};
use crate::random::Random;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Directive {
    /// Go on with the state as it is, and with the next message. Of an actor that has no state (a failed start, an end), nothing
    /// is left to go on with: it stops.
    Resume,
    /// Stop the children, build a fresh state from the factory, keep mailbox and references. Counts against the window.
    Restart,
    /// End the actor for good.
    Stop,
    /// End the actor and let its supervisor fail in turn.
    Escalate,
}

/// Who restarts when one child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    One,
    All,
    Rest,
}

/// When a child is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Always: after failures, and also after it stopped or was stopped by anybody but its parent.
    Permanent,
    /// After failures, and after a link took it along.
    #[default]
    Transient,
    /// Not at all; when its siblings restart together with another one, it stops.
    Never,
}

/// How one child is looked after; see [`Context::spawn_with`](crate::Context::spawn_with).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildSpec {
    pub(crate) restart: Restart,
    pub(crate) significant: bool,
}

impl ChildSpec {
    /// Restarted always.
    #[must_use]
    pub const fn permanent() -> Self {
        Self { restart: Restart::Permanent, significant: false }
    }

    /// Restarted after failures: what [`Context::spawn`](crate::Context::spawn) makes.
    #[must_use]
    pub const fn transient() -> Self {
        Self { restart: Restart::Transient, significant: false }
    }

    /// Never restarted.
    #[must_use]
    pub const fn never() -> Self {
        Self { restart: Restart::Never, significant: false }
    }

    /// Its end, when it is not restarted, ends its parent too.
    #[must_use]
    pub const fn significant(self) -> Self {
        Self { significant: true, ..self }
    }
}

/// How long to wait before restarts: twice as long with each that the window counts already, up to a longest time, plus a random
/// part, so that what failed together does not start together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    jitter: f64,
}

impl Backoff {
    /// From `first` up to `longest`, plus up to a fifth.
    #[must_use]
    pub const fn exponential(first: Duration, longest: Duration) -> Self {
        Self { first, longest, jitter: 0.2 }
    }

    /// Adds up to this part of each wait: 0 for none, 1 to double some.
    ///
    /// # Panics
    /// When it is not between 0 and 1.
    #[must_use]
    pub fn jitter(self, part: f64) -> Self {
        assert!((0.0..=1.0).contains(&part), "a part of the wait");
        Self { jitter: part, ..self }
    }

    /// The wait before a restart of which the window counts `restarts` before it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a random part"
    )]
    pub(crate) fn delay_ns(&self, restarts: u32, random: &mut Random) -> u64 {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let doubled = nanos(self.first).saturating_mul(1_u64.checked_shl(restarts).unwrap_or(u64::MAX));
        let wait_ns = doubled.min(nanos(self.longest));
        let most_ns = (wait_ns as f64 * self.jitter) as u64;
        wait_ns.saturating_add(if most_ns == 0 { 0 } else { random.next_u64() % most_ns })
    }
}

type Decide = Arc<dyn Fn(&Failure) -> Directive + Send + Sync>;

/// How an actor looks after its children: who restarts together, how often, after what wait; see
/// [`Actor::supervision`](crate::Actor::supervision). Also how a root is looked after:
/// [`Engine::spawn_supervised`](crate::Engine::spawn_supervised).
///
/// When children fail more often than the window allows, the supervisor gives up: the child ends, and the supervisor itself
/// counts as failed.
#[derive(Clone)]
pub struct Supervision {
    pub(crate) strategy: Strategy,
    pub(crate) restarts: u32,
    pub(crate) within: Duration,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) decide: Option<Decide>,
    said: bool,
}

impl Supervision {
    const fn of(strategy: Strategy) -> Self {
        let (restarts, within) = (SUPERVISED_RESTARTS, SUPERVISED_WITHIN);
        Self { strategy, restarts, within, backoff: None, decide: None, said: true }
    }

    /// A child that fails restarts alone, each counted for itself: at most 5 times in 5 s unless
    /// [`at_most`](Self::at_most) says otherwise.
    #[must_use]
    pub const fn one_for_one() -> Self {
        Self::of(Strategy::One)
    }

    /// When a child fails, all of them stop and start again, in the order in which they were spawned: at most 5 times in 5 s.
    #[must_use]
    pub const fn all_for_one() -> Self {
        Self::of(Strategy::All)
    }

    /// When a child fails, it and those that were spawned after it stop and start again: at most 5 times in 5 s.
    #[must_use]
    pub const fn rest_for_one() -> Self {
        Self::of(Strategy::Rest)
    }

    /// So many restarts within so long; the next failure goes up to this actor's own supervisor. 0 restarts nothing.
    #[must_use]
    pub fn at_most(self, restarts: u32, within: Duration) -> Self {
        Self { restarts, within, said: true, ..self }
    }

    /// Waits before restarts. With a backoff a failed start is tried again too; without one it stops the child, because trying at
    /// once what has just failed would only use up the window.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff: Some(backoff), said: true, ..self }
    }

    /// Decides on failures, in the place of `Restart` for all (and `Stop` for failed starts without backoff). Asked on the shard
    /// at once, also while this actor waits in an async handler; if it panics, the default decides.
    #[must_use]
    pub fn decide(self, decide: impl Fn(&Failure) -> Directive + Send + Sync + 'static) -> Self {
        Self { decide: Some(Arc::new(decide)), said: true, ..self }
    }

    /// Whether it says anything that the default does not.
    #[inline]
    pub(crate) fn is_said(&self) -> bool {
        self.said
    }
}

/// What an actor has that says nothing, and what roots of the spawn tree are under: one for one, at most 1,000 restarts in 10 s,
/// no wait.
impl Default for Supervision {
    #[inline]
    fn default() -> Self {
        let (restarts, within) = (RESTARTS, RESTARTS_WITHIN);
        Self { strategy: Strategy::One, restarts, within, backoff: None, decide: None, said: false }
    }
}

impl fmt::Debug for Supervision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { strategy, restarts, within, backoff, .. } = self;
        write!(f, "Supervision({strategy:?}, at most {restarts} in {within:?}, {backoff:?})")
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_never_fall_short() {
        let backoff = Backoff::exponential(Duration::from_millis(10), Duration::from_millis(100));
        let mut random = Random::new(1);
        for (restarts, base) in [(0, 10), (1, 20), (2, 40), (3, 80), (4, 100), (64, 100), (1000, 100)] {
            let base_ns = base * 1_000_000;
            let waits: Vec<_> = (0..100).map(|_| backoff.delay_ns(restarts, &mut random)).collect();
            assert!(waits.iter().all(|wait| (base_ns..base_ns + base_ns / 5).contains(wait)), "{waits:?}");
            assert!(waits.iter().any(|wait| *wait > base_ns + base_ns / 10), "it varies");
            assert_eq!(backoff.jitter(0.0).delay_ns(restarts, &mut random), base_ns);
        }
    }
}
