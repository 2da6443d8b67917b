//! One body of tests for every real driver: `uring`, `uring` with eventfd wakes (kernels before 6.13) and `poll`.
//!
//! A refused io_uring fails these tests; it never skips them.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::poll::PollBackend;
use super::real::RealDriver;
use super::uring::UringBackend;
use crate::limits::URING_FILE_OPERATIONS;
use crate::port::buffer::IoBuffer;
use crate::port::driver::{
    DatagramBatch, Driver, FileCompletion, FileId, FileOp, FileRequest, OpenOptions, SocketId, Transmit,
};

const BLOCK: usize = 4096;

type Make = fn() -> Box<dyn Driver>;

fn uring() -> Box<dyn Driver> {
    Box::new(RealDriver::new(UringBackend::new().expect("io_uring works on this machine")))
}

fn uring_eventfd() -> Box<dyn Driver> {
    Box::new(RealDriver::new(UringBackend::without_messages().expect("io_uring works on this machine")))
}

fn poll() -> Box<dyn Driver> {
    Box::new(RealDriver::new(PollBackend::new(None).expect("a poller can be made")))
}

macro_rules! for_each_driver {
    ($($test:ident)*) => {
        for_each_driver!(@module uring_driver uring $($test)*);
        for_each_driver!(@module uring_eventfd_driver uring_eventfd $($test)*);
        for_each_driver!(@module poll_driver poll $($test)*);
    };
    (@module $module:ident $make:ident $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() { super::$test(super::$make); })*
        }
    };
}

for_each_driver! {
    writes_and_reads_back_whole_blocks
    completes_more_operations_than_the_ring_has_slots
    collects_completions_without_parking
    syncs_files_and_directories
    reports_errors_as_completions
    lists_renames_and_removes
    refuses_a_second_lock_and_an_existing_file
    finishes_submitted_writes_when_dropped
    echoes_datagrams_between_two_drivers
    sends_and_splits_segment_batches
    receives_while_busy_without_parking
    frees_the_port_at_once
    a_wake_before_park_ends_it
    wakes_from_another_thread_end_parks_without_deadline
    park_ends_at_its_deadline
    a_host_can_sleep_on_the_descriptor
    clock_and_random_move
}

fn block(fill: u8) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(BLOCK);
    buffer.fill(fill);
    buffer
}

fn write(driver: &mut dyn Driver, file: FileId, token: u64, offset: u64, buffer: IoBuffer) {
    let len = buffer.len();
    driver.submit(FileRequest { token, file, op: FileOp::Write { offset, buffer, len } });
}

fn read(driver: &mut dyn Driver, file: FileId, token: u64, offset: u64, len: usize) {
    let buffer = IoBuffer::zeroed(len);
    driver.submit(FileRequest { token, file, op: FileOp::Read { offset, buffer } });
}

/// Parks until `count` completions are there; sorted by token.
fn complete(driver: &mut dyn Driver, count: usize) -> Vec<FileCompletion> {
    let mut done = Vec::new();
    loop {
        driver.completions(&mut done);
        if done.len() >= count {
            break;
        }
        driver.park(None);
    }
    assert_eq!(done.len(), count);
    done.sort_unstable_by_key(|completion| completion.token);
    done
}

fn complete_one(driver: &mut dyn Driver) -> FileCompletion {
    complete(driver, 1).pop().expect("one completion")
}

/// Opens with direct I/O, or without where the file system refuses it.
fn open_direct(driver: &mut dyn Driver, path: &Path, options: OpenOptions) -> FileId {
    match driver.open(path, OpenOptions { direct: true, ..options }) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            eprintln!("note: tested without O_DIRECT: {error}");
            assert!(!options.create_new || !path.exists(), "a refused open leaves nothing behind");
            driver.open(path, options).expect("opening without O_DIRECT")
        }
        Err(error) => panic!("{error}"),
    }
}

const NEW: OpenOptions =
    OpenOptions { write: true, create_new: true, direct: false, dsync: false, directory: false, lock: false };

