//! The other actor libraries (feature `peers`), each at its best settings, and hand-written tokio tasks.
//!
//! No tracing; current-thread runtimes, one per pinned thread; kompact's own pool with as many threads as there are shards.
//! Mailboxes are bounded at [`crate::limits::MAILBOX_CAPACITY`] where the library has a bounded send that waits (kameo, xtra,
//! tokio); ractor, kompact and actix' `do_send` are unbounded, which spares them the cost of flow control. Producers and
//! askers are plain tasks where the library lives on tokio, which is faster than actors of its own.

use std::time::Duration;

use crate::laps::Laps;
use crate::limits::{ASKS_IN_FLIGHT, IDLE_STATE_BYTES, PRODUCERS, YIELD_EVERY};
use crate::resident::resident_bytes;
use crate::workload::{Entry, Place, Role, Run, Work};

#[cfg(feature = "peers")]
pub mod actix;
#[cfg(feature = "peers")]
pub mod kameo;
#[cfg(feature = "peers")]
pub mod kompact;
#[cfg(feature = "peers")]
pub mod ractor;
pub mod tokio;
#[cfg(feature = "peers")]
pub mod xtra;

/// What a library can be asked to do; every function checks its result.
trait Library {
    /// As printed.
    const NAME: &'static str;

    /// So many producers tell one counting actor `n` messages together.
    fn tell(place: Place, producers: u64, n: u64) -> Duration;

    /// `n` asks, so many in flight.
    fn ask(place: Place, in_flight: u64, n: u64) -> Duration;

    /// Two actors play the laps.
    fn ping_pong(place: Place, laps: Laps) -> Laps;

    /// About `n` messages among 1,000 actors; what `n` would have taken.
    fn big(place: Place, n: u64) -> Duration;

    /// `n` actors are spawned and stopped.
    fn spawn_stop(n: u64) -> Duration;

    /// A tree of at most `n` actors; what `n` would have taken.
    fn fibonacci(n: u64) -> Duration;

    /// Resident bytes that `n` idle actors take, held addresses and states included.
    fn idle_bytes(n: u64) -> u64;
}

/// The peers' names, in the order of the table, whether they are built or not.
pub const NAMES: &[&str] = &["kameo", "ractor", "actix", "xtra", "kompact", "tokio tasks"];

/// The peers' share of the table.
pub const ENTRIES: &[&[Entry]] = &[
    #[cfg(feature = "peers")]
    &entries::<kameo::Kameo>(),
    #[cfg(feature = "peers")]
    &entries::<ractor::Ractor>(),
    #[cfg(feature = "peers")]
    &entries::<actix::Actix>(),
    #[cfg(feature = "peers")]
    &entries::<xtra::Xtra>(),
    #[cfg(feature = "peers")]
    &entries::<kompact::Kompact>(),
    &entries::<tokio::Tokio>(),
];

const fn entries<L: Library>() -> [Entry; 14] {
    [
        peer::<L>(
            Work::PingPong(Place::SameShard),
            Run::Time(|n| L::ping_pong(Place::SameShard, Laps::total(n)).elapsed()),
        ),
        peer::<L>(Work::Tell(Place::SameShard), Run::Time(|n| L::tell(Place::SameShard, 1, n))),
        peer::<L>(Work::FanIn, Run::Time(|n| L::tell(Place::SameShard, PRODUCERS, n))),
        peer::<L>(Work::Ask(Place::SameShard), Run::Time(|n| L::ask(Place::SameShard, 1, n))),
        peer::<L>(Work::Big(Place::SameShard), Run::Time(|n| L::big(Place::SameShard, n))),
        peer::<L>(Work::SpawnStop, Run::Time(L::spawn_stop)),
        peer::<L>(Work::Fibonacci, Run::Time(L::fibonacci)),
        peer::<L>(Work::IdleMemory, Run::Figure(idle_memory::<L>)),
        peer::<L>(
            Work::TellAllocations,
            Run::Figure(|n| crate::counted::allocations(|n| L::tell(Place::SameShard, 1, n), n)),
        ),
        peer::<L>(
            Work::AskAllocations,
            Run::Figure(|n| crate::counted::allocations(|n| L::ask(Place::SameShard, 1, n), n)),
        ),
        peer::<L>(Work::PingPongParked, Run::Figure(p50::<L>)),
        peer::<L>(Work::Tell(Place::OtherShard), Run::Time(|n| L::tell(Place::OtherShard, 1, n))),
        peer::<L>(Work::Ask(Place::OtherShard), Run::Time(|n| L::ask(Place::OtherShard, ASKS_IN_FLIGHT, n))),
        peer::<L>(Work::Big(Place::OtherShard), Run::Time(|n| L::big(Place::OtherShard, n))),
    ]
}

const fn peer<L: Library>(work: Work, run: Run) -> Entry {
    Entry { work, name: L::NAME, role: Role::Peer, run }
}

fn p50<L: Library>(n: u64) -> f64 {
    L::ping_pong(Place::OtherShard, Laps::each(n)).p50_ns()
}

/// Bytes an actor beside its state.
fn idle_memory<L: Library>(n: u64) -> f64 {
    (L::idle_bytes(n) as f64 / n as f64 - IDLE_STATE_BYTES as f64).max(0.0)
}

/// Why peers have no figure for a work; `None` when they have.
#[must_use]
pub fn why_not(work: Work) -> Option<&'static str> {
    match work {
        Work::TickLateness | Work::TickMissed => {
            Some("no peer polls, and none has timers of its own on a pinned thread")
        }
        Work::IdleCpu => Some("tasks that wait for a message take no CPU in any runtime"),
        Work::TellBounced => Some("kameo, xtra and tokio wait for room, the others have no bound"),
        Work::Pairs(_) => Some("measured to see how the engine scales"),
        Work::Log(_) => Some("no peer has an event log"),
        Work::RemoteAsk(_) | Work::RemoteTell | Work::FanOut => {
            Some("only the limits of the network stand beside what nodes do")
        }
        Work::PingPong(Place::OtherShard) => Some("peers sleep when they have nothing to do: the row below has them"),
        _ => None,
    }
}

/// Lets others run after every so many messages.
async fn breathe(number: u64) {
    if number % YIELD_EVERY == YIELD_EVERY - 1 {
        ::tokio::task::yield_now().await;
    }
}

/// How much more is resident after `make`, and some turns of the runtime, than before.
async fn grown_by<T>(make: impl FnOnce() -> T) -> u64 {
    let before = resident_bytes();
    let made = make();
    // A yield comes back when every task that was ready has been polled.
    for _ in 0..8 {
        ::tokio::task::yield_now().await;
    }
    let grown = resident_bytes().saturating_sub(before);
    drop(made);
    grown
}
