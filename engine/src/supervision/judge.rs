//! Judging: from a failure to one decision.
//!
//! Invariant: a restart that is granted has been counted; the user's function runs outside the core's borrow. Shard thread only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{ChildSpec, Directive, Failure, FailureKind, Restart, Strategy, Supervision};
use crate::shard::ShardCell;

/// A decision, and how a restart is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) directive: Directive,
    pub(crate) strategy: Strategy,
    pub(crate) delay_ns: u64,
}

impl ShardCell {
    /// Decides on the failure of the actor at `index`; what it wants itself, if it has a wish, goes before its supervisor's
    /// opinion, but not before the window. Notes in the failure how many restarts were counted before.
    pub(crate) fn judge(&self, index: u32, failure: &mut Failure, rebuilds: bool, wish: Directive) -> Verdict {
        let (policy, spec, parent) = {
            let mut core = self.core.borrow_mut();
            let cells = &mut core.cells;
            let parent = cells.kin.parent(index);
            let extra = cells.slot(index).and_then(|cell| cell.extra.as_ref());
            let (spec, own) =
                extra.map_or((ChildSpec::default(), None), |extra| (extra.spec, extra.policy.as_deref().cloned()));
            let supervisor = parent.and_then(|parent| cells.slot(parent)?.extra.as_ref()?.supervisor.as_ref());
            let policy = supervisor.map(|supervisor| supervisor.policy.clone()).or(own).unwrap_or_default();
            (policy, spec, parent)
        };
        let strategy = if parent.is_some() { policy.strategy } else { Strategy::One };
        let by_default = match failure.kind {
            FailureKind::StartFailed if policy.backoff.is_none() => Directive::Stop,
            _ => Directive::Restart,
        };
        failure.restarts = self.counted(index, parent, &policy, strategy);
        let mut directive = match (&policy.decide, wish) {
            (_, Directive::Resume | Directive::Restart | Directive::Stop) => wish,
            (None, Directive::Escalate) => by_default,
            (Some(decide), Directive::Escalate) => {
                catch_unwind(AssertUnwindSafe(|| decide(failure))).unwrap_or(by_default)
            }
        };
        if directive == Directive::Restart && (spec.restart == Restart::Never || !rebuilds) {
            directive = Directive::Stop;
        }
        if directive == Directive::Resume && failure.kind != FailureKind::Panicked {
            directive = Directive::Stop;
        }
        if directive == Directive::Restart && failure.restarts >= policy.restarts {
            directive = Directive::Escalate;
        }
        if directive == Directive::Escalate && parent.is_none() {
            directive = Directive::Stop;
        }
        let mut delay_ns = 0;
        if directive == Directive::Restart {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let now_ns = core.now_ns;
            delay_ns = policy.backoff.map_or(0, |backoff| backoff.delay_ns(failure.restarts, &mut core.random));
            let extra = core.cells.slot(index).expect("it failed just now").extra();
            if strategy == Strategy::One {
                extra.window.get_or_insert_default().push(now_ns);
            } else if let Some(parent) = parent.and_then(|parent| core.cells.slot(parent)) {
                parent.extra().supervisor.get_or_insert_default().window.push(now_ns);
            }
        }
        Verdict { directive, strategy, delay_ns }
    }

    /// The restarts within the window that count for this actor.
    fn counted(&self, index: u32, parent: Option<u32>, policy: &Supervision, strategy: Strategy) -> u32 {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let (now_ns, within_ns) = (core.now_ns, u64::try_from(policy.within.as_nanos()).unwrap_or(u64::MAX));
        let counting = if strategy == Strategy::One { Some(index) } else { parent };
        let Some(extra) = counting.and_then(|index| core.cells.slot(index)?.extra.as_mut()) else { return 0 };
        let window = if strategy == Strategy::One {
            extra.window.as_deref_mut()
        } else {
            extra.supervisor.as_mut().map(|supervisor| &mut supervisor.window)
        };
        window.map_or(0, |window| window.count(now_ns, within_ns))
    }
}
