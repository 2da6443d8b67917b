//! All links from and to one shard: a user ring and a control ring per ordered pair.
//!
//! Invariant: nothing ever waits on a full ring. User messages are refused when the ring is full; replies always fit, because
//! an ask to another shard is only sent while fewer than [`ASKS_PER_PEER_SHARD`] are outstanding towards it, and every ask
//! that crosses is answered exactly once. What a turn produced is published once, at its end.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::envelope::Envelope;
use crate::limits::{ASKS_PER_PEER_SHARD, RING_SLOTS};
use crate::link::ShardLink;
use crate::reply::CrossReply;

/// One link out of a shard.
pub(crate) struct Outbound {
    link: &'static ShardLink,
    user: Producer<Envelope>,
    control: Producer<CrossReply>,
    staged: Vec<Envelope>,
    staged_control: Vec<CrossReply>,
    /// Slots known to be free in the user ring, less those staged.
    room: usize,
    /// Asks sent there and not answered yet.
    asks: u32,
}

/// One link into a shard.
struct Inbound {
    from: u16,
    user: Consumer<Envelope>,
    control: Consumer<CrossReply>,
}

/// The ring for messages.
pub(crate) fn user_ring() -> (Producer<Envelope>, Consumer<Envelope>) {
    RingBuffer::new(RING_SLOTS)
}

/// The ring for replies.
pub(crate) fn control_ring() -> (Producer<CrossReply>, Consumer<CrossReply>) {
    RingBuffer::new(ASKS_PER_PEER_SHARD as usize)
}

impl Outbound {
    pub(crate) fn new(link: &'static ShardLink, user: Producer<Envelope>, control: Producer<CrossReply>) -> Self {
        Self {
            link,
            user,
            control,
            staged: Vec::with_capacity(RING_SLOTS),
            staged_control: Vec::new(),
            room: RING_SLOTS,
            asks: 0,
        }
    }

    #[inline]
    fn has_room(&mut self) -> bool {
        if self.room == 0 {
            self.room = self.user.slots() - self.staged.len();
        }
        self.room > 0
    }

    /// Publishes what was staged and wakes the receiver if it is parked. Returns how many user messages went out.
    fn flush(&mut self) -> u64 {
        if self.staged.is_empty() && self.staged_control.is_empty() {
            return 0;
        }
        let sent = self.staged.len();
        if sent > 0 {
            let chunk = self.user.write_chunk_uninit(sent).expect("staged no more than there was room for");
            chunk.fill_from_iter(self.staged.drain(..));
        }
        let replies = self.staged_control.len();
        if replies > 0 {
            let chunk = self.control.write_chunk_uninit(replies).expect("each reply's room was reserved by its ask");
            chunk.fill_from_iter(self.staged_control.drain(..));
        }
        self.link.wake();
        sent as u64
    }
}

/// All links of one shard.
pub(crate) struct Mesh {
    out: Vec<Option<Outbound>>,
    inbound: Vec<Inbound>,
    dirty: bool,
}

impl Mesh {
    pub(crate) fn new(
        out: Vec<Option<Outbound>>,
        inbound: Vec<(u16, Consumer<Envelope>, Consumer<CrossReply>)>,
    ) -> Self {
        let inbound = inbound.into_iter().map(|(from, user, control)| Inbound { from, user, control }).collect();
        Self { out, inbound, dirty: false }
    }

    fn outbound(&mut self, shard: u16) -> &mut Outbound {
        self.out[shard as usize].as_mut().expect("another shard of this engine")
    }

    /// Whether a message for `shard` may be pushed now.
    #[inline]
    pub(crate) fn has_room(&mut self, shard: u16) -> bool {
        self.outbound(shard).has_room()
    }

    /// Reserves the place of one reply from `shard`; `false` when too many are outstanding.
    pub(crate) fn reserve_ask(&mut self, shard: u16) -> bool {
        let out = self.outbound(shard);
        if out.asks == ASKS_PER_PEER_SHARD {
            return false;
        }
        out.asks += 1;
        true
    }

    /// Gives back a reservation whose ask was not sent.
    pub(crate) fn cancel_ask(&mut self, shard: u16) {
        self.outbound(shard).asks -= 1;
    }

    /// Stages a message; the caller has checked [`has_room`](Self::has_room).
    #[inline]
    pub(crate) fn push(&mut self, shard: u16, envelope: Envelope) {
        let out = self.outbound(shard);
        debug_assert!(out.room > 0);
        out.room -= 1;
        out.staged.push(envelope);
        self.dirty = true;
    }

    /// Stages a reply, whose room its ask has reserved.
    pub(crate) fn push_reply(&mut self, reply: CrossReply) {
        self.outbound(reply.address.0.shard()).staged_control.push(reply);
        self.dirty = true;
    }

    /// Publishes everything staged; returns how many user messages went out.
    pub(crate) fn flush(&mut self) -> u64 {
        if !std::mem::take(&mut self.dirty) {
            return 0;
        }
        self.out.iter_mut().flatten().map(Outbound::flush).sum()
    }

    /// Moves every reply that has arrived into `replies`, and up to `limit` messages of each link into `messages`.
    pub(crate) fn drain(&mut self, limit: usize, messages: &mut Vec<Envelope>, replies: &mut Vec<CrossReply>) {
        for inbound in &mut self.inbound {
            let count = inbound.control.slots();
            if count > 0 {
                let chunk = inbound.control.read_chunk(count).expect("counted just now");
                replies.extend(chunk);
                let out = self.out[inbound.from as usize].as_mut().expect("links come in pairs");
                out.asks -= u32::try_from(count).expect("a ring's size");
            }
            let count = inbound.user.slots().min(limit);
            if count > 0 {
                let chunk = inbound.user.read_chunk(count).expect("counted just now");
                messages.extend(chunk);
            }
        }
    }

    /// Messages that wait in the rings towards this shard.
    pub(crate) fn waiting(&self) -> u64 {
        self.inbound.iter().map(|inbound| inbound.user.slots() as u64).sum()
    }

    /// Whether anything waits in the rings.
    pub(crate) fn has_arrivals(&self) -> bool {
        self.inbound.iter().any(|inbound| !inbound.user.is_empty() || !inbound.control.is_empty())
    }
}
