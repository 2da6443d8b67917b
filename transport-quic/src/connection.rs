//! One QUIC connection on its way from handshake over greeting to session and end.
//!
//! Invariant: nothing but a greeting is read from a peer, and nothing but our greeting is sent to it, before its greeting
//! was accepted; so no frame reaches the engine outside a session. Shard's thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId, WriteError};
use rustls_pki_types::CertificateDer;
use shardstage::port::frame::Frame;
use shardstage::port::transport::{Lane, Source};
use shardstage_codec::NodeId;

use crate::clock::ns;
use crate::lane::{FrameError, ReceiveLane, SendLane, preamble};
use crate::limits::{COALESCE_BYTES, PARSE_BYTES, SMALL_WRITES_PER_RTT};
use crate::reason::{CloseCode, cut};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TLS is not done.
    Handshake,
    /// The peer's certificate is known; its greeting is awaited.
    Greeting { peer: NodeId },
    /// A session over this link.
    Open { link: usize, source: Source },
    /// Over; the protocol library lingers to answer stray datagrams.
    Ended,
}

/// A stream that the peer opened.
struct Incoming {
    id: StreamId,
    lane: ReceiveLane,
}

/// See the file's head.
pub(crate) struct Conn {
    pub(crate) quic: Connection,
    pub(crate) phase: Phase,
    /// The link whose attempt this is, where we dialled.
    pub(crate) dialled: Option<usize>,
    pub(crate) remote: SocketAddr,
    /// When the attempt is given up, later: when the peer's certificate expires.
    pub(crate) deadline_ns: u64,
    /// Earliest time at which a held-back write should go out.
    pub(crate) hold_ns: u64,
    /// Since when a busy shard has left its frames for a later flush.
    pub(crate) waiting_since_ns: Option<u64>,
    /// Whether it waits for events to be handled / for datagrams to be sent.
    pub(crate) in_service: bool,
    pub(crate) in_transmit: bool,
    /// Our streams, by lane, once open.
    outgoing: Option<[StreamId; 3]>,
    /// How many of them the peer has wholly acknowledged after `finish`.
    pub(crate) finished: usize,
    incoming: Vec<Incoming>,
    max_frame_bytes: usize,
    /// Received bytes that the engine keeps, of all connections of this transport.
    pinned: Arc<AtomicUsize>,
}

impl Conn {
    pub(crate) fn new(
        quic: Connection,
        dialled: Option<usize>,
        deadline_ns: u64,
        max_frame_bytes: usize,
        pinned: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            remote: quic.remote_address(),
            quic,
            phase: Phase::Handshake,
            dialled,
            deadline_ns,
            hold_ns: u64::MAX,
            waiting_since_ns: None,
            in_service: false,
            in_transmit: false,
            outgoing: None,
            finished: 0,
            incoming: Vec::new(),
            max_frame_bytes,
            pinned,
        }
    }

    /// The peer's own certificate, once TLS is done.
    pub(crate) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let identity = self.quic.crypto_session().peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.into_iter().next()
    }

    /// Opens our three streams and greets.
    ///
    /// # Errors
    /// What the peer's limits do not allow.
    pub(crate) fn greet(&mut self, greeting: &[u8]) -> Result<(), &'static str> {
        let mut open = || self.quic.streams().open(Dir::Uni).ok_or("the peer allows fewer than three streams");
        let streams = [open()?, open()?, open()?];
        for (lane, id) in Lane::ALL.into_iter().zip(streams) {
            let mut stream = self.quic.send_stream(id);
            let mut bytes = preamble(lane).to_vec();
            if lane == Lane::Control {
                stream.set_priority(1).map_err(|_| "a fresh stream is closed")?;
                bytes.extend_from_slice(greeting);
            }
            let len = bytes.len();
            let written = stream.write_chunks(&mut [Bytes::from(bytes)]).map_err(|_| "the peer takes no bytes")?;
            if written.bytes != len {
                return Err("the greeting is larger than the peer's window");
            }
        }
        self.outgoing = Some(streams);
        Ok(())
    }

    /// Takes on the streams that the peer opened.
    ///
    /// # Errors
    /// When there are more than lanes.
    pub(crate) fn accept_streams(&mut self) -> Result<(), &'static str> {
        while let Some(id) = self.quic.streams().accept(Dir::Uni) {
            if self.incoming.len() == Lane::ALL.len() {
                return Err("it opened more streams than there are lanes");
            }
            self.incoming.push(Incoming { id, lane: ReceiveLane::new(self.max_frame_bytes, &self.pinned) });
        }
        Ok(())
    }

    /// The peer's greeting, once it is whole.
    pub(crate) fn read_greeting(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        for incoming in &mut self.incoming {
            let mut stream = self.quic.recv_stream(incoming.id);
            let Ok(mut chunks) = stream.read(true) else { continue };
            loop {
                let limit = incoming.lane.greeting_bytes_wanted()?;
                if limit == 0 {
                    break;
                }
                let Ok(Some(chunk)) = chunks.next(limit) else { break };
                incoming.lane.extend(&chunk.bytes);
            }
            // Whether credit must be sent shows in the next transmit anyway.
            let _ = chunks.finalize();
            if let Some(greeting) = incoming.lane.take_greeting() {
                return Ok(Some(greeting));
            }
        }
        Ok(None)
    }

    /// Delivers every whole frame that has arrived, lane by lane.
    pub(crate) fn read_frames(&mut self, deliver: &mut impl FnMut(Lane, Frame<'_>)) -> Result<(), FrameError> {
        for incoming in &mut self.incoming {
            let mut stream = self.quic.recv_stream(incoming.id);
            let Ok(mut chunks) = stream.read(true) else { continue };
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                incoming.lane.extend(&chunk.bytes);
                if incoming.lane.len() >= PARSE_BYTES {
                    incoming.lane.parse(deliver)?;
                }
            }
            let _ = chunks.finalize();
            incoming.lane.parse(deliver)?;
        }
        Ok(())
    }

    /// Hands queued frames to the streams, as far as these take them.
    pub(crate) fn write(&mut self, lanes: &mut [SendLane; 3], now_ns: u64, urgent: bool) {
        let Some(streams) = self.outgoing else { return };
        self.hold_ns = u64::MAX;
        let gap_ns = if urgent { 0 } else { ns(self.quic.rtt()) / u64::from(SMALL_WRITES_PER_RTT) };
        for (lane, id) in lanes.iter_mut().zip(streams) {
            if lane.is_empty() {
                continue;
            }
            if let Some(until) = lane.hold_until_ns(now_ns, gap_ns) {
                self.hold_ns = self.hold_ns.min(until);
                continue;
            }
            match lane.write_to(&mut self.quic.send_stream(id), now_ns) {
                Ok(_) | Err(WriteError::Blocked) => {}
                // The connection is closing; its end is reported with the reason, and what was not sent with it.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {}
            }
        }
    }

    /// Says that no more will be sent; acknowledgements are counted in `finished`.
    pub(crate) fn finish(&mut self) {
        for id in self.outgoing.into_iter().flatten() {
            if self.quic.send_stream(id).finish().is_err() {
                self.finished += 1;
            }
        }
        if self.outgoing.is_none() {
            self.finished = Lane::ALL.len();
        }
    }

    /// Closes with a reason that the peer can read.
    pub(crate) fn close(&mut self, now: Instant, code: CloseCode, reason: &str) {
        self.quic.close(now, code.into(), Bytes::copy_from_slice(cut(reason).as_bytes()));
    }
}

const _: () = assert!(COALESCE_BYTES < PARSE_BYTES);
