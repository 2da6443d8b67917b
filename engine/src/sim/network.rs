//! `Network`: sockets of all nodes, and when each datagram arrives, if at all.
//!
//! Invariant: datagrams of one directed link (node to node) arrive in send order, except those drawn to leave it. A cut
//! stops what is sent from then on; what is on its way still arrives, also after a restart of the receiver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};

use shardstage_codec::NodeId;

use crate::limits::SIM_FIRST_PORT;

use super::options::NetworkOptions;
use super::random::SimRandom;
use super::state::Seat;

/// A datagram on its way or in a socket.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) ecn: u8,
    pub(super) payload: Vec<u8>,
}

impl Datagram {
    /// Both ports in one number, for the trace.
    pub(super) fn ports(&self) -> u64 {
        u64::from(self.source.port()) << 16 | u64::from(self.destination.port())
    }
}

/// A bound address and what waits there.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) seat: Seat,
    pub(super) queue: VecDeque<Datagram>,
}

/// The network of one world.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) options: NetworkOptions,
    sockets: BTreeMap<SocketAddr, Socket>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Latest ordered arrival of a directed link.
    arrivals_ns: BTreeMap<(NodeId, NodeId), u64>,
    seed: u64,
    /// One stream a sending node, so that the traffic of one does not disturb another's.
    randoms: BTreeMap<NodeId, SimRandom>,
}

impl Network {
    pub(super) fn new(options: NetworkOptions, seed: u64) -> Self {
        let (sockets, cuts, arrivals_ns) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { options, sockets, cuts, arrivals_ns, seed, randoms: BTreeMap::new() }
    }

    /// Binds `address` for `seat`; port 0 takes the lowest free port of the dynamic range.
    pub(super) fn bind(&mut self, seat: Seat, address: SocketAddr) -> Result<SocketAddr> {
        let mut address = address;
        if address.port() == 0 {
            let free = |port: &u16| !self.sockets.contains_key(&SocketAddr::new(address.ip(), *port));
            let port = (SIM_FIRST_PORT..=u16::MAX).find(free).ok_or(ErrorKind::AddrInUse)?;
            address.set_port(port);
        }
        if self.sockets.contains_key(&address) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.sockets.insert(address, Socket { seat, queue: VecDeque::new() });
        Ok(address)
    }

    pub(super) fn unbind(&mut self, address: SocketAddr) {
        self.sockets.remove(&address);
    }

    pub(super) fn unbind_node(&mut self, node: NodeId) {
        self.sockets.retain(|_, socket| socket.seat.node != node);
    }

    pub(super) fn socket_mut(&mut self, address: SocketAddr) -> Option<&mut Socket> {
        self.sockets.get_mut(&address)
    }

    /// Whether something waits at `address`.
    pub(super) fn readable(&self, address: SocketAddr) -> bool {
        self.sockets.get(&address).is_some_and(|socket| !socket.queue.is_empty())
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self, from: NodeId, to: NodeId) {
        self.cuts.remove(&(from, to));
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// When the copies of a datagram that `from` sends now arrive: none, one or two times.
    pub(super) fn route(&mut self, from: NodeId, datagram: &Datagram, now_ns: u64) -> Vec<u64> {
        let stream = || SimRandom::stream(self.seed, "network", &[u64::from(from.get())]);
        let random = self.randoms.entry(from).or_insert_with(stream);
        let options = &self.options;
        let lost = random.chance(options.loss_ppm);
        let twice = random.chance(options.duplicate_ppm);
        let Some(to) = self.sockets.get(&datagram.destination).map(|socket| socket.seat.node) else {
            return Vec::new();
        };
        let too_large = options.mtu_bytes.is_some_and(|mtu| datagram.payload.len() > mtu);
        if lost || too_large || self.cuts.contains(&(from, to)) {
            return Vec::new();
        }
        let latest_ns = self.arrivals_ns.entry((from, to)).or_insert(0);
        let copies = if twice { 2 } else { 1 };
        (0..copies).map(|_| arrival_ns(options, random, latest_ns, now_ns)).collect()
    }

    /// Puts an arrived datagram into its socket; returns the seat to wake, or `None` when it was dropped.
    pub(super) fn deliver(&mut self, datagram: Datagram) -> Option<Seat> {
        let room = self.options.socket_datagrams;
        let socket = self.sockets.get_mut(&datagram.destination)?;
        if socket.queue.len() >= room {
            return None;
        }
        socket.queue.push_back(datagram);
        Some(socket.seat)
    }
}

/// When one copy arrives; `latest_ns` is the latest ordered arrival of its link.
fn arrival_ns(options: &NetworkOptions, random: &mut SimRandom, latest_ns: &mut u64, now_ns: u64) -> u64 {
    let direct_ns = now_ns + random.within(&options.delay_ns);
    let extra_ns = random.within(&options.reorder_ns);
    if random.chance(options.reorder_ppm) {
        return direct_ns + extra_ns;
    }
    *latest_ns = direct_ns.max(*latest_ns + 1);
    *latest_ns
}

/// The address that an unspecified bind of `node` gets.
pub(super) fn node_ip(node: NodeId) -> IpAddr {
    let [_, high, middle, low] = (node.get() + 1).to_be_bytes();
    IpAddr::from([10, high, middle, low])
}
