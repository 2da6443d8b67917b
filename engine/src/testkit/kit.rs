//! `TestKit`: an engine on virtual time, the test's way to let that time pass, and what is checked at its end.
//!
//! Invariant: nothing happens in the engine but while a method of the kit, of one of its probes, or a `wait()` of the test's
//! runs it. For one test's thread.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use shardstage_codec::NodeId;

use crate::builder::EngineBuilder;
use crate::dead_letter::DeadLetter;
use crate::engine::Engine;
use crate::limits::{TESTKIT_BLOCK, TESTKIT_IDLE_STEPS};
use crate::message::Message;
use crate::sim::{SimOptions, SimWorld};

use super::builder::{Describe, TestKitBuilder};
use super::probe::Probe;
use super::report::{Shared, describe, nanos, with};

/// The kit's one node.
const NODE: NodeId = NodeId::new(0);

/// An engine on virtual time, in the test's own thread. It is an [`Engine`]: what takes a `&Engine` takes a `&TestKit`, and
/// `spawn`, `actor`, `stats` and the rest work as ever. `wait()` on what they return runs the engine until it is there.
///
/// When it is dropped, a test that has not failed yet fails if messages became dead letters or handlers panicked that were not
/// expected: see [`finish`](Self::finish).
pub struct TestKit {
    engine: Engine,
    pub(super) shared: Rc<Shared>,
    describe: Describe,
    config: crate::config::Config,
    /// Panics of engines that ended in a restart.
    earlier_panics: u64,
    /// Planted faults that have not been counted as expected panics.
    pub(super) planted: RefCell<Vec<std::sync::Arc<std::sync::atomic::AtomicBool>>>,
    checked: bool,
}

/// Starting.
impl TestKit {
    /// An engine of two shards with nothing on it. The seed is that of `SHARDSTAGE_SEED`, or 1.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// The same with this seed.
    #[must_use]
    #[track_caller]
    pub fn with_seed(seed: u64) -> Self {
        Self::builder().seed(seed).start()
    }

    /// Describes a kit: seed, shards, services, virtual actor types.
    pub fn builder() -> TestKitBuilder {
        TestKitBuilder::new()
    }

    /// See [`TestKitBuilder::check_seeds`].
    ///
    /// # Panics
    /// When a seed fails: names it.
    #[track_caller]
    pub fn check_seeds(seeds: impl IntoIterator<Item = u64>, test: impl Fn(&mut Self)) {
        Self::builder().check_seeds(seeds, test);
    }

    #[track_caller]
    pub(super) fn of(builder: TestKitBuilder, seed: u64) -> Self {
        let world = SimWorld::new(builder.world(seed));
        let config = builder.config();
        let engine = start(&world, &builder.describe, &config);
        let shared = Rc::new(Shared {
            engine: Cell::new(engine.link),
            seed,
            origin: builder.origin,
            patience: builder.patience,
            world,
            probes: RefCell::default(),
            transcript: Default::default(),
            allowed: RefCell::default(),
            panics_allowed: Cell::new(false),
            letters: RefCell::default(),
            told: Cell::new(false),
        });
        let TestKitBuilder { describe, .. } = builder;
        let planted = RefCell::default();
        Self { engine, shared, describe, config, earlier_panics: 0, planted, checked: false }
    }
}

#[track_caller]
fn start(world: &SimWorld, describe: &Describe, config: &crate::config::Config) -> Engine {
    let builder: EngineBuilder = describe(Engine::builder().config(config.clone()));
    let engine = builder.start_in_sim(world, NODE);
    let engine = engine.unwrap_or_else(|error| panic!("the engine under test does not start: {error}"));
    settle(world);
    engine
}

/// Runs until nothing happens without the passing of time; whether it came to that.
fn settle(world: &SimWorld) -> bool {
    world.run_until_idle(TESTKIT_IDLE_STEPS)
}

