//! `Client`: numbers commands to one durable actor, remembers those without an answer, and sends them again until there is one.
//!
//! An actor itself, so that threads, tasks and other actors use it alike and the retries run on the engine's timers: ask it what
//! the durable actor would be asked.
//!
//! Invariant: of every command that it took, at most one attempt changes state, and its answer is that attempt's. Shard thread
//! only.

use std::any::Any;
use std::time::Duration;

use shardstage::{
    Actor, AskError, Context, DeferredHandler, Handler, Key, Message, Rejected, Reply, Unknown, WireMessage, kind,
};

use super::courier::outcome;
use super::idempotent::{Idempotent, NotRun};
use super::lane::{Attempt, Lane, Step};
use super::{CommandHandler, Durable, EventSourced};
use crate::limits::{ATTEMPT_NS, CLIENT_COMMANDS};

/// Sends commands to the durable actor `key`, each of them effectively once.
///
/// ```no_run
/// # use shardstage::prelude::*;
/// # use shardstage_persistence::{Client, CommandContext, CommandHandler, Effect, EventSourced};
/// # #[wire(id = "doc.event")] struct Event {}
/// # #[message(id = "doc.deposit", reply = i64)] #[derive(Clone)] struct Deposit { amount: i64 }
/// # struct Account;
/// # impl EventSourced for Account {
/// #     const TYPE: &'static str = "doc.account"; type Event = Event; type Snapshot = ();
/// #     fn new(_: &str) -> Self { Self } fn apply(&mut self, _: &Event) {}
/// # }
/// # impl CommandHandler<Deposit> for Account {
/// #     fn handle(&self, _: Deposit, _: &CommandContext<'_, Self>) -> Effect<Self, i64> { Effect::none().reply(0) }
/// # }
/// # fn main() -> shardstage::Result<()> {
/// # let engine = Engine::start(Config::default())?;
/// let till = engine.spawn_once(|| Client::<Account>::new("till-7", "alice"))?;
/// let balance = till.ask(Deposit { amount: 40 }).wait()?;
/// # Ok(()) }
/// ```
///
/// Commands run in the order in which they were asked. One that was asked goes on being sent after its asker has given up, until
/// the answer is known: asking again is another command. Ask with a long deadline.
///
/// An ask ends as `Rejected(Full)` when too many wait, `Failed` when the handler panicked, `Rejected(NoHandler | TooLarge |
/// Closed)` as the actor itself would refuse it, and `Unknown(Deadline)` when the actor has forgotten the session meanwhile, or
/// refused the command in one of these ways after the answer to an earlier attempt was lost: in each case the command will not
/// run any more.
pub struct Client<A: EventSourced> {
    name: Box<str>,
    key: Key,
    lane: Lane<Box<dyn Job<A>>>,
    timer_ns: Option<u64>,
}

impl<A: EventSourced> Client<A> {
    /// A client called `name` of the durable actor `key`.
    ///
    /// The name is unique among everyone who ever sends to that actor: a process that starts again takes a new one, for the
    /// numbers are not kept. Spawn it with `spawn_once`: rebuilt after a panic, it would number from the beginning.
    #[must_use]
    pub fn new(name: impl Into<Box<str>>, key: impl Into<Key>) -> Self {
        Self { name: name.into(), key: key.into(), lane: Lane::default(), timer_ns: None }
    }

    fn send(&mut self, cx: &mut Context<Self>) {
        let now_ns = cx.now_ns();
        while let Some((attempt, job)) = self.lane.attempt(now_ns, |_| true) {
            job.send(&self.name, &self.key, attempt, cx);
        }
        let Some(due) = self.lane.resume_ns(now_ns).filter(|due| self.timer_ns.is_none_or(|set| *due < set)) else {
            return;
        };
        self.timer_ns = Some(due);
        cx.after::<Again, kind::Sync>(Duration::from_nanos(due - now_ns), Again {});
    }

    fn answered<C>(&mut self, seq: u64, answer: Result<Result<C::Reply, NotRun>, AskError>, cx: &mut Context<Self>)
    where
        A: CommandHandler<C>,
        C: WireMessage + Clone,
    {
        let final_error = match &answer {
            Err(
                AskError::Rejected(Rejected::NoHandler | Rejected::TooLarge | Rejected::Closed) | AskError::Failed(_),
            ) => answer.as_ref().err().cloned(),
            _ => None,
        };
        if let Some(error) = final_error {
            // A refusal says nothing about attempts before it whose answers were lost.
            match (self.lane.give_up(seq), error) {
                (Some((job, true)), AskError::Rejected(_)) => job.fail(AskError::Unknown(Unknown::Deadline)),
                (Some((job, _)), error) => job.fail(error),
                (None, _) => {}
            }
            return self.send(cx);
        }
        let (now_ns, jitter) = (cx.now_ns(), cx.random_u64());
        match self.lane.answered(seq, outcome(&answer), now_ns, jitter) {
            Step::Again | Step::Opened(_) => {}
            Step::Settled(job) => {
                let job: Box<dyn Any> = job;
                let job = job.downcast::<JobOf<C>>().expect("a number belongs to one command");
                match answer {
                    Ok(Ok(reply)) => job.reply.send(reply),
                    _ => job.reply.fail(AskError::Unknown(Unknown::Deadline)),
                }
            }
            Step::Lost(job) => job.fail(AskError::Unknown(Unknown::Deadline)),
        }
        self.send(cx);
    }
}

/// A command of some type that waits for its answer.
trait Job<A: EventSourced>: Any {
    fn send(&self, client: &str, key: &Key, attempt: Attempt, cx: &mut Context<Client<A>>);
    fn fail(self: Box<Self>, error: AskError);
}

struct JobOf<C: Message> {
    command: C,
    reply: Reply<C::Reply>,
}

impl<A, C> Job<A> for JobOf<C>
where
    A: CommandHandler<C>,
    C: WireMessage + Clone,
{
    fn send(&self, client: &str, key: &Key, attempt: Attempt, cx: &mut Context<Client<A>>) {
        let Attempt { opened, seq, after, acked } = attempt;
        let command = self.command.clone();
        let message = Idempotent { client: client.to_owned(), opened, seq, after, acked, command };
        let actor = cx.actor::<Durable<A>>(key.clone());
        cx.ask::<Idempotent<C>, _, kind::Deferred>(actor, message)
            .deadline(Duration::from_nanos(ATTEMPT_NS))
            .then(move |client, answer, cx| client.answered::<C>(seq, answer, cx));
    }

    fn fail(self: Box<Self>, error: AskError) {
        self.reply.fail(error);
    }
}

impl<A: EventSourced> Actor for Client<A> {}

impl<A, C> DeferredHandler<C> for Client<A>
where
    A: CommandHandler<C>,
    C: WireMessage + Clone,
{
    fn handle(&mut self, command: C, reply: Reply<C::Reply>, cx: &mut Context<Self>) {
        if self.lane.len() >= CLIENT_COMMANDS {
            return reply.fail(AskError::Rejected(Rejected::Full));
        }
        self.lane.push(Box::new(JobOf { command, reply }));
        self.send(cx);
    }
}

/// A pause is over.
struct Again {}

impl Message for Again {
    type Reply = ();
}

impl<A: EventSourced> Handler<Again> for Client<A> {
    fn handle(&mut self, _: Again, cx: &mut Context<Self>) {
        self.timer_ns = None;
        self.send(cx);
    }
}

impl<A: EventSourced> std::fmt::Debug for Client<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({:?} of {} {:?}, {} waiting)", self.name, A::TYPE, self.key.as_str(), self.lane.len())
    }
}
