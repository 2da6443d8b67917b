//! From an effect to records: what a command persists, when a snapshot follows, and how a refusal is answered.
//!
//! Invariant: the records of one command go into one append. Nothing has changed when it fails, except after a panic in
//! `apply`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use shardstage::{AskError, Context, Panicked, Rejected, Reply, Unknown};
use shardstage_codec::{Wire, encode};

use super::EventSourced;
use super::actor::{Durable, Seat};
use super::effect::{Effect, Send};
use super::ledger::{Entry, Extra, ExtraError, Written};
use super::recover::text;
use crate::format::record::RecordKind;
use crate::store::{AppendError, CommitOutcome, EventStore, NewRecord, StoreShared};

/// Why a command's events were not persisted.
pub(super) enum Refused {
    /// The store refused; nothing changed.
    Append(AppendError),
    /// A record does not fit.
    TooLarge,
    /// Too many messages of the outbox have not arrived.
    OutboxFull,
    /// The outbox was not started on this engine.
    NoOutbox,
    /// The outbox cannot send the message: says why.
    NoRoute(String),
    /// `apply` panicked: the state is no longer the fold of the log.
    Apply(String),
}

impl<A: EventSourced> Durable<A> {
    /// Appends what the effect persists and applies it.
    pub(super) fn persist<R: std::marker::Send + 'static>(
        &mut self,
        effect: Effect<A, R>,
        reply: Reply<R>,
        seat: &Seat,
        store: &mut dyn EventStore,
    ) -> Result<(), (Refused, Reply<R>)> {
        let Effect { events, saved, reply: value, sends, extra } = effect;
        let entries = match self.entries(extra, seat) {
            Ok(entries) => entries,
            Err(refused) => return Err((refused, reply)),
        };
        // A state that is saved as a whole leaves nothing before it to be read.
        let image = if saved.is_some() { self.courier.ledger.image() } else { Vec::new() };
        let mut scratch = seat.shared.take_scratch();
        let mut parts = Vec::with_capacity(events.len() + usize::from(saved.is_some()));
        let mut seq = self.version;
        let mut fits = true;
        for event in &events {
            seq += 1;
            match encode(event, &mut scratch) {
                Ok(len) => {
                    let range = scratch.len() - len..scratch.len();
                    parts.push((RecordKind::Event, seq, <A::Event as Wire>::VERSION, range));
                }
                Err(_) => fits = false,
            }
        }
        if let Some(saved) = &saved {
            seq += 1;
            match encode(saved, &mut scratch) {
                Ok(len) => {
                    let range = scratch.len() - len..scratch.len();
                    parts.push((RecordKind::Snapshot, seq, A::SNAPSHOT_VERSION, range));
                }
                Err(_) => fits = false,
            }
        }
        let beside = image.iter().chain(&entries).map(|entry| entry.write(&mut scratch));
        let beside: Result<Vec<Written>, _> = beside.collect();
        let Some(beside) = beside.ok().filter(|_| fits) else {
            seat.shared.keep_scratch(scratch);
            return Err((Refused::TooLarge, reply));
        };
        let records = parts.into_iter().map(|(kind, seq, schema_version, range)| NewRecord {
            kind,
            seq,
            schema_version,
            payload: &scratch[range],
            meta: &[],
        });
        let records: Vec<NewRecord<'_>> =
            records.chain(beside.iter().map(|entry| entry.record(&scratch, seq))).collect();
        let outcome = match store.check(seat.entity, self.epoch, &records) {
            Ok(()) => self.apply_all(&events, saved).map_err(Refused::Apply),
            Err(error) => Err(Refused::Append(error)),
        };
        if let Err(refused) = outcome {
            drop(records);
            seat.shared.keep_scratch(scratch);
            return Err((refused, reply));
        }
        let shared = Rc::clone(&seat.shared);
        let held = Box::new(move |outcome| answer(outcome, value, reply, sends, &shared));
        let appended = store.append(seat.entity, self.epoch, &records, held);
        let ticket = appended.expect("checked a moment ago, with the same records");
        self.last = Some(ticket);
        self.clock.add(records.iter().map(|record| record.payload.len()).sum());
        drop(records);
        seat.shared.keep_scratch(scratch);
        if !image.is_empty() {
            self.courier.ledger.imaged();
        }
        self.clock.beside(beside.len());
        for entry in entries {
            self.courier.ledger.take(entry, Some(ticket), A::SESSIONS);
        }
        if self.clock.is_due(&A::SNAPSHOTS, self.version) {
            self.take_snapshot(seat, store);
        }
        Ok(())
    }

    /// What is recorded beside the events.
    fn entries(&self, extra: Extra, seat: &Seat) -> Result<Vec<Entry>, Refused> {
        if !extra.outgoing.is_empty() {
            self.check_routes(&extra.outgoing, &seat.shared)?;
        }
        self.courier.ledger.plan(extra).map_err(|error| match error {
            ExtraError::TooLarge => Refused::TooLarge,
            ExtraError::OutboxFull => Refused::OutboxFull,
        })
    }

    fn apply_all(&mut self, events: &[A::Event], saved: Option<A::Snapshot>) -> Result<(), String> {
        let state = self.state.as_mut().expect("a ready actor has its state");
        for event in events {
            let seq = self.version + 1;
            match catch_unwind(AssertUnwindSafe(|| {
                state.apply(event);
                state.snapshot_due(event)
            })) {
                Ok(true) => self.clock.want(),
                Ok(false) => {}
                Err(panic) => return Err(not_persisted::<A>(&self.key, "event", seq, "apply", &*panic)),
            }
            self.version = seq;
        }
        if let Some(saved) = saved {
            let seq = self.version + 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| state.restore(saved))) {
                return Err(not_persisted::<A>(&self.key, "state", seq, "restore", &*panic));
            }
            self.version = seq;
        }
        Ok(())
    }

    /// Appends a snapshot behind the events, and the whole ledger behind it. One that cannot be taken is tried again some events later.
    pub(super) fn take_snapshot(&mut self, seat: &Seat, store: &mut dyn EventStore) {
        let Some(state) = &self.state else { return };
        let snapshot = catch_unwind(AssertUnwindSafe(|| state.snapshot())).ok().flatten();
        let mut scratch = seat.shared.take_scratch();
        let len = snapshot.and_then(|snapshot| encode(&snapshot, &mut scratch).ok());
        let range = len.map(|len| scratch.len() - len..scratch.len());
        let image = self.courier.ledger.image();
        let beside: Result<Vec<Written>, _> = image.iter().map(|entry| entry.write(&mut scratch)).collect();
        let appended = range.zip(beside.ok()).is_some_and(|(range, beside)| {
            let record = NewRecord {
                kind: RecordKind::Snapshot,
                seq: self.version,
                schema_version: A::SNAPSHOT_VERSION,
                payload: &scratch[range],
                meta: &[],
            };
            let beside = beside.iter().map(|entry| entry.record(&scratch, self.version));
            let records: Vec<NewRecord<'_>> = std::iter::once(record).chain(beside).collect();
            store.append(seat.entity, self.epoch, &records, Box::new(|_| {})).is_ok()
        });
        match len.filter(|_| appended) {
            Some(len) => {
                self.clock.taken(self.version, len);
                self.courier.ledger.imaged();
            }
            None => self.clock.failed(self.version),
        }
        seat.shared.keep_scratch(scratch);
    }

    pub(super) fn refuse<R: std::marker::Send + 'static>(refused: Refused, reply: Reply<R>, cx: &mut Context<Self>) {
        let error = match refused {
            Refused::TooLarge | Refused::Append(AppendError::TooLarge { .. }) => AskError::Rejected(Rejected::TooLarge),
            Refused::OutboxFull | Refused::Append(AppendError::Full) => AskError::Rejected(Rejected::Full),
            Refused::NoOutbox
            | Refused::Append(AppendError::LowSpace | AppendError::Poisoned | AppendError::Closed) => {
                AskError::Rejected(Rejected::Unavailable)
            }
            // Another activation owns the history: this one's state is of the past.
            Refused::Append(AppendError::Fenced { .. } | AppendError::WrongSequence { .. }) => {
                cx.stop();
                AskError::Unknown(Unknown::Fenced)
            }
            Refused::NoRoute(why) => AskError::Failed(Panicked(why.into())),
            Refused::Apply(why) => {
                cx.stop();
                AskError::Failed(Panicked(why.into()))
            }
        };
        reply.fail(error);
    }
}

fn not_persisted<A: EventSourced>(
    key: &str,
    kind: &str,
    seq: u64,
    function: &str,
    panic: &(dyn std::any::Any + std::marker::Send),
) -> String {
    format!("{} {key:?}, {kind} {seq} (not persisted): {function} panicked: {}", A::TYPE, text(panic))
}

/// Lets out what was held.
pub(super) fn answer<R: std::marker::Send + 'static>(
    outcome: CommitOutcome,
    value: R,
    reply: Reply<R>,
    sends: Vec<Send>,
    shared: &StoreShared,
) {
    match outcome {
        CommitOutcome::Durable => {
            reply.send(value);
            for send in sends {
                if !send() {
                    shared.tell_refused();
                }
            }
        }
        // The store is dead, and with it this owner of the actor.
        CommitOutcome::Unknown => reply.fail(AskError::Unknown(Unknown::Fenced)),
    }
}
