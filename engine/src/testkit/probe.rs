//! `Probe`: an actor whose messages a test looks at.
//!
//! Invariant: messages are shown in the order in which the probe handled them, each once; an ask stays open until the test
//! answers it. All waiting is in virtual time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::actor::{Actor, DeferredHandler, StopReason};
use crate::actor_ref::{ActorId, ActorRef, Recipient};
use crate::bonds::watch;
use crate::context::Context;
use crate::engine::Engine;
use crate::error::AskError;
use crate::message::Message;
use crate::reply::Reply;

use super::report::{Line, Shared, SharedTranscript, nanos, with};

/// When and from whom a probe got a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Its place among the messages to all probes of the kit, from 1.
    pub number: u64,
    /// The virtual time.
    pub at: Duration,
    /// The actor that sent it, as [`Context::sender`] says.
    pub sender: Option<ActorId>,
}

struct Got<M: Message> {
    message: M,
    reply: Reply<M::Reply>,
    receipt: Receipt,
}

type Answer<M> = Box<dyn FnMut(&M) -> <M as Message>::Reply + Send>;

/// What the probe's actor leaves for the test.
struct Inbox<M: Message> {
    name: String,
    got: VecDeque<Got<M>>,
    ended: Vec<(ActorId, StopReason)>,
    answer: Option<Answer<M>>,
}

/// The actor behind a [`Probe`].
pub struct ProbeActor<M: Message> {
    inbox: Arc<Mutex<Inbox<M>>>,
    transcript: SharedTranscript,
}

impl<M: Message + Debug> Actor for ProbeActor<M> {
    fn terminated(&mut self, who: ActorId, reason: &StopReason, _cx: &mut Context<Self>) {
        with(&self.inbox, |inbox| inbox.ended.push((who, reason.clone())));
    }
}

impl<M: Message + Debug> DeferredHandler<M> for ProbeActor<M> {
    fn handle(&mut self, message: M, reply: Reply<M::Reply>, cx: &mut Context<Self>) {
        let world = crate::sim::world_of(cx.me().id().link().engine());
        let at = Duration::from_nanos(world.map_or(0, |world| world.now_ns()));
        let mut answer = with(&self.inbox, |inbox| inbox.answer.take());
        let text = with(&self.inbox, |inbox| format!("{}: {message:?}", inbox.name));
        let number = with(&self.transcript, |transcript| transcript.add(Line { at, text }));
        let mut reply = reply;
        if let Some(answer) = &mut answer {
            let value = answer(&message);
            let open = std::mem::replace(&mut reply, Reply::new(None, None, cx.me().id().link(), 0));
            open.send(value);
        }
        let receipt = Receipt { number, at, sender: cx.sender() };
        with(&self.inbox, |inbox| {
            inbox.answer = answer;
            inbox.got.push_back(Got { message, reply, receipt });
        });
    }
}

impl<M: Message> Debug for ProbeActor<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProbeActor<{}>", std::any::type_name::<M>())
    }
}

/// An actor whose messages a test looks at. It stands wherever an actor that takes `M` can stand.
///
/// An ask stays open until [`reply`](Self::reply) or [`refuse`](Self::refuse); dropping the probe fails those that are open.
pub struct Probe<M: Message> {
    actor: ActorRef<ProbeActor<M>>,
    inbox: Arc<Mutex<Inbox<M>>>,
    shared: Rc<Shared>,
    patience: Duration,
    watched: RefCell<Vec<ActorId>>,
    /// Asks that the test has seen and not answered.
    open: RefCell<VecDeque<Reply<M::Reply>>>,
    last: RefCell<Option<Receipt>>,
}

impl<M: Message + Debug> Probe<M> {
    #[track_caller]
    pub(super) fn spawn(engine: &Engine, shared: &Rc<Shared>) -> Self {
        let full = std::any::type_name::<M>();
        let name = full.rsplit("::").next().unwrap_or(full).to_owned();
        let inbox = Inbox { name, got: VecDeque::new(), ended: Vec::new(), answer: None };
        let inbox = Arc::new(Mutex::new(inbox));
        let transcript = Arc::clone(&shared.transcript);
        // A probe does not move the actors under test to other shards.
        let count = shared.probes.borrow().len();
        let shard = u16::try_from(count % usize::from(engine.shard_count())).expect("below the number of shards");
        let of_actor = Arc::clone(&inbox);
        let make = move || ProbeActor { inbox: Arc::clone(&of_actor), transcript: Arc::clone(&transcript) };
        let spawned = engine.spawn_on(shard, make);
        let actor = spawned.unwrap_or_else(|error| shared.fail(&format!("no probe can be made: {error}")));
        shared.probes.borrow_mut().push(actor.id());
        Self {
            actor,
            inbox,
            patience: shared.patience,
            shared: Rc::clone(shared),
            watched: RefCell::default(),
            open: RefCell::default(),
            last: RefCell::default(),
        }
    }

