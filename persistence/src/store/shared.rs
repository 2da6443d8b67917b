//! `StoreShared`: what the durable actors of one shard share and no store cares about.
//!
//! Invariant: no borrow of its cells outlives a call. Shard thread only.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::pacing::Pacer;
use super::scratch::Scratch;
use super::{EntityId, EventStore, LoadFrom, OnLoaded};

/// See the module's head. A store makes one with `Rc::default()` and keeps it.
#[derive(Default)]
pub struct StoreShared {
    scratch: RefCell<Scratch>,
    refused_tells: Cell<u64>,
    broken: RefCell<BTreeMap<EntityId, Box<str>>>,
    /// What each type's outbox needs to know, see `durable::courier`.
    outboxes: RefCell<BTreeMap<&'static str, Rc<dyn Any>>>,
    outbox: OutboxCounters,
    fallbacks: Cell<u64>,
    pacer: RefCell<Pacer>,
    /// Entities that an actor used and uses no more.
    let_go: RefCell<Vec<EntityId>>,
}

/// What became of outbox messages on this shard.
#[derive(Debug, Default)]
pub(crate) struct OutboxCounters {
    /// Attempts.
    pub(crate) sent: Cell<u64>,
    /// Arrived.
    pub(crate) arrived: Cell<u64>,
    /// Attempts that ended otherwise.
    pub(crate) failed: Cell<u64>,
    /// Messages whose fate will never be known: their receiver forgot the sender's session.
    pub(crate) lost: Cell<u64>,
}

impl StoreShared {
    /// Room for encoding, empty; give it back with [`keep_scratch`](Self::keep_scratch).
    pub(crate) fn take_scratch(&self) -> Scratch {
        self.scratch.take()
    }

    pub(crate) fn keep_scratch(&self, mut scratch: Scratch) {
        scratch.clear();
        self.scratch.replace(scratch);
    }

    /// Why the entity cannot be served until the process restarts, if so.
    pub(crate) fn broken(&self, entity: EntityId) -> Option<Box<str>> {
        self.broken.borrow().get(&entity).cloned()
    }

    /// Remembers that the entity's records cannot be made into its state, so that nobody tries again and again.
    pub(crate) fn mark_broken(&self, entity: EntityId, why: &str) {
        self.broken.borrow_mut().entry(entity).or_insert_with(|| why.into());
    }

    /// A receiver refused a message of a durable effect.
    pub(crate) fn tell_refused(&self) {
        self.refused_tells.set(self.refused_tells.get() + 1);
    }

    /// What the outboxes of actors of this type share, if they were started here.
    pub(crate) fn outbox_of(&self, type_name: &'static str) -> Option<Rc<dyn Any>> {
        self.outboxes.borrow().get(type_name).cloned()
    }

    pub(crate) fn start_outbox(&self, type_name: &'static str, common: Rc<dyn Any>) {
        self.outboxes.borrow_mut().insert(type_name, common);
    }

    pub(crate) fn outbox_counters(&self) -> &OutboxCounters {
        &self.outbox
    }

    /// A snapshot could not be read, but an older one and later events gave the state.
    pub(crate) fn fell_back(&self) {
        self.fallbacks.set(self.fallbacks.get() + 1);
    }

    /// Asks for a load that begins when its turn comes, and ends in a turn that has room for it.
    pub(crate) fn request_load(&self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded) {
        self.pacer.borrow_mut().request(entity, from, on_loaded);
    }

    /// Runs `go_on` in a turn that has room for a whole share of recovery.
    pub(crate) fn go_on_later(&self, go_on: Box<dyn FnOnce()>) {
        self.pacer.borrow_mut().go_on_later(go_on);
    }

    /// An actor uses the entity no more; the store hears of it in its next turn.
    pub(crate) fn let_go(&self, entity: EntityId) {
        self.let_go.borrow_mut().push(entity);
    }

    /// Tells the store which entities are used no more, begins requested loads and delivers finished ones, as far as one turn has room for them. A store calls it once a turn,
    /// from its `poll`, and says that it was busy when this returns `true`.
    pub fn pace(self: &Rc<Self>, store: &mut dyn EventStore) -> bool {
        for entity in self.let_go.take() {
            store.release(entity);
        }
        self.pacer.borrow_mut().new_turn();
        let mut did = self.begin_loads(store);
        let go_on = self.pacer.borrow_mut().share();
        if let Some(go_on) = go_on {
            did = true;
            go_on();
        }
        loop {
            // No borrow may last: what is delivered runs actors' code.
            let Some((result, on_loaded)) = self.pacer.borrow_mut().deliver() else { break };
            did = true;
            on_loaded(result);
        }
        did | self.begin_loads(store) | self.pacer.borrow().is_behind()
    }

    /// Begins requested loads as far as there is room. A store may call it from its `flush` too, so that what this turn's actors
    /// asked for begins in this turn.
    pub fn begin_loads(self: &Rc<Self>, store: &mut dyn EventStore) -> bool {
        let mut did = false;
        loop {
            let Some((entity, from, on_loaded)) = self.pacer.borrow_mut().begin() else { return did };
            did = true;
            let shared = Rc::clone(self);
            let deliver = Box::new(move |result| shared.pacer.borrow_mut().loaded(result, on_loaded));
            store.load(entity, from, deliver);
        }
    }

    /// Whether something waits for the next turn: a store's `next_deadline_ns` is 0 then.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.pacer.borrow().is_behind() || !self.let_go.borrow().is_empty()
    }

    /// Counters by name, for a store's own [`counters`](shardstage::port::service::Service::counters).
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 8] {
        [
            ("tells_refused", self.refused_tells.get()),
            ("entities_broken", self.broken.borrow().len() as u64),
            ("snapshot_fallbacks", self.fallbacks.get()),
            ("recoveries_waited", self.pacer.borrow().waited),
            ("outbox_sent", self.outbox.sent.get()),
            ("outbox_arrived", self.outbox.arrived.get()),
            ("outbox_failed", self.outbox.failed.get()),
            ("outbox_lost", self.outbox.lost.get()),
        ]
    }
}

impl std::fmt::Debug for StoreShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.counters()).finish()
    }
}
