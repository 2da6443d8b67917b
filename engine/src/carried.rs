//! Sends that are part of a request: what `route.rs` and `actor_ref.rs` do for plain messages, with a context block for the
//! request. Cold beside those, and written once for all message types: here a message is an envelope from the start.
//!
//! Invariant: a message that is sent while a request is open carries it, whichever way it goes, or comes back with the reason.
//! Any thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use shardstage_codec::{AlignedBytes, FrameKind, NodeId};

use crate::ask::{Ask, Question, Target};
use crate::cluster::outbound;
use crate::cluster::placement::shard_of;
use crate::context::{Context, PendingAsk};
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::credit::{Credit, CreditKey};
use crate::envelope::{Envelope, EpochTag, Meta, VTable};
use crate::erased::Erased;
use crate::error::{AskError, Rejected, TellError};
use crate::intercept::observe;
use crate::link::ShardLink;
use crate::message::Message;
use crate::reentrancy;
use crate::reply::{ForeignAsker, ForeignReply, NewSlot, ReplyAddress};
use crate::request::{Deadline, Request, RequestError};
use crate::route::{self, Place, place};
use crate::shard::{ShardCell, current};
use crate::signal::RemoteSend;
use crate::virtual_ref::VirtualId;

/// The way to a target in this process.
struct Way {
    link: &'static ShardLink,
    key: CreditKey,
    cell: (u32, u32),
    epoch: EpochTag,
    target: Option<VirtualTarget>,
}

enum Where {
    Process(Way),
    Node(NodeId),
}

fn where_is(target: &Target) -> Result<Where, Rejected> {
    match target {
        Target::Actor(id) => Ok(Where::Process(Way {
            link: id.link(),
            key: id.credit_key(),
            cell: (id.index(), id.generation()),
            epoch: EpochTag::BY_GENERATION,
            target: None,
        })),
        Target::Virtual(id) => {
            let position = id.position.ok_or(Rejected::NoHandler)?;
            Ok(match place(id) {
                Place::Node(peer) => Where::Node(peer),
                Place::Shard(to) => Where::Process(Way {
                    link: id.engine.link(to),
                    key: id.credit,
                    cell: (0, 0),
                    epoch: EpochTag::of(id.engine.placement.epoch(id.slot.group())),
                    target: Some(route::target_of(id, position)),
                }),
            })
        }
    }
}

fn virtual_id(target: &Target) -> &VirtualId {
    match target {
        Target::Virtual(id) => id,
        Target::Actor(_) => unreachable!("plain actors live in their own process"),
    }
}

/// The shard whose turn runs here, if it is one of the target's engine.
fn at_home<R>(target: &Target, f: impl FnOnce(Option<&ShardCell>) -> R) -> R {
    let engine = target.engine();
    current(|shard| f(shard.filter(|shard| std::ptr::eq(shard.link.engine(), engine))))
}

/// Tells whomever, as part of `request`.
#[cold]
pub(crate) fn tell<M: Message>(
    request: Request,
    target: &Target,
    vtable: &'static VTable,
    message: M,
) -> Result<(), TellError<M>> {
    let way = match where_is(target) {
        Ok(Where::Process(way)) => way,
        Ok(Where::Node(peer)) => {
            let sent = at_home(target, |shard| match shard {
                Some(shard) => {
                    observe(shard, target, vtable, false);
                    let ask = (FrameKind::TellWith, 0, Duration::ZERO);
                    outbound::send_carried(shard, virtual_id(target), peer, ask, &request, &message)
                }
                None => send_from_outside(target, peer, FrameKind::TellWith, &request, Duration::ZERO, &message, None),
            });
            return sent.map_err(|reason| TellError::new(reason, message));
        }
        Err(reason) => return Err(TellError::new(reason, message)),
    };
    let envelope = route::wrap(way.cell, vtable, way.epoch, Meta::None, message);
    let sent = at_home(target, |shard| match shard {
        Some(shard) => {
            observe(shard, target, vtable, false);
            push(shard, way, request, None, 0, envelope)
        }
        None => inject(way, asker_of(request, None), 0, envelope),
    });
    sent.map_err(|(reason, envelope)| TellError::new(reason, route::unwrap::<M>(envelope)))
}

