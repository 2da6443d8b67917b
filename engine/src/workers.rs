//! `WorkerRef`: stateless workers, addressed as one.
//!
//! Invariant: a message goes to a worker of the shard on which it is sent, so between two workers nothing is promised: no order,
//! no common state. From a thread outside the shards take turns.

use std::fmt;
use std::marker::PhantomData;

use crate::actor::VirtualActor;
use crate::ask::{Ask, Target};
use crate::context::{Context, SealedTarget};
use crate::engine::Engine;
use crate::engine_link::EngineLink;
use crate::envelope::VTable;
use crate::error::TellError;
use crate::key::Key;
use crate::message::Message;
use crate::receive::{Receive, vtable};
use crate::route;
use crate::shard::current;
use crate::virtual_ref::{VirtualId, VirtualRef};

/// A reference to all workers of type `A`, registered with
/// [`TypeBuilder::workers_per_shard`](crate::TypeBuilder::workers_per_shard). Cloning counts once.
pub struct WorkerRef<A> {
    id: VirtualId,
    _actor: PhantomData<fn(A)>,
}

impl<A: VirtualActor> WorkerRef<A> {
    fn new(engine: &'static EngineLink) -> Self {
        let mut id = VirtualRef::<A>::new(engine, Key::from("")).id;
        // Any other type has no workers.
        id.position = id.position.filter(|position| !engine.registry.types[*position].workers.is_empty());
        Self { id, _actor: PhantomData }
    }

    /// The name by which the workers of one shard are reached: the caller's, or the next in turn.
    fn local(&self) -> VirtualId {
        let engine = self.id.engine;
        let here = current(|shard| Some(shard.filter(|shard| std::ptr::eq(shard.link.engine(), engine))?.link.shard()));
        let shard = here.map_or_else(|| engine.next_shard(), shardstage_codec::ShardId::get);
        VirtualId { shard: Some(shard), ..self.id.clone() }
    }

    /// Sends a message to a worker that has nothing to do, to a new one if all are busy, or to the one with the fewest messages if
    /// there are as many as may be; never blocks. On a shard it stays there.
    ///
    /// From a thread outside the shards a message that finds every worker's mailbox full becomes a dead letter.
    ///
    /// # Errors
    /// Hands the message back: [`TellError::Full`] when every worker's mailbox is full, [`TellError::NoHandler`] when the type is
    /// not registered as workers, [`TellError::Closed`].
    pub fn tell<M, K>(&self, message: M) -> Result<(), TellError<M>>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        route::tell_virtual(&self.local(), vtable::<A, M, K>(), message)
    }

    /// Asks a worker, chosen as for [`tell`](Self::tell) when this is called. See [`ActorRef::ask`](crate::ActorRef::ask).
    pub fn ask<M, K>(&self, message: M) -> Ask<M>
    where
        A: Receive<M, K>,
        M: Message,
        K: 'static,
    {
        Ask::new(Target::Virtual(self.local()), vtable::<A, M, K>(), message)
    }
}

impl Engine {
    /// A reference to the workers of type `A`; messages activate them.
    #[must_use]
    pub fn workers<A: VirtualActor>(&self) -> WorkerRef<A> {
        WorkerRef::new(self.link)
    }
}

impl<A> Context<A>
where
    A: crate::actor::Actor,
{
    /// A reference to the workers of type `W`; messages from here go to those of this shard.
    #[must_use]
    pub fn workers<W: VirtualActor>(&self) -> WorkerRef<W> {
        WorkerRef::new(self.engine())
    }
}

impl<B, M, K> SealedTarget<M, K> for &WorkerRef<B>
where
    B: VirtualActor + Receive<M, K>,
    M: Message,
    K: 'static,
{
    fn target(self) -> (Target, &'static VTable) {
        (Target::Virtual(self.local()), vtable::<B, M, K>())
    }
}

impl<A> Clone for WorkerRef<A> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), _actor: PhantomData }
    }
}

impl<A> fmt::Debug for WorkerRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerRef<{}>", std::any::type_name::<A>())
    }
}
