//! Routing: which queue a message enters. The second step of the message path, after `tell` or `ask`.
//!
//! Invariant: a message enters exactly one queue, or comes back with the reason. Virtual targets resolve here: this shard's
//! directory, another shard's ring, or a frame to the owning node.

mod by_weight;
mod neighbour;

use std::sync::Arc;
use std::time::Duration;

use shardstage_codec::{AlignedBytes, FrameHeader, FrameKind, NodeId};

use by_weight::ask_by_weight;
pub(crate) use by_weight::tell_by_weight;
pub(crate) use neighbour::ask_neighbour;

use crate::actor_ref::give_back;
use crate::ask::Target;
use crate::cluster::outbound::{self, EncodedMessage};
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::credit::{Credit, CreditKey};
use crate::envelope::{Envelope, EpochTag, Meta, PackedAddress, VTable, has_spare_word};
use crate::error::{AskError, Rejected, TellError};
use crate::key::Key;
use crate::link::ShardLink;
use crate::message::Message;
use crate::port::transport::Lane;
use crate::reply::{ForeignAsker, ForeignReply, NewSlot, ReplyAddress};
use crate::shard::{ShardCell, current};
use crate::signal::RemoteSend;
use crate::virtual_ref::VirtualId;
use crate::waiting::Whom;

/// Where a virtual actor lives now.
pub(crate) enum Place {
    Shard(u16),
    Node(NodeId),
}

pub(crate) fn place(id: &VirtualId) -> Place {
    let owner = id.engine.placement.owner(id.slot.group());
    if id.shard.is_some() || owner == id.engine.me() { Place::Shard(id.home()) } else { Place::Node(owner) }
}

/// The place in the registry and the shard of a virtual actor that this node hosts.
pub(crate) fn home_of(id: &VirtualId) -> Option<(usize, &'static ShardLink)> {
    match (place(id), id.position) {
        (Place::Shard(shard), Some(position)) => Some((position, id.engine.link(shard))),
        _ => None,
    }
}

/// Whether the target belongs to the engine of this shard, and no request is open.
pub(crate) fn is_home(shard: &ShardCell, target: &Target) -> bool {
    let engine = match target {
        Target::Actor(id) => id.link().engine(),
        Target::Virtual(id) => id.engine,
    };
    shard.is_plainly_of(engine)
}

pub(crate) fn deadline_ns(now_ns: u64, ttl: Duration) -> u64 {
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
pub(crate) fn unwrap<M: Message>(mut envelope: Envelope) -> M {
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

pub(crate) fn target_of(id: &VirtualId, position: usize) -> VirtualTarget {
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
        Some(shard) if shard.is_plainly_of(id.engine) => tell_virtual_from_shard(shard, id, position, vtable, message),
        _ => match crate::request::open() {
            None => tell_virtual_from_outside(id, position, vtable, message),
            Some(request) => crate::carried::tell(request, &Target::Virtual(id.clone()), vtable, message),
        },
    })
}

/// Tells whomever.
pub(crate) fn tell<M: Message>(target: &Target, vtable: &'static VTable, message: M) -> Result<(), TellError<M>> {
    match target {
        Target::Actor(id) => crate::actor_ref::tell(*id, vtable, message),
        Target::Virtual(id) => tell_virtual(id, vtable, message),
    }
}

/// Where a sender stands in line for the target, and under which name.
pub(crate) fn line_of(target: &Target) -> (&'static ShardLink, CreditKey, Whom) {
    match target {
        Target::Actor(id) => (id.link(), id.credit_key(), Whom::Cell(id.index(), id.generation())),
        Target::Virtual(id) => {
            let there = id.engine.link(id.home());
            match (place(id), id.position) {
                (Place::Shard(_), Some(position)) => (there, id.credit, Whom::Name(position, id.key.clone())),
                // The lane is this shard's own; threads outside use the one of the target's slot.
                _ => {
                    let home = |shard: &ShardCell| std::ptr::eq(shard.link.engine(), id.engine).then_some(shard.link);
                    (current(|shard| shard.and_then(home)).unwrap_or(there), id.credit, Whom::Away)
                }
            }
        }
    }
}

/// The first try of a waiting sender: like a tell, but what is under way when the receiver runs short is not lost.
pub(crate) fn send_now<M: Message>(target: &Target, vtable: &'static VTable, message: M) -> Result<(), TellError<M>> {
    let (link, key, whom) = line_of(target);
    let here = current(|shard| shard.is_some_and(|shard| std::ptr::eq(shard.link, link)));
    if here || matches!(whom, Whom::Away) {
        return tell(target, vtable, message);
    }
    let Ok(credit) = link.take_credit(key) else { return Err(TellError::Full(message)) };
    send_with(target, vtable, message, credit).inspect_err(|_| match (target, whom) {
        (Target::Actor(id), _) => give_back(*id, credit.tokens()),
        (Target::Virtual(id), Whom::Name(position, _)) => {
            give_back_virtual(id, link.shard().get(), position, credit);
        }
        (Target::Virtual(_), _) => {}
    })
}

