//! Family: what an actor spawns, and whose child it is.
//!
//! Invariant: a child lives on its parent's shard and ends before it. What a context offers is for handlers and hooks, on the
//! shard's thread; what an engine offers is for any thread.

use crate::actor::{Actor, StopReason};
use crate::actor_ref::{ActorId, ActorRef, on_shard_of};
use crate::context::Context;
use crate::engine::Engine;
use crate::envelope::EpochTag;
use crate::error::SpawnError;
use crate::shard::{ActorBox, Again, Life, Once, Sent, Spawn};
use crate::supervision::{ChildSpec, Supervision};

impl Engine {
    /// Like [`spawn`](Self::spawn), for an actor that is looked after in another way than by default: with a window or a backoff of
    /// its own, or a function that decides. When it fails more often than that allows, it stops.
    ///
    /// # Errors
    /// [`SpawnError::Closed`] while the engine shuts down.
    pub fn spawn_supervised<A, F>(&self, policy: Supervision, factory: F) -> Result<ActorRef<A>, SpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        let link = self.link.link(self.link.next_shard());
        let (index, generation) = link.take_index()?;
        let capacity = self.mailbox_capacity;
        let id = ActorId::new(link, index, generation);
        on_shard_of(id, move |shard| {
            let state = ActorBox::new::<A, _>(Sent(Again(factory)));
            let spawn = Spawn { state, capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
            let mut core = shard.core.borrow_mut();
            let refused = core.spawn_at(index, generation, spawn);
            if let Some(cell) = core.cells.get(index, generation) {
                cell.extra().policy = Some(Box::new(policy));
            }
            drop(core);
            drop(refused);
        });
        Ok(ActorRef::new(id))
    }
}

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

    /// Like [`spawn`](Self::spawn), for a child that is looked after in another way: restarted always or never, or one whose end
    /// ends this actor too.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_with<B, F>(&mut self, spec: ChildSpec, factory: F) -> Result<ActorRef<B>, SpawnError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        let child = self.spawn_box(ActorBox::new::<B, _>(Again(factory)))?;
        if spec != ChildSpec::default() {
            let mut core = self.shard_cell().core.borrow_mut();
            core.cells.slot(child.id().index()).expect("just spawned").extra().spec = spec;
        }
        Ok(child)
    }

    /// Ends a child for good, also one that is restarted always; nothing happens if it is no live child of this actor. What it
    /// has queued goes to the dead letters; it stops with [`StopReason::ParentStopped`].
    pub fn stop_child(&mut self, child: impl Into<ActorId>) {
        let child = child.into();
        let is_mine = {
            let core = self.shard_cell().core.borrow();
            std::ptr::eq(child.link(), self.shard_cell().link)
                && core.cells.peek(child.index(), child.generation()).is_some()
                && core.cells.kin.parent(child.index()) == Some(self.seat().index())
        };
        if is_mine {
            self.shard_cell().request_stop(child.index(), child.generation(), StopReason::ParentStopped);
        }
    }

    /// Keeps what this actor says about its children.
    pub(crate) fn supervise(&mut self, policy: Supervision) {
        let mut core = self.shard_cell().core.borrow_mut();
        let cell = core.cells.slot(self.seat().index()).expect("a running actor keeps its cell");
        cell.extra().supervisor.get_or_insert_default().policy = policy;
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
