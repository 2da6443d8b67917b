//! Frames in from other nodes: bytes -> header checks -> the same delivery as local.
//!
//! Invariant: a frame is untrusted until checked, in this order: lengths, kind, epoch and owner, type, message, payload. A
//! refused ask is answered, a refused tell is bounced and counted; nothing is lost in silence.

use shardstage_codec::{ActorTypeId, AlignedBytes, FrameHeader, FrameKind, NodeId, ReplyStatus};

use super::outbound;
use super::placement::shard_of;
use super::registry::RemoteAsk;
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::dead_letter::Reason;
use crate::envelope::{EpochTag, Meta, PackedAddress};
use crate::error::{AskError, Rejected, Unknown};
use crate::key::Key;
use crate::port::transport::{Lane, PeerDown, TransportEvents};
use crate::reply::{self, ReplyAddress};
use crate::shard::ShardCell;

/// Hands what a transport reports to the shard.
pub(crate) struct Inbound<'a> {
    pub(crate) shard: &'a ShardCell,
}

impl TransportEvents for Inbound<'_> {
    fn frame(&mut self, peer: NodeId, _lane: Lane, frame: &[u8]) {
        self.shard.core.borrow_mut().counters.frames_received += 1;
        let Ok(header) = FrameHeader::decode(frame) else {
            self.shard.link.engine().dead_letters.count(Reason::Malformed);
            return;
        };
        match header.kind {
            FrameKind::Tell | FrameKind::Ask => self.message(peer, &header, frame),
            FrameKind::Reply => self.reply(&header, frame),
            FrameKind::Bounce => self.bounce(&header, frame),
            FrameKind::Hello => self.shard.link.engine().dead_letters.count(Reason::Malformed),
        }
    }

    fn peer_up(&mut self, peer: NodeId, _session: u64) {
        self.shard.link.engine().peers.up(peer, self.shard.link.shard());
    }

    fn peer_down(&mut self, peer: NodeId, reason: &PeerDown) {
        self.shard.link.engine().peers.down(peer, self.shard.link.shard(), reason);
        let mut waiting = Vec::new();
        self.shard.core.borrow().replies.of_peer(peer, &mut waiting);
        for address in waiting {
            reply::fail_here(self.shard, address, AskError::Unknown(Unknown::PeerLost));
        }
    }
}

