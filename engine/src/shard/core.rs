//! The shard's core: everything that a tell from a running handler may touch.
//!
//! Invariant: borrowed for one short operation at a time; what may run user code on drop (dead messages, freed slots) is put
//! into `graveyard` and dropped outside the borrow.

use std::collections::VecDeque;

use shardstage_codec::ShardId;

use super::actor_box::ActorBox;
use super::cell::{Cell, CellTable, Life};
use super::mailbox::BacklogPool;
use super::mesh::Mesh;
use crate::actor_ref::ActorId;
use crate::cluster::directory::Directory;
use crate::credit::{CreditKey, Decision, Ledger, Purse};
use crate::dead_letter::Reason;
use crate::envelope::{Envelope, EpochTag, PackedAddress};
use crate::error::{Rejected, SpawnError};
use crate::key::Key;
use crate::link::{ShardLink, SystemOp};
use crate::policy::{Mailbox, Overflow};
use crate::reentrancy::Reentrancy;
use crate::reply::{ReplyAddress, ReplyTable};
use crate::run_queue::RunQueue;
use crate::timer::Timers;

/// A message that could not be delivered, before it is reported.
pub(crate) struct DeadLetterDraft {
    pub(crate) envelope: Envelope,
    pub(crate) reason: Reason,
}

/// What a spawn needs.
pub(crate) struct Spawn {
    pub(crate) state: ActorBox,
    pub(crate) capacity: u32,
    pub(crate) identity: Option<(usize, Key)>,
    pub(crate) epoch: EpochTag,
    /// The index of the actor that spawns it.
    pub(crate) parent: Option<u32>,
}

/// Plain counters of one shard, copied to its link once a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: u64,
    pub(crate) turns: u64,
    pub(crate) long_turns: u64,
    pub(crate) busy_ns: u64,
    pub(crate) parks: u64,
    pub(crate) panics: u64,
    pub(crate) expired: u64,
    pub(crate) cancelled: u64,
    pub(crate) ring_sent: u64,
    pub(crate) ring_received: u64,
    pub(crate) frames_sent: u64,
    pub(crate) frames_received: u64,
    pub(crate) fan_out_encoded: u64,
    pub(crate) fan_out_shared: u64,
    pub(crate) fenced: u64,
    pub(crate) missed_ticks: u64,
    pub(crate) activated: u64,
    pub(crate) passivated: u64,
}

/// See the module's head.
pub(crate) struct ShardCore {
    pub(crate) shard: ShardId,
    pub(crate) link: &'static ShardLink,
    pub(crate) now_ns: u64,
    /// Messages that this turn may handle, and an actor of it at a time.
    pub(crate) budget: u32,
    pub(crate) cells: CellTable,
    pub(crate) pool: BacklogPool,
    pub(crate) run_queue: RunQueue,
    pub(crate) replies: ReplyTable,
    pub(crate) mesh: Mesh,
    pub(crate) ledger: Ledger,
    /// Credit of receivers on other shards, taken in this turn.
    pub(crate) purse: Purse,
    pub(crate) timers: Timers,
    pub(crate) directory: Directory,
    pub(crate) counters: Counters,
    pub(crate) graveyard: Vec<DeadLetterDraft>,
    /// Encoded frames that could not be reserved inside the transport's own poll.
    pub(crate) frames: VecDeque<crate::cluster::outbound::PendingFrame>,
    /// Word of room that is owed to other nodes.
    pub(crate) owed_room: crate::cluster::credit::OwedRoom,
    /// Numbers that stand for receivers at other nodes, and for ours at them.
    pub(crate) routes: crate::cluster::routes::Routes,
    /// Reused room for encoding.
    pub(crate) scratch: shardstage_codec::AlignedBytes,
    pub(crate) mailbox_capacity: u32,
    pub(crate) random: crate::random::Random,
    /// The actor whose handler runs, as sender of what it tells.
    pub(crate) running: Option<PackedAddress>,
    /// What runs is work attached to that actor, which waits for nothing in it.
    pub(crate) steps_work: bool,
    /// Draining for shutdown: no new activations.
    pub(crate) draining: bool,
    /// Requests that come after every message that had arrived when they did.
    pub(crate) deferred: Vec<SystemOp>,
    /// Asks whose `Reply` was dropped by a panic that is still on its way up.
    pub(crate) orphans: Vec<ReplyAddress>,
    /// Asks from other shards whose asker has given up.
    pub(crate) forsaken: crate::asking::cancel::Forsaken,
    /// When the asker of the last message with a context block gives up; for its handler's `Reply`.
    pub(crate) asked_until_ns: u64,
    /// Whether some actor that lived here does not let everything in while it waits.
    pub(crate) has_turns: bool,
    /// The search for actors that wait for each other.
    pub(crate) chase: crate::reentrancy::Chase,
    /// Faults that a test has planted; looked at for actors that do something else than to handle messages.
    pub(crate) rigs: Vec<super::Rig>,
    /// Whether there are any, or interceptors.
    pub(crate) is_rigged: bool,
}

