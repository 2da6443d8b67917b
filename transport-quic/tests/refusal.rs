//! Who is not let in, and what both sides are told: certificates, clusters, schemas, hostile bytes.

#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shardstage::port::driver::{DatagramBatch, Driver, SocketId, Transmit};
use shardstage::port::transport::{Lane, PeerDown, SchemaLine, TransportFactory, TransportSeat};
use shardstage_codec::{MessageId, NodeId, ShardId};
use shardstage_quic::{Quic, QuicConfig};
use support::{CALM, SECOND, World, cluster, config, frame};

const NODES: [(&str, u16); 2] = [("a", 1), ("b", 1)];

fn good(node: usize) -> (QuicConfig, shardstage::port::transport::ClusterConfig) {
    (config("ca", NODES[node].0), cluster("sim", node, &NODES))
}

/// Runs a pair in which one node is not welcome and returns what each side says.
fn refused(
    bad: usize,
    bad_config: &QuicConfig,
    bad_cluster: shardstage::port::transport::ClusterConfig,
) -> [String; 2] {
    let mut world = World::new(1, CALM);
    for node in 0..2 {
        let (config, cluster) = good(node);
        if node == bad {
            world.add(bad_config, bad_cluster.clone(), 0, &[])
        } else {
            world.add(&config, cluster, 0, &[])
        };
    }
    world.run_for(30 * SECOND);
    [0, 1].map(|node: usize| {
        let shard = &world.shards[node];
        assert!(shard.ups().is_empty(), "no session may open: {:?}", shard.sink.seen);
        assert_eq!(shard.sink.frame_count, 0);
        let downs = shard.downs();
        assert_eq!(downs.len(), 1, "node {node} says it once, though it is tried again and again: {downs:?}");
        let PeerDown::CertificateRefused(why) = &downs[0] else { panic!("node {node}: {downs:?}") };
        why.clone()
    })
}

fn assert_both_say(said: &[String; 2], why: &str) {
    for (node, said) in said.iter().enumerate() {
        assert!(said.contains(why), "node {node} says: {said}");
    }
}

#[test]
fn another_authority_is_refused_by_both_sides() {
    for bad in 0..2 {
        let file = ["a-by-others", "b-by-others"][bad];
        let said = refused(bad, &config("ca-of-others", file), cluster("sim", bad, &NODES));
        assert_both_say(&said, "not issued by an authority of this cluster");
    }
}

#[test]
fn an_authority_that_only_one_side_distrusts_is_named_on_both() {
    for bad in 0..2 {
        let file = ["a-by-others", "b-by-others"][bad];
        let said = refused(bad, &config("ca", file), cluster("sim", bad, &NODES));
        assert!(
            said[bad].starts_with("the peer refused this node's")
                && said[1 - bad].starts_with("this node refused the peer's"),
            "{said:?}"
        );
        assert_both_say(&said, "not issued by an authority of this cluster");
    }
}

#[test]
fn another_cluster_is_named() {
    for bad in 0..2 {
        let file = ["a-of-other-cluster", "b-of-other-cluster"][bad];
        let said = refused(bad, &config("ca", file), cluster("other", bad, &NODES));
        assert_both_say(&said, "cluster 'other'");
    }
}

#[test]
fn a_node_that_is_not_in_the_list_is_named() {
    for bad in 0..2 {
        let mut nodes = NODES;
        nodes[bad].0 = "mallory";
        let said = refused(bad, &config("ca", "mallory"), cluster("sim", bad, &nodes));
        assert_both_say(&said, "node 'mallory' of cluster 'sim'");
    }
}

#[test]
fn an_expired_certificate_is_named() {
    for bad in 0..2 {
        let file = ["a-expired", "b-expired"][bad];
        let said = refused(bad, &config("ca", file), cluster("sim", bad, &NODES));
        assert_both_say(&said, "it is expired");
    }
}

#[test]
fn a_node_with_anothers_certificate_does_not_start() {
    let seat = TransportSeat { shard: ShardId::new(0), cluster: cluster("sim", 0, &NODES) };
    let error = Quic::new(config("ca", "b")).make(&seat).err().expect("refused").to_string();
    assert!(error.contains("node 'b'") && error.contains("node 'a'"), "{error}");
}

#[derive(Debug)]
struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client of the protocol library alone, which does not play by the cluster's rules.
struct Stranger {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    quic: Connection,
    socket: SocketId,
    base: Instant,
}

impl Stranger {
    fn dial(driver: &mut dyn Driver, from: SocketAddr, to: SocketAddr, protocol: &[u8]) -> Self {
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll))
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let base = Instant::now();
        let now = base + Duration::from_nanos(driver.now_ns());
        let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (handle, quic) = endpoint.connect(now, client, to, "shardstage").unwrap();
        let (socket, _) = driver.bind(from).unwrap();
        Self { endpoint, handle, quic, socket, base }
    }

    fn turn(&mut self, driver: &mut dyn Driver) -> Option<String> {
        let now = self.base + Duration::from_nanos(driver.now_ns());
        let mut scratch = Vec::new();
        let mut batch = DatagramBatch::new(8);
        let filled = driver.receive(self.socket, &mut batch).unwrap();
        for (meta, bytes) in batch.iter().take(filled) {
            if let Some(DatagramEvent::ConnectionEvent(_, event)) =
                self.endpoint.handle(now, meta.source, None, None, BytesMut::from(bytes), &mut scratch)
            {
                self.quic.handle_event(event);
            }
        }
        self.quic.handle_timeout(now);
        let mut lost = None;
        while let Some(event) = self.quic.poll() {
            if let Event::ConnectionLost { reason } = event {
                lost = Some(reason.to_string());
            }
        }
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(event);
            }
        }
        while let Some(transmit) = self.quic.poll_transmit(now, 1, &mut scratch) {
            let sent = Transmit {
                destination: transmit.destination,
                source: None,
                ecn: 0,
                segment_bytes: None,
                payload: &scratch[..transmit.size],
            };
            driver.send(self.socket, &sent).unwrap();
            scratch.clear();
        }
        lost
    }
}

