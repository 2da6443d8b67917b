//! `UdpSocket`: datagram batches with segmentation offload, shared by both real drivers.
//!
//! Invariant: one system call never carries more than [`GSO_CALL_BYTES`] or more segments than the socket supports.
//! Runs on the shard's thread; the socket is non-blocking.

use std::array;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::SockRef;

use crate::limits::{GSO_CALL_BYTES, SOCKET_BUFFER_BYTES};
use crate::port::driver::{DatagramBatch, DatagramMeta, Transmit};

/// A bound, non-blocking datagram socket.
pub(super) struct UdpSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
}

impl UdpSocket {
    /// Binds and asks for larger buffers, which the kernel may cap.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)
            .map_err(|error| io::Error::new(error.kind(), format!("binding UDP {address}: {error}")))?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let options = SockRef::from(&socket);
        // Best effort: a smaller buffer loses more datagrams under bursts and breaks nothing.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        Ok(Self { socket, state })
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn inner(&self) -> &std::net::UdpSocket {
        &self.socket
    }

    pub(super) fn max_segments(&self) -> usize {
        self.state.max_gso_segments().max(1)
    }

    /// Fills `batch` with one system call; `WouldBlock` when there is nothing.
    pub(super) fn receive(&self, batch: &mut DatagramBatch) -> io::Result<usize> {
        batch.metas.clear();
        let slots = batch.buffers.len().min(BATCH_SIZE);
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = batch.buffers.iter_mut();
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            array::from_fn(|_| IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| buffer.as_mut_slice())));
        let count = loop {
            match self.state.recv(UdpSockRef::from(&self.socket), &mut slices[..slots], &mut metas[..slots]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        batch.metas.extend(metas[..count].iter().map(|meta| DatagramMeta {
            source: meta.addr,
            destination: meta.dst_ip,
            len: meta.len,
            stride: if meta.stride == 0 { meta.len } else { meta.stride },
            ecn: meta.ecn.map_or(0, |ecn| ecn as u8),
        }));
        Ok(count)
    }

    /// Sends one transmit, split where it is larger than one system call may be. `WouldBlock` when the buffer is full;
    /// a split transmit may then have gone out in part.
    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let total = transmit.payload.len();
        let call_bytes = match transmit.segment_bytes {
            Some(segment) => segments_per_call(segment, self.max_segments()) * segment.max(1),
            None => total,
        };
        if total <= call_bytes {
            return self.send_call(transmit, transmit.payload);
        }
        transmit.payload.chunks(call_bytes).try_for_each(|part| self.send_call(transmit, part))
    }

    fn send_call(&self, transmit: &Transmit<'_>, contents: &[u8]) -> io::Result<()> {
        let call = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: EcnCodepoint::from_bits(transmit.ecn),
            contents,
            segment_size: transmit.segment_bytes,
            src_ip: transmit.source,
        };
        loop {
            match self.state.try_send(UdpSockRef::from(&self.socket), &call) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// How many segments of `segment` bytes one call may carry, at least 1.
fn segments_per_call(segment: usize, max_segments: usize) -> usize {
    (GSO_CALL_BYTES / segment.max(1)).min(max_segments).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stays_within_the_batch_limit() {
        assert_eq!(segments_per_call(1452, 64), 45);
        assert_eq!(segments_per_call(8952, 64), 7);
        assert_eq!(segments_per_call(1285, 64), 50);
        assert_eq!(segments_per_call(100, 64), 64);
        assert_eq!(segments_per_call(1452, 1), 1);
        assert_eq!(segments_per_call(70_000, 64), 1);
        assert_eq!(segments_per_call(0, 64), 64);
    }
}
