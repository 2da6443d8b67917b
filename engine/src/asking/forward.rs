//! Forwarding: another actor answers the one who asked; and piping: the answer goes on to a third actor as a message.
//!
//! Invariant: the asker hears exactly once, by its own deadline, whoever it is that answers in the end; what a forwarded message
//! was refused for reaches the asker, never the forwarder.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::actor::Actor;
use crate::actor_ref::ActorId;
use crate::ask::{Question, Target};
use crate::context::{AskTarget, Context, PendingAsk};
use crate::context_block::{Asker, ContextBlock};
use crate::dead_letter::{DeadLetter, MessageName};
use crate::envelope::{EpochTag, Meta, PackedAddress, VTable, has_spare_word};
use crate::error::{AskError, Rejected, TellError};
use crate::limits::ASK_DEADLINE;
use crate::message::Message;
use crate::reply::{Reply, ReplyAddress, ask_calling};
use crate::request::Request;
use crate::route;
use crate::shard::{ShardCell, current, drop_contained};

impl<A: Actor> Context<A> {
    /// Tells `target` something in the name of the actor that sent this message: its [`sender`](Self::sender) is theirs. What an
    /// ask asks is handed on with [`Reply::forward`].
    ///
    /// # Errors
    /// As [`ActorRef::tell`](crate::ActorRef::tell); the message comes back.
    pub fn forward<T, M, K>(&mut self, target: T, message: M) -> Result<(), TellError<M>>
    where
        T: AskTarget<M, K>,
        M: Message,
    {
        let (target, vtable) = target.target();
        let sender = self.seat().sender();
        in_the_name_of(self.shard_cell(), sender, || route::tell(&target, vtable, message))
    }
}

impl<R: Send + 'static> Reply<R> {
    /// Lets `target` answer in this place: it gets `message`, and whoever asked gets its answer, or why there is none (`Rejected`,
    /// `Failed` or `Unknown`, as if it had been asked directly). The asker's deadline holds on. Nothing of the answer passes
    /// through the forwarding actor, which may stop meanwhile.
    ///
    /// To an actor of the shard that was asked this costs what a tell costs; to any other, one more slot, which waits on that
    /// shard. A message for which nobody waits is told; if it is refused it becomes a dead letter.
    pub fn forward<T, M, K>(self, target: T, message: M)
    where
        T: AskTarget<M, K>,
        M: Message<Reply = R>,
    {
        let (target, vtable) = target.target();
        let (_, _, home, _) = self.parts();
        let question = Question { target, vtable, message, ttl: ASK_DEADLINE };
        let question = current(|shard| match shard {
            Some(shard) if std::ptr::eq(shard.link, home) => {
                hand_on(shard, self, question);
                None
            }
            _ => Some((self, question)),
        });
        if let Some((reply, question)) = question {
            home.run(Box::new(move |shard| hand_on(shard, reply, question)));
        }
    }
}

/// Forwards on the shard that was asked.
fn hand_on<M: Message>(shard: &ShardCell, reply: Reply<M::Reply>, question: Question<M>) {
    let (address, epoch, _, until_ns) = reply.parts();
    let Some(address) = address else { return tell_or_bury(shard, question) };
    match question.target {
        Target::Actor(id) if std::ptr::eq(id.link(), shard.link) && epoch.is_none() => {
            forward_here(shard, reply, (address, until_ns), id, question);
        }
        _ => relay(shard, reply, question),
    }
}

/// To an actor of this shard: the message takes the answer's place along.
fn forward_here<M: Message>(
    shard: &ShardCell,
    reply: Reply<M::Reply>,
    (address, until_ns): (ReplyAddress, u64),
    to: ActorId,
    question: Question<M>,
) {
    let Question { vtable, message, .. } = question;
    let cell = (to.index(), to.generation());
    let mut weight = None;
    let admitted = shard.core.borrow_mut().admit(cell.0, cell.1, EpochTag::BY_GENERATION);
    if let Err(reason) = admitted {
        match shard.admit_by_weight(cell, reason, || message.weight_bytes()) {
            Ok(weighed) => weight = Some(weighed),
            Err(reason) => {
                drop_contained(message);
                return reply.fail(AskError::Rejected(reason));
            }
        }
    }
    let mut core = shard.core.borrow_mut();
    // The answer's place is the message's from here on.
    let _ = reply.into_address();
    let own = address.0.shard() == shard.link.shard().get();
    let request = shard.request().and_then(Request::for_ask);
    let in_message = request.is_none() && (own || (until_ns != 0 && const { has_spare_word::<M>() }));
    let meta = if in_message {
        Meta::Reply(address)
    } else {
        let asker = match request {
            None => Asker::Slot(address),
            Some(request) => Asker::InRequest(request, Some(address)),
        };
        let own_ns = if own { core.replies.deadline_ns(address).unwrap_or(0) } else { until_ns };
        let context = ContextBlock { asker, deadline_ns: own_ns, ..ContextBlock::new() };
        Meta::Context(shard.link.contexts.make(context))
    };
    let mut envelope = route::wrap(cell, vtable, EpochTag::BY_GENERATION, meta, message);
    if in_message && !own {
        envelope.set_deadline(until_ns);
    }
    if let Some(weight) = weight {
        envelope.set_weight(weight);
    }
    core.enqueue_with(cell.0, || envelope);
}

