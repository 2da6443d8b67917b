//! Giving and finding names, from threads and from handlers.
//!
//! Invariant: an entry of the table is noted in its actor's cell, so that the actor's end takes it away; on another shard the
//! note is a request that runs before every later request to stop the actor.

use crate::actor::Actor;
use crate::actor_ref::{ActorId, ActorRef, on_shard_of};
use crate::context::Context;
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::envelope::EpochTag;
use crate::error::SpawnError;
use crate::key::Key;
use crate::shard::{ActorBox, Again, Sent, ShardCell, Spawn, current};

use super::error::{GetOrSpawnError, LookupError, RegisterError};
use super::table::{Holder, Named};

impl Engine {
    /// Gives an actor a name, by which [`lookup`](Self::lookup) finds it until it has stopped. An actor may have several.
    ///
    /// A short lock; the note in an actor of another shard is made there afterwards. An actor that has stopped by then loses the
    /// name again.
    ///
    /// # Errors
    /// [`RegisterError::Taken`], [`RegisterError::OtherEngine`]; [`RegisterError::Closed`] where the actor's end is known.
    pub fn register<A: Actor>(&self, name: impl Into<Key>, actor: ActorRef<A>) -> Result<(), RegisterError> {
        register(self.link, &name.into(), actor)
    }

    /// Takes a name from its actor, which goes on; returns who had it.
    pub fn unregister(&self, name: impl Into<Key>) -> Option<ActorId> {
        unregister(self.link, &name.into())
    }

    /// Finds the actor of that name. A short lock and a look into a sorted map; keep the reference rather than looking it up for
    /// each message.
    ///
    /// An actor has its name until its state has been dropped, so one that is about to stop is found and refuses messages.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn lookup<A: Actor>(&self, name: impl AsRef<str>) -> Result<ActorRef<A>, LookupError> {
        lookup(self.link, name.as_ref())
    }

    /// Every name that is given, in the order of their texts.
    #[must_use]
    pub fn names(&self) -> Vec<Named> {
        self.link.names.all()
    }

    /// Spawns an actor on the next shard in turn, under a name. Nothing is spawned when the name is taken.
    ///
    /// # Errors
    /// [`RegisterError::Taken`], [`RegisterError::Closed`], [`RegisterError::Exhausted`].
    pub fn spawn_named<A, F>(&self, name: impl Into<Key>, factory: F) -> Result<ActorRef<A>, RegisterError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        let claimed = self.spawn_or_find::<A, F>(&name.into(), factory)?;
        claimed.map_err(taken)
    }

    /// Finds the actor of that name, or spawns it on the next shard in turn. However many threads and shards do so at once,
    /// one actor is spawned and all get its reference.
    ///
    /// # Errors
    /// See [`GetOrSpawnError`].
    pub fn get_or_spawn<A, F>(&self, name: impl Into<Key>, factory: F) -> Result<ActorRef<A>, GetOrSpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        found_or_spawned(self.spawn_or_find::<A, F>(&name.into(), factory))
    }

    fn spawn_or_find<A, F>(&self, name: &Key, factory: F) -> Result<Result<ActorRef<A>, Holder>, SpawnError>
    where
        A: Actor,
        F: Fn() -> A + Send + 'static,
    {
        let link = self.link.link(self.link.next_shard());
        let claimed = self.link.names.claim(name, || {
            let (index, generation) = link.take_index()?;
            Ok::<_, SpawnError>(Holder::of::<A>(ActorId::new(link, index, generation)))
        })?;
        let id = match claimed {
            Ok(holder) => holder.id,
            Err(holder) => return Ok(Err(holder)),
        };
        let capacity = self.mailbox_capacity;
        let note = Note::new(name, id);
        on_shard_of(id, move |shard| {
            let state = ActorBox::new::<A, _>(Sent(Again(factory)));
            let spawn = Spawn { state, capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
            let refused = shard.core.borrow_mut().spawn_at(id.index(), id.generation(), spawn);
            note.write(shard);
            drop(refused);
        });
        Ok(Ok(ActorRef::new(id)))
    }
}

impl<A: Actor> Context<A> {
    /// Gives an actor a name: `cx.register("lobby", cx.me())`. See [`Engine::register`].
    ///
    /// # Errors
    /// [`RegisterError::Taken`], [`RegisterError::OtherEngine`]; [`RegisterError::Closed`] where the actor's end is known.
    pub fn register<B: Actor>(&self, name: impl Into<Key>, actor: ActorRef<B>) -> Result<(), RegisterError> {
        register(self.engine(), &name.into(), actor)
    }

    /// Takes a name from its actor, which goes on; returns who had it.
    pub fn unregister(&self, name: impl Into<Key>) -> Option<ActorId> {
        unregister(self.engine(), &name.into())
    }

