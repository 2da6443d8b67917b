//! `Behaviours`: what an actor is at the moment, and what it was before: become, push, pop, and timeouts of a state.
//!
//! Invariant: there is always a current behaviour; a timeout is in time only while the behaviour that asked for it is the
//! current one. A plain value of the actor's own: the message path knows nothing of it.

use std::time::Duration;

use crate::actor::Actor;
use crate::context::Context;
use crate::message::Message;
use crate::receive::Receive;
use crate::timer::TimerId;

/// The behaviours of an actor, the current one on top. `S` is what the actor makes of it: an enum of states that its handlers
/// match on, or a function that they call. Together with [`Context::stash`] this makes a state machine:
///
/// ```
/// use std::time::Duration;
///
/// use shardstage::prelude::*;
/// use shardstage::testkit::TestKit;
/// use shardstage::{Behaviours, StateTimeout};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum Door {
///     Locked,
///     Open,
/// }
///
/// struct Gate {
///     door: Behaviours<Door>,
/// }
/// impl Actor for Gate {}
///
/// #[message(reply = Door)]
/// struct Key;
///
/// impl Handler<Key> for Gate {
///     fn handle(&mut self, _: Key, cx: &mut Context<Self>) -> Door {
///         if *self.door.current() == Door::Locked {
///             self.door.become_(Door::Open, cx);
///             self.door.timeout(Duration::from_secs(10), cx);
///         }
///         *self.door.current()
///     }
/// }
///
/// impl Handler<StateTimeout> for Gate {
///     fn handle(&mut self, timeout: StateTimeout, cx: &mut Context<Self>) {
///         if self.door.is_due(timeout) {
///             self.door.become_(Door::Locked, cx);
///         }
///     }
/// }
///
/// # #[message(reply = Door)]
/// # struct Look;
/// # impl Handler<Look> for Gate {
/// #     fn handle(&mut self, _: Look, _cx: &mut Context<Self>) -> Door { *self.door.current() }
/// # }
/// # fn main() -> shardstage::Result<()> {
/// let kit = TestKit::new();
/// let gate = kit.spawn(|| Gate { door: Behaviours::new(Door::Locked) })?;
/// assert_eq!(gate.ask(Key).wait()?, Door::Open);
/// kit.advance(Duration::from_secs(10));
/// assert_eq!(gate.ask(Look).wait()?, Door::Locked);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Behaviours<S> {
    current: S,
    below: Vec<S>,
    /// Counts changes, so that an old timeout is known as such.
    entered: u64,
    timer: Option<TimerId>,
}

/// A behaviour's time is over. Whoever handles it asks [`Behaviours::is_due`]: it may have been on its way when the behaviour
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTimeout {
    entered: u64,
}

impl Message for StateTimeout {
    type Reply = ();
}

impl<S> Behaviours<S> {
    /// With one behaviour.
    #[must_use]
    pub fn new(first: S) -> Self {
        Self { current: first, below: Vec::new(), entered: 0, timer: None }
    }

    /// The current behaviour.
    #[must_use]
    pub fn current(&self) -> &S {
        &self.current
    }

    /// The current behaviour, to change what it holds. That is no change of behaviour: its timeout stays.
    pub fn current_mut(&mut self) -> &mut S {
        &mut self.current
    }

    /// How many behaviours wait below the current one.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.below.len()
    }

    /// Replaces the current behaviour and ends its timeout; returns what it was. Those below stay.
    pub fn become_<A: Actor>(&mut self, next: S, cx: &mut Context<A>) -> S {
        self.leave(cx);
        std::mem::replace(&mut self.current, next)
    }

    /// Puts a behaviour on top of the current one, whose timeout ends.
    pub fn push<A: Actor>(&mut self, next: S, cx: &mut Context<A>) {
        let before = self.become_(next, cx);
        self.below.push(before);
    }

    /// Goes back to the behaviour below and returns the one that ends; `None`, and nothing changes, when there is none below.
    pub fn pop<A: Actor>(&mut self, cx: &mut Context<A>) -> Option<S> {
        let below = self.below.pop()?;
        Some(self.become_(below, cx))
    }

    /// Sends the actor a [`StateTimeout`] when the current behaviour has lasted so much longer. A change of behaviour ends it;
    /// asking again begins it anew.
    pub fn timeout<A, K>(&mut self, after: Duration, cx: &mut Context<A>)
    where
        A: Receive<StateTimeout, K>,
        K: 'static,
    {
        self.leave(cx);
        self.timer = Some(cx.after::<_, K>(after, StateTimeout { entered: self.entered }));
    }

    /// Whether this timeout is the current behaviour's. False for one that was on its way when the behaviour changed.
    #[must_use]
    pub fn is_due(&self, timeout: StateTimeout) -> bool {
        self.timer.is_some() && self.entered == timeout.entered
    }

    /// Ends the timeout that was asked for last.
    fn leave<A: Actor>(&mut self, cx: &mut Context<A>) {
        self.entered += 1;
        if let Some(timer) = self.timer.take() {
            cx.cancel(timer);
        }
    }
}
