//! The payload of a message that carries a request: what travels down the chain of calls, then the message.
//!
//! Invariant: what [`decode`] returns was checked: counts and lengths within their bounds, names and values as
//! [`check_header`] wants them, the archive aligned as the frame is. Frames without a request know nothing of this.
//! Pure functions, callable from any thread.
//!
//! ```text
//! offset  size
//!      0     4  len        bytes of this block without its padding
//!      4     1  flags      1: a trace parent follows
//!      5     1  headers    how many, at most 16
//!      6     1  callers    how many wait up the chain of calls, at most 32
//!      7     1  zero
//!      8     8  ttl_ns     time left to the request's deadline when the frame was written; 0 = none
//!     16    25  trace      if flagged: trace id 16, parent id 8, flags 1
//!               headers    for each: name_len 1, value_len 2, name, value
//!               callers    for each: node 4, wait 4, actor 8, label_len 1, label
//!               zeros to a multiple of 16
//!               the message's archive
//! ```

use core::fmt;

use crate::ids::NodeId;
use crate::limits::{
    ALIGN_BYTES, CALLER_LABEL_BYTES_MAX, CALLERS_MAX, REQUEST_BYTES_MAX, REQUEST_HEADERS_MAX, REQUEST_NAME_BYTES_MAX,
    REQUEST_VALUE_BYTES_MAX,
};
use crate::trace_parent::TraceParent;
use crate::wire::{AlignedBytes, pad_to_align};

const HEAD_BYTES: usize = 16;
const TRACED: u8 = 1;

/// Somebody up the chain of calls who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The node where it lives.
    pub node: NodeId,
    /// Which of its waits, so that a later one is not taken for it.
    pub wait: u32,
    /// Its address there; means nothing elsewhere.
    pub actor: u64,
    /// Its type and key, for people.
    pub label: &'a str,
}

/// What travels with a message beside itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestBlock<'a> {
    /// Nanoseconds left to the request's deadline; 0 = none.
    pub ttl_ns: u64,
    /// The trace, if there is one.
    pub trace: Option<TraceParent>,
    /// Names and values.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Who waits, the latest first.
    pub callers: Vec<Caller<'a>>,
}

/// What is wrong with a request or its block. Nothing was taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes end before the block does, or before the message begins.
    Incomplete,
    /// A length that does not agree with what it is the length of.
    Len,
    /// A flag or a byte that this version does not know.
    Unknown,
    /// More headers, callers, or bytes of them in all, than a request may have.
    TooMany,
    /// A header's name that is empty, too long, or has other bytes than visible ASCII.
    Name,
    /// A header's value that is too long, or has control characters.
    Value,
    /// A text that is not UTF-8.
    Text,
    /// A trace parent with an id of zeros.
    Trace,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incomplete => "a request that ends too early",
            Self::Len => "a request whose lengths disagree",
            Self::Unknown => "a request with a flag that this version does not know",
            Self::TooMany => "more headers, or more bytes of them, than a request may have",
            Self::Name => "a header's name that is empty, too long or not visible ASCII",
            Self::Value => "a header's value that is too long or has control characters",
            Self::Text => "a text in a request that is not UTF-8",
            Self::Trace => "a trace parent with an id of zeros",
        })
    }
}

impl core::error::Error for RequestError {}

/// Whether a header may be part of a request.
///
/// # Errors
///
/// [`RequestError::Name`] or [`RequestError::Value`].
pub fn check_header(name: &str, value: &str) -> Result<(), RequestError> {
    if name.is_empty() || name.len() > REQUEST_NAME_BYTES_MAX || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(RequestError::Name);
    }
    if value.len() > REQUEST_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(RequestError::Value);
    }
    Ok(())
}

