//! The workloads of the benches: the same work done by the engine, by its peers and by the bare machine.
//!
//! Invariant: every workload function does its set-up and its end outside the clock, runs the operations on threads pinned
//! as [`workload::Place`] says, and returns the time from the first send to the last effect. The criterion suites in
//! `benches/` and the `compare` binary run the same functions, so their figures can be laid side by side.

pub mod bare;
pub mod limits;
pub mod log;
pub mod message;
pub mod ours;
pub mod peers;
pub mod place;
pub mod remote;
pub mod suite;
pub mod table;
pub mod workload;

/// Everyone allocates with mimalloc, the peers too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
