//! Determinism, scheduling, crashes and crash points.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::port::driver::{DatagramBatch, Driver, SocketId, Transmit, Wake};
use crate::sim::{DiskFault, SimDriver, SimOptions, SimRandom, SimShard, SimWait, SimWorld};

use super::*;

/// Sends numbered datagrams to its peer and writes every received one into its file.
struct Chatter {
    socket: SocketId,
    peer: SocketAddr,
    file: FileId,
    sent: u64,
    written: u64,
    batch: DatagramBatch,
}

impl SimShard for Chatter {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        driver.completions(&mut Vec::new());
        while driver.receive(self.socket, &mut self.batch).unwrap() > 0 {
            for (_, payload) in self.batch.iter() {
                submit(driver, self.written, self.file, write_op(self.written * 512, payload));
                self.written += 1;
            }
            driver.charge_messages(u32::try_from(self.batch.metas.len()).unwrap());
        }
        if self.sent < 100 {
            let payload = driver.random_u64().to_be_bytes();
            let (destination, source) = (self.peer, None);
            let transmit = Transmit { destination, source, ecn: 0, segment_bytes: None, payload: &payload };
            driver.send(self.socket, &transmit).unwrap();
            self.sent += 1;
            return SimWait::Until(driver.now_ns() + 100_000);
        }
        SimWait::Idle
    }
}

/// Lets pairs of nodes chat for a second of virtual time; the trace lines tell what happened on nodes 0 and 1.
fn chat(options: SimOptions, pairs: u32) -> (u64, Vec<String>) {
    let world = SimWorld::new(options);
    world.trace_lines(true);
    for id in 0..2 * pairs {
        let node = NodeId::new(id);
        let mut driver = world.driver(node, SHARD);
        let (socket, _) = driver.bind(SocketAddr::from(([0, 0, 0, 0], 4000))).unwrap();
        let file = driver.open(Path::new("log"), OpenOptions { create_new: true, ..BUFFERED }).unwrap();
        let peer = SocketAddr::new(SimWorld::node_ip(NodeId::new(id ^ 1)), 4000);
        let batch = DatagramBatch::new(4);
        world.add_shard(node, SHARD, Box::new(Chatter { socket, peer, file, sent: 0, written: 0, batch }));
    }
    world.run_for(SECOND);
    let mut lines = world.take_trace_lines();
    lines.retain(|line| line.contains(" n0 ") || line.contains(" n1 "));
    (world.trace_hash(), lines)
}

#[test]
fn same_seed_same_trace_and_another_seed_another() {
    for seed in 0..10 {
        let first = chat(SimOptions::swarm(seed), 1);
        assert!(first.1.len() > 500, "{}", first.1.len());
        assert_eq!(first, chat(SimOptions::swarm(seed), 1));
        assert_ne!(first.0, chat(SimOptions { seed: seed + 100, ..SimOptions::swarm(seed) }, 1).0);
    }
}

#[test]
fn what_other_nodes_do_does_not_shift_the_draws_of_these() {
    let alone = chat(SimOptions::swarm(3), 1);
    let in_company = chat(SimOptions::swarm(3), 3);
    assert_eq!(alone.1, in_company.1);
    assert_ne!(alone.0, in_company.0, "the others are in the whole trace");
    let draw = |name, index: u64| SimRandom::stream(1, name, &[index]).next_u64();
    assert_eq!(BTreeSet::from([draw("disk", 0), draw("disk", 1), draw("network", 0)]).len(), 3);
}

/// Runs a closure as a shard.
struct Turns<F>(F);

impl<F: FnMut(&mut dyn Driver) -> SimWait> SimShard for Turns<F> {
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait {
        (self.0)(driver)
    }
}

fn counting(count: &Rc<Cell<u64>>, wait: SimWait) -> Box<dyn SimShard> {
    let count = count.clone();
    Box::new(Turns(move |_: &mut dyn Driver| {
        count.set(count.get() + 1);
        wait
    }))
}

#[test]
fn an_idle_shard_turns_when_woken_from_anywhere_and_only_then() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let turns = Rc::new(Cell::new(0));
    let waker: Arc<dyn Wake> = world.driver(NODE, SHARD).waker();
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    world.run_for(SECOND);
    assert_eq!(turns.get(), 1);
    std::thread::spawn(move || {
        waker.wake();
        waker.wake();
    })
    .join()
    .unwrap();
    world.run_for(SECOND);
    assert_eq!(turns.get(), 2, "wakes merge");
}

