//! `LogShard`: the log of one shard, a service that takes part in its turns.
//!
//! At most one frame is in flight; what is appended meanwhile forms the next one. A frame is one write at the log's end, and
//! its held effects run, in append order, when the device said that it is durable, never earlier. Spare segments are
//! pre-written and the manifest updated beside that by one background task.
//!
//! Invariant: no effect runs with [`CommitOutcome::Durable`] before its frame is durable, and after the first failed write
//! or sync none ever does. Shard thread only.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileCompletion, FileId, FileOp};
use shardstage::port::service::{Service, ServiceContext, ServiceError, ServiceSeat, Started};
use shardstage_codec::{AlignedBytes, Epoch, GroupId};

use super::batch::{Batch, Held, NewRecord, Placed};
use super::desk::Desk;
use super::files::{OpenSegment, PrepareError, WriteMode, prepare_segment, segment_path};
use super::index::{EntityId, EntityIndex};
use super::load::{LoadError, Loader, OnLoaded};
use super::open::{OpenError, OpenPlan, Opened, open, seal_entries};
use super::token::{Token, TokenKind};
use super::{AppendError, CommitOutcome, EventLog, OnPoison, PlantedBug, Ticket};
use crate::format::frame::{
    FLAG_HEARTBEAT, FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, FrameHeader, padded, place,
};
use crate::format::manifest::Manifest;
use crate::format::record::{KeyDef, RecordKind};
use crate::format::salt;
use crate::limits::{
    BLOCK_BYTES, DEAD_COMMIT_NS, FRAME_BYTES, HEARTBEAT_NS, KEY_BYTES, PENDING_BYTES, READER_FILES, RECORD_BYTES,
    SLOW_COMMIT_NS, SPARE_RETRY_NS, SPARE_SEGMENTS,
};
use crate::recovery::{GroupTail, SegmentSpan};

const NAME: &str = "event-log";

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

enum State {
    Created,
    Opening(Task<Result<Opened, OpenError>>),
    /// The incarnation's first frame is on its way.
    Beginning,
    Running,
    Poisoned(String),
    Closed,
}

/// The frame that is on its way to the disk.
struct InFlight {
    /// Its batch's number and effects; control frames have none.
    batch: Option<u64>,
    effects: Vec<Held>,
    placed: Vec<Placed>,
    flags: u16,
    stored_bytes: usize,
    lsn_count: u64,
    since_ns: u64,
    slow: bool,
}

/// Values that only grow.
#[derive(Default)]
struct Counters {
    events: u64,
    snapshots: u64,
    frames: u64,
    bytes: u64,
    commit_ns: u64,
    slow_commits: u64,
    heartbeats: u64,
    segments_ended: u64,
    appends_fenced: u64,
    loads: u64,
    recovered_records: u64,
    recovered_frames: u64,
    torn_tails_cut: u64,
}

/// What exists once the log is open.
struct Log {
    directory: FileId,
    lock: FileId,
    mode: WriteMode,
    salt: u32,
    /// As it stands on the disk.
    manifest: Manifest,
    spans: Vec<SegmentSpan>,
    incarnation: u64,
    next_lsn: u64,
    prev_crc: u32,
    groups: Vec<GroupTail>,
    active: OpenSegment,
    block: u32,
    active_ended: bool,
    ready: VecDeque<OpenSegment>,
    readers: BTreeMap<u64, FileId>,
    buffer: Option<IoBuffer>,
    in_flight: Option<InFlight>,
}

/// See the module's head.
pub struct LogShard {
    options: EventLog,
    seat: ServiceSeat,
    state: State,
    desk: Desk,
    log: Option<Log>,
    preparing: Option<Task<Result<(OpenSegment, Manifest), PrepareError>>>,
    spare_error: Option<String>,
    spare_retry_ns: u64,
    index: EntityIndex,
    batches: VecDeque<Batch>,
    next_batch: u64,
    durable_batch: u64,
    heartbeat_due_ns: Option<u64>,
    loads: VecDeque<(EntityId, OnLoaded)>,
    loader: Loader,
    stopping: bool,
    counters: Counters,
    broken: BTreeMap<EntityId, Box<str>>,
    scratch: AlignedBytes,
    refused_tells: Rc<Cell<u64>>,
}

