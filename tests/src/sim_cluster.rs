//! A cluster of two simulated nodes, `a` and `b`, with fixed certificates and one counting actor type.

use std::path::Path;

use shardstage::port::transport::{ClusterConfig, NodeInfo};
use shardstage::prelude::*;
use shardstage::sim::SimWorld;
use shardstage::{EngineBuilder, NodeId};
use shardstage_quic::{Quic, QuicConfig};

/// One virtual second.
pub const SECOND: u64 = 1_000_000_000;

/// Node `a`.
pub const A: NodeId = NodeId::new(0);
/// Node `b`.
pub const B: NodeId = NodeId::new(1);

/// Adds up what it is sent.
#[derive(Default, Debug)]
pub struct Counter {
    total: u64,
}

impl Actor for Counter {}

impl VirtualActor for Counter {
    const TYPE: &'static str = "test.counter";

    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

/// Adds `amount`; answers the total.
#[message(id = "test.add", reply = u64)]
#[derive(Debug, Clone, PartialEq)]
pub struct Add {
    /// How much.
    pub amount: u64,
}

impl Handler<Add> for Counter {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> u64 {
        self.total += add.amount;
        self.total
    }
}

/// Brings bytes; answers how many.
#[message(id = "test.blob", reply = u64)]
#[derive(Debug, Clone, PartialEq)]
pub struct Blob {
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Handler<Blob> for Counter {
    fn handle(&mut self, blob: Blob, _cx: &mut Context<Self>) -> u64 {
        blob.bytes.len() as u64
    }
}

/// The node list as node `me` sees it: two nodes of two shards.
#[must_use]
pub fn cluster(name: &str, me: NodeId) -> ClusterConfig {
    let node = |id: NodeId, name: &str| NodeInfo {
        id,
        name: name.to_owned(),
        address: (SimWorld::node_ip(id), 9000).into(),
        shards: 2,
    };
    ClusterConfig { name: name.to_owned(), me, nodes: vec![node(A, "a"), node(B, "b")] }
}

/// The QUIC settings of a node that shows the certificate in `file` and trusts the authority in `authority`.
///
/// # Panics
/// When a fixed certificate cannot be read.
#[must_use]
pub fn quic(authority: &str, file: &str) -> QuicConfig {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../transport-quic/tests/certs");
    let read = |name: &str| std::fs::read(directory.join(format!("{name}.pem"))).expect("a fixed certificate");
    let own = read(file);
    QuicConfig::from_pem(&read(authority), &own, &own).expect("fixed certificates are sound")
}

/// A node's engine, not started.
#[must_use]
pub fn describe(cluster_name: &str, me: NodeId, quic: QuicConfig) -> EngineBuilder {
    Engine::builder()
        .register::<Counter>(|counter| counter.accept::<Add, _>().accept::<Blob, _>())
        .cluster(cluster(cluster_name, me))
        .transport(Quic::new(quic))
}

/// Starts node `me` in the world with its proper certificate.
///
/// # Panics
/// When the description is wrong.
#[must_use]
pub fn start(world: &SimWorld, me: NodeId) -> Engine {
    let file = if me == A { "a" } else { "b" };
    describe("sim", me, quic("ca", file)).start_in_sim(world, me).expect("a sound description")
}

/// Starts both nodes and runs the world until both have all sessions.
///
/// # Panics
/// When the nodes do not meet within 10 virtual seconds.
#[must_use]
pub fn start_both(world: &SimWorld) -> [Engine; 2] {
    let nodes = [start(world, A), start(world, B)];
    let met = world.run_until(|_| nodes[0].peer(B).sessions == 2 && nodes[1].peer(A).sessions == 2, 10 * SECOND);
    assert!(met, "a sees {:?}, b sees {:?}", nodes[0].peer(B), nodes[1].peer(A));
    nodes
}

/// A key whose counter lives on `node`.
///
/// # Panics
/// Never: half of all keys live on either node.
#[must_use]
pub fn key_on(engine: &Engine, node: NodeId) -> String {
    (0..)
        .map(|number| format!("key-{number}"))
        .find(|key| u32::from(engine.actor::<Counter>(key.as_str()).slot().group().get()) % 2 == node.get())
        .expect("half of all keys live on either node")
}
