//! `SimWorld`: the handle with which a test owns nodes, shards, time and faults.
//!
//! Invariant: one event at a time. A shard's turn runs while nothing of the world is borrowed, so shards may use their
//! drivers freely; a node that goes down in the middle of a turn loses its shards when that turn ends, and nothing that the
//! turn did after that point had an effect outside.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shardstage_codec::{NodeId, ShardId};

use crate::limits::SIM_WAIT_NS;
use crate::port::driver::Driver;

use super::directory::Tree;
use super::disk::{DiskFault, DiskOp, FaultRule};
use super::driver::SimDriver;
use super::network::node_ip;
use super::options::{NetworkOptions, SimOptions};
use super::state::{Event, Seat, State, WakeFlag};

/// When a shard wants its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimWait {
    /// As soon as possible.
    Now,
    /// At this time of the driver's clock at the latest, ns.
    Until(u64),
    /// When something arrives or it is woken.
    Idle,
}

/// A shard as the world sees it: a value that takes turns.
pub trait SimShard {
    /// Takes one turn. `driver` must not be kept.
    fn turn(&mut self, driver: &mut dyn Driver) -> SimWait;
}

/// A simulated world; a cheap handle to it. Shards that hold one keep the world alive: let them hold what they need instead.
#[derive(Clone)]
pub struct SimWorld(Rc<Core>);

/// A handle that does not keep its world.
pub(super) struct WeakWorld(Weak<Core>);

impl WeakWorld {
    pub(super) fn upgrade(&self) -> Option<SimWorld> {
        self.0.upgrade().map(SimWorld)
    }
}

struct Core {
    state: RefCell<State>,
    shards: RefCell<BTreeMap<Seat, Box<dyn SimShard>>>,
}

impl fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimWorld(seed {}, {} ns)", self.state().options.seed, self.now_ns())
    }
}