impl LogShard {
    pub(crate) fn new(options: &EventLog, seat: ServiceSeat) -> Self {
        Self {
            options: options.clone(),
            seat,
            state: State::Created,
            desk: Desk::default(),
            log: None,
            preparing: None,
            spare_error: None,
            spare_retry_ns: 0,
            index: EntityIndex::default(),
            batches: VecDeque::new(),
            next_batch: 1,
            durable_batch: 0,
            heartbeat_due_ns: None,
            loads: VecDeque::new(),
            loader: Loader::default(),
            stopping: false,
            counters: Counters::default(),
            broken: BTreeMap::new(),
            scratch: AlignedBytes::new(),
            refused_tells: Rc::default(),
        }
    }

    /// The number of the entity with this actor type and key; known from the log, or new. `event_id` is the stable id of
    /// the type's events. Costs one ordered lookup by name.
    ///
    /// # Errors
    /// [`LoadError::KeyTooLong`]; nothing changed.
    pub fn intern(&mut self, type_name: &str, key: &str, group: GroupId, event_id: u64) -> Result<EntityId, LoadError> {
        if type_name.len() > KEY_BYTES || key.len() > KEY_BYTES {
            return Err(LoadError::KeyTooLong);
        }
        Ok(self.index.intern(&KeyDef { event_id, group, type_name, key }))
    }

    /// Appends the records of one command to the open batch; they become durable together or not at all.
    /// `on_durable` runs on this shard, in append order, once they are. The ticket waits for the same.
    ///
    /// Copies each payload once here and once when the frame is sealed.
    ///
    /// # Errors
    /// See [`AppendError`]; `on_durable` is dropped without being called.
    ///
    /// # Panics
    /// When a record is a key definition: the log writes those itself.
    pub fn append(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
        on_durable: Held,
    ) -> Result<Ticket, AppendError> {
        let cost = self.check(entity, epoch, records)?;
        let limit = self.frame_bytes();
        let group = self.index.get(entity).group;
        let log = self.log.as_mut().ok_or(AppendError::Closed)?;
        log.groups[usize::from(group.get())].epoch = epoch.get();
        if self.batches.back().is_none_or(|open| open.worst_bytes() + cost > limit) {
            self.batches.push_back(Batch::new(self.next_batch));
            self.next_batch += 1;
        }
        let open = self.batches.back_mut().expect("pushed above");
        open.add(group, epoch, entity, records, &mut self.index);
        open.effects.push(on_durable);
        let number = open.number;
        let known = self.index.get_mut(entity);
        for record in records {
            match record.kind {
                RecordKind::Event => {
                    known.appended_seq = record.seq;
                    self.counters.events += 1;
                }
                _ => self.counters.snapshots += 1,
            }
        }
        Ok(Ticket(number))
    }

    /// Whether an append of these records would be taken now; returns an upper bound of the bytes that they take. Changes
    /// nothing.
    pub(crate) fn check(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
    ) -> Result<usize, AppendError> {
        self.admit(entity, epoch, records)?;
        let known = self.index.get(entity);
        let cost = Batch::cost(&known.type_name, &known.key, records);
        let limit = self.frame_bytes();
        if FRAME_HEADER_BYTES + cost > limit {
            return Err(AppendError::TooLarge { limit });
        }
        let waiting: usize = self.batches.iter().map(Batch::worst_bytes).sum();
        if waiting + cost > PENDING_BYTES {
            return Err(AppendError::Full);
        }
        Ok(cost)
    }

    /// Why the entity cannot be served until the process restarts, if so.
    pub(crate) fn broken(&self, entity: EntityId) -> Option<&str> {
        self.broken.get(&entity).map(|why| &**why)
    }

    /// Remembers that the entity's records cannot be made into its state, so that nobody tries again and again.
    pub(crate) fn mark_broken(&mut self, entity: EntityId, why: &str) {
        self.broken.entry(entity).or_insert_with(|| why.into());
    }

