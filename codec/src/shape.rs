//! The fingerprint of a schema: what two nodes compare to know that they mean the same bytes.
//!
//! Invariant: two types whose archives could be taken for each other's with another meaning differ in
//! their shape: field names, their order, variant names and the shapes of all parts are hashed. The name of
//! the type itself is not, so renaming a nested type is free. Evaluated by the compiler, at no cost later.

use crate::{
    ids::{FNV_BASIS, fnv1a},
    wire::WireValue,
};

/// Changes when the archive format itself does (endianness, pointer width, alignment, the library's major version).
const FORMAT: &str = "rkyv-0.8 le p32 a16";

/// A hash over the structure of a type, built part by part.
///
/// This is what the macros write for `struct Deposit { amount: i64 }`:
///
/// ```
/// use shardstage_codec::{Shape, WireValue};
/// const SHAPE: u64 = Shape::structure().field("amount", <i64 as WireValue>::SHAPE).finish();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Shape(u64);

impl Shape {
    /// Begins a struct.
    #[must_use]
    pub const fn structure() -> Self {
        Self(FNV_BASIS).part(b's', "", 0)
    }

    /// Begins an enum.
    #[must_use]
    pub const fn enumeration() -> Self {
        Self(FNV_BASIS).part(b'e', "", 0)
    }

    /// Begins a type that the archive library knows: a scalar, or a container of the parts that follow.
    #[must_use]
    pub const fn builtin(name: &str) -> Self {
        Self(FNV_BASIS).part(b'b', name, 0)
    }

    /// Begins the next variant of an enum; the fields that follow are its own.
    #[must_use]
    pub const fn variant(self, name: &str) -> Self {
        self.part(b'v', name, 0)
    }

    /// Adds the next field; tuple fields are named `0`, `1` and so on.
    #[must_use]
    pub const fn field(self, name: &str, shape: u64) -> Self {
        self.part(b'f', name, shape)
    }

    /// The hash of all parts so far.
    #[must_use]
    pub const fn finish(self) -> u64 {
        self.0
    }

    /// Folds one part: its tag, the name with its length in front, so that no two lists of parts read the same, a number.
    const fn part(self, tag: u8, name: &str, number: u64) -> Self {
        let mut state = fnv1a(self.0, &[tag]);
        state = fnv1a(state, &(name.len() as u64).to_le_bytes());
        state = fnv1a(state, name.as_bytes());
        Self(fnv1a(state, &number.to_le_bytes()))
    }
}

/// The fingerprint of a type that stands alone: an event, a snapshot.
#[must_use]
pub const fn fingerprint<T: WireValue>() -> u64 {
    layout::<T>(Shape::builtin(FORMAT)).finish()
}

/// The fingerprint of a message `T` that is answered by an `R`: a node that expects another reply must not
/// send the question.
#[must_use]
pub const fn fingerprint_with_reply<T: WireValue, R: WireValue>() -> u64 {
    layout::<R>(layout::<T>(Shape::builtin(FORMAT))).finish()
}

/// Adds the shape of `T` and, against a layout that the shape does not show, size and alignment of its archive.
const fn layout<T: WireValue>(shape: Shape) -> Shape {
    shape
        .field("shape", T::SHAPE)
        .field("size", size_of::<T::Archived>() as u64)
        .field("align", align_of::<T::Archived>() as u64)
}
