//! A link: the standing wish for a session with one shard of one peer, with the frames that wait for it.
//!
//! Who dials: the node with more shards, or with the lower id where both have as many; shard i of it dials the peer's
//! shard i mod the peer's shard count. So every shard of both nodes has at least one link to the other, each pair of
//! shards has one connection, and it is used both ways: an answer travels on the connection of its question.
//! Where the peer has more shards, several of its shards share one of ours; then `reserve` uses the link to the peer's
//! shard of our own number, the *primary* one, and the engine hops rings on arrival.
//!
//! Invariant: a link carries frames of one session only; they are forgotten when the session ends. Shard's thread.

use std::net::SocketAddr;

use quinn_proto::ClientConfig;
use shardstage::port::transport::{ClusterConfig, Lane, NodeInfo, PeerDown};
use shardstage_codec::{NodeId, ShardId};

use crate::clock::ns;
use crate::lane::SendLane;
use crate::limits::{REDIAL_FIRST, REDIAL_LONGEST};

/// How and when to dial.
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    pub(crate) config: ClientConfig,
    /// When the next attempt is due; `None` while one runs.
    pub(crate) due_ns: Option<u64>,
    attempts: u32,
}

/// See the file's head.
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    pub(crate) peer_shard: ShardId,
    /// Whether `reserve` uses it and its ups and downs are reported.
    pub(crate) primary: bool,
    /// `None` where the peer dials.
    pub(crate) dial: Option<Dial>,
    /// The connection that carries or tries to carry the session.
    pub(crate) connection: Option<usize>,
    pub(crate) up: bool,
    pub(crate) lanes: [SendLane; 3],
    /// What the engine was told last while down.
    reported: Option<PeerDown>,
}

impl Link {
    pub(crate) fn new(
        peer: NodeId,
        peer_shard: ShardId,
        primary: bool,
        dial: Option<(SocketAddr, ClientConfig)>,
    ) -> Self {
        let dial = dial.map(|(address, config)| Dial { address, config, due_ns: Some(0), attempts: 0 });
        Self {
            peer,
            peer_shard,
            primary,
            dial,
            connection: None,
            up: false,
            lanes: Lane::ALL.map(SendLane::new),
            reported: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.iter().all(SendLane::is_empty)
    }

    /// Bytes that wait for the streams.
    pub(crate) fn queued(&self) -> usize {
        self.lanes.iter().map(SendLane::queued).sum()
    }

    /// A session is open.
    pub(crate) fn opened(&mut self, connection: usize) {
        self.connection = Some(connection);
        self.up = true;
        self.reported = None;
        if let Some(dial) = &mut self.dial {
            dial.attempts = 0;
            dial.due_ns = None;
        }
    }

    /// Forgets the frames that wait; `unsent` gets each of which no stream took a part.
    pub(crate) fn clear(&mut self, mut unsent: impl FnMut(&[u8])) {
        self.lanes.iter_mut().for_each(|lane| lane.clear(&mut unsent));
    }

    /// The session, or an attempt, is over, and its lanes were cleared. Returns whether the engine must hear of it.
    pub(crate) fn ended(&mut self, reason: &PeerDown, now_ns: u64, random: u64) -> bool {
        let was_up = std::mem::take(&mut self.up);
        self.connection = None;
        if let Some(dial) = &mut self.dial {
            dial.due_ns = Some(now_ns.saturating_add(wait_ns(dial.attempts, random)));
            dial.attempts = dial.attempts.saturating_add(1);
        }
        self.refused(reason, was_up)
    }

    /// Notes why there is no session. Returns whether that is news.
    pub(crate) fn refused(&mut self, reason: &PeerDown, was_up: bool) -> bool {
        let news = was_up || self.reported.as_ref() != Some(reason);
        self.reported = Some(reason.clone());
        news && self.primary
    }
}

/// Half to all of a doubling wait.
fn wait_ns(attempts: u32, random: u64) -> u64 {
    let full = ns(REDIAL_FIRST.saturating_mul(1 << attempts.min(16)).min(REDIAL_LONGEST));
    full / 2 + random % (full / 2).max(1)
}

/// Whether `us` dials `peer`.
fn dials(us: &NodeInfo, peer: &NodeInfo) -> bool {
    us.shards > peer.shards || (us.shards == peer.shards && us.id < peer.id)
}

/// The links that shard `shard` of this node has: (peer, peer's shard, whether we dial), ordered by peer and shard.
pub(crate) fn plan(cluster: &ClusterConfig, us: &NodeInfo, shard: ShardId) -> Vec<(NodeInfo, ShardId, bool)> {
    let mut plan = Vec::new();
    for peer in cluster.nodes.iter().filter(|node| node.id != us.id) {
        if dials(us, peer) {
            plan.push((peer.clone(), ShardId::new(shard.get() % peer.shards), true));
        } else {
            let shards = (0..peer.shards).filter(|theirs| theirs % us.shards == shard.get());
            plan.extend(shards.map(|theirs| (peer.clone(), ShardId::new(theirs), false)));
        }
    }
    plan
}

/// The address of one shard of a node.
pub(crate) fn address_of(node: &NodeInfo, shard: ShardId) -> SocketAddr {
    let mut address = node.address;
    if address.port() != 0 {
        address.set_port(address.port() + shard.get());
    }
    address
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests {
    use super::*;

    fn cluster(shards: &[u16]) -> ClusterConfig {
        let node = |(id, shards): (usize, &u16)| NodeInfo {
            id: NodeId::new(u32::try_from(id).unwrap()),
            name: format!("n{id}"),
            address: SocketAddr::from(([127, 0, 0, 1], 1000 + 100 * u16::try_from(id).unwrap())),
            shards: *shards,
        };
        ClusterConfig { name: "c".into(), me: NodeId::new(0), nodes: shards.iter().enumerate().map(node).collect() }
    }

    #[test]
    fn every_pair_of_shards_meets_once_and_nobody_is_left_out() {
        for shards in [[1, 1], [2, 2], [4, 2], [2, 5], [3, 7], [1, 9]] {
            let cluster = cluster(&shards);
            let mut dialled = Vec::new();
            let mut accepted = Vec::new();
            for us in &cluster.nodes {
                for shard in (0..us.shards).map(ShardId::new) {
                    let plan = plan(&cluster, us, shard);
                    assert!(!plan.is_empty(), "{shards:?}: shard {shard} of {} has no link", us.name);
                    for (peer, theirs, dials) in plan {
                        if dials {
                            dialled.push(((us.id, shard), (peer.id, theirs)))
                        } else {
                            accepted.push(((peer.id, theirs), (us.id, shard)))
                        }
                    }
                }
            }
            dialled.sort();
            accepted.sort();
            assert_eq!(dialled, accepted, "{shards:?}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let longest = ns(REDIAL_LONGEST);
        for attempts in 0..40 {
            for random in [0, 1, u64::MAX] {
                let wait = wait_ns(attempts, random);
                assert!(wait >= ns(REDIAL_FIRST) / 2 && wait <= longest);
            }
        }
        assert!(wait_ns(30, 0) >= longest / 2);
    }
}
