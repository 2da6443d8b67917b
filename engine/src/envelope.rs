//! The envelope: 64 bytes that carry one message from `tell` to its handler. Ring slot and mailbox slot at once.
//!
//! ```text
//!  0        8                       16               24                       64
//!  +--------+-----------------------+----------------+------------------------+
//!  | index4 | vtable pointer        | sender address,| message in place       |
//!  | gen4   | | epoch << 48 | flags | reply address, | (up to 40 bytes),      |
//!  |        |                       | or context box | or a box of it         |
//!  +--------+-----------------------+----------------+------------------------+
//!                                      the last of these words is the deadline of an ask from another shard whose
//!                                      message leaves it free; all others that need one have a context box
//! ```
//!
//! Invariant: an `Envelope` owns one message of the type that its vtable was made for, and its meta word is what the two
//! low flag bits say. Whoever takes the message out forgets the envelope; whoever drops it drops the message and answers
//! a waiting asker with `Rejected(Closed)`. One of the few files with `unsafe`.
//!
//! One file because the 64 bytes and every way to write, read and change them are one layout.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use std::num::NonZero;
use std::ptr::{self, NonNull};

use shardstage_codec::Epoch;

use crate::context_block::{Asker, ContextBlock};
use crate::credit::Credit;
use crate::error::{AskError, Rejected};
pub(crate) use crate::packed_address::{
    CellId, GENERATION_BITS, GENERATION_MAX, INDEX_BITS, PackedAddress, SHARDS_MAX,
};
use crate::policy::Priority;
use crate::reply::ReplyAddress;
use crate::shard::{Cell, ShardCell, Weight};

/// Bytes of a message that travel in place.
pub(crate) const INLINE_BYTES: usize = 40;

const META_MASK: usize = 0b11;
/// A sender's address, or 0 for none: the kind of most messages, and of those whose meta word was taken.
const META_SENDER: usize = 0;
const META_REPLY: usize = 1;
const META_CONTEXT: usize = 2;
/// No word: the message is the engine's own, for the actor's hooks instead of a handler.
const META_SIGNAL: usize = 3;
/// The message took a token of its receiver's credit.
const FLAG_CREDIT: usize = 0b100;
/// The last word of the payload is the deadline.
const FLAG_DEADLINE: usize = 0b1000;
/// A waiting sender's: it enters the mailbox also when it was under way as its receiver ran short.
const FLAG_PATIENT: usize = 0b1_0000;
/// It stands in a mailbox that is bounded by bytes, and the epoch's bits say what it weighs.
const FLAG_WEIGHED: usize = 0b10_0000;
const FLAG_MASK: usize = 0b11_1111;
const EPOCH_SHIFT: u32 = 48;
const LOW_BITS: usize = (1 << EPOCH_SHIFT) - 1;
const POINTER_MASK: usize = LOW_BITS & !FLAG_MASK;

/// The deadline of a message whose asker has given up: long over, and before any that an ask has.
pub(crate) const GIVEN_UP_NS: u64 = 1;

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
    pub(crate) run: unsafe fn(delivery: &Delivery<'_>, front: Front),
    /// Drops the message in place.
    pub(crate) drop_message: unsafe fn(payload: *mut u8),
    /// What the message in place says that it weighs, in bytes; code of users.
    pub(crate) weight: unsafe fn(payload: *const u8) -> usize,
    /// The message type's name, for dead letters and blame.
    pub(crate) message_name: fn() -> &'static str,
    /// The actor type's name, for blame.
    pub(crate) actor_name: fn() -> &'static str,
    pub(crate) class: Class,
    /// For actors whose mailbox is in order of priority.
    pub(crate) priority: Priority,
}

