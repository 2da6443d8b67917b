//! Routing: which queue a message enters. The second step of the message path, after `tell` or `ask`.
//!
//! Invariant: a message enters exactly one queue, or comes back with the reason. Virtual targets resolve here: this shard's
//! directory, another shard's ring, or a frame to the owning node.

use std::sync::Arc;
use std::time::Duration;

use shardstage_codec::{AlignedBytes, FrameHeader, FrameKind, NodeId};

use crate::ask::{Question, Target};
use crate::cluster::outbound::{self, EncodedMessage};
use crate::cluster::placement::shard_of;
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::envelope::{Envelope, EpochTag, Meta, VTable};
use crate::error::{AskError, Rejected, TellError};
use crate::message::Message;
use crate::port::transport::Lane;
use crate::reply::{ForeignAsker, ForeignReply, NewSlot, ReplyAddress, Then};
use crate::shard::{ShardCell, ShardCore, current};
use crate::signal::RemoteSend;
use crate::virtual_ref::VirtualId;

/// Where a virtual actor lives now.
enum Place {
    Shard(u16),
    Node(NodeId),
}

fn place(id: &VirtualId) -> Place {
    let owner = id.engine.placement.owner(id.slot.group());
    if owner == id.engine.me() { Place::Shard(shard_of(id.slot, id.engine.shard_count())) } else { Place::Node(owner) }
}

/// Whether the target belongs to the engine of this shard.
pub(crate) fn is_home(shard: &ShardCell, target: &Target) -> bool {
    let engine = match target {
        Target::Actor(id) => id.link().engine(),
        Target::Virtual(id) => id.engine,
    };
    std::ptr::eq(shard.link.engine(), engine)
}

fn deadline_ns(now_ns: u64, ttl: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX))
}

/// Wraps a message whose type the vtable was made for.
#[inline(always)]
pub(crate) fn wrap<M: Message>(
    cell: (u32, u32),
    vtable: &'static VTable,
    epoch: EpochTag,
    meta: Meta,
    message: M,
) -> Envelope {
    // SAFETY: a vtable reaches this file only together with the message type for which its reference was made.
    unsafe { Envelope::new(cell.0, cell.1, vtable, epoch, meta, message) }
}

/// The message of an envelope that was wrapped for an `M` and whose meta word was taken.
fn unwrap<M: Message>(mut envelope: Envelope) -> M {
    drop_meta(&mut envelope);
    // SAFETY: `wrap::<M>` made it in the same call.
    unsafe { envelope.into_message::<M>() }
}

/// Takes the meta word off an envelope that comes back to its sender, without answering anybody.
fn drop_meta(envelope: &mut Envelope) {
    if let Meta::Context(mut context) = envelope.take_meta() {
        context.asker = Asker::None;
    }
}

fn target_of(id: &VirtualId, position: usize) -> VirtualTarget {
    VirtualTarget { position, key: id.key.clone(), epoch: id.engine.placement.epoch(id.slot.group()) }
}

/// Tells a virtual actor, from a shard or from outside.
pub(crate) fn tell_virtual<M: Message>(
    id: &VirtualId,
    vtable: &'static VTable,
    message: M,
) -> Result<(), TellError<M>> {
    let Some(position) = id.position else { return Err(TellError::NoHandler(message)) };
    current(|shard| match shard {
        Some(shard) if std::ptr::eq(shard.link.engine(), id.engine) => {
            tell_virtual_from_shard(shard, id, position, vtable, message)
        }
        _ => tell_virtual_from_outside(id, position, vtable, message),
    })
}

