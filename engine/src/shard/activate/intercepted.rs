//! Messages of actors that have interceptors, one at a time.
//!
//! Invariant: what interceptors let pass is handled in the ordinary way; what they reject is reported and answered. Shard
//! thread only.

use super::ShardCell;
use crate::actor_ref::ActorId;
use crate::context_block::{Asker, ContextBlock};
use crate::dead_letter::Reason;
use crate::envelope::{Class, Envelope, Meta, PackedAddress};
use crate::intercept::{Chain, Observers, Outcome, Received, Verdict, Watch, contained};
use crate::request::{Request, Scope};
use crate::shard::Life;

/// What is known of the message at the front, without taking it.
struct Front {
    message: &'static str,
    sender: Option<PackedAddress>,
    is_ask: bool,
    request: Option<Request>,
}

impl Front {
    fn of(envelope: &mut Envelope) -> Option<Self> {
        if envelope.vtable().class == Class::System {
            return None;
        }
        let meta = envelope.take_meta();
        let known = match &meta {
            Meta::None => Some((None, false, None)),
            Meta::Sender(sender) => Some((Some(*sender), false, None)),
            Meta::Reply(_) => Some((None, true, None)),
            Meta::Context(context) => {
                let request = match &context.asker {
                    Asker::InRequest(request, _) => request.clone().real(),
                    _ => None,
                };
                Some((context.sender, !context.is_tell(), request))
            }
            Meta::Signal => None,
        };
        envelope.set_meta(meta);
        let (sender, is_ask, request) = known?;
        Some(Self { message: (envelope.vtable().message_name)(), sender, is_ask, request })
    }
}

impl ShardCell {
    /// The interceptors of an actor that was looked after, if it has any; they are told of it when it is new.
    pub(super) fn interceptors_of(&self, index: u32) -> Option<Chain> {
        let interceptors = self.link.engine().interceptors()?;
        let mut core = self.core.borrow_mut();
        let cell = core.cells.slot(index)?;
        if matches!(cell.conduct.life, Life::Free | Life::New) {
            return None;
        }
        if let Some(chain) = cell.extra.as_ref().and_then(|extra| extra.intercepted.clone()) {
            return Some(chain);
        }
        let state = cell.state.as_ref()?;
        let (actor_type, name) = (state.actor_type(), state.actor_name());
        let chain = interceptors.of(actor_type)?;
        cell.extra().intercepted = Some(chain.clone());
        let actor = ActorId::new(self.link, index, cell.generation);
        drop(core);
        for interceptor in &*chain {
            contained(self, || interceptor.spawned(actor, name));
        }
        Some(chain)
    }

    /// Handles one message with its interceptors around it.
    pub(super) fn run_intercepted(&self, index: u32, chain: &Chain) {
        self.note_spoken(index, true);
        let (front, actor, actor_type, turn_ns) = {
            let mut core = self.core.borrow_mut();
            let turn_ns = core.now_ns;
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            let name = cell.state.as_ref().map_or("", |state| state.actor_name());
            let actor = ActorId::new(self.link, index, cell.generation);
            (cell.mailbox.peek_mut().and_then(Front::of), actor, name, turn_ns)
        };
        let observers = Observers { actor, chain: chain.clone() };
        let Some(front) = front else {
            self.run_watched(index, observers);
            return;
        };
        let engine = self.link.engine();
        let sender = front.sender.filter(|sender| sender.as_node().is_none());
        let sender =
            sender.map(|sender| ActorId::new(engine.link(sender.shard()), sender.index(), sender.generation()));
        let (message, is_ask) = (front.message, front.is_ask);
        let request = front.request.as_ref();
        let received = Received { message, actor, actor_type, sender, is_ask, request, turn_ns };
        let mut verdict = Verdict::Handle;
        for interceptor in &**chain {
            verdict = contained(self, || interceptor.receive(&received)).unwrap_or(Verdict::Handle);
            if !matches!(verdict, Verdict::Handle) {
                break;
            }
        }
        match verdict {
            Verdict::Handle => {}
            Verdict::HandleIn(request) => self.put_into(index, request),
            Verdict::Reject => return self.reject_front(index),
        }
        let outcome = self.run_watched(index, observers);
        for interceptor in chain.iter().rev() {
            contained(self, || interceptor.handled(&received, outcome));
        }
    }

    /// Handles the message at the front, and has what it sends looked at, also after it has waited.
    fn run_watched(&self, index: u32, observers: Observers) -> Outcome {
        let before = self.core.borrow().counters;
        {
            let _watch = Watch::on(self, observers.clone());
            let _scope = Scope::on(self, self.request().unwrap_or_else(Request::hollow));
            self.run_one(index);
        }
        let after = self.core.borrow().counters;
        if after.panics > before.panics {
            Outcome::Panicked
        } else if after.expired + after.cancelled > before.expired + before.cancelled {
            Outcome::Dropped
        } else if self.keep_request(index, &Request::hollow(), Some(&observers)) {
            Outcome::Waits
        } else {
            Outcome::Handled
        }
    }

    /// Makes the message at the front part of another request.
    fn put_into(&self, index: u32, request: Request) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let request = request.begun_at(core.now_ns);
        let cell = core.cells.slot(index).expect("a running actor keeps its cell");
        let Some(envelope) = cell.mailbox.peek_mut() else { return };
        let plain = |asker| ContextBlock { asker, ..ContextBlock::new() };
        let mut context = match envelope.take_meta() {
            Meta::Context(context) => *context,
            Meta::Reply(address) => {
                let own = || core.replies.deadline_ns(address).unwrap_or(0);
                let deadline_ns = envelope.deadline_ns().unwrap_or_else(own);
                ContextBlock { deadline_ns, ..plain(Asker::Slot(address)) }
            }
            Meta::Sender(sender) => ContextBlock { sender: Some(sender), ..plain(Asker::None) },
            Meta::None | Meta::Signal => plain(Asker::None),
        };
        let (reply, callers) = match &context.asker {
            Asker::Slot(address) => (Some(*address), None),
            Asker::InRequest(before, reply) => (*reply, before.callers().cloned()),
            _ => (None, None),
        };
        let request = request.with_callers(callers);
        if let Some(earlier) = Some(request.deadline_ns()).filter(|at| *at != 0) {
            context.deadline_ns = if context.deadline_ns == 0 { earlier } else { context.deadline_ns.min(earlier) };
        }
        context.asker = Asker::InRequest(request, reply);
        envelope.set_meta(Meta::Context(core.link.contexts.make(context)));
    }

    /// Reports and answers the message at the front instead of handling it.
    fn reject_front(&self, index: u32) {
        let (state, running) = self.take_out(index);
        {
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            let cell = core.cells.slot(index).expect("a running actor keeps its cell");
            let envelope = cell.pop(&mut core.pool).expect("it was looked at");
            core.bury(envelope, Reason::NoHandler);
        }
        self.put_back(state, running);
    }
}
