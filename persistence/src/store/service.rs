//! `StoreShard`: a boxed store as a shard's service, and how a durable actor finds its store.
//!
//! The local log is found by its own type, every other store through the box: a command costs one or two virtual calls.
//!
//! Invariant: a shard has one store; the first in the order of services counts. Shard thread only.

use shardstage::port::driver::FileCompletion;
use shardstage::port::service::{Service, ServiceContext, ServiceError, Started};
use shardstage::{Actor, Context};

use super::EventStore;
use crate::log::LogShard;

/// Any [`EventStore`] as a service that [`Durable`](crate::Durable) finds. The store's factory returns it.
pub struct StoreShard(Box<dyn EventStore>);

impl StoreShard {
    /// Boxes a store.
    #[must_use]
    pub fn new(store: impl EventStore) -> Self {
        Self(Box::new(store))
    }

    /// The store.
    pub fn store(&mut self) -> &mut dyn EventStore {
        &mut *self.0
    }
}

impl std::fmt::Debug for StoreShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreShard({})", self.0.name())
    }
}

impl Service for StoreShard {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn start(&mut self, cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        self.0.start(cx)
    }

    fn completed(&mut self, completion: FileCompletion, cx: &mut ServiceContext<'_>) {
        self.0.completed(completion, cx);
    }

    fn poll(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.0.poll(cx)
    }

    fn flush(&mut self, cx: &mut ServiceContext<'_>) {
        self.0.flush(cx);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        self.0.next_deadline_ns()
    }

    fn commit_in_flight(&self) -> bool {
        self.0.commit_in_flight()
    }

    fn stop(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.0.stop(cx)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.0.counters()
    }
}

/// Which service is the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// The local log itself.
    Log,
    /// A [`StoreShard`].
    Boxed,
}

impl StoreKind {
    /// Looks for a store on the actor's shard.
    pub(crate) fn find<A: Actor>(cx: &mut Context<A>) -> Option<Self> {
        let log = cx.service::<LogShard, _>(|_| Self::Log);
        log.or_else(|| cx.service::<StoreShard, _>(|_| Self::Boxed))
    }
}

/// Calls `f` with the shard's store; `None` when it is the one that is calling.
pub(crate) fn with_store<A: Actor, R>(
    kind: StoreKind,
    cx: &mut Context<A>,
    f: impl FnOnce(&mut dyn EventStore) -> R,
) -> Option<R> {
    match kind {
        StoreKind::Log => cx.service::<LogShard, _>(|log| f(log)),
        StoreKind::Boxed => cx.service::<StoreShard, _>(|boxed| f(boxed.store())),
    }
}
