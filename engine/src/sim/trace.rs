//! `Trace`: what happened in a world, as a running 64-bit hash and, when asked for, as lines.
//!
//! Invariant: an entry holds virtual time, node, shard, kind, ids and sizes, never payload bytes: two runs whose payloads
//! differ only in random keys have the same trace. Used by the world's one thread.

use super::random::mix;
use super::state::Seat;

/// What happened. The two numbers of an entry are named in each kind's line.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum TraceKind {
    /// A shard takes a turn (0, 0).
    Turn,
    /// A shard was woken through its waker (0, 0).
    Wake,
    /// A datagram was sent (ports, bytes).
    Send,
    /// A datagram was lost on the way or never left (ports, bytes).
    Lose,
    /// A datagram reached its socket (ports, bytes).
    Deliver,
    /// A socket was bound (port, 0).
    Bind,
    /// A control call changed a directory (inode, 0).
    Entry,
    /// A data call was submitted (token, bytes).
    Submit,
    /// A data call completed (token, bytes or `u64::MAX` for an error).
    Complete,
    /// A node lost power (boot number, data calls in flight).
    Crash,
    /// A node's process was killed (boot number, data calls in flight).
    Kill,
    /// A shard handled messages (how many, 0).
    Handle,
}

/// The trace of one world.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Adds one entry.
    pub(super) fn record(&mut self, now_ns: u64, seat: Seat, kind: TraceKind, first: u64, second: u64) {
        let place = u64::from(seat.node.get()) << 32 | u64::from(seat.shard.get()) << 8 | kind as u64;
        for word in [now_ns, place, first, second] {
            self.hash = mix(self.hash ^ word);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{now_ns} n{} s{} {kind:?} {first} {second}", seat.node.get(), seat.shard.get()));
        }
    }

    /// Starts (empty) or stops keeping lines.
    pub(super) fn keep_lines(&mut self, keep: bool) {
        self.lines = keep.then(Vec::new);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
