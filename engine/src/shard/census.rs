//! Census: who lives on a shard at one moment, for tests that look for what was left behind.
//!
//! Invariant: looks at every cell and changes nothing. Shard thread only, between handlers.

use super::ShardCell;
use crate::actor_ref::ActorId;
use crate::key::Key;

/// One actor, as a census finds it.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    pub(crate) id: ActorId,
    /// Its Rust type.
    pub(crate) actor: &'static str,
    /// Its key, if it is virtual.
    pub(crate) key: Option<Key>,
    /// Messages in its mailbox.
    pub(crate) queued: u32,
    /// Messages that it has put aside.
    pub(crate) stashed: u32,
    /// Waits for a future or a resume.
    pub(crate) suspended: bool,
    /// Who watches it.
    pub(crate) watchers: Vec<ActorId>,
    /// Timers that will send it something.
    pub(crate) timers: u32,
}

impl ShardCell {
    /// Every actor that lives here, by index.
    pub(crate) fn census(&self) -> Vec<Resident> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let live = core.cells.live_indices();
        let look = |(index, generation)| {
            let cell = core.cells.get(index, generation)?;
            let timers = core.timers.owned_by(index);
            let extra = cell.extra.as_ref();
            Some(Resident {
                id: ActorId::new(self.link, index, generation),
                key: extra.and_then(|extra| extra.identity.as_ref().map(|(_, key)| key.clone())),
                watchers: extra
                    .and_then(|extra| extra.bonds.as_ref())
                    .map_or_else(Vec::new, |bonds| bonds.watchers.iter().copied().collect()),
                queued: cell.len(),
                stashed: u32::try_from(cell.stashed()).unwrap_or(u32::MAX),
                suspended: cell.conduct.suspended,
                timers,
                actor: cell.actor_name(),
            })
        };
        live.into_iter().filter_map(look).collect()
    }
}
