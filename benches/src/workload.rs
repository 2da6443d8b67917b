//! `Work` names what is measured, `Entry` who does it.
//!
//! Invariant: all entries of one `Work` do the same number of the same operations; only then is a ratio of their figures a
//! ratio of anything. A figure is always such that less is better: nanoseconds an operation, bytes, allocations, lateness.

use std::fmt;
use std::time::Duration;

use crate::limits::{ASKS_IN_FLIGHT, FIBONACCI_ACTORS, REMOTE_ASKS_IN_FLIGHT};
use crate::log::LogWork;
use crate::log::schedule::Tail;

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
    /// Two actors, one message in flight, `n` round trips: the mean on one shard, the median between two that spin.
    PingPong(Place),
    /// The median of `n` round trips between two shards that sleep whenever they have nothing to do.
    PingPongParked,
    /// One producer tells one counting actor `n` messages; ends when the last is counted.
    Tell(Place),
    /// Per cent of `n` messages to another shard that bounced into the dead letters, because their sender could not know yet that
    /// the mailbox was full.
    TellBounced,
    /// Eight producers on the counter's shard share the `n` messages.
    FanIn,
    /// `n` requests with a reply of 8 bytes: one in flight on the same shard, 64 between two shards.
    Ask(Place),
    /// 1,000 actors; each pings a random one and waits for its pong, over and over; `n` counts pings and pongs.
    Big(Place),
    /// `n` actors are spawned and stopped; ends when the state of the last is dropped.
    SpawnStop,
    /// A tree of `n` actors: each but the leaves spawns two, adds their answers, answers and stops.
    Fibonacci,
    /// Resident bytes an idle actor takes beside its state of 8 bytes, over `n` actors.
    IdleMemory,
    /// Heap allocations a tell of 32 bytes, over `n` messages.
    TellAllocations,
    /// Heap allocations an ask of 32 bytes with a reply of 8, over `n` asks.
    AskAllocations,
    /// How late the ticks of 60 Hz timers come while both shards are 70 % busy, p99.9 in microseconds, over `n` milliseconds.
    TickLateness,
    /// How many of those ticks never came.
    TickMissed,
    /// Per cent of one core that 100,000 idle actors take on parked shards, over `n` milliseconds.
    IdleCpu,
    /// One ping-pong pair on each of so many shards, `n` messages in all.
    Pairs(u16),
    /// Durable events of 128 bytes.
    Log(LogWork),
    /// `n` asks of 64 bytes to another node, so many in flight.
    RemoteAsk(u64),
    /// One producer tells one counting actor at another node `n` messages of 64 bytes; ends when the last is counted.
    RemoteTell,
    /// One actor sends `n` messages of 64 bytes to each of [`VIEWERS`](crate::limits::VIEWERS) actors on two nodes, one at a time.
    FanOut,
}

