//! One lane of one session: the queue of frames on their way out, and the reassembly of frames that come in.
//!
//! Invariant: every frame starts at a multiple of 16 bytes in the stream and in the reassembly buffer, because each
//! occupies its length rounded up to 16 and the buffer itself is aligned to 16; so a delivered frame is always aligned.
//! Lengths from the peer are checked before they are used. Called on the shard's thread only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::{Bytes, BytesMut};
use quinn_proto::{SendStream, WriteError};
use shardstage::port::frame::{Frame, FrameBuffer};
use shardstage::port::transport::{Lane, ReserveError};
use shardstage_codec::limits::ALIGN_BYTES;
use shardstage_codec::short;

use crate::limits::{
    COALESCE_BYTES, CONTROL_QUEUE_BYTES, KEEP_REASSEMBLY_BYTES, LANE_QUEUE_BYTES, PREAMBLE_BYTES, QUEUE_BLOCK_BYTES,
};

const MAGIC: [u8; 8] = *b"shrdstg1";

/// The first bytes of a lane's stream: magic (8), lane (1), zeros (7).
pub(crate) fn preamble(lane: Lane) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8] = lane as u8;
    bytes
}

/// The lane that a preamble names.
fn lane_of(bytes: &[u8]) -> Result<Lane, FrameError> {
    Lane::ALL.into_iter().find(|lane| preamble(*lane) == *bytes).ok_or(FrameError::Preamble)
}

/// Frames on their way out. Nothing is copied again after [`reserve`](Self::reserve).
#[derive(Debug)]
pub(crate) struct SendLane {
    blocks: VecDeque<Bytes>,
    open: BytesMut,
    queued: usize,
    /// Bytes of each reservation that no stream has taken wholly, and how many of the first one it has.
    reserved: VecDeque<u32>,
    taken: usize,
    capacity: usize,
    /// When the last small write went out.
    small_write_ns: u64,
}

impl SendLane {
    pub(crate) fn new(lane: Lane) -> Self {
        let capacity = if lane == Lane::Control { CONTROL_QUEUE_BYTES } else { LANE_QUEUE_BYTES };
        let (blocks, open) = (VecDeque::new(), BytesMut::new());
        Self { blocks, open, queued: 0, reserved: VecDeque::new(), taken: 0, capacity, small_write_ns: 0 }
    }

    /// Zeroed room for one frame.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<&mut [u8], ReserveError> {
        if self.queued + len > self.capacity {
            return Err(ReserveError::Full);
        }
        if self.open.capacity() - self.open.len() < len {
            self.close_block();
            self.open = BytesMut::with_capacity(len.max(QUEUE_BLOCK_BYTES));
        }
        let start = self.open.len();
        self.open.resize(start + len, 0);
        self.queued += len;
        self.reserved.push_back(u32::try_from(len).expect("a reservation is far below 4 GiB"));
        Ok(&mut self.open[start..])
    }

    /// Bytes that no stream took yet.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Forgets everything that no stream took yet; `unsent` gets each frame of which it took nothing.
    pub(crate) fn clear(&mut self, mut unsent: impl FnMut(&[u8])) {
        self.close_block();
        // A frame of which the stream has a part may have arrived; the others surely have not.
        let mut skip = if self.taken == 0 { 0 } else { self.reserved[0] as usize - self.taken };
        for block in self.blocks.drain(..) {
            // A reservation lies in one block.
            let mut rest = &block[std::mem::take(&mut skip)..];
            while let Some(len) = rest.first_chunk().and_then(|first| short::unpadded_len(*first)) {
                let (frame, after) = rest.split_at(len.next_multiple_of(ALIGN_BYTES).min(rest.len()));
                unsent(frame);
                rest = after;
            }
        }
        self.reserved.clear();
        self.taken = 0;
        self.open = BytesMut::new();
        self.queued = 0;
        self.small_write_ns = 0;
    }

    /// Until when a write should be held back so that small ones gather; `None` when it may go out now.
    pub(crate) fn hold_until_ns(&self, now_ns: u64, gap_ns: u64) -> Option<u64> {
        let until = self.small_write_ns.saturating_add(gap_ns);
        (self.queued < COALESCE_BYTES && now_ns < until).then_some(until)
    }

    /// Hands the stream as much as it takes; returns whether it took anything.
    pub(crate) fn write_to(&mut self, stream: &mut SendStream<'_>, now_ns: u64) -> Result<bool, WriteError> {
        self.close_block();
        if self.queued < COALESCE_BYTES {
            self.small_write_ns = now_ns;
        }
        let before = self.queued;
        while !self.blocks.is_empty() {
            let written = match stream.write_chunks(self.blocks.make_contiguous()) {
                Ok(written) => written,
                Err(WriteError::Blocked) => break,
                Err(error) => return Err(error),
            };
            self.blocks.drain(..written.chunks);
            self.note_taken(written.bytes);
        }
        Ok(self.queued != before)
    }

    /// The stream has taken so many bytes.
    fn note_taken(&mut self, bytes: usize) {
        self.queued -= bytes;
        self.taken += bytes;
        while let Some(first) = self.reserved.front().filter(|first| **first as usize <= self.taken) {
            self.taken -= *first as usize;
            self.reserved.pop_front();
        }
    }

    /// Ends the block that is being filled; the rest of its memory serves the next one.
    fn close_block(&mut self) {
        if !self.open.is_empty() {
            self.blocks.push_back(self.open.split().freeze());
        }
    }
}

