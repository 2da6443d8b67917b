//! Real files under both real drivers: a recording driver shows that before each acknowledgement a write on an `O_DSYNC`
//! file completed, or a sync that was submitted after the write had completed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use common::{Hand, event};
use shardstage::driver::{DriverChoice, RealDriverFactory};
use shardstage::port::driver::{
    DatagramBatch, Driver, DriverFactory, DriverKind, FileCompletion, FileId, FileOp, FileRequest, OpenOptions,
    SocketId, Transmit, Wake,
};
use shardstage::port::service::Service;
use shardstage_codec::Epoch;
use shardstage_persistence::{CommitOutcome, EventLog, OnPoison, PlantedBug};

/// What the device was asked and answered, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    FrameSubmitted { call: u64 },
    FrameDone { path: PathBuf, call: u64, dsync: bool },
    SyncSubmitted { path: PathBuf, call: u64 },
    SyncDone { call: u64 },
}

/// Whether a token is that of a frame's write.
fn is_frame(token: u64) -> bool {
    (token >> 48) & 0xff == 1
}

struct OpenFile {
    path: PathBuf,
    dsync: bool,
}

/// Passes everything on and writes down data calls; can refuse open flags as a file system would.
struct Recorder {
    inner: Box<dyn Driver>,
    refuse_direct: bool,
    refuse_dsync: bool,
    files: BTreeMap<FileId, OpenFile>,
    writes: BTreeMap<u64, Vec<(PathBuf, u64, bool)>>,
    syncs: BTreeMap<u64, Vec<u64>>,
    calls: u64,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Driver for Recorder {
    fn kind(&self) -> DriverKind {
        self.inner.kind()
    }
    fn now_ns(&mut self) -> u64 {
        self.inner.now_ns()
    }
    fn wall_unix_ns(&mut self) -> u64 {
        self.inner.wall_unix_ns()
    }
    fn random_u64(&mut self) -> u64 {
        self.inner.random_u64()
    }
    fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileId> {
        if options.direct && self.refuse_direct || options.dsync && self.refuse_dsync {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = self.inner.open(path, options)?;
        self.files.insert(file, OpenFile { path: path.to_path_buf(), dsync: options.dsync });
        Ok(file)
    }
    fn close(&mut self, file: FileId) {
        self.inner.close(file);
    }
    fn file_len(&mut self, file: FileId) -> io::Result<u64> {
        self.inner.file_len(file)
    }
    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        self.inner.list(directory)
    }
    fn create_dir(&mut self, directory: &Path) -> io::Result<()> {
        self.inner.create_dir(directory)
    }
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn submit(&mut self, request: FileRequest) {
        let file = &self.files[&request.file];
        match &request.op {
            FileOp::Write { offset, len, .. } => {
                if is_frame(request.token) {
                    assert!(*len > 0 && offset.is_multiple_of(4096));
                    self.calls += 1;
                    self.seen.borrow_mut().push(Seen::FrameSubmitted { call: self.calls });
                    let write = (file.path.clone(), self.calls, file.dsync);
                    self.writes.entry(request.token).or_default().push(write);
                }
            }
            FileOp::Sync => {
                self.calls += 1;
                self.syncs.entry(request.token).or_default().push(self.calls);
                self.seen.borrow_mut().push(Seen::SyncSubmitted { path: file.path.clone(), call: self.calls });
            }
            FileOp::Read { .. } => {}
        }
        self.inner.submit(request);
    }
    fn completions(&mut self, out: &mut Vec<FileCompletion>) {
        let before = out.len();
        self.inner.completions(out);
        for completion in &out[before..] {
            let write =
                self.writes.get_mut(&completion.token).and_then(|calls| (!calls.is_empty()).then(|| calls.remove(0)));
            let sync =
                self.syncs.get_mut(&completion.token).and_then(|calls| (!calls.is_empty()).then(|| calls.remove(0)));
            assert!(completion.result.is_ok(), "{:?}", completion.result);
            if let Some((path, call, dsync)) = write {
                self.seen.borrow_mut().push(Seen::FrameDone { path, call, dsync });
            }
            if let Some(call) = sync {
                self.seen.borrow_mut().push(Seen::SyncDone { call });
            }
        }
    }
    fn bind(&mut self, address: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        self.inner.bind(address)
    }
    fn unbind(&mut self, socket: SocketId) {
        self.inner.unbind(socket);
    }
    fn receive(&mut self, socket: SocketId, batch: &mut DatagramBatch) -> io::Result<usize> {
        self.inner.receive(socket, batch)
    }
    fn send(&mut self, socket: SocketId, transmit: &Transmit<'_>) -> io::Result<bool> {
        self.inner.send(socket, transmit)
    }
    fn max_segments(&self, socket: SocketId) -> usize {
        self.inner.max_segments(socket)
    }
    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
    fn park(&mut self, deadline_ns: Option<u64>) {
        self.inner.park(deadline_ns);
    }
    fn yield_now(&mut self) {
        self.inner.yield_now();
    }
}

/// Whether the frame that was submitted last is durable, by what the device answered.
fn last_frame_is_durable(seen: &[Seen]) -> bool {
    let last = seen.iter().rev().find_map(|what| match what {
        Seen::FrameSubmitted { call } => Some(*call),
        _ => None,
    });
    let done = seen.iter().position(|what| matches!(what, Seen::FrameDone { call, .. } if Some(*call) == last));
    let Some(at) = done else { return false };
    let Seen::FrameDone { path, dsync, .. } = &seen[at] else { unreachable!("found above") };
    *dsync
        || seen[at..].iter().any(|what| match what {
            Seen::SyncSubmitted { path: synced, call } if synced == path => {
                seen.contains(&Seen::SyncDone { call: *call })
            }
            _ => false,
        })
}

struct Bench {
    hand: Hand,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Bench {
    fn new(kind: DriverChoice, dir: &Path, refuse: Refuse, planted: PlantedBug) -> Self {
        let Refuse { direct: refuse_direct, dsync: refuse_dsync } = refuse;
        let inner = RealDriverFactory::new(kind).unwrap().make(common::SHARD).unwrap();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let driver = Recorder {
            inner,
            refuse_direct,
            refuse_dsync,
            files: BTreeMap::new(),
            writes: BTreeMap::new(),
            syncs: BTreeMap::new(),
            calls: 0,
            seen: Rc::clone(&seen),
        };
        let log = EventLog::open(dir).segment_bytes(256 * 1024).on_poison(OnPoison::Stay).planted(planted);
        let log = log.shard(&common::seat()).unwrap();
        Self { hand: Hand::new(log, Box::new(driver)), seen }
    }
}

const EVENTS: u64 = 200;

/// Which open flags the file system refuses.
#[derive(Clone, Copy)]
struct Refuse {
    direct: bool,
    dsync: bool,
}

const NOTHING: Refuse = Refuse { direct: false, dsync: false };

/// Appends one event at a time, checks the order of things at each acknowledgement, then reads all back after a restart.
fn proof(kind: DriverChoice, refuse: Refuse, planted: PlantedBug, mode: &str) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(kind, dir.path(), refuse, planted);
    bench.hand.start();
    let found = bench.hand.log.write_mode().unwrap();
    assert!(found.starts_with(mode), "{found}");
    let report = bench.hand.log.probe_report().unwrap();
    let said = report.to_string();
    let same = planted != PlantedBug::None || said.contains(found);
    assert!(same && said.contains("5 commits in") && report.commit_ns() > 0, "{said}");
    assert_eq!(said.contains("; refused O_DIRECT|O_DSYNC: "), refuse.direct || refuse.dsync, "{said}");
    assert!(report.file_system().is_some(), "{said}");
    let group = common::group(1);
    let entity = bench.hand.log.intern("account", "alice", group, 1).unwrap();
    let acked = Rc::new(RefCell::new(0));
    for seq in 1..=EVENTS {
        let payload = common::payload(seq, 3000);
        let (counted, seen) = (Rc::clone(&acked), Rc::clone(&bench.seen));
        let effect = Box::new(move |outcome| {
            assert_eq!(outcome, CommitOutcome::Durable);
            assert!(last_frame_is_durable(&seen.borrow()), "event {seq} was acknowledged before it was durable");
            *counted.borrow_mut() += 1;
        });
        bench.seen.borrow_mut().clear();
        bench.hand.log.append(entity, Epoch::FIRST, &[event(seq, &payload)], effect).unwrap();
        bench.hand.turn_until(|_| *acked.borrow() == seq);
    }
    bench.hand.stop();

