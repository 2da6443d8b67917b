//! Asking many: one question to many actors, their outcomes in the order of the list; or the first few answers, and the rest is
//! given up.
//!
//! Invariant: every actor of the list is asked once and has one outcome; one slot collects them and ends once, after the last
//! outcome or the last answer that is wanted, at the latest at the common deadline. Costs three allocations whatever the number of
//! actors, and a slot for each. The collecting stays on one shard.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;

use super::cancel::give_up;
use crate::actor::Actor;
use crate::actor_ref::ActorId;
use crate::ask::{Ask, Question, Target};
use crate::context::{AskTarget, Context, then_vtable};
use crate::envelope::VTable;
use crate::erased::Erased;
use crate::error::{AskError, Rejected, Unknown};
use crate::limits::{ASK_DEADLINE, SIM_ASK_SLACK};
use crate::message::Message;
use crate::reentrancy;
use crate::reply::{ForeignReply, ForeignSeat, NewSlot, ReplyAddress, ReplyOps, Waiter, ask_calling, callback_of};
use crate::shard::{ShardCell, assert_not_on_a_shard, current, drop_contained};
use crate::until::Until;

/// What came of asking many: `None` for those that were given up because enough had answered.
type Outcomes<R> = Vec<Option<Result<R, AskError>>>;

/// The same, or why there are none.
type Ended<R> = Result<Outcomes<R>, AskError>;

/// Stands for the question whose answer is all answers.
pub(crate) struct Gathered<M>(PhantomData<fn() -> M>);

impl<M: Message> Message for Gathered<M> {
    type Reply = Outcomes<M::Reply>;
}

/// One actor of the list.
struct Asked {
    target: Target,
    vtable: &'static VTable,
    /// Its slot, while it has not answered.
    open: Option<ReplyAddress>,
}

/// What is asked of many, before it is sent.
struct Questions<M> {
    asked: Vec<Asked>,
    message: M,
    ttl: Duration,
    /// How many answers are enough.
    enough: usize,
}

impl<M: Message + Clone> Questions<M> {
    fn new<T, K>(targets: impl IntoIterator<Item = T>, message: M) -> Self
    where
        T: AskTarget<M, K>,
    {
        let asked = targets.into_iter().map(|target| {
            let (target, vtable) = target.target();
            Asked { target, vtable, open: None }
        });
        Self { asked: asked.collect(), message, ttl: ASK_DEADLINE, enough: usize::MAX }
    }

    fn set_enough(&mut self, answers: usize) {
        assert!(answers > 0, "somebody's answer is wanted");
        self.enough = answers;
    }
}

/// The outcomes as they come.
struct Gather<M: Message> {
    outcomes: Outcomes<M::Reply>,
    asked: Vec<Asked>,
    /// How many have no outcome yet.
    left: usize,
    /// How many answers are still wanted.
    wanted: usize,
    /// Where the outcomes go; `None` once they have gone, or nobody wants them.
    parent: Option<ReplyAddress>,
}

type Shared<M> = Rc<RefCell<Gather<M>>>;

/// Gives up those that have not answered when it is dropped. Stands in the slot that collects.
struct Rest<M: Message>(Shared<M>);

impl<M: Message> Drop for Rest<M> {
    fn drop(&mut self) {
        let Ok(mut gather) = self.0.try_borrow_mut() else { return };
        gather.parent = None;
        drop(gather);
        // Without a current shard the whole table is being dropped.
        current(|shard| shard.map(|shard| give_up_rest(shard, &self.0)));
    }
}

fn give_up_rest<M: Message>(shard: &ShardCell, gather: &Shared<M>) {
    for position in 0.. {
        let mut borrowed = gather.borrow_mut();
        let Some(asked) = borrowed.asked.get_mut(position) else { return };
        let Some(address) = asked.open.take() else { continue };
        let target = asked.target.clone();
        drop(borrowed);
        give_up(shard, address, &target);
    }
}