/// Asks from a shard; the slot comes back if the message was refused.
#[cold]
pub(crate) fn ask_from_shard<M: Message>(
    shard: &ShardCell,
    request: Request,
    question: Question<M>,
    mut slot: NewSlot,
) -> Result<ReplyAddress, (Rejected, NewSlot)> {
    let now_ns = shard.core.borrow().now_ns;
    let request = reentrancy::called_by(shard, request.begun_at(now_ns));
    let Question { target, vtable, message, ttl } = question;
    observe(shard, &target, vtable, true);
    slot.deadline_ns = route::deadline_ns(now_ns, ttl);
    if let Deadline::At(at) = request.deadline() {
        slot.deadline_ns = slot.deadline_ns.min(at);
        if at <= now_ns {
            return Err((Rejected::Expired, slot));
        }
    }
    let deadline_ns = slot.deadline_ns;
    let way = match where_is(&target) {
        Ok(Where::Process(way)) => way,
        Ok(Where::Node(peer)) => {
            let id = virtual_id(&target);
            (slot.group, slot.peer) = (Some(id.slot.group()), Some(peer));
            let address = shard.core.borrow_mut().replies.insert(slot)?;
            let ask = (FrameKind::AskWith, address.0.word(), Duration::from_nanos(deadline_ns - now_ns));
            return outbound::send_carried(shard, id, peer, ask, &request, &message)
                .map(|()| address)
                .map_err(|reason| (reason, shard.core.borrow_mut().replies.unsend(address)));
        }
        Err(reason) => return Err((reason, slot)),
    };
    if let Target::Virtual(id) = &target {
        slot.group = Some(id.slot.group());
    }
    let envelope = route::wrap(way.cell, vtable, way.epoch, Meta::None, message);
    let address = shard.core.borrow_mut().replies.insert(slot)?;
    push(shard, way, request, Some(address), deadline_ns, envelope).map(|()| address).map_err(|(reason, envelope)| {
        let slot = shard.core.borrow_mut().replies.unsend(address);
        drop(route::unwrap::<M>(envelope));
        (reason, slot)
    })
}

/// Asks for an actor's `then`; the slot's waiter is one that runs in the request. A refusal comes as a turn of its own too.
#[cold]
pub(crate) fn ask_then<M: Message>(
    shard: &ShardCell,
    request: Request,
    question: Question<M>,
    slot: NewSlot,
) -> Option<ReplyAddress> {
    let kept = Erased::new(request.clone());
    let home = std::ptr::eq(question.target.engine(), shard.link.engine());
    let cycle = if reentrancy::begin(shard) { reentrancy::cycle(shard, &question.target, false) } else { None };
    let sent = match cycle {
        Some(cycle) => Err((AskError::Deadlock(cycle), slot)),
        None if !home => Err((AskError::Rejected(Rejected::Unavailable), slot)),
        None => {
            ask_from_shard(shard, request, question, slot).map_err(|(reason, slot)| (AskError::Rejected(reason), slot))
        }
    };
    let (address, refused) = match sent {
        Ok(address) => (address, None),
        Err((reason, slot)) => {
            let inserted = shard.core.borrow_mut().replies.insert(NewSlot { deadline_ns: u64::MAX, ..slot });
            let inserted = inserted.map_err(|(_, slot)| crate::shard::drop_contained(slot)).ok();
            if inserted.is_none() {
                reentrancy::begun(shard, None);
            }
            (inserted?, Some(reason))
        }
    };
    reentrancy::begun(shard, Some(address));
    if let Some(slot) = shard.core.borrow_mut().replies.waiting(address) {
        slot.value = Some(kept);
    }
    if let Some(reason) = refused {
        crate::reply::fail_here(shard, address, reason);
    }
    Some(address)
}