impl VTable {
    /// Makes the processor's branch history say which vtable is about to be called through.
    ///
    /// On AMD's Zen, the prediction of an indirect call looks at a short history of branches in which neither calls nor
    /// returns appear, so that small handlers leave no trace in it: wherever two message types alternated, every call was
    /// predicted wrongly, at some 20 cycles (a tell 17 ns instead of 10, a round trip 34-48 instead of 30). Two branches on
    /// address bits that differ between neighbouring vtables are predicted from the long history of conditional branches,
    /// and the call from them. Where the order of types is random, one of them is mispredicted instead of the call.
    #[inline(always)]
    pub(crate) fn steer(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: branches to the next instruction; touches nothing but the flags.
        unsafe {
            std::arch::asm!(
                "test {bits:e}, 64",
                "jz 2f",
                "nop",
                "2:",
                "test {bits:e}, 128",
                "jz 3f",
                "nop",
                "3:",
                bits = in(reg) std::ptr::from_ref(self).addr(),
                options(nomem, nostack)
            );
        }
    }
}

/// What the engine must know of a message beside how to run and drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A user's message; if its handler panics, the dispatcher answers.
    Plain,
    /// A user's message whose handler holds its `Reply`, which answers when it is dropped.
    OwnsReply,
    /// A user's message that one of the receiver's own timers sends: nobody else spoke to it.
    Own,
    /// The engine's own: a reply. Nobody misses it, so it is never a dead letter.
    System,
}

/// Who runs, and what is known of the message that is about to be handled. One per activation.
pub(crate) struct Delivery<'a> {
    pub(crate) shard: &'a ShardCell,
    cell: NonNull<Cell>,
    pub(crate) id: CellId,
    pub(crate) sender: Option<PackedAddress>,
    pub(crate) reply: Option<ReplyAddress>,
}

impl<'a> Delivery<'a> {
    /// Deliveries to the actor in `cell`, whose id this is.
    ///
    /// # Safety
    /// The cell stays where it is and occupied while the delivery is used.
    #[inline(always)]
    pub(crate) unsafe fn new(shard: &'a ShardCell, cell: NonNull<Cell>, id: CellId) -> Self {
        Self { shard, cell, id, sender: None, reply: None }
    }

    /// The epoch under which the actor runs; `None` for one that is not virtual.
    #[inline(always)]
    pub(crate) fn epoch(&self) -> Option<EpochTag> {
        // SAFETY: `new`'s contract; the reference ends here.
        unsafe { self.cell.as_ref() }.epoch()
    }
}

/// The message that is about to be handled, still in its mailbox slot, and the state of its actor: passed in registers, as
/// nearly every handler needs them at once.
#[derive(Clone, Copy)]
pub(crate) struct Front {
    slot: NonNull<Envelope>,
    state: *mut u8,
}

impl Front {
    #[inline(always)]
    pub(crate) fn new(slot: NonNull<Envelope>, state: *mut u8) -> Self {
        Self { slot, state }
    }

    /// Moves the message out of its slot. Called exactly once a message, before anything else.
    ///
    /// # Safety
    /// The envelope in the slot was made by `Envelope::new::<T>`, its meta word was taken, and its mailbox has forgotten it
    /// and was not used since.
    #[inline(always)]
    pub(crate) unsafe fn take<T>(self) -> T {
        // SAFETY: the caller's contract.
        let payload = unsafe { self.slot.as_ref() }.payload.as_ptr();
        // SAFETY: the caller's contract.
        unsafe { read_payload::<T>(payload.cast()) }
    }

    /// The message, still in its slot.
    ///
    /// # Safety
    /// As for [`take`](Self::take), which was not called; the reference ends before it is, and before the mailbox is used.
    pub(crate) unsafe fn peek<'a, T>(self) -> &'a T {
        // SAFETY: the caller's contract.
        let payload = unsafe { self.slot.as_ref() }.payload.as_ptr();
        // SAFETY: the caller's contract.
        unsafe { look_at(payload.cast()) }
    }

    /// The deadline that travelled with the message itself, if one did.
    ///
    /// # Safety
    /// As for [`take`](Self::take), before it.
    #[cold]
    pub(crate) unsafe fn deadline_ns(self) -> Option<u64> {
        // SAFETY: the caller's contract.
        unsafe { self.slot.as_ref() }.deadline_ns()
    }

