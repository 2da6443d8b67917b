//! `SimRandom`: a seeded random stream (xoshiro256++, Blackman and Vigna; seeded with splitmix64).
//!
//! Invariant: the numbers depend on seed, stream name and stream indexes only, so draws of one subsystem never disturb
//! another's. Never for secrets. Used by the world's one thread.

use std::ops::RangeInclusive;

/// One million: chances are given in parts of it.
pub(super) const MILLION: u64 = 1_000_000;

/// A named random stream.
#[derive(Clone, Debug)]
pub struct SimRandom {
    state: [u64; 4],
}

impl SimRandom {
    /// The stream `name` of `seed`; `indexes` tell streams of one name apart (node, shard, restart).
    #[must_use]
    pub fn stream(seed: u64, name: &str, indexes: &[u64]) -> Self {
        let mut key = mix(seed);
        for byte in name.bytes() {
            key = mix(key ^ u64::from(byte));
        }
        for index in indexes {
            key = mix(key ^ index.wrapping_add(0x51_7c_c1_b7));
        }
        let state = std::array::from_fn(|_| {
            key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(key)
        });
        Self { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a 128-bit product fits 64 bits")
    }

    /// A number within `range`, both ends included.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn within(&mut self, range: &RangeInclusive<u64>) -> u64 {
        assert!(!range.is_empty(), "a range to draw from has at least one number");
        let width = range.end() - range.start();
        if width == u64::MAX { self.next_u64() } else { range.start() + self.below(width + 1) }
    }

    /// True with a chance of `ppm` in a million. Draws a number even when the answer is certain, so that changing one
    /// chance does not shift the stream.
    pub fn chance(&mut self, ppm: u32) -> bool {
        self.below(MILLION) < u64::from(ppm)
    }

    /// An index below `len`.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("it is below a usize")
    }
}

/// The splitmix64 finaliser: a bijection that spreads every bit.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