impl ShardCore {
    /// Whether a message for (index, generation) may enter its mailbox.
    #[inline]
    pub(crate) fn admit(&mut self, index: u32, generation: u32, epoch: EpochTag) -> Result<(), Rejected> {
        match self.cells.admit(index, generation, epoch) {
            Ok(_) => Ok(()),
            Err(reason) => self.admit_again((index, generation), reason),
        }
    }

    /// A message was refused. If that was because credit of senders elsewhere takes up the receiver's room, takes back what
    /// nobody uses. A mailbox that goes by weight refuses here whatever comes, and is asked again (`budget.rs`).
    #[cold]
    pub(crate) fn admit_again(&mut self, cell: (u32, u32), reason: Rejected) -> Result<(), Rejected> {
        let now_ms = self.now_ms();
        let receiver = self.cells.get(cell.0, cell.1).ok_or(reason)?;
        if receiver.is_weighed() {
            return Err(reason);
        }
        if reason == Rejected::Full && receiver.overflow() == Overflow::DropOldest {
            return self.give_way(cell);
        }
        if reason != Rejected::Full || !receiver.short {
            return Err(reason);
        }
        let tokens = self.ledger.reclaim(&self.link.credit, cell, now_ms);
        receiver.return_credit(tokens);
        if receiver.len() < receiver.mailbox.capacity { Ok(()) } else { Err(reason) }
    }

    /// Drops a message of a full mailbox for one that comes.
    pub(super) fn give_way(&mut self, cell: (u32, u32)) -> Result<(), Rejected> {
        let receiver = self.cells.get(cell.0, cell.1).ok_or(Rejected::Closed)?;
        let ordered = receiver.extra().attended.as_mut().and_then(|attended| attended.ordered.as_mut());
        let by_priority = ordered.is_some();
        if let Some(ordered) = ordered {
            *ordered = 0;
        }
        let victim = receiver.mailbox.give_way(by_priority, &mut self.pool).ok_or(Rejected::Full)?;
        receiver.has_left(&victim);
        self.bury(victim, Reason::Dropped);
        Ok(())
    }

    /// Whether a tell for this actor that finds no room is dropped.
    pub(crate) fn drops_newest(&mut self, (index, generation): (u32, u32), reason: Rejected) -> bool {
        let cell = self.cells.get(index, generation).filter(|_| reason == Rejected::Full);
        cell.is_some_and(|cell| cell.overflow() == Overflow::DropNewest)
    }

    /// Puts an admitted message into the mailbox and its actor into the run queue. `make` builds it in its slot.
    #[inline(always)]
    pub(crate) fn enqueue_with(&mut self, index: u32, make: impl FnOnce() -> Envelope) {
        let cell = self.cells.slot(index).expect("admitted to it");
        cell.push(index, &mut self.pool, &mut self.run_queue, make);
    }

