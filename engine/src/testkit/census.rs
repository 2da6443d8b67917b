//! `Census`: who lives in an engine under test, and what they have left behind.
//!
//! Invariant: taken between turns, so it is of one moment; probes are not counted.

use crate::actor::Actor;
use crate::actor_ref::ActorId;
use crate::key::Key;
use crate::latch::{Latch, LatchGuard};
use crate::shard::Resident;

use super::TestKit;

/// One live actor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveActor {
    /// Which.
    pub id: ActorId,
    /// Its Rust type.
    pub actor: &'static str,
    /// Its key, if it is virtual.
    pub key: Option<Key>,
    /// Messages in its mailbox.
    pub queued: u32,
    /// Messages that it has [put aside](crate::Context::stash).
    pub stashed: u32,
    /// Waits for a future, or for a [`Resume`](crate::Resume).
    pub suspended: bool,
    /// Actors that are told when it stops.
    pub watchers: u32,
    /// Timers that will send it something.
    pub timers: u32,
}

/// Everything that lives in an engine.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Census {
    /// Actors that are no probes, by shard and index.
    pub actors: Vec<LiveActor>,
    /// Asks without an answer, those of the test and of probes among them.
    pub asks: u64,
    /// Watches whose watcher has stopped.
    pub stale_watches: u64,
}

impl Census {
    /// Live actors of type `A`.
    #[must_use]
    pub fn of<A: Actor>(&self) -> usize {
        self.actors.iter().filter(|actor| actor.actor == std::any::type_name::<A>()).count()
    }

    /// Timers of live actors.
    #[must_use]
    pub fn timers(&self) -> u64 {
        self.actors.iter().map(|actor| u64::from(actor.timers)).sum()
    }

    /// Actors that wait for a future or a resume.
    #[must_use]
    pub fn suspended(&self) -> usize {
        self.actors.iter().filter(|actor| actor.suspended).count()
    }

    /// Watches on live actors.
    #[must_use]
    pub fn watches(&self) -> u64 {
        self.actors.iter().map(|actor| u64::from(actor.watchers)).sum()
    }
}

impl TestKit {
    /// Counts who lives in the engine now.
    #[must_use]
    pub fn census(&self) -> Census {
        let (residents, asks) = self.residents();
        let lives = |id: &ActorId| residents.iter().any(|resident| resident.id == *id);
        let stale = residents.iter().flat_map(|resident| &resident.watchers).filter(|watcher| !lives(watcher)).count();
        let probes = self.shared.probes.borrow();
        let actors = residents.iter().filter(|resident| !probes.contains(&resident.id)).map(LiveActor::of).collect();
        Census { actors, asks, stale_watches: stale as u64 }
    }

    /// Asks every shard; those that have stopped have nobody.
    fn residents(&self) -> (Vec<Resident>, u64) {
        let take = |link: &'static crate::link::ShardLink| {
            let latch = Latch::new();
            let guard = LatchGuard::new(latch.clone(), (Vec::new(), 0));
            link.run(Box::new(move |shard| {
                let asks = u64::from(shard.core.borrow().replies.live());
                guard.set((shard.census(), asks));
            }));
            latch
        };
        let latches: Vec<_> = self.engine().link.links().iter().map(take).collect();
        self.run_until(|| latches.iter().all(|latch| latch.is_set()));
        let parts = latches.iter().filter_map(|latch| latch.wait_for(std::time::Duration::ZERO));
        parts.fold((Vec::new(), 0), |(mut all, asks), (residents, more)| {
            all.extend(residents);
            (all, asks + more)
        })
    }

    /// Runs until idle, and fails the test if something was left behind: actors that are neither virtual nor probes, asks
    /// without an answer, timers, suspended actors, and watches of actors that are gone.
    ///
    /// # Panics
    /// When something was left: says what.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        self.run_until_idle();
        let census = self.census();
        let mut left = Vec::new();
        for actor in &census.actors {
            let (id, name) = (actor.id, actor.actor);
            match &actor.key {
                None => left.push(format!("actor {id:?} {name}, {} messages queued", actor.queued)),
                Some(key) if actor.suspended => left.push(format!("suspended actor {key:?} {name}")),
                Some(_) => {}
            }
            if actor.timers > 0 {
                left.push(format!("{} timers of {id:?} {name}", actor.timers));
            }
        }
        if census.asks > 0 {
            left.push(format!("{} asks without an answer", census.asks));
        }
        if census.stale_watches > 0 {
            left.push(format!("{} watches of actors that are gone", census.stale_watches));
        }
        if !left.is_empty() {
            self.shared.fail(&format!("left behind:\n    {}", left.join("\n    ")));
        }
    }
}

impl LiveActor {
    fn of(resident: &Resident) -> Self {
        Self {
            id: resident.id,
            actor: resident.actor,
            key: resident.key.clone(),
            queued: resident.queued,
            stashed: resident.stashed,
            suspended: resident.suspended,
            watchers: u32::try_from(resident.watchers.len()).unwrap_or(u32::MAX),
            timers: resident.timers,
        }
    }
}