/// Appends the block; `out` must end at a multiple of 16, and the message's archive follows at the next one. Returns the
/// bytes that it takes.
///
/// # Panics
///
/// If the request is beyond its bounds: the caller's bug.
pub fn append(out: &mut AlignedBytes, request: &RequestBlock<'_>) -> usize {
    let before = out.len();
    debug_assert!(before.is_multiple_of(ALIGN_BYTES));
    assert!(request.headers.len() <= REQUEST_HEADERS_MAX && request.callers.len() <= CALLERS_MAX, "bounded before");
    out.extend_from_slice(&[0; HEAD_BYTES]);
    if let Some(trace) = &request.trace {
        out.extend_from_slice(&trace.trace_id().to_le_bytes());
        out.extend_from_slice(&trace.parent_id().to_le_bytes());
        out.extend_from_slice(&[trace.flags()]);
    }
    for (name, value) in &request.headers {
        assert!(check_header(name, value).is_ok(), "checked before");
        out.extend_from_slice(&[name.len() as u8]);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    for caller in &request.callers {
        assert!(caller.label.len() <= CALLER_LABEL_BYTES_MAX, "bounded before");
        out.extend_from_slice(&caller.node.get().to_le_bytes());
        out.extend_from_slice(&caller.wait.to_le_bytes());
        out.extend_from_slice(&caller.actor.to_le_bytes());
        out.extend_from_slice(&[caller.label.len() as u8]);
        out.extend_from_slice(caller.label.as_bytes());
    }
    let len = out.len() - before;
    assert!(len <= REQUEST_BYTES_MAX, "bounded before");
    let flags = if request.trace.is_some() { TRACED } else { 0 };
    let head = [
        len as u64
            | u64::from(flags) << 32
            | (request.headers.len() as u64) << 40
            | (request.callers.len() as u64) << 48,
        request.ttl_ns,
    ];
    for (at, word) in head.into_iter().enumerate() {
        out[before + 8 * at..before + 8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    pad_to_align(out);
    out.len() - before
}

/// Splits a payload into what travels with the message and the message's archive.
///
/// Allocates for at most 16 headers and 32 callers, whatever the bytes say.
///
/// # Errors
///
/// See [`RequestError`]: the sender is broken.
pub fn decode(payload: &[u8]) -> Result<(RequestBlock<'_>, &[u8]), RequestError> {
    let head = payload.first_chunk::<HEAD_BYTES>().ok_or(RequestError::Incomplete)?;
    let [first, ttl_ns] = [0, 8].map(|at| u64::from_le_bytes(*head[at..].first_chunk().expect("16 bytes")));
    let [.., flags, headers, callers, zero] = first.to_le_bytes();
    let len = first as u32 as usize;
    if !(HEAD_BYTES..=REQUEST_BYTES_MAX).contains(&len) {
        return Err(RequestError::Len);
    }
    if zero != 0 || flags & !TRACED != 0 {
        return Err(RequestError::Unknown);
    }
    if usize::from(headers) > REQUEST_HEADERS_MAX || usize::from(callers) > CALLERS_MAX {
        return Err(RequestError::TooMany);
    }
    let archive = payload.get(len.next_multiple_of(ALIGN_BYTES)..).ok_or(RequestError::Incomplete)?;
    if payload[len..len.next_multiple_of(ALIGN_BYTES)].iter().any(|byte| *byte != 0) {
        return Err(RequestError::Unknown);
    }
    let mut rest = &payload[HEAD_BYTES..len];
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count).ok_or(RequestError::Len)?;
        rest = left;
        Ok(taken)
    };
    let trace = if flags & TRACED == 0 {
        None
    } else {
        let trace_id = u128::from_le_bytes(*take(16)?.first_chunk().expect("16 bytes"));
        let parent_id = u64::from_le_bytes(*take(8)?.first_chunk().expect("8 bytes"));
        Some(TraceParent::from_parts(trace_id, parent_id, take(1)?[0]).ok_or(RequestError::Trace)?)
    };
    let text = |bytes| core::str::from_utf8(bytes).map_err(|_| RequestError::Text);
    let mut block = RequestBlock { ttl_ns, trace, headers: Vec::new(), callers: Vec::new() };
    for _ in 0..headers {
        let name_len = usize::from(take(1)?[0]);
        let value_len = usize::from(u16::from_le_bytes(*take(2)?.first_chunk().expect("2 bytes")));
        let (name, value) = (text(take(name_len)?)?, text(take(value_len)?)?);
        check_header(name, value)?;
        block.headers.push((name, value));
    }
    for _ in 0..callers {
        let node = NodeId::new(u32::from_le_bytes(*take(4)?.first_chunk().expect("4 bytes")));
        let wait = u32::from_le_bytes(*take(4)?.first_chunk().expect("4 bytes"));
        let actor = u64::from_le_bytes(*take(8)?.first_chunk().expect("8 bytes"));
        let label_len = usize::from(take(1)?[0]);
        block.callers.push(Caller { node, wait, actor, label: text(take(label_len)?)? });
    }
    if !rest.is_empty() {
        return Err(RequestError::Len);
    }
    Ok((block, archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> RequestBlock<'static> {
        RequestBlock {
            ttl_ns: 5,
            trace: TraceParent::new(1, 2, true),
            headers: vec![("tenant", "blue"), ("empty", "")],
            callers: vec![Caller { node: NodeId::new(1), wait: 2, actor: 3, label: "Account(alice)" }],
        }
    }

    fn bytes(block: &RequestBlock<'_>) -> AlignedBytes {
        let mut out = AlignedBytes::new();
        let len = append(&mut out, block);
        assert_eq!((len, len % ALIGN_BYTES), (out.len(), 0));
        out.extend_from_slice(b"message");
        out
    }

    #[test]
    fn what_was_written_comes_back() {
        let empty = RequestBlock { ttl_ns: 0, trace: None, headers: Vec::new(), callers: Vec::new() };
        for block in [full(), empty] {
            assert_eq!(decode(&bytes(&block)), Ok((block, &b"message"[..])));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        let good = bytes(&full());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            decode(&bytes).map(|_| ())
        };
        assert_eq!(decode(&good[..15]).map(|_| ()), Err(RequestError::Incomplete));
        assert_eq!(decode(&good[..64]).map(|_| ()), Err(RequestError::Incomplete));
        assert_eq!(with(3, 255), Err(RequestError::Len));
        assert_eq!(with(0, 15), Err(RequestError::Len));
        assert_eq!(with(4, 3), Err(RequestError::Unknown));
        assert_eq!(with(7, 1), Err(RequestError::Unknown));
        assert_eq!(with(5, 17), Err(RequestError::TooMany));
        assert_eq!(with(6, 33), Err(RequestError::TooMany));
        assert_eq!(with(5, 1), Err(RequestError::Len));
        assert_eq!(with(44, b' '), Err(RequestError::Name));
        assert_eq!(with(44, 0xff), Err(RequestError::Text));
        assert_eq!(with(50, 7), Err(RequestError::Value));
        let mut zeros = good.to_vec();
        zeros[16..32].fill(0);
        assert_eq!(decode(&zeros).map(|_| ()), Err(RequestError::Trace));
    }
}
