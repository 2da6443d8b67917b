//! `Durable`: the actor that runs event-sourced state.
//!
//! It starts suspended, with its messages waiting, until the store has read its snapshot and later events. A command's events go
//! into the open commit and are applied in the same turn, so the next command sees them; whatever could reflect them is held
//! until that commit is durable, reads too.
//!
//! Invariant: state = fold of the events that this activation loaded or appended, in order; nothing that reflects an event
//! leaves before the event is durable. Shard thread only.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::rc::Rc;

use shardstage::{
    Actor, AskError, BoxError, Context, DeferredHandler, Message, Rejected, Reply, StopReason, VirtualActor,
};
use shardstage_codec::{ActorTypeId, Epoch, GroupId, Wire, slot_of};

use super::commit::answer;
use super::courier::Courier;
use super::effect::Effect;
use super::policy::SnapshotClock;
use super::recover::{Replay, Trouble};
use super::{CommandContext, CommandHandler, EventSourced};
use crate::limits::RECOVERY_BYTES_PER_TURN;
use crate::store::{
    CommitOutcome, EntityId, LoadError, LoadFrom, LoadedEntity, StoreKind, StoreShared, Ticket, with_store,
};

type Loaded = Rc<RefCell<Option<Result<LoadedEntity, LoadError>>>>;

/// Runs an [`EventSourced`] type as an actor.
///
/// As a virtual actor (`engine.actor::<Durable<Account>>("alice")`) it is found by its key wherever its slot lives. Spawned
/// plainly (`engine.spawn(|| Durable::<Account>::new("alice"))`) it lives in the log of the shard that it happens to be
/// spawned on: use `spawn_on`, and one actor a key.
pub struct Durable<A: EventSourced> {
    pub(super) key: Box<str>,
    pub(super) state: Option<A>,
    pub(super) seat: Option<Seat>,
    pub(super) epoch: Epoch,
    /// Number of the last event or saved state.
    pub(super) version: u64,
    pub(super) clock: SnapshotClock,
    /// The last commit with something of this actor.
    pub(super) last: Option<Ticket>,
    loaded: Loaded,
    /// Why the newest snapshot could not be read, and how many could not, while an older one is tried.
    fallback: Option<(String, u32)>,
    /// A replay that goes on in a later turn.
    replaying: Option<Box<Replay<A>>>,
    /// Keeps the entity in use.
    lease: Option<Lease>,
    pub(super) courier: Courier,
}

/// Where the actor stands in its shard's store.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) kind: StoreKind,
    pub(super) entity: EntityId,
    pub(super) shared: Rc<StoreShared>,
}

/// Gives the entity back when the actor ends, however it does: a panic drops it too.
struct Lease {
    shared: Rc<StoreShared>,
    entity: EntityId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.let_go(self.entity);
    }
}

impl<A: EventSourced> Durable<A> {
    /// The actor with this key, before its records were read.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            state: None,
            seat: None,
            epoch: Epoch::FIRST,
            version: 0,
            clock: SnapshotClock::default(),
            last: None,
            loaded: Rc::default(),
            fallback: None,
            replaying: None,
            lease: None,
            courier: Courier::default(),
        }
    }

    fn group(&self) -> GroupId {
        slot_of(ActorTypeId::of(A::TYPE), &self.key).group()
    }

    /// Asks for the records; the actor takes no message until they are here.
    fn load(&mut self, from: LoadFrom, cx: &mut Context<Self>) {
        let seat = self.seat.as_ref().expect("a started actor has its seat");
        let (loaded, resume) = (Rc::clone(&self.loaded), cx.suspend());
        seat.shared.request_load(
            seat.entity,
            from,
            Box::new(move |result| {
                *loaded.borrow_mut() = Some(result);
                drop(resume);
            }),
        );
    }

    /// Goes on with the recovery by a share that one turn has room for; whether it is finished.
    fn recover_on(&mut self) -> Result<bool, Trouble> {
        let mut replay = match (self.loaded.take(), self.replaying.take()) {
            (Some(result), _) => self.begin_replay(result)?,
            (None, Some(replay)) => replay,
            (None, None) => return Ok(false),
        };
        if !replay.step(&self.key, RECOVERY_BYTES_PER_TURN)? {
            self.replaying = Some(replay);
            return Ok(false);
        }
        let recovered = replay.end(&self.key)?;
        self.courier.ledger = recovered.ledger;
        self.state = Some(recovered.state);
        self.clock = recovered.clock;
        self.version = recovered.version;
        Ok(true)
    }

    /// Takes what was read.
    fn begin_replay(&self, result: Result<LoadedEntity, LoadError>) -> Result<Box<Replay<A>>, Trouble> {
        let loaded = result.map_err(|error| Trouble {
            snapshot: match error {
                LoadError::Damaged { snapshot, .. } => snapshot,
                _ => None,
            },
            why: format!("{} {:?}: {error}", A::TYPE, &*self.key),
        })?;
        Replay::new(&self.key, loaded).map(Box::new)
    }

    /// Snapshots that could not be read so far.
    fn passed(&self) -> u32 {
        self.fallback.as_ref().map_or(0, |(_, passed)| *passed)
    }

    /// Appends a snapshot now.
    fn snapshot_now(&mut self, cx: &mut Context<Self>) {
        let Some(seat) = self.seat.clone() else { return };
        with_store(seat.kind, cx, |store| self.take_snapshot(&seat, store));
    }
}