    /// Room for encoding; give it back with [`keep_scratch`](Self::keep_scratch).
    pub(crate) fn take_scratch(&mut self) -> AlignedBytes {
        std::mem::take(&mut self.scratch)
    }

    pub(crate) fn keep_scratch(&mut self, mut scratch: AlignedBytes) {
        scratch.clear();
        self.scratch = scratch;
    }

    /// Counts messages of durable effects that their receiver refused.
    pub(crate) fn refused_tells(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.refused_tells)
    }

    fn admit(&mut self, entity: EntityId, epoch: Epoch, records: &[NewRecord<'_>]) -> Result<(), AppendError> {
        match self.state {
            State::Running => {}
            State::Poisoned(_) => return Err(AppendError::Poisoned),
            _ => return Err(AppendError::Closed),
        }
        assert!(!records.is_empty(), "an append has at least one record");
        let known = self.index.find(entity).ok_or(AppendError::Closed)?;
        let log = self.log.as_ref().ok_or(AppendError::Closed)?;
        let current = log.groups[usize::from(known.group.get())].epoch.max(1);
        if epoch.get() < current {
            self.counters.appends_fenced += 1;
            return Err(AppendError::Fenced { current: Epoch::new(current) });
        }
        if self.spare_error.is_some() && log.ready.is_empty() {
            return Err(AppendError::LowSpace);
        }
        let mut last = known.appended_seq;
        for record in records {
            if record.payload.len() + record.meta.len() > RECORD_BYTES || record.meta.len() > usize::from(u16::MAX) {
                return Err(AppendError::TooLarge { limit: RECORD_BYTES });
            }
            let expected = match record.kind {
                RecordKind::Event => last + 1,
                RecordKind::Snapshot => last,
                RecordKind::KeyDef => panic!("key definitions are written by the log itself"),
            };
            if record.seq != expected {
                return Err(AppendError::WrongSequence { expected });
            }
            last = expected;
        }
        Ok(())
    }

    /// Runs `effect` in append order with the effects of `ticket`'s frame; at once when that frame is durable already.
    pub fn when_durable(&mut self, ticket: Ticket, effect: Held) {
        if matches!(self.state, State::Poisoned(_)) && ticket.0 > self.durable_batch {
            effect(CommitOutcome::Unknown);
            return;
        }
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == ticket.0) {
            batch.effects.push(effect);
            return;
        }
        let in_flight = self.log.as_mut().and_then(|log| log.in_flight.as_mut());
        match in_flight {
            Some(frame) if frame.batch == Some(ticket.0) => frame.effects.push(effect),
            _ => {
                debug_assert!(ticket.0 <= self.durable_batch);
                effect(CommitOutcome::Durable);
            }
        }
    }

    /// Whether the ticket's frame is durable.
    #[must_use]
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.durable_batch
    }

    /// Reads the entity's latest snapshot and the events after it, including those whose frame is still on its way.
    /// `on_loaded` runs on this shard in a later turn, or in the next `poll`.
    pub fn load(&mut self, entity: EntityId, on_loaded: OnLoaded) {
        match self.state {
            State::Poisoned(_) | State::Closed => on_loaded(Err(LoadError::Closed)),
            _ => self.loads.push_back((entity, on_loaded)),
        }
    }

    /// Raises the epoch of a slot group: appends under a lower one are refused from now on.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when the group's epoch is higher already; [`AppendError::Closed`] before the log runs.
    pub fn raise_epoch(&mut self, group: GroupId, epoch: Epoch) -> Result<(), AppendError> {
        let log = self.log.as_mut().ok_or(AppendError::Closed)?;
        let group = log.groups.get_mut(usize::from(group.get())).ok_or(AppendError::Closed)?;
        if epoch.get() < group.epoch.max(1) {
            return Err(AppendError::Fenced { current: Epoch::new(group.epoch.max(1)) });
        }
        group.epoch = epoch.get();
        Ok(())
    }

    /// The group's current epoch, at least 1.
    #[must_use]
    pub fn epoch(&self, group: GroupId) -> Epoch {
        let known = self.log.as_ref().and_then(|log| log.groups.get(usize::from(group.get())));
        Epoch::new(known.map_or(1, |group| group.epoch.max(1)))
    }

    /// How frames become durable on this file system, in words; `None` before the log is open.
    #[must_use]
    pub fn write_mode(&self) -> Option<&'static str> {
        self.log.as_ref().map(|log| log.mode.name())
    }

    /// Why the log accepts nothing any more, if so.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        match &self.state {
            State::Poisoned(why) => Some(why),
            _ => None,
        }
    }

    /// Type, key and last durable event number of every entity that has records, in order of type and key.
    pub fn entities(&self) -> impl Iterator<Item = (EntityId, &str, &str, u64)> {
        self.index.iter().map(|(id, entity)| (id, &*entity.type_name, &*entity.key, entity.durable_seq()))
    }

    fn frame_bytes(&self) -> usize {
        let quarter = usize::try_from(self.options.segment_bytes / 4).unwrap_or(usize::MAX);
        FRAME_BYTES.min(quarter / BLOCK_BYTES * BLOCK_BYTES)
    }

    // ---- start ----

    fn plan(&self) -> OpenPlan {
        let blocks = self.options.segment_bytes / BLOCK_BYTES as u64;
        OpenPlan {
            dir: self.options.dir.join(format!("log-{}", self.seat.shard.get())),
            seat: self.seat,
            segment_blocks: u32::try_from(blocks).expect("checked against MAX_SEGMENT_BYTES"),
            cut_at_first_bad: self.options.planted == PlantedBug::CutAtFirstBad,
        }
    }

    fn begin(&mut self, opened: Opened, cx: &mut ServiceContext<'_>) {
        let mode = match self.options.planted {
            PlantedBug::NoSync => WriteMode { dsync: false, ..opened.mode },
            _ => opened.mode,
        };
        self.counters.recovered_records = opened.records;
        self.counters.recovered_frames = opened.tail.frames;
        self.counters.torn_tails_cut = u64::from(opened.tail.torn);
        self.index = opened.index;
        self.log = Some(Log {
            directory: opened.directory,
            lock: opened.lock,
            mode,
            salt: salt(opened.manifest.log_id),
            incarnation: opened.manifest.incarnation,
            manifest: opened.manifest,
            spans: opened.tail.spans,
            next_lsn: opened.tail.next_lsn,
            prev_crc: opened.tail.prev_crc,
            groups: opened.tail.groups,
            active: opened.active,
            block: opened.active_block,
            active_ended: false,
            ready: opened.ready,
            readers: BTreeMap::new(),
            buffer: Some(IoBuffer::zeroed(self.frame_bytes())),
            in_flight: None,
        });
        self.state = State::Beginning;
        self.submit_control(FLAG_OPEN, cx);
    }

    // ---- frames ----

    /// Submits the next frame if none is in flight: a segment-end when the batch does not fit, the oldest batch, or a
    /// heartbeat that is due.
    fn submit_next(&mut self, cx: &mut ServiceContext<'_>) {
        if !matches!(self.state, State::Running) {
            return;
        }
        let Some(log) = self.log.as_mut() else { return };
        if log.in_flight.is_some() {
            return;
        }
        if log.active_ended && !log.activate_next() {
            return;
        }
        if let Some(batch) = self.batches.front() {
            let blocks = padded(batch.worst_bytes()) / BLOCK_BYTES;
            if blocks > log.free_blocks() {
                self.submit_control(FLAG_SEGMENT_END, cx);
            } else {
                let batch = self.batches.pop_front().expect("looked at above");
                self.submit_batch(batch, cx);
            }
        } else if self.heartbeat_due_ns.is_some_and(|due| due <= cx.now_ns() || self.stopping) {
            self.submit_control(FLAG_HEARTBEAT, cx);
        }
    }

    fn submit_control(&mut self, flags: u16, cx: &mut ServiceContext<'_>) {
        let log = self.log.as_mut().expect("frames are written by an open log");
        let buffer = log.buffer.take().expect("the buffer is here while no frame is in flight");
        log.submit(buffer, FRAME_HEADER_BYTES, 0, 0, flags, Vec::new(), None, Vec::new(), cx);
        self.submitted();
    }

    fn submit_batch(&mut self, mut batch: Batch, cx: &mut ServiceContext<'_>) {
        let log = self.log.as_mut().expect("frames are written by an open log");
        let mut buffer = log.buffer.take().expect("the buffer is here while no frame is in flight");
        let frame_at = u64::from(log.block) * BLOCK_BYTES as u64;
        let sealed = batch.seal(log.active.id, frame_at, &mut buffer, &mut log.groups, &mut self.index);
        let effects = std::mem::take(&mut batch.effects);
        log.submit(
            buffer,
            sealed.len,
            sealed.record_count,
            sealed.section_count,
            0,
            sealed.placed,
            Some(batch.number),
            effects,
            cx,
        );
        self.submitted();
    }

    fn submitted(&mut self) {
        self.heartbeat_due_ns = None;
        if self.options.planted == PlantedBug::AckAtSubmit
            && let Some(frame) = self.log.as_mut().and_then(|log| log.in_flight.as_mut())
        {
            for effect in std::mem::take(&mut frame.effects) {
                effect(CommitOutcome::Durable);
            }
        }
    }

    fn frame_written(&mut self, completion: FileCompletion, cx: &mut ServiceContext<'_>) {
        let Some(log) = self.log.as_mut() else { return };
        log.buffer = completion.buffer;
        let Some(frame) = log.in_flight.as_ref() else { return };
        let expected = frame.stored_bytes;
        match completion.result {
            Ok(written) if written == expected && log.buffer.is_some() => {}
            Ok(written) => {
                return self.poison(format!("a frame's write ended after {written} of {expected} bytes"), cx);
            }
            Err(error) => return self.poison(format!("a frame's write failed: {error}"), cx),
        }
        if log.mode.dsync || self.options.planted == PlantedBug::NoSync {
            self.committed(cx);
        } else {
            cx.submit(Token { kind: TokenKind::FrameSync, value: 0 }.pack(), log.active.file, FileOp::Sync);
        }
    }

    fn frame_synced(&mut self, result: io::Result<usize>, cx: &mut ServiceContext<'_>) {
        match result {
            Ok(_) => self.committed(cx),
            Err(error) => self.poison(format!("a frame's sync failed: {error}"), cx),
        }
    }

    /// The frame in flight is durable.
    fn committed(&mut self, cx: &mut ServiceContext<'_>) {
        if matches!(self.state, State::Poisoned(_)) {
            return;
        }
        let Some(log) = self.log.as_mut() else { return };
        let Some(frame) = log.in_flight.take() else { return };
        log.advance(&frame);
        for placed in &frame.placed {
            self.index.committed(placed.entity, placed.kind, placed.seq, placed.position);
        }
        let now_ns = cx.driver().now_ns();
        self.counters.frames += 1;
        self.counters.bytes += frame.stored_bytes as u64;
        self.counters.commit_ns += now_ns.saturating_sub(frame.since_ns);
        self.counters.heartbeats += u64::from(frame.flags & FLAG_HEARTBEAT != 0);
        self.counters.segments_ended += u64::from(frame.flags & FLAG_SEGMENT_END != 0);
        if let Some(number) = frame.batch {
            debug_assert_eq!(number, self.durable_batch + 1);
            self.durable_batch = number;
            self.heartbeat_due_ns = Some(now_ns + HEARTBEAT_NS);
        }
        if matches!(self.state, State::Beginning) {
            self.state = State::Running;
        }
        for effect in frame.effects {
            effect(CommitOutcome::Durable);
        }
    }

    /// Ends the log after its first error: nothing is acknowledged from here on.
    fn poison(&mut self, why: String, _cx: &mut ServiceContext<'_>) {
        if matches!(self.state, State::Poisoned(_)) {
            return;
        }
        if self.options.on_poison == OnPoison::Abort {
            eprintln!(
                "shardstage event log of shard {}: {why}; the process ends so that recovery decides",
                self.seat.shard.get()
            );
            std::process::abort();
        }
        self.state = State::Poisoned(why);
        self.heartbeat_due_ns = None;
        let in_flight = self.log.as_mut().and_then(|log| log.in_flight.take());
        let mut effects: Vec<Held> = in_flight.map(|frame| frame.effects).unwrap_or_default();
        for batch in std::mem::take(&mut self.batches) {
            effects.extend(batch.effects);
        }
        for effect in effects {
            effect(CommitOutcome::Unknown);
        }
        for (_, on_loaded) in std::mem::take(&mut self.loads) {
            on_loaded(Err(LoadError::Closed));
        }
        self.loader.close();
    }

    // ---- background ----

    fn keep_spares(&mut self, cx: &mut ServiceContext<'_>) {
        if let Some(task) = self.preparing.as_mut()
            && let Poll::Ready(prepared) = self.desk.serve(task, cx)
        {
            self.preparing = None;
            self.prepared(prepared, cx);
        }
        let Some(log) = self.log.as_mut() else { return };
        let wanted = matches!(self.state, State::Running)
            && !self.stopping
            && self.preparing.is_none()
            && log.ready.len() < SPARE_SEGMENTS
            && cx.now_ns() >= self.spare_retry_ns;
        if !wanted {
            return;
        }
        let mut manifest = log.manifest.clone();
        seal_entries(&mut manifest.segments, &log.spans, log.active.id);
        let desk = self.desk.clone();
        let dir = self.options.dir.join(format!("log-{}", self.seat.shard.get()));
        let (directory, mode) = (log.directory, log.mode);
        let blocks = u32::try_from(self.options.segment_bytes / BLOCK_BYTES as u64).expect("checked at the start");
        let mut task: Task<_> =
            Box::pin(async move { prepare_segment(&desk, &dir, directory, mode, blocks, manifest).await });
        match self.desk.serve(&mut task, cx) {
            Poll::Ready(prepared) => self.prepared(prepared, cx),
            Poll::Pending => self.preparing = Some(task),
        }
    }

    fn prepared(&mut self, prepared: Result<(OpenSegment, Manifest), PrepareError>, cx: &mut ServiceContext<'_>) {
        let Some(log) = self.log.as_mut() else { return };
        match prepared {
            Ok((segment, manifest)) => {
                log.ready.push_back(segment);
                log.manifest = manifest;
                self.spare_error = None;
            }
            Err(PrepareError::Space(error)) => {
                self.spare_error = Some(error.to_string());
                self.spare_retry_ns = cx.now_ns() + SPARE_RETRY_NS;
            }
            Err(PrepareError::Manifest(error)) => {
                self.poison(format!("the manifest could not be written: {error}"), cx)
            }
        }
    }

    fn serve_loads(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        let mut did = false;
        for _ in 0..self.loads.len() {
            let Some((id, on_loaded)) = self.loads.pop_front() else { break };
            let Some(entity) = self.index.find(id) else {
                on_loaded(Err(LoadError::Closed));
                continue;
            };
            if entity.batch > self.durable_batch {
                self.loads.push_back((id, on_loaded));
                continue;
            }
            did = true;
            self.counters.loads += 1;
            self.loader.begin(id, entity, on_loaded);
        }
        while let Some(read) = self.loader.next_read() {
            did = true;
            let Some(log) = self.log.as_mut() else { break };
            let dir = self.options.dir.join(format!("log-{}", self.seat.shard.get()));
            match log.reader(read.segment, &dir, cx) {
                Ok(file) => {
                    let token = Token { kind: TokenKind::Load, value: read.token }.pack();
                    cx.submit(token, file, FileOp::Read { offset: read.offset, buffer: IoBuffer::zeroed(read.len) });
                }
                Err(error) => self.loader.refused(read.token, format!("segment {:016x}: {error}", read.segment)),
            }
        }
        did
    }

    fn check_age(&mut self, cx: &mut ServiceContext<'_>) {
        let now_ns = cx.now_ns();
        let Some(frame) = self.log.as_mut().and_then(|log| log.in_flight.as_mut()) else { return };
        let age_ns = now_ns.saturating_sub(frame.since_ns);
        if age_ns >= SLOW_COMMIT_NS && !frame.slow {
            frame.slow = true;
            self.counters.slow_commits += 1;
        }
        if age_ns >= DEAD_COMMIT_NS {
            self.poison(format!("a frame's write did not end within {} s", DEAD_COMMIT_NS / 1_000_000_000), cx);
        }
    }

    fn close(&mut self, cx: &mut ServiceContext<'_>) {
        if let Some(log) = self.log.take() {
            let files = [log.active.file, log.directory, log.lock];
            let ready = log.ready.iter().map(|segment| segment.file);
            for file in files.into_iter().chain(ready).chain(log.readers.into_values()) {
                cx.driver().close(file);
            }
        }
        for (_, on_loaded) in std::mem::take(&mut self.loads) {
            on_loaded(Err(LoadError::Closed));
        }
        if !matches!(self.state, State::Poisoned(_)) {
            self.state = State::Closed;
        }
    }
}