#[test]
fn a_shard_that_left_datagrams_behind_turns_again() {
    let mut options = SimOptions::seeded(1);
    options.network.delay_ns = 50_000..=50_000;
    let world = SimWorld::new(options);
    let (mut sender, mut receiver) = (world.driver(NODE, SHARD), world.driver(OTHER, SHARD));
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let (from, _) = sender.bind(any).unwrap();
    let (to, destination) = receiver.bind(any).unwrap();
    let received = Rc::new(Cell::new(0));
    let (count, mut batch) = (received.clone(), DatagramBatch::new(1));
    let shard = Turns(move |driver: &mut dyn Driver| {
        count.set(count.get() + driver.receive(to, &mut batch).unwrap());
        SimWait::Idle
    });
    world.add_shard(OTHER, SHARD, Box::new(shard));
    world.run_for(SECOND);
    for _ in 0..10 {
        let transmit = Transmit { destination, source: None, ecn: 0, segment_bytes: None, payload: &[1] };
        sender.send(from, &transmit).unwrap();
    }
    world.run_for(SECOND);
    assert_eq!(received.get(), 10);
}

#[test]
fn spurious_wakes_happen_when_asked_for() {
    let world = SimWorld::new(SimOptions { spurious_wake_ppm: 900_000, ..SimOptions::seeded(1) });
    let turns = Rc::new(Cell::new(0));
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    world.run_for(SECOND);
    assert!(turns.get() > 1);
}

#[test]
fn a_deadline_is_kept_late_never_early_on_a_drifting_clock() {
    for seed in 0..20 {
        let options = SimOptions { drift_ppm: 20_000, ..SimOptions::seeded(seed) };
        let latest_ns = *options.wake_ns.end() + 10_000;
        let world = SimWorld::new(options);
        let turns = Rc::new(Cell::new(0));
        let count = turns.clone();
        let mut deadline_ns = 0;
        let shard = Turns(move |driver: &mut dyn Driver| {
            let now_ns = driver.now_ns();
            assert!(now_ns >= deadline_ns);
            assert!(deadline_ns == 0 || now_ns - deadline_ns < latest_ns, "{}", now_ns - deadline_ns);
            deadline_ns = driver.now_ns() + 3_000_000;
            count.set(count.get() + 1);
            SimWait::Until(deadline_ns)
        });
        world.add_shard(NODE, SHARD, Box::new(shard));
        assert!(world.run_until(|_| turns.get() == 100, SECOND));
    }
}

#[test]
fn a_busy_shard_lets_its_own_time_pass_and_stalls_no_other() {
    let options = SimOptions { message_ns: 1000..=1000, ..SimOptions::seeded(1) };
    let world = SimWorld::new(options);
    let (busy, light) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let count = busy.clone();
    let shard = Turns(move |driver: &mut dyn Driver| {
        let start_ns = driver.now_ns();
        driver.charge_messages(10_000);
        assert!(driver.now_ns() - start_ns >= 10_000_000);
        count.set(count.get() + 1);
        SimWait::Now
    });
    world.add_shard(NODE, SHARD, Box::new(shard));
    world.add_shard(NODE, ShardId::new(1), counting(&light, SimWait::Now));
    world.run_for(SECOND);
    assert!((90..=100).contains(&busy.get()), "{}", busy.get());
    assert!(light.get() > 100_000, "{}", light.get());
}

#[test]
fn a_paused_node_takes_no_turn() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let turns = Rc::new(Cell::new(0));
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Now));
    world.run_for(SECOND / 1000);
    let before = turns.get();
    world.pause(NODE, SECOND / 2);
    world.run_for(SECOND / 2 - 1);
    assert_eq!(turns.get(), before);
    world.run_for(SECOND / 1000);
    assert!(turns.get() > before);
}

