//! What a user sets: [`QuicConfig`], and [`Quic`], the factory that the engine takes.
//!
//! Invariant: everything that can be wrong with names, certificates and keys is found in `make`, before a socket is bound.
//! The factory is shared between threads; each transport it makes belongs to one shard.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use shardstage::port::transport::{ClusterConfig, Transport, TransportFactory, TransportSeat};
use shardstage_codec::limits::{HEADER_BYTES, MAX_FRAME_BYTES};

use crate::certs::{CertError, DevCerts, Identity};
use crate::identity::check_name;
use crate::limits;
use crate::transport::QuicTransport;

/// Settings of the QUIC transport. All nodes of a cluster should use the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuicConfig {
    /// This node's certificate and key, and the cluster's authorities.
    pub identity: Identity,
    /// The largest frame, bytes, header and padding included.
    pub max_frame_bytes: usize,
    /// A session that hears nothing for this long is lost.
    pub idle_timeout: Duration,
    /// A quiet session sends a sign of life this often; less than half of `idle_timeout`.
    pub keep_alive: Duration,
    /// An attempt to open a session is given up after this long.
    pub handshake_deadline: Duration,
    /// The largest datagram that path discovery tries, bytes: 1,452 fits Ethernet, up to 9,000 where all links are jumbo.
    pub datagram_bytes_upper: u16,
}

impl QuicConfig {
    /// The defaults with this identity.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            max_frame_bytes: MAX_FRAME_BYTES,
            idle_timeout: limits::IDLE_TIMEOUT,
            keep_alive: limits::KEEP_ALIVE,
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            datagram_bytes_upper: limits::DATAGRAM_BYTES_UPPER,
        }
    }

    /// The defaults with an identity from PEM text: the authorities, this node's certificate chain, its private key.
    ///
    /// # Errors
    /// Which of the three is unreadable, and why.
    pub fn from_pem(authorities: &[u8], chain: &[u8], key: &[u8]) -> Result<Self, CertError> {
        Ok(Self::new(Identity::from_pem(authorities, chain, key)?))
    }

    /// The defaults with development certificates in `dir`, made on first use. See [`DevCerts`].
    ///
    /// # Errors
    /// The file at fault, and why.
    pub fn development(dir: &Path, cluster: &str, node: &str) -> Result<Self, CertError> {
        Ok(Self::new(DevCerts::load_or_create(dir, cluster, node)?))
    }

    /// Sets how soon a silent peer counts as lost.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self.keep_alive = idle_timeout / 3;
        self
    }

    fn check(&self) -> Result<(), String> {
        if !(HEADER_BYTES..=u32::MAX as usize).contains(&self.max_frame_bytes)
            || self.max_frame_bytes * 2 > limits::LANE_QUEUE_BYTES
        {
            return Err(format!(
                "max_frame_bytes is {}, allowed are {HEADER_BYTES} to {}",
                self.max_frame_bytes,
                limits::LANE_QUEUE_BYTES / 2
            ));
        }
        if self.idle_timeout.is_zero() || self.keep_alive * 2 >= self.idle_timeout {
            return Err("keep_alive must be less than half of idle_timeout, and neither may be zero".to_owned());
        }
        if !(1200..=9000).contains(&self.datagram_bytes_upper) {
            return Err(format!("datagram_bytes_upper is {}, allowed are 1200 to 9000", self.datagram_bytes_upper));
        }
        Ok(())
    }

    /// The protocol library's settings for every connection.
    pub(crate) fn protocol(&self) -> io::Result<Arc<TransportConfig>> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|e| invalid(format!("idle_timeout: {e}")))?;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.datagram_bytes_upper);
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(limits::MAX_STREAMS))
            .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(limits::CONNECTION_WINDOW_BYTES))
            .send_window(limits::SEND_WINDOW_BYTES)
            .crypto_buffer_size(limits::CRYPTO_BUFFER_BYTES)
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(limits::INITIAL_RTT)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .allow_spin(false)
            .mtu_discovery_config(Some(discovery));
        Ok(Arc::new(config))
    }
}

pub(crate) fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Makes one QUIC transport per shard.
///
/// ```no_run
/// use shardstage_quic::{Quic, QuicConfig};
/// # fn main() -> Result<(), shardstage_quic::CertError> {
/// let quic = Quic::new(QuicConfig::development("certs".as_ref(), "dev", "node-0")?);
/// # let _ = quic;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Quic {
    config: QuicConfig,
}

impl Quic {
    /// A factory with these settings.
    #[must_use]
    pub fn new(config: QuicConfig) -> Self {
        Self { config }
    }
}

impl TransportFactory for Quic {
    fn make(&self, seat: &TransportSeat) -> io::Result<Box<dyn Transport>> {
        self.config.check().map_err(invalid)?;
        check_cluster(&seat.cluster).map_err(invalid)?;
        Ok(Box::new(QuicTransport::new(self.config.clone(), seat)?))
    }
}

fn check_cluster(cluster: &ClusterConfig) -> Result<(), String> {
    check_name(&cluster.name)?;
    for (place, node) in cluster.nodes.iter().enumerate() {
        check_name(&node.name)?;
        if node.id.get() as usize != place {
            return Err(format!("node '{}' has id {} but stands at place {place} of the list", node.name, node.id));
        }
        if node.shards == 0 || (node.address.port() != 0 && node.address.port().checked_add(node.shards - 1).is_none())
        {
            return Err(format!("node '{}' at {} cannot have {} shards", node.name, node.address, node.shards));
        }
        if cluster.nodes[..place].iter().any(|other| other.name == node.name) {
            return Err(format!("two nodes are named '{}'", node.name));
        }
    }
    Ok(())
}
