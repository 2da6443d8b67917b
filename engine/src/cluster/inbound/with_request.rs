//! Messages from other nodes that carry a request: like messages that have to go on to another shard, wherever their receivers
//! live.
//!
//! Invariant: as in `inbound.rs`; a request that is not what it must be refuses its message and is counted. Shard thread only.

use shardstage_codec::{FrameHeader, FrameKind, NodeId, ReplyStatus};

use super::{Arrival, Inbound};
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::envelope::{EpochTag, Meta};
use crate::key::Key;
use crate::port::frame::Frame;
use crate::request::Request;

impl Inbound<'_> {
    /// A message that carries a request: like one that has to go on to another shard, wherever its receiver lives.
    #[cold]
    pub(super) fn with_request(&mut self, peer: NodeId, header: &FrameHeader, frame: Frame<'_>) {
        let ask = (header.kind == FrameKind::AskWith).then_some(header.correlation);
        let arrival = Arrival { peer, ask, ttl_ns: header.ttl_ns };
        if let Err(status) = self.take_carried(header, arrival, frame) {
            self.refuse(arrival, header, (0, 0), status);
        }
    }

    fn take_carried(&mut self, header: &FrameHeader, arrival: Arrival, frame: Frame<'_>) -> Result<(), ReplyStatus> {
        let shard = self.shard;
        let now_ns = shard.core.borrow().now_ns;
        let receiver = self.resolve(header, &frame)?;
        let payload = header.payload(&frame).map_err(|_| ReplyStatus::NoHandler)?;
        let request = shardstage_codec::request::decode(payload)
            .and_then(|(block, archive)| Ok((Request::of_block(&block, now_ns)?, archive)));
        let Ok((request, archive)) = request else {
            self.malformed();
            return Err(ReplyStatus::NoHandler);
        };
        let message = self.check(&receiver, header)?;
        let key = Key::from(header.key(&frame).map_err(|_| ReplyStatus::NoHandler)?);
        let wrapped = (message.wrap)(frame, archive, EpochTag::of(header.group_epoch));
        let mut envelope = wrapped.map_err(|_| ReplyStatus::NoHandler)?;
        let mut deadline_ns = request.deadline_ns();
        let mut slot = None;
        if let Some(correlation) = arrival.ask {
            let elsewhere = receiver.shard != shard.link.shard().get();
            if elsewhere && !self.reserve(receiver.shard) {
                return Err(ReplyStatus::Full);
            }
            let ask = self.ask(header, arrival, correlation);
            if arrival.ttl_ns != 0 && (deadline_ns == 0 || ask.deadline_ns < deadline_ns) {
                deadline_ns = ask.deadline_ns;
            }
            slot = Some((message.open_slot)(shard, ask).map_err(|_| {
                if elsewhere {
                    shard.core.borrow_mut().mesh.cancel_ask(receiver.shard);
                }
                ReplyStatus::Full
            })?);
        }
        let context = ContextBlock {
            asker: Asker::InRequest(request, slot),
            deadline_ns,
            origin: Some(arrival.peer),
            target: Some(VirtualTarget { position: receiver.position, key, epoch: header.group_epoch }),
            ..ContextBlock::new()
        };
        envelope.set_meta(Meta::Context(Box::new(context)));
        if receiver.shard == shard.link.shard().get() {
            shard.deliver(envelope);
        } else {
            shard.push_or_bury(receiver.shard, envelope);
        }
        Ok(())
    }
}
