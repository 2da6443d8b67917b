//! `Mesh`: all links of one shard to and from the others: a user ring and a control ring per ordered pair.
//!
//! Invariant: nothing ever waits on a full ring. User messages are refused when the ring is full; replies always fit, because
//! an ask to another shard is only sent while fewer than [`ASKS_PER_PEER_SHARD`] are outstanding towards it, and every ask
//! that crosses is answered exactly once. Messages are built in their ring slots; what a turn produced is published at its end,
//! and every [`PUBLISH_EVERY`] before. Belongs to its shard's thread.

use std::ptr::NonNull;

use crate::envelope::Envelope;
use crate::limits::{ASKS_PER_PEER_SHARD, PUBLISH_EVERY, RING_SLOTS};
use crate::link::ShardLink;
use crate::parked;
use crate::reply::CrossReply;
use crate::ring::{Consumer, Producer, ring};

const CONTROL_SLOTS: usize = ASKS_PER_PEER_SHARD as usize;

type UserIn = Producer<Envelope, RING_SLOTS>;
type ControlIn = Producer<CrossReply, CONTROL_SLOTS>;
type UserOut = Consumer<Envelope, RING_SLOTS>;
type ControlOut = Consumer<CrossReply, CONTROL_SLOTS>;

/// The end of a link in its sending shard.
pub(crate) struct Outbound {
    link: &'static ShardLink,
    user: UserIn,
    control: ControlIn,
    /// Asks sent there and not answered yet.
    asks: u32,
    /// Something was published whose receiver may sleep.
    unannounced: bool,
}

/// The end of a link in its receiving shard.
pub(crate) struct Inbound {
    from: u16,
    user: UserOut,
    control: ControlOut,
    /// Messages of the batch that was begun and that are not taken yet.
    batch: usize,
    /// The same of its replies.
    replies: usize,
}

/// The two ends of the link from shard `from` to the shard of `to`.
pub(crate) fn link_shards(from: u16, to: &'static ShardLink) -> (Outbound, Inbound) {
    let ((user_in, user_out), (control_in, control_out)) = (ring(), ring());
    let outbound = Outbound { link: to, user: user_in, control: control_in, asks: 0, unannounced: false };
    (outbound, Inbound { from, user: user_out, control: control_out, batch: 0, replies: 0 })
}

impl Outbound {
    /// Publishes what was pushed; returns how many user messages went out.
    #[inline]
    fn publish(&mut self) -> u64 {
        let (messages, replies) = (self.user.publish(), self.control.publish());
        self.unannounced |= messages + replies > 0 && self.link.may_park();
        messages as u64
    }

    /// Whether so much waits that the receiver may begin.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.user.unpublished() + self.control.unpublished() >= PUBLISH_EVERY
    }
}

/// See the module's head.
pub(crate) struct Mesh {
    out: Vec<Option<Outbound>>,
    inbound: Vec<Inbound>,
    /// The link from which the batch goes on.
    turn_of: usize,
    dirty: bool,
    /// User messages that were published before the turn's end, since the last flush.
    early: u64,
}

impl Mesh {
    /// The mesh of a shard; `out` holds a link for every other shard at its place, `inbound` one from each.
    pub(crate) fn new(out: Vec<Option<Outbound>>, inbound: Vec<Inbound>) -> Self {
        Self { out, inbound, turn_of: 0, dirty: false, early: 0 }
    }

    #[inline]
    fn outbound(&mut self, shard: u16) -> &mut Outbound {
        self.out[shard as usize].as_mut().expect("another shard of this engine")
    }