/// What a stranger without certificate is told, and what the node says.
fn stranger(protocol: &[u8]) -> (String, Vec<PeerDown>) {
    let mut world = World::new(1, CALM);
    let (b, b_cluster) = good(1);
    world.add(&b, b_cluster.clone(), 0, &[]);
    // A second shard's driver lends the stranger its socket; the address is that of node a.
    let spare = world.add(&config("ca", "c"), cluster("sim", 2, &[("a", 1), ("b", 1), ("c", 1)]), 0, &[]);
    world.shards[spare].stalled = true;
    let (from, to) = (b_cluster.nodes[0].address, b_cluster.nodes[1].address);
    let mut stranger = Stranger::dial(&mut world.shards[spare].driver, from, to, protocol);
    let mut told = None;
    world.run_until(20 * SECOND, "an end", |world| {
        told = stranger.turn(&mut world.shards[spare].driver);
        told.is_some()
    });
    assert!(world.shards[0].ups().is_empty());
    (told.unwrap(), world.shards[0].downs())
}

#[test]
fn a_client_without_certificate_is_told_so() {
    let (told, said) = stranger(shardstage_quic::limits::ALPN);
    assert!(
        told.contains("no certificates") || told.contains("NoCertificatesPresented") || told.contains("error 116"),
        "{told}"
    );
    assert!(matches!(&said[..], [PeerDown::CertificateRefused(why)] if why.contains("certificate")), "{said:?}");
}

#[test]
fn another_protocol_is_told_so() {
    let (told, said) = stranger(b"h3");
    assert!(told.contains("120") || told.contains("application protocol"), "{told}");
    assert!(matches!(&said[..], [PeerDown::Incompatible(_)]), "{said:?}");
}

fn line(name: &'static str, version: u16, fingerprint: u64) -> SchemaLine {
    SchemaLine { id: MessageId::of(name), version, fingerprint, name }
}

#[test]
fn a_message_with_two_structures_is_named_on_both_sides() {
    let mut world = World::new(1, CALM);
    let schemas =
        [[line("bank.deposit", 1, 7), line("bank.close", 1, 1)], [line("bank.deposit", 1, 8), line("bank.open", 1, 1)]];
    for (node, schema) in schemas.iter().enumerate() {
        let (config, cluster) = good(node);
        world.add(&config, cluster, 0, schema);
    }
    world.run_for(30 * SECOND);
    for shard in &world.shards {
        assert!(shard.ups().is_empty() || shard.sink.frame_count == 0);
        let said = shard.downs();
        assert!(
            said.iter().any(
                |why| matches!(why, PeerDown::Incompatible(why) if why.contains("bank.deposit") && why.contains("node"))
            ),
            "{said:?}"
        );
    }
}

#[test]
fn other_versions_and_unknown_messages_are_no_mismatch() {
    let mut world = World::new(1, CALM);
    let schemas =
        [[line("bank.deposit", 1, 7), line("bank.close", 1, 1)], [line("bank.deposit", 2, 8), line("bank.open", 1, 1)]];
    for (node, schema) in schemas.iter().enumerate() {
        let (config, cluster) = good(node);
        world.add(&config, cluster, 0, schema);
    }
    world.connect();
    world.run_for(5 * SECOND);
    assert!(world.shards.iter().all(|shard| shard.downs().is_empty()));
}

#[test]
fn node_lists_that_differ_are_named() {
    let mut world = World::new(1, CALM);
    let (config_a, cluster_a) = good(0);
    world.add(&config_a, cluster_a, 0, &[]);
    world.add(&config("ca", "b"), cluster("sim", 1, &[("a", 1), ("b", 2)]), 0, &[]);
    world.run_for(5 * SECOND);
    let said = world.shards[0].downs();
    assert!(said.iter().any(|why| matches!(why, PeerDown::Incompatible(why) if why.contains("shards"))), "{said:?}");
}

#[test]
fn a_hostile_frame_length_ends_the_session() {
    for len in [0u32, 63, 0x7fff_fff0, u32::MAX] {
        let mut world = World::pair(1, CALM);
        world.connect();
        let mut bytes = frame(0, 64);
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        world.shards[0].send(1, Lane::User, &frame(1, 64));
        world.shards[0].send(1, Lane::User, &bytes);
        world.shards[0].send(1, Lane::User, &frame(2, 64));
        world.run_until(SECOND, "both down", |world| world.shards.iter().all(|shard| !shard.downs().is_empty()));
        assert_eq!(world.shards[1].sink.frame_count, 1, "what came before is delivered, what follows is not");
        assert_eq!(world.shards[1].sink.frames[0].0, NodeId::new(0));
        for shard in &world.shards {
            assert!(
                matches!(&shard.downs()[0], PeerDown::Failed(why) if why.contains("no frame of up to")),
                "{:?}",
                shard.downs()
            );
        }
        world.run_until(5 * SECOND, "up again", |world| world.shards.iter().all(|shard| shard.ups().len() == 2));
    }
}
