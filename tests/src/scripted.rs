//! The other nodes of a cluster, played by a test: what they say to each shard of the one real node, and what they hear.
//!
//! Everything that was said since a shard's last turn arrives in its next one, in order.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use shardstage::port::driver::Driver;
use shardstage::port::frame::FrameBuffer;
use shardstage::port::transport::{
    Lane, PeerDown, ReserveError, Source, Transport, TransportEvents, TransportFactory, TransportSeat,
};
use shardstage::{Epoch, NodeId, VirtualActor};
use shardstage_codec::{
    ActorTypeId, AlignedBytes, FrameHeader, FrameKind, ShortHeader, WireValue, append_frame, append_short_with, encode,
    is_short, slot_of,
};

/// What happens to a shard's transport.
enum Line {
    Up(NodeId),
    Down(NodeId),
    Frame(NodeId, AlignedBytes),
}

/// One frame that the real node has sent.
pub struct Heard {
    /// To whom.
    pub peer: NodeId,
    /// From which shard.
    pub shard: u16,
    /// Its header; made up where the frame was a short reply.
    pub header: FrameHeader,
}

#[derive(Default)]
struct Script {
    says: Vec<VecDeque<Line>>,
    heard: Vec<Heard>,
}

/// The script of all nodes but one; the transport of that one.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics with the script in hand")
    }

    fn line(&self, shard: u16, line: Line) {
        let mut script = self.script();
        let shard = usize::from(shard);
        if script.says.len() <= shard {
            script.says.resize_with(shard + 1, VecDeque::new);
        }
        script.says[shard].push_back(line);
    }

    /// Opens a session of `peer` with a shard; it must not have one.
    pub fn up(&self, shard: u16, peer: NodeId) {
        self.line(shard, Line::Up(peer));
    }

    /// Ends it.
    pub fn down(&self, shard: u16, peer: NodeId) {
        self.line(shard, Line::Down(peer));
    }

    /// Sends a frame to a shard.
    pub fn say(&self, shard: u16, peer: NodeId, frame: AlignedBytes) {
        self.line(shard, Line::Frame(peer, frame));
    }

    /// Answers an ask with a value.
    ///
    /// # Panics
    /// When the value does not fit a frame.
    pub fn answer<T: WireValue>(&self, shard: u16, peer: NodeId, correlation: u64, value: &T) {
        let mut frame = AlignedBytes::new();
        let short = ShortHeader::Reply { epoch: 1, correlation };
        append_short_with(&mut frame, short, |out| encode(value, out)).expect("it fits");
        self.say(shard, peer, frame);
    }

    /// Takes the first frame of this kind that was heard.
    #[must_use]
    pub fn take(&self, kind: FrameKind) -> Option<Heard> {
        let mut script = self.script();
        let position = script.heard.iter().position(|heard| heard.header.kind == kind)?;
        Some(script.heard.remove(position))
    }
}

/// A message of another node to the actor of type `A` with this key.
///
/// # Panics
/// When it does not fit a frame.
#[must_use]
pub fn frame_to<A: VirtualActor, M: shardstage::WireMessage>(
    kind: FrameKind,
    key: &str,
    (correlation, ttl_ns): (u64, u64),
    message: &M,
) -> AlignedBytes {
    let actor_type = ActorTypeId::of(A::TYPE);
    let header = FrameHeader {
        message_id: M::ID,
        message_version: M::VERSION,
        group: slot_of(actor_type, key).group(),
        actor_type,
        group_epoch: Epoch::FIRST,
        correlation,
        ttl_ns,
        ..FrameHeader::new(kind)
    };
    let mut frame = AlignedBytes::new();
    append_frame(&mut frame, header, key, message).expect("it fits");
    frame
}

/// A key of type `A` that lives on this shard of this node, in a cluster of so many nodes of two shards.
///
/// # Panics
/// Never: some key lives there.
#[must_use]
pub fn key_at<A: VirtualActor>(node: NodeId, nodes: u32, shard: u16) -> String {
    let lives_there = |key: &String| {
        let slot = slot_of(ActorTypeId::of(A::TYPE), key);
        u32::from(slot.group().get()) % nodes == node.get() && slot.get() % 2 == shard
    };
    (0..).map(|number| format!("key-{number}")).find(lives_there).expect("some key lives there")
}

