//! Senders that wait for room in a mailbox, one table for each shard that has such receivers.
//!
//! Waiters of one receiver stand in line. At the end of its turn the receiver's shard reserves as much room as the mailbox
//! has and grants it to the first in line; each of them is woken once and then sends in the reserved room, so nobody is woken
//! in vain and nobody who only tells can overtake. Who gives up hands its grant to the next.
//!
//! Invariant: a line's granted waiters are its first ones, and for each of them, and for each grant that is left over, one
//! message of room is reserved in the receiver's cell, as for a token of credit.
//!
//! Any thread; the lock is held for a few look-ups, never while foreign code runs: wakers are woken and dropped outside.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use foldhash::fast::FixedState;

use crate::credit::CreditKey;
use crate::error::Rejected;
use crate::key::Key;
use crate::limits::{WAITERS_PER_SHARD, WAITERS_WOKEN_PER_TURN};
use crate::shard::ShardCore;

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterId(u32);

/// For whom a line forms.
#[derive(Clone)]
pub(crate) enum Whom {
    /// An actor in a cell of this shard.
    Cell(u32, u32),
    /// A virtual actor of this shard: its type's place in the registry, and its key.
    Name(usize, Key),
    /// A virtual actor of another node, behind a lane of this shard's transport.
    Away,
}

/// What a waiter finds when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Waiting,
    /// Room is reserved: send in it.
    Granted,
    /// There may be room: try again, and stay in line if there is none.
    Retry,
    /// Nothing comes any more.
    Over(Rejected),
}

struct Waiter {
    key: CreditKey,
    turn: Turn,
    /// What `Waiters::news` said when it was told to try again.
    news: u64,
    /// Granted, but the ring or queue to the shard was full.
    at_the_door: bool,
    waker: Option<Waker>,
}

struct Line {
    order: VecDeque<u32>,
    /// Grants of waiters that gave up with nobody behind them.
    left_over: u32,
    whom: Whom,
}

#[derive(Default)]
struct Table {
    waiters: Vec<Option<Waiter>>,
    free: Vec<u32>,
    lines: HashMap<CreditKey, Line, FixedState>,
    closed: bool,
}

/// The senders that wait for receivers of one shard.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Mutex<Table>,
    /// How many lines there are: nobody locks the table while there is none.
    lines: AtomicUsize,
    /// Somebody came, or gave a grant up. Pair: the shard's last look before it parks.
    attention: AtomicBool,
    /// How often there may have been room at other nodes since the start: word of it came, or lanes have moved.
    news: AtomicU64,
}

impl Table {
    fn waiter(&mut self, id: WaiterId) -> &mut Waiter {
        self.waiters[id.0 as usize].as_mut().expect("a waiter's place is its own until it leaves")
    }

    /// Takes a waiter out of the table and its line.
    fn remove(&mut self, id: WaiterId) -> Waiter {
        let waiter = self.waiters[id.0 as usize].take().expect("a waiter's place is its own until it leaves");
        self.free.push(id.0);
        if let Some(line) = self.lines.get_mut(&waiter.key)
            && let Some(at) = line.order.iter().position(|other| *other == id.0)
        {
            line.order.remove(at);
        }
        waiter
    }

    /// Drops a line without waiters and grants.
    fn prune(&mut self, key: CreditKey) {
        if self.lines.get(&key).is_some_and(|line| line.order.is_empty() && line.left_over == 0) {
            self.lines.remove(&key);
        }
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, table: &Table) {
        self.lines.store(table.lines.len(), Ordering::Relaxed);
    }

    /// Whether somebody stands in line for this receiver already: whoever comes later stands behind.
    pub(crate) fn has_line(&self, key: CreditKey) -> bool {
        self.lines.load(Ordering::Relaxed) != 0
            && self.lock().lines.get(&key).is_some_and(|line| !line.order.is_empty())
    }

    /// Whether the shard has something to look at before it parks.
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Stands in line. The caller wakes the shard.
    ///
    /// # Errors
    /// `Closed` when the shard is gone, `Full` when too many wait already.
    pub(crate) fn enter(&self, key: CreditKey, whom: Whom, waker: Waker) -> Result<WaiterId, Rejected> {
        let mut table = self.lock();
        if table.closed {
            return Err(Rejected::Closed);
        }
        let id = match table.free.pop() {
            Some(id) => id,
            None if table.waiters.len() < WAITERS_PER_SHARD => {
                table.waiters.push(None);
                u32::try_from(table.waiters.len() - 1).expect("a small number")
            }
            None => return Err(Rejected::Full),
        };
        table.waiters[id as usize] =
            Some(Waiter { key, turn: Turn::Waiting, news: 0, at_the_door: false, waker: Some(waker) });
        let line = table.lines.entry(key).or_insert_with(|| Line { order: VecDeque::new(), left_over: 0, whom });
        line.order.push_back(id);
        self.count(&table);
        drop(table);
        // Pair: the fence of `call`.
        fence(Ordering::SeqCst);
        self.attention.store(true, Ordering::Release);
        Ok(WaiterId(id))
    }