impl Log {
    fn free_blocks(&self) -> usize {
        (self.active.blocks - self.block) as usize
    }

    /// Makes the oldest spare the active segment.
    fn activate_next(&mut self) -> bool {
        let Some(next) = self.ready.pop_front() else { return false };
        debug_assert!(next.id > self.active.id);
        // Reads of the ended segment go on over this handle.
        self.readers.insert(self.active.id, self.active.file);
        self.active = next;
        self.block = 0;
        self.active_ended = false;
        true
    }

    #[expect(clippy::too_many_arguments, reason = "one place writes frame headers")]
    fn submit(
        &mut self,
        mut buffer: IoBuffer,
        len: usize,
        record_count: u32,
        section_count: u16,
        flags: u16,
        placed: Vec<Placed>,
        batch: Option<u64>,
        effects: Vec<Held>,
        cx: &mut ServiceContext<'_>,
    ) {
        assert!(self.in_flight.is_none(), "one frame is in flight at a time");
        let stored_bytes = padded(len);
        let blocks = stored_bytes / BLOCK_BYTES;
        assert!(blocks <= self.free_blocks(), "a frame fits into its segment");
        let flags = if blocks == self.free_blocks() { flags | FLAG_SEGMENT_END } else { flags };
        buffer[len..stored_bytes].fill(0);
        let header = FrameHeader {
            frame_crc: crc32c::crc32c(&buffer[FRAME_HEADER_BYTES..len]),
            len: u32::try_from(len).expect("a frame is smaller than 4 GiB"),
            incarnation: self.incarnation,
            first_lsn: self.next_lsn,
            durable_lsn: self.next_lsn,
            prev_crc: self.prev_crc,
            record_count,
            place: place(self.active.id, self.block),
            flags,
            section_count,
        };
        self.prev_crc = header.encode(self.salt, &mut buffer);
        self.in_flight = Some(InFlight {
            batch,
            effects,
            placed,
            flags,
            stored_bytes,
            lsn_count: header.lsn_count(),
            since_ns: cx.now_ns(),
            slow: false,
        });
        let offset = u64::from(self.block) * BLOCK_BYTES as u64;
        let token = Token { kind: TokenKind::FrameWrite, value: 0 }.pack();
        cx.submit(token, self.active.file, FileOp::Write { offset, buffer, len: stored_bytes });
    }

