//! The log itself: one actor a shard stands for all writers and appends to the shard's log directly.
//!
//! A writer has one event in flight and appends the next in the turn in which it hears of the last. Invariant: an event counts
//! when its own held effect was told that it is durable.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;
use shardstage_codec::{ActorTypeId, Epoch, slot_of};
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{AppendError, CommitOutcome, EntityId, EventLog, Held, LogShard, NewRecord};

use super::LogWork;
use super::disturb::{Beside, disturb};
use super::drive::per_event;
use super::room::Room;
use super::schedule::{Schedule, Tail};
use crate::limits::{DRAIN_TIME, LOG_TIME, SEGMENT_BYTES, WRITERS};
use crate::ours::{PARKED, SPINNING};
use crate::stores::payload;
use crate::workload::{Entry, Role, Run, Work};

use IdleStrategy::{Park, Spin};

/// The log's own share of its table.
pub const ENTRIES: &[Entry] = &[
    timed(LogWork::OneSpinning, SPINNING, |n| closed(1, Spin, ONE, n), |n| both(1, Spin, ONE, n)),
    timed(LogWork::OneParked, PARKED, |n| closed(1, Park, ONE, n), |n| both(1, Park, ONE, n)),
    timed(LogWork::Writers, SPINNING, |n| closed(1, Spin, MANY, n), |n| both(1, Spin, MANY, n)),
    timed(LogWork::Writers, PARKED, |n| closed(1, Park, MANY, n), |n| both(1, Park, MANY, n)),
    timed(LogWork::Batches, SPINNING, |n| closed(1, Spin, BATCH, n), |n| both(1, Spin, BATCH, n)),
    timed(LogWork::Batches, PARKED, |n| closed(1, Park, BATCH, n), |n| both(1, Park, BATCH, n)),
    timed(LogWork::TwoShards, SPINNING, |n| closed(2, Spin, MANY, n), |n| both(2, Spin, MANY, n)),
    figure(LogWork::TwoShards, "one shard", Role::Limit, |n| closed(1, Spin, MANY, n / 2)),
    figure(LogWork::WholePath, "raw log", Role::Limit, |n| closed(1, Spin, MANY, n)),
    figure(LogWork::Saturated, SPINNING, Role::Ours, |n| commit_p99(2, Beside::Work, n)),
    figure(LogWork::Saturated, "polling but idle", Role::Limit, |n| commit_p99(2, Beside::Nothing, n)),
    figure(LogWork::Snapshots, SPINNING, Role::Ours, |n| commit_p99(1, Beside::Snapshots, n)),
    figure(LogWork::Snapshots, "no snapshots", Role::Limit, |n| commit_p99(1, Beside::Nothing, n)),
];

/// Writers of a shard, and how they append.
type Shape = (u64, Pace);

const ONE: Shape = (1, Pace::Closed);
const MANY: Shape = (WRITERS, Pace::Closed);
const BATCH: Shape = (WRITERS, Pace::Batches);

const fn timed(work: LogWork, name: &'static str, closed: fn(u64) -> f64, both: fn(u64) -> (f64, Tail)) -> Entry {
    Entry { work: Work::Log(work), name, role: Role::Ours, run: Run::Loop { closed, both } }
}

const fn figure(work: LogWork, name: &'static str, role: Role, run: fn(u64) -> f64) -> Entry {
    Entry { work: Work::Log(work), name, role, run: Run::Figure(run) }
}

/// When a shard's writers append.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// Each as soon as it hears of its last event.
    Closed,
    /// All at once, when all are durable: one committer.
    Batches,
    /// When an event is due: at half of the rate at which one takes so many nanoseconds.
    Open(f64),
}

/// What one shard's writers do.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) writers: u64,
    /// At most so many.
    pub(super) events: u64,
    pub(super) pace: Pace,
    /// They end then at the latest.
    pub(super) time: Duration,
}

/// What writers saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) events: u64,
    pub(super) elapsed: Duration,
    /// From append, or from when the event was due, until it was known to be durable.
    pub(super) latencies: Vec<Duration>,
}

/// What became durable since the actor looked: the writer, and since when it waited.
#[derive(Default)]
struct Kept {
    events: Vec<(usize, Instant)>,
    at: Option<Instant>,
}

struct Writer {
    entity: EntityId,
    seq: u64,
}

/// All writers of one shard.
struct Writers {
    /// Tells its entities from those of other writers.
    session: u64,
    plan: Plan,
    parks: bool,
    writers: Vec<Writer>,
    appended: u64,
    done: u64,
    kept: Rc<RefCell<Kept>>,
    begun: Option<Instant>,
    schedule: Option<Schedule>,
    latencies: Vec<Duration>,
    end: Option<Sender<Seen>>,
}

impl Actor for Writers {}

#[message]
struct Begin;

