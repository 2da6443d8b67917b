//! Frames in from other nodes: bytes -> header checks -> the same delivery as local.
//!
//! Invariant: a frame is untrusted until checked, in this order: lengths, kind, epoch and owner, type, message, payload. A
//! refused ask is answered, a refused tell is bounced and counted; nothing is lost in silence.

mod answers;
mod with_request;

use std::sync::Arc;

use shardstage_codec::{ActorTypeId, FrameHeader, FrameKind, NodeId, ReplyStatus, ShortHeader, Slot, is_short};

use super::credit::NoRoom;
use super::outbound;
use super::placement::shard_of;
use super::registry::{InboundMessage, RemoteAsk};
use super::routes::{InRoute, Receiver};
use crate::context_block::{Asker, ContextBlock, VirtualTarget};
use crate::dead_letter::{DeadLetter, MessageName, Reason};
use crate::envelope::{Envelope, EpochTag, Meta, PackedAddress};
use crate::error::{AskError, Rejected, Unknown};
use crate::fan_out::Members;
use crate::key::Key;
use crate::port::frame::Frame;
use crate::port::transport::{Lane, PeerDown, Source, TransportEvents};
use crate::reply;
use crate::shard::{ShardCell, ShardCore, Weight, drop_contained};

/// Hands what a transport reports to the shard.
pub(crate) struct Inbound<'a> {
    pub(crate) shard: &'a ShardCell,
}

impl TransportEvents for Inbound<'_> {
    fn frame(&mut self, from: Source, lane: Lane, frame: Frame<'_>) {
        self.shard.core.borrow_mut().counters.frames_received += 1;
        if is_short(&frame) {
            return self.short(from, lane, frame);
        }
        let Ok(header) = FrameHeader::decode(&frame) else { return self.malformed() };
        match header.kind {
            FrameKind::Tell | FrameKind::Ask => self.full(from.peer, &header, frame),
            FrameKind::TellWith | FrameKind::AskWith => self.with_request(from.peer, &header, frame),
            FrameKind::Route => self.define(from, lane, &header, &frame),
            FrameKind::Reply => match header.payload(&frame) {
                Ok(payload) => {
                    self.note_room(from.peer, &header, &frame);
                    self.reply(from.peer, &header, payload);
                }
                Err(_) => self.malformed(),
            },
            FrameKind::Bounce => {
                self.note_room(from.peer, &header, &frame);
                self.bounce(&header);
            }
            FrameKind::Room => self.note_room(from.peer, &header, &frame),
            FrameKind::FanOut => self.fan_out(from, lane, &header, &frame),
            FrameKind::Hello => self.malformed(),
        }
    }

    /// Asks among them end as `PeerLost`; of tells, nobody else would hear.
    fn unsent(&mut self, _peer: NodeId, frame: &[u8]) {
        let tells = if is_short(frame) {
            usize::from(matches!(ShortHeader::decode(frame), Ok((ShortHeader::Tell { .. }, _))))
        } else {
            match FrameHeader::decode(frame) {
                Ok(header) if matches!(header.kind, FrameKind::Tell | FrameKind::TellWith) => 1,
                Ok(header) if header.kind == FrameKind::FanOut => header
                    .payload(frame)
                    .ok()
                    .and_then(|payload| shardstage_codec::fan_out::decode(payload).ok())
                    .map_or(0, |(receivers, _)| receivers.len()),
                _ => 0,
            }
        };
        (0..tells).for_each(|_| self.shard.link.engine().dead_letters.count(Reason::Unavailable));
    }

    fn peer_up(&mut self, peer: NodeId, _session: u64) {
        self.forget(peer);
        self.shard.link.engine().peers.up(peer, self.shard.link.shard());
    }

    fn peer_down(&mut self, peer: NodeId, reason: &PeerDown) {
        self.forget(peer);
        self.shard.link.engine().peers.down(peer, self.shard.link.shard(), reason);
        let mut waiting = Vec::new();
        // Its own questions went with the session: numbers mean something else in the next one.
        self.shard.core.borrow().replies.asked_by(peer, &mut waiting);
        for address in waiting.drain(..) {
            let freed = self.shard.core.borrow_mut().replies.cancel(address);
            drop_contained(freed);
        }
        self.shard.core.borrow().replies.of_peer(peer, &mut waiting);
        for address in waiting {
            reply::fail_here(self.shard, address, AskError::Unknown(Unknown::PeerLost));
        }
    }
}

/// What a message frame says beside its receiver and payload.
#[derive(Clone, Copy)]
struct Arrival {
    peer: NodeId,
    /// `None` for a tell.
    ask: Option<u64>,
    ttl_ns: u64,
}

