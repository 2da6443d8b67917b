//! Certificates and keys: read from PEM files, or made on first run for development.
//!
//! Invariant: private keys are written with mode 0600 into files that appear whole or not at all, so two processes that
//! start at once agree on one authority. Called before the engine starts, on any thread; file calls block.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::{self, NodeIdentity};

/// What a node proves itself with, and whom it trusts.
#[derive(Clone)]
pub struct Identity {
    /// The cluster's certificate authorities; two during a rotation.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// This node's certificate, then intermediates.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate in the chain.
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    /// Reads an identity from PEM text: the authorities, this node's certificate chain, its private key.
    ///
    /// # Errors
    /// Which of the three is unreadable, and why.
    pub fn from_pem(authorities: &[u8], chain: &[u8], key: &[u8]) -> Result<Self, CertError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| CertError::new("private key", e))?;
        Ok(Self {
            authorities: certificates(authorities, "authority certificates")?,
            chain: certificates(chain, "node certificate")?,
            key: Arc::new(key),
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} authorities, {} certificates)", self.authorities.len(), self.chain.len())
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let list: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| CertError::new(what, e))?;
    if list.is_empty() { Err(CertError::new(what, "no certificate in it")) } else { Ok(list) }
}

/// Why certificates could not be read or made. Nothing half-written is left behind.
#[derive(Debug)]
pub struct CertError {
    subject: String,
    reason: String,
}

impl CertError {
    fn new(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string() }
    }

    fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::new(path.display(), reason)
    }
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

impl std::error::Error for CertError {}

impl From<CertError> for io::Error {
    fn from(error: CertError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Development certificates in one directory: `<cluster>-ca.pem` (authority and its key) and `<cluster>-<node>.pem`.
///
/// They never expire and the authority's key lies beside them, so they are for development only.
#[derive(Debug)]
pub struct DevCerts;

impl DevCerts {
    /// Loads the identity of one node, making the authority and the certificate first where they are missing.
    ///
    /// # Errors
    /// The file at fault and why: not writable, not readable, or issued by an authority that is no longer there.
    pub fn load_or_create(dir: &Path, cluster: &str, node: &str) -> Result<Identity, CertError> {
        identity::check_name(cluster).map_err(|why| CertError::new("cluster name", why))?;
        identity::check_name(node).map_err(|why| CertError::new("node name", why))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| CertError::file(dir, e))?;

        let ca_path = dir.join(format!("{cluster}-ca.pem"));
        let ca_pem = read_or_publish(&ca_path, || make_authority(cluster))?;
        let ca_certificate = certificates(&ca_pem, "certificate").map_err(|e| CertError::file(&ca_path, e))?;

        let node_path = dir.join(format!("{cluster}-{node}.pem"));
        let node_pem = read_or_publish(&node_path, || {
            make_node(cluster, node, &ca_pem).map_err(|e| CertError::file(&ca_path, e))
        })?;
        let identity = Identity::from_pem(&ca_pem, &node_pem, &node_pem).map_err(|e| CertError::file(&node_path, e))?;
        check(&identity, &ca_certificate[0], &NodeIdentity::new(cluster, node))
            .map_err(|why| CertError::file(&node_path, why))?;
        Ok(identity)
    }
}

/// The parameters of a cluster's authority: a pure function, so that an issuer can be rebuilt from the key alone.
fn authority_params(cluster: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{cluster} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(2099, 12, 31);
}

fn make_authority(cluster: &str) -> Result<Vec<u8>, CertError> {
    let make = || -> Result<String, rcgen::Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        Ok(authority_params(cluster)?.self_signed(&key)?.pem() + &key.serialize_pem())
    };
    make().map(String::into_bytes).map_err(|e| CertError::new("making the authority", e))
}

fn make_node(cluster: &str, node: &str, ca_pem: &[u8]) -> Result<Vec<u8>, CertError> {
    let ca_key = PrivateKeyDer::from_pem_slice(ca_pem).map_err(|e| CertError::new("authority key", e))?;
    let make = || -> Result<String, rcgen::Error> {
        let ca_params = authority_params(cluster)?;
        let ca_key = KeyPair::from_der_and_sign_algo(&ca_key, &rcgen::PKCS_ED25519)?;
        let issuer = Issuer::from_params(&ca_params, ca_key);
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{cluster} {node}"));
        params.subject_alt_names = vec![SanType::URI(NodeIdentity::new(cluster, node).uri().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params);
        Ok(params.signed_by(&key, &issuer)?.pem() + &key.serialize_pem())
    };
    make().map(String::into_bytes).map_err(|e| CertError::new("making the node certificate", e))
}

/// Whether the certificate names this node and its authority is the one beside it.
fn check(identity: &Identity, authority: &CertificateDer<'static>, wanted: &NodeIdentity) -> Result<(), String> {
    let found = identity::of_certificate(&identity.chain[0])?;
    if found != *wanted {
        return Err(format!("speaks for {found}, not for {wanted}"));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.clone()).map_err(|e| e.to_string())?;
    let parsed = rustls::server::ParsedCertificate::try_from(&identity.chain[0]).map_err(|e| e.to_string())?;
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let any_time = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000));
    rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], any_time, algorithms)
        .map_err(|e| format!("was not issued by the authority beside it ({e}); remove the file to have it made anew"))
}

/// Reads `path`; where it is missing, publishes what `make` returns, or reads what another process published first.
fn read_or_publish(path: &Path, make: impl FnOnce() -> Result<Vec<u8>, CertError>) -> Result<Vec<u8>, CertError> {
    let failed = |e: io::Error| CertError::file(path, e);
    match fs::read(path) {
        Ok(bytes) => return Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let bytes = make()?;
    let draft = Draft::write(path, &bytes).map_err(failed)?;
    match fs::hard_link(&draft.path, path) {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs::read(path).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}

/// A complete file under a name of its own, removed when dropped; a hard link publishes it under the real name.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        /// Tells drafts of one process apart; nothing else is ordered by it.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let suffix = format!("draft-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let draft = Self { path: target.with_extension(suffix) };
        let _ = fs::remove_file(&draft.path);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_once_then_loaded_with_private_files() {
        let dir = tempfile::tempdir().unwrap();
        let first = DevCerts::load_or_create(dir.path(), "dev", "a").unwrap();
        let again = DevCerts::load_or_create(dir.path(), "dev", "a").unwrap();
        assert_eq!(first.chain, again.chain);
        assert_eq!(first.authorities, again.authorities);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, ["dev-a.pem", "dev-ca.pem"]);
    }

    #[test]
    fn many_starting_at_once_agree_on_one_authority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let identities: Vec<Identity> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|i| scope.spawn(move || DevCerts::load_or_create(path, "dev", &format!("n{}", i % 4)).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for identity in &identities {
            assert_eq!(identity.authorities, identities[0].authorities);
        }
        assert_eq!(identities[0].chain, identities[4].chain);
    }

    #[test]
    fn a_certificate_of_another_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        DevCerts::load_or_create(dir.path(), "dev", "a").unwrap();
        fs::remove_file(dir.path().join("dev-ca.pem")).unwrap();
        let error = DevCerts::load_or_create(dir.path(), "dev", "a").unwrap_err().to_string();
        assert!(error.contains("dev-a.pem") && error.contains("not issued by the authority"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dev-ca.pem"), "nonsense").unwrap();
        let error = DevCerts::load_or_create(dir.path(), "dev", "a").unwrap_err().to_string();
        assert!(error.contains("dev-ca.pem"), "{error}");
    }
}