    /// Puts an admitted message that is an envelope already into its mailbox.
    fn enqueue(&mut self, envelope: Envelope) {
        self.enqueue_with(envelope.index, || envelope);
    }

    /// Puts a message that has reserved room (a reply, a timer, a system message) into a mailbox, whatever its bound.
    pub(crate) fn push_reserved(&mut self, envelope: Envelope) {
        self.push_reserved_with(envelope.index, envelope.generation, || envelope);
    }

    /// The same, with an envelope that is built in its slot.
    #[inline(always)]
    pub(crate) fn push_reserved_with(&mut self, index: u32, generation: u32, make: impl FnOnce() -> Envelope) {
        match self.cells.get(index, generation) {
            Some(cell) if !matches!(cell.conduct.life, Life::Stopping) => self.enqueue_with(index, make),
            _ => self.bury(make(), Reason::Closed),
        }
    }

    /// Puts a notice into its actor's lane, which comes before all messages of users. Nothing happens if the actor is gone.
    pub(crate) fn notify(&mut self, notice: Envelope) {
        let index = notice.index;
        let Some(cell) = self.cells.get(index, notice.generation) else { return };
        cell.extra().notices.push_back(notice);
        // One that stops may be brought back, and hears of it then.
        if cell.conduct.suspended || cell.conduct.life == Life::Stopping {
            return;
        }
        cell.conduct.woken = true;
        if !cell.scheduled {
            cell.scheduled = true;
            self.run_queue.push(cell.ready(index));
        }
    }

    /// Delivers a message that came from another shard, thread or node: never waits; an overrun bounces. One for a mailbox that goes
    /// by weight comes back, to be weighed.
    pub(crate) fn deliver(&mut self, envelope: Envelope) -> Option<Envelope> {
        let (index, generation) = (envelope.index, envelope.generation);
        if envelope.has_credit() {
            self.redeem(index, generation, 1);
        }
        match self.admit(index, generation, envelope.epoch()) {
            Ok(()) => {
                let cell = self.cells.slot(index).expect("admitted to it");
                if cell.len() * 2 >= cell.mailbox.capacity && !cell.short && cell.overflow() == Overflow::HandBack {
                    self.mark_short(index, generation);
                }
                self.enqueue(envelope);
            }
            Err(reason) => {
                if reason == Rejected::Full && self.weighs((index, generation)) {
                    return Some(envelope);
                }
                if self.drops_newest((index, generation), reason) {
                    self.bury(envelope, Reason::Dropped);
                    return None;
                }
                if reason == Rejected::Full {
                    self.mark_short(index, generation);
                    if envelope.is_patient() {
                        // No more than was under way at the mark, once in an overload.
                        self.enqueue(envelope);
                        return None;
                    }
                }
                self.bury(envelope, Reason::from(reason));
            }
        }
        None
    }

    /// Messages that took tokens are here, or never will be: the tokens become room again.
    pub(crate) fn redeem(&mut self, index: u32, generation: u32, tokens: u32) {
        if let Some(cell) = self.cells.get(index, generation) {
            cell.return_credit(tokens);
        }
    }

    /// Has senders elsewhere count from now on. What they sent before is still on its way, so nothing is granted before it is
    /// here.
    #[cold]
    pub(crate) fn mark_short(&mut self, index: u32, generation: u32) {
        let now_ms = self.now_ms();
        let cell = self.cells.get(index, generation).expect("full, so alive");
        if cell.short {
            return;
        }
        let settled_at = self.ledger.received + self.mesh.waiting() + self.link.injected();
        let key = CreditKey::of_cell(index, generation);
        let cell_id = (index, generation);
        cell.short = self.ledger.mark(&self.link.credit, key, cell_id, settled_at, now_ms);
        if let Some((position, key)) = cell.extra.as_ref().and_then(|extra| extra.identity.as_ref()) {
            let name = CreditKey::of_name(self.link.engine().registry.types[*position].id, key);
            cell.short |= self.ledger.mark(&self.link.credit, name, cell_id, settled_at, now_ms);
        }
    }

