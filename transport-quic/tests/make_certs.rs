//! Makes the fixed certificates in `tests/certs`. They are in the repository so that simulated runs are the same
//! everywhere; run `cargo test -p shardstage-quic --test make_certs -- --ignored` only to replace them all.

#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

fn authority(name: &str) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(2199, 12, 31);
    fs::write(directory().join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

fn leaf(issuer: &Issuer<'static, KeyPair>, file: &str, uri: &str, last_year: i32) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, file);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
    let pem = params.signed_by(&key, issuer).unwrap().pem() + &key.serialize_pem();
    fs::write(directory().join(format!("{file}.pem")), pem).unwrap();
}

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certs"))
}

#[test]
#[ignore = "replaces the fixed certificates"]
fn make() {
    let ca = authority("ca");
    for node in ["a", "b", "c"] {
        leaf(&ca, node, &format!("actor://sim/node/{node}"), 2199);
    }
    leaf(&ca, "mallory", "actor://sim/node/mallory", 2199);
    leaf(&ca, "b-of-other-cluster", "actor://other/node/b", 2199);
    leaf(&ca, "a-of-other-cluster", "actor://other/node/a", 2199);
    leaf(&ca, "a-expired", "actor://sim/node/a", 2001);
    leaf(&ca, "b-expired", "actor://sim/node/b", 2001);
    let other = authority("ca-of-others");
    leaf(&other, "a-by-others", "actor://sim/node/a", 2199);
    leaf(&other, "b-by-others", "actor://sim/node/b", 2199);
}
