//! A log on a simulated node, a workload of closed-loop writers, and the ledger outside of it that judges what recovery
//! gives back.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod hand;

use std::cell::RefCell;
use std::rc::Rc;

use shardstage::port::driver::{Driver, FileCompletion};
use shardstage::port::service::{Service, ServiceContext, ServiceSeat, Started};
use shardstage::sim::{SimOptions, SimShard, SimWait, SimWorld};
use shardstage_codec::{Epoch, GroupId, NodeId, ShardId};
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{
    CommitOutcome, EntityId, EventLog, LoadedEntity, LogShard, NewRecord, OnPoison, PlantedBug,
};

#[allow(unused_imports, reason = "each test file uses its part")]
pub use hand::Hand;

pub const NODE: NodeId = NodeId::new(0);
pub const SHARD: ShardId = ShardId::new(0);
pub const DIR: &str = "/data";
pub const SEGMENT_BYTES: u64 = 16 * 4096;
/// Small, so that checkpoints are begun, finished and overtaken in every run.
pub const CHECKPOINT_BYTES: u64 = 24 * 4096;
/// Virtual time in which a start or a workload must end: a bound against hangs, not a measure.
pub const LONG_NS: u64 = 3_600_000_000_000;
const SNAPSHOT_EVERY: u64 = 20;
/// After this many commands the workload is idle for long enough that a heartbeat is due.
const PAUSE_EVERY: u64 = 150;
const PAUSE_NS: u64 = 15_000_000;

pub fn seat() -> ServiceSeat {
    ServiceSeat { node: NODE, shard: SHARD, shard_count: 1 }
}

pub fn options(planted: PlantedBug) -> EventLog {
    EventLog::open(DIR)
        .segment_bytes(SEGMENT_BYTES)
        .checkpoint_bytes(CHECKPOINT_BYTES)
        .on_poison(OnPoison::Stay)
        .planted(planted)
}

/// What was submitted and acknowledged for one entity: survives every crash, because it is outside.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Payloads by sequence, from 1.
    pub submitted: Vec<Vec<u8>>,
    /// Sequence up to which `Durable` was reported.
    pub acked: u64,
    /// Whether a command is waiting for its answer.
    pub waiting: bool,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub accounts: Vec<Account>,
    /// Makes every payload unique.
    pub serial: u64,
    pub commands: u64,
    pub unknown: u64,
    pub refused: u64,
    pub start_error: Option<String>,
    pub ready: bool,
    pub loaded: Vec<Option<LoadedEntity>>,
    pub load_error: Option<String>,
    pub order_broken: Option<String>,
    pub stopped: bool,
    pub counters: Vec<(&'static str, u64)>,
    pub poisoned: Option<String>,
    pub write_mode: &'static str,
}

pub type Shared = Rc<RefCell<Ledger>>;

/// What the host does with its log.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Commands that are submitted in this life; 0 only loads.
    pub commands: u64,
    /// Whether the log is stopped orderly at the end.
    pub stop: bool,
}

/// Drives a `LogShard` as a shard does.
pub struct Host {
    log: LogShard,
    ledger: Shared,
    plan: Plan,
    done: u64,
    entities: Vec<EntityId>,
    loads_begun: bool,
    dice: u64,
    buffer: Vec<FileCompletion>,
    paused_until_ns: u64,
    started: bool,
}

impl Host {
    pub fn new(log: LogShard, ledger: Shared, plan: Plan, seed: u64) -> Self {
        Self {
            log,
            ledger,
            plan,
            done: 0,
            entities: Vec::new(),
            loads_begun: false,
            dice: seed | 1,
            buffer: Vec::new(),
            paused_until_ns: 0,
            started: false,
        }
    }

    fn roll(&mut self, bound: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % bound
    }

    fn begin_loads(&mut self) {
        self.loads_begun = true;
        let accounts = self.ledger.borrow().accounts.len();
        for at in 0..accounts {
            let id = self.log.intern("account", &key(at), group(at), 7).unwrap();
            self.entities.push(id);
            let ledger = Rc::clone(&self.ledger);
            self.log.load(
                id,
                Box::new(move |result| match result {
                    Ok(loaded) => ledger.borrow_mut().loaded[at] = Some(loaded),
                    Err(error) => ledger.borrow_mut().load_error = Some(error.to_string()),
                }),
            );
        }
    }

