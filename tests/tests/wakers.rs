//! Hazard: a waker outlives everything. It may be cloned and woken from many threads at once, after its actor has stopped,
//! after another actor has taken the cell, and after the engine is gone.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use shardstage::prelude::*;
use support::{Echo, Ping, engine};

/// Sleeps until the count has reached the goal; gives its waker out at the first poll.
#[message(reply = u64)]
struct Sleep {
    count: Arc<AtomicU64>,
    goal: u64,
    wakers: Sender<Waker>,
}

struct Sleeping(Sleep, bool);

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.1, true) {
            self.0.wakers.send(cx.waker().clone()).unwrap();
        }
        if self.0.count.load(Ordering::Relaxed) < self.0.goal { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[derive(Default)]
struct Sleeper;
impl Actor for Sleeper {}

impl AsyncHandler<Sleep> for Sleeper {
    async fn handle(&mut self, sleep: Sleep, _cx: &mut Context<Self>) -> u64 {
        let count = sleep.count.clone();
        Sleeping(sleep, false).await;
        count.load(Ordering::Relaxed)
    }
}

#[test]
fn no_wake_of_many_threads_is_lost() {
    const THREADS: u64 = 4;
    const WAKES: u64 = 500;
    let engine = engine(2);
    let sleeper = engine.spawn(Sleeper::default).unwrap();
    for round in 1..20 {
        let (wakers, waker) = channel();
        let count = Arc::new(AtomicU64::new(0));
        let goal = THREADS * WAKES;
        std::thread::scope(|scope| {
            let sleep = Sleep { count: count.clone(), goal, wakers };
            let answer = scope.spawn(move || sleeper.ask(sleep).wait());
            let waker: Waker = waker.recv().unwrap();
            for _ in 0..THREADS {
                let (waker, count) = (waker.clone(), count.clone());
                scope.spawn(move || {
                    for _ in 0..WAKES {
                        count.fetch_add(1, Ordering::Relaxed);
                        waker.wake_by_ref();
                        drop(waker.clone());
                    }
                });
            }
            drop(waker);
            assert_eq!(answer.join().unwrap(), Ok(goal), "round {round}");
        });
    }
    engine.shutdown().unwrap();
}

#[test]
fn wakes_after_the_end_do_nothing() {
    let engine = engine(1);
    let echo = engine.spawn(Echo::default).unwrap();
    let (wakers, waker) = channel();
    let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
    for _ in 0..3 {
        let sleeper = engine.spawn(Sleeper::default).unwrap();
        sleeper.tell(Sleep { count: Arc::default(), goal: 1, wakers: wakers.clone() }).unwrap();
        let waker: Waker = waker.recv().unwrap();
        // A stop would let the handler that sleeps go on to its end.
        sleeper.kill().wait();
        waker.wake_by_ref();
        kept.lock().unwrap().push(waker);
        assert_eq!(echo.ask(Ping(1)).wait(), Ok(1));
    }
    let suspended = engine.spawn(Sleeper::default).unwrap();
    suspended.tell(Sleep { count: Arc::default(), goal: 1, wakers }).unwrap();
    kept.lock().unwrap().push(waker.recv().unwrap());
    drop(engine);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| kept.lock().unwrap().iter().for_each(Waker::wake_by_ref));
        }
    });
    kept.lock().unwrap().drain(..).for_each(Waker::wake);
}