/// Opens the slot that collects, with what `slot` makes of the guard, and asks everybody.
fn start<M, E>(
    shard: &ShardCell,
    questions: Questions<M>,
    slot: impl FnOnce(Rest<M>) -> NewSlot,
    refused: E,
) -> Option<ReplyAddress>
where
    M: Message + Clone,
    E: FnOnce(NewSlot),
{
    let Questions { asked, message, ttl, enough } = questions;
    let count = asked.len();
    let outcomes = std::iter::repeat_with(|| None).take(count).collect();
    let gather = Rc::new(RefCell::new(Gather { outcomes, asked, left: count, wanted: enough, parent: None }));
    let inserted = shard.core.borrow_mut().replies.insert(slot(Rest(Rc::clone(&gather))));
    let parent = match inserted {
        Ok(parent) => parent,
        Err((_, slot)) => {
            refused(slot);
            return None;
        }
    };
    gather.borrow_mut().parent = Some(parent);
    let abort = Abort { shard, parent };
    for position in 0..count {
        // A user's clone, which may panic.
        let message = message.clone();
        let gathered = gather.borrow();
        if gathered.parent.is_none() {
            break;
        }
        let Asked { target, vtable, .. } = &gathered.asked[position];
        let question = Question { target: target.clone(), vtable, message, ttl };
        drop(gathered);
        let shared = Rc::clone(&gather);
        let open = ask_calling(shard, question, move |shard, outcome| settle(shard, &shared, position, outcome));
        gather.borrow_mut().asked[position].open = open;
    }
    std::mem::forget(abort);
    if count == 0 {
        finish(shard, &gather);
    }
    Some(parent)
}

/// Ends the asking of many that was not begun to its end.
struct Abort<'a> {
    shard: &'a ShardCell,
    parent: ReplyAddress,
}

impl Drop for Abort<'_> {
    fn drop(&mut self) {
        // The guard in the slot gives up those that were asked.
        let freed = self.shard.core.borrow_mut().replies.cancel(self.parent);
        drop_contained(freed);
    }
}

/// One outcome is there.
fn settle<M: Message>(shard: &ShardCell, gather: &Shared<M>, position: usize, outcome: Result<M::Reply, AskError>) {
    let mut borrowed = gather.borrow_mut();
    borrowed.asked[position].open = None;
    borrowed.left -= 1;
    borrowed.wanted -= usize::from(outcome.is_ok() && borrowed.wanted > 0);
    let unwanted = if borrowed.parent.is_some() { borrowed.outcomes[position].replace(outcome) } else { Some(outcome) };
    let done = borrowed.left == 0 || borrowed.wanted == 0;
    drop(borrowed);
    drop_contained(unwanted);
    if done {
        finish(shard, gather);
    }
}

/// Hands over what there is, and gives up the rest.
fn finish<M: Message>(shard: &ShardCell, gather: &Shared<M>) {
    let mut borrowed = gather.borrow_mut();
    let Some(parent) = borrowed.parent.take() else { return };
    let outcomes = std::mem::take(&mut borrowed.outcomes);
    drop(borrowed);
    give_up_rest(shard, gather);
    crate::reply::complete::<Outcomes<M::Reply>>(shard, parent, None, Ok(outcomes));
}

/// The outcomes of all; who has none, because the engine stopped or the shard was out of slots, has that as outcome.
fn of_all<R>(outcomes: Ended<R>, count: usize) -> Vec<Result<R, AskError>> {
    let missing = || Err(AskError::Unknown(Unknown::Deadline));
    match outcomes {
        Ok(outcomes) => outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect(),
        Err(error) => std::iter::repeat_with(|| Err(error.clone())).take(count).collect(),
    }
}

fn of_first<R>(outcomes: Ended<R>, count: usize) -> Outcomes<R> {
    outcomes.unwrap_or_else(|error| std::iter::repeat_with(|| Some(Err(error.clone()))).take(count).collect())
}