/// Building and running.
impl SimWorld {
    /// An empty world at virtual time 0.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        let state = RefCell::new(State::new(options));
        Self(Rc::new(Core { state, shards: RefCell::default() }))
    }

    /// The driver of a shard, starting its node if it is down. For making a shard before [`add_shard`](Self::add_shard),
    /// or for driving a service by hand without one.
    #[must_use]
    pub fn driver(&self, node: NodeId, shard: ShardId) -> SimDriver {
        SimDriver::new(self.clone(), Seat { node, shard })
    }

    /// Gives a shard to the world, which schedules its first turn.
    ///
    /// # Panics
    /// When one already runs there.
    pub fn add_shard(&self, node: NodeId, shard: ShardId, value: Box<dyn SimShard>) {
        let seat = Seat { node, shard };
        self.drop_fallen();
        let mut state = self.state();
        state.sit(seat);
        assert!(!state.seat_mut(seat).attached, "a shard already runs on node {} shard {}", node.get(), shard.get());
        state.seat_mut(seat).attached = true;
        state.wake_later(seat);
        drop(state);
        let earlier = self.0.shards.borrow_mut().insert(seat, value);
        assert!(earlier.is_none(), "shards leave with their seat");
    }

    /// Takes a shard back, for an orderly end: files and sockets stay open until the node goes down. `None` when the
    /// world has none there.
    pub fn remove_shard(&self, node: NodeId, shard: ShardId) -> Option<Box<dyn SimShard>> {
        let seat = Seat { node, shard };
        let value = self.0.shards.borrow_mut().remove(&seat)?;
        self.state().detach(seat);
        Some(value)
    }

    /// Lets the next thing happen; `false` when nothing is left to happen.
    pub fn step(&self) -> bool {
        self.step_until(u64::MAX)
    }

    /// Runs until `done` holds, for at most `max_virtual_ns`; returns whether it holds. `done` is asked before each step.
    pub fn run_until(&self, mut done: impl FnMut(&Self) -> bool, max_virtual_ns: u64) -> bool {
        let until_ns = self.now_ns().saturating_add(max_virtual_ns);
        loop {
            if done(self) {
                return true;
            }
            if !self.step_until(until_ns) {
                return false;
            }
        }
    }

    /// Runs until nothing happens any more without the passing of time, in at most `max_steps` steps; returns whether it came
    /// to that. Messages, datagrams and disk calls under way are waited for; timers, deadlines of asks and what services put
    /// off are not, unless they are due now.
    pub fn run_until_idle(&self, max_steps: u64) -> bool {
        for _ in 0..max_steps {
            if self.state().is_idle() {
                return true;
            }
            self.step();
        }
        self.state().is_idle()
    }

    /// Runs for `ns` of virtual time.
    pub fn run_for(&self, ns: u64) {
        self.run_until(|_| false, ns);
    }

    /// Polls a future between steps, whenever it was woken, for at most `max_virtual_ns`; `None` when it is not ready by
    /// then or nothing is left to happen.
    pub fn block_on<F: Future>(&self, future: F, max_virtual_ns: u64) -> Option<F::Output> {
        let flag = Arc::new(WakeFlag::default());
        let waker = Waker::from(flag.clone());
        let mut future = pin!(future);
        let mut output = None;
        let mut first = true;
        self.run_until(
            |_| {
                if (std::mem::take(&mut first) || flag.take())
                    && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    output = Some(value);
                }
                output.is_some()
            },
            max_virtual_ns,
        );
        output
    }

    /// Polls a future that is sure to be ready, if only because its deadline passes.
    ///
    /// # Panics
    /// When it is not ready within [`SIM_WAIT_NS`], or nothing is left to happen before.
    pub(crate) fn wait<F: Future + fmt::Debug>(&self, future: F) -> F::Output {
        let what = format!("{future:?}");
        self.block_on(future, SIM_WAIT_NS).unwrap_or_else(|| {
            let seconds = self.now_ns() / 1_000_000_000;
            panic!(
                "{what} waits for what does not happen: {seconds} s of virtual time have passed, seed {}",
                self.state().options.seed
            )
        })
    }

    /// Virtual time since the world began, ns. Node clocks show it with their own start and drift.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    /// The options, with the network as it was last set.
    #[must_use]
    pub fn options(&self) -> SimOptions {
        let state = self.state();
        SimOptions { network: state.network.options.clone(), ..state.options.clone() }
    }

    pub(super) fn downgrade(&self) -> WeakWorld {
        WeakWorld(Rc::downgrade(&self.0))
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.0.state.borrow_mut()
    }

    /// The next event until `until_ns`; without one the clock moves there (unless there is no limit) and it is `false`.
    pub(super) fn step_until(&self, until_ns: u64) -> bool {
        let happened = self.happen(until_ns);
        self.drop_fallen();
        happened
    }

    fn happen(&self, until_ns: u64) -> bool {
        let mut state = self.state();
        let now_ns = state.now_ns;
        state.take_wakes(now_ns);
        match state.next_event(until_ns) {
            Some(Event::Turn(seat)) => {
                drop(state);
                self.turn(seat);
            }
            Some(Event::Arrive(datagram)) => state.arrive(datagram),
            Some(Event::DiskDone(id)) => state.disk_done(id),
            None => {
                if until_ns != u64::MAX {
                    state.now_ns = state.now_ns.max(until_ns);
                }
                return false;
            }
        }
        true
    }

    fn turn(&self, seat: Seat) {
        if !self.state().begin_turn(seat) {
            return;
        }
        let shard = self.0.shards.borrow_mut().remove(&seat);
        let mut shard = shard.expect("an attached seat has its shard");
        let mut driver = SimDriver::new(self.clone(), seat);
        let wait = shard.turn(&mut driver);
        let alive = driver.is_alive();
        let mut state = self.state();
        state.in_turn = false;
        if alive {
            state.end_turn(seat, wait);
            let local_ns = state.local_ns(seat);
            state.take_wakes(local_ns);
            drop(state);
            self.0.shards.borrow_mut().insert(seat, shard);
        } else {
            drop(state);
            drop(shard);
        }
    }

    /// Drops shards whose seat went down with its node.
    fn drop_fallen(&self) {
        let mut fallen = Vec::new();
        {
            let mut state = self.state();
            if !std::mem::take(&mut state.fallen) {
                return;
            }
            let mut shards = self.0.shards.borrow_mut();
            let gone: Vec<Seat> = shards.keys().filter(|seat| !state.attached(**seat)).copied().collect();
            fallen.extend(gone.iter().filter_map(|seat| shards.remove(seat)));
        }
        drop(fallen);
    }
}

