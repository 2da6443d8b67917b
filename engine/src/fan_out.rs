//! One message to many actors: [`Audience`] is who, [`Shared`] is what each of them gets, [`FanOut`] is how it went.
//!
//! A message is encoded once for each other node, and allocated once for each shard that has receivers; receivers share it.
//! It travels the rings and lanes that single messages travel, so between one sender and one receiver order holds.
//!
//! One file because the set, what each receiver gets and how a shard sends and opens it are one hand-over, read in this order.
//!
//! Invariant: the receivers of one part of an audience live on one shard of this process, or at one other node.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use shardstage_codec::{AlignedBytes, EncodeError, MessageId, NodeId, Slot};

use crate::actor::{Actor, VirtualActor};
use crate::actor_ref::{ActorId, ActorRef};
use crate::cluster::placement::shard_of;
use crate::dead_letter::Reason;
use crate::engine_link::EngineLink;
use crate::envelope::{Envelope, EpochTag, Meta, PackedAddress};
use crate::error::Rejected;
use crate::key::Key;
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

/// A set of actors to send one message to, kept sorted by shard and node: build it once, use it often.
///
/// `T` is [`ActorRef<A>`] or [`VirtualRef<A>`]. Joining and leaving cost a hash each; a set that is being sent to elsewhere at
/// that moment is copied first.
///
/// ```
/// # use shardstage::prelude::*;
/// # use shardstage::{Audience, Shared};
/// # #[derive(Default)] struct Viewer;
/// # impl Actor for Viewer {}
/// struct Moved { x: f64, y: f64 }
/// impl Message for Moved { type Reply = (); }
/// impl Handler<Shared<Moved>> for Viewer {
///     fn handle(&mut self, moved: Shared<Moved>, _cx: &mut Context<Self>) {
///         assert_eq!(moved.x, 1.0);
///     }
/// }
/// # fn main() -> shardstage::Result<()> {
/// # let engine = Engine::start(Config::default())?;
/// let mut viewers = Audience::new();
/// viewers.join(&engine.spawn(Viewer::default)?);
/// let sent = engine.tell_many(&mut viewers, Moved { x: 1.0, y: 2.0 });
/// assert_eq!(sent.accepted, 1);
/// # engine.shutdown()
/// # }
/// ```
pub struct Audience<T> {
    parts: Vec<Part>,
    places: HashMap<Who, (usize, usize), FixedState>,
    _target: PhantomData<fn(T)>,
}

/// One receiver, as itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Actor(ActorId),
    Virtual(Option<usize>, Key),
}

/// Where a part's receivers live.
#[derive(Clone, Copy)]
enum Place {
    Shard(&'static ShardLink),
    /// At another node.
    Node(&'static EngineLink, NodeId),
}

impl Place {
    fn engine(self) -> &'static EngineLink {
        match self {
            Self::Shard(link) => link.engine(),
            Self::Node(engine, _) => engine,
        }
    }
}

struct Part {
    place: Place,
    members: Arc<Members>,
    numbers: Numbers,
}

/// The routes of a part at another node, as one shard last knew them.
#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) shard: Option<&'static ShardLink>,
    /// Of the lane's routes; another one means that numbers may mean others.
    pub(crate) version: u64,
    /// Of the placement.
    pub(crate) placed: u64,
    pub(crate) message: Option<(MessageId, u16)>,
    pub(crate) numbers: Vec<u16>,
}

/// The receivers of one part.
#[derive(Default)]
pub(crate) struct Members {
    /// Index and generation of each one's cell, 0 where not known yet. Only the shard where they live changes them.
    cells: Vec<AtomicU64>,
    /// Who they are; parallel to `cells`.
    pub(crate) ids: Vec<MemberId>,
}

/// A receiver that is not known by its cell alone.
#[derive(Clone)]
pub(crate) struct MemberId {
    pub(crate) who: Who,
    pub(crate) slot: Option<Slot>,
}

