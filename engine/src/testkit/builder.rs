//! `TestKitBuilder`: the seed, the shards, and what else an engine under test consists of; many seeds for one test.
//!
//! Invariant: which seed a test runs with is said by the test, or by `SHARDSTAGE_SEED`, or is 1: never by chance, so that a
//! test that passed passes again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::builder::EngineBuilder;
use crate::config::Config;
use crate::error::Panicked;
use crate::limits::{TESTKIT_PATIENCE, TESTKIT_SHARDS};
use crate::sim::SimOptions;

use super::TestKit;

/// The environment variable with the seed.
pub(super) const SEED_VARIABLE: &str = "SHARDSTAGE_SEED";

/// Who chose the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeedOrigin {
    /// The test's text.
    Test,
    /// The environment, the default or a range: the environment can choose it again.
    Outside,
}

/// What a user's closure makes of the engine's description, again after each restart.
pub(super) type Describe = Rc<dyn Fn(EngineBuilder) -> EngineBuilder>;

/// Describes a [`TestKit`] before it starts.
#[must_use = "nothing is there before `start` or `check_seeds`"]
#[derive(Clone)]
pub struct TestKitBuilder {
    pub(super) seed: Option<u64>,
    pub(super) shards: u16,
    pub(super) patience: Duration,
    pub(super) options: Option<SimOptions>,
    pub(super) describe: Describe,
    pub(super) origin: SeedOrigin,
    explores: bool,
}

impl TestKitBuilder {
    pub(super) fn new() -> Self {
        Self {
            seed: None,
            shards: TESTKIT_SHARDS,
            patience: TESTKIT_PATIENCE,
            options: None,
            describe: Rc::new(|engine| engine),
            origin: SeedOrigin::Outside,
            explores: false,
        }
    }

    /// Runs with this seed, whatever the environment says.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self.origin = SeedOrigin::Test;
        self
    }

    /// How many shards the engine has: 2 unless said.
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// How long probes wait for what a test expects, in virtual time: 3 s unless said.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Adds to the engine what its program would: `.engine(|engine| engine.register::<Account>(..).service(store.clone()))`.
    /// Called again for each restart of the engine ([`TestKit::power_loss`]).
    pub fn engine(mut self, describe: impl Fn(EngineBuilder) -> EngineBuilder + 'static) -> Self {
        let before = self.describe;
        self.describe = Rc::new(move |engine| describe(before(engine)));
        self
    }

    /// How the simulated world behaves, such as its disks; its seed is replaced by the kit's. What is not said here costs little
    /// and varies little: see [`SimOptions::seeded`].
    pub fn options(mut self, options: SimOptions) -> Self {
        self.options = Some(options);
        self
    }

    /// Starts the engine.
    ///
    /// # Panics
    /// When the engine's description is refused, or `SHARDSTAGE_SEED` is not a number.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> TestKit {
        let seed = self.seed.or_else(seed_of_environment).unwrap_or(1);
        TestKit::of(self, seed)
    }

    /// Runs `test` with each seed, or only with that of `SHARDSTAGE_SEED` where it is set. Each seed draws its own delays of
    /// wakes and costs of messages, up to milliseconds, so actors of different shards meet in another order each time. What a
    /// kit checks at its end is checked for each.
    ///
    /// # Panics
    /// When `test` panics or a kit finds something at its end: names the seed.
    #[track_caller]
    pub fn check_seeds(self, seeds: impl IntoIterator<Item = u64>, test: impl Fn(&mut TestKit)) {
        let chosen = seed_of_environment();
        let seeds: Vec<u64> = chosen.map_or_else(|| seeds.into_iter().collect(), |seed| vec![seed]);
        let mut failed = None;
        for (passed, seed) in seeds.iter().enumerate() {
            if let Err(why) = self.run(*seed, &test) {
                failed = Some((passed, *seed, why));
                break;
            }
        }
        if let Some((passed, seed, why)) = failed {
            panic!("seed {seed} fails, after {passed} that passed: {why}");
        }
    }

    /// Runs `test` twice with the same seed and compares the traces.
    ///
    /// # Panics
    /// When they differ: the test, or an actor, depends on something that the seed does not decide, such as the time of day or
    /// the order of a default-hashed map. Also when `test` panics.
    #[track_caller]
    pub fn check_replay(self, seed: u64, test: impl Fn(&mut TestKit)) {
        let outcome = self.run(seed, &test).and_then(|first| Ok((first, self.run(seed, &test)?)));
        match outcome {
            Ok((first, second)) if first == second => {}
            Ok(_) => {
                panic!("seed {seed}: two runs went different ways, so something but the seed decides what happens")
            }
            Err(why) => panic!("seed {seed} fails: {why}"),
        }
    }

    /// One run among others; the hash of its trace, or why it failed.
    fn run(&self, seed: u64, test: &impl Fn(&mut TestKit)) -> Result<u64, String> {
        let run = || {
            let mut kit = TestKit::of(Self { explores: true, origin: SeedOrigin::Outside, ..self.clone() }, seed);
            test(&mut kit);
            kit.end();
            kit.trace_hash()
        };
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Panicked::from_payload(&*panic).0.into())
    }

    /// The world's options for this seed. Clocks neither drift nor start apart: a timer of a minute takes a minute.
    pub(super) fn world(&self, seed: u64) -> SimOptions {
        let options = match &self.options {
            Some(options) => return SimOptions { seed, ..options.clone() },
            None if self.explores => SimOptions::swarm(seed),
            None => SimOptions::seeded(seed),
        };
        SimOptions { drift_ppm: 0, skew_ns: 0, ..options }
    }

    pub(super) fn config(&self) -> Config {
        Config { shards: Some(self.shards), ..Config::default() }
    }
}

/// The seed that the environment names.
///
/// # Panics
/// When it is not a number.
#[track_caller]
fn seed_of_environment() -> Option<u64> {
    let text = std::env::var(SEED_VARIABLE).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text}: a seed is a number")))
}

impl std::fmt::Debug for TestKitBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestKitBuilder(seed {:?}, {} shards)", self.seed, self.shards)
    }
}