impl Inbound<'_> {
    /// What was agreed in a session ends with it.
    fn forget(&self, peer: NodeId) {
        let mut core = self.shard.core.borrow_mut();
        core.routes.forget(peer);
        core.owed_room.forget(peer);
        drop(core);
        if self.shard.link.engine().no_room(peer).is_some_and(NoRoom::forget) {
            self.call_senders();
        }
    }

    /// Some actor of another node may have room again, and whoever waits for that may wait on any shard.
    fn call_senders(&self) {
        for link in self.shard.link.engine().links() {
            if link.waiting.call() {
                link.wake();
            }
        }
    }

    /// The peer has named an actor that has no room, or has it again.
    fn note_room(&self, peer: NodeId, header: &FrameHeader, frame: &[u8]) {
        let (Ok(key), Some(table)) = (header.key(frame), self.shard.link.engine().no_room(peer)) else { return };
        match (header.kind, header.status) {
            (FrameKind::Room, _) if table.clear(header.actor_type, key) => self.call_senders(),
            (FrameKind::Room, _) => {}
            (_, ReplyStatus::Full) if !key.is_empty() => table.mark(header.actor_type, key),
            _ => {}
        }
    }

    fn malformed(&self) {
        self.shard.link.engine().dead_letters.count(Reason::Malformed);
    }

    /// A message with a full header.
    fn full(&mut self, peer: NodeId, header: &FrameHeader, frame: Frame<'_>) {
        let ask = (header.kind == FrameKind::Ask).then_some(header.correlation);
        let arrival = Arrival { peer, ask, ttl_ns: header.ttl_ns };
        let mut refused = (0, 0);
        let accepted = self.resolve(header, &frame).and_then(|mut receiver| {
            let payload = header.payload(&frame).map_err(|_| ReplyStatus::NoHandler)?;
            let message = self.check(&receiver, header)?;
            let key = header.key(&frame).map_err(|_| ReplyStatus::NoHandler)?;
            let wrapped = (message.wrap)(frame, payload, EpochTag::of(header.group_epoch));
            let envelope = wrapped.map_err(|_| ReplyStatus::NoHandler)?;
            let delivered = self.deliver(&mut receiver, header, KeyText::Borrowed(key), arrival, message, envelope);
            refused = receiver.refused;
            delivered
        });
        if let Err(status) = accepted {
            self.refuse(arrival, header, refused, status);
        }
    }

    /// What the numbers of short frames mean from here on.
    fn define(&mut self, from: Source, lane: Lane, header: &FrameHeader, frame: &[u8]) {
        let number = usize::try_from(header.correlation).unwrap_or(usize::MAX);
        let key = Key::from(header.key(frame).unwrap_or_default());
        let receiver = self.resolve(header, frame).unwrap_or_else(|status| Receiver {
            message: Err(status),
            position: 0,
            shard: self.shard.link.shard().get(),
            cell: (0, 0),
            refused: (0, 0),
        });
        let mut core = self.shard.core.borrow_mut();
        let Some(routes) = core.routes.from(from, lane).filter(|routes| number <= routes.len()) else {
            drop(core);
            return self.malformed();
        };
        let route = InRoute { receiver, header: *header, key };
        if number == routes.len() {
            routes.push(route);
        } else {
            routes[number] = route;
        }
    }

    fn short(&mut self, from: Source, lane: Lane, frame: Frame<'_>) {
        let Ok((header, payload)) = ShortHeader::decode(&frame) else { return self.malformed() };
        let (number, ask, ttl_ns) = match header {
            ShortHeader::Tell { route } => (usize::from(route), None, 0),
            ShortHeader::Ask { route, ttl_ns, correlation } => (usize::from(route), Some(correlation), ttl_ns),
            ShortHeader::Reply { epoch, correlation } => {
                return self.reply_value(from.peer, epoch, correlation, payload);
            }
        };
        let arrival = Arrival { peer: from.peer, ask, ttl_ns };
        let found = {
            let mut core = self.shard.core.borrow_mut();
            let route = core.routes.from(from, lane).and_then(|routes| routes.get(number));
            route.map(|route| (route.receiver, route.header))
        };
        let Some((mut receiver, header)) = found else { return self.malformed() };
        let before = receiver.cell;
        let accepted = self.check(&receiver, &header).and_then(|message| {
            let wrapped = (message.wrap)(frame, payload, EpochTag::of(header.group_epoch));
            let envelope = wrapped.map_err(|_| ReplyStatus::NoHandler)?;
            let key = KeyText::Route(from, lane, number);
            self.deliver(&mut receiver, &header, key, arrival, message, envelope)
        });
        if receiver.cell != before {
            let mut core = self.shard.core.borrow_mut();
            if let Some(route) = core.routes.from(from, lane).and_then(|routes| routes.get_mut(number)) {
                route.receiver.cell = receiver.cell;
            }
        }
        if let Err(status) = accepted {
            self.refuse(arrival, &header, receiver.refused, status);
        }
    }

    /// One message for many: rebuilt once, shared by the receivers of each shard.
    fn fan_out(&mut self, from: Source, lane: Lane, header: &FrameHeader, frame: &[u8]) {
        let shard = self.shard;
        let engine = shard.link.engine();
        let Some((numbers, archive)) =
            header.payload(frame).ok().and_then(|payload| shardstage_codec::fan_out::decode(payload).ok())
        else {
            return self.malformed();
        };
        let id = (header.message_id, header.message_version);
        let shared = engine
            .registry
            .by_id(header.actor_type)
            .and_then(|position| engine.registry.types[position].shared.get(&id));
        let source = shared
            .ok_or(ReplyStatus::NoHandler)
            .and_then(|shared| (shared.decode)(archive).map_err(|_| ReplyStatus::NoHandler));
        // Taken out, so that cells can be looked up meanwhile; nothing below reads a route otherwise.
        let mut routes = shard.core.borrow_mut().routes.from(from, lane).map(std::mem::take).unwrap_or_default();
        let arrival = Arrival { peer: from.peer, ask: None, ttl_ns: 0 };
        let batch = source.as_ref().map(|source| source.open());
        let weight = batch.as_ref().map_or(Weight::of(0), |batch| shard.weigh(|| batch.weight_bytes()));
        let meta = PackedAddress::node(from.peer);
        let mut elsewhere: Vec<(u16, Members)> = Vec::new();
        let mut is_shared = false;
        for number in numbers {
            let fits = |route: &&mut InRoute| {
                (route.header.message_id, route.header.message_version) == id
                    && route.header.actor_type == header.actor_type
            };
            let Some(InRoute { receiver, header, key }) = routes.get_mut(usize::from(number)).filter(fits) else {
                self.malformed();
                continue;
            };
            let outcome = match &batch {
                Err(status) => Err(**status),
                Ok(batch) => self.current(header).and_then(|()| {
                    if receiver.shard != shard.link.shard().get() {
                        let place = elsewhere.iter().position(|(shard, _)| *shard == receiver.shard);
                        let place = place.unwrap_or_else(|| {
                            elsewhere.push((receiver.shard, Members::default()));
                            elsewhere.len() - 1
                        });
                        elsewhere[place].1.push_virtual(receiver.position, header.actor_type, key.clone());
                        return Ok(());
                    }
                    let epoch = EpochTag::of(header.group_epoch);
                    let mut core = shard.core.borrow_mut();
                    core.counters.fan_out_shared += u64::from(!std::mem::replace(&mut is_shared, true));
                    let cell = core.locate(receiver, &KeyText::Known(key), epoch).map_err(status_of)?;
                    let make = || batch.envelope(cell, epoch, Meta::Sender(meta));
                    let entered = match core.admit(cell.0, cell.1, epoch) {
                        Ok(()) => {
                            core.enqueue_with(cell.0, make);
                            Ok(())
                        }
                        Err(reason) => core.enter_by_weight(cell, reason, weight, make),
                    };
                    entered.map_err(|reason| {
                        core.runs_short(cell, reason);
                        receiver.refused = cell;
                        status_of(reason)
                    })
                }),
            };
            if let Err(status) = outcome {
                let (header, refused) = (*header, std::mem::take(&mut receiver.refused));
                self.refuse(arrival, &header, refused, status);
            }
        }
        if let Some(place) = shard.core.borrow_mut().routes.from(from, lane) {
            *place = routes;
        }
        for (to, members) in elsewhere {
            let source = source.as_ref().expect("nobody is elsewhere otherwise");
            let receivers = members.len();
            if let Err(reason) = shard.pass_on(to, source, &Arc::new(members), Some(from.peer)) {
                (0..receivers).for_each(|_| self.refuse(arrival, header, (0, 0), status_of(reason)));
            }
        }
    }

    /// Who gets messages with this header: what does not change until the next definition.
    fn resolve(&self, header: &FrameHeader, frame: &[u8]) -> Result<Receiver, ReplyStatus> {
        let engine = self.shard.link.engine();
        let key = header.key(frame).map_err(|_| ReplyStatus::NoHandler)?;
        let slot: Slot = shardstage_codec::slot_of(header.actor_type, key);
        if header.group != slot.group() {
            return Err(ReplyStatus::Unavailable);
        }
        let shard = shard_of(slot, engine.shard_count());
        let position = engine.registry.by_id(header.actor_type);
        let message = position.and_then(|position| {
            engine.registry.types[position].messages.get(&(header.message_id, header.message_version))
        });
        let message = message.ok_or(ReplyStatus::NoHandler);
        Ok(Receiver { message, position: position.unwrap_or(0), shard, cell: (0, 0), refused: (0, 0) })
    }

    /// What may change from message to message: epoch and owner. Then whether the message is taken at all.
    fn check(&self, receiver: &Receiver, header: &FrameHeader) -> Result<&'static InboundMessage, ReplyStatus> {
        self.current(header)?;
        receiver.message
    }

    /// Whether this node owns the group under the epoch that the header says.
    fn current(&self, header: &FrameHeader) -> Result<(), ReplyStatus> {
        let engine = self.shard.link.engine();
        let epoch = engine.placement.epoch(header.group);
        if header.group_epoch != epoch {
            self.shard.core.borrow_mut().counters.fenced += 1;
            return Err(if header.group_epoch < epoch { ReplyStatus::Fenced } else { ReplyStatus::Unavailable });
        }
        if engine.placement.owner(header.group) != engine.me() {
            return Err(ReplyStatus::Unavailable);
        }
        Ok(())
    }

    /// Puts a message into its mailbox, or on its way to the shard where that is.
    fn deliver(
        &self,
        receiver: &mut Receiver,
        header: &FrameHeader,
        key: KeyText<'_>,
        arrival: Arrival,
        message: &'static InboundMessage,
        mut envelope: Envelope,
    ) -> Result<(), ReplyStatus> {
        let shard = self.shard;
        if receiver.shard != shard.link.shard().get() {
            let key = key.owned(&mut shard.core.borrow_mut());
            return self.hop(receiver, header, &key, arrival, message, envelope);
        }
        let epoch = EpochTag::of(header.group_epoch);
        let mut core = shard.core.borrow_mut();
        let (index, generation) = core.locate(receiver, &key, epoch).map_err(status_of)?;
        if let Err(reason) = core.admit(index, generation, epoch) {
            drop(core);
            let admitted = shard.admit_envelope((index, generation), reason, &mut envelope);
            core = shard.core.borrow_mut();
            if let Err(reason) = admitted {
                core.runs_short((index, generation), reason);
                receiver.refused = (index, generation);
                return Err(status_of(reason));
            }
        }
        envelope.index = index;
        envelope.generation = generation;
        let meta = match arrival.ask {
            None => Meta::Sender(PackedAddress::node(arrival.peer)),
            Some(correlation) => {
                drop(core);
                let slot = (message.open_slot)(shard, self.ask(header, arrival, correlation));
                core = shard.core.borrow_mut();
                Meta::Reply(slot.map_err(|_| {
                    core.forgo((index, generation), envelope.weight());
                    ReplyStatus::Full
                })?)
            }
        };
        envelope.set_meta(meta);
        core.enqueue_with(index, || envelope);
        Ok(())
    }

    fn ask(&self, header: &FrameHeader, arrival: Arrival, correlation: u64) -> RemoteAsk {
        RemoteAsk {
            peer: arrival.peer,
            correlation,
            group: header.group,
            epoch: header.group_epoch,
            deadline_ns: match arrival.ttl_ns {
                0 => u64::MAX,
                ttl_ns => self.shard.core.borrow().now_ns.saturating_add(ttl_ns),
            },
        }
    }

    /// Reserves the place of an answer from another shard, if the question finds room on its way there: one that is refused
    /// behind the reservation is never answered from there, and its place would not come back.
    fn reserve(&self, to: u16) -> bool {
        let mut core = self.shard.core.borrow_mut();
        core.mesh.has_room(to) && core.mesh.reserve_ask(to)
    }

    /// The actor lives on another shard of this node.
    fn hop(
        &self,
        receiver: &Receiver,
        header: &FrameHeader,
        key: &Key,
        arrival: Arrival,
        message: &'static InboundMessage,
        mut envelope: Envelope,
    ) -> Result<(), ReplyStatus> {
        let shard = self.shard;
        let mut context = ContextBlock { origin: Some(arrival.peer), ..ContextBlock::new() };
        if let Some(correlation) = arrival.ask {
            if !self.reserve(receiver.shard) {
                return Err(ReplyStatus::Full);
            }
            let ask = self.ask(header, arrival, correlation);
            context.deadline_ns = if arrival.ttl_ns == 0 { 0 } else { ask.deadline_ns };
            let slot = (message.open_slot)(shard, ask).map_err(|_| {
                shard.core.borrow_mut().mesh.cancel_ask(receiver.shard);
                ReplyStatus::Full
            });
            context.asker = Asker::Slot(slot?);
        }
        let target = VirtualTarget { position: receiver.position, key: key.clone(), epoch: header.group_epoch };
        context.target = Some(target);
        envelope.set_meta(Meta::Context(Box::new(context)));
        shard.push_or_bury(receiver.shard, envelope);
        Ok(())
    }

    /// Answers a refused ask, bounces a refused tell; names the receiver in `cell` if that had no room.
    fn refuse(&mut self, arrival: Arrival, header: &FrameHeader, cell: (u32, u32), status: ReplyStatus) {
        let engine = self.shard.link.engine();
        engine.dead_letters.record(DeadLetter {
            receiver: None,
            receiver_type: None,
            sender: None,
            message: MessageName::Id(header.message_id),
            reason: Reason::from_status(status),
        });
        let kind = if arrival.ask.is_some() { FrameKind::Reply } else { FrameKind::Bounce };
        let answer = FrameHeader {
            status,
            message_id: header.message_id,
            message_version: header.message_version,
            group: header.group,
            group_epoch: engine.placement.epoch(header.group),
            correlation: arrival.ask.unwrap_or(0),
            shard: self.shard.link.shard(),
            ..FrameHeader::new(kind)
        };
        let named = if status == ReplyStatus::Full { self.shard.name_to(arrival.peer, cell) } else { None };
        let out = outbound::refusal(answer, named.as_ref().map(|(actor_type, key)| (*actor_type, key)));
        // A session that is gone has told the sender already.
        let _ = outbound::send(self.shard, arrival.peer, Lane::Control, &out);
    }
}

