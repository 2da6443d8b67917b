//! Why a name was not given or not found: one enum an operation. In no case has anything changed.

use std::fmt;

use crate::actor_ref::ActorId;
use crate::error::SpawnError;

/// Why a name was not given to an actor. No name has changed, and what was to be spawned under it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// Another actor has the name, or the same one already; it has it until it has stopped.
    Taken {
        /// Who has it.
        holder: ActorId,
        /// The holder's Rust type.
        holder_type: &'static str,
    },
    /// The actor has stopped, or the engine is shutting down.
    Closed,
    /// The actor belongs to another engine of this process.
    OtherEngine,
    /// The shard has no actor slot left.
    Exhausted,
}

/// Why no reference was found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// Nobody has the name.
    NotFound,
    /// The actor of that name is of another type.
    WrongType {
        /// The Rust type that was asked for.
        wanted: &'static str,
        /// The Rust type of the actor.
        found: &'static str,
    },
}

/// Why an actor was neither found under a name nor spawned with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetOrSpawnError {
    /// The actor of that name is of another type.
    WrongType {
        /// The Rust type that was asked for.
        wanted: &'static str,
        /// The Rust type of the actor.
        found: &'static str,
    },
    /// Nobody has the name, and the actor could not be spawned.
    Spawn(SpawnError),
}

/// Why waiting for a name ended without a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameWaitError {
    /// Nobody took the name in time.
    Deadline,
    /// An actor of another type took it.
    WrongType {
        /// The Rust type that was asked for.
        wanted: &'static str,
        /// The Rust type of the actor.
        found: &'static str,
    },
    /// The engine is shutting down.
    Closed,
    /// The shard has no place left for another answer that is waited for.
    Full,
}

fn wrong_type(f: &mut fmt::Formatter<'_>, wanted: &str, found: &str) -> fmt::Result {
    write!(f, "the actor of that name is a {found}, not a {wanted}")
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { holder, holder_type } => write!(f, "the name is taken by {holder:?}, a {holder_type}"),
            Self::Closed => f.write_str("the actor has stopped, or the engine is shutting down"),
            Self::OtherEngine => f.write_str("the actor belongs to another engine"),
            Self::Exhausted => f.write_str("the shard has no actor slot left"),
        }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("nobody has that name"),
            Self::WrongType { wanted, found } => wrong_type(f, wanted, found),
        }
    }
}

impl fmt::Display for GetOrSpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongType { wanted, found } => wrong_type(f, wanted, found),
            Self::Spawn(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for NameWaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("nobody took the name before the deadline"),
            Self::WrongType { wanted, found } => wrong_type(f, wanted, found),
            Self::Closed => f.write_str("the engine is shutting down"),
            Self::Full => f.write_str("the shard waits for too many answers already"),
        }
    }
}

impl std::error::Error for RegisterError {}
impl std::error::Error for LookupError {}
impl std::error::Error for GetOrSpawnError {}
impl std::error::Error for NameWaitError {}

impl From<SpawnError> for RegisterError {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::Closed => Self::Closed,
            SpawnError::Exhausted => Self::Exhausted,
        }
    }
}
