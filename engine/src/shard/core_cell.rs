//! `CoreCell`: the shard's core, lent to one piece of code at a time.
//!
//! Most code borrows the core as from any [`RefCell`]. The few steps that every message takes use [`CoreCell::quick`], which
//! looks at the borrow flag but does not write it: setting and clearing it six times a message was 10 of 62 ns of a round
//! trip, since each write waits for the one before.
//!
//! Invariant: whoever gets in quickly runs straight-line code of the engine that comes back before anything else can ask for
//! the core. One of the few files with `unsafe`.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::core::ShardCore;

/// See the module's head.
pub(crate) struct CoreCell(RefCell<ShardCore>);

impl CoreCell {
    pub(crate) fn new(core: ShardCore) -> Self {
        Self(RefCell::new(core))
    }

    /// The core, for a few steps, without marking it as borrowed in release builds. Debug builds mark it, so that a breach of
    /// the contract panics in the tests.
    ///
    /// # Panics
    /// When the core is borrowed.
    ///
    /// # Safety
    /// The reference is gone before anything else uses this cell, by whatever way: meanwhile no code of users runs (handlers,
    /// hooks, drops or clones of their values, wakers), and no engine code that borrows the core itself.
    #[inline(always)]
    pub(crate) unsafe fn quick(&self) -> Quick<'_> {
        #[cfg(debug_assertions)]
        let core = self.0.borrow_mut();
        #[cfg(not(debug_assertions))]
        let core = {
            assert!(self.0.try_borrow_mut().is_ok(), "the core is lent to one piece of code at a time");
            // SAFETY: nobody has borrowed it, as just seen, and by the contract nobody does while this reference lives.
            unsafe { &mut *self.0.as_ptr() }
        };
        Quick(core)
    }
}

/// What [`CoreCell::quick`] lends.
pub(crate) struct Quick<'a>(
    #[cfg(debug_assertions)] std::cell::RefMut<'a, ShardCore>,
    #[cfg(not(debug_assertions))] &'a mut ShardCore,
);

impl Deref for Quick<'_> {
    type Target = ShardCore;

    #[inline(always)]
    fn deref(&self) -> &ShardCore {
        &self.0
    }
}

impl DerefMut for Quick<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut ShardCore {
        &mut self.0
    }
}

impl Deref for CoreCell {
    type Target = RefCell<ShardCore>;

    #[inline(always)]
    fn deref(&self) -> &RefCell<ShardCore> {
        &self.0
    }
}
