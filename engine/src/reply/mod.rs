//! Replies: where an answer goes and how it gets there. Ends the message path of an ask.
//!
//! Invariant: every ask has one slot in the reply table of one shard, and the slot is completed or freed exactly once;
//! whatever arrives later finds another generation and is dropped. Answers to other shards travel in room that the ask
//! reserved, so they are never refused.

mod callback;
mod foreign;
mod place;
mod relay;
mod table;

use std::mem::ManuallyDrop;

use shardstage_codec::{AlignedBytes, EncodeError, NodeId};

pub(crate) use callback::{Callback, ask_calling, callback_of};
pub(crate) use foreign::{ForeignAsker, ForeignReply, ForeignSeat};
pub use place::Reply;
pub(crate) use relay::Relayed;
pub(crate) use table::{NewSlot, ReplyTable, Then, Waiter};

use crate::envelope::{Envelope, EpochTag, Meta, PackedAddress};
use crate::erased::Erased;
use crate::error::{AskError, Panicked, Unknown};
use crate::shard::{ShardCell, current, drop_contained};

/// A reply slot somewhere in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyAddress(pub(crate) PackedAddress);

/// The message by which an answer comes to its `then`; the closure waits in the slot.
pub(crate) struct ThenReply<R> {
    pub(crate) address: ReplyAddress,
    pub(crate) value: Result<R, AskError>,
}

/// The type-dependent parts of a slot, as plain functions.
#[derive(Clone, Copy)]
pub(crate) struct ReplyOps {
    pub(crate) fail: fn(&ShardCell, ReplyAddress, AskError),
    /// Decodes a reply that came over the wire and completes with it; `None` when the message is not a wire message.
    pub(crate) complete_bytes: Option<fn(&ShardCell, ReplyAddress, &[u8])>,
}

impl ReplyOps {
    pub(crate) const fn of<M: crate::Message>() -> Self {
        Self {
            fail: fail_typed::<M::Reply>,
            complete_bytes: if M::WIRE.is_some() { Some(complete_bytes_typed::<M>) } else { None },
        }
    }
}

fn fail_typed<R: Send + 'static>(shard: &ShardCell, address: ReplyAddress, error: AskError) {
    complete::<R>(shard, address, None, Err(error));
}

fn complete_bytes_typed<M: crate::Message>(shard: &ShardCell, address: ReplyAddress, bytes: &[u8]) {
    let ops = const { M::WIRE };
    let ops = ops.expect("only wire messages have this function");
    let value = (ops.decode_reply)(bytes)
        .map_err(|error| AskError::Failed(Panicked(format!("the reply to {} is malformed: {error}", ops.name).into())));
    complete::<M::Reply>(shard, address, None, value);
}

/// Where an answer goes that another node asked for. At most 32 bytes, so that the slot holds it in place.
pub(crate) struct RemoteAsker<R: 'static> {
    pub(crate) correlation: u64,
    pub(crate) epoch: shardstage_codec::Epoch,
    pub(crate) wire: &'static ReplyWire<R>,
    pub(crate) peer: NodeId,
    pub(crate) group: shardstage_codec::GroupId,
}

const _: () = assert!(size_of::<RemoteAsker<()>>() <= 32);

/// How the answers to one message type become bytes.
pub(crate) struct ReplyWire<R: 'static> {
    pub(crate) id: shardstage_codec::MessageId,
    pub(crate) version: u16,
    pub(crate) encode: fn(&R, &mut AlignedBytes) -> Result<usize, EncodeError>,
}

/// An answer on its way to another shard; one slot of a control ring, and one cache line.
#[repr(align(64))]
pub(crate) struct CrossReply {
    pub(crate) address: ReplyAddress,
    pub(crate) epoch: Option<EpochTag>,
    pub(crate) deliver: fn(&ShardCell, ReplyAddress, Option<EpochTag>, Erased),
    pub(crate) value: Erased,
}

const _: () = assert!(size_of::<CrossReply>() == 64);

// SAFETY: the value is a reply (`Send` by `Message::Reply`'s bound) or an `AskError`.
unsafe impl Send for CrossReply {}

fn deliver_typed<R: Send + 'static>(shard: &ShardCell, address: ReplyAddress, epoch: Option<EpochTag>, value: Erased) {
    // SAFETY: `answer::<R>` is the only one that pairs this function with a value, and it erased that type.
    let value = unsafe { value.take::<Result<R, AskError>>() };
    complete::<R>(shard, address, epoch, value);
}

fn deliver_failure(shard: &ShardCell, address: ReplyAddress, _epoch: Option<EpochTag>, value: Erased) {
    // SAFETY: `fail_anywhere` is the only one that pairs this function with a value, and it erased an `AskError`.
    let error = unsafe { value.take::<AskError>() };
    fail_here(shard, address, error);
}

