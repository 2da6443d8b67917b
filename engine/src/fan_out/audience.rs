//! `Audience`: a set of actors to send one message to, sorted by where they live.
//!
//! Invariant: the receivers of one part live on one shard of this process, or at one other node. Any thread; only the shard where
//! receivers live writes down their cells.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use shardstage_codec::{MessageId, NodeId, Slot};

use crate::actor::{Actor, VirtualActor};
use crate::actor_ref::{ActorId, ActorRef};
use crate::cluster::placement::shard_of;
use crate::engine_link::EngineLink;
use crate::key::Key;
use crate::link::ShardLink;
use crate::virtual_ref::VirtualRef;

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
    pub(super) parts: Vec<Part>,
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
pub(super) enum Place {
    Shard(&'static ShardLink),
    /// At another node.
    Node(&'static EngineLink, NodeId),
}

impl Place {
    pub(super) fn engine(self) -> &'static EngineLink {
        match self {
            Self::Shard(link) => link.engine(),
            Self::Node(engine, _) => engine,
        }
    }
}

pub(super) struct Part {
    pub(super) place: Place,
    pub(super) members: Arc<Members>,
    pub(super) numbers: Numbers,
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
    pub(super) cells: Vec<AtomicU64>,
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

pub(super) fn pack((index, generation): (u32, u32)) -> u64 {
    u64::from(index) << 32 | u64::from(generation)
}

#[expect(clippy::cast_possible_truncation, reason = "two halves")]
pub(super) fn unpack(cell: u64) -> (u32, u32) {
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
    pub(super) fn by_shard(self: &Arc<Self>, shard_count: u16) -> Vec<(u16, Arc<Self>)> {
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
    pub(crate) trait Located {
        fn location(&self) -> super::Location;
    }
}
