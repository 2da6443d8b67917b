//! `ReplayCheck`: asks a running durable actor whether its state is what its records give.
//!
//! Invariant: the actor handles nothing else meanwhile, so the three hashes are of one moment.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use shardstage::{AsyncHandler, Context, message, wire};

use super::{Durable, EventSourced};
use crate::store::{LoadError, LoadFrom, LoadedEntity, with_store};

/// Every [`Durable`] answers it: is the live state the same as after a snapshot and later events, and as after all events? A type
/// whose `apply` depends on anything but its arguments fails it. For tests, and for a look at a live system: it reads the actor's
/// whole history.
#[message(id = "shardstage.replay-check", reply = Result<ReplayReport, String>)]
#[derive(Clone, Copy, Debug)]
pub struct ReplayCheck {}

/// The [hashes](EventSourced::state_hash) of one state, reached in three ways.
#[wire]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    /// The actor's version.
    pub version: u64,
    /// As it is in memory.
    pub live: u64,
    /// After the newest snapshot and the events since then.
    pub from_snapshot: u64,
    /// After all events; `None` when they are not kept, or the state was saved as a whole.
    pub from_start: Option<u64>,
}

impl ReplayReport {
    /// Whether all ways lead to the same state.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.live == self.from_snapshot && self.from_start.is_none_or(|hash| hash == self.live)
    }
}

/// FNV-1a, 64 bits.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

type Answer = Result<LoadedEntity, LoadError>;

impl<A: EventSourced> Durable<A> {
    async fn read(&mut self, from: LoadFrom, cx: &mut Context<Self>) -> Result<Answer, String> {
        let seat = self.seat.clone().ok_or("the actor has not been recovered")?;
        let place: Rc<RefCell<(Option<Answer>, Option<Waker>)>> = Rc::default();
        let filled = Rc::clone(&place);
        let on_loaded = Box::new(move |answer: Answer| {
            let mut place = filled.borrow_mut();
            place.0 = Some(answer);
            if let Some(waker) = place.1.take() {
                waker.wake();
            }
        });
        with_store(seat.kind, cx, |store| store.load(seat.entity, from, on_loaded)).ok_or("the store is busy")?;
        let answer = poll_fn(|task| {
            let mut place = place.borrow_mut();
            match place.0.take() {
                Some(answer) => Poll::Ready(answer),
                None => {
                    place.1 = Some(task.waker().clone());
                    Poll::Pending
                }
            }
        });
        Ok(answer.await)
    }
}

impl<A: EventSourced> AsyncHandler<ReplayCheck> for Durable<A> {
    async fn handle(&mut self, _: ReplayCheck, cx: &mut Context<Self>) -> Result<ReplayReport, String> {
        let no_hash = || format!("{} has no snapshots and no state_hash", A::TYPE);
        let state = self.state.as_ref().ok_or("the actor has not been recovered")?;
        let live = state.state_hash().ok_or_else(no_hash)?;
        let newest = self.read(LoadFrom::Newest, cx).await?.map_err(|error| error.to_string())?;
        let from_snapshot = self.fold(newest)?;
        let all = match self.read(LoadFrom::Start, cx).await? {
            Ok(all) => Some(self.fold(all)?),
            Err(LoadError::NotKept) => None,
            Err(error) => return Err(error.to_string()),
        };
        let from_snapshot = from_snapshot.ok_or_else(no_hash)?;
        let from_start = all.map(|hash| hash.ok_or_else(no_hash)).transpose()?;
        Ok(ReplayReport { version: self.version, live, from_snapshot, from_start })
    }
}

impl<A: EventSourced> Durable<A> {
    fn fold(&self, loaded: LoadedEntity) -> Result<Option<u64>, String> {
        let recovered = super::recover::recover::<A>(&self.key, loaded).map_err(|trouble| trouble.why)?;
        Ok(recovered.state.state_hash())
    }
}
