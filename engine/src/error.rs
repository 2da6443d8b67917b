//! Errors of the public API: one small enum per operation, each handing back what it took.

use std::fmt;
use std::io;

use crate::port::service::ServiceError;

/// The result of [`Engine`](crate::Engine) calls and of `main` functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of this crate, for `main` functions and tests. Message contents are dropped on conversion.
#[derive(Debug)]
pub enum Error {
    /// The engine did not start.
    Start(StartError),
    /// A tell was refused.
    Tell(&'static str),
    /// An ask did not end well.
    Ask(AskError),
    /// A spawn was refused because the engine is shutting down or out of actor slots.
    Spawn(SpawnError),
    /// The engine stopped, but not everything was drained.
    Shutdown(ShutdownError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => error.fmt(f),
            Self::Tell(why) => write!(f, "tell refused: {why}"),
            Self::Ask(error) => error.fmt(f),
            Self::Spawn(error) => error.fmt(f),
            Self::Shutdown(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl<M> From<TellError<M>> for Error {
    fn from(error: TellError<M>) -> Self {
        Self::Tell(error.reason())
    }
}

macro_rules! error_from {
    ($($variant:ident($source:ty)),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

error_from!(Start(StartError), Ask(AskError), Spawn(SpawnError), Shutdown(ShutdownError));

/// Why a tell was refused. Nothing was sent; the message comes back.
#[derive(PartialEq, Eq)]
pub enum TellError<M> {
    /// The receiver's mailbox, or the queue towards its shard or node, is full. Try again later or shed load.
    Full(M),
    /// The receiver has stopped, or its engine is shutting down. Sending again is pointless.
    Closed(M),
    /// The receiver's node cannot be reached at present. Only virtual and remote actors.
    Unavailable(M),
    /// The actor type is not registered with this engine, or does not accept the message over the wire. Only virtual and
    /// remote actors.
    NoHandler(M),
    /// Too many senders wait for receivers of that shard already. Only from a waiting send.
    TooManyWaiters(M),
    /// The encoded message is larger than a frame may be. Only virtual and remote actors.
    TooLarge {
        /// The message.
        message: M,
        /// The largest encoded message that passes, bytes.
        limit: usize,
    },
}

impl<M> TellError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message)
            | Self::Closed(message)
            | Self::Unavailable(message)
            | Self::NoHandler(message)
            | Self::TooManyWaiters(message) => message,
            Self::TooLarge { message, .. } => message,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Full(_) => "the receiver's queue is full",
            Self::Closed(_) => "the receiver has stopped",
            Self::Unavailable(_) => "the receiver's node cannot be reached",
            Self::NoHandler(_) => "the actor type is not registered for this message",
            Self::TooManyWaiters(_) => "too many senders wait already",
            Self::TooLarge { .. } => "the encoded message is larger than a frame may be",
        }
    }

    /// The reason alone.
    pub(crate) fn rejected(&self) -> Rejected {
        match self {
            Self::Full(_) | Self::TooManyWaiters(_) => Rejected::Full,
            Self::Closed(_) => Rejected::Closed,
            Self::Unavailable(_) => Rejected::Unavailable,
            Self::NoHandler(_) => Rejected::NoHandler,
            Self::TooLarge { .. } => Rejected::TooLarge,
        }
    }

    pub(crate) fn new(reason: Rejected, message: M) -> Self {
        match reason {
            Rejected::Full => Self::Full(message),
            Rejected::Closed | Rejected::Expired => Self::Closed(message),
            Rejected::NoHandler => Self::NoHandler(message),
            Rejected::Unavailable => Self::Unavailable(message),
            Rejected::TooLarge => Self::TooLarge { message, limit: shardstage_codec::limits::PAYLOAD_BYTES_MAX },
        }
    }
}

impl<M> fmt::Debug for TellError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
            Self::Unavailable(_) => "Unavailable",
            Self::NoHandler(_) => "NoHandler",
            Self::TooManyWaiters(_) => "TooManyWaiters",
            Self::TooLarge { .. } => "TooLarge",
        };
        write!(f, "{name}({})", std::any::type_name::<M>())
    }
}

