//! The optional context block of an envelope: what most messages do not need, the request that they are part of among it.
//!
//! Invariant: whoever takes the block answers its asker exactly once, or hands it on; dropping it unanswered rejects the ask.

use crossbeam::queue::ArrayQueue;
use shardstage_codec::{Epoch, NodeId};

use crate::envelope::PackedAddress;
use crate::error::{AskError, Rejected};
use crate::key::Key;
use crate::limits::CONTEXT_BLOCKS_KEPT;
use crate::reply::{ForeignAsker, ReplyAddress};
use crate::request::Request;

/// Who waits for the answer.
pub(crate) enum Asker {
    /// Nobody: a tell.
    None,
    /// A reply slot on some shard of this process.
    Slot(ReplyAddress),
    /// A thread or task outside the shards; the receiving shard makes a slot for it.
    Foreign(std::sync::Arc<dyn ForeignAsker>),
    /// A reply slot, or nobody, of a message that is part of a request.
    InRequest(Request, Option<ReplyAddress>),
    /// As [`Foreign`](Self::Foreign), of a message that is part of a request.
    ForeignInRequest(Box<(std::sync::Arc<dyn ForeignAsker>, Request)>),
}

/// A virtual actor as target: resolved to a cell on the shard that owns its slot.
pub(crate) struct VirtualTarget {
    /// The type's place in the registry.
    pub(crate) position: usize,
    pub(crate) key: Key,
    /// The group epoch under which the sender resolved the owner.
    pub(crate) epoch: Epoch,
}

/// Deadline, asker, virtual target and sender of one message.
pub(crate) struct ContextBlock {
    pub(crate) asker: Asker,
    /// On the shards' common clock; 0 for none.
    pub(crate) deadline_ns: u64,
    /// Time left when the ask was made outside the shards, which have no clock; 0 otherwise.
    pub(crate) ttl_ns: u64,
    pub(crate) sender: Option<PackedAddress>,
    pub(crate) target: Option<VirtualTarget>,
    /// The node that sent it, for one that came over the wire.
    pub(crate) origin: Option<NodeId>,
}

/// Used blocks of one shard, for whoever sends it the next message that needs one.
///
/// Any thread takes, the shard gives back: blocks go round instead of being allocated for each message.
pub(crate) struct ContextPool {
    free: ArrayQueue<Box<ContextBlock>>,
}

impl ContextPool {
    pub(crate) fn new() -> Self {
        Self { free: ArrayQueue::new(CONTEXT_BLOCKS_KEPT) }
    }

    /// A block with this content; allocates only if no used one is at hand.
    pub(crate) fn make(&self, context: ContextBlock) -> Box<ContextBlock> {
        match self.free.pop() {
            Some(mut block) => {
                *block = context;
                block
            }
            None => Box::new(context),
        }
    }

    /// Takes back a block whose asker was answered or handed on.
    pub(crate) fn recycle(&self, mut block: Box<ContextBlock>) {
        *block = ContextBlock::new();
        // A full pool has enough of them.
        drop(self.free.push(block));
    }

    /// Frees all blocks.
    pub(crate) fn clear(&self) {
        while self.free.pop().is_some() {}
    }
}

impl ContextBlock {
    pub(crate) fn new() -> Self {
        Self { asker: Asker::None, deadline_ns: 0, ttl_ns: 0, sender: None, target: None, origin: None }
    }

    /// Whether nobody waits for an answer.
    pub(crate) fn is_tell(&self) -> bool {
        matches!(self.asker, Asker::None | Asker::InRequest(_, None))
    }

    /// Answers whoever waits that the message was surely not executed.
    pub(crate) fn reject(self, reason: Rejected) {
        match self.asker {
            Asker::None | Asker::InRequest(_, None) => {}
            Asker::Slot(address) | Asker::InRequest(_, Some(address)) => {
                crate::reply::fail_anywhere(address, AskError::Rejected(reason));
            }
            Asker::Foreign(asker) => asker.fail(AskError::Rejected(reason)),
            Asker::ForeignInRequest(both) => both.0.fail(AskError::Rejected(reason)),
        }
    }
}
