//! The hot path of `cx.ask(..).then(..)` to a plain actor: slot and message are made in place.
//!
//! Invariant: nothing has changed when the question comes back; the general path in `route.rs` then decides. Belongs to the asking
//! shard's thread.

use super::{deadline_ns, wrap};
use crate::actor_ref::ActorId;
use crate::ask::{Question, Target};
use crate::envelope::{EpochTag, Meta, has_spare_word};
use crate::message::Message;
use crate::reply::Then;
use crate::shard::{ShardCell, ShardCore};

/// Asks an actor of this engine, with the slot made in place: the hot path of [`PendingAsk::then`]. Everything comes back
/// when the target is virtual or refuses, or a request is open, and the general path decides.
///
/// [`PendingAsk::then`]: crate::PendingAsk::then
#[inline(always)]
pub(crate) fn ask_neighbour<M: Message, F: 'static>(
    shard: &ShardCell,
    core: &mut ShardCore,
    question: Question<M>,
    then: Then<F>,
) -> Result<(), (Question<M>, Then<F>)> {
    let Target::Actor(id) = question.target else { return Err((question, then)) };
    if !shard.is_plainly(id.link()) {
        return ask_across(shard, core, id, question, then);
    }
    let refused = core.admit(id.index(), id.generation(), EpochTag::BY_GENERATION).is_err();
    if refused || !core.replies.has_free() {
        return Err((question, then));
    }
    let then = Then { deadline_ns: deadline_ns(core.now_ns, question.ttl), ..then };
    let address = core.replies.open_then(then);
    let Question { vtable, message, .. } = question;
    core.enqueue_with(id.index(), || {
        wrap((id.index(), id.generation()), vtable, EpochTag::BY_GENERATION, Meta::Reply(address), message)
    });
    Ok(())
}

/// The same towards another shard, whose messages carry their deadline.
#[inline(never)]
fn ask_across<M: Message, F: 'static>(
    shard: &ShardCell,
    core: &mut ShardCore,
    id: ActorId,
    question: Question<M>,
    then: Then<F>,
) -> Result<(), (Question<M>, Then<F>)> {
    let to = id.link().shard().get();
    let home = shard.is_plainly_of(id.link().engine());
    if !home || !const { has_spare_word::<M>() } || !core.replies.has_free() || !core.mesh.has_room(to) {
        return Err((question, then));
    }
    if !core.mesh.reserve_ask(to) {
        return Err((question, then));
    }
    // Last, so that nothing has to give it back.
    let Ok(credit) = core.purse.take(id) else {
        core.mesh.cancel_ask(to);
        return Err((question, then));
    };
    let deadline_ns = deadline_ns(core.now_ns, question.ttl);
    let address = core.replies.open_then(Then { deadline_ns, ..then });
    let Question { vtable, message, .. } = question;
    core.mesh.push_with(to, || {
        let cell = (id.index(), id.generation());
        let mut envelope = wrap(cell, vtable, EpochTag::BY_GENERATION, Meta::Reply(address), message);
        envelope.set_deadline(deadline_ns);
        envelope.set_credit(credit);
        envelope
    });
    Ok(())
}
