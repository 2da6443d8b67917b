//! Attached work: futures and streams that an actor waits for while it goes on with its messages.
//!
//! Invariant: what comes of them is a turn of the actor that attached them, between its messages; they end with the actor or its
//! rebuild, whatever they wait for. One step of one piece of work is one activation, so a stream that always has an item keeps
//! nobody from the shard. An actor without attached work pays nothing: what wakes it is the wake-up of suspended actors. Shard
//! thread only; wakers may be used on any. One of the few files with `unsafe`: work gets the state of its actor.

use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use crate::actor::Actor;
use crate::context::{Context, Seat};
use crate::envelope::PackedAddress;
use crate::shard::{Cell, ShardCell, ShardCore, drop_contained};
use crate::waker::ActorWaker;

/// What an attached piece of work does when it is woken.
pub(crate) trait Work<A: Actor>: 'static {
    /// One step; `Ready` when there is nothing left to do.
    fn step(self: Pin<&mut Self>, actor: &mut A, cx: &mut Context<A>, task: &mut TaskContext<'_>) -> Poll<()>;
}

/// The same without the actor's type.
trait AnyWork {
    /// # Safety
    /// `state` is a built actor of the type for which this was attached, and nobody else uses it.
    unsafe fn step(self: Pin<&mut Self>, state: *mut u8, seat: Seat, task: &mut TaskContext<'_>) -> Poll<()>;
}

struct Typed<A, W> {
    work: Pin<Box<W>>,
    _actor: PhantomData<fn(A)>,
}

impl<A: Actor, W: Work<A>> AnyWork for Typed<A, W> {
    unsafe fn step(self: Pin<&mut Self>, state: *mut u8, seat: Seat, task: &mut TaskContext<'_>) -> Poll<()> {
        // SAFETY: the caller's contract.
        let actor = unsafe { &mut *state.cast::<A>() };
        self.get_mut().work.as_mut().step(actor, &mut Context::new(seat), task)
    }
}

/// One piece of work of an actor.
pub(crate) struct Attached {
    alarm: Arc<Alarm>,
    waker: Waker,
    work: Pin<Box<dyn AnyWork>>,
    /// Whether a shutdown waits for it.
    pub(crate) finite: bool,
}

impl Attached {
    /// Whether it waits for what wakes this waker.
    pub(crate) fn is_woken_by(&self, waker: &Waker) -> bool {
        self.waker.data() == waker.data()
    }
}

/// Says that a piece of work was woken, and wakes its actor.
struct Alarm {
    rung: AtomicBool,
    actor: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Releases what the waking thread wrote. Pair: the swap in `step_all`.
        self.rung.store(true, Ordering::Release);
        self.actor.wake_by_ref();
    }
}

impl<A: Actor> Context<A> {
    /// Attaches work, whose first step comes soon. A `finite` one holds a shutdown up until it is done.
    pub(crate) fn attach_work<W: Work<A>>(&mut self, work: W, finite: bool) {
        let shard = self.shard_cell();
        let (index, generation) = (self.seat().index(), self.seat().generation());
        let mut core = shard.core.borrow_mut();
        let cell = core.cells.get(index, generation).expect("a running actor has its cell");
        let extra = cell.extra();
        let actor = extra.async_slot.waker(|| Waker::from(ActorWaker::of(shard.link, index, generation)));
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), actor });
        let waker = Waker::from(Arc::clone(&alarm));
        let work = Box::pin(Typed { work: Box::pin(work), _actor: PhantomData::<fn(A)> });
        extra.work.push(Attached { alarm, waker, work, finite });
        core.wake(index, generation);
    }

    /// Waits for a future while this actor goes on; `f` runs as a turn of this actor when the future is ready, with its output.
    /// The future runs on this shard and need not be `Send`. If this actor stops or is rebuilt before, future and `f` are dropped.
    ///
    /// The way to libraries that have a runtime of their own: what their `spawn` returns is a future, which any thread may wake.
    /// A shutdown waits for it. Costs two allocations.
    pub fn reenter_after<T, F>(&mut self, future: T, f: F)
    where
        T: Future + 'static,
        F: FnOnce(&mut A, T::Output, &mut Context<A>) + 'static,
    {
        self.attach_future(future, f, true);
    }

    pub(crate) fn attach_future<T, F>(&mut self, future: T, f: F, finite: bool)
    where
        T: Future + 'static,
        F: FnOnce(&mut A, T::Output, &mut Context<A>) + 'static,
    {
        self.attach_work(Reenter { future: Box::pin(future), then: Some(f) }, finite);
    }
}

