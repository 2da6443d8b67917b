//! The load generator: replays a real day of air traffic against a Shardstage cluster, open loop, and says what it measured.
//!
//! The parent process ([`run`](crate::limits)) starts two node processes on loopback and talks to them over pipes. In each
//! node process an engine runs the actors of the [`model`](crate::schedule), and one more thread generates load.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cluster;
pub mod data;
pub mod generator;
pub mod geo;
pub mod in_flight;
pub mod ledger;
pub mod limits;
pub mod protocol;
pub mod report;
pub mod run;
pub mod schedule;
pub mod stats;
pub mod verdict;
