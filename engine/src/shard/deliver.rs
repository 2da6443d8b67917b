//! Delivery: messages that came from other shards, threads and nodes enter their mailboxes; what cannot is reported.
//!
//! Invariant: every message that arrives is queued, answered or counted as a dead letter. One of the few files with `unsafe`.

use super::{DeadLetterDraft, ShardCell};
use crate::context_block::{Asker, ContextBlock};
use crate::dead_letter::{DeadLetter, MessageName, Reason};
use crate::envelope::{Class, Envelope, GIVEN_UP_NS, Meta, PackedAddress};
use crate::error::{AskError, Panicked};
use crate::reply;
use crate::request::Deadline;
use crate::signal::{Parcel, RemoteSend};

impl ShardCell {
    /// Delivers the `count` replies of the batch that was begun on the rings.
    pub(super) fn deliver_replies(&self, count: usize) {
        for _ in 0..count {
            let reply = self.core.borrow_mut().mesh.next_reply().expect("the batch has as many");
            (reply.deliver)(self, reply.address, reply.epoch, reply.value);
        }
        if count > 0 {
            self.core.borrow_mut().mesh.end_replies();
        }
    }

    /// Delivers the messages of the batch that was begun on the rings. Most go straight from their ring slot into their mailbox.
    pub(super) fn deliver_batch(&self) {
        loop {
            // SAFETY: until the end of this block; a message is copied from slot to slot, none of its code runs.
            let mut core = unsafe { self.core.quick() };
            let core_ref = &mut *core;
            let Some(arrival) = core_ref.mesh.next_arrival() else { return core_ref.mesh.end_batch() };
            // One by one: what is still in its ring counts as under way.
            core_ref.ledger.received += 1;
            // SAFETY: the batch hands every message over once, and its slot is valid until the batch ends.
            if unsafe { core_ref.cells.take_in(arrival, &mut core_ref.pool, &mut core_ref.run_queue) } {
                continue;
            }
            drop(core);
            // SAFETY: as above; it was not taken in.
            self.deliver(unsafe { arrival.read() });
        }
    }

    /// Delivers a message that arrived.
    pub(crate) fn deliver(&self, envelope: Envelope) {
        let mut envelope = match RemoteSend::from_envelope(envelope) {
            Ok(send) => return self.remote_send(send),
            Err(envelope) => envelope,
        };
        envelope = match Parcel::from_envelope(envelope) {
            Ok(parcel) => return self.open_parcel(parcel),
            Err(envelope) => envelope,
        };
        if envelope.has_context()
            && let Err(reason) = self.prepare_context(&mut envelope)
        {
            self.core.borrow_mut().bury(envelope, reason);
            return;
        }
        let weighed = self.core.borrow_mut().deliver(envelope);
        if let Some(envelope) = weighed {
            self.deliver_by_weight(envelope);
        }
    }

    /// Makes the context of a message that has arrived one of this shard's.
    fn prepare_context(&self, envelope: &mut Envelope) -> Result<(), Reason> {
        let Meta::Context(mut context) = envelope.take_meta() else { unreachable!("the caller has checked it") };
        let prepared = self.prepare(envelope, &mut context);
        match context.asker {
            // The slot, which is on this shard, knows the rest; and it is gone when nobody waits any more.
            Asker::Slot(address) if address.0.shard() == self.link.shard().get() => {
                self.link.contexts.recycle(context);
                envelope.set_meta(Meta::Reply(address));
            }
            _ => envelope.set_meta(Meta::Context(context)),
        }
        prepared
    }

    /// The same for a message that has come along with its actor. One whose asker finds no slot here is answered so, and dropped
    /// before work.
    #[cold]
    pub(super) fn prepare_here(&self, envelope: &mut Envelope) {
        if !envelope.has_context() || self.prepare_context(envelope).is_ok() {
            return;
        }
        if let Meta::Context(context) = envelope.take_meta() {
            context.reject(crate::error::Rejected::Full);
            let expired = ContextBlock { deadline_ns: GIVEN_UP_NS, ..ContextBlock::new() };
            envelope.set_meta(Meta::Context(self.link.contexts.make(expired)));
        }
    }