impl<M> fmt::Display for TellError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl<M> std::error::Error for TellError<M> {}

/// How an ask ends when not with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Surely not executed.
    Rejected(Rejected),
    /// Begun, not finished: the handler panicked or dropped its reply; state was rebuilt or the actor stopped.
    Failed(Panicked),
    /// May or may not have been executed.
    Unknown(Unknown),
    /// Surely not executed: whoever was asked waits, up the same chain of calls, for the handler that asked. Ask without waiting,
    /// by `cx.ask(..).then(..)`, or tell.
    Deadlock(Deadlock),
}

/// Why a message was surely not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// A queue on the way was full.
    Full,
    /// The receiver has stopped.
    Closed,
    /// The deadline passed before work began.
    Expired,
    /// The actor type or message is not registered at the receiver.
    NoHandler,
    /// The receiver's node cannot be reached, or does not own the actor.
    Unavailable,
    /// The encoded message is larger than a frame may be.
    TooLarge,
}

/// Why the outcome of an ask is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// No reply came before the deadline.
    Deadline,
    /// The session with the receiver's node broke.
    PeerLost,
    /// The reply, or its effect, came from an owner of an older epoch and does not count.
    Fenced,
}

/// The actors that would have waited for each other, by type and key or id: from the one whom the last one asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock(pub Box<str>);

/// The text of a handler's panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panicked(pub Box<str>);

impl Panicked {
    pub(crate) fn from_payload(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&'static str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic without a text".to_owned());
        Self(text.into_boxed_str())
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "surely not executed: {reason}"),
            Self::Failed(panic) => write!(f, "begun, not finished: {}", panic.0),
            Self::Unknown(reason) => write!(f, "outcome unknown: {reason}"),
            Self::Deadlock(cycle) => write!(f, "surely not executed, as it would wait for itself: {}", cycle.0),
        }
    }
}

impl std::error::Error for AskError {}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "a queue on the way was full",
            Self::Closed => "the receiver has stopped",
            Self::Expired => "the deadline passed before work began",
            Self::NoHandler => "the receiver does not take this message",
            Self::Unavailable => "the receiver's node cannot be reached or does not own the actor",
            Self::TooLarge => "the encoded message is larger than a frame may be",
        })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "no reply before the deadline",
            Self::PeerLost => "the session with the receiver's node broke",
            Self::Fenced => "the receiver acted under an epoch that is over",
        })
    }
}

/// Why a spawn was refused. The factory was dropped; nothing was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// The engine is shutting down or gone.
    Closed,
    /// The shard has no actor slot left (2^26 per origin).
    Exhausted,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the engine is shutting down",
            Self::Exhausted => "the shard has no actor slot left",
        })
    }
}

impl std::error::Error for SpawnError {}

/// Why the engine did not start. Nothing runs.
#[derive(Debug)]
pub enum StartError {
    /// A setting is out of range; says which and what is allowed.
    Config(String),
    /// A shard's driver could not be made.
    Driver(io::Error),
    /// A service, such as the event log, refused to start.
    Service(ServiceError),
    /// The transport refused to start.
    Transport(io::Error),
    /// The thread of a shard could not be started or pinned.
    Thread(io::Error),
    /// The introspection port could not be opened.
    Introspection(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(why) => write!(f, "configuration: {why}"),
            Self::Driver(error) => write!(f, "driver: {error}"),
            Self::Service(error) => write!(f, "service {error}"),
            Self::Transport(error) => write!(f, "transport: {error}"),
            Self::Thread(error) => write!(f, "shard thread: {error}"),
            Self::Introspection(error) => write!(f, "introspection port: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What shutting down could not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutdownError {
    /// Actors were still busy when the drain time was over; their queued messages went to the dead letters.
    DrainTimeout {
        /// How many shards were still busy.
        busy_shards: usize,
    },
    /// A shard's thread panicked, which is a bug in the engine or in a service.
    ShardPanicked,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DrainTimeout { busy_shards } => {
                write!(f, "{busy_shards} shards were still busy when the drain time was over")
            }
            Self::ShardPanicked => f.write_str("a shard's thread panicked"),
        }
    }
}

impl std::error::Error for ShutdownError {}
