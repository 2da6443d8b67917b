//! `State`: clocks, the event queue, nodes and shard seats of one world.
//!
//! Invariant: the queue is ordered by virtual time, then by a seeded draw, then by insertion; the world's time never goes
//! back and no event is scheduled before it. A seat exists only while its node runs. No shard code runs while the state is
//! borrowed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shardstage_codec::{NodeId, ShardId};

use crate::limits::{SIM_CLOCK_START_NS, SIM_SPURIOUS_WAKE_NS, SIM_WALL_START_NS};
use crate::port::driver::{FileCompletion, FileId, SocketId, Wake};

use super::directory::{Inode, Tree};
use super::disk::{FaultRule, Handle, PendingOp};
use super::network::{Datagram, Network};
use super::options::SimOptions;
use super::random::{MILLION, SimRandom};
use super::trace::{Trace, TraceKind};
use super::world::SimWait;

/// One shard of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) node: NodeId,
    pub(super) shard: ShardId,
}

/// What happens at a point in virtual time.
#[derive(Debug)]
pub(super) enum Event {
    /// A shard takes a turn.
    Turn(Seat),
    /// A datagram arrives.
    Arrive(Datagram),
    /// A data call ends.
    DiskDone(u64),
}

/// Time, seeded tie-break, insertion number.
type Key = (u64, u64, u64);

/// Set from any thread, read by the world before each step. Its store pairs with the swap in [`State::take_wakes`]; the
/// order of other memory is the business of whoever wakes.
#[derive(Debug, Default)]
pub(super) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for WakeFlag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl std::task::Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        Wake::wake(&*self);
    }
}

/// What outlives a restart of a node: its disk, clock and counters.
#[derive(Debug)]
pub(super) struct NodeState {
    /// Counts restarts; drivers of an earlier one are dead.
    pub(super) boot: u64,
    pub(super) tree: Tree,
    /// Files that are locked by the running process.
    pub(super) locks: BTreeSet<Inode>,
    pub(super) faults: Vec<FaultRule>,
    pub(super) disk_random: SimRandom,
    pub(super) fault_random: SimRandom,
    /// Bytes that files may have together; `None` for no bound.
    pub(super) disk_capacity: Option<u64>,
    pub(super) crash_random: SimRandom,
    pub(super) io_events: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) paused_until_ns: u64,
    pub(super) wall_jump_ns: i64,
    drift_ppm: i64,
    /// What the clock shows when the machine boots.
    clock_start_ns: u64,
    /// World time at which the machine booted last.
    booted_ns: u64,
    /// The power failed and nothing was started since.
    rebooted: bool,
}

/// What dies with a node's process.
#[derive(Debug)]
pub(super) struct SeatState {
    pub(super) random: SimRandom,
    /// What turns and messages cost here, and how late wakes are.
    schedule: SimRandom,
    pub(super) wake: Arc<WakeFlag>,
    pub(super) completions: Vec<FileCompletion>,
    pub(super) files: BTreeMap<FileId, Handle>,
    pub(super) next_file: u32,
    pub(super) sockets: BTreeMap<SocketId, std::net::SocketAddr>,
    pub(super) next_socket: u32,
    /// Whether the world owns a shard here and schedules it.
    pub(super) attached: bool,
    /// How far this shard's own time is: past the world's when a turn took long.
    clock_ns: u64,
    turn: Option<Key>,
    /// The world time before which that turn has nothing to do, ns; 0 when something waits for it.
    turn_due_ns: u64,
}

/// Everything in a world but its shards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) now_ns: u64,
    pub(super) network: Network,
    pub(super) ops: BTreeMap<u64, PendingOp>,
    pub(super) next_op: u64,
    pub(super) log: Trace,
    pub(super) in_turn: bool,
    /// Set when a node went down: its shards are still to be dropped.
    pub(super) fallen: bool,
    nodes: BTreeMap<NodeId, NodeState>,
    seats: BTreeMap<Seat, SeatState>,
    queue: BTreeMap<Key, Event>,
    next_event: u64,
    ties: SimRandom,
}

impl State {
    pub(super) fn new(options: SimOptions) -> Self {
        let network = Network::new(options.network.clone(), options.seed);
        let ties = SimRandom::stream(options.seed, "ties", &[]);
        Self {
            options,
            now_ns: 0,
            network,
            ops: BTreeMap::new(),
            next_op: 0,
            log: Trace::default(),
            in_turn: false,
            fallen: false,
            nodes: BTreeMap::new(),
            seats: BTreeMap::new(),
            queue: BTreeMap::new(),
            next_event: 0,
            ties,
        }
    }