    /// Whether a message for `shard` may be pushed now.
    #[inline]
    pub(crate) fn has_room(&mut self, shard: u16) -> bool {
        self.outbound(shard).user.room() > 0
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

    /// Builds a message in its ring slot; the caller has checked [`has_room`](Self::has_room).
    #[inline(always)]
    pub(crate) fn push_with(&mut self, shard: u16, make: impl FnOnce() -> Envelope) {
        self.dirty = true;
        let out = self.outbound(shard);
        out.user.push_with(make);
        if out.is_due() {
            self.publish_early(shard);
        }
    }

    /// The ring slot of the next message, which counts as pushed: the caller writes it before anything else. The caller has
    /// checked [`has_room`](Self::has_room). What was due is published before, so that nothing is left to do after the write.
    #[inline(always)]
    pub(crate) fn claim(&mut self, shard: u16) -> NonNull<Envelope> {
        self.dirty = true;
        if self.outbound(shard).is_due() {
            self.publish_early(shard);
        }
        self.outbound(shard).user.claim()
    }

    /// Pushes a message that is an envelope already.
    pub(crate) fn push(&mut self, shard: u16, envelope: Envelope) {
        self.push_with(shard, || envelope);
    }

    /// Builds a reply in its ring slot; its room was reserved by its ask.
    #[inline(always)]
    pub(crate) fn push_reply_with(&mut self, shard: u16, make: impl FnOnce() -> CrossReply) {
        self.dirty = true;
        let out = self.outbound(shard);
        assert!(out.control.room() > 0, "a reply's room was reserved by its ask");
        out.control.push_with(make);
        if out.is_due() {
            self.publish_early(shard);
        }
    }

    /// Lets a receiver begin with a turn's first messages while the turn goes on. One that sleeps is woken at the turn's end.
    #[cold]
    #[inline(never)]
    fn publish_early(&mut self, shard: u16) {
        self.early += self.outbound(shard).publish();
    }

    /// Publishes everything pushed and wakes the receivers that are parked, with one fence for all of them; returns how many
    /// user messages went out.
    pub(crate) fn flush(&mut self) -> u64 {
        if !std::mem::take(&mut self.dirty) {
            return 0;
        }
        let mut sent = std::mem::take(&mut self.early);
        let mut unannounced = false;
        for out in self.out.iter_mut().flatten() {
            sent += out.publish();
            unannounced |= out.unannounced;
        }
        if unannounced {
            parked::order_publication();
            for out in self.out.iter_mut().flatten().filter(|out| out.unannounced) {
                out.unannounced = false;
                out.link.wake_ordered();
            }
        }
        sent
    }

    /// Begins a batch of all replies that have arrived; returns how many there are.
    pub(crate) fn begin_replies(&mut self) -> usize {
        self.inbound.iter_mut().fold(0, |all, inbound| {
            inbound.replies = inbound.control.refresh();
            all + inbound.replies
        })
    }

    /// Moves the next reply of the batch out.
    #[inline]
    pub(crate) fn next_reply(&mut self) -> Option<CrossReply> {
        self.inbound.iter_mut().find_map(|inbound| inbound.control.pop())
    }

    /// Gives the slots of the batch back to their senders, and their room to asks to come.
    pub(crate) fn end_replies(&mut self) {
        for inbound in &mut self.inbound {
            let count = std::mem::take(&mut inbound.replies);
            if count > 0 {
                inbound.control.release();
                let out = self.out[inbound.from as usize].as_mut().expect("links come in pairs");
                out.asks -= u32::try_from(count).expect("a ring's size");
            }
        }
    }

    /// Begins a batch of up to `limit` messages of each link; returns how many there are in all. `usize::MAX` takes all that
    /// was published before the call.
    pub(crate) fn begin_batch(&mut self, limit: usize) -> usize {
        self.turn_of = 0;
        let mut all = 0;
        for inbound in &mut self.inbound {
            let there = if limit == usize::MAX { inbound.user.refresh() } else { inbound.user.available() };
            inbound.batch = there.min(limit);
            all += inbound.batch;
        }
        all
    }

    /// Hands over the next message of the batch in its ring slot. It is the caller's: moved out or dropped in place, once.
    /// The address is valid until [`end_batch`](Self::end_batch), whatever else is done with the mesh.
    #[inline]
    pub(crate) fn next_arrival(&mut self) -> Option<NonNull<Envelope>> {
        loop {
            let inbound = self.inbound.get_mut(self.turn_of)?;
            if inbound.batch > 0 {
                inbound.batch -= 1;
                return inbound.user.take();
            }
            self.turn_of += 1;
        }
    }

    /// Gives the slots of the batch back to their senders. What was not handed over stays for the next batch.
    pub(crate) fn end_batch(&mut self) {
        for inbound in &mut self.inbound {
            inbound.batch = 0;
            inbound.user.release();
        }
    }

    /// Messages that wait in the rings towards this shard.
    pub(crate) fn waiting(&mut self) -> u64 {
        self.inbound.iter_mut().map(|inbound| inbound.user.refresh() as u64).sum()
    }

    /// Whether anything has come, for a shard that looks again and again.
    #[inline]
    pub(crate) fn looks_empty(&self) -> bool {
        self.inbound.iter().all(|inbound| inbound.user.is_still_empty() && inbound.control.is_still_empty())
    }

    /// Whether there is no other shard.
    pub(crate) fn is_alone(&self) -> bool {
        self.inbound.is_empty()
    }

    /// Whether anything waits in the rings.
    pub(crate) fn has_arrivals(&self) -> bool {
        self.inbound.iter().any(|inbound| !inbound.user.is_empty() || !inbound.control.is_empty())
    }
}
