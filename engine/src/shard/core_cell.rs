//! `CoreCell`: the shard's core, lent to one piece of code at a time.
//!
//! Most code borrows the core as from any [`RefCell`]. The few steps that every message takes use [`CoreCell::quick`], which
//! looks at the borrow flag but does not write it: setting and clearing it six times a message was 10 of 62 ns of a round
//! trip, since each write waits for the one before.
//!
//! Invariant: whoever gets in quickly runs straight-line code of the engine that comes back before anything else can ask for
//! the core. One of the few files with `unsafe`.

use std::cell::RefCell;
use std::ops::Deref;

use super::core::ShardCore;

/// See the module's head.
pub(crate) struct CoreCell(RefCell<ShardCore>);

impl CoreCell {
    pub(crate) fn new(core: ShardCore) -> Self {
        Self(RefCell::new(core))
    }

    /// The core, for a few steps, without marking it as borrowed.
    ///
    /// # Panics
    /// When the core is borrowed.
    ///
    /// # Safety
    /// The reference is gone before anything else uses this cell, by whatever way: meanwhile no code of users runs (handlers,
    /// hooks, drops or clones of their values, wakers), and no engine code that borrows the core itself.
    #[expect(clippy::mut_from_ref, reason = "as in a `RefCell`, with the second half of the rule in the contract")]
    #[inline(always)]
    pub(crate) unsafe fn quick(&self) -> &mut ShardCore {
        assert!(self.0.try_borrow_mut().is_ok(), "the core is lent to one piece of code at a time");
        // SAFETY: nobody has borrowed it, as just seen, and by the contract nobody does while this reference lives.
        unsafe { &mut *self.0.as_ptr() }
    }
}

impl Deref for CoreCell {
    type Target = RefCell<ShardCore>;

    #[inline(always)]
    fn deref(&self) -> &RefCell<ShardCore> {
        &self.0
    }
}