/// Some events are durable.
#[message]
struct Durable;

/// Events may be due.
#[message]
#[derive(Clone)]
struct Look;

const TYPE: &str = "bench.raw";

impl Writers {
    fn new(session: u64, plan: Plan, parks: bool, end: Sender<Seen>) -> Self {
        let room = usize::try_from(plan.events).expect("events fit into memory");
        Self {
            session,
            plan,
            parks,
            writers: Vec::new(),
            appended: 0,
            done: 0,
            kept: Rc::default(),
            begun: None,
            schedule: None,
            latencies: Vec::with_capacity(room),
            end: Some(end),
        }
    }

    fn over(&self) -> bool {
        self.appended >= self.plan.events || self.begun.is_some_and(|begun| begun.elapsed() > self.plan.time)
    }

    /// The next event of each of these writers, whose last one is durable: the log has room for them.
    fn append(&mut self, numbers: impl ExactSizeIterator<Item = usize>, since: Instant, cx: &mut Context<Self>) {
        let all = numbers.len();
        assert_eq!(self.append_up_to_full(numbers, since, cx), all, "what waits for the disk is far below the bound");
    }

    /// The same for writers who do not wait; returns how many events the log took before too much waited for the disk.
    fn append_up_to_full(
        &mut self,
        numbers: impl ExactSizeIterator<Item = usize>,
        since: Instant,
        cx: &mut Context<Self>,
    ) -> usize {
        let (me, last) = (cx.me(), numbers.len() - 1);
        let (writers, kept) = (&mut self.writers, &self.kept);
        let one_effect = matches!(self.plan.pace, Pace::Batches);
        let appended = cx.service::<LogShard, _>(|log| {
            let mut appended = 0;
            for (index, number) in numbers.enumerate() {
                let held: Held = if one_effect && index < last {
                    Box::new(|_| {})
                } else {
                    let kept = Rc::clone(kept);
                    Box::new(move |outcome| keep(outcome, &mut kept.borrow_mut(), number, since, me))
                };
                let writer = &mut writers[number];
                let seq = writer.seq + 1;
                let record =
                    NewRecord { kind: RecordKind::Event, seq, schema_version: 1, payload: payload(seq), meta: &[] };
                match log.append(writer.entity, Epoch::FIRST, &[record], held) {
                    Ok(_) => writer.seq = seq,
                    Err(AppendError::Full) => break,
                    Err(error) => panic!("the log takes it: {error}"),
                }
                appended += 1;
            }
            appended
        });
        let appended = appended.expect("the shard has a log");
        self.appended += appended as u64;
        appended
    }

    /// Appends what is due. What the log refuses because the disk stalls stays due, and its latency runs.
    fn append_due(&mut self, cx: &mut Context<Self>) {
        let now = Instant::now();
        while !self.over()
            && let Some(due) = self.schedule.as_ref().map(Schedule::due).filter(|due| *due <= now)
        {
            let number = self.appended % self.plan.writers;
            if self.append_up_to_full(std::iter::once(number as usize), due, cx) == 0 {
                break;
            }
            self.schedule.as_mut().expect("just looked at").step();
        }
    }

    fn finish(&mut self) {
        if let (Some(end), Some(begun)) = (self.end.take(), self.begun) {
            let latencies = std::mem::take(&mut self.latencies);
            let _gone = end.send(Seen { events: self.done, elapsed: begun.elapsed(), latencies });
        }
    }
}

/// Runs inside the log: notes the event, and tells the actor with the first of a frame.
fn keep(outcome: CommitOutcome, kept: &mut Kept, number: usize, since: Instant, writers: ActorRef<Writers>) {
    assert_eq!(outcome, CommitOutcome::Durable, "the disk works");
    kept.events.push((number, since));
    if kept.at.is_none() {
        kept.at = Some(Instant::now());
        writers.tell(Durable).expect("one at a time fits the mailbox");
    }
}

impl Handler<Begin> for Writers {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        let shard = cx.me().id().shard().get();
        for number in 0..self.plan.writers {
            let key = format!("{shard}-{}-{number}", self.session);
            let group = slot_of(ActorTypeId::of(TYPE), &key).group();
            let entity =
                cx.service::<LogShard, _>(|log| log.intern(TYPE, &key, group, 1)).expect("the shard has a log");
            self.writers.push(Writer { entity: entity.expect("the key is short"), seq: 0 });
        }
        let now = Instant::now();
        self.begun = Some(now);
        if let Pace::Open(event_ns) = self.plan.pace {
            self.schedule = Some(Schedule::at_half(event_ns));
            let _full = cx.me().tell(Look);
        } else {
            self.append(0..self.writers.len(), now, cx);
        }
    }
}

