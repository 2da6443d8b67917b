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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        table.waiters[id as usize] = Some(Waiter { key, turn: Turn::Waiting, at_the_door: false, waker: Some(waker) });
        let line = table.lines.entry(key).or_insert_with(|| Line { order: VecDeque::new(), left_over: 0, whom });
        line.order.push_back(id);
        self.count(&table);
        drop(table);
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

    /// A waiter found no room after all: it keeps its place, and its grant if it has one.
    pub(crate) fn stay(&self, id: WaiterId, waker: &Waker) {
        let mut new = Some(waker.clone());
        let granted = {
            let mut table = self.lock();
            let waiter = table.waiter(id);
            match waiter.turn {
                Turn::Granted => waiter.at_the_door = true,
                Turn::Retry => waiter.turn = Turn::Waiting,
                Turn::Waiting | Turn::Over(_) => {}
            }
            std::mem::swap(&mut waiter.waker, &mut new);
            waiter.at_the_door
        };
        drop(new);
        if granted {
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
        let attention = self.wants_attention();
        if self.lines.load(Ordering::Relaxed) == 0 && !attention {
            return;
        }
        self.attention.store(false, Ordering::Relaxed);
        // Whoever has just come may have seen a lane that has moved since.
        let moved = moved || attention;
        let mut table = self.lock();
        let Table { waiters, lines, .. } = &mut *table;
        lines.retain(|_, line| {
            match &line.whom {
                Whom::Cell(index, generation) => serve_cell(core, line, waiters, (*index, *generation), wakers),
                Whom::Name(position, key) => match core.directory.get(*position, key) {
                    Some(cell) => serve_cell(core, line, waiters, cell, wakers),
                    // Asleep: the first message activates it.
                    None => {
                        line.left_over = 0;
                        line.each(waiters, WAITERS_WOKEN_PER_TURN, wakers, |_| Some(Turn::Retry));
                    }
                },
                Whom::Away => {
                    let share = if moved { WAITERS_WOKEN_PER_TURN } else { 0 };
                    line.each(waiters, share, wakers, |turn| (turn == Turn::Waiting).then_some(Turn::Retry));
                }
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
        limit: usize,
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
            waiter.turn = turn;
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
        line.each(waiters, usize::MAX, wakers, |turn| {
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
    line.each(waiters, granted as usize, wakers, |turn| (turn == Turn::Waiting).then_some(Turn::Granted));
    // The ring has moved since they found it full.
    for id in &line.order {
        if let Some(waiter) = &mut waiters[*id as usize]
            && std::mem::take(&mut waiter.at_the_door)
        {
            wakers.extend(waiter.waker.take());
        }
    }
}
