//! The greeting: what two nodes tell each other before the first message, so that a difference is reported
//! by name instead of met as damaged bytes.
//!
//! Invariant: [`Schemas`] only ever walks bytes that [`Hello::decode`] has checked to their end. Pure functions,
//! callable from any thread. All integers are little endian.
//!
//! ```text
//! offset  size
//!      0     2  protocol_version
//!      2     2  placement_hash_version
//!      4     4  node
//!      8     8  cluster                 hash of the cluster's name
//!     16     8  incarnation             of the node: differs after each start
//!     24     2  shard                   the shard that speaks
//!     26     2  shard_count             of the node
//!     28     2  slot_count
//!     30     2  schema_count
//!     32        schema_count times:
//!      0     8    message_id
//!      8     8    fingerprint
//!     16     2    version
//!     18     2    name_len
//!     20          name, UTF-8
//! ```

use core::fmt;

use crate::{
    frame::{FrameHeader, FrameKind, append_frame_with},
    ids::{FNV_BASIS, MessageId, NodeId, ShardId, fnv1a},
    limits::{NAME_BYTES_MAX, PLACEMENT_HASH_VERSION, PROTOCOL_VERSION, SCHEMA_COUNT_MAX, SLOT_COUNT},
    wire::{AlignedBytes, EncodeError, Wire},
};

/// Bytes of a greeting before its schemas.
pub const HELLO_FIXED_BYTES: usize = 32;

/// Bytes of a schema before its name.
pub const SCHEMA_FIXED_BYTES: usize = 20;

/// Who speaks, and by which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the node-to-node protocol.
    pub protocol_version: u16,
    /// Version of [`slot_of`](crate::slot_of).
    pub placement_hash_version: u16,
    /// The node that speaks.
    pub node: NodeId,
    /// Hash of the cluster's name.
    pub cluster: u64,
    /// Differs after each start of the node, so that a peer sees a restart that it slept through.
    pub incarnation: u64,
    /// The shard that speaks.
    pub shard: ShardId,
    /// Shards of the node.
    pub shard_count: u16,
    /// Slots of the cluster.
    pub slot_count: u16,
}

impl Hello {
    /// The greeting of a shard that follows this crate's rules.
    #[must_use]
    pub const fn new(cluster_name: &str, node: NodeId, incarnation: u64, shard: ShardId, shard_count: u16) -> Self {
        Self {
            protocol_version: PROTOCOL_VERSION,
            placement_hash_version: PLACEMENT_HASH_VERSION,
            node,
            cluster: fnv1a(FNV_BASIS, cluster_name.as_bytes()),
            incarnation,
            shard,
            shard_count,
            slot_count: SLOT_COUNT,
        }
    }

