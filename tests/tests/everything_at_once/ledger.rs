//! The ledger: what the actors of this test did, beside naive models of what they may do.
//!
//! Invariant: actors and test share one thread, so an entry is made at the very moment of what it tells of; what breaks a
//! model is noted here rather than asserted in a handler, whose panics are part of the test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use shardstage::{ActorId, AskError, StopReason};

thread_local! {
    static LEDGER: RefCell<Ledger> = RefCell::default();
}

/// Reads or writes the ledger; `f` drops no message and calls nothing of the engine's.
pub(crate) fn with<R>(f: impl FnOnce(&mut Ledger) -> R) -> R {
    LEDGER.with_borrow_mut(f)
}

/// Something worth seeing has happened.
pub(crate) fn saw(what: &'static str) {
    with(|ledger| *ledger.seen.entry(what).or_default() += 1);
}

/// Who somebody is, in order of shard, cell and generation.
pub(crate) fn name(id: ActorId) -> String {
    format!("{id:?}")
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// The shards' clock at the last look.
    pub(crate) now_ns: u64,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    /// What must never happen and did.
    pub(crate) wrong: Vec<String>,
    pub(crate) slips: Vec<Record>,
    /// The last slip of each (sender, receiver, kind).
    last: BTreeMap<(String, String, Kind), usize>,
    /// Who has a state.
    pub(crate) live: BTreeMap<String, Life>,
    pub(crate) policies: BTreeMap<String, u64>,
    pub(crate) parents: BTreeMap<String, String>,
    /// When each was restarted, ns.
    pub(crate) restarts: BTreeMap<String, Vec<u64>>,
    /// Who has ended, as the registrar heard.
    pub(crate) ended: BTreeMap<String, StopReason>,
    pub(crate) timers: Vec<Timer>,
    /// Who is to end when, by its own timer.
    pub(crate) until: BTreeMap<String, u64>,
    pub(crate) asks: Vec<Asked>,
    /// (watcher, watched).
    pub(crate) watches: BTreeSet<(String, String)>,
    pub(crate) links: BTreeSet<(String, String)>,
    pub(crate) linked_once: BTreeSet<(String, String)>,
    pub(crate) traps: BTreeSet<String>,
    /// Names and who took them last.
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) held: BTreeSet<(String, String)>,
    /// States of virtual actors by key; of workers by number, on all shards.
    pub(crate) pages: BTreeMap<String, i32>,
    pub(crate) hands: BTreeMap<String, i32>,
    /// Lives of each page; the life in which each sender's last note was handled, and its number.
    pub(crate) lives: BTreeMap<String, u64>,
    pub(crate) noted: BTreeMap<(String, u64), (u64, u64)>,
    pub(crate) notes_written: u64,
    pub(crate) notes_accepted: u64,
    pub(crate) notes_handled: u64,
    lives_begun: u64,
}

/// One state of an actor.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) since_ns: u64,
    pub(crate) spoken_ns: u64,
    pub(crate) idle: bool,
}

/// Kinds of messages that carry a slip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Note,
    Dear,
    Patient,
    Query,
    Chore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Handled,
    HandedBack,
    /// The engine let go of it.
    Dropped,
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) fate: Fate,
}

/// Travels in a message, cannot be copied, and enters in the ledger what becomes of it.
#[derive(Debug)]
pub(crate) struct Slip(usize);

impl Slip {
    pub(crate) fn new(kind: Kind, from: &str, to: &str) -> Self {
        with(|ledger| {
            let record = Record { kind, from: from.to_owned(), to: to.to_owned(), fate: Fate::Open };
            ledger.slips.push(record);
            Self(ledger.slips.len() - 1)
        })
    }

    pub(crate) fn number(&self) -> usize {
        self.0
    }

    pub(crate) fn handled(self, by: &str) {
        with(|ledger| {
            let record = ledger.slips[self.0].clone();
            if !record.to.is_empty() {
                let last = ledger.last.insert((record.from.clone(), record.to.clone(), record.kind), self.0);
                ledger.expect(record.to == by, || format!("{record:?} came to {by}"));
                ledger.expect(last < Some(self.0), || format!("{by} handles {} after {last:?}: {record:?}", self.0));
            }
            ledger.decide(self.0, Fate::Handled);
        });
    }

