//! mimalloc for everyone, with a counter that is off while time is measured: then an allocation pays one predicted branch.
//!
//! One of the two files with `unsafe`, with `laps.rs`: the allocator's trait.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mimalloc::MiMalloc;

use crate::limits::NO_ALLOCATION;

/// The allocator of the benches.
pub struct Counted;

/// How many runs are being counted now: none while time is measured.
static COUNTED: AtomicU64 = AtomicU64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn note() {
    if COUNTED.load(Ordering::Relaxed) > 0 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every method passes its arguments on to an allocator that keeps the trait's contract.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's contract.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

/// Allocations an operation in the steady state: what `2 n` operations take beyond `n`, by `n`, on all threads. Set-up and
/// tear-down are the same in both and cancel out.
///
/// # Panics
/// When `n` is 0.
#[must_use]
pub fn allocations(run: fn(u64) -> Duration, n: u64) -> f64 {
    assert!(n > 0, "something is done");
    let count = |n| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        COUNTED.fetch_add(1, Ordering::Relaxed);
        run(n);
        COUNTED.fetch_sub(1, Ordering::Relaxed);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    count(n);
    let (some, twice) = (count(n), count(2 * n));
    let each = (twice as f64 - some as f64) / n as f64;
    if each.abs() < NO_ALLOCATION { 0.0 } else { each.max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_an_operation_is_seen() {
        let boxes = |n| {
            (0..n).for_each(|number| drop(std::hint::black_box(Box::new(number))));
            Duration::ZERO
        };
        // So many that what other tests allocate meanwhile does not matter.
        let each = allocations(boxes, 1_000_000);
        assert!((0.5..1.5).contains(&each), "{each}");
    }
}
