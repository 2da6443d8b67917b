//! The cage around rkyv: which types may become bytes, and the only functions that turn them to and fro.
//!
//! Invariant: no reference into foreign bytes leaves this file unless the whole archive was validated, and
//! no type passes whose validation could loop, recurse without bound or read shared pointers: that is why
//! [`WireValue`] exists beside rkyv's own traits. Other crates of the engine never name rkyv's validation.
//! Callable from any thread; [`encode`] keeps its scratch space per thread.

use core::{fmt, mem};

use rkyv::{
    Archive, Deserialize, Serialize,
    api::{low, serialize_using},
    bytecheck::CheckBytes,
    rancor::{Failure, Strategy},
    ser::{Positional, Serializer, Writer, allocator::ArenaHandle},
    util::{AlignedVec, with_arena},
};

use crate::{
    Shape,
    ids::MessageId,
    limits::{ALIGN_BYTES, MAX_DEPTH, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX},
};

/// A growing buffer whose first byte is 16-aligned, as archives need. Cleared and used again, it costs no allocation.
pub type AlignedBytes = AlignedVec<ALIGN_BYTES>;

/// What [`encode`] serializes with. It has no sharing state: `Rc` and `Arc` do not compile with it.
pub type Encoder<'a> = low::LowSerializer<BoundedWriter, ArenaHandle<'a>, Failure>;

/// What [`access`] validates with. It has no shared-pointer state either.
pub type Checker<'a> = low::LowValidator<'a, Failure>;

/// What [`decode`] rebuilds values with.
pub type Decoder = Strategy<(), Failure>;

/// A type whose values may cross the network or lie in the log.
///
/// Integers of fixed width, floats, `bool`, `char`, `()`, arrays, `String`, `Vec`, `Option`, `Result`, tuples
/// of up to four, and structs and enums of those through `#[message(id = "...")]` or `#[wire]`. Anything
/// else does not compile: pointers, maps, trait objects, recursion, more than [`MAX_DEPTH`] levels. What the
/// macros write for a struct is rkyv's three derives and
///
/// ```
/// use shardstage_codec::{Shape, WireValue, rkyv, wire};
///
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
/// #[rkyv(crate = rkyv)]
/// struct Deposit { amount: i64 }
///
/// impl WireValue for Deposit {
///     const DEPTH: u32 = wire::depth_over(&[<i64 as WireValue>::DEPTH]);
///     const SHAPE: u64 = Shape::structure().field("amount", <i64 as WireValue>::SHAPE).finish();
/// }
/// const _: () = shardstage_codec::assert_wire::<Deposit>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the wire or lie in the log",
    label = "not a wire value",
    note = "wire values are fixed-width integers, floats, bool, char, arrays, String, Vec, Option, Result, small tuples, and \
            structs and enums of those that carry `#[wire]` or `#[message(id = \"...\")]`"
)]
pub trait WireValue:
    Archive<Archived: for<'a> CheckBytes<Checker<'a>> + Deserialize<Self, Decoder>>
    + for<'a> Serialize<Encoder<'a>>
    + Sized
    + 'static
{
    /// How many containers lie around the innermost scalar: 0 for a scalar or a string.
    const DEPTH: u32;

    /// A hash over the structure, built with [`Shape`].
    const SHAPE: u64;
}

/// A wire value that stands alone and has a name: a message, an event, a snapshot.
pub trait Wire: WireValue {
    /// The name peers and log readers know it by, at most [`NAME_BYTES_MAX`] bytes. Never reuse one for something else.
    const NAME: &'static str;

    /// Which version of the name this type is. A receiver may accept several.
    const VERSION: u16;

    /// The number that stands for the name in headers.
    const ID: MessageId = MessageId::of(Self::NAME);

    /// What peers compare before they exchange a message of this name and version.
    const FINGERPRINT: u64 = crate::fingerprint::<Self>();
}

/// Refuses, while compiling, a type that is nested too deeply or too large for a frame. The macros call it
/// for every type; [`encode`] and [`access`] do so again.
pub const fn assert_wire<T: WireValue>() {
    assert!(T::DEPTH <= MAX_DEPTH, "a wire value may be nested at most 8 levels deep");
    assert!(size_of::<T::Archived>() <= PAYLOAD_BYTES_MAX, "a wire value must fit one frame");
    assert!(align_of::<T::Archived>() <= ALIGN_BYTES, "a wire value must be aligned to at most 16 bytes");
}

