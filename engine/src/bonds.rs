//! Bonds: who hears of whose end. Watches tell, links take along.
//!
//! Invariant: a watch stands on both sides, with the watched one and with its watcher, a link with both that it joins; whichever
//! ends first takes it off the other, across shards too. A restart is no end. Costs an actor without bonds nothing. Shard thread
//! of the actor whose bonds are touched; requests travel to the other side.

use std::collections::HashSet;

use foldhash::fast::FixedState;

use crate::actor::{Actor, StopReason};
use crate::actor_ref::{ActorId, on_shard_of};
use crate::context::Context;
use crate::shard::{Cell, Life, ShardCell};

type Ids = HashSet<ActorId, FixedState>;

/// What ties one actor to others.
#[derive(Default)]
pub(crate) struct Bonds {
    /// Who is told when this one ends.
    pub(crate) watchers: Ids,
    /// Whose end this one is told.
    pub(crate) watching: Ids,
    /// Whose failure ends this one, and the other way round.
    pub(crate) links: Ids,
    /// It is told of the ends of those that it is linked to, instead.
    pub(crate) traps: bool,
}

/// In an order that does not depend on hashes.
#[expect(clippy::mutable_key_type, reason = "an id is hashed and compared by its numbers")]
fn sorted(ids: Ids) -> Vec<ActorId> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable_by_key(|id| (id.shard().get(), id.index(), id.generation()));
    ids
}

fn bonds(cell: &mut Cell) -> &mut Bonds {
    cell.extra().bonds.get_or_insert_default()
}

/// Does something with the bonds of an actor on this shard; `None` if it is gone.
fn with<R>(shard: &ShardCell, id: ActorId, f: impl FnOnce(&mut Bonds) -> R) -> Option<R> {
    let mut core = shard.core.borrow_mut();
    core.cells.get(id.index(), id.generation()).map(|cell| f(bonds(cell)))
}

/// By which ids others may know an actor of this shard: its own, and those of its forwarders.
fn known_as(shard: &ShardCell, me: ActorId) -> Vec<ActorId> {
    let mut core = shard.core.borrow_mut();
    let here = core.cells.get(me.index(), me.generation()).and_then(Cell::here);
    std::iter::once(me).chain(here.map(|here| here.others.clone()).unwrap_or_default()).collect()
}

impl Bonds {
    /// What goes along when an actor moves: whom it watches and is linked to. Its forwarder keeps the same, since the others know
    /// it by that, and those who watch it there.
    pub(crate) fn to_go_along(&self) -> Self {
        let (watching, links) = (self.watching.clone(), self.links.clone());
        Self { watchers: Ids::default(), watching, links, traps: self.traps }
    }

    /// Takes in what has come along.
    pub(crate) fn come_back(&mut self, bonds: Self) {
        (self.watching, self.links, self.traps) = (bonds.watching, bonds.links, bonds.traps);
    }
}

/// Takes `gone` out of some bonds of an actor on this shard.
fn cut(shard: &ShardCell, id: ActorId, which: impl FnOnce(&mut Bonds) -> &mut Ids, gone: ActorId) {
    with(shard, id, |bonds| which(bonds).remove(&gone));
}

impl<A: Actor> Context<A> {
    /// Has [`Actor::terminated`] called once when the other actor has stopped, wherever it is; at once if it already has. Watching
    /// twice is watching once. A restart of either is no end: the watch stays.
    pub fn watch(&mut self, other: ActorId) {
        watch(self.me().id(), other);
    }

    /// Ends a watch: the hook is not called any more, also if the other has stopped already and the news are in the mailbox.
    pub fn unwatch(&mut self, other: ActorId) {
        let me = self.me().id();
        if with(self.shard_cell(), me, |bonds| bonds.watching.remove(&other)) == Some(true) {
            for me in known_as(self.shard_cell(), me) {
                on_shard_of(other, move |shard| cut(shard, other, |bonds| &mut bonds.watchers, me));
            }
        }
    }

    /// Links this actor and another one, on whichever shard: when one of them ends by a failure, the other stops before its next
    /// message with [`StopReason::LinkBroken`], its hooks run, and its own links break in turn. One that
    /// [traps](Self::trap_links) is told instead. One that has ended already counts as failed. Ends without a failure, and
    /// restarts, leave the other alone.
    pub fn link(&mut self, other: ActorId) {
        let me = self.me().id();
        if other == me || with(self.shard_cell(), me, |bonds| bonds.links.insert(other)) != Some(true) {
            return;
        }
        let pending = PendingLink { me, other, placed: false };
        on_shard_of(other, move |shard| {
            pending.placed();
            if with(shard, other, |bonds| bonds.links.insert(me)).is_none() {
                on_shard_of(me, move |shard| shard.link_ended(me, other, &StopReason::Stopped, true));
            }
        });
    }

