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
use super::ledger::{Entry, Extra, ExtraError};
use super::recover::text;
use crate::format::record::RecordKind;
use crate::store::{AppendError, CommitOutcome, EventStore, Scratch, StoreShared, Written};

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
        if !self.write(&events, saved.as_ref(), image.iter().chain(&entries), &mut scratch) {
            seat.shared.keep_scratch(scratch);
            return Err((Refused::TooLarge, reply));
        }
        let checked = scratch.with_records(|records| store.check(seat.entity, self.epoch, records));
        let outcome = match checked {
            Ok(()) => self.apply_all(&events, saved).map_err(Refused::Apply),
            Err(error) => Err(Refused::Append(error)),
        };
        if let Err(refused) = outcome {
            seat.shared.keep_scratch(scratch);
            return Err((refused, reply));
        }
        let shared = Rc::clone(&seat.shared);
        let held = Box::new(move |outcome| answer(outcome, value, reply, sends, &shared));
        let appended = scratch.with_records(|records| store.append(seat.entity, self.epoch, records, held));
        let ticket = appended.expect("checked a moment ago, with the same records");
        self.last = Some(ticket);
        self.clock.add(scratch.payload_bytes());
        seat.shared.keep_scratch(scratch);
        if !image.is_empty() {
            self.courier.ledger.imaged();
        }
        self.clock.beside(image.len() + entries.len());
        for entry in entries {
            self.courier.ledger.take(entry, Some(ticket), A::SESSIONS);
        }
        if self.clock.is_due(&A::SNAPSHOTS, self.version) {
            self.take_snapshot(seat, store);
        }
        Ok(())
    }

    /// Encodes what a command persists; `false` when something does not fit.
    fn write<'a>(
        &self,
        events: &[A::Event],
        saved: Option<&A::Snapshot>,
        beside: impl Iterator<Item = &'a Entry>,
        Scratch { bytes, written, .. }: &mut Scratch,
    ) -> bool {
        let mut seq = self.version;
        for event in events {
            seq += 1;
            let Ok(len) = encode(event, bytes) else { return false };
            written.push(Written::last(RecordKind::Event, seq, <A::Event as Wire>::VERSION, len, bytes));
        }
        if let Some(saved) = saved {
            seq += 1;
            let Ok(len) = encode(saved, bytes) else { return false };
            written.push(Written::last(RecordKind::Snapshot, seq, A::SNAPSHOT_VERSION, len, bytes));
        }
        for entry in beside {
            let Ok(entry) = entry.write(seq, bytes) else { return false };
            written.push(entry);
        }
        true
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
        let len = snapshot.and_then(|snapshot| encode(&snapshot, &mut scratch.bytes).ok());
        let image = self.courier.ledger.image();
        let appended = len.is_some_and(|len| {
            let Scratch { bytes, written, .. } = &mut scratch;
            written.push(Written::last(RecordKind::Snapshot, self.version, A::SNAPSHOT_VERSION, len, bytes));
            let fits =
                image.iter().all(|entry| entry.write(self.version, bytes).map(|entry| written.push(entry)).is_ok());
            fits && scratch
                .with_records(|records| store.append(seat.entity, self.epoch, records, Box::new(|_| {})).is_ok())
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
