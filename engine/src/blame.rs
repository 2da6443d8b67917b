//! Blame: which message made a turn long.
//!
//! A clock read per message would cost more than many handlers do, so a shard reads it once a turn: it knows that a turn was
//! long, not why. The why comes from outside: before each message the shard stores whose turn it is, one relaxed store, and one
//! sleepy thread an engine, the watchdog, looks at it twice in the time that counts as long. A message that it sees begun and
//! then, after a whole period in which neither another began nor the turn ended, sees unfinished, is the one to blame, the
//! first time it happens. Invariant: only the shard writes `running` with a message, only the watchdog the rest; whatever
//! either reads late costs a blame, never a wrong one. One of the few files with `unsafe`.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use crate::engine_link::EngineLink;
use crate::envelope::VTable;
use crate::limits::{CULPRITS_KEPT, LONG_TURNS_KEPT, WATCH_QUIET_PERIODS, WATCH_QUIET_ROUNDS};
use crate::link::ShardLink;
use crate::shard::ShardCore;
use crate::sync::{Mutex, MutexGuard};
use crate::until::Laps;

/// A turn that took longer than [`Config::long_turn`](crate::Config::long_turn): for its length no other actor of its shard ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LongTurn {
    /// The shard.
    pub shard: u16,
    /// How long the turn took, with all that it did. Time for which the kernel ran something else on the core is in it.
    pub duration: Duration,
    /// Messages that it handled.
    pub handled: u32,
    /// The handler that ran for most of it. `None` where it was no handler (building an actor, a service, many messages that
    /// each were short), where it was the later part of an async handler, where nobody looked in time (the first messages after
    /// a long idle time), and in the simulator.
    pub culprit: Option<Culprit>,
}

/// Who made a turn long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Culprit {
    /// The actor's Rust type.
    pub actor: &'static str,
    /// The Rust type of the message that it handled; `"reply"` for a `then`.
    pub message: &'static str,
}

/// All the long turns of one culprit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blamed {
    /// Who made them long.
    pub culprit: Culprit,
    /// How many there were.
    pub turns: u64,
    /// All of them together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// The long turns of one engine.
pub(crate) struct LongTurnOffice {
    count: AtomicU64,
    /// Made with the first long turn.
    kept: OnceLock<ArrayQueue<LongTurn>>,
    /// By culprit; a bounded number of them.
    blamed: Mutex<Vec<Blamed>>,
}

impl LongTurnOffice {
    pub(crate) fn new() -> Self {
        Self { count: AtomicU64::new(0), kept: OnceLock::new(), blamed: Mutex::new(Vec::new()) }
    }

    pub(crate) fn view(&self) -> LongTurns<'_> {
        LongTurns(self)
    }

    fn blamed(&self) -> MutexGuard<'_, Vec<Blamed>> {
        self.blamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a long turn to its culprit's; where there is no room, the one with the least time makes some.
    fn blame(&self, culprit: Culprit, duration: Duration) {
        let mut blamed = self.blamed();
        let known = blamed.iter().position(|known| known.culprit == culprit);
        let place = known.unwrap_or_else(|| {
            if blamed.len() == CULPRITS_KEPT {
                let least = (0..blamed.len()).min_by_key(|at| blamed[*at].total).unwrap_or_default();
                blamed.swap_remove(least);
            }
            blamed.push(Blamed { culprit, turns: 0, total: Duration::ZERO, longest: Duration::ZERO });
            blamed.len() - 1
        });
        let known = &mut blamed[place];
        known.turns += 1;
        known.total += duration;
        known.longest = known.longest.max(duration);
    }

    fn record(&self, long: LongTurn) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(culprit) = long.culprit {
            self.blame(culprit, long.duration);
        }
        self.kept.get_or_init(|| ArrayQueue::new(LONG_TURNS_KEPT)).force_push(long);
    }
}

/// A view of an engine's long turns; see [`Engine::long_turns`](crate::Engine::long_turns).
#[derive(Clone, Copy)]
pub struct LongTurns<'a>(pub(crate) &'a LongTurnOffice);

impl LongTurns<'_> {
    /// How many there were since the engine started.
    #[must_use]
    pub fn total(self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Long turns by culprit, those who took the most time first; at most 64 culprits are known.
    #[must_use]
    pub fn blamed(self) -> Vec<Blamed> {
        let mut blamed = self.0.blamed().clone();
        blamed.sort_by_key(|blamed| std::cmp::Reverse(blamed.total));
        blamed
    }

    /// Takes the oldest that is kept; the latest 256 are. Each is handed out once.
    #[must_use]
    pub fn take(self) -> Option<LongTurn> {
        self.0.kept.get()?.pop()
    }
}

impl std::fmt::Debug for LongTurns<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LongTurns({})", self.total())
    }
}

/// What one shard and the watchdog tell each other.
#[repr(align(128))]
pub(crate) struct Blame {
    /// The message that runs, or ran last; null where none has begun since the watchdog looked or actors stopped running.
    running: AtomicPtr<VTable>,
    /// What counts as long, ns; `u64::MAX` for nothing.
    long_turn_ns: u64,
    /// Who made the turn `suspect_turn` long.
    suspect: AtomicPtr<VTable>,
    /// How long the suspect has been seen to run, ns.
    suspect_ns: AtomicU64,
    /// Pair: `look` releases it after `suspect`, `report` acquires it.
    suspect_turn: AtomicU64,
}