    /// Gives a virtual target its cell and a foreign asker its slot.
    fn prepare(&self, envelope: &mut Envelope, context: &mut ContextBlock) -> Result<(), Reason> {
        let group = context.target.as_ref().map(|target| self.group_of(target.position, &target.key));
        if let Some(target) = context.target.take() {
            let epoch = self.link.engine().placement.epoch(self.group_of(target.position, &target.key));
            if target.epoch != epoch {
                let mut core = self.core.borrow_mut();
                core.counters.fenced += 1;
                // Its token is room again for whoever has the name.
                if envelope.take_credit()
                    && let Some((index, generation)) = core.directory.get(target.position, &target.key)
                {
                    core.redeem(index, generation, 1);
                }
                return Err(Reason::Fenced);
            }
            let cell = self.core.borrow_mut().activate_virtual(target.position, &target.key, envelope.epoch());
            match cell {
                Ok((index, generation)) => {
                    envelope.index = index;
                    envelope.generation = generation;
                }
                Err(reason) => return Err(reason.into()),
            }
        }
        let (asker, request) = match &mut context.asker {
            Asker::None | Asker::Slot(_) => return Ok(()),
            Asker::Foreign(asker) => (asker.clone(), None),
            Asker::InRequest(request, _) => {
                if let Deadline::Left(_) = request.deadline() {
                    *request = request.clone().begun_at(self.core.borrow().now_ns);
                    context.deadline_ns = request.deadline_ns();
                }
                return Ok(());
            }
            Asker::ForeignInRequest(both) => (both.0.clone(), Some(both.1.clone())),
        };
        let now_ns = self.core.borrow().now_ns;
        let request = request.map(|request| request.begun_at(now_ns));
        let mut deadline_ns = now_ns.saturating_add(context.ttl_ns);
        if let Some(request) = request.as_ref().filter(|request| request.deadline_ns() != 0) {
            deadline_ns = deadline_ns.min(request.deadline_ns());
        }
        match asker.register(self, deadline_ns, group) {
            Ok(address) => {
                context.asker = match request {
                    None => Asker::Slot(address),
                    Some(request) => Asker::InRequest(request, Some(address)),
                };
                context.deadline_ns = deadline_ns;
                Ok(())
            }
            Err(reason) => {
                if envelope.has_credit() {
                    self.core.borrow_mut().redeem(envelope.index, envelope.generation, 1);
                }
                Err(reason.into())
            }
        }
    }

    fn group_of(&self, position: usize, key: &str) -> shardstage_codec::GroupId {
        shardstage_codec::slot_of(self.link.engine().registry.types[position].id, key).group()
    }

    /// Stages a message for another shard, or reports it if the ring is full.
    pub(crate) fn push_or_bury(&self, shard: u16, envelope: Envelope) {
        let mut core = self.core.borrow_mut();
        if core.mesh.has_room(shard) {
            core.mesh.push(shard, envelope);
        } else {
            core.bury(envelope, Reason::Full);
        }
    }

    /// Reports and drops the messages that could not be delivered. Their drops may run user code, so no borrow is held.
    pub(super) fn bury_dead(&self) {
        if !self.core.borrow().orphans.is_empty() {
            // The user caught the panic, or a hook had it.
            self.fail_orphans(&Panicked("the handler panicked".into()));
        }
        loop {
            let dead = std::mem::take(&mut self.core.borrow_mut().graveyard);
            if dead.is_empty() {
                return;
            }
            for draft in dead {
                self.report(draft);
            }
        }
    }

    fn report(&self, draft: DeadLetterDraft) {
        let DeadLetterDraft { mut envelope, reason } = draft;
        let engine = self.link.engine();
        let rejected = AskError::Rejected(reason.rejected());
        let mut sender = None;
        match envelope.take_meta() {
            Meta::None | Meta::Signal => {}
            Meta::Sender(address) => match address.as_node() {
                Some(peer) => self.bounce(peer, (envelope.index, envelope.generation), reason),
                None => sender = Some(address),
            },
            Meta::Reply(address) => reply::answer_failure(self, address, rejected),
            Meta::Context(context) => {
                sender = context.sender;
                if let Some(peer) = context.origin.filter(|_| context.is_tell()) {
                    self.bounce(peer, (envelope.index, envelope.generation), reason);
                }
                context.reject(reason.rejected());
            }
        }
        let id = |address: PackedAddress| {
            crate::actor_ref::ActorId::new(engine.link(address.shard()), address.index(), address.generation())
        };
        if envelope.vtable().class == Class::System {
            return super::drop_contained(envelope);
        }
        engine.dead_letters.record(DeadLetter {
            receiver: Some(crate::actor_ref::ActorId::new(self.link, envelope.index, envelope.generation)),
            receiver_type: Some((envelope.vtable().actor_name)()).filter(|name| !name.is_empty()),
            sender: sender.map(id),
            message: MessageName::Type((envelope.vtable().message_name)()),
            reason,
        });
        super::drop_contained(envelope);
    }

    /// Tells another node that one of its tells was not delivered.
    fn bounce(&self, peer: shardstage_codec::NodeId, cell: (u32, u32), reason: Reason) {
        use shardstage_codec::{FrameHeader, FrameKind};
        let status = crate::cluster::inbound::status_of(reason.rejected());
        let named = if reason == Reason::Full { self.name_to(peer, cell) } else { None };
        let header = FrameHeader { status, shard: self.link.shard(), ..FrameHeader::new(FrameKind::Bounce) };
        let out = crate::cluster::outbound::refusal(header, named.as_ref().map(|(kind, key)| (*kind, key)));
        // A session that is gone has told the sender already.
        let _ = crate::cluster::outbound::send(self, peer, crate::port::transport::Lane::Control, &out);
    }
}
