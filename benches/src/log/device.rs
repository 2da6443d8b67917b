//! What the disk gives without a log: one write after another with `O_DIRECT | O_DSYNC`, and sequential reads.
//!
//! The file was written before with zeros, so that no write allocates; its writes are whole blocks at rising offsets, one in
//! flight. Polling looks for the completion and lets others run in between, as a log on a spinning shard does; blocking waits
//! for it in the kernel. Invariant: a buffer outlives every operation on it, since a run ends only when nothing is in flight.
//! One of the few files with `unsafe`: operations handed to the kernel.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use rustix::fs::OFlags;
use shardstage::port::buffer::IoBuffer;

use super::room::Room;
use super::schedule::{Schedule, Tail};
use super::{LogWork, drive};
use crate::limits::{
    BLOCK_BYTES, FRAME_OF_64_BYTES, LOG_TIME, READ_BYTES, READ_DEPTH, RESTED, RESTED_PAUSE, RESTED_TRIES,
    RESTED_TRIES_QUICK, RESTED_WRITES, ROOM_BYTES,
};
use crate::place::on_core;
use crate::workload::{Entry, Role, Run, Work};

/// The limits' share of the log's table.
pub const ENTRIES: &[Entry] = &[
    limit(LogWork::OneSpinning, "bare O_DSYNC, polling", |n| closed(1, true, n), |n| both(1, true, n)),
    limit(LogWork::OneParked, "bare O_DSYNC, blocking", |n| closed(1, false, n), |n| both(1, false, n)),
    limit(LogWork::Writers, "bare 12 KiB O_DSYNC", |n| closed(64, true, n), |n| both(64, true, n)),
    limit(LogWork::Batches, "bare 12 KiB O_DSYNC", |n| closed(64, true, n), |n| both(64, true, n)),
];

const fn limit(work: LogWork, name: &'static str, closed: fn(u64) -> f64, both: fn(u64) -> (f64, Tail)) -> Entry {
    Entry { work: Work::Log(work), name, role: Role::Limit, run: Run::Loop { closed, both } }
}

/// Writes whole blocks to a file that was filled with zeros, over and over.
struct Writer {
    ring: IoUring,
    file: File,
    block: IoBuffer,
    offset: u64,
    polling: bool,
    /// Removes the file.
    _room: Room,
}

impl Writer {
    /// `events` go into one write.
    fn new(events: u64, polling: bool) -> Self {
        let room = Room::new();
        let path = room.path().join("room");
        let mut file = File::create(&path).expect("a file can be made");
        let zeros = vec![0; READ_BYTES];
        for _ in 0..ROOM_BYTES / READ_BYTES {
            file.write_all(&zeros).expect("the disk has room");
        }
        file.sync_all().expect("the disk keeps it");
        let file = direct(&path, OFlags::DIRECT | OFlags::DSYNC);
        let mut block = IoBuffer::zeroed(if events == 1 { BLOCK_BYTES } else { FRAME_OF_64_BYTES });
        block.fill(7);
        Self { ring: ring(), file, block, offset: 0, polling, _room: room }
    }

    /// Nanoseconds an event when one write follows the other.
    fn closed(&mut self, events: u64, n: u64) -> f64 {
        (0..n.div_ceil(events) / 10).for_each(|_| self.write());
        let (start, mut done) = (Instant::now(), 0);
        while done < n && start.elapsed() < LOG_TIME {
            self.write();
            done += events;
        }
        start.elapsed().as_secs_f64() * 1e9 / done as f64
    }

    /// One durable write.
    fn write(&mut self) {
        let length = u32::try_from(self.block.len()).expect("a block is small");
        let entry = opcode::Write::new(types::Fd(self.file.as_raw_fd()), self.block.as_ptr(), length)
            .offset(self.offset)
            .build();
        // SAFETY: buffer and file belong to `self`, and this call returns only after the write's completion.
        unsafe { self.ring.submission().push(&entry) }.expect("nothing else is in the queue");
        self.ring.submit_and_wait(usize::from(!self.polling)).expect("the kernel takes a write");
        let written = loop {
            if let Some(completion) = self.ring.completion().next() {
                break completion.result();
            }
            // Completions are posted when the ring is entered; others that want the core come first.
            rustix::thread::sched_yield();
            look(&self.ring);
        };
        assert_eq!(u32::try_from(written), Ok(length), "a whole block is written: {written}");
        self.offset += u64::from(length);
        if self.offset + u64::from(length) > ROOM_BYTES as u64 {
            self.offset = 0;
        }
    }
}

