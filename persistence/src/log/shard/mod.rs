//! `LogShard`: the log of one shard, a service that takes part in its turns.
//!
//! At most one frame is in flight; what is appended meanwhile forms the next one. A frame is one write at the log's end, and
//! its held effects run, in append order, when the device said that it is durable, never earlier. Spare segments are
//! pre-written and the manifest updated beside that by one background task.
//!
//! Invariant: no effect runs with [`CommitOutcome::Durable`] before its frame is durable, and after the first failed write
//! or sync none ever does. Shard thread only.

mod append;
mod background;
mod checkpoints;
mod owing;
mod service;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileCompletion, FileOp};
use shardstage::port::service::{ServiceContext, ServiceSeat};

use crate::format::frame::{FLAG_HEARTBEAT, FLAG_OPEN, FLAG_SEGMENT_END, FRAME_HEADER_BYTES, padded};
use crate::format::manifest::Manifest;
use crate::format::salt;
use crate::limits::{BLOCK_BYTES, HEARTBEAT_NS};
use crate::log::batch::{Batch, Placed};
use crate::log::desk::Desk;
use crate::log::files::{OpenSegment, PrepareError, Unlisted, WriteMode};
use crate::log::index::EntityIndex;
use crate::log::load::Loader;
use crate::log::open::{OpenError, OpenPlan, Opened};
use crate::log::probe::ProbeReport;
use crate::log::token::{Token, TokenKind};
use crate::log::{EventLog, OnPoison, PlantedBug};
use crate::store::{CommitOutcome, EntityId, Held, LoadError, LoadFrom, OnLoaded, OnOwing, StoreShared};

use checkpoints::Checkpoints;
use writer::Log;

const NAME: &str = "event-log";

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// A manifest that is on the disk now, and the segment that it lists besides.
type Listed = Result<(Option<OpenSegment>, Manifest), PrepareError>;

