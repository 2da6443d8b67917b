//! `Hand`: a log that a test drives turn by turn, on whichever driver it chooses.

use std::cell::RefCell;
use std::rc::Rc;

use shardstage::port::driver::{Driver, FileCompletion};
use shardstage::port::service::{Service, ServiceContext, Started};
use shardstage::sim::SimWorld;
use shardstage_persistence::{CommitOutcome, EntityId, Held, LoadError, LoadedEntity, LogShard, PlantedBug};

use super::{NODE, SHARD, group, key, options, seat};

/// How long a turn that finds nothing to do waits at most, unless the test says otherwise: longer than until a heartbeat.
const PARK_NS: u64 = 20_000_000;

pub struct Hand {
    pub log: LogShard,
    pub driver: Box<dyn Driver>,
    pub park_ns: u64,
    /// Name and outcome of each effect of [`note`](Self::note) that ran, in that order.
    pub ran: Rc<RefCell<Vec<(u32, CommitOutcome)>>>,
    completions: Vec<FileCompletion>,
}

impl Hand {
    /// Not started yet.
    pub fn new(log: LogShard, driver: Box<dyn Driver>) -> Self {
        Self { log, driver, park_ns: PARK_NS, ran: Rc::default(), completions: Vec::new() }
    }

    /// The usual log of the simulated node, started.
    pub fn simulated(world: &SimWorld) -> Self {
        let log = options(PlantedBug::None).shard(&seat()).unwrap();
        let mut hand = Self::new(log, Box::new(world.driver(NODE, SHARD)));
        hand.start();
        hand
    }

    /// Turns until the log runs.
    pub fn start(&mut self) {
        loop {
            let started = self.with(|log, cx| log.start(cx).unwrap());
            self.turn();
            if started == Started::Ready {
                return;
            }
        }
    }

    /// Hands over what completed, then works on the log as a part of a turn.
    pub fn with<R>(&mut self, work: impl FnOnce(&mut LogShard, &mut ServiceContext<'_>) -> R) -> R {
        self.driver.completions(&mut self.completions);
        let now_ns = self.driver.now_ns();
        let mut cx = ServiceContext::new(&mut *self.driver, 0, SHARD, now_ns);
        for completion in self.completions.drain(..) {
            self.log.completed(completion, &mut cx);
        }
        work(&mut self.log, &mut cx)
    }

    /// A turn, and the pause until something happens.
    pub fn turn(&mut self) {
        self.work();
        self.park();
    }

    fn work(&mut self) {
        self.with(|log, cx| {
            log.poll(cx);
            log.flush(cx);
        });
    }

    pub fn turn_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.turn();
        }
    }

    /// Ends the log orderly.
    pub fn stop(&mut self) {
        while !self.with(|log, cx| log.stop(cx)) {
            self.park();
        }
    }

    fn park(&mut self) {
        let at_most = self.driver.now_ns() + self.park_ns;
        self.driver.park(Some(self.log.next_deadline_ns().map_or(at_most, |due| due.min(at_most))));
    }

    pub fn entity(&mut self, at: usize) -> EntityId {
        self.log.intern("account", &key(at), group(at), 1).unwrap()
    }

    /// An effect that writes its name down.
    pub fn note(&self, name: u32) -> Held {
        let ran = Rc::clone(&self.ran);
        Box::new(move |outcome| ran.borrow_mut().push((name, outcome)))
    }

    /// The names of the effects that ran.
    pub fn names(&self) -> Vec<u32> {
        self.ran.borrow().iter().map(|(name, _)| *name).collect()
    }

    /// Turns until the entity is read.
    pub fn load(&mut self, entity: EntityId) -> Result<LoadedEntity, LoadError> {
        let found = Rc::new(RefCell::new(None));
        let place = Rc::clone(&found);
        self.log.load(entity, Box::new(move |result| *place.borrow_mut() = Some(result)));
        loop {
            self.work();
            if let Some(result) = found.borrow_mut().take() {
                return result;
            }
            self.park();
        }
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.log.counters().iter().find(|(found, _)| *found == name).unwrap().1
    }
}