    /// Every account that is not waiting may submit a command of 1 to 3 events, sometimes with a snapshot.
    fn work(&mut self, now_ns: u64) {
        if now_ns < self.paused_until_ns {
            return;
        }
        for at in 0..self.entities.len() {
            if self.done == self.plan.commands {
                return;
            }
            if self.ledger.borrow().accounts[at].waiting || self.roll(4) == 0 {
                continue;
            }
            self.done += 1;
            if self.done.is_multiple_of(PAUSE_EVERY) {
                self.paused_until_ns = now_ns + PAUSE_NS;
            }
            let count = 1 + self.roll(3);
            let size = if self.roll(10) == 0 { 3000 } else { 20 + self.roll(200) };
            self.command(at, count, usize::try_from(size).unwrap(), now_ns);
        }
    }

    fn command(&mut self, at: usize, count: u64, size: usize, now_ns: u64) {
        let mut ledger = self.ledger.borrow_mut();
        let first = ledger.accounts[at].submitted.len() as u64 + 1;
        for _ in 0..count {
            ledger.serial += 1;
            let payload = payload(ledger.serial, size);
            ledger.accounts[at].submitted.push(payload);
        }
        let account = &mut ledger.accounts[at];
        let last = account.submitted.len() as u64;
        let snapshot = (last / SNAPSHOT_EVERY != (first - 1) / SNAPSHOT_EVERY).then(|| digest(&account.submitted));
        let mut records: Vec<NewRecord<'_>> = (first..=last)
            .map(|seq| NewRecord {
                kind: RecordKind::Event,
                seq,
                schema_version: 1,
                payload: &account.submitted[usize::try_from(seq - 1).unwrap()],
                meta: b"meta",
            })
            .collect();
        if let Some(payload) = &snapshot {
            let kind = RecordKind::Snapshot;
            records.push(NewRecord { kind, seq: last, schema_version: 1, payload, meta: &[] });
        }
        let shared = Rc::clone(&self.ledger);
        let effect = Box::new(move |outcome| {
            let mut ledger = shared.borrow_mut();
            let account = &mut ledger.accounts[at];
            account.waiting = false;
            match outcome {
                CommitOutcome::Durable if account.acked + count == last => account.acked = last,
                CommitOutcome::Durable => {
                    let message = format!("{at}: {last} acknowledged after {}", account.acked);
                    ledger.order_broken = Some(message);
                }
                CommitOutcome::Unknown => ledger.unknown += 1,
            }
        });
        match self.log.append(self.entities[at], Epoch::FIRST, &records, effect) {
            Ok(_) => {
                account.waiting = true;
                ledger.commands += 1;
            }
            Err(_) => {
                account.submitted.truncate(usize::try_from(first - 1).unwrap());
                self.done -= 1;
                ledger.refused += 1;
                self.paused_until_ns = now_ns + PAUSE_NS;
            }
        }
    }

    fn life(&mut self, now_ns: u64) {
        if !self.loads_begun {
            self.begin_loads();
        }
        let loaded = self.ledger.borrow().loaded.iter().all(Option::is_some);
        if loaded {
            if !self.ledger.borrow().ready {
                let verdict = judge(&self.ledger.borrow());
                let mut ledger = self.ledger.borrow_mut();
                if let Err(why) = verdict {
                    ledger.order_broken.get_or_insert(why);
                }
                adopt(&mut ledger);
                ledger.ready = true;
            }
            self.work(now_ns);
        }
    }

    fn finished(&self) -> bool {
        let ledger = self.ledger.borrow();
        ledger.ready && self.done == self.plan.commands && ledger.accounts.iter().all(|account| !account.waiting)
    }
}