/// A future and what comes after it.
struct Reenter<T, F> {
    future: Pin<Box<T>>,
    then: Option<F>,
}

impl<T, F> Unpin for Reenter<T, F> {}

impl<A, T, F> Work<A> for Reenter<T, F>
where
    A: Actor,
    T: Future + 'static,
    F: FnOnce(&mut A, T::Output, &mut Context<A>) + 'static,
{
    fn step(mut self: Pin<&mut Self>, actor: &mut A, cx: &mut Context<A>, task: &mut TaskContext<'_>) -> Poll<()> {
        let output = std::task::ready!(self.future.as_mut().poll(task));
        if let Some(then) = self.then.take() {
            then(actor, output, cx);
        }
        Poll::Ready(())
    }
}

impl Cell {
    /// Whether futures or streams are attached to it.
    pub(crate) fn has_work(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.work.is_empty())
    }

    /// Whether it has something to do, now or when somebody else is done; an attached stream may never end and does not count.
    pub(crate) fn is_busy(&self) -> bool {
        let waits_for = |work: &[Attached]| work.iter().any(|work| work.finite);
        self.len() > 0 || self.conduct.suspended || self.extra.as_ref().is_some_and(|extra| waits_for(&extra.work))
    }
}

impl ShardCore {
    /// The actor that cannot go on before what it asks for now is answered: the running one, but not for work beside its messages.
    #[inline]
    pub(crate) fn who_waits(&self) -> Option<PackedAddress> {
        self.running.filter(|_| !self.steps_work)
    }

    /// Whether the actor whose work steps would get a message now; that it was woken, by its work, does not matter.
    fn may_step(&mut self, (index, generation): (u32, u32)) -> bool {
        self.cells.get(index, generation).is_some_and(|cell| cell.would_take_messages() && !cell.is_held())
    }
}

/// In the place of work that has ended.
struct Ended;

impl AnyWork for Ended {
    unsafe fn step(self: Pin<&mut Self>, _: *mut u8, _: Seat, _: &mut TaskContext<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Attached {
    /// Drops the work, which may run user code.
    fn end(&mut self) {
        drop(std::mem::replace(&mut self.work, Box::pin(Ended)));
    }
}

impl ShardCell {
    /// One step of each piece of work that was woken, as long as the actor would get a message too; what had no turn stays woken.
    ///
    /// # Panics
    /// With a panic of the work, which ends with it. The rest is back in its place then, and the actor is woken.
    ///
    /// # Safety
    /// `state` is the built state of the actor whose seat this is, and nobody else uses it.
    pub(crate) unsafe fn step_all(&self, state: *mut u8, seat: Seat) {
        let place = (seat.index(), seat.generation());
        let take = || {
            let mut core = self.core.borrow_mut();
            let cell = core.cells.get(place.0, place.1)?;
            cell.extra.as_mut().map(|extra| std::mem::take(&mut extra.work))
        };
        let Some(mut all) = take() else { return };
        self.core.borrow_mut().steps_work = true;
        let mut panic = None;
        all.retain_mut(|attached| {
            if panic.is_some()
                || !attached.alarm.rung.load(Ordering::Relaxed)
                || !self.core.borrow_mut().may_step(place)
            {
                return true;
            }
            attached.alarm.rung.swap(false, Ordering::Acquire);
            let step = || {
                let mut task = TaskContext::from_waker(&attached.waker);
                // SAFETY: the caller's contract; work is attached by actors of this cell's own type, and goes with the actor.
                let stepped = unsafe { attached.work.as_mut().step(state, seat, &mut task) };
                if stepped.is_ready() {
                    attached.end();
                }
                stepped.is_pending()
            };
            catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|payload| {
                panic = Some(payload);
                drop_contained(std::mem::replace(&mut attached.work, Box::pin(Ended)));
                false
            })
        });
        // What was attached meanwhile comes behind.
        let new = take();
        let mut core = self.core.borrow_mut();
        core.steps_work = false;
        if let (Some(new), Some(cell)) = (new, core.cells.get(place.0, place.1)) {
            all.extend(new);
            cell.extra().work = std::mem::take(&mut all);
        }
        if panic.is_some() {
            core.wake(place.0, place.1);
        }
        drop(core);
        // Nothing, unless the actor is gone.
        drop(all);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
