//! Answers and refusals in from other nodes, for whoever asked or told.
//!
//! Invariant: an answer ends the ask that it is for, once, and only if it comes from the node that was asked. Shard thread only.

use shardstage_codec::{FrameHeader, NodeId};

use super::Inbound;
use crate::cluster::outbound::{self, low_bits};
use crate::dead_letter::Reason;
use crate::envelope::PackedAddress;
use crate::error::{AskError, Rejected, Unknown};
use crate::reply::ReplyAddress;

impl Inbound<'_> {
    /// Whether an answer to this ask is for another shard; then it is on its way there.
    ///
    /// Nodes with unequal shard counts: the link of another shard brought it. One that finds too many waiting there is dropped and
    /// counted, and its ask ends at its deadline.
    fn forward(
        &self,
        address: ReplyAddress,
        payload: &[u8],
        finish: impl FnOnce(Inbound<'_>, &[u8]) + Send + 'static,
    ) -> bool {
        let shard = self.shard;
        if address.0.shard() == shard.link.shard().get() {
            return false;
        }
        let engine = shard.link.engine();
        if address.0.shard() < engine.shard_count() {
            let there = engine.link(address.0.shard());
            if !there.pass_on(payload, move |shard, payload| finish(Inbound { shard }, payload)) {
                engine.dead_letters.count(Reason::Full);
            }
        } else {
            self.malformed();
        }
        true
    }

    /// An answer with a value. Whoever was not asked has no say.
    pub(super) fn reply_value(&mut self, peer: NodeId, epoch: u32, correlation: u64, payload: &[u8]) {
        let shard = self.shard;
        let Some(address) = PackedAddress::from_word(correlation).map(ReplyAddress) else { return self.malformed() };
        if self.forward(address, payload, move |mut there, payload| {
            there.reply_value(peer, epoch, correlation, payload);
        }) {
            return;
        }
        let waiting = shard.core.borrow_mut().replies.waiting_for(address, peer).map(|slot| (slot.ops, slot.group));
        let Some((ops, group)) = waiting else { return };
        if group.is_some_and(|group| low_bits(shard.link.engine().placement.epoch(group)) != epoch) {
            shard.core.borrow_mut().counters.fenced += 1;
            (ops.fail)(shard, address, AskError::Unknown(Unknown::Fenced));
        } else if let Some(complete) = ops.complete_bytes {
            complete(shard, address, payload);
        } else {
            (ops.fail)(shard, address, AskError::Rejected(Rejected::NoHandler));
        }
    }

    /// An answer with a full header: any end.
    pub(super) fn reply(&mut self, peer: NodeId, header: &FrameHeader, payload: &[u8]) {
        let Some(error) = outbound::error_of(header.status, payload) else {
            return self.reply_value(peer, low_bits(header.group_epoch), header.correlation, payload);
        };
        let Some(address) = PackedAddress::from_word(header.correlation).map(ReplyAddress) else {
            return self.malformed();
        };
        let copy = *header;
        if self.forward(address, payload, move |mut there, payload| there.reply(peer, &copy, payload)) {
            return;
        }
        let waiting = self.shard.core.borrow_mut().replies.waiting_for(address, peer).map(|slot| slot.ops);
        if let Some(ops) = waiting {
            (ops.fail)(self.shard, address, error);
        }
    }

    /// One of our tells was refused over there: the dead letters name it.
    pub(super) fn bounce(&mut self, header: &FrameHeader) {
        self.shard.link.engine().dead_letters.bounced(header);
    }
}
