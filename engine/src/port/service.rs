//! The `Service` port: what else lives on a shard and takes part in its turn. The event log is one.
//!
//! Invariant: a service is owned by its shard and called on that shard's thread only: `start` once, then in every turn the
//! completions that arrived, `poll`, later `flush`; at the end `stop` until it returns `true`. While one of its methods
//! runs it may tell and answer through ordinary references; those messages are handled later in the turn, never inside the
//! call. Actors reach it with `Context::service`.

use std::any::Any;
use std::fmt;
use std::io;

use shardstage_codec::{NodeId, ShardId};

use super::driver::{Driver, FileCompletion, FileId, FileOp, FileRequest};

/// Why a service could not start; the engine does not start either.
#[derive(Debug)]
pub struct ServiceError {
    /// The service.
    pub service: &'static str,
    /// What went wrong, naming the file or setting.
    pub reason: String,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.service, self.reason)
    }
}

impl std::error::Error for ServiceError {}

/// How far a service is with starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// Ready: actors may run.
    Ready,
    /// Still reading; the shard turns (polling only services) until it is ready.
    Pending,
}

/// What a service gets for the length of one call.
pub struct ServiceContext<'a> {
    driver: &'a mut dyn Driver,
    service_index: u8,
    shard: ShardId,
    now_ns: u64,
}

const TOKEN_BITS: u32 = 56;

impl<'a> ServiceContext<'a> {
    /// Used by the shard, and by tests that drive a service by hand.
    pub fn new(driver: &'a mut dyn Driver, service_index: u8, shard: ShardId, now_ns: u64) -> Self {
        Self { driver, service_index, shard, now_ns }
    }

    /// The driver, for control calls, time and randomness. Data calls go through [`submit`](Self::submit).
    pub fn driver(&mut self) -> &mut dyn Driver {
        self.driver
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The turn's time on the driver's clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Submits a data call; [`Service::completed`] gets its answer with the same token.
    ///
    /// # Panics
    /// When `token` needs more than 56 bits.
    pub fn submit(&mut self, token: u64, file: FileId, op: FileOp) {
        assert!(token >> TOKEN_BITS == 0, "service tokens have 56 bits");
        let token = token | u64::from(self.service_index) << TOKEN_BITS;
        self.driver.submit(FileRequest { token, file, op });
    }

    /// Splits a driver token into (service index, the service's token).
    #[must_use]
    pub fn split_token(token: u64) -> (u8, u64) {
        ((token >> TOKEN_BITS) as u8, token & ((1 << TOKEN_BITS) - 1))
    }
}

/// Lives on a shard and takes part in its turn.
pub trait Service: Any {
    /// A short name for errors and statistics.
    fn name(&self) -> &'static str;

    /// Called every turn before the first actor runs, until it answers [`Started::Ready`]. Completions arrive through
    /// [`completed`](Self::completed) in between.
    ///
    /// # Errors
    /// Ends the engine's start; must say what is wrong with which file or setting.
    fn start(&mut self, cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError>;

    /// One data call ended.
    fn completed(&mut self, completion: FileCompletion, cx: &mut ServiceContext<'_>);

    /// Does pending work; called once a turn. Returns whether anything happened.
    fn poll(&mut self, cx: &mut ServiceContext<'_>) -> bool;

    /// Submits what this turn's actors produced; called once at the end of a turn.
    fn flush(&mut self, cx: &mut ServiceContext<'_>);

    /// When the service must be polled again at the latest, on the driver's clock.
    fn next_deadline_ns(&self) -> Option<u64>;

    /// Whether a durable write is on its way: the shard then yields the CPU between turns.
    fn commit_in_flight(&self) -> bool;

    /// Asks for an orderly end, after the last actor stopped; called every turn until it returns `true`.
    fn stop(&mut self, cx: &mut ServiceContext<'_>) -> bool;

    /// Counters by name, for the engine's statistics; values only grow.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Where a service instance lives.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSeat {
    /// The node (0 without a cluster).
    pub node: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// How many shards the node has.
    pub shard_count: u16,
}

/// Makes one service per shard, on that shard's thread.
pub trait ServiceFactory: Send + Sync + 'static {
    /// Makes the service of one shard.
    ///
    /// # Errors
    /// What is wrong with the configuration, by name.
    fn make(&self, seat: &ServiceSeat) -> io::Result<Box<dyn Service>>;
}
