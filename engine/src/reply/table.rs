//! The reply table of one shard: a slab of slots with one common deadline sweep instead of a timer per ask.
//!
//! Invariant: a slot is free, waiting or ready; its generation rises when it is freed, and a slot whose generation would
//! wrap is retired, so an old address never matches a new ask. Generations begin somewhere else in each table, so that hardly
//! an address of a table before a restart, which other nodes may still hold, matches either.

use std::task::Waker;

use shardstage_codec::{GroupId, NodeId};

use super::{Callback, Relayed, ReplyAddress, ReplyOps};
use crate::envelope::{GENERATION_MAX, PackedAddress, VTable};
use crate::erased::Erased;
use crate::error::Rejected;

const NONE: u32 = u32::MAX;

/// What happens when the answer is there.
pub(crate) enum Waiter {
    /// `cx.ask(..).then(..)`: a turn of the asking actor. The closure is in the slot.
    Then { deliver: &'static VTable, index: u32, generation: u32 },
    /// A future polled on this shard, in a turn of `owner`.
    Task { waker: Option<Waker>, owner: Option<PackedAddress> },
    /// A thread or task outside the shards; its `Arc<ForeignReply<R>>` is the slot's closure.
    Foreign,
    /// Another node; its `RemoteAsker<R>` is the slot's closure.
    Remote(NodeId),
    /// An asker that another shard speaks for.
    Relay(Relayed),
    /// A function of the engine's, called with the slot's closure and the answer.
    Call { call: Callback },
}

const _: () = assert!(size_of::<Waiter>() == 32);

/// One outstanding ask. What an ask within a shard touches stands first.
#[repr(C, align(64))]
pub(crate) struct ReplySlot {
    generation: u32,
    live: bool,
    ready: bool,
    /// Incarnation of the asking actor, so that a rebuilt one does not get its predecessor's answers.
    pub(crate) incarnation: u16,
    pub(crate) deadline_ns: u64,
    pub(crate) waiter: Waiter,
    /// The group of a virtual target, for the epoch check.
    pub(crate) group: Option<GroupId>,
    next_free: u32,
    pub(crate) closure: Option<Erased>,
    pub(crate) ops: ReplyOps,
    /// The answer for a task; an answer for a `then` travels in its message.
    pub(crate) value: Option<Erased>,
    /// The peer that will answer, if it is another node.
    pub(crate) peer: Option<NodeId>,
}

/// What a new slot starts with.
pub(crate) struct NewSlot {
    pub(crate) deadline_ns: u64,
    pub(crate) ops: ReplyOps,
    pub(crate) waiter: Waiter,
    pub(crate) closure: Option<Erased>,
    pub(crate) peer: Option<NodeId>,
    pub(crate) group: Option<GroupId>,
    pub(crate) incarnation: u16,
}

/// What a slot of `cx.ask(..).then(..)` is made of.
pub(crate) struct Then<F> {
    pub(crate) deadline_ns: u64,
    pub(crate) ops: ReplyOps,
    pub(crate) deliver: &'static VTable,
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) incarnation: u16,
    pub(crate) closure: F,
}

impl ReplySlot {
    #[inline(always)]
    pub(crate) fn set_ready(&mut self) {
        debug_assert!(self.live && !self.ready);
        self.ready = true;
    }
}

/// What a freed slot held. Dropped outside the shard's borrow, since it may hold user values.
pub(crate) struct Taken {
    closure: Option<Erased>,
    value: Option<Erased>,
    pub(crate) incarnation: u16,
    /// A task that waited, which is not woken any more.
    _waker: Option<Waker>,
}

impl Taken {
    pub(crate) fn into_closure(self) -> Erased {
        self.closure.expect("made with a closure")
    }

    /// The closure and the value of a ready slot.
    #[inline]
    pub(crate) fn into_parts(self) -> (Option<Erased>, Erased) {
        (self.closure, self.value.expect("ready slots have a value"))
    }
}

/// All outstanding asks whose answer comes to this shard.
pub(crate) struct ReplyTable {
    shard: u16,
    /// The generation of a slot that was never used.
    first_generation: u32,
    slots: Vec<ReplySlot>,
    free: u32,
    live: u32,
    /// Actors that have gone or were rebuilt since the table was last swept.
    gone: u32,
    /// The earliest deadline of a waiting slot, or later; `u64::MAX` when none waits.
    next_deadline_ns: u64,
}

impl ReplyTable {
    /// A table whose generations begin at a place that `random` says, in the lower half: the upper one is left to each slot.
    pub(crate) fn new(shard: u16, random: u64) -> Self {
        let first = 1 + random % u64::from(GENERATION_MAX / 2);
        let first_generation = u32::try_from(first).expect("below the largest generation");
        Self { shard, first_generation, slots: Vec::new(), free: NONE, live: 0, gone: 0, next_deadline_ns: u64::MAX }
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        (self.next_deadline_ns != u64::MAX).then_some(self.next_deadline_ns)
    }

