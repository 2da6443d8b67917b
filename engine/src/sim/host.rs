//! The simulator as host: the shards of an engine take their turns in a [`SimWorld`] instead of on threads of their own.
//!
//! Invariant: a simulated engine runs the very same shard code; only who calls `turn`, and on which driver, differs.

use shardstage_codec::NodeId;

use crate::builder::{Assembly, EngineBuilder};
use crate::engine::Engine;
use crate::error::StartError;
use crate::port::driver::{Driver, DriverKind};
use crate::shard::Shard;
use crate::shard::turn::Wait;

use super::{SimShard, SimWait, SimWorld};

impl SimShard for Shard {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        match Self::turn(self, driver) {
            Wait::Now => SimWait::Now,
            Wait::Until(at_ns) => self.idle_until(Some(at_ns)),
            Wait::Idle | Wait::Stopped => self.idle_until(None),
        }
    }
}

impl Shard {
    /// Parks in the simulated way: the wake flag of the driver ends it.
    fn idle_until(&mut self, at_ns: Option<u64>) -> SimWait {
        if !self.prepare_park() {
            return SimWait::Now;
        }
        at_ns.map_or(SimWait::Idle, SimWait::Until)
    }
}

impl EngineBuilder {
    /// Puts the engine's shards into `world` as node `node` and returns at once; they start as the world runs. References,
    /// asks (through [`SimWorld::block_on`]) and statistics work as usual. Shut it down with
    /// [`Engine::begin_stop`] and run the world; [`Engine::shutdown`] would wait for turns that nobody takes.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// When the start of a service or the transport fails in the simulated world, with the reason.
    pub fn start_in_sim(self, world: &SimWorld, node: NodeId) -> Result<Engine, StartError> {
        let shards = self.shard_count(1)?;
        let Assembly { engine, seeds, config } = self.assemble(shards)?;
        for seed in seeds {
            let shard = seed.shard();
            let mut driver = world.driver(node, shard);
            let on_started = Box::new(move |result: Result<(), StartError>| {
                if let Err(error) = result {
                    panic!("node {node}, shard {shard}: {error}");
                }
            });
            let grown = seed.grow(&mut driver, on_started)?;
            world.add_shard(node, shard, Box::new(grown));
        }
        Ok(Engine::of(engine, &config, DriverKind::Sim, false))
    }
}
