//! `MemoryStore`: an [`EventStore`] in memory, for tests: it outlives engines, injects faults, and can be fenced from outside.
//!
//! All engines that were given clones of one store see the same records, as the owners of a replicated log would; whoever
//! raises a group's epoch fences the others. Every shard collects a turn's commands into one commit, as the log does.
//!
//! Invariant: a commit is written whole, under one lock, or not at all. A handle may be used from any thread, what is made
//! from it lives on its shard.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::FileCompletion;
use shardstage::port::service::{Service, ServiceContext, ServiceError, ServiceFactory, ServiceSeat, Started};
use shardstage_codec::{Epoch, GroupId};

use super::{
    AppendError, CommitOutcome, EntityId, EventStore, Held, LoadError, LoadFrom, LoadedBytes, LoadedEntity,
    LoadedRecord, NewRecord, OnLoaded, OnOwing, Owing, StoreShard, StoreShared, Ticket, check_sequences,
};
use crate::format::record::{RECORD_ALIGN_BYTES, RecordHeader, RecordKind, stored_bytes};
use crate::limits::{FRAME_BYTES, KEY_BYTES, PENDING_BYTES, RECORD_BYTES};

/// What goes wrong in a [`MemoryStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFault {
    /// The next commit is not written; its shard is poisoned and what waits ends as [`CommitOutcome::Unknown`].
    FailWrite,
    /// The next commit is written, but nobody hears of it: poisoned likewise.
    LoseAck,
    /// Appends answer [`AppendError::Full`] until [`MemoryStore::heal`].
    Full,
    /// Appends answer [`AppendError::LowSpace`] until [`MemoryStore::heal`].
    LowSpace,
}

/// See the module's head.
///
/// ```no_run
/// # fn main() -> shardstage::Result<()> {
/// use shardstage::prelude::*;
/// let store = shardstage_persistence::MemoryStore::new();
/// let engine = Engine::builder().service(store.clone()).start()?;
/// # engine.shutdown() }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    fences: BTreeMap<GroupId, u64>,
    by_name: BTreeMap<String, EntityId>,
    /// Entity `n` is at `n - 1`.
    entities: Vec<Stored>,
    fault: Option<MemoryFault>,
    delay_ns: u64,
}

#[derive(Debug)]
struct Stored {
    group: GroupId,
    last_seq: u64,
    records: Vec<StoredRecord>,
}

#[derive(Clone, Debug)]
struct StoredRecord {
    header: RecordHeader,
    payload: Vec<u8>,
    damaged: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets something go wrong from now on, instead of what was injected before.
    pub fn inject(&self, fault: MemoryFault) {
        self.lock().fault = Some(fault);
    }

    /// Takes back what was injected. A poisoned shard stays poisoned until its engine restarts.
    pub fn heal(&self) {
        self.lock().fault = None;
    }

    /// Commits that begin from now on take this long.
    pub fn delay(&self, delay: Duration) {
        self.lock().delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
    }

    /// Raises a group's epoch, as a new owner of the group would: what is appended or committed under a lower one is refused.
    pub fn fence(&self, group: GroupId, epoch: Epoch) {
        let mut contents = self.lock();
        let fence = contents.fences.entry(group).or_insert(1);
        *fence = epoch.get().max(*fence);
    }

    /// Damages the records of this kind and number; how many there were.
    pub fn damage(&self, type_name: &str, key: &str, kind: RecordKind, seq: u64) -> usize {
        let mut contents = self.lock();
        let Some(id) = contents.by_name.get(&full_name(type_name, key)).copied() else { return 0 };
        let records = contents.entity_mut(id).records.iter_mut();
        let hit = records.filter(|record| record.header.kind == kind && record.header.seq == seq);
        hit.map(|record| record.damaged = true).count()
    }

    /// Headers of all records of an entity, in append order.
    #[must_use]
    pub fn records(&self, type_name: &str, key: &str) -> Vec<RecordHeader> {
        let contents = self.lock();
        let Some(id) = contents.by_name.get(&full_name(type_name, key)) else { return Vec::new() };
        contents.entity(*id).records.iter().map(|record| record.header).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // A test that panicked while it held the lock has changed one field at most.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceFactory for MemoryStore {
    fn make(&self, _seat: &ServiceSeat) -> io::Result<Box<dyn Service>> {
        Ok(Box::new(StoreShard::new(MemoryShard::new(self.clone()))))
    }
}

impl Stored {
    /// Whether outbox messages have not arrived, by the latest record that says.
    fn is_owing(&self) -> bool {
        let mut kinds = self.records.iter().rev().map(|record| record.header.kind);
        let says =
            |kind: &RecordKind| matches!(kind, RecordKind::Outbox | RecordKind::OutboxDone | RecordKind::OutboxSettled);
        kinds.find(says).is_some_and(|kind| kind != RecordKind::OutboxSettled)
    }
}

impl Contents {
    fn entity(&self, id: EntityId) -> &Stored {
        &self.entities[usize::try_from(id.0 - 1).expect("entities fit memory")]
    }

