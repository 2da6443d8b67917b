//! Two transports on real sockets of this machine, with both real drivers, each shard on a thread of its own.

#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use shardstage::driver::{DriverChoice, RealDriverFactory};
use shardstage::port::driver::DriverFactory;
use shardstage::port::frame::Frame;
use shardstage::port::transport::{
    ClusterConfig, Lane, NodeInfo, PeerDown, ReserveError, Source, Transport, TransportEvents, TransportFactory,
    TransportSeat,
};
use shardstage_codec::{NodeId, ShardId};
use shardstage_quic::{Quic, QuicConfig};
use support::frame;

/// Two ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let sockets = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

fn cluster(me: u32, ports: [u16; 2]) -> ClusterConfig {
    let node = |id: u32| NodeInfo {
        id: NodeId::new(id),
        name: format!("n{id}"),
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ports[id as usize]),
        shards: 1,
    };
    ClusterConfig { name: "dev".into(), me: NodeId::new(me), nodes: vec![node(0), node(1)] }
}

/// Echoes what it gets on node 1; counts and checks on node 0.
#[derive(Default)]
struct Events {
    up: bool,
    echo: Vec<(Lane, Vec<u8>)>,
    got: u64,
    checks: bool,
    closed: bool,
}

impl TransportEvents for Events {
    fn frame(&mut self, _: Source, lane: Lane, bytes: Frame<'_>) {
        if self.checks {
            assert_eq!(*bytes, frame(self.got, size(self.got)));
        } else {
            self.echo.push((lane, bytes.to_vec()));
        }
        self.got += 1;
    }
    fn peer_up(&mut self, _: NodeId, _: u64) {
        self.up = true;
    }
    fn peer_down(&mut self, _: NodeId, reason: &PeerDown) {
        self.closed = *reason == PeerDown::Closed;
    }
}

const FRAMES: u64 = 5000;

/// Mostly small frames, sometimes a large one.
fn size(number: u64) -> usize {
    if number % 1000 == 999 { 1 << 20 } else { 64 + usize::try_from(number).unwrap() % 900 }
}

fn run(choice: DriverChoice, directory: &Path, me: u32, ports: [u16; 2], done: &mpsc::Sender<u64>) {
    let mut driver = RealDriverFactory::new(choice).unwrap().make(ShardId::new(0)).unwrap();
    let config = QuicConfig::development(directory, "dev", &format!("n{me}"))
        .unwrap()
        .with_idle_timeout(Duration::from_secs(60));
    let seat = TransportSeat { shard: ShardId::new(0), cluster: cluster(me, ports) };
    let mut transport = Quic::new(config).make(&seat).unwrap();
    transport.start(&mut *driver).unwrap();
    assert_eq!(transport.local_address(), Some(seat.cluster.nodes[me as usize].address));
    let mut events = Events { checks: me == 0, ..Events::default() };
    let (peer, mut sent, mut echoed) = (NodeId::new(1 - me), 0, 0);
    loop {
        let busy = transport.poll(&mut *driver, &mut events);
        let more = if me == 0 {
            send(&mut *transport, peer, &mut sent, events.up)
        } else {
            echo(&mut *transport, peer, &mut events, &mut echoed)
        };
        transport.flush(&mut *driver);
        if me == 0 && events.got == FRAMES || me == 1 && events.closed {
            break;
        }
        if !busy && !more {
            driver.park(transport.next_deadline_ns());
        }
    }
    while !transport.stop(&mut *driver) {
        driver.park(transport.next_deadline_ns());
    }
    done.send(events.got).unwrap();
}

fn put(transport: &mut dyn Transport, peer: NodeId, lane: Lane, bytes: &[u8]) -> bool {
    match transport.reserve(peer, lane, bytes.len()) {
        Ok(room) => {
            room.copy_from_slice(bytes);
            true
        }
        Err(ReserveError::Full | ReserveError::Down) => false,
        Err(error) => panic!("{error:?}"),
    }
}

fn send(transport: &mut dyn Transport, peer: NodeId, sent: &mut u64, up: bool) -> bool {
    let first = *sent;
    while up && *sent < FRAMES && *sent < first + 100 && put(transport, peer, Lane::User, &frame(*sent, size(*sent))) {
        *sent += 1;
    }
    *sent != first
}

fn echo(transport: &mut dyn Transport, peer: NodeId, events: &mut Events, echoed: &mut usize) -> bool {
    let before = *echoed;
    while let Some((lane, bytes)) = events.echo.get(*echoed) {
        if !put(transport, peer, *lane, bytes) {
            break;
        }
        *echoed += 1;
    }
    *echoed != before
}

fn round_trip(choice: DriverChoice) {
    let directory = tempfile::tempdir().unwrap();
    let ports = free_ports();
    let (done, all) = mpsc::channel();
    std::thread::scope(|scope| {
        for me in [0, 1] {
            let (directory, done) = (directory.path(), &done);
            scope.spawn(move || run(choice, directory, me, ports, done));
        }
        assert_eq!([all.recv().unwrap(), all.recv().unwrap()], [FRAMES, FRAMES]);
    });
}

#[test]
fn frames_go_round_over_the_poll_driver() {
    round_trip(DriverChoice::Poll);
}

#[test]
fn frames_go_round_over_the_uring_driver() {
    if RealDriverFactory::new(DriverChoice::Uring).is_ok() {
        round_trip(DriverChoice::Uring);
    }
}
