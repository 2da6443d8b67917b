//! Routes: numbers that stand for a receiver, a message type and an epoch within one lane of one session, so that what is
//! sent again and again is neither written out nor looked up again.
//!
//! Invariant: a number means to the receiver what it meant to the sender, because its definition travels on the lane before
//! its use, and both sides forget all numbers with the session. Numbers are given again when they run out, by second chance.
//! Shard's thread.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use shardstage_codec::limits::ROUTES_MAX;
use shardstage_codec::{Epoch, FrameHeader, MessageId, NodeId, ReplyStatus};

use super::registry::InboundMessage;
use crate::key::Key;
use crate::limits::ROUTES_REMEMBERED;
use crate::port::transport::{Lane, Source};

/// The routes of all sessions of one shard.
pub(crate) struct Routes {
    /// By peer.
    outbound: Vec<[OutRoutes; LANES]>,
    /// By link.
    inbound: Vec<InSession>,
    hash: FixedState,
}

/// Control carries no messages.
const LANES: usize = 2;

fn index(lane: Lane) -> Option<usize> {
    match lane {
        Lane::Control => None,
        Lane::User => Some(0),
        Lane::Bulk => Some(1),
    }
}

impl Routes {
    pub(crate) fn new(seed: u64) -> Self {
        Self { outbound: Vec::new(), inbound: Vec::new(), hash: FixedState::with_seed(seed) }
    }

    /// Forgets what a session with this peer had defined.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        if let Some(lanes) = self.outbound.get_mut(peer.get() as usize) {
            lanes.iter_mut().for_each(OutRoutes::clear);
        }
    }

    /// The routes towards a peer.
    pub(crate) fn towards(&mut self, peer: NodeId, lane: Lane) -> Option<(&mut OutRoutes, &FixedState)> {
        let peer = peer.get() as usize;
        if self.outbound.len() <= peer {
            self.outbound.resize_with(peer + 1, Default::default);
        }
        Some((&mut self.outbound[peer][index(lane)?], &self.hash))
    }

    /// What the peer has defined in this session.
    pub(crate) fn from(&mut self, source: Source, lane: Lane) -> Option<&mut Vec<InRoute>> {
        let link = source.link as usize;
        if self.inbound.len() <= link {
            self.inbound.resize_with(link + 1, InSession::default);
        }
        let session = &mut self.inbound[link];
        if session.number != source.session {
            session.number = source.session;
            session.lanes = Default::default();
        }
        Some(&mut session.lanes[index(lane)?])
    }
}

/// How a message's header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Wholly.
    Full,
    /// As this number, which the peer knows.
    Known(u16),
    /// As this number, after its definition; [`OutRoutes::defined`] once that is on the lane.
    Define(u16),
}

/// What one lane to one peer has numbers for.
#[derive(Default)]
pub(crate) struct OutRoutes {
    classes: Vec<Class>,
    entries: Vec<OutRoute>,
    /// Hashes of what was sent with a full header lately: what comes again gets a number.
    seen: Vec<u32>,
    /// The number that was used last.
    last: usize,
    /// Where the search for a number to be given again goes on.
    hand: usize,
    /// Rises whenever a number comes to mean something else.
    version: u64,
}

/// One message type of one actor type.
struct Class {
    position: usize,
    message: (MessageId, u16),
    numbers: HashMap<Key, u16, FixedState>,
}

struct OutRoute {
    class: usize,
    key: Key,
    epoch: Epoch,
    defined: bool,
    /// Since the hand passed.
    used: bool,
}

impl OutRoutes {
    fn clear(&mut self) {
        *self = Self { version: self.version + 1, ..Self::default() };
    }

    /// How to write the header of a message to `key`, an actor of the registered type at `position`.
    #[inline]
    pub(crate) fn find(
        &mut self,
        hash: &FixedState,
        position: usize,
        message: (MessageId, u16),
        key: &Key,
        epoch: Epoch,
    ) -> Form {
        if let Some(entry) = self.entries.get_mut(self.last)
            && entry.key.is(key)
            && entry.epoch == epoch
            && entry.defined
        {
            let class = &self.classes[entry.class];
            if class.position == position && class.message == message {
                entry.used = true;
                return Form::Known(number(self.last));
            }
        }
        self.search(hash, position, message, key, epoch)
    }

    fn search(
        &mut self,
        hash: &FixedState,
        position: usize,
        message: (MessageId, u16),
        key: &Key,
        epoch: Epoch,
    ) -> Form {
        let class = self.classes.iter().position(|class| class.position == position && class.message == message);
        let class = class.unwrap_or_else(|| {
            self.classes.push(Class { position, message, numbers: HashMap::with_hasher(hash.clone()) });
            self.classes.len() - 1
        });
        let Some(found) = self.classes[class].numbers.get(key.as_str()).copied() else {
            return self.consider(hash, class, key, epoch);
        };
        self.last = found as usize;
        let entry = &mut self.entries[self.last];
        entry.used = true;
        if entry.epoch != epoch {
            entry.epoch = epoch;
            entry.defined = false;
            self.version += 1;
        }
        if entry.defined { Form::Known(found) } else { Form::Define(found) }
    }

