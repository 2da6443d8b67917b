//! Actors that do not let everything in while they wait (`reentrancy/mod.rs`): their messages, one at a time.
//!
//! Invariant: such an actor's cell says `woken` between its shares, so each of them begins in `look_after` and comes here; while
//! one waits, what may not come in stays in the mailbox where it is. Hooks, handlers and futures of such an actor run in a
//! request that says nothing, so what they ask is noted. Shard thread only.

use super::ShardCell;
use crate::context_block::Asker;
use crate::envelope::{Class, Envelope, Meta};
use crate::error::{AskError, Deadlock};
use crate::reentrancy::{Callers, Reentrancy};
use crate::reply::{self, ReplyAddress};
use crate::request::Scope;
use crate::shard::cell::Life;
use crate::shard::{Cell, ShardCore, drop_contained};

/// What is next for an actor that may take messages.
enum Next {
    /// The message that is now at the front.
    Message,
    /// Nothing: it waits.
    Nothing,
    /// A call that can never come in.
    Refusal(Envelope, Deadlock),
}

/// What becomes of one message while its actor waits.
enum Verdict {
    Enters,
    Waits,
    Refused(Deadlock),
}

impl ShardCell {
    /// Whether the actor does not let everything in while it waits.
    pub(super) fn has_turns(&self, index: u32) -> bool {
        let mut core = self.core.borrow_mut();
        let has_turns = |cell: &mut Cell| cell.extra.as_ref().is_some_and(|extra| extra.turns.is_some());
        core.has_turns && core.cells.slot(index).is_some_and(has_turns)
    }

    /// Looks after such an actor, and handles one of its messages, if one may come in. It never goes on with others.
    #[cold]
    pub(super) fn take_turn(&self, index: u32) -> bool {
        let (hollow, was_held) = {
            let mut core = self.core.borrow_mut();
            let turns = core.cells.slot(index).and_then(|cell| cell.extra.as_ref()?.turns.as_ref());
            let turns = turns.expect("`has_turns` has looked");
            (turns.hollow.clone(), turns.waits())
        };
        let mut goes_on = None;
        {
            let _scope = Scope::on(self, hollow);
            let may = self.look_closer(index, &mut goes_on) && self.let_in(index);
            let may = self.rigged(index, may);
            if self.attend(index, may) {
                self.run_one(index);
            }
        }
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let Some(cell) = core.cells.slot(index) else { return false };
        let Some(turns) = cell.extra.as_mut().and_then(|extra| extra.turns.as_mut()) else { return false };
        turns.settle(&core.replies);
        let (held, generation) = (turns.waits(), cell.generation);
        if !cell.conduct.suspended && matches!(cell.conduct.life, Life::Live | Life::Draining) {
            cell.conduct.woken = true;
            // What is attached has waited too, and nothing else may wake the actor for it.
            if goes_on.is_some() || (was_held && !held && cell.has_work()) {
                core.wake(index, generation);
            }
        }
        false
    }

    /// Puts the next message that may come in to the front, and refuses those that never can. Without one the share is over.
    fn let_in(&self, index: u32) -> bool {
        loop {
            let next = self.core.borrow_mut().next_in(index);
            match next {
                Next::Message => return true,
                Next::Nothing => {
                    self.stay(index);
                    return false;
                }
                Next::Refusal(mut envelope, deadlock) => {
                    // Without its meta word a message that is dropped answers nobody.
                    let (asker, _) = asked_by(&mut envelope);
                    drop(envelope.take_meta());
                    if let Some(address) = asker {
                        reply::answer_failure(self, address, AskError::Deadlock(deadlock));
                    }
                    drop_contained(envelope);
                }
            }
        }
    }

    /// Ends the share of an actor that waits; whatever arrives begins the next.
    fn stay(&self, index: u32) {
        let (state, running) = self.take_out(index);
        let mut core = self.core.borrow_mut();
        let core_ref = &mut *core;
        let cell = core_ref.cells.slot(index).expect("a running actor keeps its cell");
        if cell.len() == 0 {
            drop(core);
            return self.put_back(state, running);
        }
        core_ref.running = None;
        cell.state = Some(state);
        cell.mailbox.rest(&mut core_ref.pool);
        cell.scheduled = false;
    }
}

