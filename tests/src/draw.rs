//! Draws by seed, for tests that do many things at random and the same again.

/// Seeded draws of a test's own (splitmix64); the number is the seed.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `bound`.
    ///
    /// # Panics
    /// When that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Yes, once in `of` times.
    ///
    /// # Panics
    /// When that is 0.
    pub fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// One of all.
    ///
    /// # Panics
    /// When there is none.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = usize::try_from(self.below(all.len() as u64)).expect("below a length");
        all[at]
    }
}
