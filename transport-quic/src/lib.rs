//! QUIC between the nodes of a Shardstage cluster: mutual TLS, one socket per shard, lanes that do not delay each other.
//!
//! This crate implements the engine's [`Transport`](shardstage::port::transport::Transport) port on top of its
//! [`Driver`](shardstage::port::driver::Driver) port. The protocol itself is `quinn-proto`, which does no input or output
//! of its own; so the same code runs on real sockets and, with virtual time and one seed, in the simulator.
//!
//! A frame's way: [`Transport::reserve`](shardstage::port::transport::Transport::reserve) gives room in a lane's queue;
//! `flush` hands the queue to the lane's stream and the stream's datagrams to the driver; the peer's `poll` puts the
//! stream together again in an aligned buffer and delivers the frame from there.
//!
//! ```text
//! stream of a lane:  preamble (16) | frame | frame | ...        the control lane's first frame is the greeting
//! preamble:          magic "shrdstg1" (8) | lane (1) | zeros (7)
//! frame:             length (4) | ... | zeros to a multiple of 16
//! ```
#![forbid(unsafe_code)]

mod certs;
mod clock;
mod config;
mod connection;
mod greeting;
mod identity;
mod lane;
pub mod limits;
mod link;
mod reason;
mod seed;
mod tls;
mod transport;

pub use certs::{CertError, DevCerts, Identity};
pub use config::{Quic, QuicConfig};
pub use identity::NodeIdentity;