    /// Appends the greeting as one whole frame and returns its padded length.
    ///
    /// # Errors
    ///
    /// Never for names that [`Schema::of`] made; `out` is as it was otherwise.
    ///
    /// # Panics
    ///
    /// If there are more than [`SCHEMA_COUNT_MAX`] schemas or a name longer than [`NAME_BYTES_MAX`]: the caller
    /// registers neither.
    pub fn append_frame(&self, schemas: &[Schema<'_>], out: &mut AlignedBytes) -> Result<usize, EncodeError> {
        append_frame_with(out, FrameHeader::new(FrameKind::Hello), "", |out| Ok(self.encode(schemas, out)))
    }

    /// Appends the greeting's payload and returns its length.
    ///
    /// # Panics
    ///
    /// As [`append_frame`](Self::append_frame).
    pub fn encode(&self, schemas: &[Schema<'_>], out: &mut AlignedBytes) -> usize {
        assert!(schemas.len() <= SCHEMA_COUNT_MAX, "a node registers at most {SCHEMA_COUNT_MAX} wire types");
        let start = out.len();
        out.extend_from_slice(&self.protocol_version.to_le_bytes());
        out.extend_from_slice(&self.placement_hash_version.to_le_bytes());
        out.extend_from_slice(&self.node.get().to_le_bytes());
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.shard.get().to_le_bytes());
        out.extend_from_slice(&self.shard_count.to_le_bytes());
        out.extend_from_slice(&self.slot_count.to_le_bytes());
        out.extend_from_slice(&(schemas.len() as u16).to_le_bytes());
        for schema in schemas {
            assert!(schema.name.len() <= NAME_BYTES_MAX, "a wire name has at most {NAME_BYTES_MAX} bytes");
            out.extend_from_slice(&schema.id.get().to_le_bytes());
            out.extend_from_slice(&schema.fingerprint.to_le_bytes());
            out.extend_from_slice(&schema.version.to_le_bytes());
            out.extend_from_slice(&(schema.name.len() as u16).to_le_bytes());
            out.extend_from_slice(schema.name.as_bytes());
        }
        out.len() - start
    }

    /// Reads and checks a greeting's payload to its last byte.
    ///
    /// Any alignment will do. No allocation: the schemas are a view of `bytes`.
    ///
    /// # Errors
    ///
    /// See [`HelloError`]: the peer speaks something else; close the connection.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Schemas<'_>), HelloError> {
        let mut rest = bytes;
        let hello = Self {
            protocol_version: u16::from_le_bytes(take(&mut rest, "the greeting")?),
            placement_hash_version: u16::from_le_bytes(take(&mut rest, "the greeting")?),
            node: NodeId::new(u32::from_le_bytes(take(&mut rest, "the greeting")?)),
            cluster: u64::from_le_bytes(take(&mut rest, "the greeting")?),
            incarnation: u64::from_le_bytes(take(&mut rest, "the greeting")?),
            shard: ShardId::new(u16::from_le_bytes(take(&mut rest, "the greeting")?)),
            shard_count: u16::from_le_bytes(take(&mut rest, "the greeting")?),
            slot_count: u16::from_le_bytes(take(&mut rest, "the greeting")?),
        };
        let count = u16::from_le_bytes(take(&mut rest, "the greeting")?);
        if usize::from(count) > SCHEMA_COUNT_MAX {
            return Err(HelloError::TooManySchemas { count });
        }
        let schemas = Schemas { rest, left: count };
        for _ in 0..count {
            take_schema(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(HelloError::Trailing { len: rest.len() });
        }
        Ok((hello, schemas))
    }

    /// Whether a node that speaks so may talk to `peer`.
    ///
    /// # Errors
    ///
    /// The first rule on which the two differ. Schemas are compared one by one: [`Schema::compare`].
    pub fn accept(&self, peer: &Self) -> Result<(), HelloRefusal> {
        let numbers = [
            ("protocol version", self.protocol_version, peer.protocol_version),
            ("placement hash version", self.placement_hash_version, peer.placement_hash_version),
            ("slot count", self.slot_count, peer.slot_count),
        ];
        for (what, own, theirs) in numbers {
            if own != theirs {
                return Err(HelloRefusal::Differs { what, own, theirs });
            }
        }
        if self.cluster != peer.cluster {
            return Err(HelloRefusal::OtherCluster);
        }
        if peer.shard.get() >= peer.shard_count {
            return Err(HelloRefusal::NoSuchShard { shard: peer.shard, shard_count: peer.shard_count });
        }
        Ok(())
    }
}

/// One wire type as a peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema<'n> {
    /// The hash of `name`.
    pub id: MessageId,
    /// Which version of the name.
    pub version: u16,
    /// Hash over the structure.
    pub fingerprint: u64,
    /// The name.
    pub name: &'n str,
}

impl Schema<'static> {
    /// The schema of `T`.
    #[must_use]
    pub const fn of<T: Wire>() -> Self {
        const { crate::wire::assert_named::<T>() };
        Self { id: T::ID, version: T::VERSION, fingerprint: T::FINGERPRINT, name: T::NAME }
    }
}

impl Schema<'_> {
    /// Whether a node with this schema can exchange messages with one that has `theirs`.
    ///
    /// Types of other names, and other versions of this name, have nothing to disagree about.
    ///
    /// # Errors
    ///
    /// [`Disagreement`], which names the message: the same name and version with another structure, or two
    /// names with the same id.
    pub fn compare(&self, theirs: &Schema<'_>) -> Result<(), Disagreement> {
        if self.id != theirs.id {
            return Ok(());
        }
        if self.name != theirs.name {
            return Err(Disagreement::SameId { own: self.name.into(), theirs: theirs.name.into() });
        }
        if self.version == theirs.version && self.fingerprint != theirs.fingerprint {
            return Err(Disagreement::Structure { name: self.name.into(), version: self.version });
        }
        Ok(())
    }
}

