//! Shardstage: a shard-per-core actor engine.

pub mod driver;
pub mod limits;
pub mod port;
pub mod sim;
