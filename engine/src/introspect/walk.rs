//! One shard describes its actors, slice by slice.
//!
//! Each slice is a request to the shard that looks at a bounded number of cells and messages and then puts itself back, so
//! that turns go on between two of them. A walk whose asker has given up ends with its next slice. Invariant: changes nothing, runs no code of users, and holds at most twice as many
//! descriptions as were asked for. Shard thread only.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use shardstage_codec::NodeId;

use super::snapshot::{ActorInfo, ActorState, Asker, ShardQueues, TypeInfo};
use super::{Order, Plan};
use crate::actor_ref::ActorId;
use crate::context_block;
use crate::envelope::{Envelope, Meta, PackedAddress};
use crate::latch::LatchGuard;
use crate::limits::{INTROSPECT_CHILDREN, INTROSPECT_MESSAGES, INTROSPECT_SLICE, INTROSPECT_WAITS};
use crate::reply::{ReplyAddress, Waiter};
use crate::shard::{Cell, Life, ShardCell, ShardCore};

/// Who has a message whose answer goes to a reply slot somewhere.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) slot: PackedAddress,
    pub(crate) asked: ActorId,
    pub(crate) asked_type: &'static str,
    pub(crate) message: &'static str,
    pub(crate) begun: bool,
}

/// Who waits at a reply slot of this shard.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) slot: PackedAddress,
    pub(crate) asker: Asker,
    pub(crate) asker_type: Option<&'static str>,
    pub(crate) blocked: bool,
    pub(crate) asked_node: Option<NodeId>,
}

/// What one shard says.
#[derive(Clone, Default)]
pub(crate) struct Part {
    /// With the number by which they are ordered, the highest first; the same for all if by place.
    pub(crate) actors: Vec<(u64, ActorInfo)>,
    pub(crate) matching: u64,
    pub(crate) types: BTreeMap<&'static str, TypeInfo>,
    pub(crate) queues: ShardQueues,
    pub(crate) holders: Vec<Holder>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) waits_cut: bool,
}

/// A walk through one shard, between two slices.
pub(crate) struct Walk {
    plan: Arc<Plan>,
    done: LatchGuard<Option<Arc<Part>>>,
    part: Part,
    /// The next cell.
    cell: u32,
    /// The next reply slot, once all cells were looked at.
    slot: usize,
    /// What does not come above this is not described.
    floor: u64,
    /// Which suspended actor a waker wakes.
    wakers: BTreeMap<usize, (ActorId, &'static str)>,
}

impl Walk {
    /// Begins a walk through the shard behind `link`.
    pub(crate) fn begin(link: &'static crate::link::ShardLink, plan: Arc<Plan>, done: LatchGuard<Option<Arc<Part>>>) {
        let (part, wakers) = (Part::default(), BTreeMap::new());
        let walk = Box::new(Self { plan, done, part, cell: 0, slot: 0, floor: 0, wakers });
        link.run(Box::new(move |shard| walk.step(shard)));
    }

    fn step(mut self: Box<Self>, shard: &ShardCell) {
        if !self.done.is_awaited() {
            return;
        }
        let goes_on = {
            let mut core = shard.core.borrow_mut();
            (self.plan.actors && self.look_at_cells(&mut core).is_break())
                || (self.plan.waits && self.look_at_slots(&mut core).is_break())
                || self.look_at_queues(&mut core)
        };
        if goes_on {
            return shard.link.run(Box::new(move |shard| self.step(shard)));
        }
        let Self { plan, done, mut part, .. } = *self;
        plan.order.cut(&mut part.actors, plan.top);
        done.set(Some(Arc::new(part)));
    }

    /// Looks at the next cells; breaks when the slice is over and some are left.
    fn look_at_cells(&mut self, core: &mut ShardCore) -> ControlFlow<()> {
        let mut left = INTROSPECT_SLICE;
        while self.cell < core.cells.end() {
            if left == 0 {
                return ControlFlow::Break(());
            }
            let (index, link, now_ns) = (self.cell, core.link, core.now_ns);
            self.cell += 1;
            left -= 1;
            let Some(cell) = core.cells.slot(index).filter(|cell| cell.conduct.life != Life::Free) else { continue };
            let id = ActorId::new(link, index, cell.generation);
            let actor = cell.actor_name();
            if self.plan.waits {
                left = left.saturating_sub(self.look_into(id, actor, cell));
            }
            let is_described = self.describe(id, actor, cell, now_ns);
            if is_described {
                left = left.saturating_sub(self.add_kin(core, index));
            }
        }
        ControlFlow::Continue(())
    }