    /// Gives `back` room to a cell that was reserved for waiting senders, and reserves up to `wanted`; unspent credit of senders
    /// elsewhere comes second to those who wait. Returns how much was reserved.
    pub(crate) fn take_room(&mut self, (index, generation): (u32, u32), back: u32, wanted: u32) -> u32 {
        let Some(cell) = self.cells.get(index, generation) else { return 0 };
        cell.return_credit(back);
        if wanted == 0 {
            return 0;
        }
        if cell.short && cell.room().free < wanted {
            let tokens = self.ledger.reclaim_all(&self.link.credit, (index, generation));
            cell.return_credit(tokens);
        }
        let taken = wanted.min(cell.room().free);
        cell.lend(taken);
        taken
    }

    /// Once a turn: grants credit to the receivers that are short, or lets go of those that are so no more.
    pub(crate) fn settle_credit(&mut self) {
        let now_ms = self.now_ms();
        let table = &self.link.credit;
        self.ledger.begin();
        for entry in (0..self.ledger.len()).rev() {
            let (index, generation) = self.ledger.cell(entry);
            let cell = self.cells.get(index, generation).expect("entries go with their cells");
            let room = cell.room();
            if room.queued * 2 <= room.capacity {
                self.owed_room.has_room(index, generation);
            }
            match self.ledger.decide(table, entry, room, now_ms) {
                Decision::Nothing => {}
                Decision::Grant(tokens) => cell.lend(tokens),
                Decision::Clear => {
                    cell.return_credit(self.ledger.clear(table, entry));
                    cell.short = self.ledger.has((index, generation));
                }
            }
        }
    }

    /// Whether a turn would grant credit for which a sender waits.
    pub(crate) fn credit_is_due(&self) -> bool {
        !self.ledger.is_empty()
            && self.ledger.is_due(&self.link.credit, |index, generation| {
                self.cells.peek(index, generation).map_or(0, |cell| cell.room().free)
            })
    }

    /// Keeps a message for the dead letters, to be reported and dropped outside the borrow.
    pub(crate) fn bury(&mut self, envelope: Envelope, reason: Reason) {
        self.graveyard.push(DeadLetterDraft { envelope, reason });
    }

    /// Schedules an actor whose future was woken or whose suspension ended.
    pub(crate) fn wake(&mut self, index: u32, generation: u32) {
        if let Some(cell) = self.cells.get(index, generation) {
            cell.conduct.woken = true;
            if !cell.scheduled {
                cell.scheduled = true;
                self.run_queue.push(cell.ready(index));
            }
        }
    }

    /// An actor that lets not everything in while it waits may have no more to wait for.
    pub(crate) fn let_in(&mut self, index: u32, generation: u32) {
        if self.cells.peek(index, generation).is_some_and(Cell::is_held) {
            self.wake(index, generation);
        }
    }

    /// Creates an actor in a cell of this shard's own choice.
    pub(crate) fn spawn(&mut self, spawn: Spawn) -> Result<(u32, u32), (SpawnError, Spawn)> {
        if self.draining {
            return Err((SpawnError::Closed, spawn));
        }
        let Some((index, generation)) = self.cells.allocate() else { return Err((SpawnError::Exhausted, spawn)) };
        self.occupy(index, generation, spawn);
        Ok((index, generation))
    }

    /// Creates an actor in a cell that was chosen before; gives it back while the engine shuts down.
    pub(crate) fn spawn_at(&mut self, index: u32, generation: u32, spawn: Spawn) -> Option<Spawn> {
        if self.draining {
            return Some(spawn);
        }
        self.occupy(index, generation, spawn);
        None
    }