impl Clone for Members {
    fn clone(&self) -> Self {
        let copy = |cell: &AtomicU64| AtomicU64::new(cell.load(Ordering::Relaxed));
        Self { cells: self.cells.iter().map(copy).collect(), ids: self.ids.clone() }
    }
}

fn pack((index, generation): (u32, u32)) -> u64 {
    u64::from(index) << 32 | u64::from(generation)
}

#[expect(clippy::cast_possible_truncation, reason = "two halves")]
fn unpack(cell: u64) -> (u32, u32) {
    ((cell >> 32) as u32, cell as u32)
}

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The registered type of the receivers, all virtual and of one type.
    pub(crate) fn position(&self) -> Option<usize> {
        match self.ids.first()?.who {
            Who::Virtual(position, _) => position,
            Who::Actor(_) => None,
        }
    }

    /// The keys and slots of the receivers, all virtual.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&Key, Slot)> {
        self.ids.iter().filter_map(|id| match (&id.who, id.slot) {
            (Who::Virtual(_, key), Some(slot)) => Some((key, slot)),
            _ => None,
        })
    }

    /// The receivers, all at one other node, by the shard of this node by way of which single messages from outside go to them.
    fn by_shard(self: &Arc<Self>, shard_count: u16) -> Vec<(u16, Arc<Self>)> {
        if shard_count == 1 {
            return vec![(0, Arc::clone(self))];
        }
        let mut parts: Vec<Self> = (0..shard_count).map(|_| Self::default()).collect();
        for id in &self.ids {
            let shard = id.slot.map_or(0, |slot| shard_of(slot, shard_count));
            parts[shard as usize].push(id.clone(), (0, 0));
        }
        (0..).zip(parts.into_iter().map(Arc::new)).filter(|(_, members)| members.len() > 0).collect()
    }

    /// Adds a virtual receiver whose cell is not known.
    pub(crate) fn push_virtual(&mut self, position: usize, actor_type: shardstage_codec::ActorTypeId, key: Key) {
        let slot = Some(shardstage_codec::slot_of(actor_type, &key));
        self.push(MemberId { who: Who::Virtual(Some(position), key), slot }, (0, 0));
    }

    fn push(&mut self, id: MemberId, cell: (u32, u32)) {
        self.ids.push(id);
        self.cells.push(AtomicU64::new(pack(cell)));
    }
}

impl<T> Audience<T> {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: Vec::new(), places: HashMap::with_hasher(FixedState::with_seed(0)), _target: PhantomData }
    }

    /// How many receivers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn add(&mut self, who: Who, slot: Option<Slot>, place: Place, cell: (u32, u32)) -> bool {
        if self.places.contains_key(&who) {
            return false;
        }
        let same = |part: &Part| match (part.place, place) {
            (Place::Shard(one), Place::Shard(other)) => std::ptr::eq(one, other),
            (Place::Node(_, one), Place::Node(_, other)) => one == other,
            _ => false,
        };
        let at = self.parts.iter().position(same).unwrap_or_else(|| {
            self.parts.push(Part { place, members: Arc::default(), numbers: Numbers::default() });
            self.parts.len() - 1
        });
        let part = &mut self.parts[at];
        part.numbers.shard = None;
        let members = Arc::make_mut(&mut part.members);
        self.places.insert(who.clone(), (at, members.ids.len()));
        members.push(MemberId { who, slot }, cell);
        true
    }

    fn remove(&mut self, who: &Who) -> bool {
        let Some((at, index)) = self.places.remove(who) else { return false };
        let part = &mut self.parts[at];
        part.numbers.shard = None;
        let members = Arc::make_mut(&mut part.members);
        members.ids.swap_remove(index);
        members.cells.swap_remove(index);
        if let Some(moved) = members.ids.get(index) {
            self.places.insert(moved.who.clone(), (at, index));
        }
        true
    }
}