    /// Moves the log's end behind a durable frame.
    fn advance(&mut self, frame: &InFlight) {
        let first_lsn = self.next_lsn;
        self.next_lsn += frame.lsn_count;
        self.block += u32::try_from(frame.stored_bytes / BLOCK_BYTES).expect("a frame has few blocks");
        self.active_ended = frame.flags & FLAG_SEGMENT_END != 0;
        match self.spans.last_mut() {
            Some(span) if span.id == self.active.id => span.end_lsn = self.next_lsn,
            _ => self.spans.push(SegmentSpan { id: self.active.id, first_lsn, end_lsn: self.next_lsn }),
        }
    }

    /// A handle for reading a segment.
    fn reader(&mut self, segment: u64, dir: &std::path::Path, cx: &mut ServiceContext<'_>) -> io::Result<FileId> {
        if segment == self.active.id {
            return Ok(self.active.file);
        }
        if let Some(file) = self.readers.get(&segment) {
            return Ok(*file);
        }
        if self.readers.len() >= READER_FILES
            && let Some((_, file)) = self.readers.pop_first()
        {
            cx.driver().close(file);
        }
        let file = cx.driver().open(&segment_path(dir, segment), self.mode.read())?;
        self.readers.insert(segment, file);
        Ok(file)
    }
}

