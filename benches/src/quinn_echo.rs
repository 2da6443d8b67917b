//! The limit of a parked ask between nodes: quinn on tokio, without actors.
//!
//! Two endpoints with mutual TLS, each on a pinned thread with a runtime of its own; one stream, one message of 64 bytes in
//! flight. Both sleep whenever they have nothing to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::place::Sides;
use crate::workload::{Entry, Place, Role, Run, Work};

/// The row's entry.
pub const ENTRIES: &[Entry] =
    &[Entry { work: Work::RemoteAsk(1), name: "quinn on tokio", role: Role::Limit, run: Run::Time(echo) }];

/// Both names, for both certificates.
const NAMES: [&str; 2] = ["client", "server"];

/// As long as what the engine's nodes send: eight words.
const BYTES: usize = 64;

struct Party {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn party(name: &str) -> Party {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a certificate can be made");
    Party { chain: vec![cert.der().clone()], key: der(&signing_key) }
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// Who trusts nobody but the other party.
fn roots(other: &Party) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(other.chain[0].clone()).expect("just made");
    Arc::new(roots)
}

fn configs([client, server]: [Party; 2]) -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&client), Arc::clone(&provider));
    let verifier = verifier.build().expect("one authority");
    let client_roots = roots(&server);
    let for_server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain, server.key)
        .expect("key and certificate fit");
    let for_client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_root_certificates(client_roots)
        .with_client_auth_cert(client.chain, client.key)
        .expect("key and certificate fit");
    let quic = QuicServerConfig::try_from(for_server).expect("TLS 1.3 has the initial cipher");
    let for_server = ServerConfig::with_crypto(Arc::new(quic));
    let quic = QuicClientConfig::try_from(for_client).expect("TLS 1.3 has the initial cipher");
    (ClientConfig::new(Arc::new(quic)), for_server)
}

/// Sends back what comes, until the stream ends.
async fn serve(endpoint: Endpoint) {
    let connecting = endpoint.accept().await.expect("the client connects");
    let connection = connecting.await.expect("both prove themselves");
    let (mut send, mut receive) = connection.accept_bi().await.expect("the client opens a stream");
    let mut buffer = [0; BYTES];
    while receive.read_exact(&mut buffer).await.is_ok() {
        send.write_all(&buffer).await.expect("the client reads");
    }
    connection.closed().await;
}

async fn round_trip(send: &mut SendStream, receive: &mut RecvStream, buffer: &mut [u8; BYTES]) {
    send.write_all(buffer).await.expect("the server reads");
    receive.read_exact(buffer).await.expect("the server answers");
}

async fn ask(client: ClientConfig, server: SocketAddr, n: u64) -> Duration {
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
    endpoint.set_default_client_config(client);
    let connection = endpoint.connect(server, NAMES[1]).expect("an address").await.expect("both prove themselves");
    let (mut send, mut receive) = connection.open_bi().await.expect("the server takes a stream");
    let mut buffer = [7; BYTES];
    // The handshake's last datagrams are over when the first answer has come.
    round_trip(&mut send, &mut receive, &mut buffer).await;
    let start = Instant::now();
    for _ in 0..n {
        round_trip(&mut send, &mut receive, &mut buffer).await;
    }
    let elapsed = start.elapsed();
    connection.close(0_u32.into(), b"done");
    endpoint.wait_idle().await;
    elapsed
}

fn echo(n: u64) -> Duration {
    let (client, server) = configs(NAMES.map(party));
    let sides = Sides::start(Place::OtherShard);
    let (address, serving) = sides.server().run(async move {
        let endpoint = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).expect("loopback has a free port");
        let address = endpoint.local_addr().expect("it is bound");
        (address, tokio::spawn(serve(endpoint)))
    });
    let elapsed = sides.client().run(ask(client, address, n));
    sides.server().run(serving).expect("the server does not panic");
    elapsed
}