    /// Gives a number to what was seen before, and remembers what was not.
    #[cold]
    fn consider(&mut self, hash: &FixedState, class: usize, key: &Key, epoch: Epoch) -> Form {
        let hashed = hash.hash_one((class, key.as_str()));
        // Zero is what nothing has been seen as yet.
        #[expect(clippy::cast_possible_truncation, reason = "a part of the hash")]
        let (place, seen) = (hashed as usize % ROUTES_REMEMBERED, (hashed >> 32) as u32 | 1);
        if self.seen.is_empty() {
            self.seen.resize(ROUTES_REMEMBERED, 0);
        }
        if std::mem::replace(&mut self.seen[place], seen) != seen {
            return Form::Full;
        }
        self.give(class, key, epoch)
    }

    /// Gives a number.
    fn give(&mut self, class: usize, key: &Key, epoch: Epoch) -> Form {
        let entry = OutRoute { class, key: key.clone(), epoch, defined: false, used: true };
        let at = if self.entries.len() < usize::from(ROUTES_MAX) {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let at = self.victim();
            self.version += 1;
            let old = std::mem::replace(&mut self.entries[at], entry);
            self.classes[old.class].numbers.remove(old.key.as_str());
            at
        };
        self.classes[class].numbers.insert(key.clone(), number(at));
        self.last = at;
        Form::Define(number(at))
    }

    /// A number for a receiver that a message for many goes to, whether or not it was sent anything before; and whether it
    /// has to be defined first.
    pub(crate) fn assign(
        &mut self,
        hash: &FixedState,
        position: usize,
        message: (MessageId, u16),
        key: &Key,
        epoch: Epoch,
    ) -> (u16, bool) {
        match self.search(hash, position, message, key, epoch) {
            Form::Known(number) => (number, false),
            Form::Define(number) => (number, true),
            Form::Full => {
                let class =
                    self.classes.iter().position(|class| class.position == position && class.message == message);
                match self.give(class.expect("searched for just now"), key, epoch) {
                    Form::Known(number) | Form::Define(number) => (number, true),
                    Form::Full => unreachable!("a number was given"),
                }
            }
        }
    }

    /// As long as it stays the same, numbers mean what they meant.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The next number that was not used since the hand passed.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[at].used) {
                return at;
            }
        }
    }

    /// The definition of a number is on the lane.
    pub(crate) fn defined(&mut self, route: u16) {
        self.entries[route as usize].defined = true;
    }
}

fn number(at: usize) -> u16 {
    u16::try_from(at).expect("at most ROUTES_MAX entries")
}

/// The session from which a link's routes are.
#[derive(Default)]
struct InSession {
    number: u64,
    lanes: [Vec<InRoute>; LANES],
}

/// What a number means at the receiver.
pub(crate) struct InRoute {
    pub(crate) receiver: Receiver,
    /// Of the definition; answers and refusals repeat it.
    pub(crate) header: FrameHeader,
    pub(crate) key: Key,
}

/// Who gets a message that came over the wire, and how it is read: what all messages of one route have in common.
#[derive(Clone, Copy)]
pub(crate) struct Receiver {
    /// Or why every message is refused.
    pub(crate) message: Result<&'static InboundMessage, ReplyStatus>,
    /// The actor type's place in the registry.
    pub(crate) position: usize,
    /// The shard of this node where it lives.
    pub(crate) shard: u16,
    /// Its cell when it was last found, if that is on this shard.
    pub(crate) cell: (u32, u32),
    /// The cell that refused the last message, if one did.
    pub(crate) refused: (u32, u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: (MessageId, u16) = (MessageId::new(7), 1);

    #[test]
    fn the_second_message_defines_a_number_and_the_third_uses_it() {
        let hash = FixedState::with_seed(1);
        let mut routes = OutRoutes::default();
        let key = Key::from("a");
        let find = |routes: &mut OutRoutes, key: &Key, epoch| routes.find(&hash, 0, MESSAGE, key, Epoch::new(epoch));
        assert_eq!(find(&mut routes, &key, 1), Form::Full);
        assert_eq!(find(&mut routes, &key, 1), Form::Define(0));
        assert_eq!(find(&mut routes, &key, 1), Form::Define(0), "it did not fit on the lane");
        routes.defined(0);
        assert_eq!(find(&mut routes, &key, 1), Form::Known(0));
        assert_eq!(find(&mut routes, &Key::from("a"), 1), Form::Known(0), "another reference to the same actor");
        assert_eq!(find(&mut routes, &Key::from("b"), 1), Form::Full);
        assert_eq!(find(&mut routes, &key, 2), Form::Define(0), "an epoch later the number means something else");
    }

    #[test]
    fn numbers_that_ran_out_are_given_again() {
        let hash = FixedState::with_seed(1);
        let mut routes = OutRoutes::default();
        let mut numbers = Vec::new();
        let total = u32::from(ROUTES_MAX) + 10;
        for text in 0..total {
            let key = Key::from(text.to_string());
            routes.find(&hash, 0, MESSAGE, &key, Epoch::FIRST);
            let Form::Define(number) = routes.find(&hash, 0, MESSAGE, &key, Epoch::FIRST) else {
                panic!("seen before")
            };
            routes.defined(number);
            numbers.push(number);
        }
        assert!(numbers.iter().all(|number| *number < ROUTES_MAX));
        let first = routes.find(&hash, 0, MESSAGE, &Key::from("0"), Epoch::FIRST);
        assert!(!matches!(first, Form::Known(_)), "its number means another now: {first:?}");
        let last = routes.find(&hash, 0, MESSAGE, &Key::from((total - 1).to_string()), Epoch::FIRST);
        assert_eq!(last, Form::Known(*numbers.last().expect("many")));
    }
}