    /// The node, made on first use.
    pub(super) fn node_mut(&mut self, node: NodeId) -> &mut NodeState {
        let options = &self.options;
        self.nodes.entry(node).or_insert_with(|| NodeState::new(options, node))
    }

    /// The node's boot number, and a seat in it for the shard.
    pub(super) fn sit(&mut self, seat: Seat) -> u64 {
        let now_ns = self.now_ns;
        let node = self.node_mut(seat.node);
        if std::mem::take(&mut node.rebooted) {
            node.booted_ns = now_ns;
        }
        let boot = node.boot;
        let options = &self.options;
        let indexes = [u64::from(seat.node.get()), u64::from(seat.shard.get()), boot];
        self.seats.entry(seat).or_insert_with(|| SeatState {
            random: SimRandom::stream(options.seed, "shard", &indexes),
            schedule: SimRandom::stream(options.seed, "schedule", &indexes),
            wake: Arc::default(),
            completions: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            sockets: BTreeMap::new(),
            next_socket: 0,
            attached: false,
            clock_ns: 0,
            turn: None,
            turn_due_ns: 0,
        });
        boot
    }

    /// Whether a driver of boot `boot` still has a running process below it.
    pub(super) fn alive(&self, seat: Seat, boot: u64) -> bool {
        self.nodes.get(&seat.node).is_some_and(|node| node.boot == boot) && self.seats.contains_key(&seat)
    }

    /// The seat; callers have checked that it is [`alive`](Self::alive).
    pub(super) fn seat_mut(&mut self, seat: Seat) -> &mut SeatState {
        self.seats.get_mut(&seat).expect("a seat lives as long as its node's process")
    }

    /// The seat's own world time, ns: the world's, or later when its turn took that long.
    pub(super) fn local_ns(&self, seat: Seat) -> u64 {
        self.seats.get(&seat).map_or(self.now_ns, |state| state.clock_ns.max(self.now_ns))
    }

    /// Lets the seat's own time pass.
    pub(super) fn charge(&mut self, seat: Seat, ns: u64) {
        let local_ns = self.local_ns(seat);
        self.seat_mut(seat).clock_ns = local_ns + ns;
    }

    /// Lets the seat's own time pass for a batch of messages.
    pub(super) fn charge_messages(&mut self, seat: Seat, count: u32) {
        let range_ns = self.options.message_ns.clone();
        let each_ns = self.seat_mut(seat).schedule.within(&range_ns);
        self.charge(seat, each_ns * u64::from(count));
        if count > 0 {
            self.trace(seat, TraceKind::Handle, u64::from(count), 0);
        }
    }

    pub(super) fn trace(&mut self, seat: Seat, kind: TraceKind, first: u64, second: u64) {
        let now_ns = self.local_ns(seat);
        self.log.record(now_ns, seat, kind, first, second);
    }

    pub(super) fn schedule(&mut self, at_ns: u64, event: Event) -> Key {
        debug_assert!(at_ns >= self.now_ns, "events lie in the future");
        let key = (at_ns, self.ties.next_u64(), self.next_event);
        self.next_event += 1;
        self.queue.insert(key, event);
        key
    }

    /// Gives the seat a turn at `at_ns`, or keeps the earlier one that it has. Before `due_ns` that turn has nothing to do.
    pub(super) fn schedule_turn(&mut self, seat: Seat, at_ns: u64, due_ns: u64) {
        let at_ns = at_ns.max(self.local_ns(seat));
        let state = self.seat_mut(seat);
        state.turn_due_ns = if state.turn.is_some() { state.turn_due_ns.min(due_ns) } else { due_ns };
        match state.turn {
            Some(key) if key.0 <= at_ns => return,
            Some(key) => drop(self.queue.remove(&key)),
            None => {}
        }
        let key = self.schedule(at_ns, Event::Turn(seat));
        self.seat_mut(seat).turn = Some(key);
    }

    /// The world gave the seat's shard away: no turn is due any more.
    pub(super) fn detach(&mut self, seat: Seat) {
        let state = self.seat_mut(seat);
        state.attached = false;
        if let Some(key) = state.turn.take() {
            self.queue.remove(&key);
        }
    }

