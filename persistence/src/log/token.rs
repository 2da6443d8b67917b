//! `Token`: what a completion belongs to, packed into the 56 bits that a service may use.
//!
//! Invariant: `unpack(pack(t)) == t` for values below 2^48.

/// Which part of the log waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// The frame in flight was written.
    FrameWrite,
    /// The sync after the frame's write ended.
    FrameSync,
    /// A call of the running task.
    Task,
    /// A read of an entity load.
    Load,
}

/// A completion's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// Frame number, call or read.
    pub(crate) value: u64,
}

const VALUE_BITS: u32 = 48;

impl Token {
    pub(crate) fn pack(self) -> u64 {
        debug_assert!(self.value >> VALUE_BITS == 0);
        let kind: u64 = match self.kind {
            TokenKind::FrameWrite => 1,
            TokenKind::FrameSync => 2,
            TokenKind::Task => 3,
            TokenKind::Load => 4,
        };
        kind << VALUE_BITS | self.value
    }

    pub(crate) fn unpack(token: u64) -> Option<Self> {
        let kind = match token >> VALUE_BITS {
            1 => TokenKind::FrameWrite,
            2 => TokenKind::FrameSync,
            3 => TokenKind::Task,
            4 => TokenKind::Load,
            _ => return None,
        };
        Some(Self { kind, value: token & ((1 << VALUE_BITS) - 1) })
    }
}