/// Asks from a thread or task outside the shards of the target's engine; every refusal arrives as the answer.
#[cold]
pub(crate) fn ask_from_outside<M: Message>(
    request: Request,
    question: Question<M>,
    reply: &Arc<ForeignReply<M::Reply>>,
) {
    let Question { target, vtable, message, mut ttl } = question;
    if let Deadline::Left(left) = request.deadline() {
        ttl = ttl.min(Duration::from_nanos(left));
    }
    let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    let asker: Arc<dyn ForeignAsker> = Arc::clone(reply) as _;
    let refuse = |reason| reply.fail(AskError::Rejected(reason));
    match where_is(&target) {
        Err(reason) => refuse(reason),
        Ok(Where::Node(peer)) => {
            let sent = send_from_outside(&target, peer, FrameKind::AskWith, &request, ttl, &message, Some(asker));
            sent.unwrap_or_else(refuse);
        }
        Ok(Where::Process(way)) => {
            let envelope = route::wrap(way.cell, vtable, way.epoch, Meta::None, message);
            let asker = match request.real() {
                Some(request) => Asker::ForeignInRequest(Box::new((asker, request))),
                None => Asker::Foreign(asker),
            };
            if let Err((reason, envelope)) = inject(way, asker, ttl_ns, envelope) {
                refuse(reason);
                drop(route::unwrap::<M>(envelope));
            }
        }
    }
}

/// Who waits for the answer to a message of this request, which may be nobody's.
fn asker_of(request: Request, reply: Option<ReplyAddress>) -> Asker {
    match if reply.is_some() { request.for_ask() } else { request.for_tell() } {
        Some(request) => Asker::InRequest(request, reply),
        None => reply.map_or(Asker::None, Asker::Slot),
    }
}

/// From a shard of the target's engine: into the mailbox, or the ring to its shard.
fn push(
    shard: &ShardCell,
    way: Way,
    request: Request,
    reply: Option<ReplyAddress>,
    deadline_ns: u64,
    mut envelope: Envelope,
) -> Result<(), (Rejected, Envelope)> {
    let Way { link, key, mut cell, target, .. } = way;
    let deadline_ns = if reply.is_some() { deadline_ns } else { request.deadline_ns() };
    let mut lent = shard.core.borrow_mut();
    let core = &mut *lent;
    let mut context = ContextBlock {
        deadline_ns,
        sender: core.running.filter(|_| reply.is_none()),
        asker: asker_of(request, reply),
        ..ContextBlock::new()
    };
    if std::ptr::eq(link, shard.link) {
        if let Some(target) = &target {
            cell = match core.activate_virtual(target.position, &target.key, envelope.epoch()) {
                Ok(cell) => cell,
                Err(reason) => return Err((reason, envelope)),
            };
        }
        let admitted = core.admit(cell.0, cell.1, envelope.epoch());
        drop(lent);
        if let Err(reason) = admitted.or_else(|reason| shard.admit_envelope(cell, reason, &mut envelope)) {
            return Err((reason, envelope));
        }
        (envelope.index, envelope.generation) = cell;
        envelope.set_meta(Meta::Context(link.contexts.make(context)));
        shard.core.borrow_mut().enqueue_with(cell.0, || envelope);
        return Ok(());
    }
    let to = link.shard().get();
    if !core.mesh.has_room(to) || (reply.is_some() && !core.mesh.reserve_ask(to)) {
        return Err((Rejected::Full, envelope));
    }
    let Ok(credit) = link.take_credit(key) else {
        if reply.is_some() {
            core.mesh.cancel_ask(to);
        }
        return Err((Rejected::Full, envelope));
    };
    context.target = target;
    envelope.set_meta(Meta::Context(link.contexts.make(context)));
    envelope.set_credit(credit);
    core.mesh.push(to, envelope);
    Ok(())
}

/// From elsewhere: into the injector of the target's shard.
fn inject(way: Way, asker: Asker, ttl_ns: u64, mut envelope: Envelope) -> Result<(), (Rejected, Envelope)> {
    let Way { link, key, cell, target, .. } = way;
    let Ok(credit) = link.take_credit(key) else { return Err((Rejected::Full, envelope)) };
    let named = target.as_ref().map(|target| (target.position, target.key.clone()));
    let context = ContextBlock { asker, ttl_ns, target, ..ContextBlock::new() };
    envelope.set_meta(Meta::Context(link.contexts.make(context)));
    envelope.set_credit(credit);
    link.inject(envelope).inspect_err(|_| match (named, credit) {
        (_, Credit::Open | Credit::Spent(_)) => {}
        (None, Credit::Token) => {
            crate::actor_ref::give_back(crate::actor_ref::ActorId::new(link, cell.0, cell.1), 1);
        }
        (Some((position, name)), Credit::Token) => route::give_back_name(link, key, position, name),
    })
}