/// The schemas in a greeting, in the order the peer wrote them.
#[derive(Clone, Debug)]
pub struct Schemas<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for Schemas<'a> {
    type Item = Schema<'a>;

    fn next(&mut self) -> Option<Schema<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(take_schema(&mut self.rest).expect("a greeting's schemas are checked when it is decoded"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Schemas<'_> {}

fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], HelloError> {
    let (head, tail) = rest.split_first_chunk().ok_or(HelloError::Short { what })?;
    *rest = tail;
    Ok(*head)
}

fn take_schema<'a>(rest: &mut &'a [u8]) -> Result<Schema<'a>, HelloError> {
    let id = MessageId::new(u64::from_le_bytes(take(rest, "a schema")?));
    let fingerprint = u64::from_le_bytes(take(rest, "a schema")?);
    let version = u16::from_le_bytes(take(rest, "a schema")?);
    let name_len = u16::from_le_bytes(take(rest, "a schema")?);
    if usize::from(name_len) > NAME_BYTES_MAX {
        return Err(HelloError::NameTooLong { name_len });
    }
    let (name, tail) = rest.split_at_checked(name_len.into()).ok_or(HelloError::Short { what: "a schema's name" })?;
    *rest = tail;
    let name = core::str::from_utf8(name).map_err(|_| HelloError::NameText)?;
    if id != MessageId::of(name) {
        return Err(HelloError::NotItsName { id });
    }
    Ok(Schema { id, version, fingerprint, name })
}

/// Why bytes are no greeting. Nothing was taken from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloError {
    /// The bytes end too early.
    Short {
        /// In which part.
        what: &'static str,
    },
    /// More schemas than [`SCHEMA_COUNT_MAX`].
    TooManySchemas {
        /// How many.
        count: u16,
    },
    /// A name longer than [`NAME_BYTES_MAX`].
    NameTooLong {
        /// Bytes of the name.
        name_len: u16,
    },
    /// A name that is no UTF-8.
    NameText,
    /// An id that is not the hash of the name beside it.
    NotItsName {
        /// The id.
        id: MessageId,
    },
    /// Bytes after the last schema.
    Trailing {
        /// How many.
        len: usize,
    },
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { what } => write!(f, "the bytes end within {what}"),
            Self::TooManySchemas { count } => {
                write!(f, "{count} schemas, more than {SCHEMA_COUNT_MAX}")
            }
            Self::NameTooLong { name_len } => {
                write!(f, "a message name of {name_len} bytes, more than {NAME_BYTES_MAX}")
            }
            Self::NameText => write!(f, "a message name that is not UTF-8"),
            Self::NotItsName { id } => write!(f, "message id {id} is not the hash of its name"),
            Self::Trailing { len } => write!(f, "{len} bytes after the greeting"),
        }
    }
}

impl core::error::Error for HelloError {}

/// Why two nodes that understand each other's greeting must not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// A rule that must be the same everywhere.
    Differs {
        /// Which.
        what: &'static str,
        /// This node's.
        own: u16,
        /// The peer's.
        theirs: u16,
    },
    /// The peer belongs to another cluster.
    OtherCluster,
    /// The peer speaks for a shard that it does not have.
    NoSuchShard {
        /// The shard.
        shard: ShardId,
        /// How many the peer has.
        shard_count: u16,
    },
}

impl fmt::Display for HelloRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs { what, own, theirs } => {
                write!(f, "{what} {theirs} where this node has {own}")
            }
            Self::OtherCluster => write!(f, "the peer belongs to another cluster"),
            Self::NoSuchShard { shard, shard_count } => {
                write!(f, "the peer speaks for shard {shard} of {shard_count}")
            }
        }
    }
}

impl core::error::Error for HelloRefusal {}

/// Two nodes mean different things by one message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disagreement {
    /// The same name and version, another structure: raise the version of the one that changed.
    Structure {
        /// The message's name.
        name: String,
        /// The version that both claim.
        version: u16,
    },
    /// Two names with the same id: rename one.
    SameId {
        /// This node's message.
        own: String,
        /// The peer's message.
        theirs: String,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Structure { name, version } => {
                write!(f, "message \"{name}\" version {version} has another structure at the peer; raise its version")
            }
            Self::SameId { own, theirs } => {
                write!(f, "message \"{own}\" and the peer's \"{theirs}\" have the same id; rename one")
            }
        }
    }
}

impl core::error::Error for Disagreement {}