impl Work {
    /// All of them, in the order of the table; [`Work::Pairs`] depend on the machine and are not among them.
    pub const ALL: [Self; 33] = [
        Self::PingPong(Place::SameShard),
        Self::Tell(Place::SameShard),
        Self::FanIn,
        Self::Ask(Place::SameShard),
        Self::Big(Place::SameShard),
        Self::SpawnStop,
        Self::Fibonacci,
        Self::IdleMemory,
        Self::TellAllocations,
        Self::AskAllocations,
        Self::TickLateness,
        Self::TickMissed,
        Self::IdleCpu,
        Self::PingPong(Place::OtherShard),
        Self::PingPongParked,
        Self::Tell(Place::OtherShard),
        Self::TellBounced,
        Self::Ask(Place::OtherShard),
        Self::Big(Place::OtherShard),
        Self::Log(LogWork::ALL[0]),
        Self::Log(LogWork::ALL[1]),
        Self::Log(LogWork::ALL[2]),
        Self::Log(LogWork::ALL[3]),
        Self::Log(LogWork::ALL[4]),
        Self::Log(LogWork::ALL[5]),
        Self::Log(LogWork::ALL[6]),
        Self::Log(LogWork::ALL[7]),
        Self::Log(LogWork::ALL[8]),
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
            Self::Tell(Place::SameShard) | Self::FanIn => 2_000_000,
            Self::Tell(Place::OtherShard) | Self::TellBounced => 2_000_000,
            Self::Ask(Place::SameShard) | Self::PingPong(Place::SameShard) => 1_000_000,
            Self::Ask(Place::OtherShard) => 200_000,
            Self::Big(_) => 1_000_000,
            Self::SpawnStop => 50_000,
            Self::Fibonacci => FIBONACCI_ACTORS,
            Self::IdleMemory => 100_000,
            Self::TellAllocations | Self::AskAllocations => 100_000,
            Self::TickLateness | Self::TickMissed | Self::IdleCpu => 5_000,
            Self::Pairs(shards) => 20_000_000 * u64::from(shards),
            Self::PingPong(Place::OtherShard) | Self::PingPongParked | Self::RemoteAsk(1) => 10_000,
            Self::RemoteAsk(_) => 200_000,
            Self::RemoteTell => 1_000_000,
            Self::FanOut => 200,
            Self::Log(work) => work.operations(),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Log(work) => return work.fmt(f),
            Self::RemoteAsk(in_flight) => return f.pad(&format!("ask, other node, {in_flight} in flight")),
            Self::RemoteTell => "tell, other node",
            Self::FanOut => "one message to 10,000 actors on two nodes",
            Self::Pairs(shards) => return f.pad(&format!("independent pairs, {shards} shard(s)")),
            Self::PingPong(Place::SameShard) => "ping-pong, same shard",
            Self::PingPong(Place::OtherShard) => "ping-pong, other shard, spinning",
            Self::PingPongParked => "ping-pong, other shard, parked",
            Self::Tell(Place::SameShard) => "tell, same shard",
            Self::Tell(Place::OtherShard) => "tell, other shard",
            Self::TellBounced => "tell, other shard, bounced",
            Self::FanIn => "tell, 8 producers to 1 actor",
            Self::Ask(Place::SameShard) => "ask, same shard, 1 in flight",
            Self::Ask(Place::OtherShard) => "ask, other shard, 64 in flight",
            Self::Big(Place::SameShard) => "big, same shard",
            Self::Big(Place::OtherShard) => "big, 2 shards",
            Self::SpawnStop => "spawn and stop",
            Self::Fibonacci => "fibonacci(23)",
            Self::IdleMemory => "memory of an idle actor",
            Self::TellAllocations => "allocations a tell",
            Self::AskAllocations => "allocations an ask",
            Self::TickLateness => "60 Hz tick, lateness p99.9",
            Self::TickMissed => "60 Hz tick, missed",
            Self::IdleCpu => "100,000 idle actors, CPU of a core",
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

/// How an entry is measured.
#[derive(Clone, Copy)]
pub enum Run {
    /// Does `n` operations and returns how long they took.
    Time(fn(n: u64) -> Duration),
    /// Returns the figure itself, made of `n` operations.
    Figure(fn(n: u64) -> f64),
    /// A figure as `closed` returns it, and beside it how long operations take that come at half of that rate, whether or not
    /// the last ones are done.
    Loop {
        /// Nanoseconds an operation when each follows the last.
        closed: fn(n: u64) -> f64,
        /// The same, then the open loop on what is open already.
        both: fn(n: u64) -> (f64, Tail),
    },
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
    /// How.
    pub run: Run,
}

impl Entry {
    /// The figure of one run over `n` operations.
    #[must_use]
    pub fn figure(&self, n: u64) -> f64 {
        match self.run {
            Run::Time(run) => run(n).as_secs_f64() * 1e9 / n as f64,
            Run::Figure(run) | Run::Loop { closed: run, .. } => run(n),
        }
    }
}

/// Every entry of `work`: ours first, then the limit, which a ratio is taken to, then the peers.
#[must_use]
pub fn entries(work: Work) -> Vec<Entry> {
    use crate::{bare, ours, peers};
    let groups = [
        ours::ENTRIES,
        &[crate::remote::ENTRIES, crate::quinn_echo::ENTRIES],
        crate::log::ENTRIES,
        bare::ENTRIES,
        peers::ENTRIES,
    ];
    groups.into_iter().flatten().copied().flatten().copied().filter(|entry| entry.work == work).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_ours_and_all_that_can_do_it_and_they_run() {
        let pairs = [Work::Pairs(1), Work::Pairs(2)];
        for work in Work::ALL.into_iter().chain(pairs) {
            let entries = entries(work);
            let count = |role| entries.iter().filter(|entry| entry.role == role).count();
            assert!(count(Role::Ours) > 0, "{work}");
            for entry in entries {
                let figure = entry.figure(TEST_OPERATIONS);
                assert!(figure.is_finite() && figure >= 0.0, "{work}: {}: {figure}", entry.name);
            }
        }
    }

    /// Few, but some of everything.
    const TEST_OPERATIONS: u64 = 130;

    #[test]
    fn every_peer_does_a_work_or_says_why_not() {
        let built = entries(Work::Tell(Place::SameShard));
        let is_built = |peer: &&&str| built.iter().any(|entry| entry.name == **peer);
        for work in Work::ALL {
            let found = entries(work);
            for peer in crate::peers::NAMES.iter().filter(is_built) {
                let does = found.iter().any(|entry| entry.name == *peer);
                let says = crate::peers::why_not(work).is_some();
                assert!(does != says, "{work}: {peer}");
            }
        }
    }
}