impl SimShard for Host {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        let mut arrived = std::mem::take(&mut self.buffer);
        driver.completions(&mut arrived);
        let now_ns = driver.now_ns();
        let mut cx = ServiceContext::new(driver, 0, SHARD, now_ns);
        for completion in arrived.drain(..) {
            self.log.completed(completion, &mut cx);
        }
        self.buffer = arrived;
        if !self.started {
            match self.log.start(&mut cx) {
                Ok(started) => self.started = started == Started::Ready,
                Err(error) => {
                    self.ledger.borrow_mut().start_error = Some(error.reason);
                    return SimWait::Idle;
                }
            }
        }
        self.log.poll(&mut cx);
        if self.started {
            self.life(now_ns);
        }
        if self.finished() && self.plan.stop {
            let stopped = self.log.stop(&mut cx);
            self.ledger.borrow_mut().stopped = stopped;
            if stopped {
                return SimWait::Idle;
            }
        }
        self.log.flush(&mut cx);
        let mut ledger = self.ledger.borrow_mut();
        ledger.counters = self.log.counters();
        ledger.poisoned = self.log.poisoned().map(str::to_owned);
        ledger.write_mode = self.log.write_mode().unwrap_or("");
        drop(ledger);
        let mut pause = (self.paused_until_ns > now_ns).then_some(self.paused_until_ns);
        let idle = self.ledger.borrow().accounts.iter().all(|account| !account.waiting);
        if pause.is_none() && idle && self.ledger.borrow().ready && self.done < self.plan.commands {
            // The dice may have let every account pass: nothing else would wake this host.
            pause = Some(now_ns + 1_000_000);
        }
        let loaded = self.loads_begun && self.ledger.borrow().loaded.iter().all(Option::is_some);
        if loaded && !self.ledger.borrow().ready {
            // The last load was answered in this turn: nothing else may ever wake this host.
            pause = Some(now_ns + 1_000);
        }
        match self.log.next_deadline_ns().into_iter().chain(pause).min() {
            Some(due) => SimWait::Until(due),
            None => SimWait::Idle,
        }
    }
}

pub fn key(at: usize) -> String {
    format!("account-{at}")
}

/// An event of the schema that the tests use.
pub fn event(seq: u64, payload: &[u8]) -> NewRecord<'_> {
    NewRecord { kind: RecordKind::Event, seq, schema_version: 1, payload, meta: &[] }
}

pub fn group(at: usize) -> GroupId {
    GroupId::new(u8::try_from(at * 7 % 64).unwrap()).unwrap()
}

pub fn payload(serial: u64, size: usize) -> Vec<u8> {
    let mut bytes = serial.to_le_bytes().to_vec();
    bytes.extend((8..size).map(|at| (serial as usize * 31 + at) as u8));
    bytes
}

/// A fold over all events: what a snapshot holds.
pub fn digest(events: &[Vec<u8>]) -> [u8; 16] {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for event in events {
        state = (state ^ u64::from(crc32c::crc32c(event))).wrapping_mul(0x100_0000_01b3);
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&state.to_le_bytes());
    bytes[8..].copy_from_slice(&(events.len() as u64).to_le_bytes());
    bytes
}

/// The checker: every acknowledged event is there, once, in order, unchanged, and nothing was invented.
pub fn judge(ledger: &Ledger) -> Result<(), String> {
    for (at, (account, loaded)) in ledger.accounts.iter().zip(&ledger.loaded).enumerate() {
        let loaded = loaded.as_ref().ok_or_else(|| format!("{at}: not loaded"))?;
        if loaded.last_seq < account.acked {
            return Err(format!("{at}: {} acknowledged, {} recovered", account.acked, loaded.last_seq));
        }
        if loaded.last_seq > account.submitted.len() as u64 {
            return Err(format!("{at}: {} submitted, {} recovered", account.submitted.len(), loaded.last_seq));
        }
        let mut next = 1;
        if let Some(snapshot) = &loaded.snapshot {
            let covered = usize::try_from(snapshot.header.seq).unwrap();
            if *snapshot.payload != digest(&account.submitted[..covered]) {
                return Err(format!("{at}: the snapshot at {covered} is of another history"));
            }
            next = covered + 1;
        }
        for event in &loaded.events {
            if event.header.seq != next as u64 || *event.payload != account.submitted[next - 1] {
                return Err(format!("{at}: event {next} is not what was submitted"));
            }
            next += 1;
        }
        if next as u64 != loaded.last_seq + 1 {
            return Err(format!("{at}: {next} events found, last is {}", loaded.last_seq));
        }
    }
    Ok(())
}

