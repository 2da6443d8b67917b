//! Credit: how a shard tells all others that a receiver of its is short of room, and how many messages it still takes.
//!
//! A receiver that runs short gets one word in its shard's [`CreditTable`]. Senders elsewhere (other shards, threads outside)
//! take one token from that word for each message (shards several at a time, see [`Purse`]); without a token they answer `Full(m)` at once and leave a mark that they
//! wanted one. The receiver's shard grants tokens once a turn, as far as the mailbox has room, and drops the word when the
//! receiver has been calm for a while.
//!
//! ```text
//! word:  | receiver, 54 bits: index << 27 + generation, or a hash of a virtual actor's name | wanted, 1 | tokens, 9 |
//! ```
//!
//! Invariant: for each receiver, messages queued + tokens free + messages on their way that took a token <= its bound. A token
//! becomes mailbox room again exactly once: when its message arrives, when the sender gives it back, or when the word is
//! dropped. Receiver and tokens share one word, so a token is never taken from a successor.
//!
//! The table is read and spent from any thread; it is marked, granted and dropped by its shard only.

use crate::actor_ref::ActorId;
use crate::error::Rejected;
use crate::limits::{CREDIT_CALM_MS, CREDIT_IDLE_MS, SHORT_RECEIVERS, TOKENS_AT_ONCE};
use crate::sync::{AtomicU64, Ordering};

const TOKEN_BITS: u32 = 9;
const TOKEN_MASK: u64 = (1 << TOKEN_BITS) - 1;
const WANTED: u64 = 1 << TOKEN_BITS;
const KEY_SHIFT: u32 = TOKEN_BITS + 1;
const KEY_BITS: u32 = u64::BITS - KEY_SHIFT;

/// Tokens that one word can hold.
pub(crate) const TOKENS_MAX: u32 = TOKEN_MASK as u32;

const _: () = assert!(KEY_BITS == crate::envelope::INDEX_BITS + crate::envelope::GENERATION_BITS);
const _: () = assert!(SHORT_RECEIVERS == 64, "one bit of the hint for each home");

/// Words of a table; few in a model, which looks at each of them in every order.
const WORDS: usize = if cfg!(loom) { 2 } else { SHORT_RECEIVERS };

/// A receiver as the senders know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CreditKey(u64);

impl CreditKey {
    /// An actor in a cell.
    #[inline]
    pub(crate) fn of_cell(index: u32, generation: u32) -> Self {
        Self(u64::from(index) << crate::envelope::GENERATION_BITS | u64::from(generation))
    }

    /// A virtual actor, whose senders do not know its cell. Two names with one hash would share their tokens, which costs one
    /// of them a `Full` or a bounce, never a message uncounted.
    pub(crate) fn of_name(type_id: shardstage_codec::ActorTypeId, key: &str) -> Self {
        use std::hash::BuildHasher;
        let hash = foldhash::fast::FixedState::default().hash_one((type_id.get(), key));
        Self((hash >> KEY_SHIFT).max(1))
    }

    /// Where the search begins: neighbours in the cell table have neighbouring homes.
    #[inline]
    fn home(self) -> usize {
        (self.0 >> crate::envelope::GENERATION_BITS) as usize % WORDS
    }
}

/// What a sender may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credit {
    /// The receiver is not short: send.
    Open,
    /// A token was taken: send, and mark the message with it.
    Token,
    /// Nothing is left: `Full`. `true` when nobody had asked since the last grant, so that the receiver's shard must be woken.
    Spent(bool),
}

impl Credit {
    /// Tokens that were taken.
    pub(crate) fn tokens(self) -> u32 {
        u32::from(self == Self::Token)
    }
}