fn writes_and_reads_back_whole_blocks(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut driver = make();
    let options = OpenOptions { dsync: true, lock: true, ..NEW };
    let file = open_direct(&mut *driver, &directory.path().join("log"), options);
    for (token, fill) in [(1, 0xa1), (2, 0xa2), (3, 0xa3)] {
        write(&mut *driver, file, token, (token - 1) * BLOCK as u64, block(fill));
    }
    for (completion, token) in complete(&mut *driver, 3).into_iter().zip(1..) {
        assert_eq!(completion.token, token);
        assert_eq!(completion.result.expect("the write succeeds"), BLOCK);
        assert_eq!(completion.buffer.expect("it comes back")[0], 0xa0 + u8::try_from(token).expect("small"));
    }
    assert_eq!(driver.file_len(file).expect("a length"), 3 * BLOCK as u64);

    read(&mut *driver, file, 9, BLOCK as u64, 4 * BLOCK);
    let completion = complete_one(&mut *driver);
    let bytes = completion.buffer.expect("it comes back");
    assert_eq!(completion.result.expect("the read succeeds"), 2 * BLOCK, "up to the end of the file");
    assert!(bytes[..BLOCK].iter().all(|byte| *byte == 0xa2));
    assert!(bytes[BLOCK..2 * BLOCK].iter().all(|byte| *byte == 0xa3));
    driver.close(file);
    assert_eq!(driver.file_len(file).expect_err("closed").kind(), ErrorKind::InvalidInput);
}

fn completes_more_operations_than_the_ring_has_slots(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut driver = make();
    let file = driver.open(&directory.path().join("many"), NEW).expect("a file");
    let count = 3 * URING_FILE_OPERATIONS as u64 + 5;
    for token in 0..count {
        write(&mut *driver, file, token, token * BLOCK as u64, block(token as u8));
    }
    // Busy: nothing but the look for completions starts what did not fit.
    let mut done = Vec::new();
    while (done.len() as u64) < count {
        driver.completions(&mut done);
        driver.yield_now();
    }
    done.sort_unstable_by_key(|completion| completion.token);
    for (completion, token) in done.into_iter().zip(0..) {
        assert_eq!(completion.token, token);
        assert_eq!(completion.result.expect("the write succeeds"), BLOCK);
    }
    let bytes = std::fs::read(directory.path().join("many")).expect("the file");
    assert!(bytes.chunks(BLOCK).zip(0_u64..).all(|(block, token)| block.iter().all(|byte| *byte == token as u8)));
    assert_eq!(bytes.len() as u64, count * BLOCK as u64);
}

fn collects_completions_without_parking(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut driver = make();
    let file = open_direct(&mut *driver, &directory.path().join("busy"), OpenOptions { dsync: true, ..NEW });
    let mut done = Vec::new();
    for token in 0..20 {
        write(&mut *driver, file, token, 0, block(1));
        while done.is_empty() {
            driver.completions(&mut done);
            driver.yield_now();
        }
        assert_eq!(done.pop().expect("one").token, token);
    }
}

fn syncs_files_and_directories(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut driver = make();
    let file = driver.open(&directory.path().join("data"), NEW).expect("a file");
    let entries = OpenOptions { directory: true, ..OpenOptions::default() };
    let entries = driver.open(directory.path(), entries).expect("the directory");
    write(&mut *driver, file, 1, 0, block(7));
    assert!(complete_one(&mut *driver).result.is_ok());
    driver.submit(FileRequest { token: 2, file, op: FileOp::Sync });
    driver.submit(FileRequest { token: 3, file: entries, op: FileOp::Sync });
    for (completion, token) in complete(&mut *driver, 2).into_iter().zip(2..) {
        assert_eq!(completion.token, token);
        assert_eq!(completion.result.expect("the sync succeeds"), 0);
        assert!(completion.buffer.is_none());
    }
}

