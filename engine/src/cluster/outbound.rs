//! Messages and replies out to other nodes: value -> codec -> bytes reserved on a lane.
//!
//! Invariant: what `send` accepts is on the lane in call order; what it refuses was not sent at all.

use std::time::Duration;

use shardstage_codec::{
    self as codec, ActorTypeId, AlignedBytes, EncodeError, Epoch, FrameHeader, FrameKind, GroupId, MessageId, NodeId,
    ReplyStatus, ShortHeader,
};

use super::routes::Form;
use crate::engine_link::EngineLink;
use crate::error::{AskError, Panicked, Rejected, Unknown};
use crate::fan_out::{Members, Numbers, Source};
use crate::key::Key;
use crate::limits::{DEFINED_AT_ONCE, FAN_OUT_NUMBERED};
use crate::message::Message;
use crate::port::transport::{Lane, ReserveError};
use crate::reply::RemoteAsker;
use crate::shard::ShardCell;
use crate::virtual_ref::VirtualId;

/// An encoded frame that waits for the transport.
pub(crate) struct PendingFrame {
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) bytes: AlignedBytes,
}

/// A message as bytes, ready for a lane.
pub(crate) struct EncodedMessage {
    pub(crate) kind: FrameKind,
    pub(crate) message: (MessageId, u16),
    pub(crate) actor_type: codec::ActorTypeId,
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    pub(crate) correlation: u64,
    pub(crate) ttl_ns: u64,
    pub(crate) shard: codec::ShardId,
}

impl EncodedMessage {
    /// Its frame's header.
    pub(crate) fn frame(&self) -> FrameHeader {
        FrameHeader {
            message_version: self.message.1,
            group: self.group,
            message_id: self.message.0,
            actor_type: self.actor_type,
            group_epoch: self.epoch,
            correlation: self.correlation,
            ttl_ns: self.ttl_ns,
            shard: self.shard,
            ..FrameHeader::new(self.kind)
        }
    }
}

/// Appends the frame of a message that carries a request.
pub(crate) fn append_carried(
    out: &mut AlignedBytes,
    header: FrameHeader,
    key: &str,
    block: &codec::RequestBlock<'_>,
    encode: impl FnOnce(&mut AlignedBytes) -> Result<usize, EncodeError>,
) -> Result<usize, Rejected> {
    let written = codec::append_frame_with(out, header, key, |out| {
        let len = codec::request::append(out, block) + encode(out)?;
        let limit = codec::limits::PAYLOAD_BYTES_MAX;
        if len > limit { Err(EncodeError::TooLarge { limit }) } else { Ok(len) }
    });
    written.map_err(|_| Rejected::TooLarge)
}

/// Sends a message that carries a request to a virtual actor of another node, with a full header; `ask` says its kind, its
/// correlation and the time left.
pub(crate) fn send_carried<M: Message>(
    shard: &ShardCell,
    id: &VirtualId,
    peer: NodeId,
    ask: (FrameKind, u64, Duration),
    request: &crate::request::Request,
    message: &M,
) -> Result<(), Rejected> {
    let ops = const { M::WIRE };
    let ops = ops.as_ref().ok_or(Rejected::NoHandler)?;
    let position = id.position.ok_or(Rejected::NoHandler)?;
    let registered = &id.engine.registry.types[position];
    if has_no_room(id.engine, peer, registered.id, &id.key) {
        return Err(Rejected::Full);
    }
    let (kind, correlation, ttl) = ask;
    let is_ask = kind == FrameKind::AskWith;
    let request = request.clone();
    let Some(request) = (if is_ask { request.for_ask() } else { request.for_tell() }) else {
        let kind = if is_ask { FrameKind::Ask } else { FrameKind::Tell };
        return send_message(shard, id, peer, kind, correlation, ttl, message);
    };
    let group = id.slot.group();
    let header = EncodedMessage {
        kind,
        message: (ops.id, ops.version),
        actor_type: registered.id,
        group,
        epoch: id.engine.placement.epoch(group),
        correlation,
        ttl_ns: ttl_of(kind, ttl)?,
        shard: shard.link.shard(),
    };
    let block = request.block(Some(shard.core.borrow().now_ns));
    let mut frame = AlignedBytes::new();
    append_carried(&mut frame, header.frame(), &id.key, &block, |out| (ops.encode)(message, out))?;
    send(shard, peer, registered.lane, &frame)
}

/// The time left as a frame says it, where 0 means all the time there is: an ask that has none left is not sent.
pub(crate) fn ttl_of(kind: FrameKind, ttl: Duration) -> Result<u64, Rejected> {
    if ttl.is_zero() && matches!(kind, FrameKind::Ask | FrameKind::AskWith) {
        return Err(Rejected::Expired);
    }
    Ok(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX))
}

