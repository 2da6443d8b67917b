//! `NodeFile`: whose log this is. Written once, when the log is made; its appearance ends the making.
//!
//! ```text
//!  0 u64 magic "SSNODE01"   8 u32 crc of bytes 12..64   12 u32 format_version
//! 16 u64 log_id            24 u32 features (unknown bits: refuse)
//! 28 u32 node              32 u16 shard                 34 u16 shard_count
//! 36 u16 groups            38 zeros up to 64
//! ```
//!
//! Invariant: a log whose `NODE` file does not match the seat that opens it is never read or written.

use super::{FORMAT_VERSION, put, u16_at, u32_at, u64_at};
use crate::format::checksum::crc32c;

const MAGIC: u64 = u64::from_le_bytes(*b"SSNODE01");
/// Bytes of the encoded file.
pub const NODE_BYTES: usize = 64;

/// The file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// Random identity of the log.
    pub log_id: u64,
    /// The node it was made on.
    pub node: u32,
    /// The shard it belongs to.
    pub shard: u16,
    /// How many shards the node had: entities are spread over them.
    pub shard_count: u16,
    /// Slot groups of the cluster.
    pub groups: u16,
}

/// Why bytes are no `NODE` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFileError {
    /// Magic or checksum is wrong.
    Damaged,
    /// Another format version, or unknown features.
    Version(u32),
}

impl NodeFile {
    /// Writes the file's content to `bytes[..64]`.
    ///
    /// # Panics
    /// When `bytes` is shorter.
    pub fn encode(&self, bytes: &mut [u8]) {
        let bytes = &mut bytes[..NODE_BYTES];
        bytes.fill(0);
        put(bytes, 0, &MAGIC.to_le_bytes());
        put(bytes, 12, &FORMAT_VERSION.to_le_bytes());
        put(bytes, 16, &self.log_id.to_le_bytes());
        put(bytes, 28, &self.node.to_le_bytes());
        put(bytes, 32, &self.shard.to_le_bytes());
        put(bytes, 34, &self.shard_count.to_le_bytes());
        put(bytes, 36, &self.groups.to_le_bytes());
        let crc = crc32c(&bytes[12..]);
        put(bytes, 8, &crc.to_le_bytes());
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// See [`NodeFileError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeFileError> {
        if bytes.len() < NODE_BYTES || u64_at(bytes, 0) != MAGIC || crc32c(&bytes[12..NODE_BYTES]) != u32_at(bytes, 8) {
            return Err(NodeFileError::Damaged);
        }
        let version = u32_at(bytes, 12);
        if version != FORMAT_VERSION || u32_at(bytes, 24) != 0 {
            return Err(NodeFileError::Version(version));
        }
        Ok(Self {
            log_id: u64_at(bytes, 16),
            node: u32_at(bytes, 28),
            shard: u16_at(bytes, 32),
            shard_count: u16_at(bytes, 34),
            groups: u16_at(bytes, 36),
        })
    }
}
