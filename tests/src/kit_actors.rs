//! What the tests of the test kit share: actors to be tested, and how a failure is looked at.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;

/// What happened, in order; written by actors, read by their test.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Adds a line.
    ///
    /// # Panics
    /// When a writer has panicked.
    pub fn push(&self, line: String) {
        self.0.lock().expect("no writer panics").push(line);
    }

    /// All lines since the last time.
    ///
    /// # Panics
    /// When a writer has panicked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no writer panics"))
    }
}

/// The text of the panic of `test`, which must fail.
///
/// # Panics
/// When it does not.
pub fn failure<T>(test: impl FnOnce() -> T) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(test)) else { panic!("the test must fail") };
    panic.downcast_ref::<String>().expect("the kit fails with a text").clone()
}

/// A failure says all of this.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn must_say(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Adds up.
#[derive(Default, Debug)]
pub struct Counter {
    total: u32,
}
impl Actor for Counter {}

/// Adds this; answers the total.
#[message(reply = u32)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add(pub u32);

impl Handler<Add> for Counter {
    fn handle(&mut self, Add(amount): Add, _cx: &mut Context<Self>) -> u32 {
        self.total += amount;
        self.total
    }
}

/// Panics.
#[message]
#[derive(Debug)]
pub struct Boom;

impl Handler<Boom> for Counter {
    fn handle(&mut self, _: Boom, _cx: &mut Context<Self>) {
        panic!("planted in the test");
    }
}

/// Sends every number that it gets on, some time later.
#[derive(Debug)]
pub struct Relay {
    /// Whom.
    pub to: Recipient<Add>,
    /// How much later.
    pub delay: Duration,
}
impl Actor for Relay {}

impl Handler<Add> for Relay {
    fn handle(&mut self, add: Add, cx: &mut Context<Self>) -> u32 {
        if self.delay.is_zero() {
            let _ = self.to.tell(add);
        } else {
            cx.after(self.delay, Later(add));
        }
        add.0
    }
}

/// Sends it on now.
#[message]
#[derive(Debug)]
pub struct Later(Add);

impl Handler<Later> for Relay {
    fn handle(&mut self, Later(add): Later, _cx: &mut Context<Self>) {
        let _ = self.to.tell(add);
    }
}

/// Spawns a [`Relay`].
///
/// # Panics
/// When the engine shuts down.
#[must_use]
pub fn relay(kit: &TestKit, to: Recipient<Add>, delay: Duration) -> ActorRef<Relay> {
    kit.spawn(move || Relay { to, delay }).expect("the engine runs")
}
