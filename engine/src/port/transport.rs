//! The `Transport` port: bytes between nodes.
//!
//! Invariant: within one (peer, lane) and one session, frames arrive in send order, whole, once. A broken session loses
//! only frames that were not delivered yet, and says so with [`TransportEvents::peer_down`] before the next session opens.
//! One transport instance lives on each shard and is called on that shard's thread only.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use shardstage_codec::{NodeId, ShardId};

use super::driver::Driver;
use super::frame::Frame;

/// Independent streams to one peer: a stalled lane delays no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Replies and system frames; has reserved room, so that an answer is never refused for want of it.
    Control = 0,
    /// Ordinary messages.
    User = 1,
    /// Messages to actor types that were registered for it, because they are large. A lane belongs to the receiving type,
    /// not to a message's size, so that order between two actors never depends on sizes.
    Bulk = 2,
}

impl Lane {
    /// All lanes, by index.
    pub const ALL: [Self; 3] = [Self::Control, Self::User, Self::Bulk];
}

/// Why room for a frame was not given. Nothing was sent and no state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// The lane's buffer is full; try again after a turn.
    Full,
    /// There is no session with this peer at the moment; the transport keeps dialling.
    Down,
    /// The peer is not in the node list, or is this node.
    UnknownPeer,
    /// The frame is larger than the limit, in bytes.
    TooLarge {
        /// The largest frame that passes.
        limit: usize,
    },
}

/// Why a session with a peer ended or could not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerDown {
    /// The peer closed it on purpose.
    Closed,
    /// Nothing was heard for the idle time.
    TimedOut,
    /// The certificate of one side was refused; says which side and why.
    CertificateRefused(String),
    /// The peer speaks another protocol version, belongs to another cluster, or has another schema; says which.
    Incompatible(String),
    /// Anything else, in words.
    Failed(String),
}

impl fmt::Display for PeerDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed the session"),
            Self::TimedOut => f.write_str("nothing was heard from the peer within the idle time"),
            Self::CertificateRefused(why) => write!(f, "certificate refused: {why}"),
            Self::Incompatible(why) => write!(f, "incompatible peer: {why}"),
            Self::Failed(why) => write!(f, "session failed: {why}"),
        }
    }
}

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The node.
    pub peer: NodeId,
    /// A small number for the peer's shard: the same in every session with it, unlike that of any other shard or peer.
    pub link: u32,
    /// The session, unlike any earlier one of this transport.
    pub session: u64,
}

/// What a transport tells the engine while it is polled.
pub trait TransportEvents {
    /// A whole frame arrived: untrusted bytes from an authenticated peer.
    fn frame(&mut self, from: Source, lane: Lane, frame: Frame<'_>);

    /// A frame was queued for a session that is over, and surely did not leave. Called before
    /// [`peer_down`](Self::peer_down) says so. What left and was not acknowledged may or may not have arrived.
    fn unsent(&mut self, _peer: NodeId, _frame: &[u8]) {}

    /// A session with the peer is open. `session` differs from every earlier one with that peer.
    fn peer_up(&mut self, peer: NodeId, session: u64);

    /// The session is gone, or an attempt to open one failed. Called again only after the reason or state changed.
    fn peer_down(&mut self, peer: NodeId, reason: &PeerDown);
}

/// Carries frames to other nodes for one shard.
pub trait Transport {
    /// Binds sockets and begins to dial. Called once, before any other method.
    ///
    /// # Errors
    /// What could not be bound, by address.
    fn start(&mut self, driver: &mut dyn Driver) -> io::Result<()>;

    /// Room for whole frames of `len` bytes in all (a multiple of 16) on (peer, lane). The caller fills it wholly before any
    /// other call; the frames count as queued from then on.
    ///
    /// # Errors
    /// See [`ReserveError`].
    fn reserve(&mut self, peer: NodeId, lane: Lane, len: usize) -> Result<&mut [u8], ReserveError>;

    /// Receives, runs timers and delivers what arrived. Returns whether anything happened.
    fn poll(&mut self, driver: &mut dyn Driver, events: &mut dyn TransportEvents) -> bool;

    /// Sends what was reserved since the last flush, in as few datagrams as possible.
    fn flush(&mut self, driver: &mut dyn Driver);

    /// The same for a shard whose next turn follows at once: may leave small batches for that one, but none for long.
    fn flush_soon(&mut self, driver: &mut dyn Driver) {
        self.flush(driver);
    }

    /// When [`poll`](Self::poll) must be called again at the latest, on the driver's clock.
    fn next_deadline_ns(&self) -> Option<u64>;

    /// Asks for an orderly end; called every turn until it returns `true`: everything queued was sent or given up and the
    /// peers were told.
    fn stop(&mut self, driver: &mut dyn Driver) -> bool;

    /// The address that the shard's socket is bound to, once started.
    fn local_address(&self) -> Option<SocketAddr>;

    /// Tells the transport which schema lines (message id, version, fingerprint, name) its hello should carry.
    fn set_schema(&mut self, _schema: &[SchemaLine]) {}
}

/// One message type that this node accepts; peers exchange these to name a mismatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaLine {
    /// Stable id of the message.
    pub id: shardstage_codec::MessageId,
    /// Its version.
    pub version: u16,
    /// Fingerprint of its structure.
    pub fingerprint: u64,
    /// Its name, for error messages.
    pub name: &'static str,
}

/// One node of the fixed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Position in the list.
    pub id: NodeId,
    /// Name in certificates and logs.
    pub name: String,
    /// Address of shard 0; shard i listens on port + i.
    pub address: SocketAddr,
    /// How many shards the node has.
    pub shards: u16,
}

/// The fixed list of nodes, and which of them this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Name of the cluster; certificates carry it.
    pub name: String,
    /// This node.
    pub me: NodeId,
    /// All nodes, ordered by id, ids 0, 1, 2, ...
    pub nodes: Vec<NodeInfo>,
}

/// Where a transport instance lives.
#[derive(Clone, Debug)]
pub struct TransportSeat {
    /// The shard.
    pub shard: ShardId,
    /// The cluster, with this node's place in it.
    pub cluster: ClusterConfig,
}

/// Makes one transport per shard, on that shard's thread.
pub trait TransportFactory: Send + Sync + 'static {
    /// Makes the transport of one shard.
    ///
    /// # Errors
    /// What is wrong with the configuration, keys or certificates, by name.
    fn make(&self, seat: &TransportSeat) -> io::Result<Box<dyn Transport>>;
}