/// The receivers of one shard that are short of room.
pub(crate) struct CreditTable {
    /// One bit for each home that has words: whoever is not short pays one relaxed load.
    hint: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl CreditTable {
    pub(crate) fn new() -> Self {
        Self { hint: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Whether the receiver may be short: one relaxed load. A late answer costs a bounce, never a loss.
    #[inline(always)]
    pub(crate) fn may_be_short(&self, key: CreditKey) -> bool {
        self.hint.load(Ordering::Relaxed) & 1 << key.home() != 0
    }

    /// Takes a token if the receiver is short.
    #[inline]
    pub(crate) fn take(&self, key: CreditKey) -> Credit {
        if self.may_be_short(key) { self.take_up_to(key, 1).0 } else { Credit::Open }
    }

    /// Takes up to `most` tokens if the receiver is short, and says how many.
    #[cold]
    fn take_up_to(&self, key: CreditKey, most: u64) -> (Credit, u32) {
        let Some(word) = self.find(key) else { return (Credit::Open, 0) };
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            if seen >> KEY_SHIFT != key.0 {
                return (Credit::Open, 0);
            }
            let taken = (seen & TOKEN_MASK).min(most);
            let (next, credit) = match taken {
                0 if seen & WANTED != 0 => return (Credit::Spent(false), 0),
                0 => (seen | WANTED, Credit::Spent(true)),
                _ => (seen - taken, Credit::Token),
            };
            // Released for the owner, which must see the mark of a sender that woke it. Pair: `state`.
            match word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return (credit, taken as u32),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives tokens back whose messages were not sent; `false` when the word is gone, and the receiver's shard must be told.
    pub(crate) fn give_back(&self, key: CreditKey, tokens: u32) -> bool {
        let Some(word) = self.find(key) else { return false };
        word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |seen| {
            let tokens = (seen & TOKEN_MASK) + u64::from(tokens);
            (seen >> KEY_SHIFT == key.0 && tokens <= TOKEN_MASK).then_some(seen & !TOKEN_MASK | tokens)
        })
        .is_ok()
    }

    fn find(&self, key: CreditKey) -> Option<&AtomicU64> {
        let home = key.home();
        (0..WORDS)
            .map(|step| &self.words[(home + step) % WORDS])
            .find(|word| word.load(Ordering::Relaxed) >> KEY_SHIFT == key.0)
    }

    /// Marks a receiver as short, without tokens; `None` when the table is full.
    fn mark(&self, key: CreditKey) -> Option<usize> {
        let home = key.home();
        let place = (0..WORDS)
            .map(|step| (home + step) % WORDS)
            .find(|place| self.words[*place].load(Ordering::Relaxed) == 0)?;
        self.words[place].store(key.0 << KEY_SHIFT, Ordering::Release);
        self.hint.fetch_or(1 << home, Ordering::Release);
        Some(place)
    }

    /// (whether a sender wanted more, tokens left).
    fn state(&self, place: usize) -> (bool, u32) {
        let word = self.words[place].load(Ordering::Acquire);
        (word & WANTED != 0, (word & TOKEN_MASK) as u32)
    }

    fn grant(&self, place: usize, tokens: u32) {
        let granted = self.words[place].fetch_update(Ordering::AcqRel, Ordering::Relaxed, |seen| {
            debug_assert!((seen & TOKEN_MASK) + u64::from(tokens) <= TOKEN_MASK);
            Some((seen & !WANTED) + u64::from(tokens))
        });
        debug_assert!(granted.is_ok());
    }

    /// Takes back all tokens of a word that stays.
    fn reclaim(&self, place: usize) -> u32 {
        (self.words[place].fetch_and(!TOKEN_MASK, Ordering::AcqRel) & TOKEN_MASK) as u32
    }

    /// Drops a word; returns the tokens that were left.
    fn clear(&self, place: usize, key: CreditKey) -> u32 {
        let left = (self.words[place].swap(0, Ordering::AcqRel) & TOKEN_MASK) as u32;
        let home = key.home();
        let shared = self.words.iter().any(|word| {
            let key = word.load(Ordering::Relaxed) >> KEY_SHIFT;
            key != 0 && CreditKey(key).home() == home
        });
        if !shared {
            self.hint.fetch_and(!(1 << home), Ordering::Release);
        }
        left
    }
}

/// Tokens that a shard has taken several at a time and spends in one turn, so that a message to a short receiver costs no
/// atomic: a word that two cores change for every message costs more than the message. What is left goes back when the turn
/// ends.
#[derive(Default)]
pub(crate) struct Purse {
    held: Vec<Held>,
}

struct Held {
    receiver: ActorId,
    tokens: u32,
}

impl Purse {
    /// Takes a token for `receiver`, which lives on another shard of this engine, if it is short.
    #[inline(always)]
    pub(crate) fn take(&mut self, receiver: ActorId) -> Result<Credit, Rejected> {
        if receiver.link().credit.may_be_short(receiver.credit_key()) {
            self.take_short(receiver)
        } else {
            Ok(Credit::Open)
        }
    }

    #[inline(never)]
    fn take_short(&mut self, receiver: ActorId) -> Result<Credit, Rejected> {
        if let Some(held) = self.held.iter_mut().find(|held| held.receiver == receiver && held.tokens > 0) {
            held.tokens -= 1;
            return Ok(Credit::Token);
        }
        match receiver.link().credit.take_up_to(receiver.credit_key(), TOKENS_AT_ONCE) {
            (Credit::Token, tokens) => {
                match self.held.iter_mut().find(|held| held.receiver == receiver) {
                    Some(held) => held.tokens = tokens - 1,
                    None => self.held.push(Held { receiver, tokens: tokens - 1 }),
                }
                Ok(Credit::Token)
            }
            (Credit::Spent(first), _) => {
                if first {
                    receiver.link().wake();
                }
                Err(Rejected::Full)
            }
            (Credit::Open, _) => Ok(Credit::Open),
        }
    }

    /// Gives back what the turn has not spent.
    #[inline]
    pub(crate) fn empty(&mut self) {
        for Held { receiver, tokens } in self.held.drain(..).filter(|held| held.tokens > 0) {
            crate::actor_ref::give_back(receiver, tokens);
        }
    }
}

/// What the receiver's own shard knows of one word.
struct Short {
    place: usize,
    key: CreditKey,
    index: u32,
    generation: u32,
    /// Messages from other shards after which whatever was sent before the mark has arrived; no token is granted earlier.
    settled_at: u64,
    granted_ms: u32,
    /// When somebody last wanted more than there was.
    busy_ms: u32,
}

/// What the ledger must know of a receiver's cell to grant.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Messages queued, or as many as the mailbox is full by weight.
    pub(crate) queued: u32,
    /// Messages that may enter without a token.
    pub(crate) capacity: u32,
    /// Tokens free or on their way.
    pub(crate) out: u32,
    /// Messages that may be granted now.
    pub(crate) free: u32,
}

/// What to do with a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Nothing,
    /// Move this much room from the cell to the word.
    Grant(u32),
    /// Drop the word; its tokens become room again.
    Clear,
}

/// The shard's own side of its [`CreditTable`].
#[derive(Default)]
pub(crate) struct Ledger {
    shorts: Vec<Short>,
    /// Messages that have come from other shards and threads.
    pub(crate) received: u64,
    /// Some entry is on its way to be dropped, which takes a turn later on.
    calming: bool,
}

impl Ledger {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.shorts.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.shorts.len()
    }

