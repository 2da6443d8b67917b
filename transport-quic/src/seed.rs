//! Keys, seeds and connection ids for one endpoint, all drawn from the driver.
//!
//! Invariant: two endpoints that start with the same driver seed behave the same. The stateless reset key is the
//! exception: it comes from the node's private key, so that a node which was killed and started again can tell its peers
//! at once that their sessions are gone, instead of leaving them to the idle timeout. Used on the shard's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::{hkdf, hmac};
use shardstage::port::driver::Driver;
use shardstage_codec::ShardId;

use crate::limits::CONNECTION_ID_BYTES;

/// 32 bytes from the driver.
pub(crate) fn random_32(driver: &mut dyn Driver) -> [u8; 32] {
    let mut bytes = [0; 32];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&driver.random_u64().to_le_bytes());
    }
    bytes
}

/// The key of stateless resets: the same for every life of this node's shard.
pub(crate) fn reset_key(private_key: &[u8], shard: ShardId) -> Arc<hmac::Key> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, private_key);
    let mut label = *b"shardstage stateless reset \0\0";
    label[27..].copy_from_slice(&shard.get().to_le_bytes());
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, &label).as_ref()))
}

/// The key of address tokens.
pub(crate) fn token_key(driver: &mut dyn Driver) -> Arc<hkdf::Prk> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&random_32(driver)))
}

/// Unpredictable connection ids from a key and a counter.
pub(crate) struct ConnectionIds {
    key: hmac::Key,
    next: AtomicU64,
}

impl ConnectionIds {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), next: AtomicU64::new(0) }
    }

    /// The next id. The counter has one user, the shard's thread: relaxed order is enough.
    pub(crate) fn next_id(&self) -> ConnectionId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = hmac::sign(&self.key, &number.to_le_bytes());
        ConnectionId::new(&tag.as_ref()[..CONNECTION_ID_BYTES])
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.next_id()
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
