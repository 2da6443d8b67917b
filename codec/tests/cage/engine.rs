//! Stands in for the engine with the few names that the macros use, so that the codec's tests need no engine.

pub use shardstage_macros::{message, wire};

use shardstage_codec::{Wire, WireValue};

/// What the macros reach through the engine.
pub mod __private {
    pub use shardstage_codec as codec;
    pub use shardstage_codec::rkyv;
}

/// The engine's message trait, as far as the macros touch it.
pub trait Message: Sized {
    /// The answer's type.
    type Reply;
    /// How the type goes over the wire, where it can.
    const WIRE: Option<WireOps<Self>> = None;
}

/// The engine's wire functions, as far as the macros touch them.
#[derive(Debug)]
pub struct WireOps<M>(core::marker::PhantomData<M>);

impl<M: Message<Reply: WireValue> + Wire> WireOps<M> {
    /// The functions of `M`.
    #[expect(clippy::new_without_default, reason = "a const fn, as in the engine")]
    #[must_use]
    pub const fn new() -> Self {
        Self(core::marker::PhantomData)
    }
}

/// The engine's marker of wire messages.
pub trait WireMessage: Message<Reply: WireValue> + Wire {}
