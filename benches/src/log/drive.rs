//! The load on other stores: threads that call one each with an event, or one committer with many.
//!
//! Invariant: an event's call returns when it is durable, and its writer begins the next one only then.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::room::Room;
use super::schedule::{Schedule, Tail};
use crate::limits::{LOG_TIME, SLEEP_AHEAD, STORE_THREAD_BYTES};
use crate::stores::{Event, Store};

/// Runs `work(writer)` on as many threads and waits for all.
fn threads(writers: u64, work: impl Fn(u64) + Sync) {
    thread::scope(|scope| {
        for writer in 0..writers {
            let work = &work;
            let builder = thread::Builder::new().stack_size(STORE_THREAD_BYTES);
            builder.spawn_scoped(scope, move || work(writer)).expect("a thread can be made");
        }
    });
}

fn opened<S: Store>(writers: u64) -> (Room, S) {
    let room = Room::new();
    let store = S::open(room.path());
    greet(&store, 0..writers);
    room.settle();
    (room, store)
}

/// The first event of each of these writers: keys exist, files are open.
fn greet<S: Store>(store: &S, writers: Range<u64>) {
    writers.for_each(|writer| store.commit(&[Event { writer, seq: 1 }]));
}

/// Nanoseconds an event when so many threads commit one event at a time.
pub(crate) fn native<S: Store>(writers: u64, n: u64) -> f64 {
    let (_room, store) = opened::<S>(writers);
    native_closed(&store, writers, n)
}

/// The same, then events that come when they come.
pub(crate) fn native_both<S: Store>(writers: u64, n: u64) -> (f64, Tail) {
    let (_room, store) = opened::<S>(writers);
    let figure = native_closed(&store, writers, n);
    (figure, native_open(&store, writers, Schedule::at_half(figure), n))
}

fn native_closed<S: Store>(store: &S, writers: u64, n: u64) -> f64 {
    let (taken, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    threads(writers, |writer| {
        let mut seq = 1;
        while taken.fetch_add(1, Ordering::Relaxed) < n && start.elapsed() < LOG_TIME {
            seq += 1;
            store.commit(&[Event { writer, seq }]);
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    start.elapsed().as_secs_f64() * 1e9 / done.load(Ordering::Relaxed) as f64
}

fn native_open<S: Store>(store: &S, writers: u64, schedule: Schedule, n: u64) -> Tail {
    // Writers of their own, so that each begins at its first event.
    greet(store, writers..2 * writers);
    let schedule = Mutex::new((schedule.restarted(), 0));
    let latencies = Mutex::new(Vec::new());
    let begin = Instant::now();
    threads(writers, |thread| {
        let (mut seq, mut mine) = (1, Vec::new());
        loop {
            let due = {
                let mut schedule = schedule.lock().expect("no writer panics");
                let due = schedule.0.due();
                let _taken = schedule.0.take(due);
                schedule.1 += 1;
                // A store that cannot keep up is not waited for for ever: what it had shows it.
                if schedule.1 > n || due - begin > LOG_TIME || begin.elapsed() > 2 * LOG_TIME {
                    break;
                }
                due
            };
            wait_until(due, true);
            seq += 1;
            store.commit(&[Event { writer: writers + thread, seq }]);
            mine.push(due.elapsed());
        }
        latencies.lock().expect("no writer panics").extend(mine);
    });
    Tail::of(latencies.into_inner().expect("no writer panics"))
}

/// Nanoseconds an event when one thread commits so many at a time.
pub(crate) fn committer<S: Store>(batch: usize, n: u64) -> f64 {
    let (_room, store) = opened::<S>(batch as u64);
    committer_closed(&store, &mut Batches::new(batch), batch, n)
}

/// The same, then it takes what has come, up to so many at a time.
pub(crate) fn committer_both<S: Store>(batch: usize, n: u64) -> (f64, Tail) {
    let (_room, store) = opened::<S>(batch as u64);
    let mut batches = Batches::new(batch);
    let figure = committer_closed(&store, &mut batches, batch, n);
    let schedule = Schedule::at_half(figure);
    (figure, one_at_a_time(schedule, batch, n, true, |count| store.commit(batches.next(count))))
}

fn committer_closed<S: Store>(store: &S, batches: &mut Batches, batch: usize, n: u64) -> f64 {
    let (start, mut done) = (Instant::now(), 0);
    while done < n && start.elapsed() < LOG_TIME {
        store.commit(batches.next(batch));
        done += batch as u64;
    }
    start.elapsed().as_secs_f64() * 1e9 / done as f64
}

/// Calls `commit` with as many events as are due, at most `batch`, one call at a time, until `n` are done or the time is over.
pub(super) fn one_at_a_time(
    mut schedule: Schedule,
    batch: usize,
    n: u64,
    may_sleep: bool,
    mut commit: impl FnMut(usize),
) -> Tail {
    let begin = Instant::now();
    let (mut latencies, mut waiting) = (Vec::new(), Vec::new());
    while (latencies.len() as u64) < n && begin.elapsed() < LOG_TIME {
        wait_until(schedule.due(), may_sleep);
        let now = Instant::now();
        while waiting.len() < batch
            && let Some(due) = schedule.take(now)
        {
            waiting.push(due);
        }
        commit(waiting.len());
        let now = Instant::now();
        latencies.extend(waiting.drain(..).map(|due| now - due));
    }
    Tail::of(latencies)
}

fn wait_until(due: Instant, may_sleep: bool) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if may_sleep && left > SLEEP_AHEAD {
            thread::sleep(left - SLEEP_AHEAD);
        } else {
            rustix::thread::sched_yield();
        }
    }
}

/// The next events of as many writers, in turn.
struct Batches {
    writers: u64,
    written: u64,
    events: Vec<Event>,
}

impl Batches {
    fn new(writers: usize) -> Self {
        let writers = writers as u64;
        // Everyone has written one.
        Self { writers, written: writers, events: Vec::new() }
    }

    fn next(&mut self, count: usize) -> &[Event] {
        let next = self.written..self.written + count as u64;
        self.written = next.end;
        self.events.clear();
        let event = |number| Event { writer: number % self.writers, seq: number / self.writers + 1 };
        self.events.extend(next.map(event));
        &self.events
    }
}

/// Fills a store with `n` events, reads them back from the disk, and says how many nanoseconds that took each.
pub(crate) fn recovery<S: Store>(n: u64) -> f64 {
    let room = Room::new();
    let store = S::open(room.path());
    let mut batches = Batches { written: 0, ..Batches::new(RECOVERY_WRITERS) };
    let mut left = usize::try_from(n).expect("events fit into memory");
    while left > 0 {
        let count = left.min(RECOVERY_BATCH);
        store.commit(batches.next(count));
        left -= count;
    }
    drop(store);
    room.evict();
    let start = Instant::now();
    let found = S::recover(room.path());
    let elapsed = start.elapsed();
    assert_eq!(found, n, "{}: every event is there", S::NAME);
    per_event(elapsed, n)
}

pub(super) fn per_event(elapsed: Duration, n: u64) -> f64 {
    elapsed.as_secs_f64() * 1e9 / n as f64
}

const RECOVERY_WRITERS: usize = 64;
const RECOVERY_BATCH: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_writer_counts_its_own_events() {
        let mut batches = Batches::new(3);
        assert_eq!(
            batches.next(4).iter().map(|event| (event.writer, event.seq)).collect::<Vec<_>>(),
            [(0, 2), (1, 2), (2, 2), (0, 3)]
        );
    }
}
