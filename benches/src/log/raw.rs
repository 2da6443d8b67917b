//! The log itself: one actor a shard stands for all writers and appends to the shard's log directly.
//!
//! A writer has one event in flight and appends the next in the turn in which it hears of the last. Invariant: an event counts
//! when its own held effect was told that it is durable.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;
use shardstage_codec::{ActorTypeId, Epoch, slot_of};
use shardstage_persistence::format::record::RecordKind;
use shardstage_persistence::{CommitOutcome, EntityId, EventLog, Held, LogShard, NewRecord};

use super::LogWork;
use super::disturb::{Beside, disturb};
use super::drive::per_event;
use super::room::Room;
use super::schedule::{Schedule, Tail};
use crate::limits::{LOG_TIME, WRITERS};
use crate::ours::{PARKED, SPINNING};
use crate::stores::payload;
use crate::workload::{Entry, Role, Run, Work};

use IdleStrategy::{Park, Spin};

/// The log's own share of its table.
pub const ENTRIES: &[Entry] = &[
    timed(LogWork::OneSpinning, SPINNING, |n| rate(1, Spin, n), |rate, n| open(1, 1, Spin, rate, n)),
    timed(LogWork::OneParked, PARKED, |n| rate(1, Park, n), |rate, n| open(1, 1, Park, rate, n)),
    timed(LogWork::Writers, SPINNING, |n| rate(WRITERS, Spin, n), |rate, n| open(WRITERS, 1, Spin, rate, n)),
    timed(LogWork::Writers, PARKED, |n| rate(WRITERS, Park, n), |rate, n| open(WRITERS, 1, Park, rate, n)),
    timed(LogWork::Batches, SPINNING, |n| batches(Spin, n), |rate, n| open(WRITERS, 1, Spin, rate, n)),
    timed(LogWork::Batches, PARKED, |n| batches(Park, n), |rate, n| open(WRITERS, 1, Park, rate, n)),
    timed(LogWork::TwoShards, SPINNING, two_shards, |rate, n| open(WRITERS, 2, Spin, rate, n)),
    figure(LogWork::TwoShards, "one shard", Role::Limit, |n| rate(WRITERS, Spin, n / 2)),
    figure(LogWork::WholePath, "raw log", Role::Limit, |n| rate(WRITERS, Spin, n)),
    figure(LogWork::Saturated, SPINNING, Role::Ours, |n| commit_p99(2, Beside::Work, n)),
    figure(LogWork::Saturated, "polling but idle", Role::Limit, |n| commit_p99(2, Beside::Nothing, n)),
    figure(LogWork::Snapshots, SPINNING, Role::Ours, |n| commit_p99(1, Beside::Snapshots, n)),
    figure(LogWork::Snapshots, "no snapshots", Role::Limit, |n| commit_p99(1, Beside::Nothing, n)),
];

