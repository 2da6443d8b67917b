//! Hosts: runtimes that the user already has, inside which a shard takes its turns.
//!
//! Invariant: a hosted shard is the very same shard on the same driver; only who calls `turn`, and who sleeps, differs. It is
//! made on the thread that will turn it, so a [`HostedShard`] may be sent there, and nothing of what it grows into leaves.

pub mod tokio;

use std::sync::Arc;

use shardstage_codec::ShardId;

use crate::actor::StopReason;
use crate::builder::{Assembly, EngineBuilder};
use crate::driver::RealDriverFactory;
use crate::engine::Engine;
use crate::error::StartError;
use crate::latch::{Latch, LatchGuard};
use crate::link::ShardLink;
use crate::port::driver::{Driver, DriverFactory};
use crate::seed::ShardSeed;
use crate::shard::{Shard, drop_contained};

/// One shard of an engine that waits for a host to run it. Dropping it closes the shard: sends to it are `Closed`.
pub struct HostedShard {
    seed: Option<ShardSeed>,
    drivers: Arc<RealDriverFactory>,
    end: Arc<End>,
}

/// Tells the engine that a hosted shard is gone, whatever the reason.
pub(crate) struct End {
    link: &'static ShardLink,
    /// Set when it is dropped.
    _ended: LatchGuard<StopReason>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// A shard on its host's thread. The end is told after shard and driver are dropped.
pub(crate) struct Grown {
    pub(crate) shard: Option<Shard>,
    pub(crate) driver: Box<dyn Driver>,
    _end: Arc<End>,
}

impl Drop for Grown {
    fn drop(&mut self) {
        // Timers and closures hold values of the user's.
        drop_contained(self.shard.take());
    }
}

impl HostedShard {
    /// Which shard of its engine it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.end.link.shard()
    }

    /// Grows into a shard on the calling thread.
    pub(crate) fn grow(mut self, on_started: Box<dyn FnOnce(Result<(), StartError>)>) -> Result<Grown, StartError> {
        let mut driver = self.drivers.make(self.shard()).map_err(StartError::Driver)?;
        let seed = self.seed.take().expect("a seed grows once");
        let shard = seed.grow(&mut *driver, on_started)?;
        Ok(Grown { shard: Some(shard), driver, _end: Arc::clone(&self.end) })
    }
}

impl std::fmt::Debug for HostedShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostedShard({})", self.shard())
    }
}

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
        let (config, cpus) = (self.configuration().clone(), crate::driver::available_cpus());
        let drivers = Arc::new(RealDriverFactory::new(config.driver).map_err(StartError::Driver)?);
        let shards = self.shard_count(cpus.len())?;
        let Assembly { engine, seeds, config } = self.assemble(shards)?;
        let mut built = Engine::of(engine, &config, drivers.kind(), false);
        let hosted = seeds
            .into_iter()
            .map(|seed| {
                let ended = Latch::new();
                built.hosted.push(Arc::clone(&ended));
                let end = End { link: seed.link(), _ended: LatchGuard::new(ended, StopReason::Shutdown) };
                HostedShard { seed: Some(seed), drivers: Arc::clone(&drivers), end: Arc::new(end) }
            })
            .collect();
        Ok((built, hosted))
    }
}
