//! `Durable`: the actor that runs event-sourced state.
//!
//! It starts suspended, with its messages waiting, until the log has read its snapshot and later events. A command's events go
//! into the open frame and are applied in the same turn, so the next command sees them; whatever could reflect them is held
//! until that frame is durable, reads too.
//!
//! Invariant: state = fold of the events that this activation loaded or appended, in order; nothing that reflects an event
//! leaves before the event is durable. Shard thread only.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use shardstage::{
    Actor, AskError, BoxError, Context, DeferredHandler, Message, Panicked, Rejected, Reply, Unknown, VirtualActor,
};
use shardstage_codec::{ActorTypeId, Epoch, GroupId, Wire, decode, encode, slot_of};

use super::effect::{Effect, Send};
use super::courier::Courier;
use super::ledger::{Entry, Extra, ExtraError, Written};
use super::{CommandContext, CommandHandler, EventSourced};
use crate::format::record::RecordKind;
use crate::store::{
    AppendError, CommitOutcome, EntityId, EventStore, LoadError, LoadFrom, LoadedEntity, LoadedRecord, NewRecord,
    StoreKind, StoreShared, Ticket, with_store,
};

type Loaded = Rc<RefCell<Option<Result<LoadedEntity, LoadError>>>>;

/// Runs an [`EventSourced`] type as an actor.
///
/// As a virtual actor (`engine.actor::<Durable<Account>>("alice")`) it is found by its key wherever its slot lives. Spawned
/// plainly (`engine.spawn(|| Durable::<Account>::new("alice"))`) it lives in the log of the shard that it happens to be
/// spawned on: use `spawn_on`, and one actor a key.
pub struct Durable<A: EventSourced> {
    pub(super) key: Box<str>,
    state: Option<A>,
    pub(super) seat: Option<Seat>,
    pub(super) epoch: Epoch,
    pub(super) version: u64,
    snapshot_version: u64,
    pub(super) last: Option<Ticket>,
    loaded: Loaded,
    pub(super) courier: Courier,
}

/// Where the actor stands in its shard's store.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) kind: StoreKind,
    pub(super) entity: EntityId,
    pub(super) shared: Rc<StoreShared>,
}

