//! `NameTable`: the names of one engine, and who waits for one to appear.
//!
//! Invariant: a name has at most one holder. It is entered under the lock that also says whether it was free, and it leaves the
//! table before anybody hears that its holder has stopped. Any thread; the lock is held for look-ups in a sorted map and for
//! taking a cell, never while code of users runs.

use std::any::TypeId;
use std::collections::BTreeMap;

use crate::actor::Actor;
use crate::actor_ref::{ActorId, ActorRef};
use crate::engine_link::EngineLink;
use crate::key::Key;
use crate::link::ShardLink;
use crate::reply::Reply;
use crate::sync::{Mutex, MutexGuard};

use super::error::LookupError;

/// Who has a name.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) id: ActorId,
    rust_type: TypeId,
    pub(crate) type_name: &'static str,
}

impl Holder {
    pub(crate) fn of<A: Actor>(id: ActorId) -> Self {
        Self { id, rust_type: TypeId::of::<A>(), type_name: std::any::type_name::<A>() }
    }

    /// The reference, if the holder is an `A`.
    pub(crate) fn typed<A: Actor>(self) -> Result<ActorRef<A>, LookupError> {
        if self.rust_type == TypeId::of::<A>() {
            Ok(ActorRef::new(self.id))
        } else {
            Err(LookupError::WrongType { wanted: std::any::type_name::<A>(), found: self.type_name })
        }
    }
}

/// A name that is given, as [`Engine::names`](crate::Engine::names) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// The name.
    pub name: Key,
    /// Who has it.
    pub actor: ActorId,
    /// The actor's Rust type.
    pub actor_type: &'static str,
}

/// Somebody who waits for a name.
pub(crate) struct Watch {
    number: u64,
    reply: Reply<Holder>,
}

/// What became of a watch.
pub(crate) enum Watched {
    /// It waits, under this number.
    Waiting(u64),
    /// It was answered at once, or its reply was dropped with the table.
    Ended,
}

#[derive(Default)]
struct Table {
    holders: BTreeMap<Key, Holder>,
    watches: BTreeMap<Key, Vec<Watch>>,
    next_watch: u64,
    /// The engine shuts down: nobody waits any more.
    closed: bool,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct NameTable {
    table: Mutex<Table>,
}

impl NameTable {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Gives the name to what `make` returns unless somebody has it. `make` runs under the lock: it takes a cell, and runs and
    /// drops nothing of a user's.
    ///
    /// # Errors
    /// Those of `make`; the name stays free. The inner result hands back who has the name already.
    pub(crate) fn claim<E>(
        &self,
        name: &Key,
        make: impl FnOnce() -> Result<Holder, E>,
    ) -> Result<Result<Holder, Holder>, E> {
        let mut table = self.lock();
        if let Some(holder) = table.holders.get(name) {
            return Ok(Err(*holder));
        }
        let holder = make()?;
        table.holders.insert(name.clone(), holder);
        let watches = table.watches.remove(name).unwrap_or_default();
        drop(table);
        for watch in watches {
            watch.reply.send(holder);
        }
        Ok(Ok(holder))
    }

    /// Who has the name.
    pub(crate) fn get(&self, name: &str) -> Option<Holder> {
        self.lock().holders.get(name).copied()
    }

    /// Has the name lead to `new` where it leads to `old`.
    pub(crate) fn lead_to(&self, name: &Key, old: ActorId, new: ActorId) {
        if let Some(holder) = self.lock().holders.get_mut(name).filter(|holder| holder.id == old) {
            holder.id = new;
        }
    }

    /// Takes the name away from `id`; nothing happens if another actor has it. Returns whether it was taken away.
    pub(crate) fn release(&self, name: &Key, id: ActorId) -> bool {
        let mut table = self.lock();
        let is_holder = table.holders.get(name).is_some_and(|holder| holder.id == id);
        let removed = if is_holder { table.holders.remove_entry(name) } else { None };
        drop(table);
        removed.is_some()
    }

    /// Every name, in the order of their texts.
    pub(crate) fn all(&self) -> Vec<Named> {
        let table = self.lock();
        let named = |(name, holder): (&Key, &Holder)| Named {
            name: name.clone(),
            actor: holder.id,
            actor_type: holder.type_name,
        };
        table.holders.iter().map(named).collect()
    }

    /// Has `reply` answered once somebody has the name.
    pub(crate) fn watch(&self, name: &Key, reply: Reply<Holder>) -> Watched {
        let mut table = self.lock();
        if let Some(holder) = table.holders.get(name).copied() {
            drop(table);
            reply.send(holder);
            return Watched::Ended;
        }
        if table.closed {
            drop(table);
            drop(reply);
            return Watched::Ended;
        }
        let number = table.next_watch;
        table.next_watch += 1;
        table.watches.entry(name.clone()).or_default().push(Watch { number, reply });
        Watched::Waiting(number)
    }

    /// Nobody waits for this watch any more.
    pub(crate) fn forget(&self, name: &Key, number: u64) {
        let mut table = self.lock();
        let Some(watches) = table.watches.get_mut(name) else { return };
        let position = watches.iter().position(|watch| watch.number == number);
        let watch = position.map(|position| watches.remove(position));
        if watches.is_empty() {
            table.watches.remove(name);
        }
        drop(table);
        drop(watch);
    }

    /// Ends all waiting: the engine shuts down.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        let watches = std::mem::take(&mut table.watches);
        drop(table);
        drop(watches);
    }

    /// Forgets the names of a shard that is gone with all its actors.
    pub(crate) fn forget_shard(&self, link: &'static ShardLink) {
        let mut gone = BTreeMap::new();
        let mut table = self.lock();
        let holders = std::mem::take(&mut table.holders);
        for (name, holder) in holders {
            if std::ptr::eq(holder.id.link(), link) {
                gone.insert(name, holder);
            } else {
                table.holders.insert(name, holder);
            }
        }
    }
}

/// Releases the names of an actor whose state is gone.
#[cold]
pub(crate) fn release_all(engine: &'static EngineLink, names: &[Key], id: ActorId) {
    for name in names {
        engine.names.release(name, id);
    }
}