    /// What has become of a waiter; one that goes on waiting leaves its waker.
    pub(crate) fn look(&self, id: WaiterId, waker: &Waker) -> Turn {
        // Cloned and dropped outside the lock: wakers are foreign code.
        let mut new = Some(waker.clone());
        let turn = {
            let mut table = self.lock();
            let waiter = table.waiter(id);
            if waiter.turn == Turn::Waiting {
                std::mem::swap(&mut waiter.waker, &mut new);
            }
            waiter.turn
        };
        drop(new);
        turn
    }

    /// There may be room at another node for whoever waits on this shard. Returns whether anybody does: then the caller wakes it.
    pub(crate) fn call(&self) -> bool {
        self.news.fetch_add(1, Ordering::Release);
        // Pair: the fence of `enter`. Either the line is seen here, or its first retry sees that there may be room.
        fence(Ordering::SeqCst);
        let any = self.lines.load(Ordering::Relaxed) != 0;
        if any {
            self.attention.store(true, Ordering::Release);
        }
        any
    }

    /// A waiter found no room after all: it keeps its place, and its grant if it has one.
    pub(crate) fn stay(&self, id: WaiterId, waker: &Waker) {
        let mut new = Some(waker.clone());
        let again = {
            let mut table = self.lock();
            let waiter = table.waiter(id);
            let mut again = false;
            match waiter.turn {
                Turn::Granted => waiter.at_the_door = true,
                Turn::Retry => {
                    waiter.turn = Turn::Waiting;
                    // While it tried the shard passed it over, and what came then came for it too.
                    again = waiter.news != self.news.load(Ordering::Relaxed);
                }
                Turn::Waiting | Turn::Over(_) => {}
            }
            std::mem::swap(&mut waiter.waker, &mut new);
            again || waiter.at_the_door
        };
        drop(new);
        if again {
            self.attention.store(true, Ordering::Release);
        }
    }

    /// Leaves the table. A grant that was not used goes to the next in line.
    ///
    /// Returns whether the shard must be woken because nobody is next.
    pub(crate) fn leave(&self, id: WaiterId, used: bool) -> bool {
        let mut next_waker = None;
        let mut left_over = false;
        let waiter = {
            let mut table = self.lock();
            let waiter = table.remove(id);
            if waiter.turn == Turn::Granted && !used {
                let Table { waiters, lines, .. } = &mut *table;
                if let Some(line) = lines.get_mut(&waiter.key) {
                    let is_next =
                        |id: &&u32| waiters[**id as usize].as_ref().is_some_and(|waiter| waiter.turn == Turn::Waiting);
                    let next = line.order.iter().find(is_next).copied();
                    if let Some(next) = next.and_then(|id| waiters[id as usize].as_mut()) {
                        next.turn = Turn::Granted;
                        next_waker = next.waker.take();
                    } else {
                        line.left_over += 1;
                        left_over = true;
                    }
                }
            }
            table.prune(waiter.key);
            self.count(&table);
            waiter
        };
        drop(waiter);
        if let Some(waker) = next_waker {
            waker.wake();
        }
        if left_over {
            self.attention.store(true, Ordering::Release);
        }
        left_over
    }

