//! The `loadgen` binary; see the library.

fn main() {}