    fn entity_mut(&mut self, id: EntityId) -> &mut Stored {
        &mut self.entities[usize::try_from(id.0 - 1).expect("entities fit memory")]
    }

    fn fence(&self, group: GroupId) -> u64 {
        self.fences.get(&group).copied().unwrap_or(1)
    }
}

fn full_name(type_name: &str, key: &str) -> String {
    format!("{type_name}\0{key}")
}

/// One command that waits.
struct Command {
    entity: EntityId,
    epoch: Epoch,
    records: Vec<StoredRecord>,
}

/// The commands of one commit, and everything that waits for it.
#[derive(Default)]
struct Commit {
    number: u64,
    commands: Vec<Command>,
    effects: Vec<Held>,
    bytes: usize,
    due_ns: u64,
}

/// The store's part on one shard.
struct MemoryShard {
    store: MemoryStore,
    shared: Rc<StoreShared>,
    open: Commit,
    in_flight: Option<Commit>,
    durable: u64,
    /// Last number and last commit of entities that this shard appended to.
    appended: BTreeMap<EntityId, (u64, u64)>,
    loads: VecDeque<(EntityId, LoadFrom, OnLoaded)>,
    poisoned: Option<String>,
    closed: bool,
    commits: u64,
}

impl MemoryShard {
    fn new(store: MemoryStore) -> Self {
        Self {
            store,
            shared: Rc::default(),
            open: Commit { number: 1, ..Commit::default() },
            in_flight: None,
            durable: 0,
            appended: BTreeMap::new(),
            loads: VecDeque::new(),
            poisoned: None,
            closed: false,
            commits: 0,
        }
    }

    /// Sends the open commit on its way.
    fn begin_commit(&mut self, now_ns: u64) {
        if self.in_flight.is_some() || (self.open.commands.is_empty() && self.open.effects.is_empty()) {
            return;
        }
        let next = Commit { number: self.open.number + 1, ..Commit::default() };
        let mut commit = std::mem::replace(&mut self.open, next);
        commit.due_ns = now_ns + self.store.lock().delay_ns;
        self.in_flight = Some(commit);
    }

    fn end_commit(&mut self, now_ns: u64) -> bool {
        let Some(commit) = self.in_flight.take_if(|commit| commit.due_ns <= now_ns) else { return false };
        if let Err(why) = self.write(&commit.commands) {
            self.poison(why, commit);
            return true;
        }
        self.commits += 1;
        self.durable = commit.number;
        for effect in commit.effects {
            effect(CommitOutcome::Durable);
        }
        true
    }

    fn write(&mut self, commands: &[Command]) -> Result<(), String> {
        let mut contents = self.store.lock();
        let fault = contents.fault.take_if(|fault| matches!(fault, MemoryFault::FailWrite | MemoryFault::LoseAck));
        if fault == Some(MemoryFault::FailWrite) {
            return Err("a write failed, as injected".into());
        }
        // Checked for all before any is written. Numbers need no check: who would have appended has raised the epoch.
        for command in commands {
            let current = contents.fence(contents.entity(command.entity).group);
            if command.epoch.get() < current {
                return Err(format!("fenced while a commit was on its way: the group's epoch is {current}"));
            }
        }
        for command in commands {
            let stored = contents.entity_mut(command.entity);
            stored.last_seq = command.records.last().map_or(stored.last_seq, |record| record.header.seq);
            stored.records.extend(command.records.iter().cloned());
        }
        match fault {
            None => Ok(()),
            Some(_) => Err("a write's answer was lost, as injected".into()),
        }
    }

    fn poison(&mut self, why: String, commit: Commit) {
        self.poisoned = Some(why);
        let open = std::mem::take(&mut self.open.effects);
        for effect in commit.effects.into_iter().chain(open) {
            effect(CommitOutcome::Unknown);
        }
        self.close_loads();
    }

    fn close_loads(&mut self) {
        for (.., on_loaded) in std::mem::take(&mut self.loads) {
            on_loaded(Err(LoadError::Closed));
        }
    }