    /// Counts an actor, and describes it if it is among those asked for.
    fn describe(&mut self, id: ActorId, actor: &'static str, cell: &Cell, now_ns: u64) -> bool {
        let kind =
            self.part.types.entry(actor).or_insert(TypeInfo { actor, actors: 0, queued: 0, deepest: 0, suspended: 0 });
        kind.actors += 1;
        kind.queued += u64::from(cell.len());
        kind.deepest = kind.deepest.max(cell.len());
        kind.suspended += u64::from(cell.conduct.suspended);
        if !self.plan.takes(id, actor) {
            return false;
        }
        self.part.matching += 1;
        let order = self.plan.order;
        let rank = order.rank(cell, now_ns);
        let by_place = order == Order::Place;
        if self.plan.comes_before(id)
            || (by_place && self.part.actors.len() >= self.plan.top)
            || (!by_place && rank < self.floor)
        {
            return false;
        }
        if self.part.actors.len() >= 2 * self.plan.top.max(1) {
            self.floor = order.cut(&mut self.part.actors, self.plan.top);
        }
        self.part.actors.push((rank, info(id, actor, cell, now_ns)));
        true
    }

    /// Adds parent and children to the actor described last; returns how many children there were to count.
    fn add_kin(&mut self, core: &mut ShardCore, index: u32) -> u32 {
        let children = core.cells.kin.children(index).zip(1..=INTROSPECT_CHILDREN).last().map_or(0, |(_, count)| count);
        let parent = core.cells.kin.parent(index);
        let parent = parent.and_then(|parent| Some((parent, core.cells.slot(parent)?.generation)));
        let Some((_, described)) = self.part.actors.last_mut() else { return 0 };
        described.children = children;
        described.parent = parent.map(|(index, generation)| ActorId::new(core.link, index, generation));
        children
    }

    /// Looks for asks in an actor's mailbox and handler; returns at how many messages it looked.
    fn look_into(&mut self, asked: ActorId, asked_type: &'static str, cell: &mut Cell) -> u32 {
        let part = &mut self.part;
        let mut add = |slot: ReplyAddress, message, begun| {
            if part.holders.len() < INTROSPECT_WAITS {
                part.holders.push(Holder { slot: slot.0, asked, asked_type, message, begun });
            } else {
                part.waits_cut = true;
            }
        };
        if let Some(extra) = cell.extra.as_ref().filter(|_| cell.conduct.suspended) {
            if let (Some(slot), Some(message)) = (extra.answering.address(), extra.midway.message) {
                add(slot, message(), true);
            }
            if let Some(waker) = extra.async_slot.waker_data()
                && self.wakers.len() < INTROSPECT_WAITS
            {
                self.wakers.insert(waker.addr(), (asked, asked_type));
            }
        }
        let mut seen = 0;
        cell.mailbox.find(|envelope| {
            if let Some(slot) = asker(envelope) {
                add(slot, (envelope.vtable().message_name)(), false);
            }
            seen += 1;
            seen == INTROSPECT_MESSAGES
        });
        seen
    }