    fn occupy(&mut self, index: u32, generation: u32, mut spawn: Spawn) {
        let policy = spawn.state.mailbox();
        if let Some(capacity) = policy.own_capacity().filter(|_| spawn.capacity == self.mailbox_capacity) {
            spawn.capacity = capacity;
        }
        self.cells.grow_to(index);
        self.cells.occupy(index, generation, spawn.state, spawn.capacity, spawn.epoch);
        if let Some(parent) = spawn.parent {
            self.cells.kin.adopt(parent, index);
        }
        let now_ms = self.now_ms();
        let cell = self.cells.slot(index).expect("just occupied");
        cell.scheduled = true;
        let ready = cell.ready(index);
        if policy != Mailbox::new() {
            cell.adopt(policy);
            self.has_turns |= policy.reentrancy() != Reentrancy::Full;
        }
        if let Some((position, _)) = &spawn.identity {
            let settings = &self.link.engine().registry.types[*position].settings;
            let (said, bytes) = (settings.reentrancy, settings.mailbox_bytes);
            let extra = cell.extra();
            extra.identity = spawn.identity;
            extra.active_ms = now_ms;
            if let Some(bytes) = bytes {
                cell.limit_bytes(bytes);
            }
            if let Some(reentrancy) = said {
                cell.limit(reentrancy);
                self.has_turns |= reentrancy != Reentrancy::Full;
            }
        }
        self.run_queue.push(ready);
    }

    /// The cell of a virtual actor of this shard, activated if it sleeps. Runs no user code: the factory runs in the actor's
    /// first turn.
    pub(crate) fn activate_virtual(
        &mut self,
        position: usize,
        key: &Key,
        epoch: EpochTag,
    ) -> Result<(u32, u32), Rejected> {
        match &*self.link.engine().registry.types[position].workers {
            [] => self.activate_key(position, key, epoch),
            numbers => self.pick_worker(position, numbers, epoch),
        }
    }

    /// The cell of the actor of this key, or of the worker of this number.
    pub(super) fn activate_key(&mut self, position: usize, key: &Key, epoch: EpochTag) -> Result<(u32, u32), Rejected> {
        if let Some((index, generation)) = self.directory.get(position, key) {
            self.stay_active(position, (index, generation));
            return Ok((index, generation));
        }
        if self.draining {
            return Err(Rejected::Closed);
        }
        assert!(epoch != EpochTag::BY_GENERATION, "what activates an actor knows the epoch of its name");
        let registered = &self.link.engine().registry.types[position];
        let spawn = Spawn {
            state: (registered.activate)(key.clone()),
            capacity: registered.settings.mailbox_capacity.unwrap_or(self.mailbox_capacity),
            identity: Some((position, key.clone())),
            epoch,
            parent: None,
        };
        let cell = self.spawn(spawn).map_err(|_| Rejected::Full)?;
        self.directory.insert(position, key.clone(), cell, self.now_ns, self.idle_at_ns(position));
        self.counters.activated += 1;
        Ok(cell)
    }

    /// Something has come for a virtual actor: if it is about to be passivated, it stays.
    pub(super) fn stay_active(&mut self, position: usize, id: (u32, u32)) {
        let cell = self.cells.get(id.0, id.1).expect("directory entries are live");
        let passivating = cell.stop_reason() == Some(crate::actor::StopReason::Passivated);
        if cell.conduct.life == Life::Stopping && passivating && !cell.is_closing() {
            cell.conduct.begin(Life::Live);
            cell.stays();
            // News that came meanwhile.
            cell.conduct.woken |= cell.extra.as_ref().is_some_and(|extra| !extra.notices.is_empty());
            self.directory.stays(position, id, self.now_ns, self.idle_at_ns(position));
        }
    }

    /// The turn's time in units of about a millisecond, wrapping after 52 days.
    #[expect(clippy::cast_possible_truncation, reason = "wraps; compared by wrapping subtraction")]
    pub(crate) fn now_ms(&self) -> u32 {
        (self.now_ns >> 20) as u32
    }

    pub(crate) fn address(&self, index: u32, generation: u32) -> PackedAddress {
        PackedAddress::new(self.shard.get(), index, generation)
    }

    pub(crate) fn actor_id(&self, index: u32, generation: u32) -> ActorId {
        ActorId::new(self.link, index, generation)
    }
}
