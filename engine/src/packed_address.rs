//! Addresses of local actors in one word: within a shard, `CellId`; within a process, `PackedAddress`.
//!
//! Invariant: generations begin at 1, so no address is 0; the number above the last shard stands for other nodes. Plain values, any
//! thread.

use std::num::NonZero;

use shardstage_codec::NodeId;

/// An actor of this shard: index and generation in one word, because they are read as one wherever a reference is made of
/// them, and a processor cannot forward two stores to one load.
#[derive(Clone, Copy)]
pub(crate) struct CellId(u64);

impl CellId {
    #[inline(always)]
    pub(crate) fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(index) | u64::from(generation) << 32)
    }

    #[inline(always)]
    pub(crate) fn index(self) -> u32 {
        (self.0 & u64::from(u32::MAX)) as u32
    }

    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// (shard, index, generation) of a local actor in one word: 10 + 27 + 27 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackedAddress(NonZero<u64>);

pub(crate) const INDEX_BITS: u32 = 27;
pub(crate) const GENERATION_BITS: u32 = 27;
pub(crate) const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;
/// Shards of a node, at most; the number above the last stands for other nodes.
pub(crate) const SHARDS_MAX: u16 = NODES_SHARD;
const NODES_SHARD: u16 = (1 << (64 - INDEX_BITS - GENERATION_BITS)) - 1;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

impl PackedAddress {
    pub(crate) fn new(shard: u16, index: u32, generation: u32) -> Self {
        debug_assert!(shard < SHARDS_MAX && u64::from(index) <= INDEX_MASK && generation <= GENERATION_MAX);
        let word = u64::from(shard) << (INDEX_BITS + GENERATION_BITS)
            | u64::from(index) << GENERATION_BITS
            | u64::from(generation);
        Self(NonZero::new(word).expect("generations begin at 1"))
    }

    /// The address in a word that came from elsewhere; `None` for 0. It need not name anything.
    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        NonZero::new(word).map(Self)
    }

    #[inline(always)]
    pub(crate) fn word(self) -> u64 {
        self.0.get()
    }

    /// Another node, as the sender of a message that nobody waits for: its refusal travels back there.
    pub(crate) fn node(node: NodeId) -> Self {
        let word = u64::from(NODES_SHARD) << (INDEX_BITS + GENERATION_BITS) | u64::from(node.get());
        Self(NonZero::new(word).expect("the shard's number is not 0"))
    }

    /// The node, if this is one.
    pub(crate) fn as_node(self) -> Option<NodeId> {
        #[expect(clippy::cast_possible_truncation, reason = "the number that `node` put there")]
        (self.shard() == NODES_SHARD).then_some(NodeId::new(self.word() as u32))
    }

    pub(crate) fn shard(self) -> u16 {
        (self.word() >> (INDEX_BITS + GENERATION_BITS)) as u16
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        (self.word() >> GENERATION_BITS & INDEX_MASK) as u32
    }
    pub(crate) fn generation(self) -> u32 {
        (self.word() & u64::from(GENERATION_MAX)) as u32
    }
}