    fn serve_loads(&mut self) -> bool {
        let mut did = false;
        for _ in 0..self.loads.len() {
            let Some((id, from, on_loaded)) = self.loads.pop_front() else { break };
            if self.appended.get(&id).is_some_and(|(_, commit)| *commit > self.durable) {
                self.loads.push_back((id, from, on_loaded));
                continue;
            }
            did = true;
            let loaded = read(id, self.store.lock().entity(id), from);
            on_loaded(loaded);
        }
        did
    }
}

/// Copies what a load wants into one buffer.
fn read(id: EntityId, stored: &Stored, from: LoadFrom) -> Result<LoadedEntity, LoadError> {
    let records = &stored.records;
    let is_snapshot = |record: &StoredRecord| record.header.kind == RecordKind::Snapshot;
    let start = match from {
        LoadFrom::Newest => records.iter().rposition(is_snapshot),
        LoadFrom::Before(seq) => records.iter().rposition(|record| is_snapshot(record) && record.header.seq < seq),
        LoadFrom::Start => None,
    };
    let wanted = &records[start.unwrap_or(0)..];
    let wanted = wanted.iter().enumerate().filter(|(nth, record)| start.is_some() && *nth == 0 || !is_snapshot(record));
    let wanted: Vec<&StoredRecord> = wanted.map(|(_, record)| record).collect();
    let bytes: usize = wanted.iter().map(|record| record.payload.len().next_multiple_of(RECORD_ALIGN_BYTES)).sum();
    let mut buffer = IoBuffer::zeroed(bytes.max(RECORD_ALIGN_BYTES));
    let mut at = 0;
    for record in &wanted {
        buffer[at..at + record.payload.len()].copy_from_slice(&record.payload);
        at += record.payload.len().next_multiple_of(RECORD_ALIGN_BYTES);
    }
    let buffer = Rc::new(buffer);
    let mut loaded =
        LoadedEntity { entity: id, snapshot: None, events: Vec::new(), ledger: Vec::new(), last_seq: stored.last_seq };
    let (mut at, mut version) = (0, 0);
    for record in wanted {
        let (header, len) = (record.header, record.payload.len());
        let snapshot = (header.kind == RecordKind::Snapshot).then_some(header.seq);
        if record.damaged {
            return Err(LoadError::Damaged { segment: 0, offset: at as u64, snapshot });
        }
        let payload = LoadedBytes::new(Rc::clone(&buffer), at..at + len);
        let found = LoadedRecord { header, payload, segment: 0, offset: at as u64 };
        at += len.next_multiple_of(RECORD_ALIGN_BYTES);
        match header.kind {
            RecordKind::Snapshot => loaded.snapshot = Some(found),
            RecordKind::Event if header.seq != version + 1 => return Err(LoadError::NotKept),
            RecordKind::Event => loaded.events.push(found),
            _ => loaded.ledger.push(found),
        }
        version = header.seq;
    }
    // A state that was saved as a whole lies between: no events lead over it.
    if version == stored.last_seq { Ok(loaded) } else { Err(LoadError::NotKept) }
}

impl EventStore for MemoryShard {
    fn shared(&self) -> Rc<StoreShared> {
        Rc::clone(&self.shared)
    }

    fn intern(&mut self, type_name: &str, key: &str, group: GroupId, _event_id: u64) -> Result<EntityId, LoadError> {
        if type_name.len() > KEY_BYTES || key.len() > KEY_BYTES {
            return Err(LoadError::KeyTooLong);
        }
        let mut contents = self.store.lock();
        let next = EntityId(contents.entities.len() as u64 + 1);
        let id = *contents.by_name.entry(full_name(type_name, key)).or_insert(next);
        if id == next {
            contents.entities.push(Stored { group, last_seq: 0, records: Vec::new() });
        }
        Ok(id)
    }

    fn raise_epoch(&mut self, group: GroupId, epoch: Epoch) -> Result<(), AppendError> {
        let current = self.epoch(group);
        if epoch < current {
            return Err(AppendError::Fenced { current });
        }
        self.store.fence(group, epoch);
        Ok(())
    }

    fn epoch(&self, group: GroupId) -> Epoch {
        Epoch::new(self.store.lock().fence(group))
    }

