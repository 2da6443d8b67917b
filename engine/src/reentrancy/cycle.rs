//! Cycles on one shard: a call that would come back to an actor that waits up the same chain of calls.
//!
//! An actor that lets nothing in while it waits cannot take a call that comes back to it: the chain would wait for itself until
//! a deadline ends it. Such an ask is refused at once. Who waits for whom is read from what is there anyway: whom an async
//! handler answers says its cell (`asking/cancel.rs`), whom one that asked with `then` its list of waits, and the slot of that
//! ask says who waits there.
//!
//! Invariant: an ask is refused only if whoever was asked cannot take it before the asker's own handler ends; nothing is changed
//! by looking. Shard thread only.

use super::Reentrancy;
use super::callers::shown;
use crate::ask::Target;
use crate::error::Deadlock;
use crate::limits::CALLERS_LOOKED_AT;
use crate::reply::{ReplyAddress, Waiter};
use crate::shard::{ShardCell, ShardCore};

/// A cell and its generation.
pub(super) type Place = (u32, u32);

/// The cycle that the running actor would close by waiting for an answer of `target`, in an async handler (`awaits`) or by a
/// `then`; `None` when there is none on this shard.
pub(crate) fn cycle(shard: &ShardCell, target: &Target, awaits: bool) -> Option<Deadlock> {
    let mut core = shard.core.borrow_mut();
    let me = if awaits { core.who_waits()? } else { core.running? };
    let me = (me.index(), me.generation());
    let goal = place_of(shard, &core, target)?;
    let answers = answers_of(&core, me, awaits);
    way_up(&mut core, (me, answers), goal, |_| {})?;
    if !keeps_out(&core, goal, goal == me && awaits, goal == me) {
        return None;
    }
    Some(refusal(&mut core, (me, answers), goal))
}

/// Goes from who asks to who waits for its answer, and on to `goal`, and shows each on the way; `None` when it does not lead there.
/// Allocates nothing.
fn way_up(
    core: &mut ShardCore,
    (me, mut answers): (Place, Option<ReplyAddress>),
    goal: Place,
    mut see: impl FnMut(Place),
) -> Option<()> {
    let mut at = me;
    for _ in 0..=CALLERS_LOOKED_AT {
        see(at);
        if at == goal {
            return Some(());
        }
        let blocked = blocked_at(core, answers?)?;
        (at, answers) = (blocked.place, blocked.answering);
    }
    None
}

/// What the asker hears of a cycle.
#[cold]
fn refusal(core: &mut ShardCore, from: (Place, Option<ReplyAddress>), goal: Place) -> Deadlock {
    let mut places = Vec::new();
    way_up(core, from, goal, |place| places.push(place)).expect("the way was there just now");
    // From the one who waited first down to the one who asks now, and back.
    places.reverse();
    places.push(goal);
    let names: Vec<String> = places.into_iter().map(|place| name_of(core, place)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Deadlock(shown(&names).into())
}

/// Where the target lives, if that is here, and awake.
fn place_of(shard: &ShardCell, core: &ShardCore, target: &Target) -> Option<Place> {
    match target {
        Target::Actor(id) => std::ptr::eq(id.link(), shard.link).then_some((id.index(), id.generation())),
        Target::Virtual(id) => core.directory.get(id.position?, &id.key),
    }
}

/// Whom the running actor answers with what it does now.
fn answers_of(core: &ShardCore, me: Place, awaits: bool) -> Option<ReplyAddress> {
    let extra = core.cells.peek(me.0, me.1)?.extra.as_ref()?;
    match &extra.turns {
        Some(turns) if !awaits => turns.answering,
        _ => extra.answering.whom(),
    }
}

/// An actor that waits at a slot of its shard and meanwhile lets no other call in, or few.
pub(super) struct Blocked {
    pub(super) place: Place,
    /// Whom it answers with what it does.
    pub(super) answering: Option<ReplyAddress>,
    /// Since when it waits, on the driver's clock.
    pub(super) since_ns: u64,
}

/// The actor that waits for the answer that goes to `slot`, if that is of this shard.
pub(super) fn blocked_at(core: &mut ShardCore, slot: ReplyAddress) -> Option<Blocked> {
    if slot.0.shard() != core.shard.get() {
        return None;
    }
    match &core.replies.waiting(slot)?.waiter {
        Waiter::Task { owner: Some(owner), waker } => {
            let extra = core.cells.peek(owner.index(), owner.generation())?.extra.as_ref()?;
            let place = (owner.index(), owner.generation());
            // What is attached to the actor waits beside its handler, and keeps nobody out.
            let by_work = waker.as_ref().is_some_and(|waker| extra.work.iter().any(|work| work.is_woken_by(waker)));
            let blocked = Blocked { place, answering: extra.answering.whom(), since_ns: extra.midway.since_ns };
            (extra.async_slot.is_live() && !by_work).then_some(blocked)
        }
        Waiter::Then { index, generation, .. } => {
            let turns = core.cells.peek(*index, *generation)?.extra.as_ref()?.turns.as_ref()?;
            let wait = turns.wait_for(slot)?;
            Some(Blocked { place: (*index, *generation), answering: wait.answering, since_ns: wait.since_ns })
        }
        _ => None,
    }
}

/// Whether the actor lets no call in, of its own chain either. The running one is about to wait.
fn keeps_out(core: &ShardCore, place: Place, awaits: bool, runs: bool) -> bool {
    let Some(extra) = core.cells.peek(place.0, place.1).and_then(|cell| cell.extra.as_ref()) else { return awaits };
    let is_held =
        |waits: bool| extra.turns.as_ref().is_some_and(|turns| turns.setting == Reentrancy::Off && (runs || waits));
    awaits || extra.async_slot.is_live() || is_held(extra.turns.as_ref().is_some_and(|turns| turns.waits()))
}

/// Type and key, or type and id.
pub(super) fn name_of(core: &mut ShardCore, (index, generation): Place) -> String {
    let id = core.actor_id(index, generation);
    let Some(cell) = core.cells.get(index, generation) else { return format!("{id:?}") };
    let key = cell.extra.as_ref().and_then(|extra| extra.identity.as_ref()).map(|(_, key)| key.clone());
    let name = cell.state.as_ref().map_or("the asking actor", crate::shard::ActorBox::actor_name);
    key.map_or_else(|| format!("{name}({id:?})"), |key| format!("{name}({:?})", key.as_str()))
}
