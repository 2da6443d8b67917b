//! `Courier`: how an actor's outbox gets its messages on their way, on the engine's asks and timers.
//!
//! A commit with messages tells its actor when it is durable; answers and ended pauses go on from there. After a restart nobody
//! may have anything to say to an actor that still owes messages, so [`OutboxRoutes::start`] puts a
//! [`Reviver`](super::revive::Reviver) on every shard.
//!
//! Invariant: [`Outbox`](super::outbox::Outbox)'s; nothing here decides what may leave. Shard thread only.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use shardstage::{AskError, Context, Engine, Handler, Message, Receive, SpawnError, VirtualActor, WireMessage, kind};
use shardstage_codec::{AlignedBytes, decode};

use super::EventSourced;
use super::actor::{Durable, Seat};
use super::commit::Refused;
use super::idempotent::{Idempotent, NotRun};
use super::lane::Outcome;
use super::ledger::{Entry, Ledger};
use super::outbox::{Answered, Departure, Outgoing};
use super::revive::Reviver;
use crate::limits::{ATTEMPT_NS, OUTBOX_DONE_NS};
use crate::store::{CommitOutcome, StoreShared, Ticket, with_store};

/// An actor's ledger, and when its outbox is looked at next.
#[derive(Debug, Default)]
pub(crate) struct Courier {
    pub(crate) ledger: Ledger,
    /// Whether the actor is found by its key: answers and wakes need that.
    pub(crate) by_key: bool,
    /// The latest commit with something to send, until the actor was told of it.
    told_of: Option<Ticket>,
    /// A commit became durable and the mailbox was full.
    missed: Rc<Cell<bool>>,
    timer_ns: Option<u64>,
    /// When arrivals are recorded at the latest.
    record_ns: Option<u64>,
}

/// Sends a message of one type to one type.
type Dispatch<A> = fn(&mut Context<Durable<A>>, &str, Departure) -> Result<(), String>;

struct Route<A: EventSourced> {
    to_type: &'static str,
    message: u64,
    version: u16,
    name: &'static str,
    dispatch: Dispatch<A>,
}

/// Which messages the effects of `A` send through the outbox, and to whom: said once, where the actor is registered.
///
/// ```no_run
/// # use shardstage::prelude::*;
/// # use shardstage_persistence::{Durable, EventSourced, Idempotent, CommandHandler, Effect, CommandContext, OutboxRoutes};
/// # #[wire(id = "doc.event")] struct Event {}
/// # #[message(id = "doc.credit")] struct Credit {}
/// # struct Account;
/// # impl EventSourced for Account {
/// #     const TYPE: &'static str = "doc.account"; type Event = Event; type Snapshot = ();
/// #     fn new(_: &str) -> Self { Self } fn apply(&mut self, _: &Event) {}
/// # }
/// # impl CommandHandler<Credit> for Account {
/// #     fn handle(&self, _: Credit, _: &CommandContext<'_, Self>) -> Effect<Self, ()> { Effect::none() }
/// # }
/// # fn main() -> shardstage::Result<()> {
/// let engine = Engine::builder().register::<Durable<Account>>(|a| a.accept::<Idempotent<Credit>, _>()).start()?;
/// OutboxRoutes::<Account>::new().to::<Durable<Account>, Credit, _>().start(&engine)?;
/// # Ok(()) }
/// ```
pub struct OutboxRoutes<A: EventSourced> {
    routes: Vec<Route<A>>,
}

impl<A: EventSourced> Clone for Route<A> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<A: EventSourced> Clone for OutboxRoutes<A> {
    fn clone(&self) -> Self {
        Self { routes: self.routes.clone() }
    }
}

impl<A: EventSourced> Default for OutboxRoutes<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: EventSourced> OutboxRoutes<A> {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Messages `M` to virtual actors `V`. Keep the routes of messages that are still in some log: an older version of a message
    /// is a route of its own.
    #[must_use]
    pub fn to<V, M, K>(mut self) -> Self
    where
        V: VirtualActor + Receive<Idempotent<M>, K>,
        M: WireMessage,
        K: 'static,
    {
        self.routes.push(Route {
            to_type: V::TYPE,
            message: M::ID.get(),
            version: M::VERSION,
            name: M::NAME,
            dispatch: dispatch::<A, V, M, K>,
        });
        self
    }

    /// Starts the outboxes of this type on every shard of the engine, and wakes actors that still owe messages from before.
    ///
    /// # Errors
    /// [`SpawnError`] when the engine is shutting down; some shards may have been started.
    pub fn start(self, engine: &Engine) -> Result<(), SpawnError> {
        for shard in 0..engine.shard_count() {
            let routes = self.clone();
            engine.spawn_on(shard, move || Reviver::new(routes.clone()))?;
        }
        Ok(())
    }