    /// Something is there for the seat: its shard turns after a wake delay.
    pub(super) fn wake_later(&mut self, seat: Seat) {
        self.wake_later_than(seat, self.now_ns);
    }

    fn wake_later_than(&mut self, seat: Seat, from_ns: u64) {
        if self.seat_mut(seat).attached {
            let range_ns = self.options.wake_ns.clone();
            let delay_ns = self.seat_mut(seat).schedule.within(&range_ns);
            self.schedule_turn(seat, from_ns.max(self.now_ns) + delay_ns, 0);
        }
    }

    /// Schedules the shards whose wake flags were set, as of `from_ns`.
    pub(super) fn take_wakes(&mut self, from_ns: u64) {
        let attached = self.seats.iter().filter(|(_, state)| state.attached && state.wake.take());
        let woken: Vec<Seat> = attached.map(|(seat, _)| *seat).collect();
        for seat in woken {
            self.trace(seat, TraceKind::Wake, 0, 0);
            self.wake_later_than(seat, from_ns);
        }
    }

    /// Takes the next event that is due until `until_ns` and moves the clock to it.
    pub(super) fn next_event(&mut self, until_ns: u64) -> Option<Event> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= until_ns)?;
        let ((at_ns, _, _), event) = entry.remove_entry();
        self.now_ns = self.now_ns.max(at_ns);
        Some(event)
    }

    /// Whether all that is to come are turns before whose time nothing is to do.
    pub(super) fn is_idle(&mut self) -> bool {
        self.take_wakes(self.now_ns);
        self.queue.values().all(|event| match event {
            Event::Turn(seat) => self.seats[seat].turn_due_ns > self.local_ns(*seat),
            Event::Arrive(_) | Event::DiskDone(_) => false,
        })
    }

    /// Starts a turn; `false` when the node is paused or the shard is still busy, which moves the turn.
    pub(super) fn begin_turn(&mut self, seat: Seat) -> bool {
        let ready_ns = self.node_mut(seat.node).paused_until_ns.max(self.local_ns(seat));
        self.seat_mut(seat).turn = None;
        if ready_ns > self.now_ns {
            let due_ns = self.seat_mut(seat).turn_due_ns;
            self.schedule_turn(seat, ready_ns, due_ns);
            return false;
        }
        let range_ns = self.options.turn_ns.clone();
        let cost_ns = self.seat_mut(seat).schedule.within(&range_ns);
        self.charge(seat, cost_ns);
        self.trace(seat, TraceKind::Turn, 0, 0);
        self.in_turn = true;
        true
    }

    /// Schedules what a shard asked for at the end of its turn.
    pub(super) fn end_turn(&mut self, seat: Seat, wait: SimWait) {
        let local_ns = self.local_ns(seat);
        let (spurious_ppm, range_ns) = (self.options.spurious_wake_ppm, self.options.wake_ns.clone());
        let random = &mut self.seat_mut(seat).schedule;
        let spurious = random.chance(spurious_ppm);
        let spurious_ns = random.below(SIM_SPURIOUS_WAKE_NS);
        let late_ns = random.within(&range_ns);
        let wait = if self.ready(seat) { SimWait::Now } else { wait };
        match wait {
            SimWait::Now => self.schedule_turn(seat, local_ns, 0),
            SimWait::Until(deadline_ns) => {
                let deadline_ns = self.node_mut(seat.node).world_ns(deadline_ns);
                self.schedule_turn(seat, deadline_ns.saturating_add(late_ns), deadline_ns);
            }
            SimWait::Idle => {}
        }
        if spurious && wait != SimWait::Now {
            self.schedule_turn(seat, local_ns + spurious_ns, u64::MAX);
        }
    }

    /// Whether a park of the seat would return at once: completions or datagrams wait.
    pub(super) fn ready(&self, seat: Seat) -> bool {
        let Some(state) = self.seats.get(&seat) else { return false };
        !state.completions.is_empty() || state.sockets.values().any(|address| self.network.readable(*address))
    }

    /// Sends a datagram from the seat.
    pub(super) fn send(&mut self, seat: Seat, datagram: Datagram) {
        let local_ns = self.local_ns(seat);
        let arrivals = self.network.route(seat.node, &datagram, local_ns);
        let kind = if arrivals.is_empty() { TraceKind::Lose } else { TraceKind::Send };
        self.trace(seat, kind, datagram.ports(), datagram.payload.len() as u64);
        for at_ns in arrivals {
            self.schedule(at_ns, Event::Arrive(datagram.clone()));
        }
    }

    /// A datagram's time has come.
    pub(super) fn arrive(&mut self, datagram: Datagram) {
        let (ports, len) = (datagram.ports(), datagram.payload.len() as u64);
        if let Some(seat) = self.network.deliver(datagram) {
            self.trace(seat, TraceKind::Deliver, ports, len);
            self.wake_later(seat);
        }
    }

    /// Counts one I/O event of the node; `true` when it must lose power here.
    pub(super) fn io_event(&mut self, node: NodeId) -> bool {
        let node = self.node_mut(node);
        node.io_events += 1;
        if node.crash_at.is_some_and(|at| at <= node.io_events) {
            node.crash_at = None;
            return true;
        }
        false
    }

    /// Ends a node's process; with `power`, what its disk did not hold for sure is at stake.
    pub(super) fn crash(&mut self, node: NodeId, power: bool) {
        let in_flight = self.end_disk_calls(node, power);
        let boot = self.node_mut(node).boot;
        let kind = if power { TraceKind::Crash } else { TraceKind::Kill };
        self.log.record(self.now_ns, Seat { node, shard: ShardId::new(0) }, kind, boot, in_flight as u64);
        let state = self.node_mut(node);
        state.boot += 1;
        state.rebooted |= power;
        self.fallen = true;
        self.network.unbind_node(node);
        let queue = &mut self.queue;
        self.seats.retain(|seat, state| {
            if seat.node == node
                && let Some(key) = state.turn
            {
                queue.remove(&key);
            }
            seat.node != node
        });
    }

    /// Whether the world owns a shard there.
    pub(super) fn attached(&self, seat: Seat) -> bool {
        self.seats.get(&seat).is_some_and(|state| state.attached)
    }

    /// Whether any seat of the node is taken.
    pub(super) fn running(&self, node: NodeId) -> bool {
        self.seats.keys().any(|seat| seat.node == node)
    }
}