    pub(crate) fn back(self) {
        with(|ledger| ledger.decide(self.0, Fate::HandedBack));
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        with(|ledger| {
            if ledger.slips[self.0].fate == Fate::Open {
                ledger.decide(self.0, Fate::Dropped);
            }
        });
    }
}

/// A timer as its actor knows it.
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    pub(crate) owner: String,
    pub(crate) life: u64,
    pub(crate) set_ns: u64,
    pub(crate) delay_ns: u64,
    pub(crate) repeats: bool,
    pub(crate) fired: u64,
    pub(crate) cancelled_ns: Option<u64>,
}

impl Timer {
    /// How often it may have fired by then.
    fn due(&self, now_ns: u64) -> u64 {
        let periods = now_ns.saturating_sub(self.set_ns) / self.delay_ns;
        if self.repeats { periods } else { periods.min(1) }
    }

    /// Whether it will send something.
    fn is_set(&self) -> bool {
        self.cancelled_ns.is_none() && (self.repeats || self.fired == 0)
    }
}

/// A question, or a wait for a name.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) asker: (String, u64),
    pub(crate) slip: Option<usize>,
    pub(crate) until_ns: u64,
    pub(crate) outcome: Option<Result<u64, AskError>>,
    pub(crate) dropped: bool,
}

/// Travels in what waits for an answer.
#[derive(Debug)]
pub(crate) struct Wait(usize);

impl Wait {
    pub(crate) fn new(asker: (String, u64), slip: Option<usize>, until_ns: u64) -> Self {
        with(|ledger| {
            ledger.asks.push(Asked { asker, slip, until_ns, outcome: None, dropped: false });
            Self(ledger.asks.len() - 1)
        })
    }

    /// The wait is over.
    pub(crate) fn ends(self, outcome: Result<u64, AskError>, now_ns: u64) {
        with(|ledger| {
            let asked = ledger.asks[self.0].clone();
            ledger.judge(&asked, &outcome, now_ns);
            ledger.expect(asked.outcome.is_none(), || format!("{asked:?} ends twice: {outcome:?}"));
            ledger.asks[self.0].outcome = Some(outcome);
        });
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        with(|ledger| ledger.asks[self.0].dropped = true);
    }
}