    /// Marks a receiver under one of its names; `false` when the table is full.
    pub(crate) fn mark(
        &mut self,
        table: &CreditTable,
        key: CreditKey,
        (index, generation): (u32, u32),
        settled_at: u64,
        now_ms: u32,
    ) -> bool {
        let Some(place) = table.mark(key) else { return false };
        let short = Short { place, key, index, generation, settled_at, granted_ms: now_ms, busy_ms: now_ms };
        self.shorts.push(short);
        true
    }

    /// Whether a turn is wanted in a while although nothing arrives; asks anew each time.
    pub(crate) fn is_calming(&self) -> bool {
        self.calming
    }

    /// A turn's decisions begin.
    pub(crate) fn begin(&mut self) {
        self.calming = false;
    }

    /// The cell of an entry.
    pub(crate) fn cell(&self, entry: usize) -> (u32, u32) {
        (self.shorts[entry].index, self.shorts[entry].generation)
    }

    /// Whether a turn would grant something that a sender waits for.
    pub(crate) fn is_due(&self, table: &CreditTable, room_of: impl Fn(u32, u32) -> u32) -> bool {
        self.shorts.iter().any(|short| {
            table.state(short.place).0
                && self.received >= short.settled_at
                && room_of(short.index, short.generation) > 0
        })
    }

    /// What a turn does for one entry. Up to half of the bound is granted, so that neither the shard's own senders nor those
    /// from elsewhere keep the others out.
    pub(crate) fn decide(&mut self, table: &CreditTable, entry: usize, room: Room, now_ms: u32) -> Decision {
        let short = &mut self.shorts[entry];
        let (wanted, tokens) = table.state(short.place);
        let bound = room.capacity + room.out;
        if wanted || room.queued * 2 > bound {
            short.busy_ms = now_ms;
        }
        if self.received < short.settled_at {
            return Decision::Nothing;
        }
        let window = (bound / 2).clamp(1, TOKENS_MAX);
        // An actor with two names may have spent the window on the other one.
        let least = if wanted && tokens == 0 { window.div_ceil(8) } else { 0 };
        let grant = window.saturating_sub(room.out).max(least).min(room.free);
        if grant > 0 && (wanted || tokens * 2 < window) {
            table.grant(short.place, grant);
            short.granted_ms = now_ms;
            return Decision::Grant(grant);
        }
        if now_ms.wrapping_sub(short.busy_ms) >= CREDIT_CALM_MS {
            return Decision::Clear;
        }
        self.calming |= !wanted;
        Decision::Nothing
    }