    /// Looks at the next reply slots; breaks when the slice is over and some are left.
    fn look_at_slots(&mut self, core: &mut ShardCore) -> ControlFlow<()> {
        let slice = self.slot..core.replies.slots().min(self.slot + INTROSPECT_SLICE as usize);
        self.slot = slice.end;
        let ShardCore { replies, cells, link, .. } = core;
        for index in slice {
            let Some((slot, waiter, asked_node)) = replies.waiting_at(index) else { continue };
            let (asker, blocked) = match waiter {
                Waiter::Then { index, generation, .. } => {
                    let cell = cells.get(*index, *generation);
                    let blocked = cell.as_ref().is_some_and(|cell| cell.is_held());
                    let name = cell.and_then(|cell| cell.state.as_ref()).map(crate::shard::ActorBox::actor_name);
                    (Some((ActorId::new(link, *index, *generation), name)), blocked)
                }
                Waiter::Task { waker, .. } => {
                    let waker = waker.as_ref().map(|waker| waker.data().addr());
                    let known = waker.and_then(|waker| self.wakers.get(&waker));
                    (known.map(|(id, name)| (*id, Some(*name))), true)
                }
                Waiter::Foreign => (None, true),
                Waiter::Remote(_) | Waiter::Call { .. } | Waiter::Relay(_) => (None, false),
            };
            let (asker, asker_type) = match (asker, waiter) {
                (Some((id, name)), _) => (Asker::Actor(id), name),
                (None, Waiter::Remote(_)) => (Asker::OtherNode, None),
                (None, _) => (Asker::Outside, None),
            };
            if self.part.waiting.len() < INTROSPECT_WAITS {
                self.part.waiting.push(Waiting { slot: slot.0, asker, asker_type, blocked, asked_node });
            } else {
                self.part.waits_cut = true;
            }
        }
        if self.slot < replies.slots() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The last step; there is no other.
    fn look_at_queues(&mut self, core: &mut ShardCore) -> bool {
        self.part.queues = ShardQueues { ready_actors: core.run_queue.len() as u64, in_rings: core.mesh.waiting() };
        false
    }
}

/// Where a message's answer goes, if a reply slot waits for one. The message stays as it is.
fn asker(envelope: &mut Envelope) -> Option<ReplyAddress> {
    let meta = envelope.take_meta();
    let slot = match &meta {
        Meta::Reply(slot) => Some(*slot),
        Meta::Context(context) => match &context.asker {
            context_block::Asker::Slot(slot) => Some(*slot),
            context_block::Asker::InRequest(_, slot) => *slot,
            context_block::Asker::None
            | context_block::Asker::Foreign(_)
            | context_block::Asker::ForeignInRequest(_) => None,
        },
        Meta::None | Meta::Sender(_) | Meta::Signal => None,
    };
    envelope.set_meta(meta);
    slot
}

fn state(cell: &Cell) -> ActorState {
    match cell.conduct.life {
        Life::Free | Life::New => ActorState::Starting,
        Life::Draining => ActorState::Draining,
        Life::Stopping => ActorState::Stopping,
        Life::Live if cell.conduct.suspended => ActorState::Suspended,
        Life::Live if cell.scheduled => ActorState::Ready,
        Life::Live => ActorState::Idle,
    }
}

/// For how long an actor has been suspended, ns.
fn suspended_ns(cell: &Cell, now_ns: u64) -> Option<u64> {
    let extra = cell.extra.as_ref().filter(|_| cell.conduct.suspended)?;
    Some(now_ns.saturating_sub(extra.midway.since_ns))
}

fn info(id: ActorId, actor: &'static str, cell: &Cell, now_ns: u64) -> ActorInfo {
    let extra = cell.extra.as_ref();
    let room = cell.room();
    ActorInfo {
        id,
        actor,
        key: extra.and_then(|extra| extra.identity.as_ref().map(|(_, key)| key.clone())),
        names: extra.map_or_else(Vec::new, |extra| extra.names.clone()),
        parent: None,
        children: 0,
        state: state(cell),
        queued: cell.len(),
        capacity: room.capacity + room.out,
        queued_bytes: cell.bytes().map_or(0, |(used, _)| used),
        capacity_bytes: cell.bytes().map(|(_, limit)| limit),
        stashed: u32::try_from(cell.stashed()).unwrap_or(u32::MAX),
        message: extra.filter(|_| cell.conduct.suspended).and_then(|extra| extra.midway.message).map(|name| name()),
        suspended_for: suspended_ns(cell, now_ns).map(Duration::from_nanos),
        rebuilds: u32::from(cell.incarnation),
        watchers: extra.map_or(0, |extra| {
            u32::try_from(extra.bonds.as_ref().map_or(0, |bonds| bonds.watchers.len())).unwrap_or(u32::MAX)
        }),
    }
}

impl Order {
    /// By what an actor is ordered: the highest first.
    fn rank(self, cell: &Cell, now_ns: u64) -> u64 {
        match self {
            Self::Place => 0,
            Self::Queued => u64::from(cell.len()),
            Self::Suspended => suspended_ns(cell, now_ns).map_or(0, |ns| ns + 1),
            Self::Rebuilds => u64::from(cell.incarnation),
        }
    }

    /// Keeps the first `top`; returns the rank of the last of them.
    pub(crate) fn cut(self, actors: &mut Vec<(u64, ActorInfo)>, top: usize) -> u64 {
        if self != Self::Place {
            actors.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        }
        actors.truncate(top);
        actors.last().map_or(0, |(rank, _)| *rank)
    }
}