    fn find(&self, to_type: &str, message: u64, version: u16) -> Option<&Route<A>> {
        let fits = |route: &&Route<A>| route.to_type == to_type && route.message == message && route.version == version;
        self.routes.iter().find(fits)
    }
}

impl<A: EventSourced> std::fmt::Debug for OutboxRoutes<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.routes.iter().map(|route| (route.name, route.to_type));
        f.debug_map().entries(names).finish()
    }
}

fn dispatch<A, V, M, K>(cx: &mut Context<Durable<A>>, client: &str, departure: Departure) -> Result<(), String>
where
    A: EventSourced,
    V: VirtualActor + Receive<Idempotent<M>, K>,
    M: WireMessage,
    K: 'static,
{
    let Departure { line, to, attempt, bytes, .. } = departure;
    let mut aligned = AlignedBytes::with_capacity(bytes.len());
    aligned.extend_from_slice(&bytes);
    let command: M = decode(&aligned).map_err(|error| error.to_string())?;
    let receiver = cx.actor::<V>(&*to);
    let seq = attempt.seq;
    let message = Idempotent {
        client: client.to_owned(),
        opened: attempt.opened,
        seq,
        after: attempt.after,
        acked: attempt.acked,
        command,
    };
    cx.ask(receiver, message)
        .deadline(Duration::from_nanos(ATTEMPT_NS))
        .then(move |actor: &mut Durable<A>, answer, cx| actor.outbox_answered(line, seq, outcome(&answer), cx));
    Ok(())
}

/// What an answer says about the message.
pub(crate) fn outcome<R>(answer: &Result<Result<R, NotRun>, AskError>) -> Outcome {
    match answer {
        Ok(Ok(_)) => Outcome::Ran,
        Ok(Err(why)) => Outcome::NotRun(*why),
        Err(AskError::Rejected(_) | AskError::Deadlock(_)) => Outcome::Refused,
        // A reply that was dropped may have been one to a durable command.
        Err(AskError::Failed(_) | AskError::Unknown(_)) => Outcome::Unknown,
    }
}

impl<A: EventSourced> Durable<A> {
    /// Whether the outbox can send these.
    pub(super) fn check_routes(&self, outgoing: &[Outgoing], shared: &StoreShared) -> Result<(), Refused> {
        if !self.courier.by_key {
            let why = format!("{} {:?} was spawned: only a virtual actor has an outbox", A::TYPE, &*self.key);
            return Err(Refused::NoRoute(why));
        }
        let routes = routes::<A>(shared).ok_or(Refused::NoOutbox)?;
        for Outgoing { to_type, message, version, .. } in outgoing {
            if routes.find(to_type, *message, *version).is_none() {
                let why = format!(
                    "an effect of {} sends message {message:016x} to {to_type}, for which its OutboxRoutes have no route",
                    A::TYPE
                );
                return Err(Refused::NoRoute(why));
            }
        }
        Ok(())
    }

    /// Something may have been appended: sends it when it is durable.
    pub(super) fn outbox_appended(&mut self, seat: &Seat, cx: &mut Context<Self>) {
        if self.courier.missed.take() {
            self.send_outbox(cx);
        }
        let Some(ticket) = self.courier.ledger.outbox.latest().filter(|ticket| self.courier.told_of < Some(*ticket))
        else {
            return;
        };
        self.courier.told_of = Some(ticket);
        let tell = self.tell_when_durable(cx);
        with_store(seat.kind, cx, |store| store.when_durable(ticket, tell));
    }

    fn tell_when_durable(&self, cx: &Context<Self>) -> Box<dyn FnOnce(CommitOutcome)> {
        let (me, missed) = (cx.me(), Rc::clone(&self.courier.missed));
        Box::new(move |outcome| {
            if outcome == CommitOutcome::Durable && me.tell::<Departures, kind::Sync>(Departures {}).is_err() {
                missed.set(true);
            }
        })
    }

    /// Sends what may leave.
    pub(super) fn send_outbox(&mut self, cx: &mut Context<Self>) {
        for line in self.courier.ledger.outbox.waiting_lines() {
            self.send_line(line, cx);
        }
        self.set_outbox_timer(cx);
    }