/// Appends the frame of one message to `out`.
pub(crate) fn encode_message<M>(
    out: &mut AlignedBytes,
    header: &EncodedMessage,
    key: &str,
    message: &M,
    encode: fn(&M, &mut AlignedBytes) -> Result<usize, EncodeError>,
) -> Result<usize, Rejected> {
    codec::append_frame_with(out, header.frame(), key, |out| encode(message, out)).map_err(|_| Rejected::TooLarge)
}

/// Sends a message to a virtual actor of another node, or says why not. Never allocates once the shard's scratch room has
/// grown: what is sent to the same actor again and again has a number, and its frame 16 bytes of header.
pub(crate) fn send_message<M: Message>(
    shard: &ShardCell,
    id: &VirtualId,
    peer: NodeId,
    kind: FrameKind,
    correlation: u64,
    ttl: Duration,
    message: &M,
) -> Result<(), Rejected> {
    let ops = const { M::WIRE };
    let ops = ops.as_ref().ok_or(Rejected::NoHandler)?;
    let position = id.position.ok_or(Rejected::NoHandler)?;
    let registered = &id.engine.registry.types[position];
    if has_no_room(id.engine, peer, registered.id, &id.key) {
        return Err(Rejected::Full);
    }
    let ttl_ns = ttl_of(kind, ttl)?;
    let (group, lane) = (id.slot.group(), registered.lane);
    let epoch = id.engine.placement.epoch(group);
    let (mut scratch, form) = {
        let mut core = shard.core.borrow_mut();
        let form = core
            .routes
            .towards(peer, lane)
            .map_or(Form::Full, |(routes, hash)| routes.find(hash, position, (ops.id, ops.version), &id.key, epoch));
        (std::mem::take(&mut core.scratch), form)
    };
    scratch.clear();
    let header = FrameHeader {
        message_version: ops.version,
        group,
        message_id: ops.id,
        actor_type: registered.id,
        group_epoch: epoch,
        shard: shard.link.shard(),
        ..FrameHeader::new(kind)
    };
    let encoded = match form {
        Form::Full => {
            codec::append_frame_with(&mut scratch, FrameHeader { correlation, ttl_ns, ..header }, &id.key, |out| {
                (ops.encode)(message, out)
            })
        }
        Form::Known(route) | Form::Define(route) => {
            let defined = if matches!(form, Form::Define(_)) {
                let header = FrameHeader { kind: FrameKind::Route, correlation: u64::from(route), ..header };
                codec::append_frame_bytes(&mut scratch, header, &id.key, &[])
            } else {
                Ok(0)
            };
            let short = match kind {
                FrameKind::Ask => ShortHeader::Ask { route, ttl_ns, correlation },
                _ => ShortHeader::Tell { route },
            };
            defined.and_then(|_| codec::append_short_with(&mut scratch, short, |out| (ops.encode)(message, out)))
        }
    };
    let sent = encoded.map_err(|_| Rejected::TooLarge).and_then(|_| send(shard, peer, lane, &scratch));
    let mut core = shard.core.borrow_mut();
    core.scratch = scratch;
    if let (Ok(()), Form::Define(route)) = (sent, form)
        && let Some((routes, _)) = core.routes.towards(peer, lane)
    {
        routes.defined(route);
    }
    sent
}

/// Whether an actor at another node is known to have no room.
#[inline]
pub(crate) fn has_no_room(engine: &EngineLink, peer: NodeId, actor_type: ActorTypeId, key: &str) -> bool {
    engine.no_room(peer).is_some_and(|table| table.contains(actor_type, key))
}

/// Tells other nodes which receivers have room again.
pub(crate) fn send_due_room(shard: &ShardCell) {
    if shard.core.borrow().owed_room.due.is_empty() {
        return;
    }
    let due = std::mem::take(&mut shard.core.borrow_mut().owed_room.due);
    for owed in due {
        let group = codec::slot_of(owed.actor_type, &owed.key).group();
        let header = FrameHeader {
            group,
            actor_type: owed.actor_type,
            group_epoch: shard.link.engine().placement.epoch(group),
            shard: shard.link.shard(),
            ..FrameHeader::new(FrameKind::Room)
        };
        let mut out = AlignedBytes::new();
        codec::append_frame_bytes(&mut out, header, &owed.key, &[]).expect("a frame with nothing but a key fits");
        // A session that is gone has taken the mark with it.
        let _ = send(shard, owed.peer, Lane::Control, &out);
    }
}

/// The frame that refuses a message: the answer to an ask, or what brings a tell back. Names the receiver if that is `known`.
pub(crate) fn refusal(header: FrameHeader, known: Option<(ActorTypeId, &Key)>) -> AlignedBytes {
    let mut out = AlignedBytes::new();
    let (actor_type, key) = known.map_or((ActorTypeId::new(0), ""), |(actor_type, key)| (actor_type, key.as_str()));
    codec::append_frame_bytes(&mut out, FrameHeader { actor_type, ..header }, key, &[])
        .expect("a frame with nothing but a key fits");
    out
}

