//! One message to many actors: [`Audience`] (`fan_out/audience.rs`) is who, [`Shared`] is what each of them gets, [`FanOut`] is how it went.
//!
//! A message is encoded once for each other node, and allocated once for each shard that has receivers; receivers share it.
//! It travels the rings and lanes that single messages travel, so between one sender and one receiver order holds.
//!
//! Invariant: every receiver of an audience is counted once: accepted, or refused with the reason. Any thread sends; a shard opens.

mod audience;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shardstage_codec::{AlignedBytes, EncodeError, MessageId, NodeId};

pub use self::audience::{Audience, AudienceMember};
pub(crate) use self::audience::{Members, Numbers};
use self::audience::{Place, Who, pack, unpack};
use crate::actor_ref::ActorRef;
use crate::dead_letter::Reason;
use crate::envelope::{Envelope, EpochTag, Meta, PackedAddress};
use crate::error::Rejected;
use crate::link::ShardLink;
use crate::message::{Message, WireMessage};
use crate::receive::{Receive, vtable};
use crate::route;
use crate::shard::{ShardCell, ShardCore, current};
use crate::signal::Parcel;
use crate::virtual_ref::VirtualRef;

/// A message that many actors were sent at once: cheap to clone, read through `Deref`.
///
/// Receivers implement `Handler<Shared<M>>`, or `Handler<M>` where `M: Clone` and each may have its own copy.
pub struct Shared<M>(Arc<OnThisShard<M>>);

/// The counts that clones of a [`Shared`] change are the shard's own; the message itself is the node's.
struct OnThisShard<M> {
    message: Arc<M>,
}

impl<M> Shared<M> {
    /// Shares `message`.
    #[must_use]
    pub fn new(message: M) -> Self {
        Self::on_this_shard(&Arc::new(message))
    }

    fn on_this_shard(message: &Arc<M>) -> Self {
        Self(Arc::new(OnThisShard { message: Arc::clone(message) }))
    }
}

impl<M> Clone for Shared<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Deref for Shared<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0.message
    }
}

impl<M: fmt::Debug> fmt::Debug for Shared<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<M: Message + Sync> Message for Shared<M> {
    const PRIORITY: crate::policy::Priority = M::PRIORITY;
    type Reply = ();

    /// In each mailbox as much as if it were there alone.
    fn weight_bytes(&self) -> usize {
        M::weight_bytes(self)
    }
}

/// What became of one message to many.
///
/// As with [`tell`](ActorRef::tell), `accepted` towards another shard or node means on its way: one that finds its receiver
/// full or gone there is a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FanOut {
    /// Receivers whose message is in their mailbox or on its way.
    pub accepted: usize,
    /// Receivers that were not sent it because a queue was full: theirs, or the one towards their shard or node.
    pub full: usize,
    /// Receivers that have stopped, or whose engine is shutting down.
    pub closed: usize,
    /// Receivers at nodes that cannot be reached at present.
    pub unavailable: usize,
    /// Receivers that this message cannot be sent to: their type is not registered, or it is larger than a frame.
    pub refused: usize,
}

impl FanOut {
    /// How many receivers there were.
    #[must_use]
    pub fn total(self) -> usize {
        self.accepted + self.full + self.closed + self.unavailable + self.refused
    }

    fn note(&mut self, outcome: Result<(), Rejected>, receivers: usize) {
        *match outcome {
            Ok(()) => &mut self.accepted,
            Err(Rejected::Full) => &mut self.full,
            Err(Rejected::Closed | Rejected::Expired) => &mut self.closed,
            Err(Rejected::Unavailable) => &mut self.unavailable,
            Err(Rejected::NoHandler | Rejected::TooLarge) => &mut self.refused,
        } += receivers;
    }
}

mod sealed {
    use std::sync::Arc;

    pub(crate) trait Sealed<M, K> {
        fn source(message: M) -> Arc<dyn super::Source>;
    }
}

/// Receivers that a message of type `M` can be fanned out to; `K` is always inferred. For [`VirtualRef`] it must be a wire
/// message.
#[expect(private_bounds, reason = "the supertrait seals this one")]
pub trait FanOutTarget<M, K>: sealed::Sealed<M, K> {}