impl Service for LogShard {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&mut self, cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        if matches!(self.state, State::Created) {
            self.state = State::Opening(Box::pin(open(self.desk.clone(), self.plan())));
        }
        if let State::Opening(task) = &mut self.state
            && let Poll::Ready(result) = self.desk.serve(task, cx)
        {
            match result {
                Ok(opened) => self.begin(opened, cx),
                Err(error) => {
                    self.state = State::Closed;
                    return Err(ServiceError { service: NAME, reason: error.to_string() });
                }
            }
        }
        match &self.state {
            State::Running => Ok(Started::Ready),
            State::Poisoned(why) => Err(ServiceError { service: NAME, reason: why.clone() }),
            State::Closed => Err(ServiceError { service: NAME, reason: "the log was closed".into() }),
            _ => Ok(Started::Pending),
        }
    }

    fn completed(&mut self, completion: FileCompletion, cx: &mut ServiceContext<'_>) {
        let (_, token) = ServiceContext::split_token(completion.token);
        match Token::unpack(token) {
            Some(Token { kind: TokenKind::FrameWrite, .. }) => self.frame_written(completion, cx),
            Some(Token { kind: TokenKind::FrameSync, .. }) => self.frame_synced(completion.result, cx),
            Some(Token { kind: TokenKind::Task, value }) => self.desk.answer(value, completion),
            Some(Token { kind: TokenKind::Load, value }) => self.loader.completed(value, completion),
            None => debug_assert!(false, "a completion with a token that the log never used"),
        }
    }

    fn poll(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.keep_spares(cx);
        self.check_age(cx);
        self.serve_loads(cx)
    }

    fn flush(&mut self, cx: &mut ServiceContext<'_>) {
        self.serve_loads(cx);
        self.submit_next(cx);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let frame = self.log.as_ref().and_then(|log| log.in_flight.as_ref());
        let age = frame.map(|frame| frame.since_ns + if frame.slow { DEAD_COMMIT_NS } else { SLOW_COMMIT_NS });
        let retry = self.spare_error.as_ref().map(|_| self.spare_retry_ns);
        [self.heartbeat_due_ns, age, retry].into_iter().flatten().min()
    }

    fn commit_in_flight(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.in_flight.is_some())
    }

    fn stop(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.stopping = true;
        self.keep_spares(cx);
        self.serve_loads(cx);
        self.submit_next(cx);
        let waits = self.commit_in_flight() || !self.batches.is_empty() || self.heartbeat_due_ns.is_some();
        let done = match self.state {
            State::Running => !waits && self.preparing.is_none() && self.loads.is_empty() && self.loader.is_idle(),
            State::Beginning => false,
            // Nothing was promised yet: the next start opens again, wherever this one got to.
            State::Created | State::Opening(_) | State::Poisoned(_) | State::Closed => true,
        };
        if done {
            self.close(cx);
        }
        done
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("events", c.events),
            ("snapshots", c.snapshots),
            ("frames", c.frames),
            ("bytes", c.bytes),
            ("commit_ns", c.commit_ns),
            ("slow_commits", c.slow_commits),
            ("heartbeats", c.heartbeats),
            ("segments_ended", c.segments_ended),
            ("appends_fenced", c.appends_fenced),
            ("loads", c.loads),
            ("recovered_records", c.recovered_records),
            ("recovered_frames", c.recovered_frames),
            ("torn_tails_cut", c.torn_tails_cut),
            ("tells_refused", self.refused_tells.get()),
            ("entities_broken", self.broken.len() as u64),
        ]
    }
}