fn tell_virtual_from_shard<M: Message>(
    shard: &ShardCell,
    id: &VirtualId,
    position: usize,
    vtable: &'static VTable,
    message: M,
) -> Result<(), TellError<M>> {
    match place(id) {
        Place::Node(peer) => outbound::send_message(shard, id, peer, FrameKind::Tell, 0, Duration::ZERO, &message)
            .map_err(|reason| TellError::new(reason, message)),
        Place::Shard(to) if to == shard.link.shard().get() => {
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            let mut core = shard.core.borrow_mut();
            let cell = match core.activate_virtual(position, &id.key, epoch) {
                Ok(cell) => cell,
                Err(reason) => return Err(TellError::new(reason, message)),
            };
            if let Err(reason) = core.admit(cell.0, cell.1, epoch) {
                return Err(TellError::new(reason, message));
            }
            let meta = core.running.map_or(Meta::None, Meta::Sender);
            core.enqueue_with(cell.0, || wrap(cell, vtable, epoch, meta, message));
            Ok(())
        }
        Place::Shard(to) => {
            let mut core = shard.core.borrow_mut();
            if !core.mesh.has_room(to) {
                return Err(TellError::Full(message));
            }
            let context =
                ContextBlock { sender: core.running, target: Some(target_of(id, position)), ..ContextBlock::new() };
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            core.mesh.push(to, wrap((0, 0), vtable, epoch, Meta::Context(Box::new(context)), message));
            Ok(())
        }
    }
}

fn tell_virtual_from_outside<M: Message>(
    id: &VirtualId,
    position: usize,
    vtable: &'static VTable,
    message: M,
) -> Result<(), TellError<M>> {
    let to = shard_of(id.slot, id.engine.shard_count());
    let envelope = match place(id) {
        Place::Shard(_) => {
            let context = ContextBlock { target: Some(target_of(id, position)), ..ContextBlock::new() };
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            wrap((0, 0), vtable, epoch, Meta::Context(Box::new(context)), message)
        }
        Place::Node(peer) => {
            let send = match encode_outside(id, peer, FrameKind::Tell, Duration::ZERO, &message) {
                Ok(send) => send,
                Err(reason) => return Err(TellError::new(reason, message)),
            };
            return id.engine.link(to).inject(send.into_envelope()).map_err(|(reason, envelope)| {
                drop(envelope);
                TellError::new(reason, message)
            });
        }
    };
    id.engine.link(to).inject(envelope).map_err(|(reason, envelope)| TellError::new(reason, unwrap::<M>(envelope)))
}

/// Asks from a shard; the slot comes back if the message was refused.
pub(crate) fn ask_from_shard<M: Message>(
    shard: &ShardCell,
    question: Question<M>,
    mut slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let now_ns = shard.core.borrow().now_ns;
    slot.deadline_ns = deadline_ns(now_ns, question.ttl);
    let Question { target, vtable, message, ttl } = question;
    match target {
        Target::Actor(id) if std::ptr::eq(id.link(), shard.link) => {
            ask_here(shard, (id.index(), id.generation()), EpochTag::BY_GENERATION, vtable, message, slot)
        }
        Target::Actor(id) => {
            if id.link().short.contains(id.index(), id.generation()) {
                return Err((Rejected::Full, slot));
            }
            let to = id.link().shard().get();
            ask_other_shard(
                shard,
                to,
                (id.index(), id.generation()),
                None,
                EpochTag::BY_GENERATION,
                vtable,
                message,
                slot,
            )
        }
        Target::Virtual(id) => {
            let Some(position) = id.position else { return Err((Rejected::NoHandler, slot)) };
            slot.group = Some(id.slot.group());
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            match place(&id) {
                Place::Node(peer) => ask_node(shard, &id, peer, ttl, &message, slot),
                Place::Shard(to) if to == shard.link.shard().get() => {
                    let activated = shard.core.borrow_mut().activate_virtual(position, &id.key, epoch);
                    match activated {
                        Ok(cell) => ask_here(shard, cell, epoch, vtable, message, slot),
                        Err(reason) => Err((reason, slot)),
                    }
                }
                Place::Shard(to) => {
                    ask_other_shard(shard, to, (0, 0), Some(target_of(&id, position)), epoch, vtable, message, slot)
                }
            }
        }
    }
}

