//! The numbers by which nodes know messages, actor types, nodes, shards, slots and epochs.
//!
//! Invariant: an id made from a name depends on that name alone, never on a module path, a compiler or a
//! build, so it may be written to the wire and to disk. Plain values, callable from any thread.

use core::fmt;

use crate::limits::{GROUP_COUNT, SLOT_COUNT, SLOTS_PER_GROUP};

/// FNV-1a's 64-bit offset basis (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(crate) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Folds `bytes` into an FNV-1a-64 state.
pub(crate) const fn fnv1a(mut state: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        state = (state ^ bytes[index] as u64).wrapping_mul(FNV_PRIME);
        index += 1;
    }
    state
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// The id with this number.
            #[must_use]
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number, as it stands on the wire.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

number_id! {
    /// A kind of wire message: the hash of the name in `#[message(id = "...")]`.
    MessageId(u64), "{:016x}"
}
number_id! {
    /// A type of virtual actor: the hash of the name it is registered under.
    ActorTypeId(u64), "{:016x}"
}
number_id! {
    /// A node of the cluster, by its number in the list of nodes.
    NodeId(u32), "{}"
}
number_id! {
    /// A shard of one node, from 0.
    ShardId(u16), "{}"
}
number_id! {
    /// How often a slot group has changed hands. Effects of an epoch that is not current are refused.
    Epoch(u64), "{}"
}

impl MessageId {
    /// The id of the message named `name`: FNV-1a-64 over its UTF-8 bytes.
    ///
    /// ```
    /// use shardstage_codec::MessageId;
    /// const DEPOSIT: MessageId = MessageId::of("bank.deposit");
    /// assert_eq!(DEPOSIT, MessageId::of("bank.deposit"));
    /// ```
    #[must_use]
    pub const fn of(name: &str) -> Self {
        Self(fnv1a(FNV_BASIS, name.as_bytes()))
    }
}

impl ActorTypeId {
    /// The id of the actor type named `name`: FNV-1a-64 over its UTF-8 bytes.
    #[must_use]
    pub const fn of(name: &str) -> Self {
        Self(fnv1a(FNV_BASIS, name.as_bytes()))
    }
}

impl Epoch {
    /// The epoch of every group in a cluster whose nodes are a fixed list.
    pub const FIRST: Self = Self(1);

    /// The epoch after this one.
    ///
    /// # Panics
    ///
    /// At the end of the number range, which takes 2^64 moves of one group.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a group moves fewer than 2^64 times"))
    }
}

/// Where an actor's key falls in the placement space: 0 to 4,095.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, or `None` from [`SLOT_COUNT`] on.
    #[must_use]
    pub const fn new(raw: u16) -> Option<Self> {
        if raw < SLOT_COUNT { Some(Self(raw)) } else { None }
    }

    /// The number, below [`SLOT_COUNT`].
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The group this slot belongs to, for as long as the cluster lives.
    #[must_use]
    pub const fn group(self) -> GroupId {
        // Below SLOT_COUNT / SLOTS_PER_GROUP = GROUP_COUNT, so nothing is cut off.
        GroupId((self.0 / SLOTS_PER_GROUP) as u8)
    }
}

/// A group of 64 neighbouring slots: 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u8);

impl GroupId {
    /// The group with this number, or `None` from [`GROUP_COUNT`] on.
    #[must_use]
    pub const fn new(raw: u8) -> Option<Self> {
        if raw < GROUP_COUNT { Some(Self(raw)) } else { None }
    }

    /// The number, below [`GROUP_COUNT`].
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every group, in order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..GROUP_COUNT).map(Self)
    }
}

macro_rules! show_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}
show_number! { Slot GroupId }

/// The slot of the virtual actor `key` of type `actor_type`: placement hash, version 1.
///
/// Every node must compute the same slot, so the function is fixed bit by bit. All arithmetic is on
/// unsigned 64-bit integers and wraps.
///
/// 1. `h = 0xcbf29ce484222325`.
/// 2. For each of the 8 bytes of the actor type's id, least significant first, then for each byte of the
///    key's UTF-8: `h = (h ^ byte) * 0x100000001b3`. (This is FNV-1a-64.)
/// 3. `h ^= h >> 33; h *= 0xff51afd7ed558ccd; h ^= h >> 33; h *= 0xc4ceb9fe1a85ec53; h ^= h >> 33`.
///    (This is the finaliser of MurmurHash3 x64; FNV alone spreads short keys badly over the high bits.)
/// 4. The slot is the top 12 bits: `h >> 52`.
///
/// The key's length needs no mark, as the id before it has a fixed width and nothing follows it.
/// Cost: about a nanosecond for each byte of the key; references keep the slot instead of asking again.
///
/// ```
/// use shardstage_codec::{ActorTypeId, slot_of};
/// let slot = slot_of(ActorTypeId::of("bank.account"), "alice");
/// assert_eq!(slot.get(), 2089);
/// assert_eq!(slot.group().get(), 32);
/// ```
#[must_use]
pub const fn slot_of(actor_type: ActorTypeId, key: &str) -> Slot {
    let mut hash = fnv1a(FNV_BASIS, &actor_type.0.to_le_bytes());
    hash = fnv1a(hash, key.as_bytes());
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    // The top 12 bits: 2^12 = SLOT_COUNT.
    Slot((hash >> SLOT_SHIFT) as u16)
}

const SLOT_SHIFT: u32 = u64::BITS - SLOT_COUNT.trailing_zeros();
const _: () = assert!(SLOT_SHIFT == 52);