impl Blame {
    pub(crate) fn new(long_turn: Option<Duration>) -> Self {
        let nobody = || AtomicPtr::new(ptr::null_mut());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let long_turn_ns = long_turn.map_or(u64::MAX, nanos);
        Self {
            running: nobody(),
            long_turn_ns,
            suspect: nobody(),
            suspect_ns: AtomicU64::new(0),
            suspect_turn: AtomicU64::new(0),
        }
    }

    /// The shard is about to run a message. Relaxed: whoever reads it looks twice.
    #[inline(always)]
    pub(crate) fn runs(&self, vtable: &'static VTable) {
        self.running.store(ptr::from_ref(vtable).cast_mut(), Ordering::Relaxed);
    }

    /// What runs now is no message.
    #[inline]
    pub(crate) fn runs_none(&self) {
        self.running.store(ptr::null_mut(), Ordering::Relaxed);
    }

    fn suspect_of(&self, turn: u64) -> Option<Culprit> {
        if self.suspect_turn.load(Ordering::Acquire) != turn {
            return None;
        }
        let suspect = self.suspect.load(Ordering::Relaxed);
        // SAFETY: null or what `runs` took, a reference that lives as long as the program.
        let vtable = unsafe { suspect.as_ref() }?;
        Some(Culprit { actor: (vtable.actor_name)(), message: (vtable.message_name)() })
    }

    /// Who runs for longer than counts as long in the turn that goes on after so many, and for how long at least.
    pub(crate) fn stuck(&self, turns: u64) -> Option<(Culprit, Duration)> {
        let culprit = self.suspect_of(turns + 1)?;
        let so_long = Duration::from_nanos(self.suspect_ns.load(Ordering::Relaxed));
        // Still the same: what was read belongs together.
        (self.suspect_turn.load(Ordering::Acquire) == turns + 1).then_some((culprit, so_long))
    }
}

/// Accounts for the last turn of a shard, which handled so many messages. Once a turn.
#[inline]
pub(crate) fn end_turn(core: &mut ShardCore, took_ns: u64, handled: u32) {
    core.counters.busy_ns += took_ns;
    if took_ns >= core.link.blame.long_turn_ns {
        core.counters.long_turns += 1;
        report(core.link, core.counters.turns, took_ns, handled);
    }
}

#[cold]
fn report(link: &'static ShardLink, turn: u64, took_ns: u64, handled: u32) {
    link.engine().long_turns.record(LongTurn {
        shard: link.shard().get(),
        duration: Duration::from_nanos(took_ns),
        handled,
        culprit: link.blame.suspect_of(turn),
    });
}

/// What the watchdog saw of a shard the last time.
#[derive(Clone, Copy)]
struct Seen {
    turns: u64,
    running: *mut VTable,
    /// For how long the same.
    for_ns: u64,
}

/// Looks at a shard; whether it has taken a turn or begun a message since the last time, which is so long ago.
fn look(link: &ShardLink, seen: &mut Seen, lap: Duration) -> bool {
    let turns = link.counters.turns();
    let begun = link.blame.running.swap(ptr::null_mut(), Ordering::Relaxed);
    let same = begun.is_null() && turns == seen.turns;
    if same && !seen.running.is_null() {
        seen.for_ns = seen.for_ns.saturating_add(u64::try_from(lap.as_nanos()).unwrap_or(u64::MAX));
        link.blame.suspect.store(seen.running, Ordering::Relaxed);
        link.blame.suspect_ns.store(seen.for_ns, Ordering::Relaxed);
        // The counter says how many turns have ended.
        link.blame.suspect_turn.store(turns + 1, Ordering::Release);
        return true;
    }
    *seen = Seen { turns, running: begun, for_ns: 0 };
    !same
}

/// The thread that looks. It ends when this is dropped.
pub(crate) struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread of an engine that wants to know of long turns.
    pub(crate) fn start(engine: &'static EngineLink, long_turn: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || watch(engine, long_turn / 2, &stopped);
        let thread = std::thread::Builder::new().name("shard-watch".to_owned()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

fn watch(engine: &'static EngineLink, period: Duration, stop: &AtomicBool) {
    let mut seen = vec![Seen { turns: 0, running: ptr::null_mut(), for_ns: 0 }; engine.links().len()];
    let (mut quiet_rounds, mut laps) = (0, Laps::begin());
    // Pair: `drop` releases it before it unparks.
    while !stop.load(Ordering::Acquire) {
        let periods = if quiet_rounds < WATCH_QUIET_ROUNDS { 1 } else { WATCH_QUIET_PERIODS };
        std::thread::park_timeout(period * periods);
        let lap = laps.next();
        // Every shard is looked at, whatever the first says.
        let active =
            engine.links().iter().zip(&mut seen).filter_map(|(link, seen)| look(link, seen, lap).then_some(()));
        let active = active.count();
        quiet_rounds = if active > 0 { 0 } else { quiet_rounds + 1 };
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A watchdog that panicked has nothing to say that its own message has not said.
            let _ = thread.join();
        }
    }
}
