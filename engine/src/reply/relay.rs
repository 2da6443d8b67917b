//! Asks that were passed on to another shard because their receiver has moved there.
//!
//! Invariant: the asker is answered once, by the shard to which it had sent its question, in the room that it has reserved with
//! that shard. The slot is on the shard where the receiver lives, and passes the answer or the failure on. Shard threads only.

use std::sync::Arc;

use shardstage_codec::GroupId;

use super::table::NewSlot;
use super::{ForeignAsker, ReplyAddress, ReplyOps, Waiter, answer, answer_failure};
use crate::envelope::EpochTag;
use crate::error::{AskError, Rejected};
use crate::link::ShardLink;
use crate::shard::ShardCell;

/// Where the answer goes.
#[derive(Clone, Copy)]
pub(crate) struct Relayed {
    /// The shard by way of which it goes.
    home: &'static ShardLink,
    address: ReplyAddress,
    /// The epoch under which the question was accepted there.
    epoch: Option<EpochTag>,
}

impl Relayed {
    pub(crate) fn new(home: &'static ShardLink, address: ReplyAddress, epoch: Option<EpochTag>) -> Self {
        Self { home, address, epoch }
    }

    /// Passes an answer on.
    pub(super) fn pass_on<R: Send + 'static>(self, value: Result<R, AskError>) {
        let Self { home, address, epoch } = self;
        home.run(Box::new(move |shard| answer(shard, address, epoch, value)));
    }
}

/// What ends a slot without an answer.
const OPS: ReplyOps = ReplyOps { fail: fail_slot, complete_bytes: None };

fn fail_slot(shard: &ShardCell, address: ReplyAddress, error: AskError) {
    let mut core = shard.core.borrow_mut();
    let Some(Waiter::Relay(relayed)) = core.replies.waiting(address).map(|slot| &slot.waiter) else { return };
    let relayed = *relayed;
    core.replies.release(address);
    drop(core);
    relayed.fail(error);
}

impl ForeignAsker for Relayed {
    fn register(
        self: Arc<Self>,
        shard: &ShardCell,
        deadline_ns: u64,
        _group: Option<GroupId>,
    ) -> Result<ReplyAddress, Rejected> {
        let new = NewSlot {
            deadline_ns,
            ops: OPS,
            waiter: Waiter::Relay(*self),
            closure: None,
            peer: None,
            group: None,
            incarnation: 0,
        };
        shard.core.borrow_mut().replies.insert(new).map_err(|(reason, _)| reason)
    }

    fn fail(&self, error: AskError) {
        let address = self.address;
        self.home.run(Box::new(move |shard| answer_failure(shard, address, error)));
    }
}
