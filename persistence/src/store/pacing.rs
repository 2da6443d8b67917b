//! `Pacer`: how many durable actors are recovered at once, and how much of it reaches them in one turn.
//!
//! A request waits here until a place is free, then goes to the store; what the store delivers waits here again until a turn
//! has room for it. So however many actors are activated together, a turn does a bounded share of their recovery, and live
//! messages go on between.
//!
//! Invariant: requests begin and end in the order in which they came to stand here; a request ends exactly once. Shard
//! thread only.

use std::collections::VecDeque;

use super::{EntityId, LoadError, LoadFrom, LoadedEntity, OnLoaded};
use crate::limits::{RECOVERY_ACTORS_PER_TURN, RECOVERY_BYTES_PER_TURN, RECOVERY_LOADS};

/// See the module's head.
#[derive(Default)]
pub(super) struct Pacer {
    waiting: VecDeque<(EntityId, LoadFrom, OnLoaded)>,
    /// Begun at the store, not delivered by it.
    loading: usize,
    ready: VecDeque<(Result<LoadedEntity, LoadError>, OnLoaded)>,
    /// Replays that are too long for one turn.
    long: VecDeque<Box<dyn FnOnce()>>,
    /// The last turn's share went to one of them.
    was_long: bool,
    bytes: usize,
    actors: usize,
    /// Requests that had to wait for a place.
    pub(super) waited: u64,
}

impl Pacer {
    pub(super) fn request(&mut self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded) {
        self.waited += u64::from(self.loading + self.ready.len() + self.long.len() >= RECOVERY_LOADS);
        self.waiting.push_back((entity, from, on_loaded));
    }

    /// A request to begin now, if there is a place.
    pub(super) fn begin(&mut self) -> Option<(EntityId, LoadFrom, OnLoaded)> {
        if self.loading + self.ready.len() + self.long.len() >= RECOVERY_LOADS {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.loading += 1;
        Some(request)
    }

    /// The store delivered.
    pub(super) fn loaded(&mut self, result: Result<LoadedEntity, LoadError>, on_loaded: OnLoaded) {
        self.loading -= 1;
        self.ready.push_back((result, on_loaded));
    }

    /// A new turn has room again.
    pub(super) fn new_turn(&mut self) {
        (self.bytes, self.actors) = (0, 0);
    }

    /// A replay goes on when a turn has a whole share for it.
    pub(super) fn go_on_later(&mut self, go_on: Box<dyn FnOnce()>) {
        self.long.push_back(go_on);
    }

    /// The long replay that gets this turn's share: every second turn while others wait for theirs.
    pub(super) fn share(&mut self) -> Option<Box<dyn FnOnce()>> {
        let gives_way = self.was_long && !self.ready.is_empty();
        let share = if gives_way { None } else { self.long.pop_front() };
        self.was_long = share.is_some();
        if self.was_long {
            (self.bytes, self.actors) = (RECOVERY_BYTES_PER_TURN, 1);
        }
        share
    }

    /// A delivery that this turn has room for; the first of a turn always fits.
    pub(super) fn deliver(&mut self) -> Option<(Result<LoadedEntity, LoadError>, OnLoaded)> {
        let next = self.ready.front()?;
        let bytes = next.0.as_ref().map_or(0, LoadedEntity::bytes);
        let fits = self.actors < RECOVERY_ACTORS_PER_TURN && self.bytes + bytes <= RECOVERY_BYTES_PER_TURN;
        if self.actors > 0 && !fits {
            return None;
        }
        self.actors += 1;
        self.bytes += bytes;
        self.ready.pop_front()
    }

    /// Whether something could be delivered in another turn.
    pub(super) fn is_behind(&self) -> bool {
        !self.ready.is_empty() || !self.long.is_empty()
    }
}
