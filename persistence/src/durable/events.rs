//! `Events`: the events of one effect, without an allocation when there is only one.
//!
//! Invariant: they stand in the order in which they were added.

use std::ops::Deref;

use crate::limits::EVENT_IN_PLACE_BYTES;

/// See the module's head.
pub(super) enum Events<E> {
    One(Option<E>),
    Many(Vec<E>),
}

impl<E> Events<E> {
    pub(super) const NONE: Self = Self::One(None);

    /// One event. Large ones are boxed: an effect is moved several times on its way.
    pub(super) fn one(event: E) -> Self {
        if size_of::<E>() <= EVENT_IN_PLACE_BYTES { Self::One(Some(event)) } else { Self::Many(vec![event]) }
    }

    pub(super) fn push(&mut self, event: E) {
        match self {
            Self::One(first) => match first.take() {
                None => *self = Self::one(event),
                Some(first) => *self = Self::Many(vec![first, event]),
            },
            Self::Many(events) => events.push(event),
        }
    }
}

impl<E> Deref for Events<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        match self {
            Self::One(event) => event.as_slice(),
            Self::Many(events) => events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_order_wherever_they_lie() {
        let mut events = Events::NONE;
        assert!(events.is_empty());
        for number in 0..4_u8 {
            events.push(number);
            assert_eq!(*events, *(0..=number).collect::<Vec<_>>());
        }
        let large = |mark| [mark; EVENT_IN_PLACE_BYTES + 1];
        let mut events = Events::one(large(1));
        assert!(matches!(events, Events::Many(_)), "a large event is not moved around");
        events.push(large(2));
        assert_eq!(*events, [large(1), large(2)]);
    }
}
