//! The whole path: an ask to a durable actor, its handler, the event, the flush, the reply.
//!
//! One actor stands for all clients; each client has one command in flight to its own durable actor, on the same shard.

use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventSourced};

use super::LogWork;
use super::drive::per_event;
use super::raw::{Pace, Plan, Seen, engine};
use super::room::Room;
use super::schedule::{Schedule, Tail};
use crate::limits::{EVENT_BYTES, LOG_TIME, STALLED, WRITERS};
use crate::ours::{PARKED, SPINNING};
use crate::stores::payload;
use crate::workload::{Entry, Role, Run, Work};

use IdleStrategy::{Park, Spin};

/// The share of durable actors in the log's table.
pub const ENTRIES: &[Entry] =
    &[entry(SPINNING, |n| closed(Spin, n), |n| both(Spin, n)), entry(PARKED, |n| closed(Park, n), |n| both(Park, n))];

const fn entry(name: &'static str, closed: fn(u64) -> f64, both: fn(u64) -> (f64, Tail)) -> Entry {
    Entry { work: Work::Log(LogWork::WholePath), name, role: Role::Ours, run: Run::Loop { closed, both } }
}

#[derive(Default)]
struct Journal {
    events: u64,
}

mod wire {
    use super::EVENT_BYTES;

    /// What the journal records.
    #[shardstage::wire(id = "bench.written")]
    pub struct Written {
        pub bytes: [u8; EVENT_BYTES],
    }
}
use wire::Written;

impl EventSourced for Journal {
    const TYPE: &'static str = "bench.journal";

    type Event = Written;
    type Snapshot = ();

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, _event: &Written) {
        self.events += 1;
    }
}

#[message(reply = u64)]
struct Append;

impl CommandHandler<Append> for Journal {
    fn handle(&self, _: Append, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Written { bytes: *payload(self.events) }).reply(self.events + 1)
    }
}

/// All clients.
struct Clients {
    plan: Plan,
    parks: bool,
    journals: Vec<ActorRef<Durable<Journal>>>,
    asked: u64,
    done: u64,
    begun: Option<Instant>,
    schedule: Option<Schedule>,
    /// Commands that were refused because the disk stalls, and since when they wait.
    refused: Vec<(usize, Instant)>,
    latencies: Vec<Duration>,
    end: Option<Sender<Seen>>,
}

impl Actor for Clients {}

#[message]
struct Begin;

#[message]
#[derive(Clone)]
struct Look;

/// Commands that were refused have waited a little.
#[message]
#[derive(Clone)]
struct Again;

impl Handler<Again> for Clients {
    fn handle(&mut self, _: Again, cx: &mut Context<Self>) {
        for (number, since) in std::mem::take(&mut self.refused) {
            self.ask(number, since, cx);
        }
    }
}

impl Clients {
    fn over(&self) -> bool {
        self.asked >= self.plan.events || self.begun.is_some_and(|begun| begun.elapsed() > self.plan.time)
    }

    /// A new command.
    fn begin(&mut self, number: usize, since: Instant, cx: &mut Context<Self>) {
        self.asked += 1;
        self.ask(number, since, cx);
    }

    fn ask(&mut self, number: usize, since: Instant, cx: &mut Context<Self>) {
        cx.ask(self.journals[number], Append).then(move |this, version, cx| {
            match version {
                Ok(_) => {}
                Err(AskError::Rejected(Rejected::Full)) => {
                    let first = this.refused.is_empty();
                    this.refused.push((number, since));
                    if first {
                        cx.after(STALLED, Again);
                    }
                    return;
                }
                Err(error) => panic!("the disk takes the event: {error}"),
            }
            let now = Instant::now();
            this.done += 1;
            this.latencies.push(now - since);
            if !this.over() {
                if let Pace::Closed = this.plan.pace {
                    this.begin(number, now, cx);
                }
            } else if this.done == this.asked {
                this.finish();
            }
        });
    }

    fn finish(&mut self) {
        if let (Some(end), Some(begun)) = (self.end.take(), self.begun) {
            let latencies = std::mem::take(&mut self.latencies);
            let _gone = end.send(Seen { events: self.done, elapsed: begun.elapsed(), latencies });
        }
    }
}

impl Handler<Begin> for Clients {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        let now = Instant::now();
        self.begun = Some(now);
        if let Pace::Open(event_ns) = self.plan.pace {
            self.schedule = Some(Schedule::at_half(event_ns));
            let _full = cx.me().tell(Look);
        } else {
            (0..self.journals.len()).for_each(|number| self.begin(number, now, cx));
        }
    }
}

impl Handler<Look> for Clients {
    fn handle(&mut self, _: Look, cx: &mut Context<Self>) {
        let now = Instant::now();
        while !self.over()
            && let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.take(now))
        {
            let number = self.asked % self.plan.writers;
            self.begin(number as usize, due, cx);
        }
        if self.over() {
            if self.done == self.asked {
                self.finish();
            }
            return;
        }
        let next = self.schedule.as_ref().map(Schedule::due).expect("an open loop has a schedule");
        if self.parks {
            cx.after(next.saturating_duration_since(Instant::now()), Look);
        } else if cx.me().tell(Look).is_err() {
            // A thousand answers came at once; a timer has room of its own.
            cx.after(Duration::ZERO, Look);
        }
    }
}

/// The clients of an engine with its durable actors, all awake.
struct Session {
    engine: Engine,
    journals: Vec<ActorRef<Durable<Journal>>>,
    parks: bool,
}

impl Session {
    fn start(idle: IdleStrategy, room: &Room) -> Self {
        let engine = engine(1, idle, room.path());
        let journals: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let key = format!("journal-{writer}");
                engine.spawn(move || Durable::<Journal>::new(&key)).expect("the engine runs")
            })
            .collect();
        for journal in &journals {
            journal.ask(Append).wait().expect("the first append opens the journal");
        }
        room.settle();
        Self { engine, journals, parks: idle == Park }
    }

    fn ask(&self, n: u64, pace: Pace) -> Seen {
        let plan = Plan { writers: WRITERS, events: n, pace, time: LOG_TIME };
        let (end, ended) = mpsc::channel();
        let (journals, parks) = (self.journals.clone(), self.parks);
        let clients = self.engine.spawn(move || Clients {
            plan,
            parks,
            journals: journals.clone(),
            asked: 0,
            done: 0,
            begun: None,
            schedule: None,
            refused: Vec::new(),
            latencies: Vec::with_capacity(usize::try_from(n).expect("events fit into memory")),
            end: Some(end.clone()),
        });
        clients.expect("the engine runs").tell(Begin).expect("its mailbox is empty");
        ended.recv().expect("the clients end")
    }

    fn closed(&self, n: u64) -> f64 {
        let seen = self.ask(n, Pace::Closed);
        per_event(seen.elapsed, seen.events)
    }
}

fn closed(idle: IdleStrategy, n: u64) -> f64 {
    let room = Room::new();
    let session = Session::start(idle, &room);
    let figure = session.closed(n);
    session.engine.shutdown().expect("the engine ends well");
    figure
}

fn both(idle: IdleStrategy, n: u64) -> (f64, Tail) {
    let room = Room::new();
    let session = Session::start(idle, &room);
    let figure = session.closed(n);
    room.settle();
    let tail = Tail::of(session.ask(n, Pace::Open(figure)).latencies);
    session.engine.shutdown().expect("the engine ends well");
    (figure, tail)
}
