//! Sends to a mailbox of this shard that refuses by count: it may be bounded by bytes, and then goes by what the message weighs.
//!
//! Invariant: the message has entered, or comes back with the reason. Shard thread only; nothing of the shard is borrowed by the
//! caller, since messages are weighed by code of users.

use super::wrap;
use crate::dead_letter::Reason;
use crate::envelope::{EpochTag, Meta, VTable};
use crate::error::{Rejected, TellError};
use crate::message::Message;
use crate::reply::{NewSlot, ReplyAddress};
use crate::shard::ShardCell;

/// A tell was refused by the mailbox's count: it enters if the mailbox goes by weight and has room, comes back, or is dropped where
/// its receiver says so. Nothing is borrowed.
#[cold]
pub(crate) fn tell_by_weight<M: Message>(
    shard: &ShardCell,
    cell: (u32, u32),
    epoch: EpochTag,
    vtable: &'static VTable,
    reason: Rejected,
    message: M,
) -> Result<(), TellError<M>> {
    let admitted = shard.admit_by_weight(cell, reason, || message.weight_bytes());
    let mut core = shard.core.borrow_mut();
    let meta = core.running.map_or(Meta::None, Meta::Sender);
    match admitted {
        Ok(weight) => core.enqueue_with(cell.0, || wrap(cell, vtable, epoch, meta, message).weighing(weight)),
        Err(reason) if core.drops_newest(cell, reason) => {
            core.bury(wrap(cell, vtable, epoch, meta, message), Reason::Dropped);
        }
        Err(reason) => return Err(TellError::new(reason, message)),
    }
    Ok(())
}

/// An ask was refused by the mailbox's count, which may go by weight.
#[cold]
pub(super) fn ask_by_weight<M: Message>(
    shard: &ShardCell,
    cell: (u32, u32),
    reason: Rejected,
    (vtable, message): (&'static VTable, M),
    slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let weight = match shard.admit_by_weight(cell, reason, || message.weight_bytes()) {
        Ok(weight) => weight,
        Err(reason) => return Err((reason, slot)),
    };
    let mut core = shard.core.borrow_mut();
    let address = match core.replies.insert(slot) {
        Ok(address) => address,
        Err(refused) => {
            core.forgo(cell, Some(weight));
            return Err(refused);
        }
    };
    let meta = Meta::Reply(address);
    core.enqueue_with(cell.0, || wrap(cell, vtable, EpochTag::BY_GENERATION, meta, message).weighing(weight));
    Ok(address)
}