/// Sends one message to many virtual actors of one type at `peer`, or says why none was sent: one frame with the numbers of
/// the receivers, and the message once. `numbers` keeps the numbers from one message to the next.
pub(crate) fn send_fan_out(
    shard: &ShardCell,
    source: &dyn Source,
    peer: NodeId,
    members: &Members,
    numbers: &mut Numbers,
) -> Result<(), Rejected> {
    let message = source.wire().ok_or(Rejected::NoHandler)?;
    let position = members.position().ok_or(Rejected::NoHandler)?;
    let engine = shard.link.engine();
    let registered = &engine.registry.types[position];
    let lane = registered.lane;
    number_members(shard, peer, lane, position, message, members, numbers)?;
    let mut scratch = std::mem::take(&mut shard.core.borrow_mut().scratch);
    scratch.clear();
    let header = FrameHeader {
        message_id: message.0,
        message_version: message.1,
        actor_type: registered.id,
        shard: shard.link.shard(),
        ..FrameHeader::new(FrameKind::FanOut)
    };
    let encoded = codec::append_frame_with(&mut scratch, header, "", |out| {
        let list = codec::fan_out::append_receivers(out, &numbers.numbers);
        let len = list + source.encode(out)?;
        let limit = codec::limits::PAYLOAD_BYTES_MAX;
        if len > limit { Err(EncodeError::TooLarge { limit }) } else { Ok(len) }
    });
    let sent = encoded.map_err(|_| Rejected::TooLarge).and_then(|_| send(shard, peer, lane, &scratch));
    shard.core.borrow_mut().scratch = scratch;
    sent
}

/// Makes sure that every receiver has a number, and that the peer knows it.
fn number_members(
    shard: &ShardCell,
    peer: NodeId,
    lane: Lane,
    position: usize,
    message: (MessageId, u16),
    members: &Members,
    numbers: &mut Numbers,
) -> Result<(), Rejected> {
    if members.len() > FAN_OUT_NUMBERED {
        return Err(Rejected::TooLarge);
    }
    let engine = shard.link.engine();
    let placed = engine.placement.version();
    // The second pass finds what the first has defined, unless that has driven out numbers of its own.
    for _ in 0..2 {
        let mut core = shard.core.borrow_mut();
        let (routes, hash) = core.routes.towards(peer, lane).ok_or(Rejected::NoHandler)?;
        let version = routes.version();
        let is_known = numbers.shard.is_some_and(|known| std::ptr::eq(known, shard.link))
            && numbers.version == version
            && numbers.placed == placed
            && numbers.message == Some(message);
        if is_known {
            return Ok(());
        }
        numbers.shard = None;
        numbers.numbers.clear();
        let mut fresh = Vec::new();
        for (key, slot) in members.keys() {
            let epoch = engine.placement.epoch(slot.group());
            let (number, define) = routes.assign(hash, position, message, key, epoch);
            numbers.numbers.push(number);
            if define {
                fresh.push((number, key, slot, epoch));
            }
        }
        let version = routes.version();
        drop(core);
        for batch in fresh.chunks(DEFINED_AT_ONCE) {
            let mut frames = AlignedBytes::new();
            for (number, key, slot, epoch) in batch {
                let header = FrameHeader {
                    message_version: message.1,
                    group: slot.group(),
                    message_id: message.0,
                    actor_type: engine.registry.types[position].id,
                    group_epoch: *epoch,
                    correlation: u64::from(*number),
                    shard: shard.link.shard(),
                    ..FrameHeader::new(FrameKind::Route)
                };
                codec::append_frame_bytes(&mut frames, header, key, &[]).map_err(|_| Rejected::TooLarge)?;
            }
            send(shard, peer, lane, &frames)?;
            let mut core = shard.core.borrow_mut();
            let (routes, _) = core.routes.towards(peer, lane).ok_or(Rejected::NoHandler)?;
            batch.iter().for_each(|(number, ..)| routes.defined(*number));
        }
        (numbers.version, numbers.placed) = (version, placed);
        (numbers.shard, numbers.message) = (Some(shard.link), Some(message));
        let evicted = {
            let mut distinct = numbers.numbers.clone();
            distinct.sort_unstable();
            distinct.dedup();
            distinct.len() != numbers.numbers.len()
        };
        if !evicted {
            return Ok(());
        }
        numbers.shard = None;
    }
    Err(Rejected::Full)
}

