//! Looking at virtual actors without activating them, and telling them to leave.
//!
//! Invariant: nothing here activates. The answer comes from the shard that owns the key, so it is true at one moment there. Any
//! thread; inside a handler `.await` it.

use std::time::Duration;

use crate::actor::{StopReason, VirtualActor};
use crate::actor_ref::ActorId;
use crate::context::Context;
use crate::latch::{Happening, Latch, LatchGuard};
use crate::route::home_of;
use crate::shard::{ShardCell, current, passivate};
use crate::virtual_ref::VirtualRef;

/// What a virtual actor does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has no activation; the next message makes one.
    Asleep,
    /// It is active.
    Active {
        /// This activation.
        actor: ActorId,
        /// Time since it last had something to do, to about a millisecond.
        idle: Duration,
        /// Messages that wait in its mailbox.
        queued: u32,
    },
    /// Another node owns the key, or this engine does not host the type.
    Elsewhere,
    /// The engine is gone.
    Closed,
}

impl<A: VirtualActor> VirtualRef<A> {
    /// Whether the actor is active, and since when it has nothing to do. Does not activate it.
    pub fn activity(&self) -> Happening<Activity> {
        self.look("VirtualRef::activity().wait()", false)
    }

    /// Restarts the actor's idle time as a message would, if it is active; tells what it did until now. Does not activate it.
    pub fn touch(&self) -> Happening<Activity> {
        self.look("VirtualRef::touch().wait()", true)
    }

    /// Tells the actor to leave: as soon as it has nothing to do and [`may_passivate`](crate::Actor::may_passivate), or once its
    /// type's drain time has passed. A message that comes before it has left is handled, by it or by its next life. The result
    /// tells when it has left: at once as [`StopReason::Passivated`] if it is asleep, as [`StopReason::Shutdown`] if the engine is
    /// gone. `None` when another node owns the key, or this engine does not host the type.
    #[must_use = "`None` says that the actor lives elsewhere"]
    pub fn passivate(&self) -> Option<Happening<StopReason>> {
        let (position, link) = home_of(&self.id)?;
        let latch = Latch::new();
        let guard = LatchGuard::new(latch.clone(), StopReason::Shutdown);
        let key = self.id.key.clone();
        on_shard(link, move |shard| passivate(shard, position, &key, guard));
        Some(Happening { latch, what: "VirtualRef::passivate().wait()", engine: Some(self.id.engine) })
    }

    fn look(&self, what: &'static str, touch: bool) -> Happening<Activity> {
        let latch = Latch::new();
        let happening = Happening { latch: latch.clone(), what, engine: Some(self.id.engine) };
        let Some((position, link)) = home_of(&self.id) else {
            latch.set(Activity::Elsewhere);
            return happening;
        };
        let guard = LatchGuard::new(latch, Activity::Closed);
        let key = self.id.key.clone();
        on_shard(link, move |shard| {
            let mut core = shard.core.borrow_mut();
            let now_ms = core.now_ms();
            let active = core.directory.get(position, &key);
            let activity = active.map_or(Activity::Asleep, |(index, generation)| {
                let actor = core.actor_id(index, generation);
                let cell = core.cells.get(index, generation).expect("directory entries are live");
                let queued = cell.len();
                let extra = cell.extra();
                let idle_ms = if queued > 0 { 0 } else { now_ms.wrapping_sub(extra.active_ms) };
                if touch {
                    extra.active_ms = now_ms;
                }
                Activity::Active { actor, idle: Duration::from_nanos(u64::from(idle_ms) << 20), queued }
            });
            drop(core);
            guard.set(activity);
        });
        happening
    }
}

impl<A: VirtualActor> Context<A> {
    /// Has this virtual actor leave as [`VirtualRef::passivate`] does, after this message.
    pub fn passivate(&mut self) {
        let (index, generation) = (self.seat().index(), self.seat().generation());
        self.shard_cell().core.borrow_mut().tell_to_leave(index, generation);
    }
}

/// Runs `f` on the shard behind `link`: at once if that is the current one.
fn on_shard(link: &'static crate::link::ShardLink, f: impl FnOnce(&ShardCell) + Send + 'static) {
    current(|shard| match shard {
        Some(shard) if std::ptr::eq(shard.link, link) => f(shard),
        _ => link.run(Box::new(f)),
    });
}