impl<A: Actor> Context<A> {
    /// Asks every actor in `targets` the same; `.then(|this, outcomes, cx| ..)` runs as a turn of this actor when all outcomes are
    /// there, in the order of the list, each with its own success or reason. One deadline for all, 5 s unless said.
    /// [`first`](PendingAskAll::first) waits for the first few answers only.
    pub fn ask_all<T, M, K>(&mut self, targets: impl IntoIterator<Item = T>, message: M) -> PendingAskAll<'_, A, M>
    where
        T: AskTarget<M, K>,
        M: Message + Clone,
    {
        PendingAskAll { questions: Questions::new(targets, message), cx: self }
    }
}

/// A question to many that waits for its `then`.
#[must_use = "nothing is asked before `then`"]
pub struct PendingAskAll<'a, A, M> {
    questions: Questions<M>,
    cx: &'a mut Context<A>,
}

impl<'a, A: Actor, M: Message + Clone> PendingAskAll<'a, A, M> {
    /// Waits at most `ttl` for all; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        self.questions.ttl = ttl;
        self
    }

    /// Waits for the first `answers` that are `Ok`, or until nobody is left who could answer. The rest is given up, as if its asks
    /// had been dropped.
    ///
    /// # Panics
    /// When `answers` is 0.
    pub fn first(mut self, answers: usize) -> PendingAskFirst<'a, A, M> {
        self.questions.set_enough(answers);
        PendingAskFirst(self)
    }

    /// Sends the messages; `f` runs with the actor's state and one outcome for each actor of the list, as a turn of this actor. If
    /// this actor stops or is rebuilt before, `f` is dropped.
    pub fn then<F>(self, f: F)
    where
        F: FnOnce(&mut A, Vec<Result<M::Reply, AskError>>, &mut Context<A>) + 'static,
    {
        let count = self.questions.asked.len();
        self.start(move |this, outcomes, cx| f(this, of_all(outcomes, count), cx));
    }

    fn start<F>(self, f: F)
    where
        F: FnOnce(&mut A, Ended<M::Reply>, &mut Context<A>) + 'static,
    {
        let Self { questions, cx } = self;
        let shard = cx.shard_cell();
        let (index, generation) = (cx.seat().index(), cx.seat().generation());
        let incarnation = shard.core.borrow_mut().cells.get(index, generation).map_or(0, |cell| cell.incarnation);
        reentrancy::begin(shard);
        let slot = start(
            shard,
            questions,
            |rest| collecting::<A, M, _>(rest, (index, generation), incarnation, f),
            drop_contained,
        );
        reentrancy::begun(shard, slot);
    }
}

/// The slot whose answer is a turn of the actor.
fn collecting<A, M, F>(rest: Rest<M>, (index, generation): (u32, u32), incarnation: u16, f: F) -> NewSlot
where
    A: Actor,
    M: Message,
    F: FnOnce(&mut A, Ended<M::Reply>, &mut Context<A>) + 'static,
{
    let f = move |this: &mut A, outcomes: Ended<M::Reply>, cx: &mut Context<A>| {
        drop(rest);
        f(this, outcomes, cx);
    };
    let deliver = then_of::<A, M, _>(&f);
    let waiter = Waiter::Then { deliver, index, generation };
    NewSlot { incarnation, ..slot_of::<M>(waiter, Some(Erased::new(f))) }
}

fn then_of<A, M, F>(_: &F) -> &'static VTable
where
    A: Actor,
    M: Message,
    F: FnOnce(&mut A, Ended<M::Reply>, &mut Context<A>) + 'static,
{
    then_vtable::<A, Outcomes<M::Reply>, F, false>()
}

/// Its deadline is that of the asks that it collects.
fn slot_of<M: Message>(waiter: Waiter, closure: Option<Erased>) -> NewSlot {
    let ops = ReplyOps::of::<Gathered<M>>();
    NewSlot { deadline_ns: u64::MAX, ops, waiter, closure, peer: None, group: None, incarnation: 0 }
}

/// A question to many that waits for its `then`, and then for the first few answers.
#[must_use = "nothing is asked before `then`"]
pub struct PendingAskFirst<'a, A, M>(PendingAskAll<'a, A, M>);