/// Sends a whole frame to `peer`, or says why not.
pub(crate) fn send(shard: &ShardCell, peer: NodeId, lane: Lane, frame: &[u8]) -> Result<(), Rejected> {
    let Ok(mut transport) = shard.transport.try_borrow_mut() else {
        // Inside the transport's own poll: the frame leaves later in this turn.
        let mut bytes = AlignedBytes::with_capacity(frame.len());
        bytes.extend_from_slice(frame);
        shard.core.borrow_mut().frames.push_back(PendingFrame { peer, lane, bytes });
        return Ok(());
    };
    let Some(transport) = transport.as_mut() else { return Err(Rejected::Unavailable) };
    match transport.reserve(peer, lane, frame.len()) {
        Ok(room) => {
            room.copy_from_slice(frame);
            shard.core.borrow_mut().counters.frames_sent += 1;
            Ok(())
        }
        Err(ReserveError::Full) => Err(Rejected::Full),
        Err(ReserveError::Down | ReserveError::UnknownPeer) => Err(Rejected::Unavailable),
        Err(ReserveError::TooLarge { .. }) => Err(Rejected::TooLarge),
    }
}

/// Sends the answer to a remote asker. If its node is gone the asker has learnt that by itself.
pub(crate) fn send_reply<R>(shard: &ShardCell, asker: &RemoteAsker<R>, value: Result<R, AskError>) {
    let wire = asker.wire;
    let header = FrameHeader {
        message_id: wire.id,
        message_version: wire.version,
        group: asker.group,
        group_epoch: asker.epoch,
        correlation: asker.correlation,
        shard: shard.link.shard(),
        ..FrameHeader::new(FrameKind::Reply)
    };
    let mut out = std::mem::take(&mut shard.core.borrow_mut().scratch);
    out.clear();
    let failed = |out: &mut AlignedBytes, text: &[u8]| {
        codec::append_frame_bytes(out, FrameHeader { status: ReplyStatus::Failed, ..header }, "", text)
    };
    let written = match value {
        Ok(value) => {
            let short = ShortHeader::Reply { epoch: low_bits(asker.epoch), correlation: asker.correlation };
            codec::append_short_with(&mut out, short, |out| (wire.encode)(&value, out))
                .or_else(|error| failed(&mut out, format!("the reply cannot be sent: {error}").as_bytes()))
        }
        Err(AskError::Failed(Panicked(why))) => {
            failed(&mut out, &why.as_bytes()[..why.len().min(codec::limits::USER_BYTES_MAX)])
        }
        Err(error) => codec::append_frame_bytes(&mut out, FrameHeader { status: status_of(&error), ..header }, "", &[]),
    };
    written.expect("an empty reply or a bounded text fits a frame");
    // Control has room for it: the asker reserved it. If the session is gone, so is the asker's interest.
    let _ = send(shard, asker.peer, Lane::Control, &out);
    shard.core.borrow_mut().scratch = out;
}

/// What a short reply carries of an epoch.
#[expect(clippy::cast_possible_truncation, reason = "the low bits are what is compared")]
pub(crate) fn low_bits(epoch: Epoch) -> u32 {
    epoch.get() as u32
}

fn status_of(error: &AskError) -> ReplyStatus {
    match error {
        AskError::Rejected(Rejected::Full) => ReplyStatus::Full,
        AskError::Rejected(Rejected::Closed) => ReplyStatus::Closed,
        AskError::Rejected(Rejected::Expired) => ReplyStatus::Expired,
        AskError::Rejected(Rejected::NoHandler) => ReplyStatus::NoHandler,
        AskError::Rejected(Rejected::Unavailable | Rejected::TooLarge) => ReplyStatus::Unavailable,
        AskError::Failed(_) | AskError::Deadlock(_) => ReplyStatus::Failed,
        AskError::Unknown(Unknown::Deadline) => ReplyStatus::Deadline,
        AskError::Unknown(Unknown::PeerLost) => ReplyStatus::PeerLost,
        AskError::Unknown(Unknown::Fenced) => ReplyStatus::Fenced,
    }
}

/// What a reply's status means to the asker; `None` for a value.
pub(crate) fn error_of(status: ReplyStatus, text: &[u8]) -> Option<AskError> {
    Some(match status {
        ReplyStatus::Ok => return None,
        ReplyStatus::Full => AskError::Rejected(Rejected::Full),
        ReplyStatus::Closed => AskError::Rejected(Rejected::Closed),
        ReplyStatus::Expired => AskError::Rejected(Rejected::Expired),
        ReplyStatus::NoHandler => AskError::Rejected(Rejected::NoHandler),
        ReplyStatus::Unavailable => AskError::Rejected(Rejected::Unavailable),
        ReplyStatus::Failed => AskError::Failed(Panicked(String::from_utf8_lossy(text).into())),
        ReplyStatus::Fenced => AskError::Unknown(Unknown::Fenced),
        ReplyStatus::Deadline => AskError::Unknown(Unknown::Deadline),
        ReplyStatus::PeerLost => AskError::Unknown(Unknown::PeerLost),
    })
}