impl<A: EventSourced> Actor for Durable<A> {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.epoch = cx.epoch();
        self.courier.by_key = cx.key().is_some();
        let (epoch, group) = (self.epoch, self.group());
        let kind =
            StoreKind::find(cx).ok_or("a durable actor needs a store on its engine, such as the `EventLog` service")?;
        let key = &*self.key;
        let seat = with_store(kind, cx, |store| -> Result<_, BoxError> {
            store.raise_epoch(group, epoch)?;
            let entity = store.intern(A::TYPE, key, group, <A::Event as Wire>::ID.get())?;
            let shared = store.shared();
            let lease = Lease { shared: Rc::clone(&shared), entity };
            match shared.broken(entity) {
                Some(why) => Err(String::from(why).into()),
                None => Ok((Seat { kind, entity, shared }, lease)),
            }
        });
        let (seat, lease) = seat.ok_or("the store is busy")??;
        (self.seat, self.lease) = (Some(seat), Some(lease));
        self.load(LoadFrom::Newest, cx);
        Ok(())
    }

    /// The records were read, or the next turn has room for more of them: a long replay is divided over turns.
    ///
    /// A snapshot that cannot be read sends it back for an older one, as far as they are kept. Any other failure is remembered on the shard before the
    /// actor is given up by unwinding: its rebuild then ends at once, with the same words as its stop reason, instead of reading
    /// everything again.
    fn resumed(&mut self, cx: &mut Context<Self>) {
        match self.recover_on() {
            Ok(false) => {
                if self.replaying.is_some() {
                    let seat = self.seat.as_ref().expect("a loaded actor has its seat");
                    let resume = cx.suspend();
                    seat.shared.go_on_later(Box::new(move || drop(resume)));
                }
            }
            Ok(true) => {
                let fell_back = self.fallback.take().is_some();
                let seat = self.seat.as_ref().expect("a loaded actor has its seat");
                if fell_back {
                    seat.shared.fell_back();
                    self.clock.want();
                }
                if self.clock.is_due(&A::SNAPSHOTS, self.version) {
                    self.snapshot_now(cx);
                }
                self.send_outbox(cx);
            }
            Err(Trouble { snapshot: Some(seq), why }) if A::SNAPSHOTS.may_fall_back(self.passed() + 1) => {
                self.fallback.get_or_insert((why, 0)).1 += 1;
                self.load(LoadFrom::Before(seq), cx);
            }
            Err(Trouble { why, .. }) => {
                let why = self.fallback.take().map_or(why, |(newest, _)| newest);
                let seat = self.seat.as_ref().expect("a loaded actor has its seat");
                seat.shared.mark_broken(seat.entity, &why);
                resume_unwind(Box::new(why));
            }
        }
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut Context<Self>) {
        let passivated = *reason == StopReason::Passivated && self.state.is_some();
        if passivated && self.clock.is_due_on_passivation(&A::SNAPSHOTS, self.version) {
            self.snapshot_now(cx);
        }
        self.lease = None;
    }

    fn may_passivate(&self) -> bool {
        self.state.is_some() && self.courier.ledger.outbox.is_settled()
    }
}

impl<A: EventSourced> VirtualActor for Durable<A> {
    const TYPE: &'static str = A::TYPE;

    fn activate(key: &str) -> Self {
        Self::new(key)
    }
}

impl<A, C> DeferredHandler<C> for Durable<A>
where
    A: CommandHandler<C>,
    C: Message,
{
    fn handle(&mut self, command: C, reply: Reply<C::Reply>, cx: &mut Context<Self>) {
        let Some(state) = &self.state else {
            return reply.fail(AskError::Rejected(Rejected::Unavailable));
        };
        let command_cx = CommandContext::new(cx, &self.key, self.version, &self.courier.ledger);
        let effect = state.handle(command, &command_cx);
        let seat = self.seat.clone().expect("a ready actor has its seat");
        if effect.is_read() {
            let Effect { reply: value, sends, .. } = effect;
            let shared = Rc::clone(&seat.shared);
            let held = move |outcome| answer(outcome, value, reply, sends, &shared);
            let Some(last) = self.last else { return held(CommitOutcome::Durable) };
            let mut held = Some(held);
            let durable = with_store(seat.kind, cx, |store| {
                let durable = store.is_durable(last);
                if !durable {
                    store.when_durable(last, Box::new(held.take().expect("taken once")));
                }
                durable
            });
            if let (Some(true), Some(held)) = (durable, held) {
                held(CommitOutcome::Durable);
            }
            return;
        }
        let mut waiting = Some((effect, reply));
        let persisted = with_store(seat.kind, cx, |store| {
            let (effect, reply) = waiting.take().expect("taken once");
            self.persist(effect, reply, &seat, store)
        });
        self.outbox_appended(&seat, cx);
        match (persisted, waiting) {
            (Some(Err((refused, reply))), _) => Self::refuse(refused, reply, cx),
            (None, Some((_, reply))) => reply.fail(AskError::Rejected(Rejected::Unavailable)),
            _ => {}
        }
    }
}

impl<A: EventSourced> std::fmt::Debug for Durable<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable({} {:?}, version {})", A::TYPE, &*self.key, self.version)
    }
}
