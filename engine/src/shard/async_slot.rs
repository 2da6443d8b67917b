//! The room of an async handler's future: one allocation per actor, reused from message to message.
//!
//! Invariant: while `live` is set, the room holds a pinned future that nothing moves; it is dropped before its room is
//! reused or freed, and before the actor state that it borrows. One of the few files with `unsafe`.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

/// At most one suspended future.
#[derive(Default)]
pub(crate) struct AsyncSlot {
    room: Option<(NonNull<u8>, Layout)>,
    live: Option<NonNull<dyn Future<Output = ()>>>,
    waker: Option<Waker>,
}

impl AsyncSlot {
    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Moves `future` into the room, allocating only if it is too small.
    ///
    /// # Safety
    /// What the future borrows outlives it: the caller drops it (or this slot) before the actor's state.
    pub(crate) unsafe fn put<F: Future<Output = ()>>(&mut self, future: F) {
        assert!(self.live.is_none(), "an actor handles one message at a time");
        let needed = Layout::new::<F>();
        if !self.room.is_some_and(|(_, layout)| layout.size() >= needed.size() && layout.align() >= needed.align()) {
            self.free_room();
            self.room = Some(Self::allocate(needed));
        }
        let (room, _) = self.room.expect("just made");
        let place = room.cast::<F>();
        // SAFETY: the room is large and aligned enough and holds no live future.
        unsafe { place.write(future) };
        let live: NonNull<dyn Future<Output = ()> + '_> = place;
        // SAFETY: only the lifetime is erased; the caller upholds it.
        self.live = Some(unsafe {
            std::mem::transmute::<NonNull<dyn Future<Output = ()> + '_>, NonNull<dyn Future<Output = ()>>>(live)
        });
    }

    fn allocate(needed: Layout) -> (NonNull<u8>, Layout) {
        let size = needed.size().max(64).next_power_of_two();
        let layout = Layout::from_size_align(size, needed.align().max(16)).expect("a future's layout, rounded up");
        // SAFETY: the size is not zero.
        let room = unsafe { alloc(layout) };
        let Some(room) = NonNull::new(room) else { handle_alloc_error(layout) };
        (room, layout)
    }

    /// Polls the future; it is dropped when it is ready.
    ///
    /// # Panics
    /// When the future does; it is then still in the slot, and the caller drops it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut live = self.live.expect("polled while suspended only");
        // SAFETY: the room holds this future, and `&mut self` makes the access exclusive.
        let future = unsafe { live.as_mut() };
        // SAFETY: it never moves before it is dropped.
        let future = unsafe { Pin::new_unchecked(future) };
        let poll = future.poll(cx);
        if poll.is_ready() {
            self.drop_future();
        }
        poll
    }

    pub(crate) fn drop_future(&mut self) {
        if let Some(live) = self.live.take() {
            // SAFETY: it was live and is forgotten now.
            unsafe { live.drop_in_place() };
        }
    }

    /// The actor's waker, made at the first suspension.
    pub(crate) fn waker(&mut self, make: impl FnOnce() -> Waker) -> Waker {
        self.waker.get_or_insert_with(make).clone()
    }

    /// What wakers of this actor have in common.
    pub(crate) fn waker_data(&self) -> Option<*const ()> {
        self.waker.as_ref().map(Waker::data)
    }

    fn free_room(&mut self) {
        if let Some((room, layout)) = self.room.take() {
            // SAFETY: allocated in `allocate` with this layout; no live future is in it.
            unsafe { dealloc(room.as_ptr(), layout) };
        }
    }
}

impl Drop for AsyncSlot {
    fn drop(&mut self) {
        self.drop_future();
        self.free_room();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    /// Waits once; holds what it was given before and after.
    async fn wait_once<const BYTES: usize>(token: Arc<[u8; BYTES]>) {
        let mut waited = false;
        poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert_eq!(token[0], 7);
    }

    #[test]
    fn futures_of_all_sizes_take_turns_in_the_room_and_are_dropped_once() {
        let mut slot = AsyncSlot::default();
        let mut cx = Context::from_waker(Waker::noop());
        let token = Arc::new([7_u8; 100]);
        for round in 0..4 {
            // SAFETY: the future borrows nothing.
            unsafe { slot.put(wait_once(Arc::clone(&token))) };
            assert!(slot.poll(&mut cx).is_pending() && slot.is_live());
            assert!(slot.poll(&mut cx).is_ready() && !slot.is_live());
            assert_eq!(Arc::strong_count(&token), 1);
            let (large, kept) = ([round; 500], Arc::clone(&token));
            // SAFETY: the future borrows nothing.
            unsafe {
                slot.put(async move {
                    wait_once(kept).await;
                    assert_eq!(large[499], round);
                });
            }
            assert!(slot.poll(&mut cx).is_pending());
            if round % 2 == 0 {
                assert!(slot.poll(&mut cx).is_ready());
            } else {
                slot.drop_future();
            }
            assert_eq!(Arc::strong_count(&token), 1);
        }
        // SAFETY: the future borrows nothing.
        unsafe { slot.put(wait_once(Arc::clone(&token))) };
        drop(slot);
        assert_eq!(Arc::strong_count(&token), 1);
    }
}