impl Ledger {
    pub(crate) fn expect(&mut self, holds: bool, why: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(why());
        }
    }

    fn decide(&mut self, slip: usize, fate: Fate) {
        let record = self.slips[slip].clone();
        self.expect(record.fate == Fate::Open, || format!("slip {slip} {record:?} becomes {fate:?}"));
        self.slips[slip].fate = fate;
        let what = match fate {
            Fate::Open => "",
            Fate::Handled => "a message was handled",
            Fate::HandedBack => "a message was handed back",
            Fate::Dropped => "a message was dropped",
        };
        *self.seen.entry(what).or_default() += 1;
    }

    /// What an answer says of the question.
    fn judge(&mut self, asked: &Asked, outcome: &Result<u64, AskError>, now_ns: u64) {
        let fate = asked.slip.map(|slip| self.slips[slip].fate);
        let what = match outcome {
            Ok(number) => {
                let right = asked.slip.is_none_or(|slip| *number == slip as u64 && fate == Some(Fate::Handled));
                self.expect(right, || format!("{asked:?} is {fate:?} and answered {number}"));
                "an ask was answered"
            }
            Err(AskError::Rejected(_) | AskError::Deadlock(_)) => "an ask was rejected",
            Err(AskError::Failed(_)) => "an ask failed",
            Err(AskError::Unknown(_)) => {
                self.expect(now_ns >= asked.until_ns, || format!("{asked:?} is given up at {now_ns}"));
                "an ask ran into its deadline"
            }
        };
        *self.seen.entry(what).or_default() += 1;
    }

    /// A state of an actor has started.
    pub(crate) fn begins(&mut self, id: &str, parent: Option<String>, policy: u64, now_ns: u64) -> u64 {
        self.lives_begun += 1;
        let number = self.lives_begun;
        let orphans: Vec<_> =
            self.live.keys().filter(|one| self.parents.get(*one).is_some_and(|of| of == id)).collect();
        let orphans = format!("{orphans:?}");
        self.expect(orphans == "[]", || format!("{id} starts while children of its predecessor live: {orphans}"));
        let before = self.live.insert(id.to_owned(), Life { number, since_ns: now_ns, spoken_ns: now_ns, idle: false });
        self.expect(before.is_none(), || format!("{id} has two states"));
        let dead = self.ended.contains_key(id);
        self.expect(!dead, || format!("{id} starts after its end"));
        // One that is always restarted comes back after its own timer has ended it.
        self.until.retain(|one, at_ns| one != id || *at_ns > now_ns);
        self.policies.insert(id.to_owned(), policy);
        if let Some(parent) = parent {
            let lives = self.live.contains_key(&parent);
            self.expect(lives, || format!("{id} starts, its parent {parent} has no state"));
            self.parents.insert(id.to_owned(), parent);
        }
        number
    }

    /// Somebody speaks to an actor.
    pub(crate) fn spoken(&mut self, id: &str, now_ns: u64) {
        match self.live.get_mut(id) {
            Some(life) => life.spoken_ns = now_ns,
            None => self.wrong.push(format!("{id} handles something and has no state")),
        }
    }

    /// A timer's message has come.
    pub(crate) fn ticks(&mut self, id: &str, number: usize, now_ns: u64) {
        let mut timer = self.timers[number].clone();
        timer.fired += 1;
        self.timers[number].fired += 1;
        let life = self.live.get(id).cloned();
        let Some(life) = life else { return self.wrong.push(format!("{id} ticks and has no state")) };
        self.expect(timer.owner == id, || format!("{timer:?} ticks at {id}"));
        // What was sent before its end or before it was cancelled may have waited in the mailbox.
        let until_ns = if timer.life == life.number { now_ns } else { life.since_ns };
        let until_ns = timer.cancelled_ns.unwrap_or(until_ns).min(until_ns);
        let may = timer.fired <= timer.due(until_ns) && (timer.repeats || timer.cancelled_ns.is_none());
        self.expect(may, || format!("{timer:?} ticks at {now_ns}, in {life:?}"));
    }

    /// `Ok` of a registration, or of a look.
    pub(crate) fn holds(&mut self, key: &str, id: &str, taken: bool) {
        let before = self.names.get(key).cloned();
        if before.as_deref() == Some(id) {
            return;
        }
        let two = before.filter(|before| self.live.contains_key(before));
        self.expect(two.is_none(), || format!("{key} is {id}'s while {two:?} has it"));
        self.expect(taken, || format!("{key} is {id}'s, who never took it"));
        self.names.insert(key.to_owned(), id.to_owned());
        self.held.insert((key.to_owned(), id.to_owned()));
    }

    /// A name was taken from whoever held it.
    pub(crate) fn let_go(&mut self, key: &str, held: Option<String>) {
        match held {
            Some(held) => {
                self.holds(key, &held, false);
                self.names.remove(key);
            }
            None => self.is_free(key),
        }
    }

    /// Nobody is found under a name.
    pub(crate) fn is_free(&mut self, key: &str) {
        let holder = self.names.get(key).filter(|holder| self.live.contains_key(*holder)).cloned();
        self.expect(holder.is_none(), || format!("nobody is found under {key}, which is {holder:?}'s"));
    }

    /// Timers that an actor has set and that will send it something.
    pub(crate) fn timers_of(&self, id: &str) -> usize {
        let Some(life) = self.live.get(id) else { return 0 };
        let own = self.timers.iter().filter(|timer| timer.life == life.number && timer.is_set()).count();
        own + usize::from(life.idle) + usize::from(self.until.contains_key(id))
    }

    /// Timers that were due and have not fired, of actors that have had the time for it.
    pub(crate) fn late_timers(&self, now_ns: u64, busy: &BTreeSet<String>) -> Vec<Timer> {
        let late = |timer: &&Timer| {
            let life = self.live.get(&timer.owner);
            let due = timer.cancelled_ns.is_none() && !timer.repeats && timer.due(now_ns) > timer.fired;
            due && life.is_some_and(|life| life.number == timer.life) && !busy.contains(&timer.owner)
        };
        self.timers.iter().filter(late).cloned().collect()
    }
}