/// A waiting sender's message, whose room was reserved, or that nobody counts.
pub(crate) fn granted(
    request: Request,
    link: &'static ShardLink,
    mut envelope: Envelope,
) -> Result<(), (Rejected, Envelope)> {
    current(|shard| {
        let shard = shard.filter(|shard| std::ptr::eq(shard.link.engine(), link.engine()));
        let request = match shard {
            Some(shard) => request.begun_at(shard.core.borrow().now_ns),
            None => request,
        };
        let context = match envelope.take_meta() {
            Meta::Context(context) => *context,
            Meta::Sender(sender) => ContextBlock { sender: Some(sender), ..ContextBlock::new() },
            _ => ContextBlock::new(),
        };
        let deadline_ns = request.deadline_ns();
        let context = ContextBlock { asker: asker_of(request, None), deadline_ns, ..context };
        envelope.set_meta(Meta::Context(link.contexts.make(context)));
        match shard {
            Some(shard) if std::ptr::eq(shard.link, link) => shard.deliver(envelope),
            Some(shard) => {
                let mut core = shard.core.borrow_mut();
                if !core.mesh.has_room(link.shard().get()) {
                    return Err((Rejected::Full, envelope));
                }
                core.mesh.push(link.shard().get(), envelope);
            }
            None => return link.inject(envelope),
        }
        Ok(())
    })
}

/// To another node, from outside the shards of the engine.
fn send_from_outside<M: Message>(
    target: &Target,
    peer: NodeId,
    kind: FrameKind,
    request: &Request,
    ttl: Duration,
    message: &M,
    asker: Option<Arc<dyn ForeignAsker>>,
) -> Result<(), Rejected> {
    let id = virtual_id(target);
    let mut send = encode_carried(id, peer, kind, request, ttl, message)?;
    send.asker = asker;
    send.ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
    let link = id.engine.link(shard_of(id.slot, id.engine.shard_count()));
    link.inject(send.into_envelope()).map_err(|(reason, _dropped)| reason)
}

/// A message with a request as bytes, before a shard puts it on its lane.
fn encode_carried<M: Message>(
    id: &VirtualId,
    peer: NodeId,
    kind: FrameKind,
    request: &Request,
    ttl: Duration,
    message: &M,
) -> Result<RemoteSend, Rejected> {
    let ops = const { M::WIRE };
    let ops = ops.as_ref().ok_or(Rejected::NoHandler)?;
    let position = id.position.ok_or(Rejected::NoHandler)?;
    if outbound::has_no_room(id.engine, peer, id.engine.registry.types[position].id, &id.key) {
        return Err(Rejected::Full);
    }
    let shard = shard_of(id.slot, id.engine.shard_count());
    let header = route::header::<M>(id, kind, 0, ttl, shard)?;
    let mut frame = AlignedBytes::new();
    outbound::append_carried(&mut frame, header.frame(), &id.key, &request.block(None), |out| {
        (ops.encode)(message, out)
    })?;
    Ok(RemoteSend { peer, lane: route::lane_of(id), frame, asker: None, ttl_ns: 0, group: id.slot.group() })
}

/// An [`Ask`] that is part of a request, and not of the one that its sender is part of; see [`Ask::with_header`].
#[must_use = "nothing is sent until the ask is awaited"]
pub struct AskInRequest<M: Message> {
    ask: Ask<M>,
    request: Request,
}

impl<M: Message> AskInRequest<M> {
    /// Adds a header, or replaces its value.
    ///
    /// # Errors
    /// See [`Request::with_header`].
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, RequestError> {
        self.request = self.request.with_header(name, value)?;
        Ok(self)
    }

    /// Bounds the whole chain of calls: `ttl` from the sending on, unless the request has an earlier deadline.
    pub fn with_deadline(mut self, ttl: Duration) -> Self {
        self.request = self.request.with_deadline(ttl);
        self.ask = self.ask.deadline(ttl);
        self
    }