const fn timed(work: LogWork, name: &'static str, closed: fn(u64) -> f64, open: fn(f64, u64) -> Tail) -> Entry {
    Entry { work: Work::Log(work), name, role: Role::Ours, run: Run::Loop { closed, open } }
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
    /// When an event is due, so many a second.
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
    fn new(plan: Plan, parks: bool, end: Sender<Seen>) -> Self {
        let room = usize::try_from(plan.events).expect("events fit into memory");
        Self {
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

    /// The next event of each of these writers.
    fn append(&mut self, numbers: impl ExactSizeIterator<Item = usize>, since: Instant, cx: &mut Context<Self>) {
        let (me, last) = (cx.me(), numbers.len() - 1);
        self.appended += numbers.len() as u64;
        let (writers, kept) = (&mut self.writers, &self.kept);
        let one_effect = matches!(self.plan.pace, Pace::Batches);
        let appended = cx.service::<LogShard, _>(|log| {
            for (index, number) in numbers.enumerate() {
                let held: Held = if one_effect && index < last {
                    Box::new(|_| {})
                } else {
                    let kept = Rc::clone(kept);
                    Box::new(move |outcome| keep(outcome, &mut kept.borrow_mut(), number, since, me))
                };
                let writer = &mut writers[number];
                writer.seq += 1;
                let record = NewRecord {
                    kind: RecordKind::Event,
                    seq: writer.seq,
                    schema_version: 1,
                    payload: payload(writer.seq),
                    meta: &[],
                };
                log.append(writer.entity, Epoch::FIRST, &[record], held).expect("the log takes it");
            }
        });
        appended.expect("the shard has a log");
    }

    /// Appends what is due.
    fn append_due(&mut self, cx: &mut Context<Self>) {
        let now = Instant::now();
        while !self.over()
            && let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.take(now))
        {
            let number = self.appended % self.plan.writers;
            self.append(std::iter::once(number as usize), due, cx);
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
            let key = format!("{shard}-{number}");
            let group = slot_of(ActorTypeId::of(TYPE), &key).group();
            let entity =
                cx.service::<LogShard, _>(|log| log.intern(TYPE, &key, group, 1)).expect("the shard has a log");
            self.writers.push(Writer { entity: entity.expect("the key is short"), seq: 0 });
        }
        let now = Instant::now();
        self.begun = Some(now);
        if let Pace::Open(rate) = self.plan.pace {
            self.schedule = Some(Schedule::new(rate));
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
        } else {
            let _full = cx.me().tell(Look);
        }
    }
}

/// An engine with a log in `directory`, as users start it.
pub(super) fn engine(shards: u16, idle: IdleStrategy, directory: &std::path::Path) -> Engine {
    let mut config = Config::default();
    config.shards = Some(shards);
    config.idle = idle;
    Engine::builder().config(config).service(EventLog::open(directory)).start().expect("the engine starts")
}

/// Writers with the same plan on each shard, and what they saw together.
pub(super) fn run(shards: u16, idle: IdleStrategy, beside: Beside, room: &Room, plan: Plan) -> Seen {
    let engine = engine(shards, idle, room.path());
    room.settle();
    let stop = Arc::new(AtomicBool::new(false));
    disturb(&engine, shards, beside, &stop);
    let (end, ended) = mpsc::channel();
    let writers: Vec<_> = (0..shards)
        .map(|shard| {
            let end = end.clone();
            let writers = engine.spawn_on(shard, move || Writers::new(plan, idle == Park, end.clone()));
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
    stop.store(true, Ordering::Relaxed);
    engine.shutdown().expect("the engine ends well");
    all
}

fn nanoseconds(seen: &Seen) -> f64 {
    per_event(seen.elapsed, seen.events)
}

fn rate(writers: u64, idle: IdleStrategy, n: u64) -> f64 {
    let plan = Plan { writers, events: n, pace: Pace::Closed, time: LOG_TIME };
    nanoseconds(&run(1, idle, Beside::Nothing, &Room::new(), plan))
}

fn batches(idle: IdleStrategy, n: u64) -> f64 {
    let plan = Plan { writers: WRITERS, events: n, pace: Pace::Batches, time: LOG_TIME };
    nanoseconds(&run(1, idle, Beside::Nothing, &Room::new(), plan))
}

fn two_shards(n: u64) -> f64 {
    let plan = Plan { writers: WRITERS, events: n / 2, pace: Pace::Closed, time: LOG_TIME };
    nanoseconds(&run(2, Spin, Beside::Nothing, &Room::new(), plan))
}

fn open(writers: u64, shards: u16, idle: IdleStrategy, rate: f64, n: u64) -> Tail {
    let (rate, events) = (rate / f64::from(shards), n / u64::from(shards));
    let plan = Plan { writers, events, pace: Pace::Open(rate), time: LOG_TIME };
    Tail::of(run(shards, idle, Beside::Nothing, &Room::new(), plan).latencies)
}

/// Microseconds, on shards that poll.
fn commit_p99(shards: u16, beside: Beside, n: u64) -> f64 {
    let plan = Plan { writers: WRITERS, events: n / u64::from(shards), pace: Pace::Closed, time: LOG_TIME };
    Tail::of(run(shards, Spin, beside, &Room::new(), plan).latencies).p99_us
}