    /// Whether a cell has an entry.
    pub(crate) fn has(&self, cell: (u32, u32)) -> bool {
        self.shorts.iter().any(|short| (short.index, short.generation) == cell)
    }

    /// Drops an entry; returns the tokens that were left.
    pub(crate) fn clear(&mut self, table: &CreditTable, entry: usize) -> u32 {
        let short = self.shorts.swap_remove(entry);
        table.clear(short.place, short.key)
    }

    /// Takes back the tokens of a cell that nobody has used for a while; for senders of the receiver's own shard.
    pub(crate) fn reclaim(&mut self, table: &CreditTable, cell: (u32, u32), now_ms: u32) -> u32 {
        let idle = |short: &&Short| {
            (short.index, short.generation) == cell && now_ms.wrapping_sub(short.granted_ms) >= CREDIT_IDLE_MS
        };
        self.shorts.iter().filter(idle).map(|short| table.reclaim(short.place)).sum()
    }

    /// Takes back all tokens of a cell.
    pub(crate) fn reclaim_all(&mut self, table: &CreditTable, cell: (u32, u32)) -> u32 {
        let of_cell = |short: &&Short| (short.index, short.generation) == cell;
        self.shorts.iter().filter(of_cell).map(|short| table.reclaim(short.place)).sum()
    }

    /// Drops the entries of a cell that goes away.
    pub(crate) fn forget(&mut self, table: &CreditTable, cell: (u32, u32)) {
        for entry in (0..self.shorts.len()).rev() {
            if self.cell(entry) == cell {
                self.clear(table, entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_one_receiver_and_are_spent_once() {
        let (table, mut ledger) = (CreditTable::new(), Ledger::default());
        let (key, successor) = (CreditKey::of_cell(7, 1), CreditKey::of_cell(7, 2));
        assert_eq!(table.take(key), Credit::Open, "not short");
        assert!(ledger.mark(&table, key, (7, 1), 10, 0));
        assert_eq!((table.take(key), table.take(key)), (Credit::Spent(true), Credit::Spent(false)));
        let room = Room { queued: 2, capacity: 6, out: 0, free: 4 };
        assert_eq!(ledger.decide(&table, 0, room, 0), Decision::Nothing, "what was under way has not arrived");
        ledger.received = 10;
        assert_eq!(ledger.decide(&table, 0, room, 0), Decision::Grant(3), "half of the bound");
        assert_eq!(table.take(successor), Credit::Open);
        assert_eq!([0; 4].map(|_| table.take(key)), [Credit::Token, Credit::Token, Credit::Token, Credit::Spent(true)]);
        assert!(table.give_back(key, 1) && !table.give_back(successor, 1));
        assert_eq!(ledger.clear(&table, 0), 1);
        assert_eq!((table.take(key), table.give_back(key, 1)), (Credit::Open, false));
    }

    #[test]
    fn a_full_table_marks_nobody_and_homes_that_collide_do_not_mix() {
        let (table, mut ledger) = (CreditTable::new(), Ledger::default());
        let places = u32::try_from(WORDS).expect("a small number");
        for index in 0..places {
            assert!(ledger.mark(&table, CreditKey::of_cell(index * places, 1), (index * places, 1), 0, 0));
        }
        assert!(!ledger.mark(&table, CreditKey::of_cell(1, 1), (1, 1), 0, 0));
        assert_eq!(table.take(CreditKey::of_cell(places * places, 1)), Credit::Open, "same home, not marked");
        ledger.forget(&table, (0, 1));
        assert_eq!(table.take(CreditKey::of_cell(0, 1)), Credit::Open);
        assert_eq!(table.take(CreditKey::of_cell(places, 1)), Credit::Spent(true), "the others are marked still");
    }

    #[test]
    fn threads_that_race_for_tokens_take_each_once() {
        let (table, mut ledger) = (CreditTable::new(), Ledger::default());
        let key = CreditKey::of_cell(3, 9);
        ledger.mark(&table, key, (3, 9), 0, 0);
        let (mut granted, mut taken) = (0, 0);
        for _ in 0..50 {
            if let Decision::Grant(tokens) =
                ledger.decide(&table, 0, Room { queued: 0, capacity: 64, out: 0, free: 64 }, 0)
            {
                granted += tokens;
            }
            taken += std::thread::scope(|scope| {
                let race = || (0..20).filter(|_| table.take(key) == Credit::Token).count();
                let threads = [scope.spawn(race), scope.spawn(race)];
                threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum::<usize>()
            });
        }
        assert_eq!(taken as u32 + ledger.clear(&table, 0), granted);
    }
}