impl<A, M, K> FanOutTarget<M, K> for ActorRef<A>
where
    A: Receive<Shared<M>, K>,
    M: Message + Sync,
    K: 'static,
{
}

impl<A, M, K> sealed::Sealed<M, K> for ActorRef<A>
where
    A: Receive<Shared<M>, K>,
    M: Message + Sync,
    K: 'static,
{
    fn source(message: M) -> Arc<dyn Source> {
        Arc::new(Typed::<A, M, K> { message: Arc::new(message), _receiver: PhantomData })
    }
}

impl<A, M, K> FanOutTarget<M, K> for VirtualRef<A>
where
    A: Receive<Shared<M>, K>,
    M: WireMessage + Sync,
    K: 'static,
{
}

impl<A, M, K> sealed::Sealed<M, K> for VirtualRef<A>
where
    A: Receive<Shared<M>, K>,
    M: WireMessage + Sync,
    K: 'static,
{
    fn source(message: M) -> Arc<dyn Source> {
        Arc::new(Typed::<A, M, K> { message: Arc::new(message), _receiver: PhantomData })
    }
}

/// A message for many, whose types only its maker knows. One a node.
pub(crate) trait Source: Send + Sync {
    /// The message as the receivers of one shard share it.
    fn open(&self) -> Box<dyn Batch>;

    /// The message's id and version, if it may cross nodes.
    fn wire(&self) -> Option<(MessageId, u16)>;

    /// Appends its archive.
    fn encode(&self, out: &mut AlignedBytes) -> Result<usize, EncodeError>;
}

/// A message for many on one shard.
pub(crate) trait Batch {
    /// The envelope for one receiver.
    fn envelope(&self, cell: (u32, u32), epoch: EpochTag, meta: Meta) -> Envelope;

    /// What the message weighs in each mailbox, in bytes; code of users.
    fn weight_bytes(&self) -> usize;
}

struct Typed<A, M, K> {
    message: Arc<M>,
    _receiver: PhantomData<fn(A, K)>,
}

impl<A, M, K> Source for Typed<A, M, K>
where
    A: Receive<Shared<M>, K>,
    M: Message + Sync,
    K: 'static,
{
    fn open(&self) -> Box<dyn Batch> {
        Box::new(TypedBatch::<A, M, K> { message: Shared::on_this_shard(&self.message), _receiver: PhantomData })
    }

    fn wire(&self) -> Option<(MessageId, u16)> {
        M::WIRE.as_ref().map(|ops| (ops.id, ops.version))
    }

    fn encode(&self, out: &mut AlignedBytes) -> Result<usize, EncodeError> {
        let ops = const { M::WIRE };
        (ops.expect("asked for only where `wire` gave an id").encode)(&self.message, out)
    }
}

struct TypedBatch<A, M, K> {
    message: Shared<M>,
    _receiver: PhantomData<fn(A, K)>,
}

impl<A, M, K> Batch for TypedBatch<A, M, K>
where
    A: Receive<Shared<M>, K>,
    M: Message + Sync,
    K: 'static,
{
    #[inline]
    fn envelope(&self, cell: (u32, u32), epoch: EpochTag, meta: Meta) -> Envelope {
        route::wrap(cell, vtable::<A, Shared<M>, K>(), epoch, meta, self.message.clone())
    }

    fn weight_bytes(&self) -> usize {
        self.message.weight_bytes()
    }
}

/// Rebuilds a message for many that came over the wire.
pub(crate) fn decode<A, M, K>(bytes: &[u8]) -> Result<Arc<dyn Source>, shardstage_codec::DecodeError>
where
    A: Receive<Shared<M>, K>,
    M: WireMessage + Sync,
    K: 'static,
{
    let message = Arc::new(shardstage_codec::decode::<M>(bytes)?);
    Ok(Arc::new(Typed::<A, M, K> { message, _receiver: PhantomData }))
}