#[test]
fn a_foreign_future_is_polled_when_it_was_woken() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let (turns, polls) = (Rc::new(Cell::new(0)), Cell::new(0));
    let waiting: Rc<RefCell<Option<Waker>>> = Rc::default();
    let (count, wake) = (turns.clone(), waiting.clone());
    let shard = Turns(move |driver: &mut dyn Driver| {
        count.set(count.get() + 1);
        if count.get() == 50 {
            wake.take().expect("the future waits").wake();
        }
        SimWait::Until(driver.now_ns() + 1_000_000)
    });
    world.add_shard(NODE, SHARD, Box::new(shard));
    let future = poll_fn(|cx| {
        polls.set(polls.get() + 1);
        if turns.get() >= 50 {
            return Poll::Ready(turns.get());
        }
        *waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    });
    assert_eq!(world.block_on(future, SECOND), Some(50));
    assert_eq!(polls.get(), 2);
    assert_eq!(world.block_on(poll_fn(|_| Poll::<()>::Pending), SECOND), None);
}

#[test]
fn a_crash_drops_shards_and_the_node_starts_again_on_its_disk() {
    let (world, mut driver) = world_with_file(1, 1);
    let file = driver.open(Path::new("log"), DURABLE).unwrap();
    run(&mut driver, file, write_op(0, &[6; 4096])).unwrap();
    let turns = Rc::new(Cell::new(0));
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Now));
    world.run_for(SECOND / 1000);
    submit(&mut driver, 1, file, write_op(0, &[7; 4096]));
    world.crash(NODE);
    assert_eq!(Rc::strong_count(&turns), 1, "the shard is gone");
    assert!(!world.is_running(NODE) && !driver.is_alive());
    let mut all = Vec::new();
    world.run_for(SECOND);
    driver.completions(&mut all);
    assert!(all.is_empty(), "a data call in flight never completes");
    let before = turns.get();
    let mut again = world.driver(NODE, SHARD);
    assert!(again.open(Path::new("log"), BUFFERED).is_ok());
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    world.run_for(SECOND);
    assert_eq!(turns.get(), before + 1);
    assert_eq!(world.restarts(NODE), 1);
}

/// When the toy log says that a record is safe.
#[derive(Clone, Copy)]
enum Ack {
    AfterCompletion,
    AtSubmission,
}

/// A toy log: one durable block a record, one at a time; returns the highest record that it said was safe.
fn toy_log(world: &SimWorld, ack: Ack) -> Rc<Cell<u8>> {
    let acked = Rc::new(Cell::new(0));
    let (safe, mut next, mut file) = (acked.clone(), 1_u8, None);
    let shard = Turns(move |driver: &mut dyn Driver| {
        let mut done = Vec::new();
        driver.completions(&mut done);
        for completion in done {
            safe.set(safe.get().max(u8::try_from(completion.token).unwrap()));
        }
        let file = *file.get_or_insert_with(|| driver.open(Path::new("log"), DURABLE).unwrap());
        if next <= 20 && safe.get() + 1 == next {
            submit(driver, u64::from(next), file, write_op(u64::from(next) * 4096, &[next; 4096]));
            if matches!(ack, Ack::AtSubmission) {
                safe.set(next);
            }
            next += 1;
        }
        SimWait::Idle
    });
    world.add_shard(NODE, SHARD, Box::new(shard));
    acked
}

/// Runs the toy log once with a crash at each of its I/O events; counts the runs that lost an acknowledged record.
fn runs_with_loss(ack: Ack) -> u64 {
    let (world, _) = world_with_file(5, 32);
    let before = world.io_events(NODE);
    toy_log(&world, ack);
    world.run_for(SECOND);
    let events = world.io_events(NODE);
    assert!(events >= before + 20, "{before} {events}");
    let lost = (before + 1..=events).filter(|event| {
        let (world, _) = world_with_file(5, 32);
        let acked = toy_log(&world, ack);
        world.crash_at_io(NODE, *event);
        world.run_for(SECOND);
        assert!(!world.is_running(NODE));
        assert_eq!(world.io_events(NODE), *event);
        let bytes = world.file_bytes(NODE, "log").unwrap();
        (1..=acked.get()).any(|record| bytes[usize::from(record) * 4096..][..4096] != [record; 4096])
    });
    lost.count() as u64
}

#[test]
fn a_crash_at_each_io_event_finds_an_early_acknowledgement_and_clears_an_honest_one() {
    assert_eq!(runs_with_loss(Ack::AfterCompletion), 0);
    assert!(runs_with_loss(Ack::AtSubmission) > 0);
}

