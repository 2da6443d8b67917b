//! The load generator: replays a real day of air traffic against a Shardstage cluster, open loop, and says what it measured.
//!
//! The parent process ([`run`]) starts two node processes on loopback ([`cluster`]) and talks to them over pipes ([`protocol`]).
//! In each node process ([`node`]) an engine runs the actors of the [`model`], and one more thread, the [`generator`], sends
//! the operations of the [`schedule`] through it.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cluster;
pub mod cores;
pub mod data;
pub mod generator;
pub mod geo;
pub mod in_flight;
pub mod ledger;
pub mod limits;
pub mod model;
pub mod node;
pub mod protocol;
pub mod report;
pub mod run;
pub mod schedule;
pub mod stats;
pub mod traffic;
pub mod verdict;
