//! References to virtual actors: a type and a key, whoever and wherever it is.
//!
//! Invariant: a virtual reference never dangles. Which node and shard it means is decided at each send, from the placement.

use std::fmt;
use std::marker::PhantomData;

use shardstage_codec::{Slot, WireValue};

use crate::actor::VirtualActor;
use crate::ask::{Ask, Target};
use crate::cluster::placement::shard_of;
use crate::credit::CreditKey;
use crate::engine_link::EngineLink;
use crate::error::TellError;
use crate::key::Key;
use crate::message::WireMessage;
use crate::receive::{Receive, vtable};
use crate::request::Request;
use crate::route;
use crate::sending::Sending;

/// A virtual actor of one engine's cluster, without its Rust type.
#[derive(Clone)]
pub(crate) struct VirtualId {
    pub(crate) engine: &'static EngineLink,
    /// The type's place in the registry; `None` when it is not registered.
    pub(crate) position: Option<usize>,
    pub(crate) key: Key,
    pub(crate) slot: Slot,
    pub(crate) credit: CreditKey,
    /// The shard, for workers; else the slot says it.
    pub(crate) shard: Option<u16>,
}

impl VirtualId {
    /// The shard on which it lives, if it lives on this node.
    pub(crate) fn home(&self) -> u16 {
        self.shard.unwrap_or_else(|| shard_of(self.slot, self.engine.shard_count()))
    }
}

/// A typed reference to a virtual actor. Cloning counts the key's text once.
pub struct VirtualRef<A> {
    pub(crate) id: VirtualId,
    _actor: PhantomData<fn(A)>,
}

impl<A: VirtualActor> VirtualRef<A> {
    pub(crate) fn new(engine: &'static EngineLink, key: Key) -> Self {
        let slot = shardstage_codec::slot_of(shardstage_codec::ActorTypeId::of(A::TYPE), key.as_str());
        let position = engine.registry.position(std::any::TypeId::of::<A>());
        let credit = CreditKey::of_name(shardstage_codec::ActorTypeId::of(A::TYPE), key.as_str());
        Self { id: VirtualId { engine, position, key, slot, credit, shard: None }, _actor: PhantomData }
    }

    /// Sends a message, activating the actor if it sleeps; never blocks.
    ///
    /// # Errors
    /// Hands the message back: [`TellError::Full`], [`TellError::Unavailable`] when the owning node cannot be reached,
    /// [`TellError::TooLarge`], [`TellError::NoHandler`] when the type is not registered, [`TellError::Closed`].
    pub fn tell<M, K>(&self, message: M) -> Result<(), TellError<M>>
    where
        A: Receive<M, K>,
        M: WireMessage,
        M::Reply: WireValue,
        K: 'static,
    {
        route::tell_virtual(&self.id, vtable::<A, M, K>(), message)
    }

    /// Like [`tell`](Self::tell), as part of `request`.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub fn tell_with<M, K>(&self, message: M, request: &Request) -> Result<(), TellError<M>>
    where
        A: Receive<M, K>,
        M: WireMessage,
        M::Reply: WireValue,
        K: 'static,
    {
        request.scope(|| self.tell(message))
    }

    /// Sends a message and waits for room, activating the actor if it sleeps. See [`ActorRef::send`](crate::ActorRef::send).
    pub fn send<M, K>(&self, message: M) -> Sending<M>
    where
        A: Receive<M, K>,
        M: WireMessage,
        M::Reply: WireValue,
        K: 'static,
    {
        Sending::new(Target::Virtual(self.id.clone()), vtable::<A, M, K>(), message)
    }

    /// Asks for the message's reply, activating the actor if it sleeps. See [`ActorRef::ask`](crate::ActorRef::ask).
    pub fn ask<M, K>(&self, message: M) -> Ask<M>
    where
        A: Receive<M, K>,
        M: WireMessage,
        M::Reply: WireValue,
        K: 'static,
    {
        Ask::new(Target::Virtual(self.id.clone()), vtable::<A, M, K>(), message)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.id.key
    }

    /// The slot to which the actor hashes; its group decides the node.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.id.slot
    }
}

impl<A> Clone for VirtualRef<A> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), _actor: PhantomData }
    }
}

impl<A> fmt::Debug for VirtualRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualRef<{}>({:?})", std::any::type_name::<A>(), self.id.key)
    }
}