fn reports_errors_as_completions(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("read-only");
    std::fs::write(&path, [1; BLOCK]).expect("a file");
    let mut driver = make();
    let file = driver.open(&path, OpenOptions::default()).expect("it opens for reading");

    write(&mut *driver, file, 1, 0, block(2));
    let completion = complete_one(&mut *driver);
    let error = completion.result.expect_err("it is open for reading only");
    assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
    assert_eq!(completion.buffer.expect("it comes back").len(), BLOCK);

    driver.submit(FileRequest { token: 2, file, op: FileOp::Write { offset: 0, buffer: block(3), len: BLOCK + 1 } });
    let completion = complete_one(&mut *driver);
    assert_eq!(completion.result.expect_err("beyond the buffer").kind(), ErrorKind::InvalidInput);
    assert!(completion.buffer.is_some());

    driver.close(file);
    read(&mut *driver, file, 3, 0, BLOCK);
    let completion = complete_one(&mut *driver);
    assert_eq!(completion.result.expect_err("closed").kind(), ErrorKind::InvalidInput);
    assert!(completion.buffer.is_some());
    assert_eq!(std::fs::read(&path).expect("the file"), [1; BLOCK]);
}

fn lists_renames_and_removes(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("a/b");
    let mut driver = make();
    driver.create_dir(&root).expect("both levels");
    driver.create_dir(&root).expect("it exists already");
    for name in ["two", "one"] {
        let file = driver.open(&root.join(name), NEW).expect("a file");
        driver.close(file);
    }
    assert_eq!(driver.list(&root).expect("names"), ["one", "two"]);
    driver.rename(&root.join("one"), &root.join("zero")).expect("renamed");
    assert_eq!(driver.list(&root).expect("names"), ["two", "zero"]);
    driver.remove(&root.join("two")).expect("removed");
    assert_eq!(driver.list(&root).expect("names"), ["zero"]);
    let missing = root.join("two");
    assert_eq!(driver.remove(&missing).expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(driver.open(&missing, OpenOptions::default()).expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(driver.list(&missing).expect_err("gone").kind(), ErrorKind::NotFound);
}

fn refuses_a_second_lock_and_an_existing_file(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lock");
    let (mut first, mut second) = (make(), make());
    let options = OpenOptions { lock: true, ..NEW };
    let held = first.open(&path, options).expect("created and locked");
    let again = OpenOptions { create_new: false, ..options };
    assert_eq!(second.open(&path, again).expect_err("locked").kind(), ErrorKind::WouldBlock);
    assert_eq!(second.open(&path, options).expect_err("it exists").kind(), ErrorKind::AlreadyExists);
    assert!(path.exists(), "a refused open removes nothing that it did not create");
    first.close(held);
    second.open(&path, again).expect("the lock went with the file");
}

fn finishes_submitted_writes_when_dropped(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("dropped");
    let count = 32;
    let mut driver = make();
    let file = open_direct(&mut *driver, &path, NEW);
    for token in 0..count {
        write(&mut *driver, file, token, token * BLOCK as u64, block(0x5a));
    }
    drop(driver);
    let bytes = std::fs::read(&path).expect("the file");
    assert_eq!(bytes.len() as u64, count * BLOCK as u64);
    assert!(bytes.iter().all(|byte| *byte == 0x5a));
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn transmit(destination: SocketAddr, payload: &[u8], segment_bytes: Option<usize>) -> Transmit<'_> {
    Transmit { destination, source: None, ecn: 0, segment_bytes, payload }
}

/// Parks until `count` datagrams came; each with its source.
fn datagrams(driver: &mut dyn Driver, socket: SocketId, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = DatagramBatch::new(4);
    let mut got = Vec::new();
    while got.len() < count {
        if driver.receive(socket, &mut batch).expect("the socket works") == 0 {
            driver.park(None);
        }
        collect(&batch, &mut got);
    }
    got
}

fn collect(batch: &DatagramBatch, got: &mut Vec<(SocketAddr, Vec<u8>)>) {
    for (meta, bytes) in batch.iter() {
        assert!(meta.stride > 0 && meta.len == bytes.len());
        got.extend(bytes.chunks(meta.stride).map(|datagram| (meta.source, datagram.to_vec())));
    }
}

fn echoes_datagrams_between_two_drivers(make: Make) {
    let (mut left, mut right) = (make(), make());
    let (left_socket, left_address) = left.bind(loopback()).expect("bound");
    let (right_socket, right_address) = right.bind(loopback()).expect("bound");
    assert_ne!(left_address.port(), 0);
    for round in 0..200_u32 {
        let ping = round.to_le_bytes();
        assert!(left.send(left_socket, &transmit(right_address, &ping, None)).expect("sent"));
        let got = datagrams(&mut *right, right_socket, 1);
        assert_eq!(got, [(left_address, ping.to_vec())]);
        assert!(right.send(right_socket, &transmit(left_address, &got[0].1, None)).expect("sent"));
        assert_eq!(datagrams(&mut *left, left_socket, 1), [(right_address, ping.to_vec())]);
    }
}

fn sends_and_splits_segment_batches(make: Make) {
    let (mut sender, mut receiver) = (make(), make());
    let (from, source) = sender.bind(loopback()).expect("bound");
    let (to, destination) = receiver.bind(loopback()).expect("bound");
    assert!(sender.max_segments(from) >= 1);
    // Ten segments, the last shorter; 45 that fill one call; 51 of the port's whole limit, which
    // need two; 60 of 8,952 that need nine.
    for (segment, bytes) in [(1200, 9 * 1200 + 700), (1452, 45 * 1452), (1285, 65_535), (8952, 60 * 8952)] {
        let payload: Vec<u8> = (0..bytes).map(|index| (index / segment) as u8).collect();
        assert!(sender.send(from, &transmit(destination, &payload, Some(segment))).expect("sent"));
        let got = datagrams(&mut *receiver, to, bytes.div_ceil(segment));
        assert_eq!(got.len(), bytes.div_ceil(segment));
        for ((origin, datagram), expected) in got.iter().zip(payload.chunks(segment)) {
            assert_eq!(*origin, source);
            assert_eq!(datagram, expected);
        }
    }
}

fn receives_while_busy_without_parking(make: Make) {
    let (mut sender, mut receiver) = (make(), make());
    let (from, _) = sender.bind(loopback()).expect("bound");
    let (to, destination) = receiver.bind(loopback()).expect("bound");
    let mut batch = DatagramBatch::new(4);
    for round in 0..50_u8 {
        assert_eq!(receiver.receive(to, &mut batch).expect("the socket works"), 0);
        assert!(sender.send(from, &transmit(destination, &[round], None)).expect("sent"));
        while receiver.receive(to, &mut batch).expect("the socket works") == 0 {}
        assert_eq!(batch.iter().map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>(), [[round]]);
    }
}

fn frees_the_port_at_once(make: Make) {
    let mut driver = make();
    let (socket, address) = driver.bind(loopback()).expect("bound");
    let mut batch = DatagramBatch::new(1);
    assert_eq!(driver.receive(socket, &mut batch).expect("nothing there"), 0);
    let now = driver.now_ns();
    driver.park(Some(now));
    driver.unbind(socket);
    assert_eq!(driver.receive(socket, &mut batch).expect_err("closed").kind(), ErrorKind::InvalidInput);
    let (socket, _) = driver.bind(address).expect("the port is free after unbind");
    assert_eq!(driver.receive(socket, &mut batch).expect("nothing there"), 0);
    let now = driver.now_ns();
    driver.park(Some(now));
    let waker = driver.waker();
    drop(driver);
    waker.wake();
    make().bind(address).expect("the port is free after the driver is gone");
}

fn a_wake_before_park_ends_it(make: Make) {
    let mut driver = make();
    let waker = driver.waker();
    let mut done = Vec::new();
    for _ in 0..100 {
        waker.wake();
        waker.wake();
        driver.completions(&mut done);
        driver.park(None);
    }
    assert!(done.is_empty());
}

fn wakes_from_another_thread_end_parks_without_deadline(make: Make) {
    let rounds = 2000;
    let turn = Arc::new(AtomicU32::new(0));
    let (send, receive) = std::sync::mpsc::channel();
    let shard = thread::spawn({
        let turn = Arc::clone(&turn);
        move || {
            let mut driver = make();
            send.send(driver.waker()).expect("the test waits");
            for round in 1..=rounds {
                while turn.load(Ordering::Acquire) < round {
                    driver.park(None);
                }
                send.send(driver.waker()).expect("the test waits");
            }
        }
    });
    for round in 1..=rounds {
        let waker = receive.recv().expect("the shard lives");
        turn.store(round, Ordering::Release);
        waker.wake();
    }
    shard.join().expect("the shard ends well");
}

fn park_ends_at_its_deadline(make: Make) {
    let mut driver = make();
    let (socket, _) = driver.bind(loopback()).expect("bound");
    assert_eq!(driver.receive(socket, &mut DatagramBatch::new(1)).expect("nothing there"), 0);
    for wait_ns in [0, 300_000, 2_000_000] {
        let deadline = driver.now_ns() + wait_ns;
        let mut parks = 0;
        loop {
            driver.park(Some(deadline));
            parks += 1;
            if driver.now_ns() >= deadline {
                break;
            }
        }
        assert!(parks <= 4, "{parks} parks for one deadline: it does not sleep");
    }
}

/// Takes turns until the descriptor is quiet, as a host does before it sleeps.
fn host_settle(driver: &mut dyn Driver, socket: SocketId, batch: &mut DatagramBatch) {
    loop {
        assert_eq!(driver.receive(socket, batch).expect("the socket works"), 0);
        if !host_ready(driver, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            return;
        }
        driver.drain_wake_descriptor();
    }
}

/// Sleeps as a host does, then clears the descriptor.
fn host_sleep(driver: &mut dyn Driver) {
    assert!(host_ready(driver, None));
    driver.drain_wake_descriptor();
}

fn host_ready(driver: &mut dyn Driver, timeout: Option<&Timespec>) -> bool {
    let raw = driver.wake_descriptor().expect("real drivers have one");
    // SAFETY: the driver keeps the descriptor open while it lives, and it outlives this call.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) };
    let mut entries = [PollFd::new(&descriptor, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut entries, timeout) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{}", io::Error::from(error)),
        }
    }
}

fn a_host_can_sleep_on_the_descriptor(make: Make) {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut sender, mut driver) = (make(), make());
    let (from, _) = sender.bind(loopback()).expect("bound");
    let (to, destination) = driver.bind(loopback()).expect("bound");
    let file = driver.open(&directory.path().join("hosted"), NEW).expect("a file");
    let mut batch = DatagramBatch::new(4);
    let mut done = Vec::new();
    for round in 0..50_u8 {
        host_settle(&mut *driver, to, &mut batch);
        assert!(sender.send(from, &transmit(destination, &[round], None)).expect("sent"));
        host_sleep(&mut *driver);
        while driver.receive(to, &mut batch).expect("the socket works") == 0 {
            host_sleep(&mut *driver);
        }
        host_settle(&mut *driver, to, &mut batch);
        write(&mut *driver, file, round.into(), 0, block(round));
        while done.is_empty() {
            host_sleep(&mut *driver);
            driver.completions(&mut done);
        }
        assert!(done.pop().expect("one").result.is_ok());
    }
    let rounds = 200;
    let (send, receive) = std::sync::mpsc::sync_channel(0);
    let waker = driver.waker();
    let other = thread::spawn(move || {
        for round in 0..rounds {
            send.send(round).expect("the host lives");
            waker.wake();
        }
    });
    for round in 0..rounds {
        assert_eq!(receive.recv().expect("the thread lives"), round);
        // The wake follows the message; a late kick of the round before may end the first sleep.
        host_sleep(&mut *driver);
    }
    other.join().expect("it ends well");
}

fn clock_and_random_move(make: Make) {
    let mut driver = make();
    let (before, wall) = (driver.now_ns(), driver.wall_unix_ns());
    assert!(before > 0 && driver.now_ns() >= before);
    assert!(wall > 1_600_000_000_000_000_000, "after 2020");
    assert_ne!(driver.random_u64(), driver.random_u64());
}