/// Nodes going down, pausing, and their clocks.
impl SimWorld {
    /// Power loss: shards and sockets are gone, data calls in flight never complete, and each 512-byte sector and each
    /// directory entry that was not made durable is independently kept, dropped or (sectors) torn; a file that grew may
    /// have any length that it had since it was durable. The monotonic clock starts anew. [`driver`](Self::driver) or
    /// [`add_shard`](Self::add_shard) starts the node again on the same disk.
    pub fn crash(&self, node: NodeId) {
        self.state().crash(node, true);
        self.drop_fallen();
    }

    /// SIGKILL: like [`crash`](Self::crash), but the operating system lives on: what was written stays readable, and each
    /// write in flight happened or did not. A later power loss may still take it.
    pub fn kill(&self, node: NodeId) {
        self.state().crash(node, false);
        self.drop_fallen();
    }

    /// Lets a node lose power at its `n`-th disk I/O event since the world began: right after a submission or a directory
    /// change, or right before a completion takes effect. Replaces an earlier order; happens once, also when `n` is past.
    pub fn crash_at_io(&self, node: NodeId, n: u64) {
        self.state().node_mut(node).crash_at = Some(n);
    }

    /// Takes back a [`crash_at_io`](Self::crash_at_io) that has not happened.
    pub fn cancel_crash(&self, node: NodeId) {
        self.state().node_mut(node).crash_at = None;
    }

    /// How many disk I/O events (submissions, completions, directory changes) the node has had.
    #[must_use]
    pub fn io_events(&self, node: NodeId) -> u64 {
        self.state().node_mut(node).io_events
    }

    /// How often the node went down.
    #[must_use]
    pub fn restarts(&self, node: NodeId) -> u64 {
        self.state().node_mut(node).boot
    }

    /// Whether the node has a shard or a driver.
    #[must_use]
    pub fn is_running(&self, node: NodeId) -> bool {
        self.state().running(node)
    }

    /// No shard of the node turns for `ns` (a stopped process or a frozen guest). Network and disk go on.
    pub fn pause(&self, node: NodeId, ns: u64) {
        let mut state = self.state();
        let until_ns = state.now_ns.saturating_add(ns);
        state.node_mut(node).paused_until_ns = until_ns;
    }

    /// One shard is busy for `ns`, as with a handler that blocks: its next turn comes that much later.
    ///
    /// # Panics
    /// When there is no such shard.
    pub fn stall(&self, node: NodeId, shard: ShardId, ns: u64) {
        let mut state = self.state();
        let seat = Seat { node, shard };
        assert!(state.attached(seat), "no shard runs on node {} shard {}", node.get(), shard.get());
        state.charge(seat, ns);
    }

    /// Moves the node's wall clock by `ns`; its monotonic clock stays.
    pub fn jump_wall_clock(&self, node: NodeId, ns: i64) {
        let mut state = self.state();
        let node = state.node_mut(node);
        node.wall_jump_ns = node.wall_jump_ns.saturating_add(ns);
    }
}

/// The network.
impl SimWorld {
    /// The address that a bind of the node to an unspecified address gets.
    #[must_use]
    pub fn node_ip(node: NodeId) -> IpAddr {
        node_ip(node)
    }

    /// From now on nothing that `from` sends reaches `to`. Datagrams on their way still arrive.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state().network.cut(from, to);
    }

    /// Undoes one [`cut`](Self::cut).
    pub fn heal(&self, from: NodeId, to: NodeId) {
        self.state().network.heal(from, to);
    }

    /// Undoes every cut.
    pub fn heal_all(&self) {
        self.state().network.heal_all();
    }

    /// Changes how the network behaves from now on.
    pub fn set_network(&self, change: impl FnOnce(&mut NetworkOptions)) {
        change(&mut self.state().network.options);
    }
}