impl ShardCore {
    fn next_in(&mut self, index: u32) -> Next {
        let me = self.link.engine().me().get();
        let cell = self.cells.slot(index).expect("a running actor keeps its cell");
        let here = crate::envelope::PackedAddress::new(self.shard.get(), index, cell.generation);
        let name = |cell: &mut Cell| cell.state.as_ref().map_or("", |state| state.actor_name());
        let name = name(cell);
        let extra = cell.extra.as_mut().expect("it has turns");
        // In order of priority first, if it has one: what is put to the front must stay there.
        if let Some(ordered) = extra.attended.as_mut().and_then(|attended| attended.ordered.as_mut()) {
            cell.mailbox.order(&mut self.pool, ordered);
        }
        let turns = extra.turns.as_mut().expect("it has turns");
        turns.settle(&self.replies);
        let mut at = 0;
        let mut refused = None;
        let found = !turns.waits()
            || cell.mailbox.find(|envelope| {
                let verdict = if envelope.vtable().class == Class::System {
                    Verdict::Enters
                } else {
                    match asked_by(envelope) {
                        (Some(_), Some(callers)) => {
                            let open = turns.frames(&callers, (me, here.word()));
                            judge(turns.setting, open, &callers, (me, here.word()), name)
                        }
                        _ => Verdict::Waits,
                    }
                };
                match verdict {
                    Verdict::Enters => return true,
                    Verdict::Waits => {}
                    Verdict::Refused(deadlock) => {
                        refused = Some(deadlock);
                        return true;
                    }
                }
                at += 1;
                false
            });
        if !found || cell.mailbox.len() == 0 {
            return Next::Nothing;
        }
        if let Some(ordered) = extra.attended.as_mut().and_then(|attended| attended.ordered.as_mut()) {
            *ordered = if refused.is_some() { 0 } else { cell.mailbox.len() };
        }
        if let Some(deadlock) = refused {
            let envelope = cell.mailbox.take_at(at, &mut self.pool).expect("just found");
            cell.has_left(&envelope);
            return Next::Refusal(envelope, deadlock);
        }
        if at > 0 {
            let envelope = cell.mailbox.take_at(at, &mut self.pool).expect("just found");
            cell.mailbox.push_front(envelope, &mut self.pool);
        }
        turns.answering = cell.mailbox.peek_mut().and_then(|envelope| asked_by(envelope).0);
        Next::Message
    }
}

/// What becomes of a call while its receiver waits: `open` frames of its chain are open there.
fn judge(setting: Reentrancy, open: usize, callers: &Callers, here: (u32, u64), name: &str) -> Verdict {
    match setting {
        _ if open == 0 => Verdict::Waits,
        Reentrancy::Full => Verdict::Enters,
        Reentrancy::Off => Verdict::Refused(callers.cycle(here, "")),
        Reentrancy::Chain { depth } if open < usize::from(depth) => Verdict::Enters,
        Reentrancy::Chain { depth } => {
            let about = format!("{name} lets in {depth} calls of one chain, and not another: ");
            Verdict::Refused(callers.cycle(here, &about))
        }
    }
}

/// Where a message's answer goes, and who waits up its chain of calls. The message stays as it is.
pub(crate) fn asked_by(envelope: &mut Envelope) -> (Option<ReplyAddress>, Option<Callers>) {
    let meta = envelope.take_meta();
    let asked = match &meta {
        Meta::Reply(address) => (Some(*address), None),
        Meta::Context(context) => match &context.asker {
            Asker::Slot(address) => (Some(*address), None),
            Asker::InRequest(request, address) => (*address, request.callers().cloned()),
            Asker::None | Asker::Foreign(_) | Asker::ForeignInRequest(_) => (None, None),
        },
        Meta::None | Meta::Sender(_) | Meta::Signal => (None, None),
    };
    envelope.set_meta(meta);
    asked
}
