//! What the parts of one test kit share, and how its failures look.
//!
//! Invariant: a failure says what was expected, what came instead, how to run it again, the last dead letters and the last
//! messages to probes. Used by the test's thread; only the transcript is also written by probes, on the same thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::actor_ref::ActorId;
use crate::dead_letter::{DeadLetter, DeadLetters, MessageName};
use crate::engine_link::EngineLink;
use crate::limits::{TESTKIT_REPORT_LINES, TESTKIT_TRANSCRIPT};
use crate::sim::SimWorld;

use super::builder::{SEED_VARIABLE, SeedOrigin};

/// One message that a probe got.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at: Duration,
    /// `probe: message`.
    pub(super) text: String,
}

/// The messages to all probes of a kit, in the order in which they were handled.
#[derive(Default)]
pub(super) struct Transcript {
    pub(super) lines: VecDeque<Line>,
    count: u64,
}

impl Transcript {
    /// Adds a message; returns its number, from 1.
    pub(super) fn add(&mut self, line: Line) -> u64 {
        if self.lines.len() == TESTKIT_TRANSCRIPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.count += 1;
        self.count
    }
}

pub(super) type SharedTranscript = Arc<Mutex<Transcript>>;

/// Reads or writes through a lock that only one thread ever takes.
pub(super) fn with<T, R>(lock: &Mutex<T>, f: impl FnOnce(&mut T) -> R) -> R {
    f(&mut lock.lock().unwrap_or_else(PoisonError::into_inner))
}

type Allowed = Box<dyn Fn(&DeadLetter) -> bool>;

/// What a kit and its probes share.
pub(super) struct Shared {
    pub(super) world: SimWorld,
    pub(super) seed: u64,
    pub(super) origin: SeedOrigin,
    pub(super) patience: Duration,
    /// The engine that runs now.
    pub(super) engine: Cell<&'static EngineLink>,
    pub(super) probes: RefCell<Vec<ActorId>>,
    pub(super) transcript: SharedTranscript,
    pub(super) allowed: RefCell<Vec<Allowed>>,
    pub(super) panics_allowed: Cell<bool>,
    /// Dead letters that nobody has expected so far.
    pub(super) letters: RefCell<VecDeque<DeadLetter>>,
    /// A failure has said everything.
    pub(super) told: Cell<bool>,
}

impl Shared {
    /// Moves the engine's dead letters here.
    pub(super) fn collect(&self) {
        let office = DeadLetters(&self.engine.get().dead_letters);
        let mut letters = self.letters.borrow_mut();
        while let Some(letter) = office.take() {
            letters.push_back(letter);
        }
    }

    /// Dead letters that nobody expected or allowed.
    pub(super) fn unexpected(&self) -> Vec<DeadLetter> {
        self.collect();
        let allowed = self.allowed.borrow();
        let letters = self.letters.borrow();
        letters.iter().filter(|letter| !allowed.iter().any(|allows| allows(letter))).cloned().collect()
    }

    /// Fails the test.
    #[track_caller]
    pub(super) fn fail(&self, what: &str) -> ! {
        let context = self.context();
        self.told.set(true);
        panic!("{what}\n{context}")
    }

    /// What helps to find out why a test failed.
    pub(super) fn context(&self) -> String {
        self.collect();
        let mut text = format!("  at {:?} of virtual time, {}\n", self.now(), self.again());
        let letters = self.letters.borrow();
        let total = DeadLetters(&self.engine.get().dead_letters).total();
        text += &listing(&format!("{total} dead letters"), letters.iter().map(describe));
        let transcript = with(&self.transcript, |transcript| transcript.lines.clone());
        let heard = transcript.iter().map(|line| format!("{:?} {}", line.at, line.text));
        text + &listing("messages to probes", heard)
    }

    /// The seed, and how the test is run with it.
    pub(super) fn again(&self) -> String {
        let seed = self.seed;
        if self.origin == SeedOrigin::Test {
            return format!("seed {seed} (as the test says)");
        }
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main").unwrap_or_default();
        let command = format!("{SEED_VARIABLE}={seed} cargo test {test}");
        format!("seed {seed}; run it again with `{}`", command.trim_end())
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.world.now_ns())
    }
}

/// The last lines below a heading; nothing when there are none.
fn listing(heading: &str, lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = String::new();
    if lines.len() > 0 {
        let skipped = lines.len().saturating_sub(TESTKIT_REPORT_LINES);
        let last = if skipped > 0 { ", the last of them" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {heading}{last}:");
        for line in lines.skip(skipped) {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

/// A dead letter in words.
pub(super) fn describe(letter: &DeadLetter) -> String {
    let message = match letter.message {
        MessageName::Type(name) => name.to_owned(),
        MessageName::Id(id) => format!("{id:?}"),
    };
    let end = |actor: Option<ActorId>| actor.map_or_else(|| "elsewhere".to_owned(), |actor| format!("{actor:?}"));
    format!("{message} from {} to {}: {:?}", end(letter.sender), end(letter.receiver), letter.reason)
}

/// In nanoseconds, 584 years at most.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
