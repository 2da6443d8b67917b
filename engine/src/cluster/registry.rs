//! The registry of one engine: which virtual actor types it hosts, and which messages they take over the wire.
//!
//! Invariant: filled before the engine starts and never changed afterwards, so every shard reads it without a lock.

use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use shardstage_codec::{ActorTypeId, DecodeError, GroupId, MessageId, NodeId, WireValue};

use crate::actor::VirtualActor;
use crate::cluster::settings::VirtualSettings;
use crate::envelope::{Envelope, EpochTag};
use crate::error::Rejected;
use crate::fan_out::{Shared, Source};
use crate::key::Key;
use crate::limits::WORKERS_MAX;
use crate::message::WireMessage;
use crate::port::frame::Frame;
use crate::port::transport::{Lane, SchemaLine};
use crate::receive::Receive;
use crate::reentrancy::Reentrancy;
use crate::reply::{NewSlot, RemoteAsker, ReplyAddress, ReplyOps, ReplyWire, Waiter};
use crate::shard::{ActorBox, Again, Sent, ShardCell};

/// What the inbound path needs of one accepted message type.
pub(crate) struct InboundMessage {
    pub(crate) schema: SchemaLine,
    /// Wraps the message for the actor: rebuilt from the payload, the second argument, or kept where it lies in the frame.
    pub(crate) wrap: fn(Frame<'_>, &[u8], EpochTag) -> Result<Envelope, DecodeError>,
    /// Opens a slot whose answer goes to another node.
    pub(crate) open_slot: fn(&ShardCell, RemoteAsk) -> Result<ReplyAddress, Rejected>,
}

/// What the inbound path needs of a message for many.
pub(crate) struct SharedMessage {
    pub(crate) schema: SchemaLine,
    /// Rebuilds it, once for the node.
    pub(crate) decode: DecodeShared,
}

type DecodeShared = fn(&[u8]) -> Result<Arc<dyn Source>, DecodeError>;

/// Where the answer to a remote ask goes.
pub(crate) struct RemoteAsk {
    pub(crate) peer: NodeId,
    pub(crate) correlation: u64,
    pub(crate) group: GroupId,
    pub(crate) epoch: shardstage_codec::Epoch,
    pub(crate) deadline_ns: u64,
}

/// One virtual actor type.
pub(crate) struct RegisteredType {
    pub(crate) id: ActorTypeId,
    pub(crate) name: &'static str,
    pub(crate) rust_type: TypeId,
    pub(crate) activate: fn(Key) -> ActorBox,
    pub(crate) settings: VirtualSettings,
    /// The numbers of a shard's workers; empty for a type whose keys are actors.
    pub(crate) workers: Box<[Key]>,
    /// What is wrong with the registration.
    pub(crate) wrong: Option<String>,
    pub(crate) lane: Lane,
    pub(crate) messages: HashMap<(MessageId, u16), InboundMessage, FixedState>,
    /// Messages that it takes as one of many receivers.
    pub(crate) shared: HashMap<(MessageId, u16), SharedMessage, FixedState>,
}

/// All registered types.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) types: Vec<RegisteredType>,
}

impl Registry {
    pub(crate) fn position(&self, rust_type: TypeId) -> Option<usize> {
        self.types.iter().position(|registered| registered.rust_type == rust_type)
    }

    pub(crate) fn by_id(&self, id: ActorTypeId) -> Option<usize> {
        self.types.iter().position(|registered| registered.id == id)
    }

    /// The schema lines of every accepted message, ordered and without repetition.
    pub(crate) fn schema(&self) -> Vec<SchemaLine> {
        let mut lines: Vec<SchemaLine> = self
            .types
            .iter()
            .flat_map(|registered| {
                let single = registered.messages.values().map(|message| &message.schema);
                single.chain(registered.shared.values().map(|message| &message.schema))
            })
            .cloned()
            .collect();
        lines.sort_by_key(|line| (line.id, line.version));
        lines.dedup();
        lines
    }
}

/// Says how a virtual actor type is hosted and which messages it takes; the argument of
/// [`EngineBuilder::register`](crate::EngineBuilder::register).
pub struct TypeBuilder<A> {
    pub(crate) registered: RegisteredType,
    _actor: PhantomData<fn(A)>,
}

struct Answers<M>(PhantomData<M>);

impl<M: WireMessage> Answers<M> {
    const WIRE: &'static ReplyWire<M::Reply> =
        &ReplyWire { id: M::ID, version: M::VERSION, encode: shardstage_codec::encode::<M::Reply> };
}

impl<A: VirtualActor> TypeBuilder<A> {
    pub(crate) fn new() -> Self {
        let registered = RegisteredType {
            id: ActorTypeId::of(A::TYPE),
            name: A::TYPE,
            rust_type: TypeId::of::<A>(),
            activate: |key| ActorBox::new::<A, _>(Sent(Again(move || A::activate(key.as_str())))),
            settings: A::settings(),
            workers: Box::default(),
            wrong: None,
            lane: Lane::User,
            messages: HashMap::with_hasher(FixedState::default()),
            shared: HashMap::with_hasher(FixedState::default()),
        };
        Self { registered, _actor: PhantomData }
    }