/// Asks an actor of this very shard, with the slot made in place: the hot path of [`PendingAsk::then`]. Everything comes back
/// when the target is elsewhere or refuses, and the general path decides.
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
    let here = std::ptr::eq(id.link(), shard.link);
    if !here || core.admit(id.index(), id.generation(), EpochTag::BY_GENERATION).is_err() || !core.replies.has_free() {
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

fn ask_here<M: Message>(
    shard: &ShardCell,
    cell: (u32, u32),
    epoch: EpochTag,
    vtable: &'static VTable,
    message: M,
    slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let mut core = shard.core.borrow_mut();
    if let Err(reason) = core.admit(cell.0, cell.1, epoch) {
        return Err((reason, slot));
    }
    let address = core.replies.insert(slot)?;
    core.enqueue_with(cell.0, || wrap(cell, vtable, epoch, Meta::Reply(address), message));
    Ok(address)
}

#[expect(clippy::too_many_arguments, reason = "one step of the path, called twice above")]
fn ask_other_shard<M: Message>(
    shard: &ShardCell,
    to: u16,
    cell: (u32, u32),
    target: Option<VirtualTarget>,
    epoch: EpochTag,
    vtable: &'static VTable,
    message: M,
    slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let mut core = shard.core.borrow_mut();
    if !core.mesh.has_room(to) || !core.mesh.reserve_ask(to) {
        return Err((Rejected::Full, slot));
    }
    let deadline_ns = slot.deadline_ns;
    let address = match core.replies.insert(slot) {
        Ok(address) => address,
        Err(refused) => {
            core.mesh.cancel_ask(to);
            return Err(refused);
        }
    };
    let context =
        ContextBlock { asker: Asker::Slot(address), deadline_ns, sender: core.running, target, ..ContextBlock::new() };
    core.mesh.push(to, wrap(cell, vtable, epoch, Meta::Context(Box::new(context)), message));
    Ok(address)
}

fn ask_node<M: Message>(
    shard: &ShardCell,
    id: &VirtualId,
    peer: NodeId,
    ttl: Duration,
    message: &M,
    mut slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    slot.peer = Some(peer);
    let address = shard.core.borrow_mut().replies.insert(slot)?;
    match outbound::send_message(shard, id, peer, FrameKind::Ask, address.0.0, ttl, message) {
        Ok(()) => Ok(address),
        Err(reason) => {
            let slot = shard.core.borrow_mut().replies.unsend(address);
            Err((reason, slot))
        }
    }
}

fn header<M: Message>(
    id: &VirtualId,
    kind: FrameKind,
    correlation: u64,
    ttl: Duration,
    shard: u16,
) -> Result<EncodedMessage, Rejected> {
    let ops = const { M::WIRE };
    let ops = ops.as_ref().ok_or(Rejected::NoHandler)?;
    let position = id.position.ok_or(Rejected::NoHandler)?;
    let group = id.slot.group();
    Ok(EncodedMessage {
        kind,
        message: (ops.id, ops.version),
        actor_type: id.engine.registry.types[position].id,
        group,
        epoch: id.engine.placement.epoch(group),
        correlation,
        ttl_ns: u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX),
        shard: shardstage_codec::ShardId::new(shard),
    })
}

fn encode<M: Message>(
    out: &mut AlignedBytes,
    id: &VirtualId,
    kind: FrameKind,
    correlation: u64,
    ttl: Duration,
    shard: u16,
    message: &M,
) -> Result<(), Rejected> {
    let ops = const { M::WIRE };
    let encode = ops.as_ref().ok_or(Rejected::NoHandler)?.encode;
    let header = header::<M>(id, kind, correlation, ttl, shard)?;
    outbound::encode_message(out, &header, &id.key, message, encode)?;
    Ok(())
}

fn lane_of(id: &VirtualId) -> Lane {
    id.position.map_or(Lane::User, |position| id.engine.registry.types[position].lane)
}

