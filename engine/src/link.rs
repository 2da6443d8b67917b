//! `ShardLink`: what every thread may know of a shard. References point to it, so it outlives the engine.
//!
//! Invariant: a link is leaked (a few hundred bytes per shard and engine) and never freed, so a reference needs no count; the
//! queues behind it go away with the engine, after which every send is `Closed`.

use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::queue::{ArrayQueue, SegQueue};
use shardstage_codec::ShardId;

use crate::blame::Blame;
use crate::context_block::ContextPool;
use crate::credit::{Credit, CreditKey, CreditTable};
use crate::dead_letter::Reason;
use crate::engine_link::EngineLink;
use crate::envelope::Envelope;
use crate::error::{Rejected, SpawnError};
use crate::gate::Gate;
use crate::limits::{CELLS_SKIPPED, INJECTOR_SLOTS, PASSED_ON_BYTES, PASSED_ON_OVERHEAD};
use crate::parked::{self, Parked};
use crate::port::driver::Wake;
use crate::port::frame::SharedBytes;
use crate::shard::{CELLS_MAX, ShardCell, drop_contained, foreign_index};
use crate::stats::ShardCounters;
use crate::sync::{AtomicBool, Ordering};
use crate::waiting::Waiters;
use crate::waker::{Sleeper, WakeList};

/// A request to a shard that is not a message: run on its thread, in order, before messages.
pub(crate) type SystemOp = Box<dyn FnOnce(&ShardCell) + Send>;

/// The queues into a shard from threads outside it.
pub(crate) struct Queues {
    pub(crate) user: ArrayQueue<Envelope>,
    /// Unbounded, but each entry stands for something bounded: a spawn, a stop, a wake-up, an answer (`pass_on`).
    pub(crate) system: SegQueue<SystemOp>,
    /// Cell indices given back by actors that threads outside the shard had spawned.
    free: SegQueue<(u32, u32)>,
    waker: Arc<dyn Wake>,
}

/// See the module's head.
pub(crate) struct ShardLink {
    shard: ShardId,
    engine: OnceLock<&'static EngineLink>,
    queues: Gate<Arc<Queues>>,
    parked: Parked,
    /// Cleared when a shutdown begins: threads outside are refused, the shards drain.
    accepting: AtomicBool,
    /// Set when the shard's last actor is gone for good.
    closing: AtomicBool,
    /// The next cell that no thread outside the shard has used yet.
    next_cell: AtomicU32,
    pub(crate) credit: CreditTable,
    pub(crate) contexts: ContextPool,
    /// Senders that wait for room in mailboxes of this shard.
    pub(crate) waiting: Waiters,
    /// Suspended actors of this shard that other threads have woken.
    pub(crate) wakes: WakeList<Sleeper>,
    pub(crate) counters: ShardCounters,
    pub(crate) blame: Blame,
    /// Bytes of answers from other nodes that another shard has passed on, and that wait here.
    answers_bytes: AtomicUsize,
}

