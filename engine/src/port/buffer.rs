//! `IoBuffer`: a block-aligned, zero-initialised byte buffer that moves between a service and the driver.
//!
//! Invariant: the memory is aligned to [`IO_ALIGN_BYTES`], its length is a multiple of it, and it never moves or shrinks
//! while a driver owns the buffer. One of the few files with `unsafe`.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::limits::IO_ALIGN_BYTES;

/// An owned byte buffer that `O_DIRECT` accepts.
pub struct IoBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory exclusively; bytes may be read and written from whichever thread owns it.
unsafe impl Send for IoBuffer {}
// SAFETY: `&IoBuffer` gives only `&[u8]`.
unsafe impl Sync for IoBuffer {}

impl IoBuffer {
    /// Allocates at least `len` zero bytes, rounded up to whole blocks.
    ///
    /// # Panics
    /// When `len` is 0 or over `isize::MAX`.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        assert!(len > 0, "an I/O buffer holds at least one byte");
        let len = len.next_multiple_of(IO_ALIGN_BYTES);
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, IO_ALIGN_BYTES).expect("length was rounded up and fits isize")
    }

    /// The first byte's address, for the kernel.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The first byte's address, for the kernel to write to.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout and not freed before.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_rounded_up() {
        let mut buffer = IoBuffer::zeroed(5000);
        assert_eq!(buffer.len(), 8192);
        assert_eq!(buffer.as_ptr() as usize % IO_ALIGN_BYTES, 0);
        assert!(buffer.iter().all(|byte| *byte == 0));
        buffer[8191] = 7;
        assert_eq!(buffer[8191], 7);
    }
}
