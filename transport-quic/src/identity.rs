//! Who a certificate speaks for: the URI `actor://<cluster>/node/<name>` in its subject alternative names.
//!
//! Invariant: exactly one such URI counts; the common name, DNS names and wildcards never do. Pure functions, any thread.

use std::fmt;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A node's name within a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
}

impl NodeIdentity {
    /// The identity of a node in a cluster.
    #[must_use]
    pub fn new(cluster: &str, node: &str) -> Self {
        Self { cluster: cluster.to_owned(), node: node.to_owned() }
    }

    /// The URI that stands in certificates.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("actor://{}/node/{}", self.cluster, self.node)
    }

    fn parse(uri: &str) -> Option<Self> {
        let (cluster, rest) = uri.strip_prefix("actor://")?.split_once('/')?;
        let node = rest.strip_prefix("node/")?;
        let fine = |name: &str| check_name(name).is_ok();
        (fine(cluster) && fine(node)).then(|| Self::new(cluster, node))
    }
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node '{}' of cluster '{}'", self.node, self.cluster)
    }
}

/// Whether a name may stand in an identity: 1 to 63 of `a-z A-Z 0-9 - _ .`.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) || name.starts_with('.') {
        return Err(format!(
            "'{}' is no name for a cluster or node: use 1 to 63 letters, digits, '-', '_', '.'",
            name.escape_default()
        ));
    }
    Ok(())
}

/// Whom a certificate speaks for.
///
/// # Errors
/// Why it speaks for nobody.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<NodeIdentity, String> {
    let certificate = parse(certificate)?;
    let names =
        certificate.subject_alternative_name().map_err(|e| format!("unreadable subject alternative names: {e}"))?;
    let mut found = None;
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        let GeneralName::URI(uri) = name else { continue };
        let Some(identity) = NodeIdentity::parse(uri) else { continue };
        if found.replace(identity).is_some() {
            return Err("it names more than one node".to_owned());
        }
    }
    found.ok_or_else(|| "it has no 'actor://<cluster>/node/<name>' among its subject alternative names".to_owned())
}

/// The second since the Unix epoch after which a certificate is no longer valid.
pub(crate) fn not_after_unix_s(certificate: &CertificateDer<'_>) -> Result<u64, String> {
    Ok(u64::try_from(parse(certificate)?.validity().not_after.timestamp()).unwrap_or(0))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| format!("it is no certificate: {e}"))?;
    Ok(certificate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trips_and_others_are_refused() {
        let identity = NodeIdentity::new("prod", "n-1");
        assert_eq!(NodeIdentity::parse(&identity.uri()), Some(identity));
        for uri in [
            "actor://prod/node/",
            "actor:///node/a",
            "actor://prod/client/a",
            "http://prod/node/a",
            "actor://prod/node/a/b",
            "actor://pr%20d/node/a",
        ] {
            assert_eq!(NodeIdentity::parse(uri), None, "{uri}");
        }
    }
}
