//! Messages: what an actor can receive, what it answers, and how a wire message becomes bytes.
//!
//! Invariant: the reply type belongs to the message, so whoever holds a reply place of `M` holds one of `M::Reply`.

use crate::policy::Priority;
use shardstage_codec as codec;
use shardstage_codec::{AlignedBytes, DecodeError, EncodeError, MessageId, Wire, WireValue};

/// Something that can be told to an actor or asked of it. Usually derived with [`message`](macro@crate::message).
///
/// By hand it is one line: `impl Message for Add { type Reply = i64; }`.
pub trait Message: Sized + Send + 'static {
    /// What a handler answers; `()` where there is nothing to say.
    type Reply: Send + 'static;

    /// How urgent it is, for actors whose mailbox is [in order of priority](crate::Mailbox::by_priority); no others look at it.
    const PRIORITY: Priority = Priority::Normal;

    /// How many bytes it counts in a mailbox that is [bounded by bytes](crate::Mailbox::bytes); no others ask.
    ///
    /// What the value itself takes, unless said otherwise: a message that owns memory adds it. Asked once for each message that comes to
    /// such a mailbox, by whoever puts it there. One that panics here counts 64 bytes, and the panic is counted.
    #[must_use]
    fn weight_bytes(&self) -> usize {
        size_of::<Self>()
    }

    /// How the message crosses nodes; `None` for one that stays inside the process.
    #[doc(hidden)]
    const WIRE: Option<WireOps<Self>> = None;
}

/// A message with a stable id, which may cross nodes. Implemented by `#[message(id = "...")]`.
pub trait WireMessage: Message<Reply: WireValue> + Wire {}

/// The codec of one wire message and of its reply, as function pointers that need no trait bounds to be called.
#[doc(hidden)]
pub struct WireOps<M: Message> {
    pub(crate) id: MessageId,
    pub(crate) version: u16,
    pub(crate) name: &'static str,
    pub(crate) encode: fn(&M, &mut AlignedBytes) -> Result<usize, EncodeError>,
    pub(crate) decode_reply: fn(&[u8]) -> Result<M::Reply, DecodeError>,
}

impl<M> WireOps<M>
where
    M: Message + Wire,
    M::Reply: WireValue,
{
    /// The operations of `M`.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "called in a const, which Default cannot be")]
    pub const fn new() -> Self {
        Self {
            id: M::ID,
            version: M::VERSION,
            name: M::NAME,
            encode: codec::encode::<M>,
            decode_reply: codec::decode::<M::Reply>,
        }
    }
}