/// Time.
impl TestKit {
    /// How much virtual time has passed since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Lets everything happen that needs no waiting: messages, replies and disk calls under way, and what follows from them.
    /// Timers and deadlines stay where they are.
    ///
    /// # Panics
    /// When it does not come to an end, as with an actor that keeps telling itself something.
    #[track_caller]
    pub fn run_until_idle(&self) {
        if !settle(&self.shared.world) {
            let census = self.census();
            let busy: Vec<_> = census.actors.iter().filter(|actor| actor.queued > 0).collect();
            self.shared.fail(&format!("no quiet after {TESTKIT_IDLE_STEPS} steps; actors with messages: {busy:?}"));
        }
    }

    /// Lets time pass: what is under way happens first, then everything that is due meanwhile, then what follows from it. Takes a
    /// few virtual microseconds more than said, so that a timer of a minute has fired after `advance` of a minute.
    ///
    /// # Panics
    /// As [`run_until_idle`](Self::run_until_idle).
    #[track_caller]
    pub fn advance(&self, time: Duration) {
        self.run_until_idle();
        self.shared.world.run_for(nanos(time));
        self.run_until_idle();
    }

    /// Runs the engine until the future is ready: an ask, or several in an `async` block.
    ///
    /// # Panics
    /// When it is not ready after 60 s of virtual time, or nothing is left to happen before.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.world.block_on(future, nanos(TESTKIT_BLOCK)).unwrap_or_else(|| {
            self.shared.fail(&format!("the future is not ready after {TESTKIT_BLOCK:?} of virtual time"))
        })
    }

    /// Runs the engine until `done` holds, for the kit's patience at most.
    ///
    /// # Panics
    /// When it does not hold by then.
    #[track_caller]
    pub fn run_until(&self, mut done: impl FnMut() -> bool) {
        let patience = self.shared.patience;
        if !self.shared.world.run_until(|_| done(), nanos(patience)) {
            self.shared.fail(&format!("what the test waits for did not happen within {patience:?} of virtual time"));
        }
    }
}

/// Looking.
impl TestKit {
    /// An actor that takes messages of type `M` and shows them to the test.
    #[must_use]
    #[track_caller]
    pub fn probe<M: Message + std::fmt::Debug>(&self) -> Probe<M> {
        Probe::spawn(&self.engine, &self.shared)
    }

    /// What all probes have got so far, in one order: `probe: message` each.
    #[must_use]
    pub fn transcript(&self) -> Vec<String> {
        with(&self.shared.transcript, |all| all.lines.iter().map(|line| line.text.clone()).collect())
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// A hash of everything that happened: which shard turned when, and how much each handled. Same seed, same test, same
    /// build: same hash.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.shared.world.trace_hash()
    }

    /// The world in which the engine lives, for faults of disk and clock. The engine is node 0.
    #[must_use]
    pub fn world(&self) -> &SimWorld {
        &self.shared.world
    }

    /// All options of the world: with the seed, what a run can be repeated from.
    #[must_use]
    pub fn options(&self) -> SimOptions {
        self.shared.world.options()
    }

    /// The engine under test.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// Restarts.
impl TestKit {
    /// The node loses power, with what its disk had not made durable, and its engine starts again on the rest. References and
    /// probes of before are `Closed`.
    ///
    /// # Panics
    /// When the engine does not start again.
    #[track_caller]
    pub fn power_loss(&mut self) {
        self.restart(SimWorld::crash);
    }

    /// The process is killed and starts again: what was written to the disk is there, synced or not.
    ///
    /// # Panics
    /// When the engine does not start again.
    #[track_caller]
    pub fn sigkill(&mut self) {
        self.restart(SimWorld::kill);
    }

