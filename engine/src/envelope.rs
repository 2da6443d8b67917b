//! The envelope: 64 bytes that carry one message from `tell` to its handler. Ring slot and mailbox slot at once.
//!
//! ```text
//!  0        8                       16               24                       64
//!  +--------+-----------------------+----------------+------------------------+
//!  | index4 | vtable pointer        | sender address,| message in place       |
//!  | gen4   | | epoch << 48 | flags | reply address, | (up to 40 bytes),      |
//!  |        |                       | or context box | or a box of it         |
//!  +--------+-----------------------+----------------+------------------------+
//! ```
//!
//! Invariant: an `Envelope` owns one message of the type that its vtable was made for, and its meta word is what the two
//! low flag bits say. Whoever takes the message out forgets the envelope; whoever drops it drops the message and answers
//! a waiting asker with `Rejected(Closed)`. One of the few files with `unsafe`.

use std::cell::RefMut;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use std::num::NonZero;
use std::ptr::{self, NonNull};

use shardstage_codec::{Epoch, NodeId};

use crate::context_block::ContextBlock;
use crate::error::{AskError, Rejected};
use crate::reply::ReplyAddress;
use crate::shard::{ShardCell, ShardCore};

/// Bytes of a message that travel in place.
pub(crate) const INLINE_BYTES: usize = 40;

const META_MASK: usize = 0b11;
const META_NONE: usize = 0;
const META_SENDER: usize = 1;
const META_REPLY: usize = 2;
const META_CONTEXT: usize = 3;
const FLAG_MASK: usize = 0b11_1111;
const EPOCH_SHIFT: u32 = 48;
const POINTER_MASK: usize = ((1 << EPOCH_SHIFT) - 1) & !FLAG_MASK;

/// The low 16 bits of a group epoch: equal tags within a message's lifetime mean equal epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochTag(pub(crate) u16);

impl EpochTag {
    /// For envelopes addressed by (index, generation): the generation ends with the activation, and so with its epoch.
    pub(crate) const BY_GENERATION: Self = Self(u16::MAX);

    /// The tag of a group epoch.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is compared")]
    pub(crate) fn of(epoch: Epoch) -> Self {
        Self((epoch.get() % (u16::MAX as u64)) as u16)
    }
}

/// What one (receiver type, message type, handler kind) does with a message.
///
/// 64-byte alignment leaves six low bits of its address for flags.
#[repr(align(64))]
pub(crate) struct VTable {
    /// Takes the message and runs it on the actor at `state`.
    pub(crate) run: unsafe fn(delivery: Delivery<'_>),
    /// Drops the message in place.
    pub(crate) drop_message: unsafe fn(payload: *mut u8),
    /// The message type's name, for dead letters and blame.
    pub(crate) message_name: fn() -> &'static str,
    pub(crate) class: Class,
}

/// What the engine must know of a message beside how to run and drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A user's message; if its handler panics, the dispatcher answers.
    Plain,
    /// A user's message whose handler holds its `Reply`, which answers when it is dropped.
    OwnsReply,
    /// The engine's own: a reply or a signal. Nobody misses it, so it is never a dead letter.
    System,
}

/// One message about to be handled: still in its mailbox slot, with the shard's core borrowed, until it is taken.
pub(crate) struct Delivery<'a> {
    pub(crate) shard: &'a ShardCell,
    pub(crate) index: u32,
    pub(crate) generation: u32,
    /// The actor's state; valid and exclusively borrowed for the length of `run`.
    pub(crate) state: *mut u8,
    pub(crate) sender: Option<PackedAddress>,
    pub(crate) reply: Option<ReplyAddress>,
    /// The epoch under which the actor runs; `None` for one that is not virtual.
    pub(crate) epoch: Option<EpochTag>,
    core: Option<RefMut<'a, ShardCore>>,
    slot: NonNull<Envelope>,
}

impl<'a> Delivery<'a> {
    /// A delivery of the message at `slot`, the front of the mailbox of cell `index`, whose meta word was taken.
    #[expect(clippy::too_many_arguments, reason = "the one place that makes deliveries, on the hottest path")]
    #[inline]
    pub(crate) fn new(
        shard: &'a ShardCell,
        (index, generation): (u32, u32),
        state: *mut u8,
        sender: Option<PackedAddress>,
        reply: Option<ReplyAddress>,
        epoch: Option<EpochTag>,
        core: RefMut<'a, ShardCore>,
        slot: NonNull<Envelope>,
    ) -> Self {
        Self { shard, index, generation, state, sender, reply, epoch, core: Some(core), slot }
    }