impl ShardCell {
    /// The virtual actor in a cell that has no room, to be named to a peer that is then owed word of room; `None` if it cannot
    /// be, or was not full.
    pub(crate) fn name_to(&self, peer: NodeId, cell: (u32, u32)) -> Option<(ActorTypeId, Key)> {
        let mut core = self.core.borrow_mut();
        let full = core.cells.get(cell.0, cell.1).filter(|full| full.short)?;
        let (position, key) = full.extra.as_ref()?.identity.clone()?;
        let actor_type = self.link.engine().registry.types[position].id;
        core.owed_room.note(cell, peer, actor_type, &key).then_some((actor_type, key))
    }
}

/// Where the text of a key is.
#[derive(Clone, Copy)]
enum KeyText<'a> {
    Borrowed(&'a str),
    Known(&'a Key),
    Route(Source, Lane, usize),
}

impl KeyText<'_> {
    /// The key as one that can be kept.
    fn owned(&self, core: &mut ShardCore) -> Key {
        match *self {
            Self::Borrowed(text) => Key::from(text),
            Self::Known(key) => key.clone(),
            Self::Route(from, lane, number) => {
                let routes = core.routes.from(from, lane).expect("the message came by this route");
                routes[number].key.clone()
            }
        }
    }
}

impl ShardCore {
    /// The cell of a receiver on this shard, activated if it sleeps.
    fn locate(&mut self, receiver: &mut Receiver, key: &KeyText<'_>, epoch: EpochTag) -> Result<(u32, u32), Rejected> {
        let (index, generation) = receiver.cell;
        // A generation is one activation, and one that lives is in the directory.
        if generation != 0 && self.cells.get(index, generation).is_some_and(|cell| cell.admits()) {
            return Ok(receiver.cell);
        }
        if let KeyText::Borrowed(text) = key
            && let Some((index, generation)) = self.directory.get(receiver.position, text)
            && self.cells.get(index, generation).is_some_and(|cell| cell.admits())
        {
            return Ok((index, generation));
        }
        let key = key.owned(self);
        receiver.cell = self.activate_virtual(receiver.position, &key, epoch)?;
        Ok(receiver.cell)
    }

    /// A message from another node was refused; if that is for want of room, senders of this node learn of it too.
    fn runs_short(&mut self, cell: (u32, u32), reason: Rejected) {
        if reason == Rejected::Full {
            self.mark_short(cell.0, cell.1);
        }
    }
}

/// How a refusal travels.
pub(crate) fn status_of(reason: Rejected) -> ReplyStatus {
    match reason {
        Rejected::Full => ReplyStatus::Full,
        Rejected::Closed => ReplyStatus::Closed,
        Rejected::Expired => ReplyStatus::Expired,
        Rejected::NoHandler => ReplyStatus::NoHandler,
        Rejected::Unavailable | Rejected::TooLarge => ReplyStatus::Unavailable,
    }
}