    /// Takes a link off both sides.
    pub fn unlink(&mut self, other: ActorId) {
        let me = self.me().id();
        if with(self.shard_cell(), me, |bonds| bonds.links.remove(&other)) == Some(true) {
            for me in known_as(self.shard_cell(), me) {
                on_shard_of(other, move |shard| cut(shard, other, |bonds| &mut bonds.links, me));
            }
        }
    }

    /// From now on, whether the ends of linked actors, with or without a failure, are told to [`Actor::terminated`] instead of
    /// taking this actor along.
    pub fn trap_links(&mut self, traps: bool) {
        with(self.shard_cell(), self.me().id(), |bonds| bonds.traps = traps);
    }
}

/// Has `watcher` told when `other` has stopped.
pub(crate) fn watch(watcher: ActorId, other: ActorId) {
    on_shard_of(watcher, move |shard| {
        if with(shard, watcher, |bonds| bonds.watching.insert(other)) != Some(true) {
            return;
        }
        let pending = PendingWatch { watcher, who: other, placed: false };
        on_shard_of(other, move |shard| {
            pending.placed();
            if with(shard, other, |bonds| bonds.watchers.insert(watcher)).is_none() {
                shard.tell_terminated(watcher, other, StopReason::Stopped);
            }
        });
    });
}

/// A watch on its way to another shard; when that shard's engine is gone, so is the watched actor.
struct PendingWatch {
    watcher: ActorId,
    who: ActorId,
    placed: bool,
}

impl PendingWatch {
    fn placed(mut self) {
        self.placed = true;
    }
}

impl Drop for PendingWatch {
    fn drop(&mut self) {
        if !self.placed {
            let (watcher, who) = (self.watcher, self.who);
            watcher.link().run(Box::new(move |shard| shard.tell_terminated(watcher, who, StopReason::Shutdown)));
        }
    }
}

/// The same for a link.
struct PendingLink {
    me: ActorId,
    other: ActorId,
    placed: bool,
}

impl PendingLink {
    fn placed(mut self) {
        self.placed = true;
    }
}

impl Drop for PendingLink {
    fn drop(&mut self) {
        if !self.placed {
            let (me, other) = (self.me, self.other);
            me.link().run(Box::new(move |shard| shard.link_ended(me, other, &StopReason::Shutdown, true)));
        }
    }
}

impl ShardCell {
    /// Tells whoever has a bond with an actor that it has ended, and takes the bonds off their side.
    pub(crate) fn break_bonds(&self, who: ActorId, bonds: Bonds, reason: &StopReason) {
        let failed = reason.breaks_links();
        for other in sorted(bonds.links) {
            let reason = reason.clone();
            on_shard_of(other, move |shard| shard.link_ended(other, who, &reason, failed));
        }
        for watcher in sorted(bonds.watchers) {
            self.tell_terminated(watcher, who, reason.clone());
        }
        for other in sorted(bonds.watching) {
            on_shard_of(other, move |shard| cut(shard, other, |bonds| &mut bonds.watchers, who));
        }
    }

    /// A link of `me` has ended on its other side.
    fn link_ended(&self, me: ActorId, who: ActorId, reason: &StopReason, failed: bool) {
        let there = self.core.borrow_mut().away_to((me.index(), me.generation()));
        if let Some(there) = there {
            let reason = reason.clone();
            return on_shard_of(there, move |shard| shard.link_ended(there, who, &reason, failed));
        }
        let traps = with(self, me, |bonds| {
            let linked = bonds.links.remove(&who);
            if linked && bonds.traps {
                // Told like the end of one that is watched; of one that is watched too, once.
                bonds.watching.insert(who);
            }
            linked.then_some(bonds.traps)
        });
        match traps.flatten() {
            Some(true) => self.tell_terminated(me, who, reason.clone()),
            Some(false) if failed => {
                let text = format!("{who:?}: {reason:?}");
                self.request_stop(me.index(), me.generation(), StopReason::LinkBroken(text));
            }
            _ => {}
        }
    }

    /// Whether an actor still wants to hear of this end; it hears of it once.
    pub(crate) fn takes_news(&self, me: (u32, u32), who: ActorId) -> bool {
        let mut core = self.core.borrow_mut();
        let Some(cell) = core.cells.get(me.0, me.1).filter(|cell| cell.conduct.life != Life::Free) else {
            return false;
        };
        let bonds = cell.extra.as_mut().and_then(|extra| extra.bonds.as_mut());
        bonds.is_some_and(|bonds| bonds.watching.remove(&who))
    }
}