/// Refuses, while compiling, a name that headers and greetings cannot carry. The macros call it.
pub const fn assert_named<T: Wire>() {
    assert!(!T::NAME.is_empty() && T::NAME.len() <= NAME_BYTES_MAX, "a wire name has 1 to 128 bytes");
}

/// The depth of a container of parts with these depths.
#[must_use]
pub const fn depth_over(parts: &[u32]) -> u32 {
    let mut deepest = 0;
    let mut index = 0;
    while index < parts.len() {
        if parts[index] > deepest {
            deepest = parts[index];
        }
        index += 1;
    }
    deepest + 1
}

/// Appends the archive of `value` to `out`, zero-padded in front to a multiple of 16, and returns the
/// archive's length.
///
/// The archive is the last so many bytes of `out` and is aligned there. Cost: one copy of the value, no
/// allocation once `out` and the thread's scratch space have grown.
///
/// # Errors
///
/// [`EncodeError::TooLarge`] as soon as the archive outgrows [`PAYLOAD_BYTES_MAX`]; `out` is as it was.
///
/// ```
/// use shardstage_codec::{AlignedBytes, decode, encode};
/// let mut out = AlignedBytes::new();
/// let len = encode(&vec![1u32, 2, 3], &mut out)?;
/// assert_eq!(decode::<Vec<u32>>(&out[out.len() - len..])?, [1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn encode<T: WireValue>(value: &T, out: &mut AlignedBytes) -> Result<usize, EncodeError> {
    const { assert_wire::<T>() };
    let before = out.len();
    pad_to_align(out);
    let start = out.len();
    let writer = BoundedWriter { bytes: mem::take(out), start };
    let outcome;
    (outcome, *out) = with_arena(|arena| {
        let mut serializer = Serializer::new(writer, arena.acquire(), ());
        let outcome = serialize_using::<_, Failure>(value, &mut serializer);
        (outcome, serializer.into_writer().bytes)
    });
    match outcome {
        Ok(_root) => Ok(out.len() - start),
        // The bounded writer is the only part of the serializer that refuses.
        Err(Failure) => {
            out.resize(before, 0);
            Err(EncodeError::TooLarge { limit: PAYLOAD_BYTES_MAX })
        }
    }
}

/// Validates `bytes` as the archive of a `T` and returns the view of it, without copying.
///
/// Cost: a fraction of a nanosecond for plain integers, about 20 ns a KiB with strings and lists; no
/// allocation, whatever the bytes say.
///
/// # Errors
///
/// See [`DecodeError`]. Too long, too short and misaligned are told apart before anything is read.
pub fn access<T: WireValue>(bytes: &[u8]) -> Result<&T::Archived, DecodeError> {
    const { assert_wire::<T>() };
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { len: bytes.len(), limit: PAYLOAD_BYTES_MAX });
    }
    let need = size_of::<T::Archived>();
    if bytes.len() < need {
        return Err(DecodeError::TooShort { len: bytes.len(), need });
    }
    let off_by = bytes.as_ptr().addr() % ALIGN_BYTES;
    if off_by != 0 && !bytes.is_empty() {
        return Err(DecodeError::Misaligned { off_by });
    }
    low::access::<T::Archived, Failure>(bytes).map_err(|Failure| DecodeError::Invalid)
}

/// Validates `bytes` as the archive of a `T` and rebuilds the value.
///
/// Cost: [`access`], then one allocation for each string and list. The value takes at most a small multiple
/// of the archive's bytes.
///
/// # Errors
///
/// As [`access`].
pub fn decode<T: WireValue>(bytes: &[u8]) -> Result<T, DecodeError> {
    rebuild::<T>(access::<T>(bytes)?)
}

/// Rebuilds the value behind a view that [`access`] gave.
///
/// # Errors
///
/// [`DecodeError::Invalid`] where a part refuses to be rebuilt; no type of this crate does.
pub fn rebuild<T: WireValue>(archived: &T::Archived) -> Result<T, DecodeError> {
    low::deserialize::<T, Failure>(archived).map_err(|Failure| DecodeError::Invalid)
}

/// Appends zeros until the length is a multiple of 16.
pub(crate) fn pad_to_align(out: &mut AlignedBytes) {
    out.resize(out.len().next_multiple_of(ALIGN_BYTES), 0);
}

/// Writes an archive into the end of a buffer and refuses to grow it past [`PAYLOAD_BYTES_MAX`].
#[derive(Debug)]
pub struct BoundedWriter {
    bytes: AlignedBytes,
    /// Where the archive begins: a multiple of 16, so that offsets from here keep the buffer's alignment.
    start: usize,
}

