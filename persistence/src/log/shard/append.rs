//! What callers on the shard do with a log: intern, append, wait, load, fence.
//!
//! Invariant: nothing here touches a driver; a turn's appends leave with its flush. Shard thread only.

use std::rc::Rc;

use shardstage_codec::{Epoch, GroupId};

use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::record::{KeyDef, RecordKind};
use crate::limits::{BLOCK_BYTES, FRAME_BYTES, KEY_BYTES, PENDING_BYTES, RECORD_BYTES};
use crate::log::batch::Batch;
use crate::store::{
    AppendError, CommitOutcome, EntityId, EventStore, Held, LoadError, LoadFrom, NewRecord, OnLoaded, OnOwing,
    StoreShared, Ticket, check_sequences,
};

use crate::log::probe::ProbeReport;

use super::{LogShard, State};

impl LogShard {
    /// The number of the entity with this actor type and key; known from the log, or new. `event_id` is the stable id of
    /// the type's events. The entity is in use, with its name in memory, until it is [released](Self::release). Load it before
    /// appending to it: the load compares the name with the one in the log.
    ///
    /// # Errors
    /// [`LoadError::KeyTooLong`], [`LoadError::SameFingerprint`]; nothing changed.
    pub fn intern(&mut self, type_name: &str, key: &str, group: GroupId, event_id: u64) -> Result<EntityId, LoadError> {
        if type_name.len() > KEY_BYTES || key.len() > KEY_BYTES {
            return Err(LoadError::KeyTooLong);
        }
        self.index.intern(&KeyDef { event_id, group, type_name, key }).ok_or(LoadError::SameFingerprint)
    }

    /// Takes back one [`intern`](Self::intern). With the last one nobody uses the entity any more: it costs its place in a table
    /// from now on, or from when everything that was appended for it is durable. Its number stays the same; [`intern`](Self::intern) takes it into use again.
    pub fn release(&mut self, entity: EntityId) {
        self.index.release(entity, self.durable_batch);
    }

    /// Appends the records of one command to the open batch; they become durable together or not at all.
    /// `on_durable` runs on this shard, in append order, once they are. The ticket waits for the same.
    ///
    /// Copies each payload once here and once when the frame is sealed.
    ///
    /// # Errors
    /// See [`AppendError`]; `on_durable` is dropped without being called.
    ///
    /// # Panics
    /// When a record is a key definition: the log writes those itself.
    pub fn append(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
        on_durable: Held,
    ) -> Result<Ticket, AppendError> {
        let cost = self.cost(entity, epoch, records)?;
        let limit = self.frame_bytes();
        let group = self.index.get(entity).group;
        let log = self.log.as_mut().ok_or(AppendError::Closed)?;
        log.groups[usize::from(group.get())].epoch = epoch.get();
        if self.batches.back().is_none_or(|open| open.worst_bytes() + cost > limit) {
            self.batches.push_back(std::mem::take(&mut self.spare_batch).begin(self.next_batch));
            self.next_batch += 1;
        }
        let open = self.batches.back_mut().expect("pushed above");
        open.add(group, epoch, entity, records, &mut self.index);
        open.effects.push(on_durable);
        let number = open.number;
        let known = self.index.get_mut(entity);
        for record in records {
            known.appended_seq = record.seq;
            match record.kind {
                RecordKind::Event => self.counters.events += 1,
                RecordKind::Snapshot => self.counters.snapshots += 1,
                _ => self.counters.ledger_records += 1,
            }
        }
        Ok(Ticket(number))
    }

