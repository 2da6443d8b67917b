//! `Address`: a reference to an actor as a plain value, for messages.
//!
//! Invariant: an address is only numbers. Making a reference of it checks that the numbers name an actor of the right type, so
//! a wrong or hostile one is refused, never followed.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

use shardstage_codec::rkyv::{Archive, Deserialize, Serialize};
use shardstage_codec::{Shape, WireValue};

use crate::actor::Actor;
use crate::actor_ref::{ActorId, ActorRef};
use crate::shard::ShardCell;

/// Where an actor of type `A` lives: node, shard, index, generation. A wire value, made with [`Context::address`] and turned
/// into a reference again with [`Context::resolve`].
///
/// [`Context::address`]: crate::Context::address
/// [`Context::resolve`]: crate::Context::resolve
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(crate = shardstage_codec::rkyv)]
pub struct Address<A> {
    node: u32,
    shard: u16,
    index: u32,
    generation: u32,
    _actor: PhantomData<fn(A)>,
}

/// Why an address is not a reference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// It names another node. Plain actors are reached from their own node only; use a virtual actor across nodes.
    OtherNode,
    /// It names another shard of this node, where its type cannot be checked from here.
    OtherShard,
    /// There is no such actor, or it has another type.
    NotFound,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherNode => "the address names another node",
            Self::OtherShard => "the address names another shard",
            Self::NotFound => "there is no actor of this type at the address",
        })
    }
}

impl std::error::Error for ResolveError {}

impl<A> Clone for Address<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Address<A> {}

impl<A> fmt::Debug for Address<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, shard, index, generation, .. } = self;
        write!(f, "Address<{}>({node}/{shard}/{index}.{generation})", std::any::type_name::<A>())
    }
}

impl<A: 'static> WireValue for Address<A> {
    const DEPTH: u32 = 1;
    const SHAPE: u64 = Shape::builtin("shardstage.address").finish();
}

impl<A: Actor> Address<A> {
    pub(crate) fn of(id: ActorId) -> Self {
        let node = id.link().engine().me().get();
        Self { node, shard: id.shard().get(), index: id.index(), generation: id.generation(), _actor: PhantomData }
    }

    pub(crate) fn resolve(self, shard: &ShardCell, running: (u32, TypeId)) -> Result<ActorRef<A>, ResolveError> {
        if self.node != shard.link.engine().me().get() {
            return Err(ResolveError::OtherNode);
        }
        if self.shard != shard.link.shard().get() {
            return Err(ResolveError::OtherShard);
        }
        let mut core = shard.core.borrow_mut();
        let cell = core.cells.get(self.index, self.generation).ok_or(ResolveError::NotFound)?;
        // The running actor's state is out of its cell; the caller knows its type.
        let actor_type = if running.0 == self.index { Some(running.1) } else { cell.actor_type() };
        if actor_type != Some(TypeId::of::<A>()) {
            return Err(ResolveError::NotFound);
        }
        Ok(ActorRef::new(ActorId::new(shard.link, self.index, self.generation)))
    }
}