    /// Moves the message out of its slot and lets go of the core. Called exactly once, before anything else.
    ///
    /// # Safety
    /// The envelope was made by `Envelope::new::<T>`.
    #[inline(always)]
    pub(crate) unsafe fn take<T>(&mut self) -> T {
        let mut core = self.core.take().expect("a message is taken once");
        // SAFETY: the slot is the front of the mailbox, which has not been used since.
        let payload = unsafe { self.slot.as_ref() }.payload.as_ptr();
        // SAFETY: the caller's contract; the slot is forgotten below.
        let message = unsafe { read_payload::<T>(payload.cast()) };
        let core = &mut *core;
        core.cells.slot(self.index).expect("a running actor keeps its cell").mailbox.advance(&mut core.pool);
        message
    }
}

/// (shard, index, generation) of a local actor in one word: 10 + 27 + 27 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackedAddress(pub(crate) u64);

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
        Self(
            u64::from(shard) << (INDEX_BITS + GENERATION_BITS)
                | u64::from(index) << GENERATION_BITS
                | u64::from(generation),
        )
    }

    /// Another node, as the sender of a message that nobody waits for: its refusal travels back there.
    pub(crate) fn node(node: NodeId) -> Self {
        Self(u64::from(NODES_SHARD) << (INDEX_BITS + GENERATION_BITS) | u64::from(node.get()))
    }

    /// The node, if this is one.
    pub(crate) fn as_node(self) -> Option<NodeId> {
        #[expect(clippy::cast_possible_truncation, reason = "the number that `node` put there")]
        (self.shard() == NODES_SHARD).then_some(NodeId::new(self.0 as u32))
    }

    pub(crate) fn shard(self) -> u16 {
        (self.0 >> (INDEX_BITS + GENERATION_BITS)) as u16
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        (self.0 >> GENERATION_BITS & INDEX_MASK) as u32
    }
    pub(crate) fn generation(self) -> u32 {
        (self.0 & u64::from(GENERATION_MAX)) as u32
    }
}

/// The third word of an envelope, unpacked.
pub(crate) enum Meta {
    None,
    Sender(PackedAddress),
    Reply(ReplyAddress),
    Context(Box<ContextBlock>),
}

/// One message on its way.
#[repr(C, align(8))]
pub(crate) struct Envelope {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    head: NonNull<VTable>,
    meta: u64,
    payload: [MaybeUninit<u64>; INLINE_BYTES / 8],
    _message: PhantomData<*mut ()>,
}

const _: () = assert!(size_of::<Envelope>() == 64);
const _: () = assert!(size_of::<Option<Envelope>>() == 64);

// SAFETY: an envelope is made from a `Message` (or a reply), which is `Send`, and a meta word that is an integer or an
// owned box of a `Send` context block.
unsafe impl Send for Envelope {}

/// Whether a `T` travels in place.
const fn is_inline<T>() -> bool {
    size_of::<T>() <= INLINE_BYTES && align_of::<T>() <= 8
}

impl Envelope {
    /// Wraps `message` for the actor (`index`, `generation`); `vtable` must have been made for messages of type `T`.
    ///
    /// # Safety
    /// `vtable.run` and `vtable.drop_message` expect a payload written for a `T`.
    #[inline(always)]
    pub(crate) unsafe fn new<T: Send>(
        index: u32,
        generation: u32,
        vtable: &'static VTable,
        epoch: EpochTag,
        meta: Meta,
        message: T,
    ) -> Self {
        let (kind, meta) = match meta {
            Meta::None => (META_NONE, 0),
            Meta::Sender(address) => (META_SENDER, address.0),
            Meta::Reply(address) => (META_REPLY, address.0.0),
            Meta::Context(context) => (META_CONTEXT, Box::into_raw(context).expose_provenance() as u64),
        };
        let tag = (epoch.0 as usize) << EPOCH_SHIFT | kind;
        let head = NonNull::from_ref(vtable).map_addr(|address| {
            debug_assert_eq!(address.get() & !POINTER_MASK, 0, "vtables are 64-aligned and live below 2^48");
            address | tag
        });
        let mut envelope = Self {
            index,
            generation,
            head,
            meta,
            payload: [const { MaybeUninit::uninit() }; INLINE_BYTES / 8],
            _message: PhantomData,
        };
        let payload = envelope.payload.as_mut_ptr();
        if const { is_inline::<T>() } {
            // SAFETY: `T` fits the payload in size and alignment, checked by the condition.
            unsafe { payload.cast::<T>().write(message) };
        } else {
            // SAFETY: a box is one word.
            unsafe { payload.cast::<Box<T>>().write(Box::new(message)) };
        }
        envelope
    }