    /// Finds the actor of that name. See [`Engine::lookup`] for the cost.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn lookup<B: Actor>(&self, name: impl AsRef<str>) -> Result<ActorRef<B>, LookupError> {
        lookup(self.engine(), name.as_ref())
    }

    /// Spawns an actor on this shard, under a name. Nothing is spawned when the name is taken.
    ///
    /// # Errors
    /// [`RegisterError::Taken`], [`RegisterError::Closed`], [`RegisterError::Exhausted`].
    pub fn spawn_named<B, F>(&mut self, name: impl Into<Key>, factory: F) -> Result<ActorRef<B>, RegisterError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        let claimed = self.spawn_or_find::<B, F>(&name.into(), factory)?;
        claimed.map_err(taken)
    }

    /// Finds the actor of that name, or spawns it on this shard. However many threads and shards do so at once, one actor is
    /// spawned and all get its reference.
    ///
    /// # Errors
    /// See [`GetOrSpawnError`].
    pub fn get_or_spawn<B, F>(&mut self, name: impl Into<Key>, factory: F) -> Result<ActorRef<B>, GetOrSpawnError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        found_or_spawned(self.spawn_or_find::<B, F>(&name.into(), factory))
    }

    fn spawn_or_find<B, F>(&mut self, name: &Key, factory: F) -> Result<Result<ActorRef<B>, Holder>, SpawnError>
    where
        B: Actor,
        F: Fn() -> B + 'static,
    {
        let shard = self.shard_cell();
        let mut state = Some(ActorBox::new::<B, _>(Again(factory)));
        let claimed = self.engine().names.claim(name, || {
            let state = state.take().expect("claimed once");
            let mut core = shard.core.borrow_mut();
            let capacity = core.mailbox_capacity;
            let spawn = Spawn { state, capacity, identity: None, epoch: EpochTag::BY_GENERATION, parent: None };
            let (index, generation) = core.spawn(spawn)?;
            let cell = core.cells.get(index, generation).expect("just spawned");
            cell.extra().names.push(name.clone());
            // What a refused spawn hands back is dropped by the caller, outside the lock.
            Ok::<_, (SpawnError, Spawn)>(Holder::of::<B>(ActorId::new(shard.link, index, generation)))
        });
        match claimed {
            Ok(claimed) => Ok(claimed.map(|holder| ActorRef::new(holder.id))),
            Err((error, refused)) => {
                drop(refused);
                Err(error)
            }
        }
    }

    pub(crate) fn engine(&self) -> &'static EngineLink {
        self.shard_cell().link.engine()
    }
}

fn taken(holder: Holder) -> RegisterError {
    RegisterError::Taken { holder: holder.id, holder_type: holder.type_name }
}

fn found_or_spawned<A: Actor>(
    claimed: Result<Result<ActorRef<A>, Holder>, SpawnError>,
) -> Result<ActorRef<A>, GetOrSpawnError> {
    match claimed {
        Ok(Ok(spawned)) => Ok(spawned),
        Ok(Err(holder)) => holder.typed::<A>().map_err(|error| match error {
            LookupError::WrongType { wanted, found } => GetOrSpawnError::WrongType { wanted, found },
            LookupError::NotFound => unreachable!("it was found"),
        }),
        Err(error) => Err(GetOrSpawnError::Spawn(error)),
    }
}

fn lookup<A: Actor>(engine: &'static EngineLink, name: &str) -> Result<ActorRef<A>, LookupError> {
    engine.names.get(name).ok_or(LookupError::NotFound)?.typed::<A>()
}

fn register<A: Actor>(engine: &'static EngineLink, name: &Key, actor: ActorRef<A>) -> Result<(), RegisterError> {
    let id = actor.id();
    if !std::ptr::eq(id.link().engine(), engine) {
        return Err(RegisterError::OtherEngine);
    }
    let here = current(|shard| shard.is_some_and(|shard| std::ptr::eq(shard.link, id.link())));
    if here && !lives_here(id) {
        return Err(RegisterError::Closed);
    }
    let claimed = engine.names.claim(name, || Ok::<_, RegisterError>(Holder::of::<A>(id)))?;
    claimed.map_err(taken)?;
    let note = Note::new(name, id);
    on_shard_of(id, move |shard| note.write(shard));
    Ok(())
}

/// Whether an actor of the calling thread's shard is alive.
fn lives_here(id: ActorId) -> bool {
    current(|shard| shard.is_some_and(|shard| shard.core.borrow().cells.peek(id.index(), id.generation()).is_some()))
}

fn unregister(engine: &'static EngineLink, name: &Key) -> Option<ActorId> {
    let id = engine.names.get(name)?.id;
    if !engine.names.release(name, id) {
        return None;
    }
    let name = name.clone();
    on_shard_of(id, move |shard| {
        let mut core = shard.core.borrow_mut();
        let Some(cell) = core.cells.get(id.index(), id.generation()) else { return };
        let names = &mut cell.extra().names;
        // One entry a registration: under the same name there may be a later one.
        if let Some(position) = names.iter().position(|noted| *noted == name) {
            names.swap_remove(position);
        }
    });
    Some(id)
}

/// A name on its way into its actor's cell. If it never gets there, the actor is gone, and so is the name.
struct Note {
    /// Taken out once it stands in the cell.
    name: Option<Key>,
    id: ActorId,
}

impl Note {
    fn new(name: &Key, id: ActorId) -> Self {
        Self { name: Some(name.clone()), id }
    }

    fn write(mut self, shard: &ShardCell) {
        let mut core = shard.core.borrow_mut();
        if let Some(cell) = core.cells.get(self.id.index(), self.id.generation()) {
            cell.extra().names.extend(self.name.take());
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.id.link().engine().names.release(&name, self.id);
        }
    }
}
