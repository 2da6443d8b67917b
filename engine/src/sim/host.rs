//! The simulator as host: the shards of an engine take their turns in a [`SimWorld`] instead of on threads of their own.
//!
//! Invariant: a simulated engine runs the very same shard code; only who calls `turn`, and on which driver, differs.

use std::cell::RefCell;
use std::rc::Rc;

use shardstage_codec::NodeId;

use crate::builder::{Assembly, EngineBuilder};
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::error::StartError;
use crate::link::ShardLink;
use crate::port::driver::{Driver, DriverKind};
use crate::shard::turn::Wait;
use crate::shard::{Shard, drop_contained};

use super::world::WeakWorld;
use super::{SimShard, SimWait, SimWorld};

thread_local! {
    /// The engines that worlds of this thread turn.
    static SIMULATED: RefCell<Vec<(&'static EngineLink, WeakWorld)>> = const { RefCell::new(Vec::new()) };
}

/// The world that turns the shards of `engine`, if that is one of this thread's: for those who would block until the engine
/// has done something.
pub(crate) fn world_of(engine: &'static EngineLink) -> Option<SimWorld> {
    SIMULATED.with_borrow(|all| {
        let (_, world) = all.iter().find(|(simulated, _)| std::ptr::eq(*simulated, engine))?;
        world.upgrade()
    })
}

/// Keeps an engine known to [`world_of`] until the last of its shards is gone.
struct Listed(&'static EngineLink);

impl Listed {
    fn new(engine: &'static EngineLink, world: &SimWorld) -> Rc<Self> {
        SIMULATED.with_borrow_mut(|all| all.push((engine, world.downgrade())));
        Rc::new(Self(engine))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // A thread that ends may have dropped the list before the world.
        let _ = SIMULATED.try_with(|all| {
            all.borrow_mut().retain(|(simulated, _)| !std::ptr::eq(*simulated, self.0));
        });
    }
}

/// A shard in a world. When it has stopped, or is dropped because its node went down, its queues are closed: nothing is left
/// in them, and whoever sends later is told `Closed`.
struct Simulated {
    shard: Option<Shard>,
    link: &'static ShardLink,
    listed: Option<Rc<Listed>>,
}

impl Simulated {
    /// Touches nothing of the world but wake flags.
    fn close(&mut self) {
        // Timers and closures hold values of the user's.
        drop_contained(self.shard.take());
        self.link.close();
        self.listed = None;
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.close();
    }
}

impl SimShard for Simulated {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        let Some(shard) = &mut self.shard else { return SimWait::Idle };
        match shard.turn(driver) {
            Wait::Now => SimWait::Now,
            Wait::Until(at_ns) => shard.idle_until(Some(at_ns)),
            Wait::Idle => shard.idle_until(None),
            Wait::Stopped => {
                self.close();
                SimWait::Idle
            }
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
    /// asks and statistics work as usual. What would block the calling thread (`wait()`, [`Engine::shutdown`]) runs the world
    /// until it has happened, in virtual time, if that thread made the world; [`SimWorld::block_on`] does so for any future.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// When the start of a service or the transport fails in the simulated world, with the reason.
    pub fn start_in_sim(self, world: &SimWorld, node: NodeId) -> Result<Engine, StartError> {
        let shards = self.shard_count(1)?;
        let Assembly { engine, seeds, config } = self.assemble(shards)?;
        let listed = Listed::new(engine, world);
        for seed in seeds {
            let (shard, link) = (seed.shard(), seed.link());
            let mut driver = world.driver(node, shard);
            let on_started = Box::new(move |result: Result<(), StartError>| {
                if let Err(error) = result {
                    panic!("node {node}, shard {shard}: {error}");
                }
            });
            let grown = seed.grow(&mut driver, on_started)?;
            let shard_of = Simulated { shard: Some(grown), link, listed: Some(Rc::clone(&listed)) };
            world.add_shard(node, shard, Box::new(shard_of));
        }
        Ok(Engine::of(engine, &config, DriverKind::Sim, false))
    }
}
