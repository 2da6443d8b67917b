//! Pinned threads for the workloads, with or without a tokio runtime on them.
//!
//! Invariant: a [`Side`]'s runtime is only ever driven by its own pinned thread; dropping the side ends that thread.

use std::future::Future;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::workload::Place;

/// Pins the calling thread to a core; without effect where the machine has no such core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // A refused pin (one core, a cpuset) costs precision, not correctness.
    let _refused = sched_setaffinity(None, &set);
}

/// Runs `work` on a fresh thread pinned to `core` and returns what it returned.
pub fn on_core<R: Send>(core: usize, work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(core);
                work()
            })
            .join()
            .expect("a workload does not panic")
    })
}

/// A tokio runtime whose only thread is the caller's.
#[must_use]
pub fn current_thread_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime needs only an epoll descriptor")
}

/// One pinned thread that runs a current-thread tokio runtime.
pub struct Side {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Side {
    /// Starts the thread on `core`.
    #[must_use]
    pub fn start(core: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (give_handle, take_handle) = mpsc::channel();
        let thread = thread::spawn(move || {
            pin(core);
            let runtime = current_thread_runtime();
            give_handle.send(runtime.handle().clone()).expect("the starter waits for the handle");
            let _closed = runtime.block_on(stopped);
        });
        let handle = take_handle.recv().expect("the thread sends its handle first");
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    /// For spawning tasks there.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a future as a task there and blocks until it is done.
    pub fn run<R: Send + 'static>(&self, future: impl Future<Output = R> + Send + 'static) -> R {
        let (give, take) = mpsc::channel();
        self.handle.spawn(async move {
            let _gone = give.send(future.await);
        });
        take.recv().expect("a workload does not panic")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The client's and the server's side of a workload: one thread or two.
pub struct Sides {
    client: Side,
    server: Option<Side>,
}

impl Sides {
    /// Starts one or two pinned threads.
    #[must_use]
    pub fn start(place: Place) -> Self {
        Self { client: Side::start(0), server: (place == Place::OtherShard).then(|| Side::start(1)) }
    }

    /// Where the producer, the asker or the first of two actors lives.
    #[must_use]
    pub fn client(&self) -> &Side {
        &self.client
    }

    /// Where the counting, answering or second actor lives.
    #[must_use]
    pub fn server(&self) -> &Side {
        self.server.as_ref().unwrap_or(&self.client)
    }
}