/// Sends in room that was reserved for it (`Credit::Token`) or that nobody counts. `Full` only says that the ring or queue to
/// the shard is full, and the token is still the caller's.
pub(crate) fn send_with<M: Message>(
    target: &Target,
    vtable: &'static VTable,
    message: M,
    credit: Credit,
) -> Result<(), TellError<M>> {
    let (link, _, _) = line_of(target);
    let wrap_granted = |sender: Option<PackedAddress>, message: M| {
        let mut envelope = match target {
            Target::Actor(id) => {
                let meta = sender.map_or(Meta::None, Meta::Sender);
                wrap((id.index(), id.generation()), vtable, EpochTag::BY_GENERATION, meta, message)
            }
            Target::Virtual(id) => {
                let position = id.position.expect("only a registered type has a line with room");
                let context = ContextBlock { sender, target: Some(target_of(id, position)), ..ContextBlock::new() };
                let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
                wrap((0, 0), vtable, epoch, Meta::Context(link.contexts.make(context)), message)
            }
        };
        envelope.set_credit(credit);
        envelope.set_patient();
        envelope
    };
    current(|shard| match shard {
        Some(shard) if shard.is_plainly(link) => {
            let mut core = shard.core.borrow_mut();
            if let Target::Actor(id) = target
                && core.cells.get(id.index(), id.generation()).is_none_or(|cell| !cell.admits())
            {
                return Err(TellError::Closed(message));
            }
            let sender = core.running;
            drop(core);
            shard.deliver(wrap_granted(sender, message));
            Ok(())
        }
        Some(shard) if shard.is_plainly_of(link.engine()) => {
            let mut core = shard.core.borrow_mut();
            let to = link.shard().get();
            if !core.mesh.has_room(to) {
                return Err(TellError::Full(message));
            }
            let sender = core.running;
            core.mesh.push(to, wrap_granted(sender, message));
            Ok(())
        }
        shard => {
            let sent = match crate::request::open() {
                None => link.inject(wrap_granted(None, message)),
                Some(request) => {
                    let sender = shard.and_then(|shard| shard.core.borrow().running);
                    crate::carried::granted(request, link, wrap_granted(sender, message))
                }
            };
            sent.map_err(|(reason, envelope)| TellError::new(reason, unwrap::<M>(envelope)))
        }
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
                drop(core);
                return tell_by_weight(shard, cell, epoch, vtable, reason, message);
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
            let Ok(credit) = id.engine.link(to).take_credit(id.credit) else { return Err(TellError::Full(message)) };
            let context =
                ContextBlock { sender: core.running, target: Some(target_of(id, position)), ..ContextBlock::new() };
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            let context = id.engine.link(to).contexts.make(context);
            core.mesh.push_with(to, || {
                let mut envelope = wrap((0, 0), vtable, epoch, Meta::Context(context), message);
                envelope.set_credit(credit);
                envelope
            });
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
    let to = id.home();
    let (mut envelope, credit) = match place(id) {
        Place::Shard(_) => {
            let Ok(credit) = id.engine.link(to).take_credit(id.credit) else { return Err(TellError::Full(message)) };
            let context = ContextBlock { target: Some(target_of(id, position)), ..ContextBlock::new() };
            let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
            let context = id.engine.link(to).contexts.make(context);
            (wrap((0, 0), vtable, epoch, Meta::Context(context), message), credit)
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
    envelope.set_credit(credit);
    id.engine.link(to).inject(envelope).map_err(|(reason, envelope)| {
        give_back_virtual(id, to, position, credit);
        TellError::new(reason, unwrap::<M>(envelope))
    })
}

/// Gives back the token of a message to a virtual actor that was not sent.
pub(crate) fn give_back_virtual(id: &VirtualId, to: u16, position: usize, credit: Credit) {
    if credit == Credit::Token {
        give_back_name(id.engine.link(to), id.credit, position, id.key.clone());
    }
}

/// The same, of the actor `key` of the registered type at `position`.
pub(crate) fn give_back_name(link: &'static ShardLink, credit: CreditKey, position: usize, key: Key) {
    if !link.credit.give_back(credit, 1) {
        link.run(Box::new(move |shard| {
            let mut core = shard.core.borrow_mut();
            if let Some((index, generation)) = core.directory.get(position, &key) {
                core.redeem(index, generation, 1);
            }
        }));
    }
}

/// Asks from a shard; the slot comes back if the message was refused.
pub(crate) fn ask_from_shard<M: Message>(
    shard: &ShardCell,
    target: &Target,
    (vtable, message, ttl): (&'static VTable, M, Duration),
    mut slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let now_ns = shard.core.borrow().now_ns;
    slot.deadline_ns = deadline_ns(now_ns, ttl);
    match target {
        Target::Actor(id) if std::ptr::eq(id.link(), shard.link) => {
            ask_here(shard, (id.index(), id.generation()), EpochTag::BY_GENERATION, vtable, message, slot)
        }
        Target::Actor(id) => {
            let to = id.link().shard().get();
            ask_other_shard(
                shard,
                to,
                id.credit_key(),
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
            match place(id) {
                Place::Node(peer) => ask_node(shard, id, peer, ttl, &message, slot),
                Place::Shard(to) if to == shard.link.shard().get() => {
                    let activated = shard.core.borrow_mut().activate_virtual(position, &id.key, epoch);
                    match activated {
                        Ok(cell) => ask_here(shard, cell, epoch, vtable, message, slot),
                        Err(reason) => Err((reason, slot)),
                    }
                }
                Place::Shard(to) => {
                    let target = Some(target_of(id, position));
                    ask_other_shard(shard, to, id.credit, (0, 0), target, epoch, vtable, message, slot)
                }
            }
        }
    }
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
        drop(core);
        return ask_by_weight(shard, cell, reason, (vtable, message), slot);
    }
    let address = core.replies.insert(slot)?;
    core.enqueue_with(cell.0, || wrap(cell, vtable, epoch, Meta::Reply(address), message));
    Ok(address)
}

#[expect(clippy::too_many_arguments, reason = "one step of the path, called twice above")]
fn ask_other_shard<M: Message>(
    shard: &ShardCell,
    to: u16,
    key: CreditKey,
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
    // Last, so that nothing has to give it back.
    let Ok(credit) = shard.link.engine().link(to).take_credit(key) else {
        core.mesh.cancel_ask(to);
        return Err((Rejected::Full, core.replies.unsend(address)));
    };
    let mut envelope = if target.is_none() && const { has_spare_word::<M>() } {
        let mut envelope = wrap(cell, vtable, epoch, Meta::Reply(address), message);
        envelope.set_deadline(deadline_ns);
        envelope
    } else {
        let context = ContextBlock { asker: Asker::Slot(address), deadline_ns, target, ..ContextBlock::new() };
        let context = shard.link.engine().link(to).contexts.make(context);
        wrap(cell, vtable, epoch, Meta::Context(context), message)
    };
    envelope.set_credit(credit);
    core.mesh.push(to, envelope);
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
    match outbound::send_message(shard, id, peer, FrameKind::Ask, address.0.word(), ttl, message) {
        Ok(()) => Ok(address),
        Err(reason) => {
            let slot = shard.core.borrow_mut().replies.unsend(address);
            Err((reason, slot))
        }
    }
}

pub(crate) fn header<M: Message>(
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
        ttl_ns: outbound::ttl_of(kind, ttl)?,
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

pub(crate) fn lane_of(id: &VirtualId) -> Lane {
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
    let shard = id.home();
    let mut frame = AlignedBytes::new();
    encode(&mut frame, id, kind, 0, ttl, shard, message)?;
    Ok(RemoteSend { peer, lane: lane_of(id), frame, asker: None, ttl_ns: 0, group: id.slot.group() })
}

/// Asks from a thread or task outside the shards of the target's engine; every refusal arrives as the answer.
pub(crate) fn ask_from_outside<M: Message>(
    target: &Target,
    (vtable, message, ttl): (&'static VTable, M, Duration),
    reply: Arc<ForeignReply<M::Reply>>,
) {
    let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    let asker: Arc<dyn ForeignAsker> = reply.clone();
    let refuse = |reason| reply.fail(AskError::Rejected(reason));
    let context = |target| ContextBlock { asker: Asker::Foreign(asker.clone()), ttl_ns, target, ..ContextBlock::new() };
    let sent = match target {
        Target::Actor(id) => {
            let Ok(credit) = id.link().take_credit(id.credit_key()) else { return refuse(Rejected::Full) };
            let meta = Meta::Context(id.link().contexts.make(context(None)));
            let cell = (id.index(), id.generation());
            let mut envelope = wrap(cell, vtable, EpochTag::BY_GENERATION, meta, message);
            envelope.set_credit(credit);
            id.link().inject(envelope).inspect_err(|_| give_back(*id, credit.tokens()))
        }
        Target::Virtual(id) => {
            let Some(position) = id.position else { return refuse(Rejected::NoHandler) };
            let to = id.home();
            match place(id) {
                Place::Shard(_) => {
                    let epoch = EpochTag::of(id.engine.placement.epoch(id.slot.group()));
                    let Ok(credit) = id.engine.link(to).take_credit(id.credit) else { return refuse(Rejected::Full) };
                    let context = context(Some(target_of(id, position)));
                    let meta = Meta::Context(id.engine.link(to).contexts.make(context));
                    let mut envelope = wrap((0, 0), vtable, epoch, meta, message);
                    envelope.set_credit(credit);
                    let sent = id.engine.link(to).inject(envelope);
                    sent.inspect_err(|_| give_back_virtual(id, to, position, credit))
                }
                Place::Node(peer) => match encode_outside(id, peer, FrameKind::Ask, ttl, &message) {
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
        header.correlation = address.0.word();
        header.shard = self.link.shard();
        header.encode(&mut frame);
        if let Err(reason) = outbound::send(self, peer, lane, &frame) {
            crate::reply::fail_here(self, address, AskError::Rejected(reason));
        }
    }
}