    /// Ends all waiting: the shard is gone.
    pub(crate) fn close(&self) {
        let mut wakers = Vec::new();
        {
            let mut table = self.lock();
            table.closed = true;
            table.lines.clear();
            for waiter in table.waiters.iter_mut().flatten() {
                waiter.turn = Turn::Over(Rejected::Closed);
                wakers.extend(waiter.waker.take());
            }
            self.count(&table);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Once a turn, on the shard: grants what room there is, ends the lines of actors that are gone. Returns whom to wake, which
    /// the caller does when nothing of the shard is borrowed.
    ///
    /// `moved`: the transport has received something, so lanes may have room.
    pub(crate) fn serve(&self, core: &mut ShardCore, moved: bool, wakers: &mut Vec<Waker>) {
        self.serve_lines(moved, wakers, |line, waiters, wakers| {
            let cell = match &line.whom {
                Whom::Cell(index, generation) => Some((*index, *generation)),
                Whom::Name(position, key) => core.directory.get(*position, key),
                Whom::Away => unreachable!("served without its shard's actors"),
            };
            match cell {
                Some(cell) => serve_cell(core, line, waiters, cell, wakers),
                // Asleep: the first message activates it.
                None => {
                    line.left_over = 0;
                    line.each(waiters, (WAITERS_WOKEN_PER_TURN, 0), wakers, |_| Some(Turn::Retry));
                }
            }
        });
    }

    /// Serves the lines for other nodes, and has `at_home` serve those for actors of this shard.
    fn serve_lines(
        &self,
        moved: bool,
        wakers: &mut Vec<Waker>,
        mut at_home: impl FnMut(&mut Line, &mut [Option<Waiter>], &mut Vec<Waker>),
    ) {
        if self.lines.load(Ordering::Relaxed) == 0 && !self.wants_attention() {
            return;
        }
        let attention = self.attention.swap(false, Ordering::Acquire);
        if moved {
            self.news.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever has just come may have seen a lane that has moved since.
        let moved = moved || attention;
        let mut table = self.lock();
        let news = self.news.load(Ordering::Acquire);
        let Table { waiters, lines, .. } = &mut *table;
        lines.retain(|_, line| {
            if !matches!(line.whom, Whom::Away) {
                at_home(line, waiters, wakers);
            } else if moved {
                let share = (WAITERS_WOKEN_PER_TURN, news);
                line.each(waiters, share, wakers, |turn| (turn == Turn::Waiting).then_some(Turn::Retry));
            }
            !line.order.is_empty() || line.left_over > 0
        });
        self.count(&table);
    }
}

impl Line {
    /// Gives the first `limit` for whom `next` says so another turn, and wakes them.
    fn each(
        &mut self,
        waiters: &mut [Option<Waiter>],
        (limit, news): (usize, u64),
        wakers: &mut Vec<Waker>,
        next: impl Fn(Turn) -> Option<Turn>,
    ) {
        let mut left = limit;
        for id in &self.order {
            if left == 0 {
                break;
            }
            let waiter = waiters[*id as usize].as_mut().expect("who stands in line has a place");
            let Some(turn) = next(waiter.turn) else { continue };
            (waiter.turn, waiter.news) = (turn, news);
            wakers.extend(waiter.waker.take());
            left -= 1;
        }
    }
}

fn serve_cell(
    core: &mut ShardCore,
    line: &mut Line,
    waiters: &mut [Option<Waiter>],
    cell: (u32, u32),
    wakers: &mut Vec<Waker>,
) {
    let gone = core.cells.get(cell.0, cell.1).is_none_or(|cell| !cell.admits());
    if gone {
        line.left_over = 0;
        line.each(waiters, (usize::MAX, 0), wakers, |turn| {
            (!matches!(turn, Turn::Over(_))).then_some(Turn::Over(Rejected::Closed))
        });
        // They leave by themselves; the line has nothing more to give.
        line.order.clear();
        return;
    }
    core.take_room(cell, std::mem::take(&mut line.left_over), 0);
    let waiting = line
        .order
        .iter()
        .filter(|id| waiters[**id as usize].as_ref().is_some_and(|waiter| waiter.turn == Turn::Waiting))
        .count();
    let granted = core.take_room(cell, 0, u32::try_from(waiting).unwrap_or(u32::MAX));
    line.each(waiters, (granted as usize, 0), wakers, |turn| (turn == Turn::Waiting).then_some(Turn::Granted));
    // The ring has moved since they found it full.
    for id in &line.order {
        if let Some(waiter) = &mut waiters[*id as usize]
            && std::mem::take(&mut waiter.at_the_door)
        {
            wakers.extend(waiter.waker.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One turn of a shard without actors.
    fn serve(waiters: &Waiters, moved: bool) {
        let mut wakers = Vec::new();
        waiters.serve_lines(moved, &mut wakers, |_, _, _| {});
    }

    #[test]
    fn who_tries_while_word_of_room_comes_tries_again_and_nobody_tries_without_news() {
        for moved in [false, true] {
            let (waiters, waker) = (Waiters::default(), Waker::noop());
            assert!(!waiters.call(), "nobody waits");
            let id = waiters.enter(CreditKey::of_cell(1, 1), Whom::Away, waker.clone()).expect("there is a place");
            serve(&waiters, false);
            assert_eq!(waiters.look(id, waker), Turn::Retry, "it may have come late");
            // It tries, and finds no room, just before there is some.
            if moved {
                serve(&waiters, true);
            } else {
                assert!(waiters.call());
                serve(&waiters, false);
            }
            assert!(!waiters.wants_attention());
            waiters.stay(id, waker);
            assert!(waiters.wants_attention(), "what came while it tried came for it too");
            serve(&waiters, false);
            assert_eq!(waiters.look(id, waker), Turn::Retry);
            waiters.stay(id, waker);
            assert!(!waiters.wants_attention(), "there is nothing new");
            serve(&waiters, false);
            assert_eq!(waiters.look(id, waker), Turn::Waiting);
            assert!(waiters.call());
            serve(&waiters, false);
            assert_eq!(waiters.look(id, waker), Turn::Retry);
            assert!(!waiters.leave(id, false));
        }
    }
}