impl<T> Default for Audience<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Audience<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audience({} receivers in {} parts)", self.len(), self.parts.len())
    }
}

impl<T: AudienceMember> Audience<T> {
    /// Adds a receiver; `false` if it was one already.
    pub fn join(&mut self, receiver: &T) -> bool {
        let Location { who, slot, place, cell } = sealed::Located::location(receiver);
        self.add(who, slot, place, cell)
    }

    /// Removes a receiver; `false` if it was none.
    pub fn leave(&mut self, receiver: &T) -> bool {
        self.remove(&sealed::Located::location(receiver).who)
    }
}

/// What an [`Audience`] is made of: [`ActorRef`] and [`VirtualRef`].
#[expect(private_bounds, reason = "the supertrait seals this one")]
pub trait AudienceMember: sealed::Located {}

/// Who a receiver is and where it lives.
pub(crate) struct Location {
    who: Who,
    slot: Option<Slot>,
    place: Place,
    cell: (u32, u32),
}

impl<A: Actor> AudienceMember for ActorRef<A> {}

impl<A: Actor> sealed::Located for ActorRef<A> {
    fn location(&self) -> Location {
        let id = self.id();
        let cell = (id.index(), id.generation());
        Location { who: Who::Actor(id), slot: None, place: Place::Shard(id.link()), cell }
    }
}

impl<A: VirtualActor> AudienceMember for VirtualRef<A> {}

impl<A: VirtualActor> sealed::Located for VirtualRef<A> {
    fn location(&self) -> Location {
        let id = &self.id;
        let engine = id.engine;
        let owner = engine.placement.owner(id.slot.group());
        let is_here = owner == engine.me();
        let place = if is_here {
            Place::Shard(engine.link(shard_of(id.slot, engine.shard_count())))
        } else {
            Place::Node(engine, owner)
        };
        Location { who: Who::Virtual(id.position, id.key.clone()), slot: Some(id.slot), place, cell: (0, 0) }
    }
}

impl<T: AudienceMember> Extend<T> for Audience<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, receivers: I) {
        for receiver in receivers {
            self.join(&receiver);
        }
    }
}

impl<T: AudienceMember> FromIterator<T> for Audience<T> {
    fn from_iter<I: IntoIterator<Item = T>>(receivers: I) -> Self {
        let mut audience = Self::new();
        audience.extend(receivers);
        audience
    }
}

mod sealed {
    use std::sync::Arc;

    pub(crate) trait Located {
        fn location(&self) -> super::Location;
    }

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
        let mut core = self.core.borrow_mut();
        core.counters.fan_out_shared += 1;
        let meta = core.running;
        for at in 0..members.len() {
            let outcome = core.admit_member(members, at).map(|(cell, epoch)| {
                core.enqueue_with(cell.0, || batch.envelope(cell, epoch, meta.map_or(Meta::None, Meta::Sender)));
            });
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
        let is_fenced = parcel.version != parcel.engine.placement.version();
        let mut core = self.core.borrow_mut();
        core.counters.fan_out_shared += 1;
        for at in 0..members.len() {
            let meta = match (parcel.origin, parcel.sender) {
                (Some(peer), _) => Meta::Sender(PackedAddress::node(peer)),
                (None, Some(sender)) => Meta::Sender(sender),
                (None, None) => Meta::None,
            };
            let admitted =
                if is_fenced { Err(Reason::Fenced) } else { core.admit_member(&members, at).map_err(Reason::from) };
            match admitted {
                Ok((cell, epoch)) => core.enqueue_with(cell.0, || batch.envelope(cell, epoch, meta)),
                Err(reason) => {
                    let cell = unpack(members.cells[at].load(Ordering::Relaxed));
                    if reason == Reason::Full {
                        core.mark_short(cell.0, cell.1);
                    }
                    core.bury(batch.envelope(cell, EpochTag::BY_GENERATION, meta), reason);
                }
            }
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