/// The disks.
impl SimWorld {
    /// The next data call of the node for which `applies` holds suffers `fault`, once. Rules are tried in the order in
    /// which they were added. `applies` must not use the world.
    pub fn disk_fault(&self, node: NodeId, fault: DiskFault, applies: impl FnMut(&DiskOp<'_>) -> bool + 'static) {
        self.state().node_mut(node).faults.push(FaultRule { fault, applies: Box::new(applies) });
    }

    /// How many fault rules of the node have not found their data call.
    #[must_use]
    pub fn faults_waiting(&self, node: NodeId) -> usize {
        self.state().node_mut(node).faults.len()
    }

    /// Bounds the bytes of the node's files: a write that makes a file longer than that allows ends with ENOSPC and changes
    /// nothing. Writes into what a file has already always fit. `None` takes the bound away.
    pub fn set_disk_capacity(&self, node: NodeId, bytes: Option<u64>) {
        self.state().node_mut(node).disk_capacity = bytes;
    }

    /// The names in a directory of the node's disk, sorted; none when there is no such directory.
    #[must_use]
    pub fn list(&self, node: NodeId, directory: impl AsRef<Path>) -> Vec<String> {
        self.state().node_mut(node).tree.list(directory.as_ref()).unwrap_or_default()
    }

    /// Removes a file of the node's disk, durably; whether there was one.
    ///
    /// # Panics
    /// When the node is running.
    pub fn remove_file(&self, node: NodeId, path: impl AsRef<Path>) -> bool {
        let mut state = self.state();
        assert!(!state.running(node), "files are taken away from a node that is down");
        let tree = &mut state.node_mut(node).tree;
        let removed = tree.remove(path.as_ref()).is_ok();
        tree.settle();
        removed
    }

    /// Makes everything on the node's disk durable.
    pub fn settle_disk(&self, node: NodeId) {
        self.state().node_mut(node).tree.settle();
    }

    /// Gives the node an empty disk.
    ///
    /// # Panics
    /// When the node is running.
    pub fn wipe_disk(&self, node: NodeId) {
        let mut state = self.state();
        assert!(!state.running(node), "only a node that is down can get another disk");
        state.node_mut(node).tree = Tree::new();
    }

    /// Flips one bit of a file, on the medium and in the cache.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn flip_bit(&self, node: NodeId, path: impl AsRef<Path>, bit: u64) {
        self.damage(node, path.as_ref(), bit / 8, 1, |bytes| bytes[0] ^= 1 << (bit % 8));
    }

    /// Zeroes one 512-byte sector of a file, on the medium and in the cache.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn zero_sector(&self, node: NodeId, path: impl AsRef<Path>, sector: u64) {
        let len = crate::limits::SIM_SECTOR_BYTES;
        self.damage(node, path.as_ref(), sector * len as u64, len, |bytes| bytes.fill(0));
    }

    /// What a running program reads from a file; `None` when there is none.
    #[must_use]
    pub fn file_bytes(&self, node: NodeId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let tree = &state.node_mut(node).tree;
        Some(tree.file(tree.find(path.as_ref()).ok()?).ok()?.live_bytes())
    }

    /// What a file would surely hold after a power loss now, if its directory entry survives; `None` when there is none.
    #[must_use]
    pub fn durable_bytes(&self, node: NodeId, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let tree = &state.node_mut(node).tree;
        Some(tree.file(tree.find(path.as_ref()).ok()?).ok()?.durable_bytes())
    }

    fn damage(&self, node: NodeId, path: &Path, offset: u64, len: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state();
        let tree = &mut state.node_mut(node).tree;
        let inode = tree.find(path).expect("the file to damage exists");
        tree.file_mut(inode).expect("only files can be damaged").damage(offset, change, len);
    }
}

/// The trace.
impl SimWorld {
    /// A hash of everything that happened: virtual times, places, kinds, ids and sizes, no payload bytes.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state().log.hash()
    }

    /// Starts or stops keeping the trace as lines, from none.
    pub fn trace_lines(&self, keep: bool) {
        self.state().log.keep_lines(keep);
    }

    /// Takes the lines kept so far.
    #[must_use]
    pub fn take_trace_lines(&self) -> Vec<String> {
        self.state().log.take_lines()
    }
}