impl Inbound<'_> {
    fn message(&mut self, peer: NodeId, header: &FrameHeader, frame: &[u8]) {
        if let Err(refusal) = self.accept(peer, header, frame) {
            self.refuse(peer, header, refusal);
        }
    }

    fn accept(&mut self, peer: NodeId, header: &FrameHeader, frame: &[u8]) -> Result<(), ReplyStatus> {
        let shard = self.shard;
        let engine = shard.link.engine();
        let key = header.key(frame).map_err(|_| ReplyStatus::NoHandler)?;
        let slot = shardstage_codec::slot_of(header.actor_type, key);
        let group = slot.group();
        if header.group != group {
            return Err(ReplyStatus::Unavailable);
        }
        let epoch = engine.placement.epoch(group);
        if header.group_epoch != epoch {
            shard.core.borrow_mut().counters.fenced += 1;
            return Err(if header.group_epoch < epoch { ReplyStatus::Fenced } else { ReplyStatus::Unavailable });
        }
        if engine.placement.owner(group) != engine.me() {
            return Err(ReplyStatus::Unavailable);
        }
        let position = engine.registry.by_id(header.actor_type).ok_or(ReplyStatus::NoHandler)?;
        let registered = &engine.registry.types[position];
        let message =
            registered.messages.get(&(header.message_id, header.message_version)).ok_or(ReplyStatus::NoHandler)?;
        let payload = header.payload(frame).map_err(|_| ReplyStatus::NoHandler)?;
        let mut envelope = (message.wrap)(payload, EpochTag::of(epoch)).map_err(|_| ReplyStatus::NoHandler)?;

        let now_ns = shard.core.borrow().now_ns;
        let deadline_ns = if header.ttl_ns == 0 { 0 } else { now_ns.saturating_add(header.ttl_ns) };
        let target_shard = shard_of(slot, engine.shard_count());
        let is_here = target_shard == shard.link.shard().get();
        let mut asker = Asker::None;
        if header.kind == FrameKind::Ask {
            if !is_here && !shard.core.borrow_mut().mesh.reserve_ask(target_shard) {
                return Err(ReplyStatus::Full);
            }
            let ask = RemoteAsk {
                peer,
                correlation: header.correlation,
                group,
                epoch,
                deadline_ns: if deadline_ns == 0 { u64::MAX } else { deadline_ns },
            };
            asker = Asker::Slot((message.open_slot)(shard, ask).map_err(|_| ReplyStatus::Full)?);
        }
        let context = ContextBlock {
            asker,
            deadline_ns,
            target: Some(VirtualTarget { position, key: Key::from(key), epoch }),
            origin: Some(peer),
            ..ContextBlock::new()
        };
        envelope.set_meta(Meta::Context(engine.link(target_shard).contexts.make(context)));
        if is_here {
            shard.deliver(envelope);
        } else {
            shard.push_or_bury(target_shard, envelope);
        }
        Ok(())
    }

    /// Answers a refused ask, bounces a refused tell.
    fn refuse(&mut self, peer: NodeId, header: &FrameHeader, status: ReplyStatus) {
        let engine = self.shard.link.engine();
        engine.dead_letters.count(Reason::from_status(status));
        let kind = if header.kind == FrameKind::Ask { FrameKind::Reply } else { FrameKind::Bounce };
        let answer = FrameHeader {
            status,
            message_id: header.message_id,
            message_version: header.message_version,
            group: header.group,
            group_epoch: engine.placement.epoch(header.group),
            correlation: header.correlation,
            actor_type: ActorTypeId::new(0),
            shard: self.shard.link.shard(),
            ..FrameHeader::new(kind)
        };
        let mut out = shardstage_codec::AlignedBytes::new();
        shardstage_codec::append_frame_bytes(&mut out, answer, "", &[]).expect("an empty frame fits");
        // A session that is gone has told the sender already.
        let _ = outbound::send(self.shard, peer, Lane::Control, &out);
    }

    fn reply(&mut self, header: &FrameHeader, frame: &[u8]) {
        let shard = self.shard;
        let engine = shard.link.engine();
        let Some(address) = PackedAddress::from_word(header.correlation).map(ReplyAddress) else {
            engine.dead_letters.count(Reason::Malformed);
            return;
        };
        if address.0.shard() != shard.link.shard().get() {
            // Nodes with unequal shard counts: the link of another shard brought it.
            if address.0.shard() < engine.shard_count() {
                let mut copy = AlignedBytes::new();
                copy.extend_from_slice(frame);
                let header = *header;
                engine.link(address.0.shard()).run(Box::new(move |shard| Inbound { shard }.reply(&header, &copy)));
            } else {
                engine.dead_letters.count(Reason::Malformed);
            }
            return;
        }
        let Ok(payload) = header.payload(frame) else {
            shard.link.engine().dead_letters.count(Reason::Malformed);
            return;
        };
        let Some((ops, group)) = shard.core.borrow_mut().replies.waiting(address).map(|slot| (slot.ops, slot.group))
        else {
            return;
        };
        let current = group.map(|group| shard.link.engine().placement.epoch(group));
        if header.status == ReplyStatus::Ok && current.is_some_and(|epoch| epoch != header.group_epoch) {
            shard.core.borrow_mut().counters.fenced += 1;
            (ops.fail)(shard, address, AskError::Unknown(Unknown::Fenced));
        } else if let Some(error) = outbound::error_of(header.status, payload) {
            (ops.fail)(shard, address, error);
        } else if let Some(complete) = ops.complete_bytes {
            complete(shard, address, payload);
        } else {
            (ops.fail)(shard, address, AskError::Rejected(Rejected::NoHandler));
        }
    }

    /// One of our tells was refused over there: the dead letters name it.
    fn bounce(&mut self, header: &FrameHeader, _frame: &[u8]) {
        self.shard.link.engine().dead_letters.bounced(header);
    }
}
