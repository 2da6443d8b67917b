//! Shardstage: a shard-per-core actor engine.
//!
//! Actors live on shards, one thread per core; shards talk over lock-free rings, nodes over a [`port::transport`], and what
//! else lives on a shard, such as an event log, is a [`port::service`].
//!
//! The message path, in reading order: [`ActorRef::tell`] (`actor_ref.rs`) -> `envelope.rs` -> `route.rs` -> the mailbox
//! (`shard/cell.rs`), a ring (`shard/mesh.rs`) or the injector (`link.rs`) -> `shard/turn.rs` -> `shard/activate.rs` ->
//! `receive.rs` -> [`Handler::handle`].

mod actor;
mod actor_ref;
mod address;
mod ask;
mod asking;
mod behaviour;
mod blame;
mod bonds;
mod builder;
mod carried;
mod cluster;
mod config;
mod context;
mod context_block;
mod credit;
mod dead_letter;
mod dead_letter_feed;
pub mod driver;
mod engine;
mod engine_link;
mod envelope;
mod erased;
mod error;
mod family;
mod fan_out;
mod gate;
#[cfg(any(feature = "host-tokio", feature = "host-monoio", feature = "host-glommio"))]
pub mod host;
mod intercept;
pub mod introspect;
mod key;
mod latch;
pub mod limits;
mod link;
#[cfg(all(test, loom))]
mod loom_models;
mod message;
mod moving;
mod naming;
mod packed_address;
mod parked;
mod peers;
mod placement;
mod policy;
pub mod port;
mod random;
mod receive;
mod reentrancy;
mod reply;
mod request;
mod ring;
mod route;
mod run_queue;
mod runner;
mod seed;
mod sending;
mod shard;
#[cfg(all(test, shuttle))]
mod shuttle_models;
mod signal;
pub mod sim;
mod stash;
mod stats;
mod supervision;
mod sync;
pub mod testkit;
mod timer;
mod until;
mod virtual_ref;
mod waiting;
mod waker;
mod workers;

pub use actor::{Actor, ArchivedHandler, AsyncHandler, BoxError, DeferredHandler, Handler, StopReason, VirtualActor};
pub use actor_ref::{ActorId, ActorRef, Recipient};
pub use address::{Address, ResolveError};
pub use ask::Ask;
pub use asking::aggregate::{AskAll, AskFirst, PendingAskAll, PendingAskFirst, ask_all};
pub use asking::attach::StreamEvent;
pub use asking::blocking::{BlockingFull, PendingBlocking};
pub use asking::cancel::{AskHandle, Cancelled};
pub use asking::stream::{ItemError, ItemSender, ItemStream, item_stream};
pub use behaviour::{Behaviours, StateTimeout};
pub use blame::{Blamed, Culprit, LongTurn, LongTurns};
pub use builder::EngineBuilder;
pub use carried::{AskInRequest, PendingAskInRequest};
pub use cluster::activity::Activity;
pub use cluster::registry::TypeBuilder;
pub use cluster::settings::VirtualSettings;
pub use config::{Config, IdleStrategy};
pub use context::{AskTarget, Context, PendingAsk, Resume};
pub use dead_letter::{DeadLetter, DeadLetters, MessageName, Reason};
pub use dead_letter_feed::{DeadLetterFeed, DeadLetterSubscription};
pub use driver::DriverChoice;
pub use engine::Engine;
pub use error::{
    AskError, Deadlock, Error, Panicked, Rejected, Result, ShutdownError, SpawnError, StartError, TellError, Unknown,
};
pub use fan_out::{Audience, AudienceMember, FanOut, FanOutTarget, Shared};
pub use intercept::{Interceptor, Outcome, Received, Sent, Verdict};
pub use introspect::{Introspect, Snapshot};
pub use key::Key;
pub use latch::Happening;
pub use message::{Message, WireMessage, WireOps};
pub use moving::{MoveError, Moving};
pub use naming::{GetOrSpawnError, LookupError, NameWaitError, Named, PendingName, RegisterError, WhenNamed};
pub use peers::PeerState;
pub use placement::Placement;
pub use policy::{Mailbox, Overflow, Priority};
pub use receive::{Receive, kind};
pub use reentrancy::Reentrancy;
pub use reply::Reply;
pub use request::{Attached, Request, RequestError};
pub use sending::Sending;
pub use shardstage_codec::{Epoch, GroupId, NodeId, ShardId, Slot, TraceParent, TraceParentError};
pub use shardstage_macros::{message, wire};
pub use stash::StashFull;
pub use stats::ShardStats;
pub use supervision::{Backoff, ChildSpec, Directive, Failure, FailureKind, Restart, Supervision};
pub use timer::TimerId;
pub use virtual_ref::VirtualRef;
pub use workers::WorkerRef;

/// What most programs need: `use shardstage::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Actor, ActorRef, Address, AskError, AsyncHandler, Config, Context, DeferredHandler, Engine, Handler,
        IdleStrategy, Message, Recipient, Rejected, Reply, StopReason, TellError, Unknown, VirtualActor, VirtualRef,
        message, wire,
    };
}

/// What the macros' output names. Not for users.
#[doc(hidden)]
pub mod __private {
    pub use shardstage_codec as codec;
    pub use shardstage_codec::rkyv;
}
