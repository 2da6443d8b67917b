//! Hazard: timers under everything at once. Random timers, cancels, rebuilds, stops and idle timeouts in the simulator, held to
//! a list: none early, none lost, none twice, none out of order, none of a predecessor's.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::TimerId;
use shardstage::prelude::*;
use shardstage::testkit::TestKit;

const SILENCE: Duration = Duration::from_millis(200);

struct Set {
    due_ns: u64,
    number: u64,
    id: TimerId,
}

/// What the actor's timers are, as a list.
#[derive(Default)]
struct Model {
    /// In order of setting.
    set: Vec<Set>,
    /// Set by a predecessor and due when it ended: they may be in the mailbox.
    left: Vec<u64>,
    last_number: u64,
    fired: u64,
    cancelled: u64,
    late: u64,
    spoken_ns: u64,
    idle: u64,
}

#[derive(Clone)]
#[message]
struct Fired(u64);
#[derive(Clone)]
#[message]
struct Idle;
#[message]
struct Add(Vec<u64>);
#[message]
struct Cancel(u64);
#[message]
struct Panic;

struct Clock(Arc<Mutex<Model>>);

impl Actor for Clock {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        let mut model = self.0.lock().unwrap();
        let now_ns = cx.now_ns();
        let (due, _): (Vec<_>, Vec<_>) =
            std::mem::take(&mut model.set).into_iter().partition(|set| set.due_ns <= now_ns);
        model.left.extend(due.into_iter().map(|set| set.number));
        model.spoken_ns = now_ns;
        cx.set_idle_timeout(SILENCE, Idle);
        Ok(())
    }
}

impl Handler<Add> for Clock {
    fn handle(&mut self, add: Add, cx: &mut Context<Self>) {
        let mut model = self.0.lock().unwrap();
        model.spoken_ns = cx.now_ns();
        for delay_ns in add.0 {
            model.last_number += 1;
            let number = model.last_number;
            let id = cx.after(Duration::from_nanos(delay_ns), Fired(number));
            model.set.push(Set { due_ns: cx.now_ns() + delay_ns, number, id });
        }
    }
}

impl Handler<Fired> for Clock {
    fn handle(&mut self, fired: Fired, cx: &mut Context<Self>) {
        let mut model = self.0.lock().unwrap();
        model.fired += 1;
        if let Some(at) = model.left.iter().position(|number| *number == fired.0) {
            model.left.remove(at);
            return;
        }
        // The first of the earliest.
        let first = (0..model.set.len()).min_by_key(|at| model.set[*at].due_ns);
        let set = model.set.remove(first.expect("it was cancelled or never set"));
        assert_eq!(set.number, fired.0, "another one was due before");
        assert!(set.due_ns <= cx.now_ns(), "early");
    }
}

impl Handler<Cancel> for Clock {
    fn handle(&mut self, cancel: Cancel, cx: &mut Context<Self>) {
        let mut model = self.0.lock().unwrap();
        model.spoken_ns = cx.now_ns();
        if model.set.is_empty() {
            return;
        }
        let at = cancel.0 as usize % model.set.len();
        if cx.cancel(model.set[at].id) {
            let cancelled = model.set.remove(at);
            assert!(!cx.cancel(cancelled.id), "once");
            model.cancelled += 1;
        } else {
            assert!(model.set[at].due_ns <= cx.now_ns(), "it was in time");
            model.late += 1;
        }
    }
}

impl Handler<Idle> for Clock {
    fn handle(&mut self, _: Idle, cx: &mut Context<Self>) {
        let mut model = self.0.lock().unwrap();
        let silent_ns = cx.now_ns() - model.spoken_ns;
        assert!(silent_ns >= SILENCE.as_nanos() as u64, "after {silent_ns} ns only");
        model.idle += 1;
    }
}

impl Handler<Panic> for Clock {
    fn handle(&mut self, _: Panic, _cx: &mut Context<Self>) {
        panic!("planted");
    }
}

/// A number of up to `bits` bits, small ones as likely as large ones.
fn below_power(random: &mut impl FnMut(u64) -> u64, bits: u64) -> u64 {
    let bits = random(bits);
    random(1 << bits)
}

#[test]
fn random_timers_agree_with_a_list() {
    let sums = Mutex::new([0_u64; 4]);
    TestKit::check_seeds(0..200, |kit| {
        kit.allow_panics();
        kit.allow_dead_letters(|_| true);
        let mut state = kit.seed() | 1;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let models: Vec<Arc<Mutex<Model>>> = (0..4).map(|_| Arc::default()).collect();
        let clocks: Vec<_> = models
            .iter()
            .map(|model| {
                let model = Arc::clone(model);
                kit.spawn(move || Clock(Arc::clone(&model))).unwrap()
            })
            .collect();
        for _ in 0..120 {
            let clock = clocks[random(4) as usize];
            match random(12) {
                // From nanoseconds to a second.
                0..=4 => {
                    let count = random(6);
                    let delays = (0..count).map(|_| below_power(&mut random, 31)).collect();
                    clock.tell(Add(delays)).unwrap();
                }
                5..=7 => clock.tell(Cancel(random(1000))).unwrap(),
                8 => clock.tell(Panic).unwrap(),
                _ => kit.advance(Duration::from_nanos(below_power(&mut random, 29))),
            }
        }
        // Nothing of the last one is left, whatever it had set.
        clocks[3].stop().wait();
        kit.advance(Duration::from_secs(3));
        for (at, model) in models.iter().enumerate() {
            let model = model.lock().unwrap();
            assert!(at == 3 || model.set.is_empty(), "{} are lost", model.set.len());
            assert!(at == 3 || model.idle > 0, "nobody spoke to it for seconds");
            let mut sums = sums.lock().unwrap();
            for (sum, more) in sums.iter_mut().zip([model.fired, model.cancelled, model.late, model.idle]) {
                *sum += more;
            }
        }
        let timers: u64 = kit.engine().stats().iter().map(|shard| shard.timers).sum();
        assert_eq!(timers, 3, "the idle timeouts of those that live");
    });
    let [fired, cancelled, late, idle] = sums.into_inner().unwrap();
    assert!(fired > 5000 && cancelled > 1000 && idle > 500, "{fired} {cancelled} {late} {idle}: the test is blind");
}
