//! From the queues to the socket, and the orderly end.
//!
//! Invariant: a batch that the socket refused goes out before any other, and nothing is lost by a full socket. Shard's
//! thread.

use shardstage::port::driver::{Driver, Transmit};
use shardstage::port::transport::Lane;

use super::{QuicTransport, Stalled, Stopping};
use crate::clock::ns;
use crate::connection::Phase;
use crate::limits;
use crate::reason::CloseCode;

impl QuicTransport {
    /// Sends the batch that the socket refused earlier. Returns whether the socket is free.
    pub(super) fn unstall(&mut self, driver: &mut dyn Driver) -> bool {
        let (Some(running), Some(stalled)) = (&self.running, &mut self.stalled) else { return true };
        let size = stalled.transmit.size;
        if matches!(driver.send(running.socket, &for_driver(&stalled.transmit, &stalled.payload[..size])), Ok(false)) {
            stalled.retry_ns = self.now_ns.saturating_add(ns(limits::SOCKET_RETRY));
            return false;
        }
        self.stalled = None;
        true
    }

    /// Whether any connection has a batch that is large or old enough, or something to say beside frames.
    pub(super) fn transmit_is_due(&mut self) -> bool {
        let now_ns = self.now_ns;
        self.transmit.iter().any(|index| {
            let Some(conn) = &mut self.conns[*index] else { return true };
            let Phase::Open { link, .. } = conn.phase else { return true };
            let since_ns = *conn.waiting_since_ns.get_or_insert(now_ns);
            now_ns - since_ns >= ns(limits::BUSY_HOLD) || self.links[link].queued() >= limits::COALESCE_BYTES
        })
    }

    pub(super) fn send_all(&mut self, driver: &mut dyn Driver) {
        let mut waiting = std::mem::take(&mut self.transmit);
        waiting.retain(|index| {
            let index = *index;
            self.write_queues(index);
            let more = !self.unstall(driver) || self.send_datagrams(driver, index);
            if let Some(conn) = &mut self.conns[index] {
                conn.in_transmit = more;
            }
            self.note_deadline(index);
            more && self.conns[index].is_some()
        });
        // Nothing can have been added meanwhile: only `touch` adds, and sending touches nothing.
        self.transmit = waiting;
    }

    pub(super) fn write_queues(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.waiting_since_ns = None;
        if let Phase::Open { link, .. } = conn.phase {
            conn.write(&mut self.links[link].lanes, self.now_ns, self.stopping != Stopping::No);
        }
    }

    /// Sends what a connection has to send. Returns whether it has more.
    pub(super) fn send_datagrams(&mut self, driver: &mut dyn Driver, index: usize) -> bool {
        let (Some(running), Some(conn)) = (&self.running, &mut self.conns[index]) else { return false };
        let now = self.clock.instant(self.now_ns);
        let per_transmit = (usize::from(u16::MAX) / usize::from(conn.quic.current_mtu()))
            .min(driver.max_segments(running.socket))
            .max(1);
        for _ in 0..limits::TRANSMIT_ROUNDS {
            self.scratch.clear();
            let Some(transmit) = conn.quic.poll_transmit(now, per_transmit, &mut self.scratch) else { return false };
            // An error counts as loss; the protocol repeats what matters.
            if matches!(driver.send(running.socket, &for_driver(&transmit, &self.scratch[..transmit.size])), Ok(false))
            {
                let retry_ns = self.now_ns.saturating_add(ns(limits::SOCKET_RETRY));
                self.stalled = Some(Stalled { transmit, payload: std::mem::take(&mut self.scratch), retry_ns });
                return true;
            }
        }
        true
    }

    /// Whether nothing that was queued waits for an acknowledgement any more. Finishes streams whose queue is empty.
    pub(super) fn drained(&mut self, finish: bool) -> bool {
        let mut all = true;
        for index in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[index] else { continue };
            let Phase::Open { link, .. } = conn.phase else { continue };
            if !self.links[link].is_idle() {
                all = false;
            } else if finish {
                conn.finish();
                all = false;
            } else {
                all &= conn.finished >= Lane::ALL.len();
            }
            self.touch(index);
        }
        all
    }

    pub(super) fn close_all(&mut self) {
        let now = self.clock.instant(self.now_ns);
        for index in 0..self.conns.len() {
            if let Some(conn) = &mut self.conns[index] {
                conn.close(now, CloseCode::Stopped, "the node is stopping");
                conn.phase = Phase::Ended;
                self.touch(index);
            }
        }
        for link in &mut self.links {
            link.dial = None;
            link.up = false;
            link.connection = None;
        }
    }
}

/// The protocol library's transmit in the port's words.
pub(super) fn for_driver<'a>(transmit: &quinn_proto::Transmit, payload: &'a [u8]) -> Transmit<'a> {
    Transmit {
        destination: transmit.destination,
        source: transmit.src_ip,
        ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
        segment_bytes: transmit.segment_size,
        payload,
    }
}
