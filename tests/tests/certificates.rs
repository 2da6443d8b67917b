//! A refused certificate says why, on both sides, and no message passes.

#![forbid(unsafe_code)]

use shardstage::port::transport::PeerDown;
use shardstage::sim::{SimOptions, SimWorld};
use shardstage::{AskError, Rejected};
use shardstage_tests::sim_cluster::{A, Add, B, Counter, SECOND, describe, key_on, quic};

fn refused(cluster: &str, authority: &str, file: &str) -> [PeerDown; 2] {
    let world = SimWorld::new(SimOptions::seeded(7));
    let a = describe("sim", A, quic("ca", "a")).start_in_sim(&world, A).expect("sound");
    let b = describe(cluster, B, quic(authority, file)).start_in_sim(&world, B).expect("sound");
    let both_know = |_: &SimWorld| a.peer(B).last_down.is_some() && b.peer(A).last_down.is_some();
    assert!(world.run_until(both_know, 30 * SECOND), "a sees {:?}, b sees {:?}", a.peer(B), b.peer(A));
    assert_eq!((a.peer(B).sessions, b.peer(A).sessions), (0, 0));
    let key = key_on(&a, B);
    let answer = world.block_on(a.actor::<Counter>(key).ask(Add { amount: 1 }), 30 * SECOND).expect("refused");
    assert_eq!(answer, Err(AskError::Rejected(Rejected::Unavailable)));
    [a.peer(B), b.peer(A)].map(|peer| peer.last_down.expect("just seen"))
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    for side in refused("sim", "ca-of-others", "b-by-others") {
        assert!(matches!(&side, PeerDown::CertificateRefused(why) if !why.is_empty()), "{side}");
    }
}

#[test]
fn a_certificate_of_another_cluster_is_refused() {
    let [a, _] = refused("other", "ca", "b-of-other-cluster");
    assert!(matches!(&a, PeerDown::CertificateRefused(why) if why.contains("other")), "{a}");
}

#[test]
fn an_expired_certificate_is_refused() {
    let [a, _] = refused("sim", "ca", "b-expired");
    assert!(matches!(&a, PeerDown::CertificateRefused(why) if why.to_lowercase().contains("expired")), "{a}");
}

#[test]
fn a_node_does_not_start_with_a_certificate_that_speaks_for_another() {
    let world = SimWorld::new(SimOptions::seeded(9));
    let error = describe("sim", B, quic("ca", "a")).start_in_sim(&world, B).expect_err("it is a's certificate");
    let text = error.to_string();
    assert!(text.contains("'a'") && text.contains("'b'"), "{text}");
}