/// Why a peer's bytes on a lane are no frames. The session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The stream does not begin with a lane's preamble.
    Preamble,
    /// No frame begins with these four bytes, or not one within the limit.
    Length { first: u32, limit: usize },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Preamble => f.write_str("a stream does not begin with the preamble of a lane"),
            Self::Length { first, limit } => {
                write!(f, "no frame of up to {limit} bytes begins with {first:#010x}")
            }
        }
    }
}

/// Puts a stream's chunks together again, in one aligned buffer: the only copy between the datagram and a reader in place.
#[derive(Debug)]
pub(crate) struct ReceiveLane {
    lane: Option<Lane>,
    buffer: FrameBuffer,
    max_frame_bytes: usize,
}

impl ReceiveLane {
    /// `pinned` counts the received bytes that the engine keeps.
    pub(crate) fn new(max_frame_bytes: usize, pinned: &Arc<AtomicUsize>) -> Self {
        Self { lane: None, buffer: FrameBuffer::new(pinned), max_frame_bytes }
    }

    /// Bytes gathered and not delivered yet.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Takes a chunk.
    pub(crate) fn extend(&mut self, chunk: &[u8]) {
        self.buffer.bytes_mut().extend_from_slice(chunk);
    }

    /// How many bytes to read before the peer's greeting is known: the preamble; on the control lane the first frame.
    pub(crate) fn greeting_bytes_wanted(&mut self) -> Result<usize, FrameError> {
        if self.buffer.len() < PREAMBLE_BYTES {
            return Ok(PREAMBLE_BYTES - self.buffer.len());
        }
        if lane_of(&self.buffer[..PREAMBLE_BYTES])? != Lane::Control {
            return Ok(0);
        }
        let wanted = self.occupied(PREAMBLE_BYTES)?.unwrap_or(ALIGN_BYTES);
        Ok((PREAMBLE_BYTES + wanted).saturating_sub(self.buffer.len()))
    }

    /// The first frame of the control lane, once it is whole.
    pub(crate) fn take_greeting(&mut self) -> Option<Vec<u8>> {
        if self.lane.is_some() || lane_of(self.buffer.get(..PREAMBLE_BYTES)?) != Ok(Lane::Control) {
            return None;
        }
        let end = PREAMBLE_BYTES + self.occupied(PREAMBLE_BYTES).ok()??;
        let greeting = self.buffer.get(PREAMBLE_BYTES..end)?.to_vec();
        self.lane = Some(Lane::Control);
        self.consume(end);
        Some(greeting)
    }

