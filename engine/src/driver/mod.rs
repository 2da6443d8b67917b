//! The real drivers: `uring` (io_uring, the default on Linux) and `poll` (readiness polling and one writer thread a
//! shard, for places where io_uring is refused).
//!
//! [`RealDriverFactory`] picks one and says why. Everything the two have in common (files, datagrams, clock, random
//! numbers) is one `RealDriver` over a small backend, so that both keep the same promises by the same code.
//! `unsafe` stands in `uring/ring.rs`, `uring/message.rs` and `poll/readiness.rs` only.

mod affinity;
mod backend;
mod clock;
mod factory;
mod files;
mod poll;
mod random;
mod real;
mod table;
mod udp;
mod uring;

#[cfg(test)]
mod tests;

pub use affinity::{available_cpus, pin_current_thread};
pub use factory::{DRIVER_VARIABLE, DriverChoice, RealDriverFactory};