    /// Actors whose `then` waits, in no order.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u32, u32)> {
        self.slots.iter().filter(|slot| slot.live).filter_map(|slot| match slot.waiter {
            Waiter::Then { index, generation, .. } => Some((index, generation)),
            _ => None,
        })
    }

    /// How many asks are outstanding.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Opens a slot; it comes back when the table is at its limit.
    pub(crate) fn insert(&mut self, new: NewSlot) -> Result<ReplyAddress, (Rejected, NewSlot)> {
        if self.free == NONE && self.slots.len() >= crate::limits::ASKS_PER_SHARD as usize {
            return Err((Rejected::Full, new));
        }
        self.next_deadline_ns = self.next_deadline_ns.min(new.deadline_ns);
        let NewSlot { deadline_ns, ops, waiter, closure, peer, group, incarnation } = new;
        let index = if self.free != NONE {
            let index = self.free;
            let slot = &mut self.slots[index as usize];
            self.free = slot.next_free;
            let generation = slot.generation;
            *slot = ReplySlot {
                generation,
                live: true,
                ready: false,
                next_free: NONE,
                deadline_ns,
                ops,
                waiter,
                peer,
                group,
                incarnation,
                closure,
                value: None,
            };
            index
        } else {
            let index = u32::try_from(self.slots.len()).expect("bounded above");
            self.slots.push(ReplySlot {
                generation: self.first_generation,
                live: true,
                ready: false,
                next_free: NONE,
                deadline_ns,
                ops,
                waiter,
                peer,
                group,
                incarnation,
                closure,
                value: None,
            });
            index
        };
        self.live += 1;
        Ok(ReplyAddress(PackedAddress::new(self.shard, index, self.slots[index as usize].generation)))
    }

    fn get(&mut self, address: ReplyAddress) -> Option<&mut ReplySlot> {
        debug_assert_eq!(address.0.shard(), self.shard);
        let slot = self.slots.get_mut(address.0.index() as usize)?;
        (slot.live && slot.generation == address.0.generation()).then_some(slot)
    }

    /// The slot, if it still waits.
    pub(crate) fn waiting(&mut self, address: ReplyAddress) -> Option<&mut ReplySlot> {
        self.get(address).filter(|slot| !slot.ready)
    }

    /// The slot, if it still waits, and for this peer.
    pub(crate) fn waiting_for(&mut self, address: ReplyAddress, peer: NodeId) -> Option<&mut ReplySlot> {
        self.waiting(address).filter(|slot| slot.peer == Some(peer))
    }

    /// Whether the slot is in use: it waits, or its answer has not been handled.
    pub(crate) fn is_open(&self, address: ReplyAddress) -> bool {
        let slot = self.slots.get(address.0.index() as usize);
        slot.is_some_and(|slot| slot.live && slot.generation == address.0.generation())
    }

    /// The deadline of a waiting slot.
    pub(crate) fn deadline_ns(&mut self, address: ReplyAddress) -> Option<u64> {
        self.waiting(address).map(|slot| slot.deadline_ns)
    }

    /// Updates the waker of a task's slot, or takes what it holds when it is ready.
    pub(crate) fn poll_task(&mut self, address: ReplyAddress, waker: &Waker) -> Option<Taken> {
        let slot = self.get(address).expect("a task's slot is freed by its future only");
        if slot.ready {
            return Some(self.free(address));
        }
        match &mut slot.waiter {
            Waiter::Task { waker: Some(old), .. } if old.will_wake(waker) => {}
            Waiter::Task { waker: old, .. } => *old = Some(waker.clone()),
            _ => unreachable!("a task's slot waits for a task"),
        }
        None
    }

    /// Whether a freed slot is at hand.
    #[inline]
    pub(crate) fn has_free(&self) -> bool {
        self.free != NONE
    }

    /// Opens a freed slot for a `then` in place: the hot path of asks within a shard.
    ///
    /// # Panics
    /// Without a freed slot; see [`has_free`](Self::has_free).
    #[inline(always)]
    pub(crate) fn open_then<F: 'static>(&mut self, then: Then<F>) -> ReplyAddress {
        let index = self.free;
        self.next_deadline_ns = self.next_deadline_ns.min(then.deadline_ns);
        self.live += 1;
        let slot = &mut self.slots[index as usize];
        self.free = slot.next_free;
        slot.live = true;
        slot.deadline_ns = then.deadline_ns;
        slot.ops = then.ops;
        slot.waiter = Waiter::Then { deliver: then.deliver, index: then.index, generation: then.generation };
        slot.peer = None;
        slot.group = None;
        slot.incarnation = then.incarnation;
        slot.closure = Some(Erased::new(then.closure));
        ReplyAddress(PackedAddress::new(self.shard, index, slot.generation))
    }

    /// A ready slot, whose content the caller takes before it [`release`](Self::release)s the slot.
    #[inline(always)]
    pub(crate) fn ready(&mut self, address: ReplyAddress) -> Option<&mut ReplySlot> {
        self.get(address).filter(|slot| slot.ready)
    }

    /// Frees a slot in whatever state and returns what it held. Touches only the fields that matter: slots are large.
    ///
    /// # Panics
    /// When the address does not match a live slot.
    #[inline]
    pub(crate) fn free(&mut self, address: ReplyAddress) -> Taken {
        let slot = self.get(address).expect("the caller checked the address");
        let taken = Taken {
            closure: slot.closure.take(),
            value: slot.value.take(),
            incarnation: slot.incarnation,
            _waker: if let Waiter::Task { waker, .. } = &mut slot.waiter { waker.take() } else { None },
        };
        self.release(address);
        taken
    }

    /// Gives an emptied slot back.
    #[inline]
    pub(crate) fn release(&mut self, address: ReplyAddress) {
        let free = self.free;
        let slot = self.get(address).expect("the caller checked the address");
        slot.live = false;
        slot.ready = false;
        let retired = slot.generation == GENERATION_MAX;
        if !retired {
            slot.generation += 1;
            slot.next_free = free;
            self.free = address.0.index();
        }
        self.live -= 1;
    }

    /// Frees a waiting slot whose message was not sent, and returns what it was made of.
    pub(crate) fn unsend(&mut self, address: ReplyAddress) -> NewSlot {
        let slot = self.get(address).expect("just inserted");
        let waiter = std::mem::replace(&mut slot.waiter, Waiter::Foreign);
        let (deadline_ns, ops, peer, group) = (slot.deadline_ns, slot.ops, slot.peer, slot.group);
        let Taken { closure, incarnation, .. } = self.free(address);
        NewSlot { deadline_ns, ops, waiter, closure, peer, group, incarnation }
    }

    /// Frees a slot if it is still there (a dropped future).
    pub(crate) fn cancel(&mut self, address: ReplyAddress) -> Option<Taken> {
        self.get(address)?;
        Some(self.free(address))
    }

    /// Collects the waiting slots whose deadline has passed. Costs nothing until the earliest deadline, then one pass.
    pub(crate) fn expired(&mut self, now_ns: u64, out: &mut Vec<ReplyAddress>) {
        if now_ns < self.next_deadline_ns {
            return;
        }
        let mut next = u64::MAX;
        for (index, slot) in (0_u32..).zip(&self.slots) {
            if slot.live && !slot.ready {
                if slot.deadline_ns <= now_ns {
                    out.push(ReplyAddress(PackedAddress::new(self.shard, index, slot.generation)));
                } else {
                    next = next.min(slot.deadline_ns);
                }
            }
        }
        self.next_deadline_ns = next;
    }

    /// How many slots there are, used or not.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The slot at this place, if it waits: its address, who waits, and who will answer if that is another node.
    pub(crate) fn waiting_at(&self, index: usize) -> Option<(ReplyAddress, &Waiter, Option<NodeId>)> {
        let slot = self.slots.get(index).filter(|slot| slot.live && !slot.ready)?;
        let index = u32::try_from(index).expect("bounded by `insert`");
        Some((ReplyAddress(PackedAddress::new(self.shard, index, slot.generation)), &slot.waiter, slot.peer))
    }

    /// An actor has gone or was rebuilt: nobody waits for what it asked.
    #[inline]
    pub(crate) fn owner_has_gone(&mut self) {
        self.gone += u32::from(self.live > 0);
    }

    /// Collects the `then`s of actors that have gone or were rebuilt, given who lives in which incarnation. Looks at every slot,
    /// so it does so when the shard has nothing better to do, or when so many have gone that each pays for a few slots.
    pub(crate) fn ownerless(
        &mut self,
        idle: bool,
        mut lives: impl FnMut(u32, u32) -> Option<u16>,
        out: &mut Vec<ReplyAddress>,
    ) {
        if self.gone == 0 || !(idle || self.gone as usize >= self.slots.len() / 4) {
            return;
        }
        self.gone = 0;
        for (number, slot) in (0_u32..).zip(&self.slots) {
            if let Waiter::Then { index, generation, .. } = slot.waiter
                && slot.live
                && !slot.ready
                && lives(index, generation) != Some(slot.incarnation)
            {
                out.push(ReplyAddress(PackedAddress::new(self.shard, number, slot.generation)));
            }
        }
    }

    /// Collects the waiting slots whose answer goes to the given peer.
    pub(crate) fn asked_by(&self, peer: NodeId, out: &mut Vec<ReplyAddress>) {
        for (index, slot) in (0_u32..).zip(&self.slots) {
            if slot.live && !slot.ready && matches!(slot.waiter, Waiter::Remote(asker) if asker == peer) {
                out.push(ReplyAddress(PackedAddress::new(self.shard, index, slot.generation)));
            }
        }
    }

    /// Collects the waiting slots that the given peer should answer.
    pub(crate) fn of_peer(&self, peer: NodeId, out: &mut Vec<ReplyAddress>) {
        for (index, slot) in (0_u32..).zip(&self.slots) {
            if slot.live && !slot.ready && slot.peer == Some(peer) {
                out.push(ReplyAddress(PackedAddress::new(self.shard, index, slot.generation)));
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
