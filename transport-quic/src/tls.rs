//! TLS 1.3 with certificates on both sides, as the cluster demands it.
//!
//! Invariant: a handshake completes only between two certificates of one cluster's authority whose names stand in the
//! node list; resumption, early data and older versions are off. Built once per transport; the verifiers run inside the
//! handshake on the shard's thread.

use std::fmt;
use std::io;
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shardstage::port::transport::{ClusterConfig, NodeInfo};

use crate::certs::Identity;
use crate::clock::WallClock;
use crate::identity::{self, NodeIdentity};
use crate::limits::ALPN;

/// The cluster's rules for certificates.
#[derive(Debug)]
struct Rules {
    cluster: String,
    /// Names that may connect to us: every node but this one.
    others: Vec<String>,
}

impl Rules {
    /// Whether the names in a certificate that its authority vouches for are welcome; `expected` where we dialled.
    fn check(&self, certificate: &CertificateDer<'_>, expected: Option<&str>) -> Result<(), Error> {
        let found = identity::of_certificate(certificate).map_err(refused)?;
        if found.cluster != self.cluster {
            return Err(refused(format!("it speaks for {found}, this is cluster '{}'", self.cluster)));
        }
        match expected {
            Some(name) if found.node != name => {
                Err(refused(format!("it speaks for {found}, but node '{name}' was dialled")))
            }
            None if !self.others.contains(&found.node) => {
                Err(refused(format!("it speaks for {found}, which is not in the node list")))
            }
            _ => Ok(()),
        }
    }
}

/// A refusal in our own words; TLS carries it as `certificate_unknown`.
struct Refusal(String);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refused(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(why)))))
}

/// The chain verifier's refusals in words that stay the same from attempt to attempt.
fn in_words(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            refused("it is expired".to_owned())
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            refused("it is not valid yet".to_owned())
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            refused("it was not issued by an authority of this cluster".to_owned())
        }
        other => other,
    }
}

fn only_tls13<T>() -> Result<T, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
}

/// Checks the certificate of a node that we dialled.
#[derive(Debug)]
struct DialledVerifier {
    rules: Arc<Rules>,
    expected: String,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for DialledVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
            .map_err(in_words)?;
        self.rules.check(end_entity, Some(&self.expected))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks the certificate of a node that dialled us.
#[derive(Debug)]
struct AcceptedVerifier {
    rules: Arc<Rules>,
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AcceptedVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now).map_err(in_words)?;
        self.rules.check(end_entity, None)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Makes the TLS configurations of one transport.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    clock: Arc<WallClock>,
    rules: Arc<Rules>,
    roots: Arc<RootCertStore>,
    identity: Identity,
}

impl Tls {
    /// Checks that this node's certificate names this node; everything else shows in a handshake.
    pub(crate) fn new(identity: Identity, cluster: &ClusterConfig, clock: Arc<WallClock>) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let me = cluster.nodes.iter().find(|node| node.id == cluster.me);
        let me = me.ok_or_else(|| invalid(format!("node id {} is not in the node list", cluster.me)))?;
        let wanted = NodeIdentity::new(&cluster.name, &me.name);
        let found = identity::of_certificate(&identity.chain[0])
            .map_err(|why| invalid(format!("this node's certificate: {why}")))?;
        if found != wanted {
            return Err(invalid(format!("this node's certificate speaks for {found}, but this is {wanted}")));
        }
        let mut roots = RootCertStore::empty();
        for authority in &identity.authorities {
            roots.add(authority.clone()).map_err(|e| invalid(format!("cluster authority certificate: {e}")))?;
        }
        let others = cluster.nodes.iter().filter(|node| node.id != cluster.me).map(|node| node.name.clone()).collect();
        Ok(Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            clock,
            rules: Arc::new(Rules { cluster: cluster.name.clone(), others }),
            roots: Arc::new(roots),
            identity,
        })
    }

    /// The configuration for accepting.
    pub(crate) fn server(&self) -> io::Result<Arc<QuicServerConfig>> {
        let chain = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(io::Error::other)?;
        let verifier = Arc::new(AcceptedVerifier { rules: self.rules.clone(), chain });
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.identity.chain.clone(), self.identity.key.clone_key())
            .map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("this node's certificate and key: {e}"))
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(QuicServerConfig::try_from(config).map_err(io::Error::other)?))
    }

    /// The configuration for dialling one node.
    pub(crate) fn client(&self, peer: &NodeInfo) -> io::Result<Arc<QuicClientConfig>> {
        let verifier = Arc::new(DialledVerifier {
            rules: self.rules.clone(),
            expected: peer.name.clone(),
            roots: self.roots.clone(),
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.identity.chain.clone(), self.identity.key.clone_key())
            .map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("this node's certificate and key: {e}"))
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(Arc::new(QuicClientConfig::try_from(config).map_err(io::Error::other)?))
    }
}