    /// Whether an append of these records would be taken now; returns an upper bound of the bytes that they take. Changes
    /// nothing.
    fn cost(&mut self, entity: EntityId, epoch: Epoch, records: &[NewRecord<'_>]) -> Result<usize, AppendError> {
        self.admit(entity, epoch, records)?;
        let known = self.index.get(entity);
        let cost = Batch::cost(&known.type_name, &known.key, records);
        let limit = self.frame_bytes();
        if FRAME_HEADER_BYTES + cost > limit {
            return Err(AppendError::TooLarge { limit });
        }
        let waiting = self.batches.iter().map(Batch::worst_bytes).sum::<usize>() + cost;
        if waiting > self.pending_bytes() {
            return Err(AppendError::Full);
        }
        self.has_room(waiting, may_use_reserve(known.appended_seq, records))?;
        Ok(cost)
    }

    /// Whether everything that waits fits into the segments that are there, so that no commit ever waits for space that may
    /// not come. While no spare can be made, what only keeps entities short may use the last segment, and nothing else.
    fn has_room(&self, waiting: usize, reserve: bool) -> Result<(), AppendError> {
        let log = self.log.as_ref().ok_or(AppendError::Closed)?;
        // Frames are padded to blocks, and the end of a segment may stay unused.
        let needed = 2 * waiting as u64 + self.frame_bytes() as u64;
        let kept = if self.spare_error.is_some() && !reserve { self.options.segment_bytes } else { 0 };
        if needed + kept <= log.room_bytes() {
            return Ok(());
        }
        Err(if self.spare_error.is_some() { AppendError::LowSpace } else { AppendError::Full })
    }

    pub(super) fn admit(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
    ) -> Result<(), AppendError> {
        match self.state {
            State::Running => {}
            State::Poisoned(_) => return Err(AppendError::Poisoned),
            _ => return Err(AppendError::Closed),
        }
        let known = self.index.find(entity).ok_or(AppendError::Closed)?;
        let log = self.log.as_ref().ok_or(AppendError::Closed)?;
        let current = log.groups[usize::from(known.group.get())].epoch.max(1);
        if epoch.get() < current {
            self.counters.appends_fenced += 1;
            return Err(AppendError::Fenced { current: Epoch::new(current) });
        }
        for record in records {
            if record.payload.len() + record.meta.len() > RECORD_BYTES || record.meta.len() > usize::from(u16::MAX) {
                return Err(AppendError::TooLarge { limit: RECORD_BYTES });
            }
        }
        match check_sequences(known.appended_seq, records) {
            Ok(_) => Ok(()),
            Err(expected) => Err(AppendError::WrongSequence { expected }),
        }
    }

    /// Runs `effect` in append order with the effects of `ticket`'s frame; at once when that frame is durable already.
    pub fn when_durable(&mut self, ticket: Ticket, effect: Held) {
        if matches!(self.state, State::Poisoned(_)) && ticket.0 > self.durable_batch {
            effect(CommitOutcome::Unknown);
            return;
        }
        if let Some(batch) = self.batches.iter_mut().find(|batch| batch.number == ticket.0) {
            batch.effects.push(effect);
            return;
        }
        let in_flight = self.log.as_mut().and_then(|log| log.in_flight.as_mut());
        match in_flight {
            Some(frame) if frame.batch == Some(ticket.0) => frame.effects.push(effect),
            _ => {
                debug_assert!(ticket.0 <= self.durable_batch);
                effect(CommitOutcome::Durable);
            }
        }
    }

    /// Whether the ticket's frame is durable.
    #[must_use]
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        ticket.0 <= self.durable_batch
    }

    /// Reads the newest snapshot and what was appended after it, including what lies in a frame that is still on its way.
    /// `on_loaded` runs on this shard in a later turn, or in the next `poll`.
    pub fn load(&mut self, entity: EntityId, on_loaded: OnLoaded) {
        self.load_from(entity, LoadFrom::Newest, on_loaded);
    }

    /// Like [`load`](Self::load), from a snapshot of the caller's choice.
    pub fn load_from(&mut self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded) {
        match self.state {
            State::Poisoned(_) | State::Closed => on_loaded(Err(LoadError::Closed)),
            _ => self.loads.push_back((entity, from, on_loaded)),
        }
    }

    /// Raises the epoch of a slot group: appends under a lower one are refused from now on.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] when the group's epoch is higher already; [`AppendError::Closed`] before the log runs.
    pub fn raise_epoch(&mut self, group: GroupId, epoch: Epoch) -> Result<(), AppendError> {
        let log = self.log.as_mut().ok_or(AppendError::Closed)?;
        let group = log.groups.get_mut(usize::from(group.get())).ok_or(AppendError::Closed)?;
        if epoch.get() < group.epoch.max(1) {
            return Err(AppendError::Fenced { current: Epoch::new(group.epoch.max(1)) });
        }
        group.epoch = epoch.get();
        Ok(())
    }