fn encode_outside<M: Message>(
    id: &VirtualId,
    peer: NodeId,
    kind: FrameKind,
    ttl: Duration,
    message: &M,
) -> Result<RemoteSend, Rejected> {
    let registered = id.position.map(|position| &id.engine.registry.types[position]);
    if registered.is_some_and(|registered| outbound::has_no_room(id.engine, peer, registered.id, &id.key)) {
        return Err(Rejected::Full);
    }
    let shard = shard_of(id.slot, id.engine.shard_count());
    let mut frame = AlignedBytes::new();
    encode(&mut frame, id, kind, 0, ttl, shard, message)?;
    Ok(RemoteSend { peer, lane: lane_of(id), frame, asker: None, ttl_ns: 0, group: id.slot.group() })
}

/// Asks from a thread or task outside the shards of the target's engine; every refusal arrives as the answer.
pub(crate) fn ask_from_outside<M: Message>(question: Question<M>, reply: Arc<ForeignReply<M::Reply>>) {
    let Question { target, vtable, message, ttl } = question;
    let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    let asker: Arc<dyn ForeignAsker> = reply.clone();
    let refuse = |reason| reply.fail(AskError::Rejected(reason));
    let context = |target| ContextBlock { asker: Asker::Foreign(asker.clone()), ttl_ns, target, ..ContextBlock::new() };
    let sent = match target {
        Target::Actor(id) => {
            if id.link().short.contains(id.index(), id.generation()) {
                return refuse(Rejected::Full);
            }
            let meta = Meta::Context(Box::new(context(None)));
            id.link().inject(wrap((id.index(), id.generation()), vtable, EpochTag::BY_GENERATION, meta, message))
        }
        Target::Virtual(id) => {
            let Some(position) = id.position else { return refuse(Rejected::NoHandler) };
            let to = shard_of(id.slot, id.engine.shard_count());
            match place(&id) {
                Place::Shard(_) => {
                    let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
                    let meta = Meta::Context(Box::new(context(Some(target_of(&id, position)))));
                    id.engine.link(to).inject(wrap((0, 0), vtable, epoch, meta, message))
                }
                Place::Node(peer) => match encode_outside(&id, peer, FrameKind::Ask, ttl, &message) {
                    Ok(mut send) => {
                        send.asker = Some(asker.clone());
                        send.ttl_ns = ttl_ns;
                        id.engine.link(to).inject(send.into_envelope())
                    }
                    Err(reason) => return refuse(reason),
                },
            }
        }
    };
    if let Err((reason, envelope)) = sent {
        // Before the envelope's drop, which would answer `Closed`.
        refuse(reason);
        drop(envelope);
    }
}

impl ShardCell {
    /// Sends a frame that a thread outside the shards has encoded.
    pub(crate) fn remote_send(&self, mut send: RemoteSend) {
        let (peer, lane, ttl_ns, group) = (send.peer, send.lane, send.ttl_ns, send.group);
        let mut frame = std::mem::take(&mut send.frame);
        let Some(asker) = send.asker.take() else {
            if let Err(reason) = outbound::send(self, peer, lane, &frame) {
                self.link.engine().dead_letters.count(reason.into());
            }
            return;
        };
        let now_ns = self.core.borrow().now_ns;
        let registered = asker.clone().register(self, now_ns.saturating_add(ttl_ns), Some(group));
        let address = match registered {
            Ok(address) => address,
            Err(reason) => return asker.fail(AskError::Rejected(reason)),
        };
        if let Some(slot) = self.core.borrow_mut().replies.waiting(address) {
            slot.peer = Some(peer);
        }
        let mut header = FrameHeader::decode(&frame).expect("encoded by this process");
        header.correlation = address.0.0;
        header.shard = self.link.shard();
        header.encode(&mut frame);
        if let Err(reason) = outbound::send(self, peer, lane, &frame) {
            crate::reply::fail_here(self, address, AskError::Rejected(reason));
        }
    }
}