    /// Delivers every whole frame and keeps the rest at the front of the buffer.
    pub(crate) fn parse(&mut self, deliver: &mut impl FnMut(Lane, Frame<'_>)) -> Result<(), FrameError> {
        let mut at = 0;
        let lane = match self.lane {
            Some(lane) => lane,
            None if self.buffer.len() < PREAMBLE_BYTES => return Ok(()),
            None => {
                at = PREAMBLE_BYTES;
                *self.lane.insert(lane_of(&self.buffer[..PREAMBLE_BYTES])?)
            }
        };
        while let Some(occupied) = self.occupied(at)? {
            if self.buffer.len() < at + occupied {
                break;
            }
            deliver(lane, self.buffer.frame(at..at + occupied));
            at += occupied;
        }
        self.consume(at);
        Ok(())
    }

    /// Bytes that the frame at `at` occupies, once its length is there.
    fn occupied(&self, at: usize) -> Result<Option<usize>, FrameError> {
        let Some(first) = self.buffer.get(at..).and_then(<[u8]>::first_chunk::<4>) else { return Ok(None) };
        let len = short::unpadded_len(*first).filter(|len| *len <= self.max_frame_bytes);
        let refused = || FrameError::Length { first: u32::from_le_bytes(*first), limit: self.max_frame_bytes };
        Ok(Some(len.ok_or_else(refused)?.next_multiple_of(ALIGN_BYTES)))
    }

    fn consume(&mut self, at: usize) {
        self.buffer.restart(at);
        self.buffer.shrink(KEEP_REASSEMBLY_BYTES);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests {
    use super::*;

    fn frame(len: usize, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; len];
        bytes[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        bytes.resize(len.next_multiple_of(ALIGN_BYTES), 0);
        bytes
    }

    #[test]
    fn frames_survive_any_cut_and_are_aligned() {
        let frames: Vec<_> = [64, 65, 200, 100_000, 79, 64]
            .into_iter()
            .enumerate()
            .map(|(i, len)| frame(len, u8::try_from(i).unwrap()))
            .collect();
        let mut stream = preamble(Lane::Bulk).to_vec();
        stream.extend(frames.concat());
        for cut in [1, 3, 15, 16, 17, 63, 64, 1200, 70_000, usize::MAX] {
            let mut lane = ReceiveLane::new(1 << 20, &Arc::default());
            let mut got = Vec::new();
            let mut deliver = |lane, frame: Frame<'_>| {
                assert_eq!(lane, Lane::Bulk);
                assert_eq!(frame.as_ptr() as usize % ALIGN_BYTES, 0);
                got.push(frame.to_vec());
            };
            for chunk in stream.chunks(cut.min(stream.len())) {
                lane.extend(chunk);
                lane.parse(&mut deliver).unwrap();
            }
            assert_eq!(got, frames, "cut {cut}");
        }
    }

    #[test]
    fn impossible_lengths_and_preambles_are_refused() {
        for len in [0, 63, 1025, u32::MAX] {
            let mut lane = ReceiveLane::new(1024, &Arc::default());
            lane.extend(&preamble(Lane::User));
            lane.extend(&len.to_le_bytes());
            assert_eq!(lane.parse(&mut |_, _| ()), Err(FrameError::Length { first: len, limit: 1024 }));
        }
        let mut lane = ReceiveLane::new(1024, &Arc::default());
        lane.extend(&[7; 16]);
        assert_eq!(lane.parse(&mut |_, _| ()), Err(FrameError::Preamble));
    }

    #[test]
    fn a_full_queue_says_so_and_control_has_more_room() {
        let mut user = SendLane::new(Lane::User);
        let mut control = SendLane::new(Lane::Control);
        let count = |lane: &mut SendLane| (0..).take_while(|_| lane.reserve(1024).is_ok()).count() * 1024;
        assert_eq!(count(&mut user), LANE_QUEUE_BYTES);
        assert_eq!(count(&mut control), CONTROL_QUEUE_BYTES);
        let mut unsent = 0;
        user.clear(|_| unsent += 1);
        assert_eq!(unsent, 0, "zeroes are no frames");
        assert!(user.is_empty() && user.reserve(64).is_ok());
    }

    #[test]
    fn what_no_stream_took_is_named_when_it_is_forgotten() {
        for taken in [0, 64, 80, 200] {
            let mut lane = SendLane::new(Lane::User);
            for (len, fill) in [(64, 1), (160, 2), (96, 3)] {
                let bytes = frame(len, fill);
                lane.reserve(bytes.len()).unwrap().copy_from_slice(&bytes);
            }
            // As a stream that takes so many bytes.
            lane.close_block();
            bytes::Buf::advance(&mut lane.blocks[0], taken);
            lane.note_taken(taken);
            let mut unsent = Vec::new();
            lane.clear(|frame| unsent.push(frame[4]));
            let expected: &[u8] = match taken {
                0 => &[1, 2, 3],
                64 => &[2, 3],
                _ => &[3],
            };
            assert_eq!(unsent, expected, "{taken} bytes were taken");
            assert!(lane.is_empty());
        }
    }
}
