//! A full disk is back-pressure: new events are refused by name, what was accepted is committed, reading and snapshots go on, and
//! space that comes back is used.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{
    DIR, NODE, Plan, SEGMENT_BYTES, SHARD, checkpoints, group, ledger, must_recover, options, seat, settle, start,
    world,
};
use shardstage::port::driver::Driver;
use shardstage::port::service::{Service, ServiceContext, Started};
use shardstage::sim::{SimDriver, SimWorld};
use shardstage_codec::Epoch;
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{AppendError, CommitOutcome, LogShard, NewRecord, PlantedBug};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_full_disk_refuses_events_and_loses_nothing() {
    for seed in 0..8 {
        let world = world(seed);
        world.set_disk_capacity(NODE, Some(9 * SEGMENT_BYTES + seed * 10_000));
        let ledger = ledger(4);
        let plan = Plan { commands: 3000, stop: false };
        start(&world, &ledger, plan, PlantedBug::None, seed);
        world.run_for(3 * SECOND);
        assert_eq!(ledger.borrow().poisoned, None);
        assert!(ledger.borrow().refused > 0 && ledger.borrow().commands < plan.commands);
        assert!(ledger.borrow().accounts.iter().all(|account| !account.waiting), "what was accepted was committed");
        let full = ledger.borrow().commands;
        if seed % 2 == 0 {
            // A restart on the full disk finds everything, and refuses as before.
            world.crash(NODE);
            must_recover(&world, &ledger, PlantedBug::None).unwrap();
            world.crash(NODE);
            start(&world, &ledger, plan, PlantedBug::None, seed);
            world.run_for(2 * SECOND);
            assert_eq!(ledger.borrow().poisoned, None);
        }
        world.set_disk_capacity(NODE, None);
        world.run_for(10 * SECOND);
        assert!(ledger.borrow().commands > full + 500, "space that came back is used");
        assert_eq!(ledger.borrow().order_broken, None);
        world.crash(NODE);
        must_recover(&world, &ledger, PlantedBug::None).unwrap();
    }
}

#[test]
fn a_log_without_room_stops_orderly() {
    let world = world(77);
    world.set_disk_capacity(NODE, Some(6 * SEGMENT_BYTES));
    let ledger = ledger(4);
    start(&world, &ledger, Plan { commands: 3000, stop: false }, PlantedBug::None, 1);
    world.run_for(3 * SECOND);
    world.crash(NODE);
    for _ in 0..40 {
        let plan = Plan { commands: 0, stop: true };
        start(&world, &ledger, plan, PlantedBug::None, 1);
        settle(&world, &ledger, plan);
        assert!(ledger.borrow().stopped || ledger.borrow().start_error.is_some(), "{:?}", ledger.borrow().counters);
        world.crash(NODE);
    }
    world.set_disk_capacity(NODE, None);
    must_recover(&world, &ledger, PlantedBug::None).unwrap();
}

/// A log driven by hand.
struct Hand {
    log: LogShard,
    driver: SimDriver,
    done: Rc<RefCell<u64>>,
}

impl Hand {
    fn new(world: &SimWorld) -> Self {
        let log = options(PlantedBug::None).shard(&seat()).unwrap();
        let mut hand = Self { log, driver: world.driver(NODE, SHARD), done: Rc::default() };
        while !hand.turn(true) {}
        hand
    }

    fn turn(&mut self, start: bool) -> bool {
        let mut completions = Vec::new();
        self.driver.completions(&mut completions);
        let now_ns = self.driver.now_ns();
        let mut cx = ServiceContext::new(&mut self.driver, 0, SHARD, now_ns);
        for completion in completions {
            self.log.completed(completion, &mut cx);
        }
        let ready = !start || self.log.start(&mut cx).unwrap() == Started::Ready;
        self.log.poll(&mut cx);
        self.log.flush(&mut cx);
        self.driver.park(Some(now_ns + 20_000_000));
        ready
    }

    fn append(&mut self, kind: RecordKind, seq: u64, len: usize) -> Result<(), AppendError> {
        let entity = self.log.intern("account", "alice", group(1), 1).unwrap();
        let payload = vec![7; len];
        let record = NewRecord { kind, seq, schema_version: 1, payload: &payload, meta: &[] };
        let done = Rc::clone(&self.done);
        let effect = Box::new(move |outcome| {
            assert_eq!(outcome, CommitOutcome::Durable);
            *done.borrow_mut() += 1;
        });
        self.log.append(entity, Epoch::FIRST, &[record], effect).map(|_| ())
    }
}

#[test]
fn reads_snapshots_and_checkpoints_go_on_from_the_reserve() {
    let world = world(3);
    world.set_disk_capacity(NODE, Some(6 * SEGMENT_BYTES));
    let mut hand = Hand::new(&world);
    let mut seq = 0;
    let mut accepted = 0;
    let mut low = 0;
    for _ in 0..2000 {
        match hand.append(RecordKind::Event, seq + 1, 600) {
            Ok(()) => (seq, accepted) = (seq + 1, accepted + 1),
            Err(AppendError::LowSpace) => low += 1,
            Err(AppendError::Full) => {}
            Err(other) => panic!("{other}"),
        }
        hand.turn(false);
    }
    assert!(low > 100 && seq > 50, "{low} {seq}");
    while *hand.done.borrow() < accepted {
        hand.turn(false);
    }
    let before = checkpoints(&world).len();
    for nth in 1..=3 {
        hand.append(RecordKind::Snapshot, seq, 3000).unwrap();
        while *hand.done.borrow() < accepted + nth {
            hand.turn(false);
        }
        assert_eq!(hand.append(RecordKind::Event, seq + 1, 600), Err(AppendError::LowSpace));
    }
    let entity = hand.log.intern("account", "alice", group(1), 1).unwrap();
    let found = Rc::new(RefCell::new(None));
    let place = Rc::clone(&found);
    hand.log.load(entity, Box::new(move |result| *place.borrow_mut() = Some(result.unwrap())));
    while found.borrow().is_none() {
        hand.turn(false);
    }
    assert_eq!(found.borrow().as_ref().unwrap().last_seq, seq);
    // An orderly stop writes its checkpoint in the room of an older one.
    loop {
        let mut completions = Vec::new();
        hand.driver.completions(&mut completions);
        let now_ns = hand.driver.now_ns();
        let mut cx = ServiceContext::new(&mut hand.driver, 0, SHARD, now_ns);
        for completion in completions {
            hand.log.completed(completion, &mut cx);
        }
        if hand.log.stop(&mut cx) {
            break;
        }
        hand.driver.park(Some(now_ns + 20_000_000));
    }
    assert!(before > 0 && !checkpoints(&world).is_empty());
    assert!(world.list(NODE, format!("{DIR}/log-0")).iter().all(|name| name != "ckpt.new"));
}
