//! Random numbers from the kernel, fetched in pools.
//!
//! Invariant: every byte is handed out once.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::limits::RANDOM_POOL_BYTES;

/// A pool of the kernel's cryptographic randomness.
pub(super) struct RandomPool {
    bytes: [u8; RANDOM_POOL_BYTES],
    used: usize,
}

impl RandomPool {
    /// An empty pool; the first draw fills it.
    pub(super) fn new() -> Self {
        Self { bytes: [0; RANDOM_POOL_BYTES], used: RANDOM_POOL_BYTES }
    }

    /// 64 fresh bits.
    pub(super) fn draw(&mut self) -> u64 {
        if self.used == RANDOM_POOL_BYTES {
            self.refill();
        }
        let drawn = &mut self.bytes[self.used..self.used + 8];
        self.used += 8;
        let value = u64::from_le_bytes(drawn.try_into().expect("the slice has eight bytes"));
        drawn.fill(0);
        value
    }

    fn refill(&mut self) {
        let mut filled = 0;
        while filled < RANDOM_POOL_BYTES {
            match getrandom(&mut self.bytes[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random numbers: {error}"),
            }
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_across_refills() {
        let mut pool = RandomPool::new();
        let mut drawn: Vec<u64> = (0..RANDOM_POOL_BYTES).map(|_| pool.draw()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), RANDOM_POOL_BYTES);
    }
}
