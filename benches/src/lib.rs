//! The workloads of the benches: the same work done by the engine, by its peers and by the bare machine.
//!
//! Invariant: every workload function does its set-up and its end outside the clock, runs the operations on threads pinned
//! as [`workload::Place`] says, checks that the work was done, and returns what it took. The criterion suites in `benches/`
//! and the `compare` binary run the same functions, so their figures can be laid side by side.

pub mod bare;
pub mod census;
pub mod counted;
pub mod goals;
pub mod instructions;
pub mod interleave;
pub mod laps;
pub mod limits;
pub mod log;
pub mod machine;
pub mod message;
pub mod ours;
pub mod peers;
pub mod picture;
pub mod place;
pub mod quinn_echo;
pub mod remote;
pub mod resident;
pub mod results;
pub mod sizes;
pub mod stores;
pub mod suite;
pub mod table;
pub mod workload;

/// Everyone allocates with mimalloc, the peers too.
#[global_allocator]
static ALLOCATOR: counted::Counted = counted::Counted;