fn header_of(frame: &[u8]) -> FrameHeader {
    if !is_short(frame) {
        return FrameHeader::decode(frame).expect("the engine encodes sound frames");
    }
    let (short, _) = ShortHeader::decode(frame).expect("the engine encodes sound frames");
    let (kind, correlation, ttl_ns) = match short {
        ShortHeader::Tell { .. } => (FrameKind::Tell, 0, 0),
        ShortHeader::Ask { ttl_ns, correlation, .. } => (FrameKind::Ask, correlation, ttl_ns),
        ShortHeader::Reply { correlation, .. } => (FrameKind::Reply, correlation, 0),
    };
    FrameHeader { correlation, ttl_ns, ..FrameHeader::new(kind) }
}

struct ScriptedTransport {
    script: Scripted,
    shard: u16,
    sessions: u64,
    up: Vec<(NodeId, u64)>,
    room: Vec<(NodeId, AlignedBytes)>,
    now_ns: u64,
}

impl TransportFactory for Scripted {
    fn make(&self, seat: &TransportSeat) -> io::Result<Box<dyn Transport>> {
        let (script, shard) = (self.clone(), seat.shard.get());
        Ok(Box::new(ScriptedTransport { script, shard, sessions: 0, up: Vec::new(), room: Vec::new(), now_ns: 0 }))
    }
}

impl Transport for ScriptedTransport {
    fn start(&mut self, driver: &mut dyn Driver) -> io::Result<()> {
        self.now_ns = driver.now_ns();
        Ok(())
    }

    fn reserve(&mut self, peer: NodeId, _lane: Lane, len: usize) -> Result<&mut [u8], ReserveError> {
        if self.up.iter().all(|(up, _)| *up != peer) {
            return Err(ReserveError::Down);
        }
        let mut frame = AlignedBytes::new();
        frame.resize(len, 0);
        self.room.push((peer, frame));
        Ok(&mut self.room.last_mut().expect("pushed just now").1)
    }

    fn poll(&mut self, driver: &mut dyn Driver, events: &mut dyn TransportEvents) -> bool {
        self.now_ns = driver.now_ns();
        let lines = self.script.script().says.get_mut(usize::from(self.shard)).map(std::mem::take).unwrap_or_default();
        let any = !lines.is_empty();
        for line in lines {
            match line {
                Line::Up(peer) => {
                    self.sessions += 1;
                    self.up.push((peer, self.sessions));
                    events.peer_up(peer, self.sessions);
                }
                Line::Down(peer) => {
                    self.up.retain(|(up, _)| *up != peer);
                    events.peer_down(peer, &PeerDown::TimedOut);
                }
                Line::Frame(peer, frame) => {
                    let Some((_, session)) = self.up.iter().find(|(up, _)| *up == peer) else { continue };
                    let mut buffer = FrameBuffer::default();
                    buffer.bytes_mut().extend_from_slice(&frame);
                    let from = Source { peer, link: peer.get(), session: *session };
                    events.frame(from, Lane::User, buffer.frame(0..frame.len()));
                }
            }
        }
        any
    }

    fn flush(&mut self, _driver: &mut dyn Driver) {
        let mut script = self.script.script();
        for (peer, frames) in self.room.drain(..) {
            let mut at = 0;
            while at < frames.len() {
                let rest = &frames[at..];
                let first = *rest.first_chunk().expect("frames are multiples of 16 bytes");
                let len = shardstage_codec::short::unpadded_len(first).expect("a frame begins here");
                script.heard.push(Heard { peer, shard: self.shard, header: header_of(rest) });
                at += len.next_multiple_of(16);
            }
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        // So that new lines of the script are said.
        Some(self.now_ns + 100_000)
    }

    fn stop(&mut self, _driver: &mut dyn Driver) -> bool {
        true
    }

    fn local_address(&self) -> Option<SocketAddr> {
        None
    }
}
