//! `Work` names what is measured, `Entry` who does it.
//!
//! Invariant: all entries of one `Work` do the same number of the same operations; only then is a ratio of their times a
//! ratio of anything.

use std::fmt;
use std::time::Duration;

use crate::limits::{ASKS_IN_FLIGHT, REMOTE_ASKS_IN_FLIGHT, WRITERS};

/// Where the two ends of a workload run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Both on one thread pinned to core 0.
    SameShard,
    /// On two threads pinned to cores 0 and 1: every message crosses.
    OtherShard,
}

/// What is measured. `n` is what a workload function is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One producer tells one counting actor `n` messages; ends when the last is counted.
    Tell(Place),
    /// `n` requests with a reply of 8 bytes: one in flight on the same shard, 64 between two shards.
    Ask(Place),
    /// Two actors, one message in flight, `n` round trips.
    PingPong(Place),
    /// `n` durable events of 128 bytes from so many writers, each with one in flight.
    LogAppend(u64),
    /// `n` asks of 64 bytes to another node, so many in flight.
    RemoteAsk(u64),
    /// One producer tells one counting actor at another node `n` messages of 64 bytes; ends when the last is counted.
    RemoteTell,
    /// One actor sends `n` messages of 64 bytes to each of [`VIEWERS`] actors on two nodes, one at a time.
    FanOut,
}

impl Work {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::Tell(Place::SameShard),
        Self::Ask(Place::SameShard),
        Self::PingPong(Place::SameShard),
        Self::Tell(Place::OtherShard),
        Self::Ask(Place::OtherShard),
        Self::PingPong(Place::OtherShard),
        Self::LogAppend(1),
        Self::LogAppend(WRITERS),
        Self::RemoteAsk(1),
        Self::RemoteAsk(ASKS_IN_FLIGHT),
        Self::RemoteAsk(REMOTE_ASKS_IN_FLIGHT),
        Self::RemoteTell,
        Self::FanOut,
    ];

    /// How many operations `compare` runs at a time: enough that the first touch of fresh memory (milliseconds, whoever starts)
    /// does not show in the fastest, about a second for the slowest.
    #[must_use]
    pub fn operations(self) -> u64 {
        match self {
            Self::Tell(Place::SameShard) => 5_000_000,
            Self::Tell(Place::OtherShard) => 1_000_000,
            Self::Ask(Place::SameShard) | Self::PingPong(Place::SameShard) => 2_000_000,
            Self::Ask(Place::OtherShard) => 200_000,
            Self::PingPong(Place::OtherShard) | Self::RemoteAsk(1) => 10_000,
            Self::RemoteAsk(_) => 200_000,
            Self::RemoteTell => 1_000_000,
            Self::FanOut => 200,
            Self::LogAppend(1) => 2_000,
            Self::LogAppend(_) => 30_000,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::LogAppend(writers) => return f.pad(&format!("durable event, {writers} writer(s)")),
            Self::RemoteAsk(in_flight) => return f.pad(&format!("ask, other node, {in_flight} in flight")),
            Self::RemoteTell => "tell, other node",
            Self::FanOut => "one message to 10,000 actors on two nodes",
            Self::Tell(Place::SameShard) => "tell, same shard",
            Self::Tell(Place::OtherShard) => "tell, other shard",
            Self::Ask(Place::SameShard) => "ask, same shard, 1 in flight",
            Self::Ask(Place::OtherShard) => "ask, other shard, 64 in flight",
            Self::PingPong(Place::SameShard) => "ping-pong, same shard",
            Self::PingPong(Place::OtherShard) => "ping-pong, other shard",
        };
        f.pad(text)
    }
}

/// What an entry stands for in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The engine.
    Ours,
    /// Another actor library.
    Peer,
    /// What the machine allows without any actor.
    Limit,
}

/// One way to do one `Work`.
#[derive(Clone, Copy)]
pub struct Entry {
    /// What.
    pub work: Work,
    /// Who, as printed.
    pub name: &'static str,
    /// As what.
    pub role: Role,
    /// Does `n` operations and returns how long they took.
    pub run: fn(n: u64) -> Duration,
}

/// Every entry of `work`: ours first, then the peers, then the limit.
#[must_use]
pub fn entries(work: Work) -> Vec<Entry> {
    use crate::peers::{actix, kameo, ractor};
    let all = [
        crate::ours::ENTRIES,
        kameo::ENTRIES,
        ractor::ENTRIES,
        actix::ENTRIES,
        crate::log::ENTRIES,
        crate::remote::ENTRIES,
        crate::bare::ENTRIES,
    ];
    all.into_iter().flatten().copied().filter(|entry| entry.work == work).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_ours_a_limit_and_three_peers_and_they_run() {
        for work in Work::ALL {
            let entries = entries(work);
            let count = |role| entries.iter().filter(|entry| entry.role == role).count();
            assert!(count(Role::Limit) > 0, "{work}");
            if matches!(work, Work::Tell(_) | Work::Ask(_) | Work::PingPong(_)) {
                assert_eq!(count(Role::Peer), 3, "{work}");
            }
            assert!(count(Role::Ours) > 0, "{work}");
            for entry in entries {
                assert!((entry.run)(130) > Duration::ZERO, "{work}: {}", entry.name);
            }
        }
    }
}