    #[track_caller]
    fn restart(&mut self, end: impl FnOnce(&SimWorld, NodeId)) {
        self.shared.collect();
        self.earlier_panics += self.panics();
        end(&self.shared.world, NODE);
        self.shared.probes.borrow_mut().clear();
        self.engine = start(&self.shared.world, &self.describe, &self.config);
        self.shared.engine.set(self.engine.link);
    }
}

/// What is checked at the end.
impl TestKit {
    /// Dead letters for which `allows` holds are expected: `kit.allow_dead_letters(|letter| letter.reason == Reason::Closed)`.
    pub fn allow_dead_letters(&self, allows: impl Fn(&DeadLetter) -> bool + 'static) {
        self.shared.allowed.borrow_mut().push(Box::new(allows));
    }

    /// Waits for a dead letter for which `is` holds, and takes it out of those that nobody expected.
    ///
    /// # Panics
    /// When none comes within the kit's patience.
    #[track_caller]
    pub fn expect_dead_letter(&self, mut is: impl FnMut(&DeadLetter) -> bool) -> DeadLetter {
        let shared = &self.shared;
        let mut found = None;
        let mut look = |_: &SimWorld| {
            shared.collect();
            let position = shared.letters.borrow().iter().position(&mut is);
            found = position.and_then(|position| shared.letters.borrow_mut().remove(position));
            found.is_some()
        };
        shared.world.run_until(&mut look, nanos(shared.patience));
        found.unwrap_or_else(|| {
            shared.fail(&format!("no such dead letter within {:?} of virtual time", shared.patience))
        })
    }

    /// Handlers may panic in this test. Panics that the kit itself planted are expected anyway.
    pub fn allow_panics(&self) {
        self.shared.panics_allowed.set(true);
    }

    /// Ends the test: runs until idle and looks for what nobody expected. Dropping the kit does the same.
    ///
    /// # Panics
    /// When messages became dead letters that were neither [expected](Self::expect_dead_letter) nor
    /// [allowed](Self::allow_dead_letters), or handlers panicked without [leave](Self::allow_panics).
    #[track_caller]
    pub fn finish(mut self) {
        self.end();
    }

    #[track_caller]
    pub(super) fn end(&mut self) {
        self.checked = true;
        // An engine that never comes to rest has what it has.
        settle(&self.shared.world);
        let (letters, panics) = (self.shared.unexpected(), self.unexpected_panics());
        if letters.is_empty() && panics == 0 {
            return;
        }
        let mut wrong = Vec::new();
        if let Some(letter) = letters.first() {
            let more = if letters.len() > 1 { format!(" and {} more", letters.len() - 1) } else { String::new() };
            wrong.push(format!("a dead letter that nobody expected: {}{more}", describe(letter)));
        }
        if panics > 0 {
            wrong.push(format!("{panics} panics of actors that nobody expected (their texts are above)"));
        }
        self.shared.fail(&format!("at its end the test left {}", wrong.join(", and ")));
    }

    /// Panics of user code in this engine, as of its last turns.
    fn panics(&self) -> u64 {
        self.engine.stats().iter().map(|shard| shard.panics).sum()
    }

    fn unexpected_panics(&self) -> u64 {
        if self.shared.panics_allowed.get() {
            return 0;
        }
        let fired =
            self.planted.borrow().iter().filter(|fault| fault.load(std::sync::atomic::Ordering::Relaxed)).count();
        (self.earlier_panics + self.panics()).saturating_sub(fired as u64)
    }
}

impl Deref for TestKit {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Default for TestKit {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestKit {
    fn drop(&mut self) {
        let wrong = if std::thread::panicking() {
            if !self.shared.told.get() {
                eprintln!("the test kit\n{}", self.shared.context());
            }
            None
        } else if self.checked {
            None
        } else {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end())).err()
        };
        // Actors and queues go even where a probe still keeps the world.
        self.shared.world.kill(NODE);
        if let Some(wrong) = wrong {
            std::panic::resume_unwind(wrong);
        }
    }
}

impl std::fmt::Debug for TestKit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestKit(seed {}, {:?})", self.shared.seed, self.shared.now())
    }
}