enum State {
    Created,
    Opening(Task<Result<Opened, OpenError>>),
    /// The incarnation's first frame is on its way.
    Beginning,
    Running,
    Poisoned(String),
    Closed,
}
/// Values that only grow.
#[derive(Default)]
struct Counters {
    events: u64,
    snapshots: u64,
    ledger_records: u64,
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
    recovered_bytes: u64,
    checkpoints_used: u64,
    checkpoints: u64,
    checkpoints_failed: u64,
}
/// See the module's head.
pub struct LogShard {
    options: EventLog,
    /// Questions for who owes outbox messages.
    owing: VecDeque<(EntityId, usize, OnOwing)>,
    naming: Option<owing::Naming>,
    seat: ServiceSeat,
    state: State,
    desk: Desk,
    log: Option<Log>,
    preparing: Option<Task<Result<Unlisted, PrepareError>>>,
    /// A spare that was prepared and the manifest does not list yet.
    unlisted: Option<Unlisted>,
    listing: Option<Task<Listed>>,
    spare_error: Option<String>,
    spare_retry_ns: u64,
    index: EntityIndex,
    batches: VecDeque<Batch>,
    /// Memory for the next batch.
    spare_batch: Batch,
    next_batch: u64,
    durable_batch: u64,
    heartbeat_due_ns: Option<u64>,
    loads: VecDeque<(EntityId, LoadFrom, OnLoaded)>,
    loader: Loader,
    checkpoints: Checkpoints,
    /// What the probe found.
    report: Option<ProbeReport>,
    /// The time of the turn that polled last.
    turn_ns: u64,
    stopping: bool,
    counters: Counters,
    shared: Rc<StoreShared>,
}
impl LogShard {
    pub(crate) fn new(options: &EventLog, seat: ServiceSeat) -> Self {
        Self {
            options: options.clone(),
            owing: VecDeque::new(),
            naming: None,
            seat,
            state: State::Created,
            desk: Desk::default(),
            log: None,
            preparing: None,
            unlisted: None,
            listing: None,
            spare_error: None,
            spare_retry_ns: 0,
            // Replaced by that of the opened log.
            index: EntityIndex::new(0),
            batches: VecDeque::new(),
            spare_batch: Batch::default(),
            next_batch: 1,
            durable_batch: 0,
            heartbeat_due_ns: None,
            loads: VecDeque::new(),
            loader: Loader::default(),
            checkpoints: Checkpoints::default(),
            report: None,
            turn_ns: 0,
            stopping: false,
            counters: Counters::default(),
            shared: Rc::default(),
        }
    }

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
            PlantedBug::NoSync => WriteMode { dsync: false, ..opened.report.mode },
            _ => opened.report.mode,
        };
        self.report = Some(opened.report);
        self.counters.recovered_records = opened.records;
        self.counters.recovered_frames = opened.tail.frames;
        self.counters.recovered_bytes = opened.tail.bytes;
        self.counters.torn_tails_cut = u64::from(opened.tail.torn);
        self.counters.checkpoints_used = u64::from(opened.checkpoint.is_some());
        self.checkpoints.since_bytes = opened.tail.bytes;
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
            // What came before was sealed when the log was opened.
            begun_is_listed: true,
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
        if log.active_ended {
            if !log.activate_next() {
                return;
            }
            self.keep_listed(cx);
        }
        let Some(log) = self.log.as_mut().filter(|_| matches!(self.state, State::Running)) else { return };
        if let Some(batch) = self.batches.front() {
            let blocks = padded(batch.worst_bytes()) / BLOCK_BYTES;
            let fits = blocks <= log.free_blocks();
            if !log.may_write(if fits { blocks } else { 1 }) {
                return;
            }
            if !fits {
                self.submit_control(FLAG_SEGMENT_END, cx);
            } else {
                let batch = self.batches.pop_front().expect("looked at above");
                self.submit_batch(batch, cx);
            }
        } else if log.may_write(1) && self.heartbeat_due_ns.is_some_and(|due| due <= cx.now_ns() || self.stopping) {
            self.submit_control(FLAG_HEARTBEAT, cx);
        }
    }

    fn submit_control(&mut self, flags: u16, cx: &mut ServiceContext<'_>) {
        self.anchor_checkpoint(flags);
        let log = self.log.as_mut().expect("frames are written by an open log");
        let buffer = log.buffer.take().expect("the buffer is here while no frame is in flight");
        log.submit(buffer, FRAME_HEADER_BYTES, 0, 0, flags, Vec::new(), None, Vec::new(), cx);
        self.submitted();
    }

    fn submit_batch(&mut self, mut batch: Batch, cx: &mut ServiceContext<'_>) {
        self.anchor_checkpoint(0);
        let log = self.log.as_mut().expect("frames are written by an open log");
        let mut buffer = log.buffer.take().expect("the buffer is here while no frame is in flight");
        let frame_at = u64::from(log.block) * BLOCK_BYTES as u64;
        let sealed = batch.seal(log.active.id, frame_at, &mut buffer, &mut log.groups, &mut self.index);
        log.submit(
            buffer,
            sealed.len,
            sealed.record_count,
            sealed.section_count,
            0,
            std::mem::take(&mut batch.placed),
            Some(batch.number),
            std::mem::take(&mut batch.effects),
            cx,
        );
        batch.clear();
        let Batch { effects, placed, .. } = std::mem::replace(&mut self.spare_batch, batch);
        self.keep_lists(effects, placed);
        self.submitted();
    }

    /// The next batch uses the memory of these lists, which are empty.
    fn keep_lists(&mut self, effects: Vec<Held>, placed: Vec<Placed>) {
        let spare = &mut self.spare_batch;
        if spare.effects.capacity() < effects.capacity() {
            spare.effects = effects;
        }
        if spare.placed.capacity() < placed.capacity() {
            spare.placed = placed;
        }
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
        let Some(mut frame) = log.in_flight.take() else { return };
        log.advance(&frame);
        for placed in &frame.placed {
            self.index.committed(placed.entity, placed.kind, placed.seq, placed.position);
        }
        let durable_batch = frame.batch.unwrap_or(self.durable_batch);
        for placed in &frame.placed {
            self.index.settled(placed.entity, durable_batch);
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
        self.anchor_is_durable(frame.stored_bytes);
        for effect in frame.effects.drain(..) {
            effect(CommitOutcome::Durable);
        }
        frame.placed.clear();
        self.keep_lists(frame.effects, frame.placed);
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
        for (.., on_loaded) in std::mem::take(&mut self.loads) {
            on_loaded(Err(LoadError::Closed));
        }
        self.loader.close();
    }
}
