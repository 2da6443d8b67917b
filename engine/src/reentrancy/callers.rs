//! `Callers`: who waits up a chain of calls. Travels with the calls of a chain in which some actor does not let everything in.
//!
//! Invariant: a list is immutable and shared with those that grew out of it, the latest caller first; at most [`CALLERS_KEPT`]
//! callers, so that a chain without an end keeps no memory without a bound. Only asks carry it: nobody waits for a tell. Any
//! thread.

use std::sync::Arc;

use shardstage_codec::limits::{CALLER_LABEL_BYTES_MAX, CALLERS_MAX};

use crate::error::Deadlock;
use crate::limits::{CALLERS_KEPT, CALLERS_SHOWN};

/// One caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Node and packed address.
    place: (u32, u64),
    /// Which of its waits; 0 for one that waits for nothing that it could miss.
    wait: u32,
    /// Type and key, or type and id.
    name: Arc<str>,
}

impl Caller {
    pub(crate) fn new(place: (u32, u64), wait: u32, name: String) -> Self {
        Self { place, wait, name: name.into() }
    }

    pub(crate) fn place(&self) -> (u32, u64) {
        self.place
    }

    pub(crate) fn wait(&self) -> u32 {
        self.wait
    }
}

#[derive(Debug)]
struct Link {
    caller: Caller,
    before: Option<Callers>,
    length: usize,
}

impl Drop for Link {
    /// One after the other: a list may be longer than a stack is deep.
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(callers) = next {
            next = Arc::into_inner(callers.0).and_then(|mut link| link.before.take());
        }
    }
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Callers(Arc<Link>);

impl Callers {
    /// The list with one caller more, unless it is as long as it may be.
    pub(crate) fn with(before: Option<&Self>, caller: Caller) -> Self {
        let length = before.map_or(0, |before| before.0.length) + 1;
        match before {
            Some(before) if length > CALLERS_KEPT => before.clone(),
            before => Self(Arc::new(Link { caller, before: before.cloned(), length })),
        }
    }

    /// The latest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Caller> {
        std::iter::successors(Some(self), |callers| callers.0.before.as_ref()).map(|callers| &callers.0.caller)
    }

    /// The way from the first time that `place` called, back to it; `about` says what is wrong with it.
    pub(crate) fn cycle(&self, place: (u32, u64), about: &str) -> Deadlock {
        let mut names: Vec<&str> = Vec::new();
        let mut whole = 0;
        for (number, caller) in (1..).zip(self.iter()) {
            names.push(&caller.name);
            if caller.place == place {
                whole = number;
            }
        }
        names.truncate(whole);
        let Some(first) = names.last().copied() else { return Deadlock(about.into()) };
        names.reverse();
        names.push(first);
        Deadlock(format!("{about}{}", shown(&names)).into())
    }

    /// What crosses nodes: the latest, as many as a frame takes.
    pub(crate) fn on_wire(&self) -> Vec<shardstage_codec::Caller<'_>> {
        let callers = self.iter().take(CALLERS_MAX);
        let callers = callers.map(|caller| shardstage_codec::Caller {
            node: shardstage_codec::NodeId::new(caller.place.0),
            wait: caller.wait,
            actor: caller.place.1,
            label: &caller.name[..caller.name.floor_char_boundary(CALLER_LABEL_BYTES_MAX)],
        });
        callers.collect()
    }

    /// What came over the wire.
    pub(crate) fn of_wire(callers: &[shardstage_codec::Caller<'_>]) -> Option<Self> {
        callers.iter().rev().fold(None, |before: Option<Self>, caller| {
            let name = caller.label.to_owned();
            Some(Self::with(before.as_ref(), Caller::new((caller.node.get(), caller.actor), caller.wait, name)))
        })
    }
}

/// The names in their order; of many the first and the last.
pub(super) fn shown(names: &[&str]) -> String {
    if names.len() <= CALLERS_SHOWN {
        return names.join(" -> ");
    }
    let half = CALLERS_SHOWN / 2;
    let between = names.len() - 2 * half;
    format!("{} -> ({between} more) -> {}", names[..half].join(" -> "), names[names.len() - half..].join(" -> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(length: u32) -> Callers {
        let mut callers: Option<Callers> = None;
        for number in 0..length {
            let caller = Caller::new((0, u64::from(number % 3)), number, format!("actor {}", number % 3));
            callers = Some(Callers::with(callers.as_ref(), caller));
        }
        callers.expect("not empty")
    }

    #[test]
    fn a_list_is_bounded_and_shows_the_way_round() {
        assert_eq!(list(5).cycle((0, 1), "").0.as_ref(), "actor 1 -> actor 2 -> actor 0 -> actor 1 -> actor 1");
        assert_eq!(list(5).cycle((1, 1), "no").0.as_ref(), "no");
        let endless = list(2 * u32::try_from(CALLERS_KEPT).expect("small"));
        assert_eq!(endless.iter().count(), CALLERS_KEPT);
        assert!(endless.cycle((0, 0), "").0.contains("more) -> actor"));
    }

    #[test]
    fn a_list_crosses_the_wire_in_its_order() {
        let callers = list(4);
        let there = Callers::of_wire(&callers.on_wire()).expect("not empty");
        let places = |callers: &Callers| callers.iter().map(|one| (one.place(), one.wait())).collect::<Vec<_>>();
        assert_eq!(places(&there), places(&callers));
        assert_eq!(list(100).on_wire().len(), CALLERS_MAX);
    }
}