    /// Calls it this in failures and in the [transcript](super::TestKit::transcript); its message's type unless said.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        with(&self.inbox, |inbox| inbox.name = name.into());
        self
    }

    /// Answers every ask with what `answer` says, at once. Messages are shown all the same.
    #[must_use]
    pub fn answering(self, answer: impl FnMut(&M) -> M::Reply + Send + 'static) -> Self {
        with(&self.inbox, |inbox| inbox.answer = Some(Box::new(answer)));
        self
    }

    /// Waits this long for what the test expects, in virtual time; the kit's patience unless said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A reference for whoever sends it messages.
    #[must_use]
    pub fn recipient(&self) -> Recipient<M> {
        self.actor.recipient()
    }

    /// Its actor.
    #[must_use]
    pub fn actor(&self) -> ActorRef<ProbeActor<M>> {
        self.actor
    }

    /// When and from whom the last message came that the test took.
    ///
    /// # Panics
    /// When it took none.
    #[must_use]
    #[track_caller]
    pub fn last(&self) -> Receipt {
        self.last.borrow().unwrap_or_else(|| self.fail("no message was taken yet"))
    }

    /// The next message, if one is there; lets no time pass.
    #[must_use]
    pub fn try_msg(&self) -> Option<M> {
        let Got { message, reply, receipt } = with(&self.inbox, |inbox| inbox.got.pop_front())?;
        if reply.is_expected() {
            self.open.borrow_mut().push_back(reply);
        }
        *self.last.borrow_mut() = Some(receipt);
        Some(message)
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes within the probe's patience.
    #[track_caller]
    pub fn expect_msg(&self) -> M {
        self.next().unwrap_or_else(|| self.fail(&format!("expected a message, got none within {:?}", self.patience)))
    }

    /// The next message, which must be this one.
    ///
    /// # Panics
    /// When another comes, or none within the probe's patience.
    #[track_caller]
    pub fn expect_msg_eq(&self, expected: M)
    where
        M: PartialEq,
    {
        match self.next() {
            Some(message) if message == expected => {}
            Some(message) => self.fail(&format!("expected {expected:?}, got {message:?}")),
            None => self.fail(&format!("expected {expected:?}, got nothing within {:?}", self.patience)),
        }
    }

    /// The next message, for which `fits` must hold.
    ///
    /// # Panics
    /// When another comes, or none within the probe's patience.
    #[track_caller]
    pub fn expect_msg_matching(&self, fits: impl FnOnce(&M) -> bool) -> M {
        let message = self.expect_msg();
        if !fits(&message) {
            self.fail(&format!("expected another message, got {message:?}"));
        }
        message
    }

    /// The first message for which `fits` holds; the others before it are skipped.
    ///
    /// # Panics
    /// When none comes within the probe's patience.
    #[track_caller]
    pub fn fish_for(&self, mut fits: impl FnMut(&M) -> bool) -> M {
        let until = self.shared.now() + self.patience;
        let mut skipped = 0;
        loop {
            let left = until.saturating_sub(self.shared.now());
            match self.next_within(left) {
                Some(message) if fits(&message) => return message,
                Some(_) => skipped += 1,
                None => self.fail(&format!("none of {skipped} messages within {:?} was the one", self.patience)),
            }
        }
    }

    /// No message comes for this long.
    ///
    /// # Panics
    /// When one comes, or was there already.
    #[track_caller]
    pub fn expect_no_msg(&self, time: Duration) {
        if let Some(message) = self.next_within(time) {
            self.fail(&format!("expected no message for {time:?}, got {message:?}"));
        }
    }

    /// Has the probe told when `actor` stops, so that [`expect_terminated`](Self::expect_terminated) knows why it did.
    pub fn watch(&self, actor: impl Into<ActorId>) {
        let id = actor.into();
        let mut watched = self.watched.borrow_mut();
        if !watched.contains(&id) {
            watched.push(id);
            watch(self.actor.id(), id);
        }
    }

    /// Waits until `actor` has stopped; returns why. Where it may have stopped before, [watch](Self::watch) it from the start:
    /// one that is gone already is said to be `Stopped`.
    ///
    /// # Panics
    /// When it has not stopped within the probe's patience.
    #[track_caller]
    pub fn expect_terminated(&self, actor: impl Into<ActorId>) -> StopReason {
        let id = actor.into();
        self.watch(id);
        let ended = || {
            with(&self.inbox, |inbox| inbox.ended.iter().find(|(who, _)| *who == id).map(|(_, reason)| reason.clone()))
        };
        self.shared.world.run_until(|_| ended().is_some(), nanos(self.patience));
        ended().unwrap_or_else(|| {
            self.fail(&format!("expected {id:?} to stop, it lives after {:?} of virtual time", self.patience))
        })
    }

    /// Answers the oldest ask that the test has taken and not answered.
    ///
    /// # Panics
    /// When there is none: what was taken were tells.
    #[track_caller]
    pub fn reply(&self, value: M::Reply) {
        self.oldest().send(value);
    }

    /// Ends the oldest ask that the test has taken and not answered with an error.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn refuse(&self, error: AskError) {
        self.oldest().fail(error);
    }

    #[track_caller]
    fn oldest(&self) -> Reply<M::Reply> {
        let oldest = self.open.borrow_mut().pop_front();
        oldest.unwrap_or_else(|| self.fail("nobody waits for an answer of this probe"))
    }

    fn next(&self) -> Option<M> {
        self.next_within(self.patience)
    }

    fn next_within(&self, time: Duration) -> Option<M> {
        self.shared.world.run_until(|_| with(&self.inbox, |inbox| !inbox.got.is_empty()), nanos(time));
        self.try_msg()
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let name = with(&self.inbox, |inbox| inbox.name.clone());
        self.shared.fail(&format!("probe {name:?}: {what}"))
    }
}

impl<M: Message> Debug for Probe<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Probe<{}>({:?})", std::any::type_name::<M>(), self.actor.id())
    }
}