    let mut bench = Bench::new(kind, dir.path(), refuse, planted);
    bench.hand.start();
    let entity = bench.hand.log.intern("account", "alice", group, 1).unwrap();
    let loaded = bench.hand.load(entity).unwrap();
    assert_eq!(loaded.last_seq, EVENTS);
    for (event, seq) in loaded.events.iter().zip(1..) {
        assert_eq!(*event.payload, *common::payload(seq, 3000));
    }
    bench.hand.stop();
}

#[test]
fn uring_dsync() {
    proof(DriverChoice::Uring, NOTHING, PlantedBug::None, "O_DIRECT|O_DSYNC");
}

#[test]
fn uring_without_direct() {
    proof(DriverChoice::Uring, Refuse { direct: true, dsync: false }, PlantedBug::None, "buffered|O_DSYNC");
}

#[test]
fn uring_write_then_sync() {
    proof(DriverChoice::Uring, Refuse { direct: true, dsync: true }, PlantedBug::None, "buffered, then fdatasync");
}

#[test]
fn poll_dsync() {
    proof(DriverChoice::Poll, NOTHING, PlantedBug::None, "O_DIRECT|O_DSYNC");
}

#[test]
fn poll_write_then_sync() {
    proof(DriverChoice::Poll, Refuse { direct: false, dsync: true }, PlantedBug::None, "O_DIRECT, then fdatasync");
}

#[test]
fn poll_buffered_then_sync() {
    proof(DriverChoice::Poll, Refuse { direct: true, dsync: true }, PlantedBug::None, "buffered, then fdatasync");
}

#[test]
#[should_panic(expected = "was acknowledged before it was durable")]
fn an_acknowledgement_at_submission_is_caught() {
    proof(DriverChoice::Auto, NOTHING, PlantedBug::AckAtSubmit, "");
}

#[test]
#[should_panic(expected = "was acknowledged before it was durable")]
fn a_missing_sync_is_caught() {
    proof(DriverChoice::Auto, NOTHING, PlantedBug::NoSync, "");
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut first = Bench::new(DriverChoice::Auto, dir.path(), NOTHING, PlantedBug::None);
    first.hand.start();
    let mut second = Bench::new(DriverChoice::Auto, dir.path(), NOTHING, PlantedBug::None);
    let refused = second.hand.with(|log, cx| log.start(cx)).unwrap_err();
    assert!(refused.reason.contains("another process has this log open"), "{}", refused.reason);
    first.hand.stop();
}