impl Positional for BoundedWriter {
    fn pos(&self) -> usize {
        self.bytes.len() - self.start
    }
}

impl Writer<Failure> for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() > PAYLOAD_BYTES_MAX - self.pos() {
            return Err(Failure);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Why a value did not become bytes. The buffer is as it was; the value is the caller's still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The archive outgrew `limit` bytes: send the value in parts.
    TooLarge {
        /// Bytes of an archive, at most.
        limit: usize,
    },
    /// The actor's key is longer than a frame can carry.
    KeyTooLong {
        /// Bytes of the key.
        len: usize,
        /// Bytes of a key, at most.
        limit: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => write!(f, "the message takes more than {limit} bytes; send it in parts"),
            Self::KeyTooLong { len, limit } => {
                write!(f, "the actor key has {len} bytes, more than {limit}")
            }
        }
    }
}

impl core::error::Error for EncodeError {}

/// Why bytes are not the archive they were said to be. Nothing was built from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than any archive may have.
    TooLarge {
        /// Bytes given.
        len: usize,
        /// Bytes of an archive, at most.
        limit: usize,
    },
    /// Fewer bytes than the type's fixed part takes.
    TooShort {
        /// Bytes given.
        len: usize,
        /// Bytes that the fixed part takes.
        need: usize,
    },
    /// The first byte does not lie at a multiple of 16: the caller's mistake, not the peer's. Copy the bytes
    /// into an [`AlignedBytes`].
    Misaligned {
        /// Bytes past the last multiple of 16.
        off_by: usize,
    },
    /// The bytes are damaged, forged, or of another schema.
    Invalid,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { len, limit } => {
                write!(f, "an archive of {len} bytes, more than {limit}")
            }
            Self::TooShort { len, need } => write!(f, "an archive of {len} bytes where the type takes at least {need}"),
            Self::Misaligned { off_by } => write!(f, "an archive that begins {off_by} bytes past a multiple of 16"),
            Self::Invalid => write!(f, "the bytes are damaged or of another schema"),
        }
    }
}

impl core::error::Error for DecodeError {}

macro_rules! scalars {
    ($($scalar:ty)*) => {$(
        impl WireValue for $scalar {
            const DEPTH: u32 = 0;
            const SHAPE: u64 = Shape::builtin(stringify!($scalar)).finish();
        }
    )*};
}
scalars! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 bool char String }

impl WireValue for () {
    const DEPTH: u32 = 0;
    const SHAPE: u64 = Shape::builtin("()").finish();
}

/// Refuses, while compiling, a list of elements that take no bytes: its forged length would cost the
/// validator time without bound.
const fn assert_sized_element<T: WireValue>() {
    assert!(size_of::<T::Archived>() != 0, "the elements of a list must take at least one byte");
}

impl<T: WireValue> WireValue for Vec<T> {
    const DEPTH: u32 = {
        assert_sized_element::<T>();
        depth_over(&[T::DEPTH])
    };
    const SHAPE: u64 = Shape::builtin("Vec").field("0", T::SHAPE).finish();
}

impl<T: WireValue, const N: usize> WireValue for [T; N] {
    const DEPTH: u32 = {
        assert_sized_element::<T>();
        depth_over(&[T::DEPTH])
    };
    const SHAPE: u64 = Shape::builtin("array").field("0", T::SHAPE).field("len", N as u64).finish();
}

impl<T: WireValue> WireValue for Option<T> {
    const DEPTH: u32 = depth_over(&[T::DEPTH]);
    const SHAPE: u64 = Shape::builtin("Option").field("0", T::SHAPE).finish();
}

impl<T: WireValue, E: WireValue> WireValue for Result<T, E> {
    const DEPTH: u32 = depth_over(&[T::DEPTH, E::DEPTH]);
    const SHAPE: u64 = Shape::builtin("Result").field("Ok", T::SHAPE).field("Err", E::SHAPE).finish();
}

macro_rules! tuples {
    ($(($($part:ident $name:literal),+))*) => {$(
        impl<$($part: WireValue),+> WireValue for ($($part,)+) {
            const DEPTH: u32 = depth_over(&[$($part::DEPTH),+]);
            const SHAPE: u64 = Shape::builtin("tuple")$(.field($name, $part::SHAPE))+.finish();
        }
    )*};
}
tuples! { (A "0") (A "0", B "1") (A "0", B "1", C "2") (A "0", B "1", C "2", D "3") }
