//! [`Frame`]: a whole frame where it was put together, and [`SharedBytes`], a part of it that is kept.
//!
//! Invariant: the bytes begin at a multiple of 16 and do not change while anybody holds a part of them. Keeping a part
//! copies nothing; it keeps the whole buffer, whose bytes count towards [`PINNED_BYTES`] until the last part is dropped.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shardstage_codec::AlignedBytes;
use shardstage_codec::limits::ALIGN_BYTES;

use crate::limits::PINNED_BYTES;

/// Where frames lie one after the other: filled by the transport while nobody keeps a part of it.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    block: Arc<Block>,
}

/// The bytes of a buffer, or of a copied part.
#[derive(Debug, Default)]
struct Block {
    bytes: AlignedBytes,
    /// How much of `pinned` this block has added; set once, by the shard that keeps the first part.
    counted: AtomicUsize,
    pinned: Arc<AtomicUsize>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pinned.fetch_sub(*self.counted.get_mut(), Ordering::Relaxed);
    }
}

impl FrameBuffer {
    /// An empty buffer; `pinned` counts what is kept of it and of all others with the same count.
    #[must_use]
    pub fn new(pinned: &Arc<AtomicUsize>) -> Self {
        let (bytes, counted, pinned) = (AlignedBytes::new(), AtomicUsize::new(0), Arc::clone(pinned));
        Self { block: Arc::new(Block { bytes, counted, pinned }) }
    }

    /// The bytes, to be appended to.
    ///
    /// # Panics
    /// When somebody keeps a part and [`restart`](Self::restart) was not called since.
    pub fn bytes_mut(&mut self) -> &mut AlignedBytes {
        &mut Arc::get_mut(&mut self.block).expect("restarted after every delivery").bytes
    }

    /// Forgets what lies before `from`; call it after frames were delivered. The rest moves to the front, or into a fresh
    /// buffer if somebody keeps a part of this one.
    pub fn restart(&mut self, from: usize) {
        if let Some(block) = Arc::get_mut(&mut self.block) {
            if from != 0 {
                let rest = block.bytes.len() - from;
                block.bytes.copy_within(from.., 0);
                block.bytes.resize(rest, 0);
            }
            return;
        }
        let mut fresh = Self::new(&self.block.pinned);
        fresh.bytes_mut().extend_from_slice(&self.block.bytes[from..]);
        *self = fresh;
    }

    /// Gives the memory back if the buffer is empty and larger than `keep_bytes`.
    pub fn shrink(&mut self, keep_bytes: usize) {
        if self.is_empty() && self.block.bytes.capacity() > keep_bytes {
            *self = Self::new(&self.block.pinned);
        }
    }

    /// The frame at this range, which begins at a multiple of 16.
    ///
    /// # Panics
    /// When the range is not within the buffer.
    #[must_use]
    pub fn frame(&self, range: Range<usize>) -> Frame<'_> {
        debug_assert!(range.start.is_multiple_of(ALIGN_BYTES));
        Frame { bytes: &self.block.bytes[range], block: &self.block }
    }
}

impl Deref for FrameBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.bytes
    }
}

/// One whole frame, still where the transport put it together.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    block: &'a Arc<Block>,
}

impl Frame<'_> {
    /// Keeps `part`, which must be a part of this frame that begins at a multiple of 16. Copies nothing, unless
    /// [`PINNED_BYTES`] are kept already.
    ///
    /// # Panics
    /// When it is no part of the frame.
    #[must_use]
    pub fn keep(&self, part: &[u8]) -> SharedBytes {
        let start = part.as_ptr().addr().wrapping_sub(self.block.bytes.as_ptr().addr());
        let end = start.wrapping_add(part.len());
        assert!(start <= end && end <= self.block.bytes.len(), "a part of this frame");
        let block = self.block;
        if block.counted.load(Ordering::Relaxed) == 0 {
            let bytes = block.bytes.capacity();
            if block.pinned.load(Ordering::Relaxed).saturating_add(bytes) > PINNED_BYTES {
                return SharedBytes::copied(part);
            }
            block.counted.store(bytes, Ordering::Relaxed);
            block.pinned.fetch_add(bytes, Ordering::Relaxed);
        }
        SharedBytes { block: Arc::clone(block), range: narrow(start)..narrow(end) }
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// Bytes that are kept where they arrived, aligned to 16. May cross threads.
#[derive(Clone, Debug)]
pub struct SharedBytes {
    block: Arc<Block>,
    range: Range<u32>,
}

impl SharedBytes {
    /// A copy of `bytes` in a buffer of its own.
    #[must_use]
    pub fn copied(bytes: &[u8]) -> Self {
        let mut block = Block::default();
        block.bytes.extend_from_slice(bytes);
        Self { block: Arc::new(block), range: 0..narrow(bytes.len()) }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block.bytes[self.range.start as usize..self.range.end as usize]
    }
}

fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).expect("a reassembly buffer stays far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_part_stays_where_it_was_and_the_buffer_goes_on() {
        let pinned = Arc::new(AtomicUsize::new(0));
        let mut buffer = FrameBuffer::new(&pinned);
        buffer.bytes_mut().extend_from_slice(&[1; 48]);
        let frame = buffer.frame(16..32);
        let kept = frame.keep(&frame[..5]);
        assert_eq!(kept.as_ptr(), frame.as_ptr(), "nothing was copied");
        buffer.restart(32);
        buffer.bytes_mut().extend_from_slice(&[2; 16]);
        assert_eq!((&kept[..], &buffer[..16], &buffer[16..]), (&[1; 5][..], &[1; 16][..], &[2; 16][..]));
        assert!(pinned.load(Ordering::Relaxed) > 0);
        drop(kept);
        assert_eq!(pinned.load(Ordering::Relaxed), 0);
        let before = buffer.as_ptr();
        buffer.restart(16);
        assert_eq!((buffer.as_ptr(), &buffer[..]), (before, &[2; 16][..]), "nobody keeps it, so it is used again");
    }

    #[test]
    fn beyond_the_bound_parts_are_copied() {
        let pinned = Arc::new(AtomicUsize::new(PINNED_BYTES));
        let mut buffer = FrameBuffer::new(&pinned);
        buffer.bytes_mut().extend_from_slice(&[1; 16]);
        let frame = buffer.frame(0..16);
        let kept = frame.keep(&frame);
        assert_eq!(&kept[..], &frame[..]);
        assert_ne!(kept.as_ptr(), frame.as_ptr());
        assert_eq!(pinned.load(Ordering::Relaxed), PINNED_BYTES);
    }
}
