//! `Reentrancy`: what an actor lets in while it waits for an answer, and what becomes of a call that comes back to it.
//!
//! ```text
//! setting          while an ask by `then` waits           a call that comes back up the chain
//! Full             everything comes in                    comes in
//! Chain { depth }  calls of the own chain come in         comes in, up to `depth` frames; a deeper one is refused
//! Off              nothing but answers comes in           is refused, with the cycle
//! (async handler)  nothing comes in                       is refused, with the cycle
//! ```
//!
//! An actor with a setting of its own says `woken`, as one with interceptors does: its messages are handed over one at a time
//! (`shard/activate/turns.rs`), in a request that says nothing, so what it asks takes the way of `carried.rs`, where the wait is
//! noted here and the caller goes on the list that travels with the call (`callers.rs`).
//!
//! Invariant: an actor waits exactly as long as a slot of its own that is on its list of waits is open; one of a type that says
//! nothing executes nothing of this. Shard thread only.

mod callers;
mod chase;
mod cycle;

pub(crate) use callers::{Caller, Callers};
pub(crate) use chase::Chase;
pub(crate) use cycle::cycle;

use crate::envelope::CellId;
use crate::limits::CHAIN_DEPTH_MAX;
use crate::reply::{ReplyAddress, ReplyTable};
use crate::request::Request;
use crate::shard::ShardCell;

/// What an actor lets in while an ask of its own, made with [`then`](crate::PendingAsk::then), waits for its answer.
///
/// Said by the type ([`Actor::REENTRANCY`](crate::Actor::REENTRANCY)), or where a virtual type is registered
/// ([`TypeBuilder::reentrancy`](crate::TypeBuilder::reentrancy)). What the engine tells an actor always comes in: answers, ends of
/// watched actors, failures of children. Handlers that are `async` let nothing in while they wait, whatever this says.
///
/// What is held keeps its order and its deadline and counts against the mailbox bound. A call comes back when it was made, by
/// asks alone, for the sake of an answer that the actor waits for, on whichever shard or node; a tell never does, and waits. A
/// panic, a stop and a deadline end the waiting as they end it anywhere else.
///
/// ```
/// use shardstage::prelude::*;
/// use shardstage::Reentrancy;
///
/// /// Moves money by asking others, and must not begin the next transfer before that is done.
/// struct Teller;
/// impl Actor for Teller {
///     const REENTRANCY: Reentrancy = Reentrancy::Off;
/// }
/// ```
///
/// With [`Off`](Self::Off) and [`Chain`](Self::Chain) messages are handed over one at a time, and what the actor sends takes the
/// way of messages that carry a [`Request`](crate::Request): some 100 ns more a message, and one allocation more an ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reentrancy {
    /// Everything: between an ask and its answer the state may change in every way.
    #[default]
    Full,
    /// Only calls that were made for the sake of the answer, so that a chain of calls may come back. One that comes back while
    /// `depth` frames of its chain are open here, the first included, is refused as [`Deadlock`](crate::AskError::Deadlock) with the
    /// chain. 32 is a usual depth; 0 counts as 1, and more than 1,024 as that.
    Chain {
        /// Frames of one chain, at most.
        depth: u16,
    },
    /// Nothing: the next message is handled after the answer. A call that comes back is refused as
    /// [`Deadlock`](crate::AskError::Deadlock) with the cycle.
    Off,
}

impl Reentrancy {
    /// As a number that is 0 for `Full`.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Full => 0,
            Self::Chain { depth: 0 } => 1,
            Self::Chain { depth } if depth > CHAIN_DEPTH_MAX => CHAIN_DEPTH_MAX,
            Self::Chain { depth } => depth,
            Self::Off => u16::MAX,
        }
    }

    /// The setting with this number.
    pub(crate) fn of_code(code: u16) -> Self {
        match code {
            0 => Self::Full,
            u16::MAX => Self::Off,
            depth => Self::Chain { depth },
        }
    }
}

/// An ask that an actor waits for.
pub(crate) struct Wait {
    pub(crate) slot: ReplyAddress,
    /// Which of the actor's waits it is; what travels with the call says it.
    number: u32,
    /// Whom the handler that asked answers.
    pub(crate) answering: Option<ReplyAddress>,
    /// Since when, on the driver's clock.
    since_ns: u64,
}

