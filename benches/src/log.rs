//! Durable appends: event-sourced actors that answer after the flush, beside what the same disk gives without them.
//!
//! Each writer has one event in flight, so 64 writers let the log put up to 64 events into one write. The limit writes whole
//! blocks with `O_DIRECT + O_DSYNC` from one thread; the standard library's way is `append` and `sync_data`, once a batch of
//! as many events as there are writers. All files lie in the directory for temporary files.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use shardstage::port::buffer::IoBuffer;
use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced};

use crate::limits::{EVENT_BYTES, WRITERS};
use crate::ours::{Clock, PARKED};
use crate::place::on_core;
use crate::workload::{Entry, Role, Run, Work};

/// The table's share of durable appends.
pub const ENTRIES: &[Entry] = &[
    entry(Work::LogAppend(1), PARKED, Role::Ours, |n| durable(1, n)),
    entry(Work::LogAppend(1), "std append + sync_data", Role::Peer, |n| append_and_sync(1, n)),
    entry(Work::LogAppend(1), "O_DIRECT + O_DSYNC", Role::Limit, |n| direct(1, n)),
    entry(Work::LogAppend(WRITERS), PARKED, Role::Ours, |n| durable(WRITERS, n)),
    entry(Work::LogAppend(WRITERS), "std append + sync_data", Role::Peer, |n| append_and_sync(WRITERS, n)),
    entry(Work::LogAppend(WRITERS), "O_DIRECT + O_DSYNC", Role::Limit, |n| direct(WRITERS, n)),
];

const fn entry(work: Work, name: &'static str, role: Role, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name, role, run: Run::Time(run) }
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
        Effect::persist(Written { bytes: [7; EVENT_BYTES] }).reply(self.events + 1)
    }
}

/// Keeps one append in flight on each of its journals.
struct Appender {
    journals: Vec<ActorRef<Durable<Journal>>>,
    unsent: u64,
    missing: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Appender {}

#[message]
struct Begin;

impl Appender {
    fn append(&mut self, journal: ActorRef<Durable<Journal>>, cx: &mut Context<Self>) {
        if self.unsent == 0 {
            return;
        }
        self.unsent -= 1;
        cx.ask(journal, Append).then(move |this, version, cx| {
            version.expect("the disk takes the event");
            this.missing -= 1;
            if this.missing == 0 {
                let _gone = this.end.send(Instant::now());
            }
            this.append(journal, cx);
        });
    }
}

impl Handler<Begin> for Appender {
    fn handle(&mut self, _: Begin, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        for journal in self.journals.clone() {
            self.append(journal, cx);
        }
    }
}

fn durable(writers: u64, n: u64) -> Duration {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut config = Config::default();
    config.shards = Some(1);
    let engine = Engine::builder().config(config).service(EventLog::open(directory.path())).start();
    let engine = engine.expect("the engine starts");
    let (clock, begin, end) = Clock::new();
    let journals: Vec<_> = (0..writers)
        .map(|writer| {
            let key = format!("journal-{writer}");
            engine.spawn(move || Durable::<Journal>::new(&key)).expect("the engine runs")
        })
        .collect();
    for journal in &journals {
        journal.ask(Append).wait().expect("the first append opens the journal");
    }
    let appender = engine.spawn(move || {
        let (begin, end) = (begin.clone(), end.clone());
        Appender { journals: journals.clone(), unsent: n, missing: n, begin, end }
    });
    appender.expect("the engine runs").tell(Begin).expect("its mailbox is empty");
    clock.elapsed()
}

fn append_and_sync(batch: u64, n: u64) -> Duration {
    on_core(0, || {
        let mut file = tempfile::tempfile().expect("a file can be made");
        let event = [7_u8; EVENT_BYTES];
        let start = Instant::now();
        let mut written = 0;
        while written < n {
            let count = batch.min(n - written);
            file.write_all(&event.repeat(count as usize)).expect("the disk takes it");
            file.sync_data().expect("the disk keeps it");
            written += count;
        }
        start.elapsed()
    })
}

/// Whole blocks over room that was written before, as a log with prepared segments does.
fn direct(batch: u64, n: u64) -> Duration {
    const ROOM_BYTES: usize = 4 * 1024 * 1024;
    on_core(0, || {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path().join("room");
        std::fs::write(&path, vec![0; ROOM_BYTES]).expect("the disk has room");
        let mut options = OpenOptions::new();
        options.write(true);
        let direct = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
        // A file system without O_DIRECT still shows the cost of the sync.
        let file = options
            .custom_flags(direct)
            .open(&path)
            .or_else(|_| options.custom_flags(OFlags::DSYNC.bits().cast_signed()).open(&path));
        let file = file.expect("the file is there");
        file.sync_all().expect("the disk keeps it");
        let block = IoBuffer::zeroed(batch as usize * EVENT_BYTES);
        let start = Instant::now();
        let (mut written, mut offset) = (0, 0);
        while written < n {
            let count = rustix::io::pwrite(&file, &block, offset).expect("the disk takes it");
            assert_eq!(count, block.len(), "a whole block is written");
            offset = (offset + block.len() as u64) % (ROOM_BYTES - block.len()) as u64;
            offset = offset / block.len() as u64 * block.len() as u64;
            written += batch;
        }
        start.elapsed()
    })
}
