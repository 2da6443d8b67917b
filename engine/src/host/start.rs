//! Engines whose shards run in hosts: handed out one by one, or each on a thread that the user makes.
//!
//! Invariant: an engine knows of every hosted shard when it ended, also of one that never ran.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{End, HostedShard};
use crate::actor::StopReason;
use crate::builder::{Assembly, EngineBuilder};
use crate::driver::RealDriverFactory;
use crate::engine::Engine;
use crate::error::StartError;
use crate::latch::{Latch, LatchGuard};
use crate::port::driver::DriverFactory;

type Started = Arc<Latch<bool>>;

impl EngineBuilder {
    /// Builds an engine whose shards run inside other runtimes: one [`HostedShard`] for each, to be sent to its thread and run
    /// there. Messages sent before a shard runs are refused as `Closed`. `idle` and `pin` of the configuration do not apply.
    ///
    /// [`Engine::shutdown`], called from a thread that hosts no shard, drains as usual and waits until every hosted shard has
    /// ended. Dropping the engine only asks them to stop.
    ///
    /// # Errors
    /// See [`StartError`]; what a shard's own start refuses comes from its host.
    pub fn build_hosted(self) -> Result<(Engine, Vec<HostedShard>), StartError> {
        self.hosted().map(|(engine, shards, _)| (engine, shards))
    }

    /// Starts an engine with each shard in a runtime on a thread of its own: `spawn` makes the thread, and the runtime there runs
    /// the shard. Returns when every service and transport has started. `idle` and `pin` of the configuration do not apply.
    ///
    /// The engine owns the threads, as it owns those that it makes itself: [`Engine::shutdown`] drains and joins them, dropping
    /// it stops the shards and joins them.
    ///
    /// ```no_run
    /// # #[cfg(feature = "host-tokio")]
    /// # fn main() -> shardstage::Result<()> {
    /// use shardstage::prelude::*;
    ///
    /// let engine = Engine::builder().start_hosted(|shard| {
    ///     std::thread::Builder::new().spawn(move || {
    ///         let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    ///         runtime.map_err(shardstage::StartError::Thread)?.block_on(shardstage::host::tokio::run(shard))
    ///     })
    /// })?;
    /// engine.shutdown()
    /// # }
    /// # #[cfg(not(feature = "host-tokio"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub fn start_hosted(
        self,
        mut spawn: impl FnMut(HostedShard) -> io::Result<JoinHandle<Result<(), StartError>>>,
    ) -> Result<Engine, StartError> {
        let (mut engine, shards, started) = self.hosted()?;
        engine.owns_threads = true;
        let mut refused = None;
        for shard in shards {
            match spawn(shard) {
                Ok(thread) => engine.threads.push(thread),
                Err(error) => {
                    refused = Some(StartError::Thread(error));
                    break;
                }
            }
        }
        // All of them, whatever the first says: a shard that has not come up yet cannot be told to stop.
        let failed = started.iter().filter(|started| !started.wait()).count();
        if failed == 0 {
            return Ok(engine);
        }
        engine.begin_stop();
        let ends: Vec<_> = engine.threads.drain(..).map(JoinHandle::join).collect();
        let why = refused.or_else(|| ends.into_iter().find_map(|end| end.unwrap_or(Ok(())).err()));
        let gone = || StartError::Thread(io::Error::other("a host went away before its shard had started"));
        Err(why.unwrap_or_else(gone))
    }

    fn hosted(self) -> Result<(Engine, Vec<HostedShard>, Vec<Started>), StartError> {
        let (config, cpus) = (self.configuration().clone(), crate::driver::available_cpus());
        let drivers = Arc::new(RealDriverFactory::new(config.driver).map_err(StartError::Driver)?);
        let shards = self.shard_count(cpus.len())?;
        let Assembly { engine, seeds, config } = self.assemble(shards)?;
        let mut built = Engine::of(engine, &config, drivers.kind(), false);
        built.watch(&config)?;
        let mut starts = Vec::new();
        let hosted = seeds
            .into_iter()
            .map(|seed| {
                let (ended, started) = (Latch::new(), Latch::new());
                built.hosted.push(Arc::clone(&ended));
                starts.push(Arc::clone(&started));
                HostedShard {
                    end: End { link: seed.link(), _ended: LatchGuard::new(ended, StopReason::Shutdown) },
                    seed,
                    drivers: Arc::clone(&drivers),
                    started: LatchGuard::new(started, false),
                }
            })
            .collect();
        Ok((built, hosted, starts))
    }
}
