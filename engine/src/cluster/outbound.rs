//! Messages and replies out to other nodes: value -> codec -> bytes reserved on a lane.
//!
//! Invariant: what `send` accepts is on the lane in call order; what it refuses was not sent at all.

use shardstage_codec::{
    self as codec, AlignedBytes, EncodeError, Epoch, FrameHeader, FrameKind, GroupId, MessageId, NodeId, ReplyStatus,
};

use crate::error::{AskError, Panicked, Rejected, Unknown};
use crate::port::transport::{Lane, ReserveError};
use crate::reply::RemoteAsker;
use crate::shard::ShardCell;

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

/// Appends the frame of one message to `out`.
pub(crate) fn encode_message<M>(
    out: &mut AlignedBytes,
    header: &EncodedMessage,
    key: &str,
    message: &M,
    encode: fn(&M, &mut AlignedBytes) -> Result<usize, EncodeError>,
) -> Result<usize, Rejected> {
    let frame = FrameHeader {
        message_version: header.message.1,
        group: header.group,
        message_id: header.message.0,
        actor_type: header.actor_type,
        group_epoch: header.epoch,
        correlation: header.correlation,
        ttl_ns: header.ttl_ns,
        shard: header.shard,
        ..FrameHeader::new(header.kind)
    };
    codec::append_frame_with(out, frame, key, |out| encode(message, out)).map_err(|_| Rejected::TooLarge)
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
    let header = FrameHeader {
        message_id: asker.message.0,
        message_version: asker.message.1,
        group: asker.group,
        group_epoch: asker.epoch,
        correlation: asker.correlation,
        shard: shard.link.shard(),
        ..FrameHeader::new(FrameKind::Reply)
    };
    let mut out = AlignedBytes::new();
    let written = match value {
        Ok(value) => {
            codec::append_frame_with(&mut out, header, "", |out| (asker.encode)(&value, out)).or_else(|error| {
                let header = FrameHeader { status: ReplyStatus::Failed, ..header };
                codec::append_frame_bytes(&mut out, header, "", format!("the reply cannot be sent: {error}").as_bytes())
            })
        }
        Err(AskError::Failed(Panicked(why))) => {
            let header = FrameHeader { status: ReplyStatus::Failed, ..header };
            let text = &why.as_bytes()[..why.len().min(codec::limits::USER_BYTES_MAX)];
            codec::append_frame_bytes(&mut out, header, "", text)
        }
        Err(error) => codec::append_frame_bytes(&mut out, FrameHeader { status: status_of(&error), ..header }, "", &[]),
    };
    written.expect("an empty reply or a bounded text fits a frame");
    // Control has room for it: the asker reserved it. If the session is gone, so is the asker's interest.
    let _ = send(shard, asker.peer, Lane::Control, &out);
}

fn status_of(error: &AskError) -> ReplyStatus {
    match error {
        AskError::Rejected(Rejected::Full) => ReplyStatus::Full,
        AskError::Rejected(Rejected::Closed) => ReplyStatus::Closed,
        AskError::Rejected(Rejected::Expired) => ReplyStatus::Expired,
        AskError::Rejected(Rejected::NoHandler) => ReplyStatus::NoHandler,
        AskError::Rejected(Rejected::Unavailable | Rejected::TooLarge) => ReplyStatus::Unavailable,
        AskError::Failed(_) => ReplyStatus::Failed,
        AskError::Unknown(Unknown::Deadline | Unknown::PeerLost | Unknown::Fenced) => ReplyStatus::Fenced,
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
    })
}