    #[inline]
    pub(crate) fn vtable(&self) -> &'static VTable {
        let vtable = self.head.as_ptr().map_addr(|address| address & POINTER_MASK);
        // SAFETY: `new` made the head from a `&'static VTable` and changed only bits that are masked away here.
        unsafe { &*vtable }
    }

    /// The low 16 bits of the group epoch under which it was sent.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits remain after the shift")]
    pub(crate) fn epoch(&self) -> EpochTag {
        EpochTag((self.head.addr().get() >> EPOCH_SHIFT) as u16)
    }

    /// Takes the third word out; the envelope has none afterwards.
    #[inline]
    pub(crate) fn take_meta(&mut self) -> Meta {
        let kind = self.head.addr().get() & META_MASK;
        let meta = self.meta;
        self.clear_kind();
        match kind {
            META_NONE => Meta::None,
            META_SENDER => Meta::Sender(PackedAddress(meta)),
            META_REPLY => Meta::Reply(ReplyAddress(PackedAddress(meta))),
            _ => {
                #[expect(clippy::cast_possible_truncation, reason = "an address")]
                let context = ptr::with_exposed_provenance_mut::<ContextBlock>(meta as usize);
                // SAFETY: `new` or `set_meta` put a box's raw pointer here, and the kind bits were just cleared, so it is
                // taken once.
                Meta::Context(unsafe { Box::from_raw(context) })
            }
        }
    }

    fn clear_kind(&mut self) {
        self.head = self.head.map_addr(|address| {
            NonZero::new(address.get() & !META_MASK).expect("a vtable's address is not null without its flag bits")
        });
    }

    /// Replaces the third word; the old one must have been taken.
    pub(crate) fn set_meta(&mut self, meta: Meta) {
        debug_assert_eq!(self.head.addr().get() & META_MASK, META_NONE);
        let (kind, word) = match meta {
            Meta::None => (META_NONE, 0),
            Meta::Sender(address) => (META_SENDER, address.0),
            Meta::Reply(address) => (META_REPLY, address.0.0),
            Meta::Context(context) => (META_CONTEXT, Box::into_raw(context).expose_provenance() as u64),
        };
        self.meta = word;
        self.head = self.head.map_addr(|address| address | kind);
    }

    #[inline]
    pub(crate) fn has_context(&self) -> bool {
        self.head.addr().get() & META_MASK == META_CONTEXT
    }

    /// The message, consuming the envelope. The meta word must have been taken.
    ///
    /// # Safety
    /// The envelope was made by `new::<T>`.
    #[inline]
    pub(crate) unsafe fn into_message<T>(self) -> T {
        debug_assert_eq!(self.head.addr().get() & META_MASK, META_NONE);
        let this = ManuallyDrop::new(self);
        // SAFETY: `new::<T>` wrote a `T` here, and forgetting the envelope makes this the only copy.
        unsafe { read_payload::<T>(this.payload.as_ptr().cast()) }
    }

    /// The address of the payload, for a vtable's `drop_message`.
    fn payload_ptr(&mut self) -> *mut u8 {
        self.payload.as_mut_ptr().cast()
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        match self.take_meta() {
            Meta::None | Meta::Sender(_) => {}
            Meta::Reply(address) => crate::reply::fail_anywhere(address, AskError::Rejected(Rejected::Closed)),
            Meta::Context(context) => context.reject(Rejected::Closed),
        }
        let drop_message = self.vtable().drop_message;
        let payload = self.payload_ptr();
        // SAFETY: the envelope owns the message and is going away.
        unsafe { drop_message(payload) }
    }
}

/// Moves a message out of a payload.
///
/// # Safety
/// `payload` was written by [`Envelope::new::<T>`](Envelope::new) and is not used afterwards.
#[inline(always)]
unsafe fn read_payload<T>(payload: *const u8) -> T {
    if const { is_inline::<T>() } {
        // SAFETY: the caller's contract.
        unsafe { payload.cast::<T>().read() }
    } else {
        // SAFETY: the caller's contract.
        let boxed = unsafe { payload.cast::<Box<T>>().read() };
        *boxed
    }
}

/// `VTable::drop_message` for messages of type `T`.
///
/// # Safety
/// `payload` was written by [`Envelope::new::<T>`](Envelope::new) and is not used afterwards.
pub(crate) unsafe fn drop_message<T>(payload: *mut u8) {
    if const { is_inline::<T>() } {
        // SAFETY: the caller's contract.
        unsafe { payload.cast::<T>().drop_in_place() }
    } else {
        // SAFETY: the caller's contract.
        unsafe { payload.cast::<Box<T>>().drop_in_place() }
    }
}