    /// Sets the trace parent.
    pub fn with_trace_parent(mut self, trace: shardstage_codec::TraceParent) -> Self {
        self.request = self.request.with_trace_parent(trace);
        self
    }

    /// As [`Ask::wait`].
    ///
    /// # Errors
    /// See [`AskError`].
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(self) -> Result<M::Reply, AskError> {
        let Self { ask, request } = self;
        request.scope(|| ask.wait())
    }
}

impl<M: Message> Future for AskInRequest<M> {
    type Output = Result<M::Reply, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.request.scope(|| Pin::new(&mut this.ask).poll(cx))
    }
}

impl<M: Message> std::fmt::Debug for AskInRequest<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in {:?}", self.ask, self.request)
    }
}

impl<M: Message> Ask<M> {
    /// Makes the message part of `request`.
    pub fn in_request(self, request: &Request) -> AskInRequest<M> {
        AskInRequest { ask: self, request: request.clone() }
    }

    /// Adds a header to the request that the message carries, that of the sender if it is part of one.
    ///
    /// # Errors
    /// See [`Request::with_header`].
    pub fn with_header(self, name: &str, value: &str) -> Result<AskInRequest<M>, RequestError> {
        self.in_request(&Request::current().unwrap_or_default()).with_header(name, value)
    }

    /// Bounds the whole chain of calls that begins here, as part of the sender's request if there is one; see
    /// [`Request::with_deadline`].
    pub fn with_deadline(self, ttl: Duration) -> AskInRequest<M> {
        self.in_request(&Request::current().unwrap_or_default()).with_deadline(ttl)
    }

    /// Sets the trace parent of the request that the message carries.
    pub fn with_trace_parent(self, trace: shardstage_codec::TraceParent) -> AskInRequest<M> {
        self.in_request(&Request::current().unwrap_or_default()).with_trace_parent(trace)
    }
}

/// A [`PendingAsk`] that is part of a request; see [`PendingAsk::with_header`].
#[must_use = "nothing is asked before `then`"]
pub struct PendingAskInRequest<'a, A, M: Message> {
    pending: PendingAsk<'a, A, M>,
    request: Request,
}

impl<'a, A: crate::actor::Actor, M: Message> PendingAsk<'a, A, M> {
    /// Makes the message part of `request`.
    pub fn in_request(self, request: &Request) -> PendingAskInRequest<'a, A, M> {
        PendingAskInRequest { pending: self, request: request.clone() }
    }

    /// As [`Ask::with_header`].
    ///
    /// # Errors
    /// See [`Request::with_header`].
    pub fn with_header(self, name: &str, value: &str) -> Result<PendingAskInRequest<'a, A, M>, RequestError> {
        self.in_request(&Request::current().unwrap_or_default()).with_header(name, value)
    }

    /// As [`Ask::with_deadline`].
    pub fn with_deadline(self, ttl: Duration) -> PendingAskInRequest<'a, A, M> {
        self.in_request(&Request::current().unwrap_or_default()).with_deadline(ttl)
    }
}

impl<A: crate::actor::Actor, M: Message> PendingAskInRequest<'_, A, M> {
    /// Adds a header, or replaces its value.
    ///
    /// # Errors
    /// See [`Request::with_header`].
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, RequestError> {
        self.request = self.request.with_header(name, value)?;
        Ok(self)
    }

    /// Bounds the whole chain of calls: `ttl` from now on, unless the request has an earlier deadline.
    pub fn with_deadline(mut self, ttl: Duration) -> Self {
        self.request = self.request.with_deadline(ttl);
        self.pending = self.pending.deadline(ttl);
        self
    }

    /// As [`PendingAsk::then`]; `f` runs as part of the request too.
    pub fn then<F>(self, f: F)
    where
        F: FnOnce(&mut A, Result<M::Reply, AskError>, &mut Context<A>) + 'static,
    {
        let Self { pending, request } = self;
        request.scope(|| pending.then(f));
    }
}

impl<A, M: Message> std::fmt::Debug for PendingAskInRequest<'_, A, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} in {:?}", self.pending, self.request)
    }
}
