//! The default host: one OS thread per shard, with its own loop.
//!
//! Invariant: the thread ends only when its shard says so; a panic in shard, ring or service code ends the process, because
//! what it leaves behind cannot be trusted.

use std::sync::Arc;
use std::time::Duration;

use crate::config::IdleStrategy;
use crate::error::StartError;
use crate::limits::YIELD_QUANTUM_NS;
use crate::port::driver::{Driver, DriverFactory};
use crate::seed::ShardSeed;
use crate::shard::turn::Wait;
use crate::shard::{Shard, drop_contained};

/// Called once per shard with the outcome of its start.
pub(crate) type OnStarted = Box<dyn FnOnce(Result<(), StartError>) + Send>;

/// The body of a shard's thread.
pub(crate) fn run(
    seed: ShardSeed,
    drivers: &Arc<dyn DriverFactory>,
    cpu: Option<usize>,
    idle: IdleStrategy,
    on_started: OnStarted,
) {
    let _abort = AbortOnPanic;
    let link = seed.link();
    if let Some(cpu) = cpu
        && let Err(error) = crate::driver::pin_current_thread(cpu)
    {
        link.close();
        return on_started(Err(StartError::Thread(error)));
    }
    let mut driver = match drivers.make(seed.shard()) {
        Ok(driver) => driver,
        Err(error) => {
            link.close();
            return on_started(Err(StartError::Driver(error)));
        }
    };
    let report = std::rc::Rc::new(std::cell::RefCell::new(Some(on_started)));
    let from_turn = std::rc::Rc::clone(&report);
    let on_started = Box::new(move |result| {
        if let Some(report) = from_turn.borrow_mut().take() {
            report(result);
        }
    });
    if idle == IdleStrategy::Spin {
        link.never_parks();
    }
    match seed.grow(&mut *driver, on_started) {
        Ok(mut shard) => {
            if idle != IdleStrategy::Park {
                shard.lingers();
            }
            turn_until_stopped(&mut shard, &mut *driver, idle);
            // Timers and closures hold values of the user's.
            drop_contained(shard);
        }
        Err(error) => {
            if let Some(report) = report.borrow_mut().take() {
                report(Err(error));
            }
        }
    }
    link.close();
}

fn turn_until_stopped(shard: &mut Shard, driver: &mut dyn Driver, idle: IdleStrategy) {
    let mut idle_since_ns = None;
    let mut yielded_ns = 0;
    loop {
        let wait = shard.turn(driver);
        let turn_ns = shard.turn_began_ns();
        let may_yield = shard.commit_in_flight() || turn_ns.saturating_sub(yielded_ns) >= YIELD_QUANTUM_NS;
        let deadline_ns = match wait {
            Wait::Stopped => return,
            Wait::Now => {
                idle_since_ns = None;
                if may_yield {
                    // Others run on the core now: their time is no turn's.
                    shard.rest(driver.now_ns());
                    driver.yield_now();
                    yielded_ns = turn_ns;
                }
                continue;
            }
            Wait::Until(at_ns) => Some(at_ns),
            Wait::Idle => None,
        };
        let spins = match idle {
            IdleStrategy::Spin => true,
            // The turn's own time will do: what it is late by is what an idle turn takes.
            IdleStrategy::SpinThenPark(window) => {
                Duration::from_nanos(turn_ns - *idle_since_ns.get_or_insert(turn_ns)) < window
            }
            IdleStrategy::Park => false,
        };
        if spins {
            if may_yield {
                driver.yield_now();
                yielded_ns = turn_ns;
            } else {
                std::hint::spin_loop();
            }
            continue;
        }
        if shard.prepare_park() {
            let now_ns = driver.now_ns();
            shard.parking(now_ns);
            driver.park(deadline_ns);
            shard.finish_park();
        }
        idle_since_ns = None;
    }
}

/// Ends the process if the thread unwinds out of the loop.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "shardstage: a shard's thread panicked outside any handler; its state cannot be trusted, aborting"
            );
            std::process::abort();
        }
    }
}