/// What is known of an actor that does not let everything in.
pub(crate) struct Turns {
    pub(crate) setting: Reentrancy,
    /// What is open while it runs: nobody's request.
    pub(crate) hollow: Request,
    waits: Vec<Wait>,
    /// The number of the wait that begins now; 0 while nothing is asked.
    asking: u32,
    numbers: u32,
    /// Whom the message that is handled is answered to.
    pub(crate) answering: Option<ReplyAddress>,
}

impl Turns {
    pub(crate) fn new(setting: Reentrancy) -> Option<Box<Self>> {
        let turns =
            Self { setting, hollow: Request::hollow(), waits: Vec::new(), asking: 0, numbers: 0, answering: None };
        (setting != Reentrancy::Full).then(|| Box::new(turns))
    }

    /// Whether an answer is waited for.
    pub(crate) fn waits(&self) -> bool {
        !self.waits.is_empty()
    }

    /// The wait for the answer that goes to `slot`.
    pub(crate) fn wait_for(&self, slot: ReplyAddress) -> Option<&Wait> {
        self.waits.iter().find(|wait| wait.slot == slot)
    }

    /// Forgets asks that were given up.
    pub(crate) fn settle(&mut self, replies: &ReplyTable) {
        self.waits.retain(|wait| replies.is_open(wait.slot));
    }

    /// The state that waited is gone.
    pub(crate) fn forget(&mut self) {
        self.waits.clear();
        self.answering = None;
    }

    /// How many frames of the chain that made a call are open here, given this actor's address.
    pub(crate) fn frames(&self, callers: &Callers, here: (u32, u64)) -> usize {
        let is_open = |caller: &&Caller| self.waits.iter().any(|wait| wait.number == caller.wait());
        callers.iter().filter(|caller| caller.place() == here).filter(is_open).count()
    }
}

/// The running actor is about to ask for a `then`: whether a wait begins, because it does not let everything in meanwhile.
pub(crate) fn begin(shard: &ShardCell) -> bool {
    let mut core = shard.core.borrow_mut();
    let Some(me) = core.running else { return false };
    let cell = core.cells.get(me.index(), me.generation());
    let Some(turns) = cell.and_then(|cell| cell.extra.as_mut()?.turns.as_mut()) else { return false };
    // 0 is nobody's.
    turns.numbers = turns.numbers.wrapping_add(1).max(1);
    turns.asking = turns.numbers;
    true
}

/// What was begun is on its way, and the answer comes to `slot`; or nothing is.
pub(crate) fn begun(shard: &ShardCell, slot: Option<ReplyAddress>) {
    let mut core = shard.core.borrow_mut();
    let Some(me) = core.running else { return };
    let since_ns = core.now_ns;
    let cell = core.cells.get(me.index(), me.generation());
    let Some(turns) = cell.and_then(|cell| cell.extra.as_mut()?.turns.as_mut()) else { return };
    let number = std::mem::take(&mut turns.asking);
    if let Some(slot) = slot.filter(|_| number != 0) {
        turns.waits.push(Wait { slot, number, answering: turns.answering, since_ns });
    }
}

/// The answer to an ask of this actor is about to be handled: it goes on with what it asked for.
pub(crate) fn answered(shard: &ShardCell, id: CellId, slot: ReplyAddress) {
    let mut core = shard.core.borrow_mut();
    let cell = core.cells.get(id.index(), id.generation());
    let Some(turns) = cell.and_then(|cell| cell.extra.as_mut()?.turns.as_mut()) else { return };
    if let Some(at) = turns.waits.iter().position(|wait| wait.slot == slot) {
        turns.answering = turns.waits.swap_remove(at).answering;
    }
}

/// The request that an ask of the running actor carries: with the actor on its list of callers, if there is a list, or if the actor
/// begins one.
pub(crate) fn called_by(shard: &ShardCell, request: Request) -> Request {
    let mut lent = shard.core.borrow_mut();
    let core = &mut *lent;
    let Some(me) = core.running else { return request };
    let Some(cell) = core.cells.get(me.index(), me.generation()) else { return request };
    let turns = cell.extra.as_ref().and_then(|extra| extra.turns.as_ref());
    let wait = turns.map_or(0, |turns| turns.asking);
    if wait == 0 && request.callers().is_none() {
        return request;
    }
    let name = cycle::name_of(core, (me.index(), me.generation()));
    drop(lent);
    let node = shard.link.engine().me().get();
    let callers = Callers::with(request.callers(), Caller::new((node, me.word()), wait, name));
    request.with_callers(Some(callers))
}