impl<A: Actor, M: Message + Clone> PendingAskFirst<'_, A, M> {
    /// Waits at most `ttl`; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        self.0.questions.ttl = ttl;
        self
    }

    /// Like [`PendingAskAll::then`]; the outcome of an actor that was given up is `None`.
    pub fn then<F>(self, f: F)
    where
        F: FnOnce(&mut A, Vec<Option<Result<M::Reply, AskError>>>, &mut Context<A>) + 'static,
    {
        let count = self.0.questions.asked.len();
        self.0.start(move |this, outcomes, cx| f(this, of_first(outcomes, count), cx));
    }
}

/// Asks every actor in `targets` the same: a future of all outcomes, in the order of the list. See [`Context::ask_all`].
///
/// In a handler the asks are the shard's; outside the shards they are those of the first actor's shard, and keep no order with
/// other messages of the calling thread.
pub fn ask_all<T, M, K>(targets: impl IntoIterator<Item = T>, message: M) -> AskAll<M>
where
    T: AskTarget<M, K>,
    M: Message + Clone,
{
    let questions = Questions::new(targets, message);
    AskAll { count: questions.asked.len(), unsent: Some(questions), sent: None }
}

/// A question to many on its way: a future of one outcome each.
///
/// # Cancel safety
/// Dropping it before the first poll sends nothing; later, it gives up all asks that have not ended.
#[must_use = "nothing is sent until it is awaited"]
pub struct AskAll<M: Message> {
    count: usize,
    unsent: Option<Questions<M>>,
    sent: Option<Ask<Gathered<M>>>,
}

impl<M: Message> Unpin for AskAll<M> {}

impl<M: Message + Clone> AskAll<M> {
    /// Waits at most `ttl` for all; 5 s unless said.
    pub fn deadline(mut self, ttl: Duration) -> Self {
        if let Some(questions) = &mut self.unsent {
            questions.ttl = ttl;
        }
        self
    }

    /// See [`PendingAskAll::first`].
    ///
    /// # Panics
    /// When `answers` is 0.
    pub fn first(mut self, answers: usize) -> AskFirst<M> {
        if let Some(questions) = &mut self.unsent {
            questions.set_enough(answers);
        }
        AskFirst(self)
    }

    /// Asks, and blocks the calling thread until all outcomes are there.
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(self) -> Vec<Result<M::Reply, AskError>> {
        let count = self.count;
        of_all(self.block("AskAll::wait()"), count)
    }