/// Lets the kernel post what has completed, without waiting.
fn look(ring: &IoUring) {
    const GET_EVENTS: u32 = 1;
    // SAFETY: no argument is passed, and entering touches no memory but the ring's.
    let entered = unsafe { ring.submitter().enter::<()>(0, 0, GET_EVENTS, None) };
    entered.expect("an open ring can be entered");
}

/// Made on the thread that uses it.
fn ring() -> IoUring {
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(RING_ENTRIES);
    ring.or_else(|_| IoUring::new(RING_ENTRIES)).expect("io_uring is there: the limit is measured with it")
}

const RING_ENTRIES: u32 = 8;

/// A file system without `O_DIRECT` still shows the cost of the sync.
fn direct(path: &Path, flags: OFlags) -> File {
    let write = flags.contains(OFlags::DSYNC);
    let open =
        |flags: OFlags| OpenOptions::new().read(true).write(write).custom_flags(flags.bits().cast_signed()).open(path);
    open(flags).or_else(|_| open(flags - OFlags::DIRECT)).expect("the file was just written")
}

/// Nanoseconds an event, with so many in a write.
fn closed(events: u64, polling: bool, n: u64) -> f64 {
    on_core(0, || Writer::new(events, polling).closed(events, n))
}

fn both(events: u64, polling: bool, n: u64) -> (f64, Tail) {
    on_core(0, || {
        let mut writer = Writer::new(events, polling);
        let figure = writer.closed(events, n);
        let schedule = Schedule::at_half(figure);
        let batch = usize::try_from(events).expect("few");
        (figure, drive::one_at_a_time(schedule, batch, n, !polling, |_| writer.write()))
    })
}

/// Waits until the disk answers at its own speed. Disks of cloud machines have an allowance; one that has used it up answers
/// once a second, and what is measured then is the allowance.
pub(crate) fn wait_until_rested(quick: bool) {
    let tries = if quick { RESTED_TRIES_QUICK } else { RESTED_TRIES };
    let room = Room::new();
    let path = room.path().join("probe");
    std::fs::write(&path, [0; BLOCK_BYTES]).expect("the disk has room");
    let file = OpenOptions::new().write(true).custom_flags(OFlags::DSYNC.bits().cast_signed()).open(&path);
    let file = file.expect("it was just written");
    for _ in 0..tries {
        let slow = (0..RESTED_WRITES).any(|_| {
            let start = Instant::now();
            rustix::io::pwrite(&file, &[7; BLOCK_BYTES], 0).expect("the disk takes it");
            start.elapsed() > RESTED
        });
        if !slow {
            return;
        }
        std::thread::sleep(RESTED_PAUSE);
    }
    eprintln!("the disk is slow: it may have used up an allowance");
}

/// Reads the files from the disk once, several reads of 1 MiB in flight.
pub(super) fn read_sequentially(paths: &[std::path::PathBuf]) -> Duration {
    on_core(0, || {
        let mut ring = ring();
        let mut buffers: Vec<IoBuffer> = (0..READ_DEPTH).map(|_| IoBuffer::zeroed(READ_BYTES)).collect();
        let start = Instant::now();
        for path in paths {
            let file = direct(path, OFlags::DIRECT);
            let length = file.metadata().expect("an open file has a length").len();
            read_file(&mut ring, &file, length, &mut buffers);
        }
        start.elapsed()
    })
}

fn read_file(ring: &mut IoUring, file: &File, length: u64, buffers: &mut [IoBuffer]) {
    let mut free: Vec<usize> = (0..buffers.len()).collect();
    let (mut offset, mut in_flight, mut read) = (0, 0_usize, 0);
    while offset < length || in_flight > 0 {
        while offset < length
            && let Some(buffer) = free.pop()
        {
            let room = &mut buffers[buffer];
            let bytes = u32::try_from(room.len()).expect("a chunk is small");
            let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), room.as_mut_ptr(), bytes)
                .offset(offset)
                .build()
                .user_data(buffer as u64);
            // SAFETY: the buffers outlive the loop, which ends with nothing in flight; each has one read at a time.
            unsafe { ring.submission().push(&entry) }.expect("at most as many as there are buffers");
            offset += u64::from(bytes);
            in_flight += 1;
        }
        ring.submit_and_wait(1).expect("the kernel takes reads");
        for completion in ring.completion() {
            read += u64::try_from(completion.result()).expect("the disk reads");
            free.push(usize::try_from(completion.user_data()).expect("an index"));
            in_flight -= 1;
        }
    }
    assert_eq!(read, length, "the whole file was read");
}