/// Why a command's events were not persisted.
pub(super) enum Refused {
    /// The log refused; nothing changed.
    Append(AppendError),
    /// An event does not fit.
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
    /// The actor with this key, before its log was read.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            state: None,
            seat: None,
            epoch: Epoch::FIRST,
            version: 0,
            snapshot_version: 0,
            last: None,
            loaded: Rc::default(),
            courier: Courier::default(),
        }
    }

    fn group(&self) -> GroupId {
        slot_of(ActorTypeId::of(A::TYPE), &self.key).group()
    }

    /// Makes the state from what the log has.
    fn recover(&mut self, loaded: &LoadedEntity) -> Result<(), String> {
        let mut state = A::new(&self.key);
        if let Some(snapshot) = &loaded.snapshot {
            restore(&mut state, snapshot).map_err(|why| self.place(snapshot, &why))?;
            self.snapshot_version = snapshot.header.seq;
        }
        for record in &loaded.events {
            let event = read_event::<A>(record).map_err(|why| self.place(record, &why))?;
            catch_unwind(AssertUnwindSafe(|| state.apply(&event)))
                .map_err(|panic| self.place(record, &format!("apply panicked: {}", text(&*panic))))?;
        }
        let ledger = self.courier.ledger.recover(&loaded.ledger, A::SESSIONS);
        ledger.map_err(|(record, why)| self.place(record, &why))?;
        self.version = loaded.last_seq;
        self.state = Some(state);
        Ok(())
    }

    /// Names a record for an error.
    fn place(&self, record: &LoadedRecord, why: &str) -> String {
        let kind = if record.header.kind == RecordKind::Snapshot { "snapshot" } else { "event" };
        format!(
            "{} {:?}, {kind} {} in segment {:016x} at byte {}: {why}",
            A::TYPE,
            &*self.key,
            record.header.seq,
            record.segment,
            record.offset
        )
    }

    /// Appends the events and applies them; nothing has changed when it fails, except after a panic in `apply`.
    fn persist<R: std::marker::Send + 'static>(
        &mut self,
        effect: Effect<A, R>,
        reply: Reply<R>,
        seat: &Seat,
        store: &mut dyn EventStore,
    ) -> Result<(), (Refused, Reply<R>)> {
        let Effect { events, reply: value, sends, extra } = effect;
        let entries = match self.entries(extra, seat) {
            Ok(entries) => entries,
            Err(refused) => return Err((refused, reply)),
        };
        let (first, last) = (self.version + 1, self.version + events.len() as u64);
        let mut scratch = seat.shared.take_scratch();
        let mut ranges = Vec::with_capacity(events.len());
        for event in &events {
            match encode(event, &mut scratch) {
                Ok(len) => ranges.push(scratch.len() - len..scratch.len()),
                Err(_) => {
                    seat.shared.keep_scratch(scratch);
                    return Err((Refused::TooLarge, reply));
                }
            }
        }
        let written: Result<Vec<Written>, _> = entries.iter().map(|entry| entry.write(&mut scratch)).collect();
        let Ok(written) = written else {
            seat.shared.keep_scratch(scratch);
            return Err((Refused::TooLarge, reply));
        };
        let events_recorded = ranges
            .into_iter()
            .zip(first..)
            .map(|(range, seq)| NewRecord {
                kind: RecordKind::Event,
                seq,
                schema_version: <A::Event as Wire>::VERSION,
                payload: &scratch[range],
                meta: &[],
            });
        let beside = written.iter().map(|entry| entry.record(&scratch, last));
        let records: Vec<NewRecord<'_>> = events_recorded.chain(beside).collect();
        let outcome = match store.check(seat.entity, self.epoch, &records) {
            Ok(()) => self.apply_all(&events).map_err(Refused::Apply),
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
        drop(records);
        seat.shared.keep_scratch(scratch);
        for entry in entries {
            self.courier.ledger.take(entry, Some(ticket), A::SESSIONS);
        }
        self.snapshot_if_due(seat, store);
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

    fn apply_all(&mut self, events: &[A::Event]) -> Result<(), String> {
        let state = self.state.as_mut().expect("a ready actor has its state");
        for event in events {
            let seq = self.version + 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| state.apply(event))) {
                let why = text(&*panic);
                return Err(format!(
                    "{} {:?}, event {seq} (not persisted): apply panicked: {why}",
                    A::TYPE,
                    &*self.key
                ));
            }
            self.version = seq;
        }
        Ok(())
    }

    /// Appends a snapshot behind the events, if it is time. A refused one is tried again after the next command.
    fn snapshot_if_due(&mut self, seat: &Seat, store: &mut dyn EventStore) {
        let ledger = self.courier.ledger.since_snapshot();
        if self.version - self.snapshot_version < A::SNAPSHOT_EVERY && ledger < A::SNAPSHOT_EVERY {
            return;
        }
        let Some(snapshot) = self.state.as_ref().and_then(A::snapshot) else { return };
        let mut scratch = seat.shared.take_scratch();
        if let Ok(len) = encode(&snapshot, &mut scratch) {
            let range = scratch.len() - len..scratch.len();
            // A part that is larger than a record leaves the snapshot for later, as any refusal does.
            let image = self.courier.ledger.image();
            let written: Vec<Written> = image.iter().map_while(|entry| entry.write(&mut scratch).ok()).collect();
            let record = NewRecord {
                kind: RecordKind::Snapshot,
                seq: self.version,
                schema_version: A::SNAPSHOT_VERSION,
                payload: &scratch[range],
                meta: &[],
            };
            let beside = written.iter().map(|entry| entry.record(&scratch, self.version));
            let records: Vec<NewRecord<'_>> = std::iter::once(record).chain(beside).collect();
            let whole = written.len() == image.len();
            if whole && store.append(seat.entity, self.epoch, &records, Box::new(|_| {})).is_ok() {
                self.snapshot_version = self.version;
                self.courier.ledger.imaged();
            }
        }
        seat.shared.keep_scratch(scratch);
    }

    fn refuse<R: std::marker::Send + 'static>(refused: Refused, reply: Reply<R>, cx: &mut Context<Self>) {
        let error = match refused {
            Refused::TooLarge | Refused::Append(AppendError::TooLarge { .. }) => AskError::Rejected(Rejected::TooLarge),
            Refused::OutboxFull | Refused::Append(AppendError::Full) => AskError::Rejected(Rejected::Full),
            Refused::NoOutbox | Refused::Append(AppendError::LowSpace | AppendError::Poisoned | AppendError::Closed) => {
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

impl<A: EventSourced> Actor for Durable<A> {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.epoch = cx.epoch();
        self.courier.by_key = cx.key().is_some();
        let kind =
            StoreKind::find(cx).ok_or("a durable actor needs a store on its engine, such as the `EventLog` service")?;
        let (epoch, group, loaded, resume) = (self.epoch, self.group(), Rc::clone(&self.loaded), cx.suspend());
        let key = &*self.key;
        let started = with_store(kind, cx, |store| -> Result<_, BoxError> {
            store.raise_epoch(group, epoch)?;
            let entity = store.intern(A::TYPE, key, group, <A::Event as Wire>::ID.get())?;
            let shared = store.shared();
            if let Some(why) = shared.broken(entity) {
                return Err(String::from(why).into());
            }
            store.load(
                entity,
                LoadFrom::Newest,
                Box::new(move |result| {
                    *loaded.borrow_mut() = Some(result);
                    drop(resume);
                }),
            );
            Ok(Seat { kind, entity, shared })
        });
        self.seat = Some(started.ok_or("the store is busy")??);
        Ok(())
    }

    /// The log was read.
    ///
    /// A failure is remembered in the log before the actor is given up by unwinding: its rebuild then ends at once, with the
    /// same words as its stop reason, instead of reading the log again.
    fn resumed(&mut self, cx: &mut Context<Self>) {
        let Some(result) = self.loaded.borrow_mut().take() else { return };
        let recovered = match result {
            Ok(loaded) => self.recover(&loaded),
            Err(error) => Err(format!("{} {:?}: {error}", A::TYPE, &*self.key)),
        };
        let Err(why) = recovered else { return self.send_outbox(cx) };
        let seat = self.seat.as_ref().expect("a loaded actor has its seat");
        seat.shared.mark_broken(seat.entity, &why);
        resume_unwind(Box::new(why));
    }

    fn may_passivate(&self) -> bool {
        self.state.is_some() && self.courier.ledger.outbox.is_settled()
    }
}

impl<A: EventSourced> VirtualActor for Durable<A> {
    const TYPE: &'static str = A::TYPE;

    fn activate(key: &str) -> Self {
        Self::new(key)
    }
}

impl<A, C> DeferredHandler<C> for Durable<A>
where
    A: CommandHandler<C>,
    C: Message,
{
    fn handle(&mut self, command: C, reply: Reply<C::Reply>, cx: &mut Context<Self>) {
        let Some(state) = &self.state else {
            return reply.fail(AskError::Rejected(Rejected::Unavailable));
        };
        let command_cx = CommandContext::new(cx, &self.key, self.version, &self.courier.ledger);
        let effect = state.handle(command, &command_cx);
        let seat = self.seat.clone().expect("a ready actor has its seat");
        if effect.events.is_empty() && effect.extra.is_empty() {
            let Effect { reply: value, sends, .. } = effect;
            let shared = Rc::clone(&seat.shared);
            let held = move |outcome| answer(outcome, value, reply, sends, &shared);
            let Some(last) = self.last else { return held(CommitOutcome::Durable) };
            let mut held = Some(held);
            with_store(seat.kind, cx, |store| {
                let held = held.take().expect("taken once");
                store.when_durable(last, Box::new(held));
            });
            return;
        }
        let mut waiting = Some((effect, reply));
        let persisted = with_store(seat.kind, cx, |store| {
            let (effect, reply) = waiting.take().expect("taken once");
            self.persist(effect, reply, &seat, store)
        });
        self.outbox_appended(&seat, cx);
        match (persisted, waiting) {
            (Some(Err((refused, reply))), _) => Self::refuse(refused, reply, cx),
            (None, Some((_, reply))) => reply.fail(AskError::Rejected(Rejected::Unavailable)),
            _ => {}
        }
    }
}

impl<A: EventSourced> std::fmt::Debug for Durable<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable({} {:?}, version {})", A::TYPE, &*self.key, self.version)
    }
}

/// Lets out what was held.
fn answer<R: std::marker::Send + 'static>(
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

fn restore<A: EventSourced>(state: &mut A, record: &LoadedRecord) -> Result<(), String> {
    if record.header.schema_version != A::SNAPSHOT_VERSION {
        return Err(format!(
            "it has version {}, this program reads {}",
            record.header.schema_version,
            A::SNAPSHOT_VERSION
        ));
    }
    let snapshot = decode::<A::Snapshot>(&record.payload).map_err(|error| error.to_string())?;
    catch_unwind(AssertUnwindSafe(|| state.restore(snapshot)))
        .map_err(|panic| format!("restore panicked: {}", text(&*panic)))
}

fn read_event<A: EventSourced>(record: &LoadedRecord) -> Result<A::Event, String> {
    let version = record.header.schema_version;
    if version == <A::Event as Wire>::VERSION {
        return decode::<A::Event>(&record.payload).map_err(|error| error.to_string());
    }
    A::upcast(version, &record.payload)
        .ok_or_else(|| format!("it has version {version}, this program reads {}", <A::Event as Wire>::VERSION))
}

/// A panic's text.
fn text(panic: &(dyn std::any::Any + std::marker::Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}