impl Handler<Durable> for Writers {
    fn handle(&mut self, _: Durable, cx: &mut Context<Self>) {
        let (events, at) = {
            let mut kept = self.kept.borrow_mut();
            (std::mem::take(&mut kept.events), kept.at.take().expect("somebody told"))
        };
        self.latencies.extend(events.iter().map(|(_, since)| at - *since));
        self.done = match self.plan.pace {
            // One effect tells of all.
            Pace::Batches => self.appended,
            _ => self.done + events.len() as u64,
        };
        if !self.over() && !matches!(self.plan.pace, Pace::Open(_)) {
            let now = Instant::now();
            match self.plan.pace {
                Pace::Batches => self.append(0..self.writers.len(), now, cx),
                _ => self.append(events.iter().map(|(number, _)| *number), now, cx),
            }
        }
        if self.over() && self.done == self.appended {
            self.finish();
        }
    }
}

impl Handler<Look> for Writers {
    fn handle(&mut self, _: Look, cx: &mut Context<Self>) {
        self.append_due(cx);
        if self.over() {
            if self.done == self.appended {
                self.finish();
            }
            return;
        }
        let next = self.schedule.as_ref().map(Schedule::due).expect("an open loop has a schedule");
        if self.parks {
            cx.after(next.saturating_duration_since(Instant::now()), Look);
        } else if cx.me().tell(Look).is_err() {
            // Many commits told of their end at once; a timer has room of its own.
            cx.after(Duration::ZERO, Look);
        }
    }
}

/// An engine with a log in `directory`.
pub(super) fn engine(shards: u16, idle: IdleStrategy, directory: &Path) -> Engine {
    let mut config = Config::default();
    config.shards = Some(shards);
    config.idle = idle;
    config.drain_time = DRAIN_TIME;
    let log = EventLog::open(directory).segment_bytes(SEGMENT_BYTES);
    Engine::builder().config(config).service(log).start().expect("the engine starts")
}

/// An engine whose shards have logs, ready to be written to.
pub(super) struct Session {
    engine: Engine,
    shards: u16,
    idle: IdleStrategy,
    stop: Arc<AtomicBool>,
    begun: u64,
}

impl Session {
    pub(super) fn start(shards: u16, idle: IdleStrategy, beside: Beside, room: &Room) -> Self {
        let engine = engine(shards, idle, room.path());
        room.settle();
        let stop = Arc::new(AtomicBool::new(false));
        disturb(&engine, shards, beside, &stop);
        Self { engine, shards, idle, stop, begun: 0 }
    }

    /// Writers with the same plan on each shard, and what they saw together.
    pub(super) fn write(&mut self, plan: Plan) -> Seen {
        let (end, ended) = mpsc::channel();
        self.begun += 1;
        let (session, parks) = (self.begun, self.idle == Park);
        let writers: Vec<_> = (0..self.shards)
            .map(|shard| {
                let end = end.clone();
                let writers = self.engine.spawn_on(shard, move || Writers::new(session, plan, parks, end.clone()));
                writers.expect("the engine runs")
            })
            .collect();
        for writers in &writers {
            writers.tell(Begin).expect("its mailbox is empty");
        }
        let mut all = Seen::default();
        for _ in &writers {
            let seen = ended.recv().expect("the writers end");
            all.events += seen.events;
            all.elapsed = all.elapsed.max(seen.elapsed);
            all.latencies.extend(seen.latencies);
        }
        all
    }

    /// So many events on all shards.
    fn closed(&mut self, (writers, pace): Shape, n: u64) -> Seen {
        self.write(Plan { writers, events: n / u64::from(self.shards), pace, time: LOG_TIME })
    }

    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.engine.shutdown().expect("the engine ends well");
    }
}

fn closed(shards: u16, idle: IdleStrategy, shape: Shape, n: u64) -> f64 {
    let room = Room::new();
    let mut session = Session::start(shards, idle, Beside::Nothing, &room);
    let seen = session.closed(shape, n);
    session.end();
    per_event(seen.elapsed, seen.events)
}

fn both(shards: u16, idle: IdleStrategy, shape: Shape, n: u64) -> (f64, Tail) {
    let room = Room::new();
    let mut session = Session::start(shards, idle, Beside::Nothing, &room);
    let seen = session.closed(shape, n);
    let figure = per_event(seen.elapsed, seen.events);
    room.settle();
    let each = f64::from(shards) * figure;
    let plan = Plan { writers: shape.0, events: n / u64::from(shards), pace: Pace::Open(each), time: LOG_TIME };
    let tail = Tail::of(session.write(plan).latencies);
    session.end();
    (figure, tail)
}

/// Microseconds, on shards that poll.
fn commit_p99(shards: u16, beside: Beside, n: u64) -> f64 {
    let room = Room::new();
    let mut session = Session::start(shards, Spin, beside, &room);
    let seen = session.closed(MANY, n);
    session.end();
    Tail::of(seen.latencies).p99_us
}