    /// The group's current epoch, at least 1.
    #[must_use]
    pub fn epoch(&self, group: GroupId) -> Epoch {
        let known = self.log.as_ref().and_then(|log| log.groups.get(usize::from(group.get())));
        Epoch::new(known.map_or(1, |group| group.epoch.max(1)))
    }

    /// How frames become durable on this file system, in words; `None` before the log is open.
    #[must_use]
    pub fn write_mode(&self) -> Option<&'static str> {
        self.log.as_ref().map(|log| log.mode.name())
    }

    /// What the start-up probe found out about the disk; `None` before the log is open.
    #[must_use]
    pub fn probe_report(&self) -> Option<&ProbeReport> {
        self.report.as_ref()
    }

    /// Why the log accepts nothing any more, if so.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        match &self.state {
            State::Poisoned(why) => Some(why),
            _ => None,
        }
    }

    /// How many entities have records in the log or are in use, and how many are in use.
    #[must_use]
    pub fn entity_counts(&self) -> (usize, usize) {
        (self.index.table().len(), self.index.in_use())
    }

    /// What may wait for the disk: a quarter of a segment at most, so that the reserve has room for it whatever its frames
    /// are padded with.
    fn pending_bytes(&self) -> usize {
        PENDING_BYTES.min(usize::try_from(self.options.segment_bytes / 4).unwrap_or(usize::MAX))
    }

    pub(super) fn frame_bytes(&self) -> usize {
        let quarter = usize::try_from(self.options.segment_bytes / 4).unwrap_or(usize::MAX);
        FRAME_BYTES.min(quarter / BLOCK_BYTES * BLOCK_BYTES)
    }
}

/// Whether a command only shortens what a load of the entity reads: a snapshot of events that are there.
fn may_use_reserve(last: u64, records: &[NewRecord<'_>]) -> bool {
    let adds_nothing = records.iter().all(|record| record.seq == last && record.kind != RecordKind::Event);
    adds_nothing && records.iter().any(|record| record.kind == RecordKind::Snapshot)
}

impl EventStore for LogShard {
    fn shared(&self) -> Rc<StoreShared> {
        Rc::clone(&self.shared)
    }

    fn intern(&mut self, type_name: &str, key: &str, group: GroupId, event_id: u64) -> Result<EntityId, LoadError> {
        Self::intern(self, type_name, key, group, event_id)
    }

    fn release(&mut self, entity: EntityId) {
        Self::release(self, entity);
    }

    fn raise_epoch(&mut self, group: GroupId, epoch: Epoch) -> Result<(), AppendError> {
        Self::raise_epoch(self, group, epoch)
    }

    fn epoch(&self, group: GroupId) -> Epoch {
        Self::epoch(self, group)
    }

    fn check(&mut self, entity: EntityId, epoch: Epoch, records: &[NewRecord<'_>]) -> Result<(), AppendError> {
        self.cost(entity, epoch, records).map(|_| ())
    }

    fn append(
        &mut self,
        entity: EntityId,
        epoch: Epoch,
        records: &[NewRecord<'_>],
        on_durable: Held,
    ) -> Result<Ticket, AppendError> {
        Self::append(self, entity, epoch, records, on_durable)
    }

    fn when_durable(&mut self, ticket: Ticket, effect: Held) {
        Self::when_durable(self, ticket, effect);
    }

    fn is_durable(&self, ticket: Ticket) -> bool {
        Self::is_durable(self, ticket)
    }

    fn load(&mut self, entity: EntityId, from: LoadFrom, on_loaded: OnLoaded) {
        self.load_from(entity, from, on_loaded);
    }

    fn owing(&mut self, after: EntityId, most: usize, on_found: OnOwing) {
        self.owing.push_back((after, most, on_found));
    }

    fn poisoned(&self) -> Option<&str> {
        Self::poisoned(self)
    }
}