/// Sends `message` to everybody in `audience`.
pub(crate) fn tell_many<T, M, K>(audience: &mut Audience<T>, message: M) -> FanOut
where
    T: FanOutTarget<M, K>,
{
    let source = <T as sealed::Sealed<M, K>>::source(message);
    let mut sent = FanOut::default();
    current(|shard| {
        for part in audience.parts.iter_mut().filter(|part| part.members.len() > 0) {
            let home = shard.filter(|shard| std::ptr::eq(shard.link.engine(), part.place.engine()));
            match (home, part.place) {
                (Some(shard), Place::Shard(link)) if std::ptr::eq(shard.link, link) => {
                    shard.tell_members(&*source, &part.members, &mut sent);
                }
                (Some(shard), Place::Shard(link)) => {
                    let outcome = shard.pass_on(link.shard().get(), &source, &part.members, None);
                    sent.note(outcome, part.members.len());
                }
                (Some(shard), Place::Node(_, peer)) => {
                    shard.tell_node(&*source, peer, &part.members, &mut part.numbers, &mut sent);
                }
                (None, Place::Shard(link)) => inject(link, &source, Arc::clone(&part.members), None, &mut sent),
                (None, Place::Node(engine, peer)) => {
                    for (via, members) in part.members.by_shard(engine.shard_count()) {
                        inject(engine.link(via), &source, members, Some(peer), &mut sent);
                    }
                }
            }
        }
    });
    sent
}

/// Hands a message for many to a shard, from a thread outside.
fn inject(
    link: &'static ShardLink,
    source: &Arc<dyn Source>,
    members: Arc<Members>,
    peer: Option<NodeId>,
    sent: &mut FanOut,
) {
    let receivers = members.len();
    let (source, engine, version) = (Arc::clone(source), link.engine(), link.engine().placement.version());
    let parcel = Parcel { source, members, engine, sender: None, origin: None, peer, version };
    let outcome = link.inject(parcel.into_envelope()).map_err(|(reason, envelope)| {
        if let Ok(mut parcel) = Parcel::from_envelope(envelope) {
            parcel.take_members();
        }
        reason
    });
    sent.note(outcome, receivers);
}

impl ShardCell {
    /// Tells receivers of this very shard.
    fn tell_members(&self, source: &dyn Source, members: &Members, sent: &mut FanOut) {
        let batch = source.open();
        let weight = self.weigh(|| batch.weight_bytes());
        let mut core = self.core.borrow_mut();
        core.counters.fan_out_shared += 1;
        let sender = core.running;
        for at in 0..members.len() {
            let meta = || sender.map_or(Meta::None, Meta::Sender);
            let outcome = match core.admit_member(members, at) {
                Ok((cell, epoch)) => {
                    core.enqueue_with(cell.0, || batch.envelope(cell, epoch, meta()));
                    Ok(())
                }
                Err(reason) => {
                    let cell = unpack(members.cells[at].load(Ordering::Relaxed));
                    let make = || batch.envelope(cell, EpochTag::BY_GENERATION, meta());
                    core.enter_by_weight(cell, reason, weight, make)
                }
            };
            sent.note(outcome, 1);
        }
    }

    /// Hands the message to another shard of this node.
    pub(crate) fn pass_on(
        &self,
        to: u16,
        source: &Arc<dyn Source>,
        members: &Arc<Members>,
        origin: Option<NodeId>,
    ) -> Result<(), Rejected> {
        let mut core = self.core.borrow_mut();
        if !core.mesh.has_room(to) {
            return Err(Rejected::Full);
        }
        let sender = core.running;
        let (source, members) = (Arc::clone(source), Arc::clone(members));
        let engine = self.link.engine();
        let version = engine.placement.version();
        core.mesh.push(to, Parcel { source, members, engine, sender, origin, peer: None, version }.into_envelope());
        Ok(())
    }

