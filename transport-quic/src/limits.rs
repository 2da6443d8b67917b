//! Every capacity, batch size and timeout of the QUIC transport, with its unit and reason.
//!
//! Invariant: the ceilings that a peer can reach (windows, queues, pending handshakes) are all finite.

use std::time::Duration;

use shardstage_codec::limits::{ALIGN_BYTES, MAX_FRAME_BYTES};

/// Application protocol name in the TLS handshake, compared exactly.
pub const ALPN: &[u8] = b"shardstage/1";

/// The first bytes of each lane's stream: magic, lane, zeros.
pub const PREAMBLE_BYTES: usize = 16;

/// Bytes queued for one (peer, lane) before `reserve` answers `Full`: more is latency, not throughput.
pub const LANE_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// The same for the control lane: twice as much, because answers to everything that the other lanes let in must fit.
pub const CONTROL_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Size of one block of a lane's queue, bytes: the unit that is handed to the stream without copying.
pub const QUEUE_BLOCK_BYTES: usize = 64 * 1024;

/// Writes below this size, bytes, are held back for a moment when the last one was recent: the protocol library's send
/// buffer is searched from its start, so thousands of small unacknowledged pieces are slow.
pub const COALESCE_BYTES: usize = 16 * 1024;

/// How long a batch below [`COALESCE_BYTES`] waits for more while its shard is busy: a fraction of what it takes to send it
/// and to wake the peer.
pub const BUSY_HOLD: Duration = Duration::from_micros(10);

/// How often the wall clock is read, which dates certificates and address tokens.
pub const WALL_CLOCK_EVERY: Duration = Duration::from_millis(1);

/// Small writes allowed per round trip and lane; a small write waits at most this fraction of a round trip.
pub const SMALL_WRITES_PER_RTT: u32 = 64;

/// A reassembly buffer is parsed after at most this many bytes, to stay within the cache.
pub const PARSE_BYTES: usize = 64 * 1024;

/// A reassembly buffer above this size is given back when it is empty, bytes.
pub const KEEP_REASSEMBLY_BYTES: usize = 256 * 1024;

/// Receive window of one stream, bytes: 1 MiB a round trip is 10 Gbit/s at 0.8 ms.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// Receive window of one connection, bytes; the library's default is unlimited.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Unacknowledged bytes that one connection keeps for sending.
pub const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Streams that a peer may open towards us, per direction; a session uses three.
pub const MAX_STREAMS: u32 = 16;

/// A session that hears nothing for this long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A quiet session sends a sign of life this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// From the first datagram to the accepted hello; after that the attempt is given up.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// The assumed round trip before the first measurement: nodes stand near each other, and three times this is what a lost
/// first datagram costs.
pub const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Wait before the first redial; doubles with each attempt.
pub const REDIAL_FIRST: Duration = Duration::from_millis(100);

/// Longest wait between two attempts.
pub const REDIAL_LONGEST: Duration = Duration::from_secs(3);

/// How long `stop` waits for acknowledgement of what was queued.
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// How long `stop` waits for the socket to take the closing datagrams.
pub const CLOSE_DEADLINE: Duration = Duration::from_millis(200);

/// Wait before a datagram batch that the socket refused is tried again.
pub const SOCKET_RETRY: Duration = Duration::from_micros(200);

/// Unfinished handshakes on one socket; further ones are ignored.
pub const PENDING_HANDSHAKES: usize = 256;

/// From this many unfinished handshakes on, a source must prove its address first (a stateless retry).
pub const RETRY_ABOVE_HANDSHAKES: usize = 64;

/// Bytes buffered for one handshake that is not accepted yet.
pub const HANDSHAKE_BUFFER_BYTES: u64 = 16 * 1024;

/// The same for all of them.
pub const HANDSHAKE_BUFFERS_BYTES: u64 = 4 * 1024 * 1024;

/// TLS bytes that may wait for reordering, per connection: a certificate chain.
pub const CRYPTO_BUFFER_BYTES: usize = 16 * 1024;

/// Largest datagram that path discovery tries, bytes: an Ethernet frame less its headers.
pub const DATAGRAM_BYTES_UPPER: u16 = 1452;

/// Datagram batches taken from the socket in one poll, so that a flood leaves time for actors.
pub const RECEIVE_ROUNDS: usize = 8;

/// Buffers a receive call fills at most.
pub const RECEIVE_SLOTS: usize = 8;

/// Transmits that one connection may hand to the socket in one flush.
pub const TRANSMIT_ROUNDS: usize = 64;

/// Length of our connection ids, bytes.
pub const CONNECTION_ID_BYTES: usize = 8;

/// Longest reason sent with a close, bytes: it must fit into one datagram.
pub const MAX_REASON_BYTES: usize = 600;

const _: () = assert!(PREAMBLE_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(LANE_QUEUE_BYTES >= 2 * MAX_FRAME_BYTES);
const _: () = assert!(CONTROL_QUEUE_BYTES > LANE_QUEUE_BYTES);
const _: () = assert!(QUEUE_BLOCK_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(STREAM_WINDOW_BYTES * 3 <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(RETRY_ABOVE_HANDSHAKES < PENDING_HANDSHAKES);
const _: () = assert!(KEEP_ALIVE.as_millis() * 2 < IDLE_TIMEOUT.as_millis());
