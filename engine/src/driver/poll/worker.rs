//! `Worker`: the thread that does a shard's file operations, in order.
//!
//! Invariant: every submitted operation is collected once; dropping the worker waits until the thread has done them all.
//! `Worker` belongs to the shard's thread; the queue of finished operations is shared with the writer thread.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::readiness::PollWake;
use crate::driver::files::Operation;
use crate::limits::FILE_ATTEMPTS;
use crate::port::driver::{FileCompletion, FileOp};
use crate::sync::{Mutex, MutexGuard};

/// A shard's writer thread.
pub(super) struct Worker {
    finished: Arc<Finished>,
    running: Option<Running>,
    cpus: Option<CpuSet>,
}

struct Running {
    queue: Sender<Operation>,
    thread: JoinHandle<()>,
}

/// What the thread has done and the shard not yet collected.
struct Finished {
    completions: Mutex<Vec<FileCompletion>>,
    /// Whether `completions` may be non-empty, so that an idle look costs one load. Pairs release with acquire.
    any: AtomicBool,
    wake: Arc<PollWake>,
}

impl Worker {
    pub(super) fn new(wake: Arc<PollWake>, cpus: Option<CpuSet>) -> Self {
        let finished = Finished { completions: Mutex::new(Vec::new()), any: AtomicBool::new(false), wake };
        Self { finished: Arc::new(finished), running: None, cpus }
    }

    /// Queues an operation; starts the thread if it is the first.
    pub(super) fn submit(&mut self, operation: Operation) {
        let refused = match self.queue() {
            Ok(queue) => match queue.send(operation) {
                Ok(()) => return,
                Err(unsent) => (unsent.0, io::Error::other("the writer thread is gone")),
            },
            Err(error) => (operation, io::Error::new(error.kind(), format!("starting the writer thread: {error}"))),
        };
        let (operation, error) = refused;
        self.finished.push(operation.complete(Err(error)));
    }

    /// Moves what is done to `into`.
    pub(super) fn collect(&mut self, into: &mut Vec<FileCompletion>) {
        if self.finished.any.load(Ordering::Acquire) {
            let mut completions = self.finished.lock();
            into.append(&mut completions);
            self.finished.any.store(false, Ordering::Release);
        }
    }

    fn queue(&mut self) -> io::Result<&Sender<Operation>> {
        let running = match self.running.take() {
            Some(running) => running,
            None => {
                let (queue, operations) = channel();
                let (finished, cpus) = (Arc::clone(&self.finished), self.cpus);
                let thread =
                    Builder::new().name("shardstage-files".into()).spawn(move || run(&operations, &finished, cpus))?;
                Running { queue, thread }
            }
        };
        Ok(&self.running.insert(running).queue)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(Running { queue, thread }) = self.running.take() {
            drop(queue);
            // A panic of the thread was reported when it happened; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Finished {
    fn lock(&self) -> MutexGuard<'_, Vec<FileCompletion>> {
        self.completions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a completion; kicks the shard when it may not have been told yet.
    fn push(&self, completion: FileCompletion) {
        let mut completions = self.lock();
        let first = completions.is_empty();
        completions.push(completion);
        self.any.store(true, Ordering::Release);
        drop(completions);
        if first {
            self.wake.kick();
        }
    }
}

fn run(operations: &Receiver<Operation>, finished: &Finished, cpus: Option<CpuSet>) {
    if let Some(cpus) = cpus {
        // The thread inherits its shard's pin; where it cannot be lifted it is slower and nothing else.
        let _ = sched_setaffinity(None, &cpus);
    }
    for mut operation in operations {
        let mut result = perform(&mut operation);
        for _ in 1..FILE_ATTEMPTS {
            match &result {
                Err(error) if operation.may_start_again(error) => result = perform(&mut operation),
                _ => break,
            }
        }
        finished.push(operation.complete(result));
    }
}

fn perform(operation: &mut Operation) -> io::Result<usize> {
    let open = &operation.file;
    match &mut operation.op {
        FileOp::Read { offset, buffer } => open.file.read_at(buffer, *offset),
        FileOp::Write { offset, buffer, len } => open.file.write_at(&buffer[..*len], *offset),
        FileOp::Sync if open.directory => open.file.sync_all().map(|()| 0),
        FileOp::Sync => open.file.sync_data().map(|()| 0),
    }
}
