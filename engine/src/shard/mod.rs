//! One shard: a value that takes turns. It owns actors, rings, timers, services and a transport, but no clock, socket or file.
//!
//! Invariant: a shard is used by one thread at a time, and user code (handlers, hooks, drops of messages) never runs while
//! the shard's core is borrowed. One of the few files with `unsafe`: the thread-local pointer to the current shard.

mod activate;
mod actor_box;
mod async_slot;
mod budget;
mod cargo;
mod cell;
mod census;
mod core;
mod core_cell;
mod deliver;
mod due;
mod extra;
mod forward;
mod kin;
mod mailbox;
mod mesh;
mod moved;
mod passivate;
mod stop;
pub(crate) mod turn;
mod workers;

use std::cell::{Cell as StdCell, RefCell};
use std::ptr::NonNull;

pub(crate) use self::activate::Doing;
pub(crate) use self::activate::attend::{Attended, Idle};
pub(crate) use self::activate::rigged::{Fault, Rig};
pub(crate) use self::activate::turns::asked_by;
pub(crate) use self::actor_box::{ActorBox, Again, Factory, Once, Sent};
pub(crate) use self::budget::Weight;
pub(crate) use self::cell::{CELLS_MAX, Cell, Life, Midway, foreign_index};
pub(crate) use self::census::Resident;
pub(crate) use self::core::{DeadLetterDraft, ShardCore, Spawn};
pub(crate) use self::core_cell::CoreCell;
pub(crate) use self::mesh::{Inbound, Mesh, Outbound, link_shards};
pub(crate) use self::moved::{Told, request_move};
pub(crate) use self::passivate::passivate;
pub(crate) use self::turn::Shard;
use crate::engine_link::EngineLink;
use crate::intercept::Observers;
use crate::link::ShardLink;
use crate::port::service::Service;
use crate::port::transport::Transport;
use crate::request::Request;
use crate::sync::thread_local;

/// What the turn and the handlers of one shard share.
pub(crate) struct ShardCell {
    pub(crate) link: &'static ShardLink,
    ways: Ways,
    pub(crate) core: CoreCell,
    pub(crate) services: Vec<RefCell<Box<dyn Service>>>,
    pub(crate) transport: RefCell<Option<Box<dyn Transport>>>,
}

/// Which sends take the plain way: those to this shard, and those to its engine. While a request is open (`request.rs`)
/// nothing does, since nobody's link and engine are null; so what is looked at anyway tells the two apart.
struct Ways {
    link: StdCell<*const ShardLink>,
    engine: StdCell<*const EngineLink>,
    request: RefCell<Option<Request>>,
    observers: RefCell<Option<Observers>>,
}

impl ShardCell {
    pub(crate) fn new(
        link: &'static ShardLink,
        core: CoreCell,
        services: Vec<RefCell<Box<dyn Service>>>,
        transport: RefCell<Option<Box<dyn Transport>>>,
    ) -> Self {
        let ways = Ways {
            link: StdCell::new(link),
            engine: StdCell::new(link.engine()),
            request: RefCell::new(None),
            observers: RefCell::new(None),
        };
        Self { link, ways, core, services, transport }
    }

    /// Whether `link` is this shard's, and no request is open.
    #[inline(always)]
    pub(crate) fn is_plainly(&self, link: &'static ShardLink) -> bool {
        std::ptr::eq(self.ways.link.get(), link)
    }

    /// Whether `engine` is this shard's, and no request is open.
    #[inline(always)]
    pub(crate) fn is_plainly_of(&self, engine: &'static EngineLink) -> bool {
        std::ptr::eq(self.ways.engine.get(), engine)
    }

    /// The request that is open.
    pub(crate) fn request(&self) -> Option<Request> {
        self.ways.request.borrow().clone()
    }

    /// Who looks at what is sent.
    pub(crate) fn observers(&self) -> Option<Observers> {
        self.ways.observers.borrow().clone()
    }

    /// Says who looks at what is sent; returns who did.
    pub(crate) fn set_observers(&self, observers: Option<Observers>) -> Option<Observers> {
        self.ways.observers.replace(observers)
    }

    /// Opens or closes a request; returns the one that was open.
    pub(crate) fn set_request(&self, request: Option<Request>) -> Option<Request> {
        let plain = request.is_none();
        self.ways.link.set(if plain { self.link } else { std::ptr::null() });
        self.ways.engine.set(if plain { self.link.engine() } else { std::ptr::null() });
        self.ways.request.replace(request)
    }
}

thread_local! {
    static CURRENT: StdCell<Option<NonNull<ShardCell>>> = const { StdCell::new(None) };
}

/// Calls `f` with the shard whose turn runs on this thread, if any.
#[inline(always)]
pub(crate) fn current<R>(f: impl FnOnce(Option<&ShardCell>) -> R) -> R {
    let shard = CURRENT.with(StdCell::get);
    // SAFETY: `enter` keeps the pointer valid until its guard resets it, and only shared references are made from it.
    f(shard.map(|shard| unsafe { shard.as_ref() }))
}

/// The shard whose turn runs on this thread, if it is the one behind `link` and no request is open: for the hottest path, which must not go through
/// a closure.
///
/// # Safety
/// The reference is used only while the calling function runs, which it does within a turn of that shard.
#[inline(always)]
pub(crate) unsafe fn here<'a>(link: &'static ShardLink) -> Option<&'a ShardCell> {
    let shard = CURRENT.with(StdCell::get)?;
    // SAFETY: `enter` keeps the pointer valid until its guard resets it, after the caller has returned.
    let shard = unsafe { shard.as_ref() };
    shard.is_plainly(link).then_some(shard)
}

/// The same, if it is a shard of `engine`.
///
/// # Safety
/// As for [`here`].
#[inline(always)]
pub(crate) unsafe fn here_in<'a>(engine: &'static EngineLink) -> Option<&'a ShardCell> {
    let shard = CURRENT.with(StdCell::get)?;
    // SAFETY: as in `here`.
    let shard = unsafe { shard.as_ref() };
    shard.is_plainly_of(engine).then_some(shard)
}

/// Marks `shard` as the current one of this thread until the guard is dropped.
pub(crate) fn enter(shard: &ShardCell) -> Entered<'_> {
    let previous = CURRENT.with(|current| current.replace(Some(NonNull::from(shard))));
    Entered { previous, _shard: shard }
}

/// See [`enter`].
pub(crate) struct Entered<'a> {
    previous: Option<NonNull<ShardCell>>,
    _shard: &'a ShardCell,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with(|current| current.set(self.previous));
    }
}

/// Drops a user's value; a panic in its drop ends here.
pub(crate) fn drop_contained<T>(value: T) {
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(value))));
}

/// Wakes somebody; a panic of a foreign waker ends here.
pub(crate) fn wake_contained(waker: std::task::Waker) {
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake())));
}

/// # Panics
/// On a shard's thread, naming the call that would block it.
pub(crate) fn assert_not_on_a_shard(what: &str) {
    current(|shard| {
        if let Some(shard) = shard {
            panic!("{what} would block shard {}; use `.await` or `cx.ask(..).then(..)` there", shard.link.shard());
        }
    });
}