    /// Delivers what another shard or a thread outside has sent.
    pub(crate) fn open_parcel(&self, mut parcel: Parcel) {
        let (source, members) = (Arc::clone(&parcel.source), parcel.take_members());
        if let Some(peer) = parcel.peer {
            let mut sent = FanOut::default();
            self.tell_node(&*source, peer, &members, &mut Numbers::default(), &mut sent);
            let dead_letters = &self.link.engine().dead_letters;
            let reasons = [
                (sent.full, Reason::Full),
                (sent.closed, Reason::Closed),
                (sent.unavailable, Reason::Unavailable),
                (sent.refused, Reason::TooLarge),
            ];
            for (count, reason) in reasons {
                (0..count).for_each(|_| dead_letters.count(reason));
            }
            return;
        }
        let batch = source.open();
        let weight = self.weigh(|| batch.weight_bytes());
        let is_fenced = parcel.version != parcel.engine.placement.version();
        let mut core = self.core.borrow_mut();
        core.counters.fan_out_shared += 1;
        for at in 0..members.len() {
            let meta = || match (parcel.origin, parcel.sender) {
                (Some(peer), _) => Meta::Sender(PackedAddress::node(peer)),
                (None, Some(sender)) => Meta::Sender(sender),
                (None, None) => Meta::None,
            };
            let refused = if is_fenced {
                Reason::Fenced
            } else {
                match core.admit_member(&members, at) {
                    Ok((cell, epoch)) => {
                        core.enqueue_with(cell.0, || batch.envelope(cell, epoch, meta()));
                        continue;
                    }
                    Err(reason) => reason.into(),
                }
            };
            let cell = unpack(members.cells[at].load(Ordering::Relaxed));
            let make = || batch.envelope(cell, EpochTag::BY_GENERATION, meta());
            if refused == Reason::Full {
                if core.enter_by_weight(cell, Rejected::Full, weight, make).is_ok() {
                    continue;
                }
                core.mark_short(cell.0, cell.1);
            }
            core.bury(make(), refused);
        }
    }

    /// Tells receivers at another node: the message is encoded once, with the numbers of the receivers before it.
    fn tell_node(
        &self,
        source: &dyn Source,
        peer: NodeId,
        members: &Members,
        numbers: &mut Numbers,
        sent: &mut FanOut,
    ) {
        let outcome = crate::cluster::outbound::send_fan_out(self, source, peer, members, numbers);
        if outcome.is_ok() {
            self.core.borrow_mut().counters.fan_out_encoded += 1;
        }
        sent.note(outcome, members.len());
    }
}

impl ShardCore {
    /// The cell of a receiver on this shard if a message may enter its mailbox now; a virtual one is activated if it sleeps.
    #[inline]
    fn admit_member(&mut self, members: &Members, at: usize) -> Result<((u32, u32), EpochTag), Rejected> {
        let known = unpack(members.cells[at].load(Ordering::Relaxed));
        if let Some(cell) = self.cells.get(known.0, known.1)
            && cell.admits()
        {
            // A generation is one activation, and so of one epoch; whether that is still the group's, `locate_member` has
            // asked when it found the cell, and every activation of an older epoch is refused below.
            let epoch = match members.ids[at].slot {
                Some(slot) => EpochTag::of(self.link.engine().placement.epoch(slot.group())),
                None => EpochTag::BY_GENERATION,
            };
            return match cell.admit(epoch) {
                Ok(()) => Ok((known, epoch)),
                Err(reason) => self.admit_again(known, reason).map(|()| (known, epoch)),
            };
        }
        self.locate_member(members, at)
    }

    #[cold]
    fn locate_member(&mut self, members: &Members, at: usize) -> Result<((u32, u32), EpochTag), Rejected> {
        let id = &members.ids[at];
        let (Who::Virtual(position, key), Some(slot)) = (&id.who, id.slot) else { return Err(Rejected::Closed) };
        let position = position.ok_or(Rejected::NoHandler)?;
        let engine = self.link.engine();
        if engine.placement.owner(slot.group()) != engine.me() {
            return Err(Rejected::Unavailable);
        }
        let epoch = EpochTag::of(engine.placement.epoch(slot.group()));
        let cell = self.activate_virtual(position, key, epoch)?;
        members.cells[at].store(pack(cell), Ordering::Relaxed);
        self.admit(cell.0, cell.1, epoch).map(|()| (cell, epoch))
    }
}