    fn check(&mut self, entity: EntityId, epoch: Epoch, records: &[NewRecord<'_>]) -> Result<(), AppendError> {
        if self.poisoned.is_some() {
            return Err(AppendError::Poisoned);
        }
        if self.closed {
            return Err(AppendError::Closed);
        }
        let contents = self.store.lock();
        let stored = contents.entity(entity);
        let current = contents.fence(stored.group);
        if epoch.get() < current {
            return Err(AppendError::Fenced { current: Epoch::new(current) });
        }
        match contents.fault {
            Some(MemoryFault::Full) => return Err(AppendError::Full),
            Some(MemoryFault::LowSpace) => return Err(AppendError::LowSpace),
            _ => {}
        }
        if records.iter().any(|record| record.payload.len() + record.meta.len() > RECORD_BYTES) {
            return Err(AppendError::TooLarge { limit: RECORD_BYTES });
        }
        let bytes = command_bytes(records);
        if bytes > FRAME_BYTES {
            return Err(AppendError::TooLarge { limit: FRAME_BYTES });
        }
        if self.open.bytes + bytes > PENDING_BYTES {
            return Err(AppendError::Full);
        }
        let waiting = self.appended.get(&entity).filter(|(_, commit)| *commit > self.durable);
        let last = waiting.map_or(stored.last_seq, |(seq, _)| *seq);
        match check_sequences(last, records) {
            Ok(_) => Ok(()),
            Err(expected) => Err(AppendError::WrongSequence { expected }),
        }
    }

    fn append(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
        on_durable: Held,
    ) -> Result<Ticket, AppendError> {
        self.check(entity, epoch, records)?;
        let last = records.last().map_or(0, |record| record.seq);
        self.appended.insert(entity, (last, self.open.number));
        self.open.bytes += command_bytes(records);
        let records = records.iter().map(|record| StoredRecord {
            header: RecordHeader {
                entity: entity.0,
                seq: record.seq,
                prev: None,
                schema_version: record.schema_version,
                kind: record.kind,
                flags: 0,
            },
            payload: record.payload.to_vec(),
            damaged: false,
        });
        self.open.commands.push(Command { entity, epoch, records: records.collect() });
        self.open.effects.push(on_durable);
        Ok(Ticket(self.open.number))
    }

    fn when_durable(&mut self, ticket: Ticket, effect: Held) {
        if ticket.0 <= self.durable {
            effect(CommitOutcome::Durable);
        } else if self.poisoned.is_some() {
            effect(CommitOutcome::Unknown);
        } else {
            let waits = self.in_flight.as_mut().filter(|commit| commit.number == ticket.0);
            waits.unwrap_or(&mut self.open).effects.push(effect);
        }
    }

    fn is_durable(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.durable
    }

    fn load(&mut self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded) {
        if self.poisoned.is_some() || self.closed {
            on_loaded(Err(LoadError::Closed));
        } else {
            self.loads.push_back((entity, from, on_loaded));
        }
    }

    fn owing(&mut self, after: EntityId, most: usize, on_found: OnOwing) {
        let contents = self.store.lock();
        let mut all: Vec<(EntityId, Owing)> = contents
            .by_name
            .iter()
            .filter(|(_, id)| **id > after && contents.entity(**id).is_owing())
            .filter_map(|(name, id)| {
                let (type_name, key) = name.split_once('\0')?;
                Some((*id, Owing { type_name: type_name.into(), key: key.into() }))
            })
            .collect();
        drop(contents);
        all.sort_unstable_by_key(|(id, _)| *id);
        let next = if all.len() > most { all[most - 1].0 } else { EntityId(0) };
        on_found(all.into_iter().take(most).map(|(_, owing)| owing).collect(), next);
    }

    fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }
}

fn command_bytes(records: &[NewRecord<'_>]) -> usize {
    records.iter().map(|record| stored_bytes(record.payload.len(), record.meta.len())).sum()
}

impl Service for MemoryShard {
    fn name(&self) -> &'static str {
        "memory-store"
    }

    fn start(&mut self, _cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        Ok(Started::Ready)
    }

    fn completed(&mut self, _completion: FileCompletion, _cx: &mut ServiceContext<'_>) {
        debug_assert!(false, "the memory store makes no calls");
    }

    fn poll(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        let shared = Rc::clone(&self.shared);
        self.end_commit(cx.now_ns()) | self.serve_loads() | shared.pace(self)
    }

    fn flush(&mut self, cx: &mut ServiceContext<'_>) {
        self.begin_commit(cx.now_ns());
        let shared = Rc::clone(&self.shared);
        shared.begin_loads(self);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        if self.shared.is_behind() {
            return Some(0);
        }
        // Loads that wait at all wait for the commit.
        let loads = (!self.loads.is_empty()).then_some(0);
        self.in_flight.as_ref().map(|commit| commit.due_ns).or(loads)
    }

    fn commit_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    fn stop(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.begin_commit(cx.now_ns());
        self.end_commit(cx.now_ns());
        let idle = self.in_flight.is_none() && self.open.commands.is_empty() && self.open.effects.is_empty();
        if idle {
            self.closed = true;
            self.close_loads();
        }
        idle
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![("commits", self.commits)];
        counters.extend(self.shared.counters());
        counters
    }
}