#[test]
fn what_a_turn_does_after_its_node_went_down_has_no_effect() {
    let (world, mut driver) = world_with_file(1, 1);
    let mut peer = world.driver(OTHER, SHARD);
    let (heard, address) = peer.bind(SocketAddr::from(([0, 0, 0, 0], 4000))).unwrap();
    let file = driver.open(Path::new("log"), DURABLE).unwrap();
    let (socket, _) = driver.bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let shard = Turns(move |driver: &mut dyn Driver| {
        count.set(count.get() + 1);
        let payload = &[1];
        let transmit = Transmit { destination: address, source: None, ecn: 0, segment_bytes: None, payload };
        submit(driver, 1, file, write_op(0, &[1; 4096]));
        driver.send(socket, &transmit).unwrap();
        assert!(driver.create_dir(Path::new("late")).is_err());
        let start_ns = driver.now_ns();
        while driver.now_ns() < start_ns + 1000 {}
        SimWait::Now
    });
    world.add_shard(NODE, SHARD, Box::new(shard));
    world.crash_at_io(NODE, world.io_events(NODE) + 1);
    world.run_for(SECOND);
    assert_eq!(turns.get(), 1);
    assert_eq!(Rc::strong_count(&turns), 1);
    assert_eq!(peer.receive(heard, &mut DatagramBatch::new(1)).unwrap(), 0);
    assert_eq!(world.driver(NODE, SHARD).list(Path::new("/")).unwrap(), ["log"]);
}

#[test]
fn a_crash_by_a_call_from_outside_drops_the_shards_too() {
    let (world, mut driver) = world_with_file(1, 1);
    let turns = Rc::new(Cell::new(0));
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    let file = driver.open(Path::new("log"), DURABLE).unwrap();
    world.crash_at_io(NODE, 0);
    world.cancel_crash(NODE);
    submit(&mut driver, 1, file, write_op(0, &[1; 4096]));
    assert!(driver.is_alive());
    world.crash_at_io(NODE, 0);
    submit(&mut driver, 2, file, write_op(0, &[1; 4096]));
    assert!(!driver.is_alive());
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    assert_eq!(Rc::strong_count(&turns), 2);
}

#[test]
fn a_shard_that_was_taken_back_turns_no_more() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let turns = Rc::new(Cell::new(0));
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Now));
    world.run_for(SECOND / 1000);
    let before = turns.get();
    assert!(world.remove_shard(NODE, SHARD).is_some());
    world.run_for(SECOND);
    assert_eq!(turns.get(), before);
    world.add_shard(NODE, SHARD, counting(&turns, SimWait::Idle));
    world.run_for(SECOND);
    assert_eq!(turns.get(), before + 1);
}

#[test]
fn a_power_loss_starts_the_monotonic_clock_anew_and_a_kill_does_not() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let first_ns = world.driver(NODE, SHARD).now_ns();
    world.run_for(10 * SECOND);
    world.kill(NODE);
    assert!(world.driver(NODE, SHARD).now_ns() >= first_ns + 10 * SECOND);
    world.crash(NODE);
    let mut driver = world.driver(NODE, SHARD);
    assert!(driver.now_ns() < first_ns + SECOND);
    let deadline_ns = driver.now_ns() + SECOND;
    driver.park(Some(deadline_ns));
    assert!((0..1000).contains(&(driver.now_ns() - deadline_ns)));
}

#[test]
fn the_wall_clock_jumps_without_the_other() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let mut driver: SimDriver = world.driver(NODE, SHARD);
    let (now_ns, wall_ns) = (driver.now_ns(), driver.wall_unix_ns());
    world.jump_wall_clock(NODE, -5_000_000_000);
    assert!(driver.now_ns() > now_ns);
    assert!(driver.wall_unix_ns() < wall_ns - 4_000_000_000);
}

#[test]
fn a_slow_call_by_rule_is_slow_for_one_node_only() {
    let (world, mut driver) = world_with_file(1, 1);
    world.disk_fault(OTHER, DiskFault::Slow(SECOND), |_| true);
    let file = driver.open(Path::new("log"), DURABLE).unwrap();
    run(&mut driver, file, write_op(0, &[1; 4096])).unwrap();
    assert_eq!(world.faults_waiting(OTHER), 1);
}