impl ShardLink {
    pub(crate) fn new(shard: ShardId, long_turn: Option<Duration>) -> Self {
        Self {
            shard,
            engine: OnceLock::new(),
            queues: Gate::new(),
            parked: Parked::new(),
            accepting: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            next_cell: AtomicU32::new(CELLS_SKIPPED),
            credit: CreditTable::new(),
            contexts: ContextPool::new(),
            waiting: Waiters::default(),
            wakes: WakeList::new(),
            counters: ShardCounters::default(),
            blame: Blame::new(long_turn),
            answers_bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set_engine(&self, engine: &'static EngineLink) {
        assert!(self.engine.set(engine).is_ok(), "a link belongs to one engine");
    }

    pub(crate) fn engine(&self) -> &'static EngineLink {
        self.engine.get().expect("set before the link is handed out")
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Opens the queues; called on the shard's thread once its driver exists.
    pub(crate) fn open(&self, waker: Arc<dyn Wake>) -> Arc<Queues> {
        let queues = Arc::new(Queues {
            user: ArrayQueue::new(INJECTOR_SLOTS),
            system: SegQueue::new(),
            free: SegQueue::new(),
            waker,
        });
        self.queues.open(Arc::clone(&queues));
        queues
    }

    /// Refuses messages from threads outside from now on.
    pub(crate) fn refuse(&self) {
        self.accepting.store(false, Ordering::Relaxed);
    }

    /// Closes the queues for good; whoever pushes later gets `Closed`. What is still queued is counted and dropped.
    pub(crate) fn close(&self) {
        let queues = self.queues.close();
        self.begin_close();
        let Some(queues) = queues else { return };
        while let Some(envelope) = queues.user.pop() {
            self.engine().dead_letters.count(Reason::Closed);
            drop_contained(envelope);
        }
        while let Some(op) = queues.system.pop() {
            drop_contained(op);
        }
        self.engine().names.forget_shard(self.engine().link(self.shard.get()));
        self.contexts.clear();
        self.wakes.close();
        self.waiting.close();
    }

    /// Says that no actor of this shard will send anything any more. Pair: `is_closing`.
    pub(crate) fn begin_close(&self) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            for link in self.engine().links() {
                link.wake();
            }
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Messages from outside that wait.
    pub(crate) fn injected(&self) -> u64 {
        self.queues.pass(|queues| queues.map_or(0, |queues| queues.user.len() as u64))
    }

    /// Whether messages from outside wait.
    pub(crate) fn has_injected(&self) -> bool {
        self.queues.pass(|queues| queues.is_some_and(|queues| !queues.user.is_empty()))
    }

    /// Takes a token for a message to a receiver of this shard, from any other thread.
    ///
    /// # Errors
    /// `Full` when the receiver is short and has none left. Its shard is told that one was wanted.
    #[inline]
    pub(crate) fn take_credit(&self, key: CreditKey) -> Result<Credit, Rejected> {
        match self.credit.take(key) {
            Credit::Spent(first) => {
                if first {
                    self.wake();
                }
                Err(Rejected::Full)
            }
            credit => Ok(credit),
        }
    }

    /// Hands a message to the shard from a thread outside it.
    pub(crate) fn inject(&self, envelope: Envelope) -> Result<(), (Rejected, Envelope)> {
        if !self.accepting.load(Ordering::Relaxed) {
            return Err((Rejected::Closed, envelope));
        }
        self.queues.pass(|queues| match queues {
            Some(queues) => queues.user.push(envelope).map_err(|envelope| (Rejected::Full, envelope)),
            None => Err((Rejected::Closed, envelope)),
        })?;
        self.wake();
        Ok(())
    }

    /// Runs `op` on the shard's thread; drops it if the engine is gone.
    pub(crate) fn run(&self, op: SystemOp) {
        let refused = self.queues.pass(|queues| match queues {
            Some(queues) => {
                queues.system.push(op);
                None
            }
            None => Some(op),
        });
        // Dropped outside the gate: an answer in it may come this way again.
        if refused.is_none() {
            self.wake();
        }
    }

    /// Runs `finish` on the shard with an answer that came to another one; `false` when as much as [`PASSED_ON_BYTES`] waits there
    /// already. A copy, and an allocation beside it.
    pub(crate) fn pass_on(&self, answer: &[u8], finish: impl FnOnce(&ShardCell, &[u8]) + Send + 'static) -> bool {
        let bytes = answer.len() + PASSED_ON_OVERHEAD;
        // A count alone: what it counts is handed over by the queue.
        if self.answers_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > PASSED_ON_BYTES {
            self.answers_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let copy = SharedBytes::copied(answer);
        self.run(Box::new(move |shard| {
            shard.link.answers_bytes.fetch_sub(bytes, Ordering::Relaxed);
            finish(shard, &copy);
        }));
        true
    }

    /// A cell index for an actor that a thread outside the shard spawns.
    pub(crate) fn take_index(&self) -> Result<(u32, u32), SpawnError> {
        let free = self.queues.pass(|queues| {
            let queues = queues.filter(|_| self.accepting.load(Ordering::Relaxed)).ok_or(SpawnError::Closed)?;
            Ok(queues.free.pop())
        })?;
        if let Some(slot) = free {
            return Ok(slot);
        }
        self.next_cell
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < CELLS_MAX).then_some(next + 1))
            .map(|number| (foreign_index(number), 1))
            .map_err(|_| SpawnError::Exhausted)
    }

    /// Gives an index back after its actor has stopped.
    pub(crate) fn give_back_index(&self, slot: (u32, u32)) {
        self.queues.pass(|queues| queues.map(|queues| queues.free.push(slot)));
    }

    /// Wakes the shard if it is parked. Everything published before the call is seen by the woken shard.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.parked.may_park() {
            parked::order_publication();
            self.wake_ordered();
        }
    }

    /// Whether a sender that has published something must order that and wake the shard.
    #[inline]
    pub(crate) fn may_park(&self) -> bool {
        self.parked.may_park()
    }

    /// Wakes the shard if it is parked; the caller has ordered what it published ([`parked::order_publication`]).
    #[inline]
    pub(crate) fn wake_ordered(&self) {
        if self.parked.claim() {
            self.queues.pass(|queues| queues.map(|queues| queues.waker.wake()));
        }
    }

    /// The shard will spin whenever it is idle. Said before its first turn.
    pub(crate) fn never_parks(&self) {
        self.parked.promise_never();
    }

    /// Announces that the shard is about to park; it must look for work once more before it does.
    pub(crate) fn prepare_park(&self) {
        self.parked.prepare();
    }

    /// Ends what [`prepare_park`](Self::prepare_park) began.
    pub(crate) fn finish_park(&self) {
        self.parked.finish();
    }
}
