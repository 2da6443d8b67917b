//! The three ports: what a shard stands on ([`driver`]), how bytes reach other nodes ([`transport`]) and what else lives
//! on a shard ([`service`]).
//!
//! The engine states them, adapters implement them, and adapters never see each other.

pub mod buffer;
pub mod driver;
pub mod frame;
pub mod service;
pub mod transport;
