//! `#[message]` and `#[wire]`: the typing that a message type would otherwise take.
//!
//! Invariant: neither macro does anything that cannot be written by hand in a few lines; each shows those
//! lines. Everything that they write is reached through `::shardstage`, so a user depends on that crate
//! alone. Generated items carry docs, with one exception: for a public enum whose variants have named fields rkyv
//! writes a resolver type without them, so a library that asks for `missing_docs` allows it on that module.

mod args;
mod expand;

use proc_macro::TokenStream;

/// Makes a struct or enum a message.
///
/// # Inside the process
///
/// `#[message]` or `#[message(reply = T)]`; the reply is `()` unless it is said. The type can hold anything that is
/// `Send` and needs no derive. By hand:
///
/// ```text
/// impl shardstage::Message for Add {
///     type Reply = i64;
/// }
/// ```
///
/// `priority = High` and `weight = some::function`, which takes the message and says how many bytes it counts in a
/// mailbox that is bounded by bytes, are `const PRIORITY: Priority = Priority::High;` and
/// `fn weight_bytes(&self) -> usize { some::function(self) }` in that impl.
///
/// # Across nodes, too
///
/// `#[message(id = "bank.deposit", version = 2, reply = T)]`; the version is 1 unless it is said. The id is the
/// message's name on the wire for all time: never reuse one for something else, and raise the version when
/// the fields change. All fields and the reply must be wire values (`WireValue` says which types are); anything
/// else does not compile. By hand:
///
/// ```text
/// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
/// struct Deposit { amount: i64 }
///
/// impl WireValue for Deposit {
///     const DEPTH: u32 = wire::depth_over(&[<i64 as WireValue>::DEPTH]);
///     const SHAPE: u64 = Shape::structure().field("amount", <i64 as WireValue>::SHAPE).finish();
/// }
/// const _: () = assert_wire::<Deposit>();
///
/// impl Wire for Deposit {
///     const NAME: &'static str = "bank.deposit";
///     const VERSION: u16 = 2;
///     const FINGERPRINT: u64 = fingerprint_with_reply::<Self, i64>();
/// }
/// impl Message for Deposit {
///     type Reply = i64;
///     const WIRE: Option<WireOps<Self>> = Some(WireOps::new());
/// }
/// impl WireMessage for Deposit {}
/// ```
///
/// # Errors
///
/// While compiling, at the token in question: unknown or repeated arguments, a `version` without `id`, an id
/// that is not 1 to 128 of `a-z A-Z 0-9 . _ - /`, generic types, unions, enums without variants, `#[rkyv(..)]` or
/// `#[cfg(..)]` inside a wire type.
#[proc_macro_attribute]
pub fn message(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::message(args.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Makes a struct or enum a wire value: a part of wire messages, an event, a snapshot.
///
/// `#[wire]` is for a part. `#[wire(id = "bank.deposited", version = 2)]` names what stands alone in the log. Neither
/// makes it a message. The derive and the impls are those that `#[message(id = "...")]` shows, without the last two.
///
/// # Errors
///
/// As `#[message]`; `reply` belongs there.
#[proc_macro_attribute]
pub fn wire(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::wire(args.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}
