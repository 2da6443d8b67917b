//! What an engine knows of its peers: which sessions are open, and why the last one ended.
//!
//! Invariant: written by shards on session changes only, so a lock is fine; never on the message path.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shardstage_codec::{NodeId, ShardId};

use crate::port::transport::PeerDown;
use crate::until::Until;

/// One peer, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerState {
    /// Shards of this node that have an open session with the peer.
    pub sessions: u16,
    /// Why the last session ended, or the last attempt failed.
    pub last_down: Option<PeerDown>,
}

/// The shards that have an open session with each peer, and why its last one ended.
type States = BTreeMap<NodeId, (Vec<ShardId>, Option<PeerDown>)>;

/// All peers of one engine.
#[derive(Default)]
pub(crate) struct Peers {
    states: Mutex<States>,
    changed: Condvar,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn up(&self, peer: NodeId, shard: ShardId) {
        let mut states = self.lock();
        let (shards, _) = states.entry(peer).or_default();
        if !shards.contains(&shard) {
            shards.push(shard);
        }
        drop(states);
        self.changed.notify_all();
    }

    pub(crate) fn down(&self, peer: NodeId, shard: ShardId, reason: &PeerDown) {
        let mut states = self.lock();
        let (shards, last) = states.entry(peer).or_default();
        shards.retain(|open| *open != shard);
        *last = Some(reason.clone());
        drop(states);
        self.changed.notify_all();
    }

    pub(crate) fn get(&self, peer: NodeId) -> PeerState {
        let states = self.lock();
        let (shards, last) = states.get(&peer).cloned().unwrap_or_default();
        PeerState { sessions: u16::try_from(shards.len()).unwrap_or(u16::MAX), last_down: last }
    }

    /// Waits until `done` says so of the peer's state, or `timeout` has passed; returns the state.
    pub(crate) fn wait(&self, peer: NodeId, timeout: Duration, done: impl Fn(&PeerState) -> bool) -> PeerState {
        let until = Until::after(timeout);
        loop {
            let state = self.get(peer);
            let left = until.left();
            if done(&state) || left.is_zero() {
                return state;
            }
            let states = self.lock();
            // A change between `get` and here is found after one short wait at the latest.
            drop(self.changed.wait_timeout(states, left.min(Duration::from_millis(5))));
        }
    }
}
