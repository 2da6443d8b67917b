//! `Erased`: room for one value of a type that only its maker and its taker know, in place up to 32 bytes.
//!
//! Invariant: the room holds exactly one value of the type that `new` was called with, until `take` or drop. One of the few
//! files with `unsafe`.

use std::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};

const WORDS: usize = 4;

/// A value without its type.
pub(crate) struct Erased {
    drop_value: unsafe fn(*mut u8),
    room: [MaybeUninit<u64>; WORDS],
}

const fn is_inline<T>() -> bool {
    size_of::<T>() <= WORDS * 8 && align_of::<T>() <= 8
}

/// Drops the `T` (or its box) at `room`.
///
/// # Safety
/// `room` holds what `Erased::new::<T>` wrote, and is not used afterwards.
unsafe fn drop_room<T>(room: *mut u8) {
    if const { is_inline::<T>() } {
        // SAFETY: the caller's contract.
        unsafe { room.cast::<T>().drop_in_place() }
    } else {
        // SAFETY: the caller's contract.
        unsafe { room.cast::<Box<T>>().drop_in_place() }
    }
}

impl Erased {
    /// Stores `value`: no allocation up to 32 bytes, one above.
    #[inline(always)]
    pub(crate) fn new<T>(value: T) -> Self {
        let mut this = Self { drop_value: drop_room::<T>, room: [const { MaybeUninit::uninit() }; WORDS] };
        let room = this.room.as_mut_ptr();
        if const { is_inline::<T>() } {
            // SAFETY: `T` fits the room in size and alignment, checked by the condition.
            unsafe { room.cast::<T>().write(value) };
        } else {
            // SAFETY: a box is one word.
            unsafe { room.cast::<Box<T>>().write(Box::new(value)) };
        }
        this
    }

    /// The value.
    ///
    /// # Safety
    /// It was made by `new::<T>`.
    #[inline]
    pub(crate) unsafe fn take<T>(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the caller's contract; forgetting `self` makes this the only copy.
        unsafe { this.read::<T>() }
    }

    /// Moves the value out of its place, without copying the room around it.
    ///
    /// # Safety
    /// If there is one, it was made by `new::<T>`.
    #[inline(always)]
    pub(crate) unsafe fn take_from<T>(place: &mut Option<Self>) -> Option<T> {
        // SAFETY: the caller's contract; the place is emptied below without a drop.
        let value = unsafe { place.as_ref()?.read::<T>() };
        let place = std::ptr::from_mut(place);
        // SAFETY: a valid place; what it held was just moved out.
        unsafe { place.write(None) };
        Some(value)
    }

    /// # Safety
    /// The value is a `T`, and this is its last use.
    #[inline(always)]
    unsafe fn read<T>(&self) -> T {
        let room = self.room.as_ptr();
        if const { is_inline::<T>() } {
            // SAFETY: the caller's contract.
            unsafe { room.cast::<T>().read() }
        } else {
            // SAFETY: the caller's contract, with a box.
            let boxed = unsafe { room.cast::<Box<T>>().read() };
            *boxed
        }
    }
}

impl Drop for Erased {
    fn drop(&mut self) {
        let room = self.room.as_mut_ptr().cast();
        // SAFETY: `new` stored the matching drop function, and the value was not taken (`take` forgets `self`).
        unsafe { (self.drop_value)(room) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn small_and_large_values_come_back_and_are_dropped_once() {
        let counted = Rc::new(());
        // SAFETY: made with the same type.
        let back = unsafe { Erased::new((7_u64, Rc::clone(&counted))).take::<(u64, Rc<()>)>() };
        assert_eq!((back.0, Rc::strong_count(&counted)), (7, 2));
        drop(back);
        // SAFETY: made with the same type.
        let large = unsafe { Erased::new(([9_u64; 12], Rc::clone(&counted))).take::<([u64; 12], Rc<()>)>() };
        assert_eq!((large.0[11], Rc::strong_count(&counted)), (9, 2));
        drop(large);
        drop(Erased::new(Rc::clone(&counted)));
        drop(Erased::new(([0_u64; 9], Rc::clone(&counted))));
        assert_eq!(Rc::strong_count(&counted), 1);
    }
}