/// To an actor elsewhere: this shard asks it and passes the answer on, in the room that the first ask has reserved.
fn relay<M: Message>(shard: &ShardCell, reply: Reply<M::Reply>, mut question: Question<M>) {
    if !reply.is_wanted() {
        shard.core.borrow_mut().counters.cancelled += 1;
        drop_contained(question.message);
        // Nobody hears it, but its room in the ring to another shard is given back.
        return reply.fail(AskError::Rejected(Rejected::Expired));
    }
    // Without a deadline the message was put aside, which forgets it.
    question.ttl = reply.deadline().unwrap_or(ASK_DEADLINE);
    ask_calling(shard, question, move |_, answer| match answer {
        Ok(answer) => reply.send(answer),
        Err(error) => reply.fail(error),
    });
}

fn tell_or_bury<M: Message>(shard: &ShardCell, question: Question<M>) {
    let Question { target, vtable, message, .. } = question;
    if let Err(refused) = route::tell(&target, vtable, message) {
        bury(shard, &target, refused);
    }
}

/// Reports a message that nobody can be told about.
fn bury<M: Message>(shard: &ShardCell, target: &Target, refused: TellError<M>) {
    let core = shard.core.borrow();
    let sender = core.running.filter(|sender| sender.as_node().is_none());
    drop(core);
    let engine = shard.link.engine();
    engine.dead_letters.record(DeadLetter {
        receiver: if let Target::Actor(id) = target { Some(*id) } else { None },
        sender: sender.map(|sender| ActorId::new(engine.link(sender.shard()), sender.index(), sender.generation())),
        receiver_type: None,
        message: MessageName::Type(std::any::type_name::<M>()),
        reason: refused.rejected().into(),
    });
    drop_contained(refused);
}

/// Runs `f` with `sender` as the one who sends.
fn in_the_name_of<T>(shard: &ShardCell, sender: Option<PackedAddress>, f: impl FnOnce() -> T) -> T {
    let running = std::mem::replace(&mut shard.core.borrow_mut().running, sender);
    let done = f();
    shard.core.borrow_mut().running = running;
    done
}

impl<A: Actor, M: Message> PendingAsk<'_, A, M> {
    /// Asks, and tells `target` what `map` makes of the outcome, without a turn of this actor, which may stop meanwhile. A message
    /// that `target` has no room for becomes a dead letter, and so does nothing when `map` panics, which is counted.
    ///
    /// `map` runs on this shard, on nobody's turn. Costs one allocation.
    pub fn pipe_to<T, N, K>(self, target: T, map: impl FnOnce(Result<M::Reply, AskError>) -> N + 'static)
    where
        T: AskTarget<N, K>,
        N: Message,
    {
        let (question, cx) = self.into_parts();
        let shard = cx.shard_cell();
        let me = shard.core.borrow().address(cx.seat().index(), cx.seat().generation());
        let (target, vtable) = target.target();
        ask_calling(shard, question, move |shard, outcome| pass_on(shard, me, (target, vtable), outcome, map));
    }
}

fn pass_on<R, N: Message>(
    shard: &ShardCell,
    me: PackedAddress,
    (target, vtable): (Target, &'static VTable),
    outcome: Result<R, AskError>,
    map: impl FnOnce(Result<R, AskError>) -> N,
) {
    in_the_name_of(shard, Some(me), || match catch_unwind(AssertUnwindSafe(|| map(outcome))) {
        Ok(message) => tell_or_bury(shard, Question { target, vtable, message, ttl: ASK_DEADLINE }),
        Err(_) => shard.core.borrow_mut().counters.panics += 1,
    });
}