/// What was recovered is history from now on.
fn adopt(ledger: &mut Ledger) {
    let lengths: Vec<u64> =
        ledger.loaded.iter().map(|loaded| loaded.as_ref().map_or(0, |loaded| loaded.last_seq)).collect();
    for (account, len) in ledger.accounts.iter_mut().zip(lengths) {
        account.submitted.truncate(usize::try_from(len).unwrap());
        account.acked = len;
        account.waiting = false;
    }
}

pub fn ledger(accounts: usize) -> Shared {
    Rc::new(RefCell::new(Ledger { accounts: vec![Account::default(); accounts], ..Ledger::default() }))
}

/// Starts the node's log again on the same disk and the same ledger.
pub fn start(world: &SimWorld, ledger: &Shared, plan: Plan, planted: PlantedBug, seed: u64) {
    {
        let mut ledger = ledger.borrow_mut();
        let accounts = ledger.accounts.len();
        ledger.loaded = (0..accounts).map(|_| None).collect();
        (ledger.ready, ledger.stopped) = (false, false);
        (ledger.start_error, ledger.load_error, ledger.poisoned) = (None, None, None);
    }
    let log = options(planted).shard(&seat()).unwrap();
    world.add_shard(NODE, SHARD, Box::new(Host::new(log, Rc::clone(ledger), plan, seed)));
}

/// Runs until the plan is done, the start failed, the log is poisoned or the node went down.
pub fn settle(world: &SimWorld, ledger: &Shared, plan: Plan) {
    let commands_at_end = ledger.borrow().commands + plan.commands;
    world.run_until(
        |world| {
            let ledger = ledger.borrow();
            let failed = ledger.start_error.is_some() || ledger.load_error.is_some() || ledger.poisoned.is_some();
            let worked = ledger.ready
                && ledger.commands >= commands_at_end
                && ledger.accounts.iter().all(|account| !account.waiting);
            failed || !world.is_running(NODE) || if plan.stop { ledger.stopped } else { worked }
        },
        LONG_NS,
    );
}

/// One start that must succeed and find everything.
pub fn must_recover(world: &SimWorld, ledger: &Shared, planted: PlantedBug) -> Result<(), String> {
    let plan = Plan { commands: 0, stop: false };
    start(world, ledger, plan, planted, 1);
    settle(world, ledger, plan);
    let ledger = ledger.borrow();
    if let Some(why) = &ledger.start_error {
        return Err(format!("refused to start: {why}"));
    }
    if let Some(why) = &ledger.load_error {
        return Err(format!("refused to load: {why}"));
    }
    if let Some(why) = &ledger.order_broken {
        return Err(why.clone());
    }
    if ledger.ready {
        Ok(())
    } else {
        Err(format!("did not become ready: poisoned {:?}, counters {:?}", ledger.poisoned, ledger.counters))
    }
}

/// The log's checkpoints, by name.
pub fn checkpoints(world: &SimWorld) -> Vec<String> {
    let names = world.list(NODE, format!("{DIR}/log-0"));
    names.into_iter().filter(|name| name.starts_with("ckpt-")).collect()
}

/// Takes all checkpoints away from a node that is down, so that a start scans the whole log.
pub fn forget_checkpoints(world: &SimWorld) {
    for name in checkpoints(world) {
        assert!(world.remove_file(NODE, format!("{DIR}/log-0/{name}")));
    }
}

pub fn world(seed: u64) -> SimWorld {
    SimWorld::new(SimOptions::seeded(seed))
}

pub fn counter(ledger: &Shared, name: &str) -> u64 {
    ledger.borrow().counters.iter().find(|(found, _)| *found == name).map_or(0, |(_, value)| *value)
}