    /// The actor's state.
    ///
    /// # Safety
    /// It is a built `A` that nobody else uses for the length of `'a`.
    #[inline(always)]
    pub(crate) unsafe fn actor<'a, A>(self) -> &'a mut A {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.state.cast::<A>() }
    }
}

/// The third word of an envelope, unpacked.
pub(crate) enum Meta {
    None,
    Sender(PackedAddress),
    Reply(ReplyAddress),
    Context(Box<ContextBlock>),
    /// Marks a message for the actor's hooks.
    Signal,
}

impl Meta {
    /// The kind bits and the word.
    #[inline(always)]
    fn pack(self) -> (usize, u64) {
        match self {
            Self::None => (META_SENDER, 0),
            Self::Sender(address) => (META_SENDER, address.word()),
            Self::Reply(address) => (META_REPLY, address.0.word()),
            Self::Context(context) => (META_CONTEXT, Box::into_raw(context).expose_provenance() as u64),
            Self::Signal => (META_SIGNAL, 0),
        }
    }
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

/// Whether a `T` leaves the last word of the payload free, for a deadline.
pub(crate) const fn has_spare_word<T>() -> bool {
    !is_inline::<T>() || size_of::<T>() <= INLINE_BYTES - 8
}

#[inline(always)]
fn credit_flag(credit: Credit) -> usize {
    if credit == Credit::Token { FLAG_CREDIT } else { 0 }
}

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
        let mut envelope = MaybeUninit::uninit();
        let slot = NonNull::from_mut(&mut envelope).cast();
        // SAFETY: the caller's contract; there is room for one envelope.
        unsafe { Self::write(slot, (index, generation), vtable, epoch, meta, message) };
        // SAFETY: just written.
        unsafe { envelope.assume_init() }
    }

    /// Builds an envelope in its slot: what is built elsewhere and then copied costs twice.
    ///
    /// # Safety
    /// As for [`new`](Self::new); `slot` is valid for the write of an envelope, and what it holds is forgotten.
    #[inline(always)]
    pub(crate) unsafe fn write<T: Send>(
        slot: NonNull<Self>,
        (index, generation): (u32, u32),
        vtable: &'static VTable,
        epoch: EpochTag,
        meta: Meta,
        message: T,
    ) {
        // SAFETY: the caller's contract.
        unsafe { Self::write_head(slot, (index, generation), vtable, epoch, meta, Credit::Open) };
        // SAFETY: the caller's contract, and the head was just written.
        unsafe { Self::write_message(slot, message) };
    }

    /// The first half of [`write`](Self::write): all but the message.
    ///
    /// # Safety
    /// As for `write`; [`write_message`](Self::write_message) follows before the envelope is used.
    #[inline(always)]
    pub(crate) unsafe fn write_head(
        slot: NonNull<Self>,
        (index, generation): (u32, u32),
        vtable: &'static VTable,
        epoch: EpochTag,
        meta: Meta,
        credit: Credit,
    ) {
        let (kind, meta) = meta.pack();
        let tag = (epoch.0 as usize) << EPOCH_SHIFT | kind | credit_flag(credit);
        let head = NonNull::from_ref(vtable).map_addr(|address| {
            debug_assert_eq!(address.get() & !POINTER_MASK, 0, "vtables are 64-aligned and live below 2^48");
            address | tag
        });
        let payload = [const { MaybeUninit::uninit() }; INLINE_BYTES / 8];
        // SAFETY: the caller's contract.
        unsafe { slot.write(Self { index, generation, head, meta, payload, _message: PhantomData }) };
    }

    /// The second half of [`write`](Self::write).
    ///
    /// # Safety
    /// As for `write`; [`write_head`](Self::write_head) was called with a vtable for messages of type `T`.
    #[inline(always)]
    pub(crate) unsafe fn write_message<T: Send>(slot: NonNull<Self>, message: T) {
        // SAFETY: the caller's contract.
        let payload = unsafe { &raw mut (*slot.as_ptr()).payload };
        if const { is_inline::<T>() } {
            // SAFETY: `T` fits the payload in size and alignment, checked by the condition.
            unsafe { payload.cast::<T>().write(message) };
        } else {
            // SAFETY: a box is one word.
            unsafe { payload.cast::<Box<T>>().write(Box::new(message)) };
        }
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

    /// What the message weighs, in bytes. Runs code of users.
    pub(crate) fn weigh(&self) -> usize {
        // SAFETY: the envelope owns a message of its vtable's type.
        unsafe { (self.vtable().weight)(self.payload.as_ptr().cast()) }
    }

    /// Says what it weighs, for the mailbox that has admitted it: its epoch is looked at no more.
    pub(crate) fn set_weight(&mut self, weight: Weight) {
        self.head = self.head.map_addr(|address| {
            let address = address.get() & LOW_BITS | FLAG_WEIGHED | (weight.bits() as usize) << EPOCH_SHIFT;
            NonZero::new(address).expect("a vtable's address is not null without its tag")
        });
    }

    /// The same of a new one.
    pub(crate) fn weighing(mut self, weight: Weight) -> Self {
        self.set_weight(weight);
        self
    }

    /// What it weighs in its mailbox, if that is bounded by bytes and the message counts.
    pub(crate) fn weight(&self) -> Option<Weight> {
        (self.head.addr().get() & FLAG_WEIGHED != 0).then(|| Weight::from_bits(self.epoch().0))
    }

    /// Sends it on to another actor, which is known by its generation.
    pub(crate) fn readdress(&mut self, index: u32, generation: u32) {
        self.index = index;
        self.generation = generation;
        self.head = self.head.map_addr(|address| {
            let address =
                address.get() & LOW_BITS & !FLAG_WEIGHED | (EpochTag::BY_GENERATION.0 as usize) << EPOCH_SHIFT;
            NonZero::new(address).expect("a vtable's address is not null without its tag")
        });
    }

    /// Takes the third word out; the envelope has none afterwards.
    #[inline]
    pub(crate) fn take_meta(&mut self) -> Meta {
        let kind = self.head.addr().get() & META_MASK;
        let meta = std::mem::take(&mut self.meta);
        self.clear_kind();
        if kind == META_SENDER {
            return PackedAddress::from_word(meta).map_or(Meta::None, Meta::Sender);
        }
        if kind == META_REPLY {
            let address = PackedAddress::from_word(meta).expect("`new` or `set_meta` put an address here");
            return Meta::Reply(ReplyAddress(address));
        }
        if kind == META_SIGNAL {
            return Meta::Signal;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an address")]
        let context = ptr::with_exposed_provenance_mut::<ContextBlock>(meta as usize);
        // SAFETY: `new` or `set_meta` put a box's raw pointer here, and the kind bits were just cleared, so it is taken once.
        Meta::Context(unsafe { Box::from_raw(context) })
    }

    /// The sender of a plain tell (`None` within: no actor's); `None` when the meta word is something else. The word stays.
    #[inline(always)]
    pub(crate) fn plain_sender(&self) -> Option<Option<PackedAddress>> {
        (self.head.addr().get() & META_MASK == META_SENDER).then(|| PackedAddress::from_word(self.meta))
    }

    fn clear_kind(&mut self) {
        self.head = self.head.map_addr(|address| {
            NonZero::new(address.get() & !META_MASK).expect("a vtable's address is not null without its flag bits")
        });
    }

    /// Replaces the third word; the old one must have been taken.
    pub(crate) fn set_meta(&mut self, meta: Meta) {
        debug_assert_eq!(self.head.addr().get() & META_MASK, META_SENDER);
        let (kind, word) = meta.pack();
        self.meta = word;
        self.head = self.head.map_addr(|address| address | kind);
    }

    /// Puts a deadline into the last word of the payload, which the message must leave free; see [`has_spare_word`].
    #[inline]
    pub(crate) fn set_deadline(&mut self, deadline_ns: u64) {
        self.payload[INLINE_BYTES / 8 - 1].write(deadline_ns);
        self.head = self.head.map_addr(|address| address | FLAG_DEADLINE);
    }

    /// The deadline that travels with the message itself, if it has one.
    #[inline]
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        if self.head.addr().get() & FLAG_DEADLINE == 0 {
            return None;
        }
        // SAFETY: the flag is set by `set_deadline` only, which wrote this word.
        Some(unsafe { self.payload[INLINE_BYTES / 8 - 1].assume_init() })
    }

    /// Has the message dropped before work, if it is the ask whose answer goes to `address`, because nobody waits any more.
    /// Returns whether it is.
    pub(crate) fn give_up(&mut self, address: ReplyAddress) -> bool {
        let head = self.head.addr().get();
        if head & META_MASK == META_REPLY && self.meta == address.0.word() {
            if head & FLAG_DEADLINE != 0 {
                self.set_deadline(GIVEN_UP_NS);
            }
            return true;
        }
        if head & META_MASK != META_CONTEXT {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "an address")]
        let context = ptr::with_exposed_provenance_mut::<ContextBlock>(self.meta as usize);
        // SAFETY: the kind bits say that the word is a box's raw pointer, which this envelope owns.
        let context = unsafe { &mut *context };
        let found =
            matches!(&context.asker, Asker::Slot(asker) | Asker::InRequest(_, Some(asker)) if *asker == address);
        if found {
            context.deadline_ns = GIVEN_UP_NS;
        }
        found
    }

    /// Marks a waiting sender's message.
    pub(crate) fn set_patient(&mut self) {
        self.head = self.head.map_addr(|address| address | FLAG_PATIENT);
    }

    /// Whether a waiting sender sent it.
    pub(crate) fn is_patient(&self) -> bool {
        self.head.addr().get() & FLAG_PATIENT != 0
    }

    /// Notes whether the message took a token of its receiver's credit.
    #[inline]
    pub(crate) fn set_credit(&mut self, credit: Credit) {
        self.head = self.head.map_addr(|address| address | credit_flag(credit));
    }

    /// Whether the message took a token, which its arrival turns back into room.
    #[inline]
    pub(crate) fn has_credit(&self) -> bool {
        self.head.addr().get() & FLAG_CREDIT != 0
    }

    /// Whether the message took a token; afterwards it has none.
    #[inline(always)]
    pub(crate) fn take_credit(&mut self) -> bool {
        let had = self.has_credit();
        if had {
            self.head = self.head.map_addr(|address| {
                NonZero::new(address.get() & !FLAG_CREDIT)
                    .expect("a vtable's address is not null without its flag bits")
            });
        }
        had
    }

    /// Whether it can enter a mailbox as it is: no context to prepare, nobody who waits.
    #[inline(always)]
    pub(crate) fn is_light(&self) -> bool {
        let head = self.head.addr().get();
        head & META_MASK != META_CONTEXT && head & FLAG_PATIENT == 0
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
        debug_assert_eq!(self.head.addr().get() & META_MASK, META_SENDER);
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
            Meta::None | Meta::Sender(_) | Meta::Signal => {}
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
pub(crate) unsafe fn read_payload<T>(payload: *const u8) -> T {
    if const { is_inline::<T>() } {
        // SAFETY: the caller's contract.
        unsafe { payload.cast::<T>().read() }
    } else {
        // SAFETY: the caller's contract.
        let boxed = unsafe { payload.cast::<Box<T>>().read() };
        *boxed
    }
}

/// The message in a payload.
///
/// # Safety
/// `payload` was written by [`Envelope::new::<T>`](Envelope::new), and stays what it is for the length of `'a`.
pub(crate) unsafe fn look_at<'a, T>(payload: *const u8) -> &'a T {
    if const { is_inline::<T>() } {
        // SAFETY: the caller's contract.
        unsafe { &*payload.cast::<T>() }
    } else {
        // SAFETY: the caller's contract.
        unsafe { &*payload.cast::<Box<T>>() }
    }
}

/// `VTable::weight` of what is never weighed.
///
/// # Safety
/// None: it looks at nothing.
pub(crate) unsafe fn weigh_nothing(_payload: *const u8) -> usize {
    0
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