impl NodeState {
    fn new(options: &SimOptions, node: NodeId) -> Self {
        let stream = |name| SimRandom::stream(options.seed, name, &[u64::from(node.get())]);
        let mut clock = stream("clock");
        let drift_ppm = i64::from(options.drift_ppm.min(500_000));
        let drawn = clock.below(2 * drift_ppm.unsigned_abs() + 1).cast_signed();
        Self {
            boot: 0,
            tree: Tree::new(),
            locks: BTreeSet::new(),
            faults: Vec::new(),
            disk_random: stream("disk"),
            fault_random: stream("disk faults"),
            disk_capacity: None,
            crash_random: stream("crash"),
            io_events: 0,
            crash_at: None,
            paused_until_ns: 0,
            wall_jump_ns: 0,
            drift_ppm: drawn - drift_ppm,
            clock_start_ns: SIM_CLOCK_START_NS + clock.below(options.skew_ns.saturating_add(1)),
            booted_ns: 0,
            rebooted: false,
        }
    }

    /// What the node's monotonic clock shows at world time `world_ns`; a power loss starts it anew.
    pub(super) fn clock_ns(&self, world_ns: u64) -> u64 {
        let elapsed = i128::from(world_ns.saturating_sub(self.booted_ns));
        let elapsed = elapsed * (i128::from(MILLION) + i128::from(self.drift_ppm)) / i128::from(MILLION);
        self.clock_start_ns.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// The earliest world time at which the node's clock shows `clock_ns` or more.
    pub(super) fn world_ns(&self, clock_ns: u64) -> u64 {
        let elapsed = i128::from(clock_ns.saturating_sub(self.clock_start_ns)) * i128::from(MILLION);
        let rate = i128::from(MILLION) + i128::from(self.drift_ppm);
        let elapsed = u64::try_from((elapsed + rate - 1) / rate).unwrap_or(u64::MAX);
        self.booted_ns.saturating_add(elapsed)
    }

    /// What the node's wall clock shows at world time `world_ns`.
    pub(super) fn wall_ns(&self, world_ns: u64) -> u64 {
        SIM_WALL_START_NS.saturating_add(world_ns).saturating_add_signed(self.wall_jump_ns)
    }
}
