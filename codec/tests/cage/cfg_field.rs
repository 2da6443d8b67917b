//~ `#[cfg(..)]` cannot stand in a wire type

use shardstage::{message, wire};

#[wire]
struct Case {
    #[cfg(unix)]
    field: u8,
}

#[message]
struct Unused;

fn main() {}