/// Completes a slot of this very shard: runs nothing of the asker's, only hands the value over or wakes it.
pub(crate) fn complete<R: Send + 'static>(
    shard: &ShardCell,
    address: ReplyAddress,
    epoch: Option<EpochTag>,
    mut value: Result<R, AskError>,
) {
    let mut fenced: Option<R> = None;
    let mut core = shard.core.borrow_mut();
    let placement = &shard.link.engine().placement;
    let Some(slot) = core.replies.waiting(address) else {
        drop(core);
        return drop_contained(value);
    };
    if let (Some(group), Some(epoch)) = (slot.group, epoch)
        && EpochTag::of(placement.epoch(group)) != epoch
    {
        // What was answered is dropped below, outside the borrow.
        fenced = std::mem::replace(&mut value, Err(AskError::Unknown(Unknown::Fenced))).ok();
    }
    match &mut slot.waiter {
        Waiter::Then { deliver, index, generation } => {
            let (deliver, index, generation) = (*deliver, *index, *generation);
            slot.set_ready();
            core.push_reserved_with(index, generation, || {
                let reply = ThenReply { address, value };
                // SAFETY: a `Then` waiter's vtable takes a `ThenReply` of the ask's own reply type as its message.
                unsafe { Envelope::new(index, generation, deliver, EpochTag::BY_GENERATION, Meta::None, reply) }
            });
            drop(core);
        }
        Waiter::Task { waker, .. } => {
            let waker = waker.take();
            slot.value = Some(Erased::new(value));
            slot.set_ready();
            drop(core);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Waiter::Foreign => {
            let slot = core.replies.free(address);
            drop(core);
            // SAFETY: a `Foreign` slot's closure is a `ForeignSeat<R>` of the ask's own reply type.
            let asker = unsafe { slot.into_closure().take::<ForeignSeat<R>>() };
            asker.complete(value);
        }
        Waiter::Remote(_) => {
            let slot = core.replies.free(address);
            drop(core);
            // SAFETY: a `Remote` slot's closure is a `RemoteAsker<R>` of the ask's own reply type.
            let asker = unsafe { slot.into_closure().take::<RemoteAsker<R>>() };
            crate::cluster::outbound::send_reply(shard, &asker, value);
        }
        Waiter::Relay(relayed) => {
            let relayed = *relayed;
            core.replies.release(address);
            drop(core);
            relayed.pass_on(value);
        }
        Waiter::Call { call } => {
            let call = *call;
            let slot = core.replies.free(address);
            drop(core);
            // SAFETY: a `Call` slot's function was made for the ask's own reply type and for the closure beside it.
            unsafe { call(shard, slot.into_closure(), (&raw mut *ManuallyDrop::new(value)).cast()) };
        }
    }
    drop_contained(fenced);
}

/// Fails a slot of this very shard.
pub(crate) fn fail_here(shard: &ShardCell, address: ReplyAddress, error: AskError) {
    let ops = shard.core.borrow_mut().replies.waiting(address).map(|slot| slot.ops);
    if let Some(ops) = ops {
        (ops.fail)(shard, address, error);
    }
}

/// Answers what a handler returned. The common case, an asker of this very shard that waits with `then`, is built in place
/// here; everything else goes through [`answer`]. A function of its own, so that a tell's handler does not carry its weight.
#[inline(never)]
pub(crate) fn answer_with<R: Send + 'static>(
    shard: &ShardCell,
    address: ReplyAddress,
    epoch: Option<EpochTag>,
    reply: R,
) {
    if address.0.shard() == shard.link.shard().get() {
        // SAFETY: until the end of this block, or of the function; the reply is moved, none of its code runs.
        let mut core = unsafe { shard.core.quick() };
        if let Some(slot) = core.replies.waiting(address)
            && slot.group.is_none()
            && let Waiter::Then { deliver, index, generation } = slot.waiter
        {
            slot.set_ready();
            core.push_reserved_with(index, generation, || {
                let reply = ThenReply { address, value: Ok::<R, AskError>(reply) };
                // SAFETY: a `Then` waiter's vtable takes a `ThenReply` of the ask's own reply type as its message.
                unsafe { Envelope::new(index, generation, deliver, EpochTag::BY_GENERATION, Meta::None, reply) }
            });
            return;
        }
    }
    answer(shard, address, epoch, Ok(reply));
}

/// Answers from a shard to the slot at `address`, wherever in this process it is.
#[inline(never)]
pub(crate) fn answer<R: Send + 'static>(
    shard: &ShardCell,
    address: ReplyAddress,
    epoch: Option<EpochTag>,
    value: Result<R, AskError>,
) {
    if address.0.shard() == shard.link.shard().get() {
        complete(shard, address, epoch, value);
    } else {
        shard.core.borrow_mut().mesh.push_reply_with(address.0.shard(), || CrossReply {
            address,
            epoch,
            deliver: deliver_typed::<R>,
            value: Erased::new(value),
        });
    }
}

/// Fails the slot at `address` from whatever thread holds it: a shard of the same engine, or none because queues are being
/// torn down, in which case the asker ends by its deadline.
pub(crate) fn fail_anywhere(address: ReplyAddress, error: AskError) {
    current(|shard| {
        if let Some(shard) = shard {
            answer_failure(shard, address, error);
        }
    });
}

/// Fails the slot at `address`, of this shard or another.
pub(crate) fn answer_failure(shard: &ShardCell, address: ReplyAddress, error: AskError) {
    if address.0.shard() == shard.link.shard().get() {
        fail_here(shard, address, error);
    } else {
        shard.core.borrow_mut().mesh.push_reply_with(address.0.shard(), || CrossReply {
            address,
            epoch: None,
            deliver: deliver_failure,
            value: Erased::new(error),
        });
    }
}