    fn block(mut self, what: &str) -> Ended<M::Reply> {
        assert_not_on_a_shard(what);
        let Some(ttl) = self.unsent.as_ref().map(|questions| questions.ttl) else { return self.late() };
        let engine = self.unsent.as_ref().and_then(|questions| Some(questions.asked.first()?.target.engine()));
        if let Some(world) = engine.and_then(crate::sim::world_of) {
            let limit_ns = u64::try_from(ttl.saturating_add(SIM_ASK_SLACK).as_nanos()).unwrap_or(u64::MAX);
            let all = std::future::poll_fn(|cx| self.poll_all(cx));
            return world.block_on(all, limit_ns).unwrap_or(Err(AskError::Unknown(Unknown::Deadline)));
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let until = Until::after(ttl.saturating_add(SIM_ASK_SLACK));
        loop {
            if let Poll::Ready(outcomes) = self.poll_all(&mut TaskContext::from_waker(&waker)) {
                return outcomes;
            }
            let left = until.left();
            if left.is_zero() {
                return self.late();
            }
            crate::sync::park_timeout(left);
        }
    }

    fn late(&self) -> Ended<M::Reply> {
        Err(AskError::Unknown(Unknown::Deadline))
    }

    fn poll_all(&mut self, cx: &mut TaskContext<'_>) -> Poll<Ended<M::Reply>> {
        if let Some(questions) = self.unsent.take() {
            match send(questions, cx) {
                Ok(sent) => self.sent = Some(sent),
                Err(outcomes) => return Poll::Ready(outcomes),
            }
        }
        let sent = self.sent.as_mut().expect("asked for many is polled until it is ready");
        Pin::new(sent).poll(cx)
    }
}

/// Asks from wherever this is; what ends at once comes back.
fn send<M: Message + Clone>(
    questions: Questions<M>,
    cx: &TaskContext<'_>,
) -> Result<Ask<Gathered<M>>, Ended<M::Reply>> {
    let Some(first) = questions.asked.first() else { return Err(Ok(Vec::new())) };
    let engine = first.target.engine();
    let (link, ..) = crate::route::line_of(&first.target);
    current(|shard| match shard {
        Some(shard) if std::ptr::eq(shard.link.engine(), engine) => {
            let owner = shard.core.borrow().who_waits();
            let waiter = Waiter::Task { waker: Some(cx.waker().clone()), owner };
            let slot = |rest| slot_of::<M>(waiter, Some(Erased::new(rest)));
            match start(shard, questions, slot, drop_contained) {
                Some(parent) => Ok(Ask::placed(parent, shard.link)),
                None => Err(Err(AskError::Rejected(Rejected::Full))),
            }
        }
        _ => {
            let reply = ForeignReply::new(ReplyOps::of::<Gathered<M>>());
            let seat = ForeignSeat::new(Arc::clone(&reply));
            link.run(Box::new(move |shard| {
                // Behind what this thread has told the shard's actors before.
                shard.core.borrow_mut().deferred.push(Box::new(move |shard| start_for(shard, questions, seat)));
            }));
            let nobody = Target::Actor(ActorId::new(link, 0, 0));
            Ok(Ask::outside(reply, nobody))
        }
    })
}

/// Asks for somebody outside the shards.
fn start_for<M: Message + Clone>(shard: &ShardCell, questions: Questions<M>, seat: ForeignSeat<Outcomes<M::Reply>>) {
    let reply = seat.reply();
    let slot = |rest: Rest<M>| {
        let f = move |_: &ShardCell, outcomes: Ended<M::Reply>| {
            drop(rest);
            seat.complete(outcomes);
        };
        slot_of::<M>(Waiter::Call { call: callback_of::<Outcomes<M::Reply>, _>(&f) }, Some(Erased::new(f)))
    };
    let parent = start(shard, questions, slot, drop_contained);
    if let (Some(parent), Some(reply)) = (parent, reply)
        && !reply.placed(shard.link, parent)
    {
        let freed = shard.core.borrow_mut().replies.cancel(parent);
        drop_contained(freed);
    }
}

/// Unparks a thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<M: Message + Clone> Future for AskAll<M> {
    type Output = Vec<Result<M::Reply, AskError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let count = self.count;
        self.poll_all(cx).map(|outcomes| of_all(outcomes, count))
    }
}

/// A question to many of whom the first few answers count: a future of the outcomes, `None` for those that were given up.
#[must_use = "nothing is sent until it is awaited"]
pub struct AskFirst<M: Message>(AskAll<M>);

impl<M: Message + Clone> AskFirst<M> {
    /// Waits at most `ttl`; 5 s unless said.
    pub fn deadline(self, ttl: Duration) -> Self {
        Self(self.0.deadline(ttl))
    }

    /// Like [`AskAll::wait`].
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(self) -> Vec<Option<Result<M::Reply, AskError>>> {
        let count = self.0.count;
        of_first(self.0.block("AskFirst::wait()"), count)
    }
}

impl<M: Message + Clone> Future for AskFirst<M> {
    type Output = Vec<Option<Result<M::Reply, AskError>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let count = self.0.count;
        self.0.poll_all(cx).map(|outcomes| of_first(outcomes, count))
    }
}

impl<A, M> std::fmt::Debug for PendingAskAll<'_, A, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingAskAll<{}>({} actors)", std::any::type_name::<M>(), self.questions.asked.len())
    }
}

impl<A, M> std::fmt::Debug for PendingAskFirst<'_, A, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingAskFirst({:?})", self.0)
    }
}

impl<M: Message> std::fmt::Debug for AskAll<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AskAll<{}>({} actors)", std::any::type_name::<M>(), self.count)
    }
}

impl<M: Message> std::fmt::Debug for AskFirst<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AskFirst({:?})", self.0)
    }
}