    fn send_line(&mut self, line: u64, cx: &mut Context<Self>) {
        let Some(seat) = self.seat.clone() else { return };
        // Without routes the outbox was not started yet; its start wakes this actor.
        let Some(routes) = routes::<A>(&seat.shared) else { return };
        loop {
            let (now_ns, outbox) = (cx.now_ns(), &mut self.courier.ledger.outbox);
            let next =
                with_store(seat.kind, cx, |store| outbox.depart(line, now_ns, |ticket| store.is_durable(ticket)));
            let Some(departure) = next.flatten() else { return };
            let seq = departure.attempt.seq;
            let route = routes.find(&departure.to_type, departure.message, departure.version);
            let sent = match route {
                Some(route) => (route.dispatch)(cx, &self.client(), departure).is_ok(),
                None => false,
            };
            let counters = seat.shared.outbox_counters();
            counters.sent.set(counters.sent.get() + 1);
            if !sent {
                // A program without the route, or with another layout of the message: one that has them may come.
                counters.failed.set(counters.failed.get() + 1);
                let jitter = cx.random_u64();
                self.courier.ledger.outbox.answered(line, seq, Outcome::Refused, now_ns, jitter);
            }
        }
    }

    /// The name under which receivers know this actor.
    fn client(&self) -> String {
        format!("{}\0{}", A::TYPE, self.key)
    }

    fn outbox_answered(&mut self, line: u64, seq: u64, outcome: Outcome, cx: &mut Context<Self>) {
        let Some(seat) = self.seat.clone() else { return };
        let (now_ns, jitter) = (cx.now_ns(), cx.random_u64());
        let counters = seat.shared.outbox_counters();
        let count = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        match self.courier.ledger.outbox.answered(line, seq, outcome, now_ns, jitter) {
            Answered::Noted => count(&counters.failed),
            Answered::Arrived => count(&counters.arrived),
            Answered::Lost => count(&counters.lost),
            Answered::Record(opened) => {
                if !self.append_entry(Entry::Outbox(opened), &seat, cx) {
                    self.courier.ledger.outbox.not_opened(line);
                }
                self.outbox_appended(&seat, cx);
            }
        }
        self.send_line(line, cx);
        if self.courier.record_ns.is_none() {
            self.courier.record_ns = Some(now_ns + OUTBOX_DONE_NS);
        }
        self.set_outbox_timer(cx);
    }

    /// Appends one record of the ledger by itself; whether the store took it.
    fn append_entry(&mut self, entry: Entry, seat: &Seat, cx: &mut Context<Self>) -> bool {
        let mut scratch = seat.shared.take_scratch();
        let written = entry.write(self.version, &mut scratch.bytes);
        let (entity, epoch) = (seat.entity, self.epoch);
        let ticket = written.ok().and_then(|written| {
            let record = written.record(&scratch.bytes);
            with_store(seat.kind, cx, |store| store.append(entity, epoch, &[record], Box::new(|_| {})).ok()).flatten()
        });
        seat.shared.keep_scratch(scratch);
        let Some(ticket) = ticket else { return false };
        self.last = Some(ticket);
        self.clock.beside(1);
        self.courier.ledger.take(entry, Some(ticket), A::SESSIONS);
        true
    }

    /// Records arrivals that have waited for long enough.
    fn record_arrivals(&mut self, cx: &mut Context<Self>) {
        let Some(seat) = self.seat.clone() else { return };
        self.courier.record_ns = None;
        let Some(entry) = self.courier.ledger.arrivals(true) else { return };
        if !self.append_entry(entry, &seat, cx) {
            self.courier.record_ns = Some(cx.now_ns() + OUTBOX_DONE_NS);
        }
    }

    fn set_outbox_timer(&mut self, cx: &mut Context<Self>) {
        let now_ns = cx.now_ns();
        let resume = self.courier.ledger.outbox.resume_ns(now_ns);
        let Some(due) = resume.into_iter().chain(self.courier.record_ns).min() else { return };
        if self.courier.timer_ns.is_none_or(|set| due < set) {
            self.courier.timer_ns = Some(due);
            cx.after::<Departures, kind::Sync>(Duration::from_nanos(due.saturating_sub(now_ns)), Departures {});
        }
    }
}

fn routes<A: EventSourced>(shared: &StoreShared) -> Option<Rc<OutboxRoutes<A>>> {
    shared.outbox_of(A::TYPE)?.downcast().ok()
}

/// Something in the outbox may leave now.
struct Departures {}

impl Message for Departures {
    type Reply = ();
}

impl<A: EventSourced> Handler<Departures> for Durable<A> {
    fn handle(&mut self, _: Departures, cx: &mut Context<Self>) {
        let now_ns = cx.now_ns();
        if self.courier.timer_ns.is_some_and(|due| due <= now_ns) {
            self.courier.timer_ns = None;
        }
        if self.courier.record_ns.is_some_and(|due| due <= now_ns) {
            self.record_arrivals(cx);
        }
        self.send_outbox(cx);
    }
}
