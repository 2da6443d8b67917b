//! Family: what an actor spawns, and whose child it is.
//!
//! Invariant: a child lives on its parent's shard and ends before it. Shard thread only, from handlers and hooks.

use crate::actor::Actor;
use crate::actor_ref::{ActorId, ActorRef};
use crate::context::Context;
use crate::envelope::EpochTag;
use crate::error::SpawnError;
use crate::shard::{ActorBox, Again, Life, Once, Spawn};

impl<A: Actor> Context<A> {
    /// Spawns a child of this actor on this shard and returns at once; it starts in its first turn. The factory is kept for rebuilds
    /// after a panic. A child stops before its parent does, and before its parent is rebuilt.
    ///
    /// # Errors
    /// [`SpawnError::Exhausted`] when the shard has no slot left, [`SpawnError::Closed`] when this actor stops.
    pub fn spawn<B, F>(&mut self, factory: F) -> Result<ActorRef<B>, SpawnError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        self.spawn_box(ActorBox::new::<B, _>(Again(factory)))
    }

    /// Like [`spawn`](Self::spawn), with a factory that works once: a panic stops the actor.
    ///
    /// # Errors
    /// [`SpawnError::Exhausted`] when the shard has no slot left.
    pub fn spawn_once<B, F>(&mut self, factory: F) -> Result<ActorRef<B>, SpawnError>
    where
        B: Actor,
        F: FnOnce() -> B + 'static,
    {
        self.spawn_box(ActorBox::new::<B, _>(Once(Some(factory))))
    }

    pub(crate) fn spawn_box<B: Actor>(&self, state: ActorBox) -> Result<ActorRef<B>, SpawnError> {
        let mut core = self.shard_cell().core.borrow_mut();
        let capacity = core.mailbox_capacity;
        let parent = self.seat().index();
        let spawn = Spawn { state, capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: Some(parent) };
        let stopping = core.cells.slot(parent).is_some_and(|cell| cell.conduct.life == Life::Stopping);
        let spawned = if stopping { Err((SpawnError::Closed, spawn)) } else { core.spawn(spawn) };
        drop(core);
        spawned
            .map(|(index, generation)| ActorRef::new(ActorId::new(self.shard_cell().link, index, generation)))
            .map_err(|(error, _)| error)
    }

    /// The actor that spawned this one; `None` for one that was spawned through the engine, and for a virtual actor.
    #[must_use]
    pub fn parent(&self) -> Option<ActorId> {
        let mut core = self.shard_cell().core.borrow_mut();
        let parent = core.cells.kin.parent(self.seat().index())?;
        let generation = core.cells.slot(parent)?.generation;
        Some(core.actor_id(parent, generation))
    }

    /// The live children of this actor, in the order in which it spawned them.
    #[must_use]
    pub fn children(&self) -> Vec<ActorId> {
        let mut core = self.shard_cell().core.borrow_mut();
        let children = core.cells.children(self.seat().index());
        children.into_iter().map(|(index, generation)| core.actor_id(index, generation)).collect()
    }
}