    /// Accepts messages of type `M` from other nodes.
    #[must_use]
    pub fn accept<M, K>(mut self) -> Self
    where
        M: WireMessage,
        M::Reply: WireValue,
        A: Receive<M, K>,
        K: 'static,
    {
        let message = InboundMessage {
            schema: SchemaLine { id: M::ID, version: M::VERSION, fingerprint: M::FINGERPRINT, name: M::NAME },
            wrap: crate::receive::wrap::<A, M, K>,
            open_slot: |shard, ask| {
                let asker = RemoteAsker::<M::Reply> {
                    peer: ask.peer,
                    correlation: ask.correlation,
                    group: ask.group,
                    epoch: ask.epoch,
                    wire: Answers::<M>::WIRE,
                };
                let new = NewSlot {
                    deadline_ns: ask.deadline_ns,
                    ops: ReplyOps::of::<M>(),
                    waiter: Waiter::Remote(ask.peer),
                    closure: Some(crate::erased::Erased::new(asker)),
                    peer: None,
                    group: Some(ask.group),
                    incarnation: 0,
                };
                shard.core.borrow_mut().replies.insert(new).map_err(|(reason, _)| reason)
            },
        };
        self.registered.messages.insert((M::ID, M::VERSION), message);
        self
    }

    /// Accepts messages of type `M` that another node sends to many receivers at once; see [`Audience`](crate::Audience). The
    /// actor handles `Shared<M>`, or `M` where that is `Clone`.
    #[must_use]
    pub fn accept_shared<M, K>(mut self) -> Self
    where
        M: WireMessage + Sync,
        A: Receive<Shared<M>, K>,
        K: 'static,
    {
        let schema = SchemaLine { id: M::ID, version: M::VERSION, fingerprint: M::FINGERPRINT, name: M::NAME };
        let message = SharedMessage { schema, decode: crate::fan_out::decode::<A, M, K> };
        self.registered.shared.insert((M::ID, M::VERSION), message);
        self
    }

    /// How the actors are run on this engine, all of it: `account.settings(VirtualSettings::default().never_idle())`. The type's
    /// own settings unless said.
    #[must_use]
    pub fn settings(mut self, settings: VirtualSettings) -> Self {
        self.registered.settings = settings;
        self
    }

    /// See [`VirtualSettings::idle_timeout`].
    #[must_use]
    pub fn idle_timeout(self, idle: Duration) -> Self {
        self.set(|settings| settings.idle_timeout(idle))
    }

    /// See [`VirtualSettings::never_idle`].
    #[must_use]
    pub fn never_idle(self) -> Self {
        self.set(VirtualSettings::never_idle)
    }

    /// See [`VirtualSettings::drain_timeout`].
    #[must_use]
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.drain_timeout(timeout))
    }

    /// See [`VirtualSettings::mailbox_capacity`].
    #[must_use]
    pub fn mailbox_capacity(self, capacity: u32) -> Self {
        self.set(|settings| settings.mailbox_capacity(capacity))
    }

    /// See [`VirtualSettings::mailbox_bytes`].
    #[must_use]
    pub fn mailbox_bytes(self, bytes: u32) -> Self {
        self.set(|settings| settings.mailbox_bytes(bytes))
    }

    /// See [`VirtualSettings::stays_for_timers`].
    #[must_use]
    pub fn stays_for_timers(self) -> Self {
        self.set(VirtualSettings::stays_for_timers)
    }

    /// See [`VirtualSettings::reentrancy`].
    #[must_use]
    pub fn reentrancy(self, reentrancy: Reentrancy) -> Self {
        self.set(|settings| settings.reentrancy(reentrancy))
    }

    /// Makes this a type of stateless workers: up to `count` of them a shard, 1 to 256, that
    /// [`Engine::workers`](crate::Engine::workers) addresses as one. [`VirtualActor::activate`] gets a worker's number on its
    /// shard; idle ones leave as other virtual actors do.
    #[must_use]
    pub fn workers_per_shard(mut self, count: u16) -> Self {
        self.registered.workers = (0..count).map(|number| Key::from(number.to_string())).collect();
        if count == 0 || count > WORKERS_MAX {
            self.registered.wrong = Some(format!("workers_per_shard is {count}; allowed are 1 to {WORKERS_MAX}"));
        }
        self
    }

    fn set(mut self, change: impl FnOnce(VirtualSettings) -> VirtualSettings) -> Self {
        self.registered.settings = change(self.registered.settings);
        self
    }

    /// Messages to this type travel on the bulk lane, so that large ones never delay others. Order between two actors does
    /// not change, since the lane belongs to the receiving type.
    #[must_use]
    pub fn bulk(mut self) -> Self {
        self.registered.lane = Lane::Bulk;
        self
    }
}

impl<A> std::fmt::Debug for TypeBuilder<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeBuilder({})", self.registered.name)
    }
}
