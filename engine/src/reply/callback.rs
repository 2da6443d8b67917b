//! Asks whose answer calls a function on the asking shard, outside any actor's turn: what forwarding, piping and asking many
//! are made of.
//!
//! Invariant: the function is called exactly once, with the answer or the reason why there is none, while nothing is borrowed;
//! or it is dropped with its shard. It is the engine's own and does not panic. Shard thread only. One of the few files with
//! `unsafe`: it takes closure and answer out of rooms that do not know their types.

use super::{NewSlot, ReplyAddress, ReplyOps, Waiter};
use crate::ask::Question;
use crate::carried;
use crate::erased::Erased;
use crate::error::{AskError, Rejected};
use crate::message::Message;
use crate::route;
use crate::shard::ShardCell;

/// Calls the closure in the room with the answer at the address, which is moved out.
pub(crate) type Callback = unsafe fn(&ShardCell, Erased, *mut u8);

/// # Safety
/// `closure` was made of an `F`, and `value` points to a `Result<R, AskError>` that nobody uses or drops afterwards.
unsafe fn call<R, F>(shard: &ShardCell, closure: Erased, value: *mut u8)
where
    F: FnOnce(&ShardCell, Result<R, AskError>) + 'static,
{
    // SAFETY: the caller's contract.
    let f = unsafe { closure.take::<F>() };
    // SAFETY: the caller's contract.
    let value = unsafe { value.cast::<Result<R, AskError>>().read() };
    f(shard, value);
}

/// The function that calls closures of this one's type.
pub(crate) fn callback_of<R, F>(_: &F) -> Callback
where
    F: FnOnce(&ShardCell, Result<R, AskError>) + 'static,
{
    call::<R, F>
}

/// Sends the question; `f` is called with its outcome, at once if it was refused. Returns the slot that waits, if one does.
///
/// Costs no allocation beside the ask's own while `f` fits 32 bytes.
pub(crate) fn ask_calling<M, F>(shard: &ShardCell, question: Question<M>, f: F) -> Option<ReplyAddress>
where
    M: Message,
    F: FnOnce(&ShardCell, Result<M::Reply, AskError>) + 'static,
{
    if route::is_home(shard, &question.target) {
        let Question { target, vtable, message, ttl } = question;
        return calling(shard, ReplyOps::of::<M>(), f, |slot| {
            route::ask_from_shard(shard, &target, (vtable, message, ttl), slot)
        });
    }
    if let Some(request) = shard.request()
        && std::ptr::eq(question.target.engine(), shard.link.engine())
    {
        let carried = request.clone();
        let f = move |shard: &ShardCell, outcome| carried.scope(|| f(shard, outcome));
        return calling(shard, ReplyOps::of::<M>(), f, |slot| carried::ask_from_shard(shard, request, question, slot));
    }
    f(shard, Err(AskError::Rejected(Rejected::Unavailable)));
    None
}

/// Opens a slot that calls `f`, with `send`.
fn calling<R, F>(
    shard: &ShardCell,
    ops: ReplyOps,
    f: F,
    send: impl FnOnce(NewSlot) -> Result<ReplyAddress, (Rejected, NewSlot)>,
) -> Option<ReplyAddress>
where
    F: FnOnce(&ShardCell, Result<R, AskError>) + 'static,
{
    let slot = NewSlot {
        deadline_ns: 0,
        ops,
        waiter: Waiter::Call { call: call::<R, F> },
        closure: Some(Erased::new(f)),
        peer: None,
        group: None,
        incarnation: 0,
    };
    match send(slot) {
        Ok(address) => Some(address),
        Err((reason, slot)) => {
            let closure = slot.closure.expect("it came back as it was given");
            // SAFETY: made of an `F` just above.
            let f = unsafe { closure.take::<F>() };
            f(shard, Err(AskError::Rejected(reason)));
            None
        }
    }
}
