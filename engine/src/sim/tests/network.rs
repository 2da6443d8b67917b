//! What the simulated network does to datagrams.

use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::port::driver::{DatagramBatch, Driver, SocketId, Transmit};
use crate::sim::{NetworkOptions, SimDriver, SimOptions, SimWorld};

use super::*;

const COUNT: u16 = 1000;

struct Pair {
    world: SimWorld,
    sender: SimDriver,
    receiver: SimDriver,
    from: SocketId,
    to: SocketId,
    destination: SocketAddr,
}

impl Pair {
    fn new(seed: u64, change: impl FnOnce(&mut NetworkOptions)) -> Self {
        let mut options = SimOptions::seeded(seed);
        change(&mut options.network);
        let world = SimWorld::new(options);
        let mut sender = world.driver(NODE, SHARD);
        let mut receiver = world.driver(OTHER, SHARD);
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let (from, source) = sender.bind(any).unwrap();
        let (to, destination) = receiver.bind(any).unwrap();
        assert_eq!(source.ip(), SimWorld::node_ip(NODE));
        Self { world, sender, receiver, from, to, destination }
    }

    fn send(&mut self, payload: &[u8]) {
        let transmit = Transmit { destination: self.destination, source: None, ecn: 1, segment_bytes: None, payload };
        assert!(self.sender.send(self.from, &transmit).unwrap());
    }

    /// Sends `COUNT` numbered datagrams and returns the numbers that arrived, in order of arrival.
    fn numbers(&mut self) -> Vec<u16> {
        for number in 0..COUNT {
            self.send(&number.to_be_bytes());
        }
        self.world.run_for(SECOND);
        self.received().iter().map(|payload| u16::from_be_bytes([payload[0], payload[1]])).collect()
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        let mut batch = DatagramBatch::new(4);
        let mut all = Vec::new();
        while self.receiver.receive(self.to, &mut batch).unwrap() > 0 {
            for (meta, payload) in batch.iter() {
                assert_eq!((meta.len, meta.stride, meta.ecn), (payload.len(), payload.len(), 1));
                assert_eq!(meta.destination, Some(self.destination.ip()));
                all.push(payload.to_vec());
            }
        }
        all
    }
}

#[test]
fn a_quiet_network_delivers_all_in_order_after_its_delay() {
    let mut pair = Pair::new(1, |_| {});
    assert_eq!(pair.numbers(), (0..COUNT).collect::<Vec<_>>());
    let start_ns = pair.world.now_ns();
    pair.send(&[1]);
    pair.receiver.park(None);
    let delay_ns = pair.world.now_ns() - start_ns;
    assert!((50_000..=260_000).contains(&delay_ns), "{delay_ns}");
}

#[test]
fn segments_arrive_as_single_datagrams() {
    let mut pair = Pair::new(1, |_| {});
    let payload: Vec<u8> = (0..=249).collect();
    let transmit =
        Transmit { destination: pair.destination, source: None, ecn: 1, segment_bytes: Some(100), payload: &payload };
    assert!(pair.sender.send(pair.from, &transmit).unwrap());
    pair.world.run_for(SECOND);
    let received = pair.received();
    assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(received.concat(), payload);
    let too_many = Transmit { segment_bytes: Some(1), ..transmit };
    assert_eq!(pair.sender.send(pair.from, &too_many).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn loss_duplication_and_reordering_happen_when_asked_for() {
    let lossy = Pair::new(1, |network| network.loss_ppm = 100_000).numbers().len();
    assert!((800..980).contains(&lossy), "{lossy}");
    let doubled = Pair::new(1, |network| network.duplicate_ppm = 100_000).numbers().len();
    assert!((1020..1200).contains(&doubled), "{doubled}");
    let shuffled = Pair::new(1, |network| network.reorder_ppm = 100_000).numbers();
    assert_eq!(shuffled.len(), usize::from(COUNT));
    let late = shuffled.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late > 10, "{late}");
}

#[test]
fn datagrams_over_the_mtu_vanish() {
    let mut pair = Pair::new(1, |network| network.mtu_bytes = Some(1400));
    pair.send(&[0; 1401]);
    pair.send(&[0; 1400]);
    pair.world.run_for(SECOND);
    assert_eq!(pair.received().len(), 1);
}

#[test]
fn a_cut_has_a_direction_and_an_end() {
    let mut pair = Pair::new(1, |_| {});
    pair.world.cut(OTHER, NODE);
    pair.send(&[1]);
    pair.world.cut(NODE, OTHER);
    pair.send(&[2]);
    pair.world.run_for(SECOND);
    assert_eq!(pair.received(), [[1]], "sent before the cut, it still arrives");
    pair.world.heal(NODE, OTHER);
    pair.send(&[3]);
    pair.world.run_for(SECOND);
    assert_eq!(pair.received(), [[3]]);
}

#[test]
fn an_address_is_bound_once_and_free_after_a_crash() {
    let world = SimWorld::new(SimOptions::seeded(1));
    let mut driver = world.driver(NODE, SHARD);
    let address = SocketAddr::from(([127, 0, 0, 1], 4000));
    let (socket, bound) = driver.bind(address).unwrap();
    assert_eq!(bound, address);
    let mut other = world.driver(OTHER, SHARD);
    assert_eq!(other.bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    driver.unbind(socket);
    other.bind(address).unwrap();
    world.crash(OTHER);
    driver.bind(address).unwrap();
}

#[test]
fn an_old_datagram_reaches_a_restarted_node() {
    let mut pair = Pair::new(1, |_| {});
    pair.send(&[1]);
    pair.world.crash(OTHER);
    pair.receiver = pair.world.driver(OTHER, SHARD);
    (pair.to, _) = pair.receiver.bind(pair.destination).unwrap();
    pair.world.run_for(SECOND);
    assert_eq!(pair.received(), [[1]]);
}

#[test]
fn a_full_socket_drops() {
    let mut pair = Pair::new(1, |network| network.socket_datagrams = 10);
    assert_eq!(pair.numbers(), (0..10).collect::<Vec<_>>());
}
