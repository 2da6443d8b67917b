//! Reentrancy: what happens when a call comes back to an actor that waits up the same chain of calls.
//!
//! An actor whose async handler waits takes no other message, so a call that came back to it could never be answered: the chain
//! would wait for itself until a deadline ends it. Such an ask is refused at once instead. Who waits for whom is read from what
//! is there anyway: an async handler's cell says whom it answers (`asking/cancel.rs`), and the slot of that ask who waits there.
//!
//! Invariant: an ask is refused only if whoever was asked cannot take it before the asker's own handler ends; nothing is changed
//! by looking. Shard thread only.

use crate::ask::Target;
use crate::error::Deadlock;
use crate::limits::CALLERS_LOOKED_AT;
use crate::reply::Waiter;
use crate::shard::{ShardCell, ShardCore};

/// A cell and its generation.
type Place = (u32, u32);

/// The cycle that the running actor would close by waiting for an answer of `target`; `None` when there is none on this shard.
pub(crate) fn cycle(shard: &ShardCell, target: &Target) -> Option<Deadlock> {
    let mut core = shard.core.borrow_mut();
    let me = core.who_waits()?;
    let goal = place_of(shard, &core, target)?;
    let mut at = (me.index(), me.generation());
    let mut waits = 0;
    while at != goal {
        at = who_waits_for(&mut core, at).filter(|_| waits < CALLERS_LOOKED_AT)?;
        waits += 1;
    }
    Some(described(&mut core, (me.index(), me.generation()), goal))
}

/// Where the target lives, if that is here, and awake.
fn place_of(shard: &ShardCell, core: &ShardCore, target: &Target) -> Option<Place> {
    match target {
        Target::Actor(id) => std::ptr::eq(id.link(), shard.link).then_some((id.index(), id.generation())),
        Target::Virtual(id) => core.directory.get(id.position?, &id.key),
    }
}

/// The actor whose async handler waits for what the one at `place` works on.
fn who_waits_for(core: &mut ShardCore, place: Place) -> Option<Place> {
    let address = core.cells.get(place.0, place.1)?.extra.as_ref()?.answering.whom()?;
    if address.0.shard() != core.shard.get() {
        return None;
    }
    let Waiter::Task { owner: Some(owner), .. } = &core.replies.waiting(address)?.waiter else { return None };
    let owner = (owner.index(), owner.generation());
    let cell = core.cells.get(owner.0, owner.1)?;
    cell.extra.as_ref().is_some_and(|extra| extra.async_slot.is_live()).then_some(owner)
}

#[cold]
fn described(core: &mut ShardCore, me: Place, goal: Place) -> Deadlock {
    // From the one who waited first down to the one who asks now, and back.
    let mut places = vec![me];
    while let Some(last) = places.last().copied().filter(|last| *last != goal) {
        places.extend(who_waits_for(core, last));
    }
    places.reverse();
    places.push(goal);
    let names: Vec<String> = places.into_iter().map(|place| name_of(core, place)).collect();
    Deadlock(names.join(" -> ").into())
}

/// Type and key, or type and id.
fn name_of(core: &mut ShardCore, (index, generation): Place) -> String {
    let id = core.actor_id(index, generation);
    let Some(cell) = core.cells.get(index, generation) else { return format!("{id:?}") };
    let key = cell.extra.as_ref().and_then(|extra| extra.identity.as_ref()).map(|(_, key)| key.clone());
    let name = cell.state.as_mut().map_or("the asking actor", crate::shard::ActorBox::actor_name);
    key.map_or_else(|| format!("{name}({id:?})"), |key| format!("{name}({:?})", key.as_str()))
}
