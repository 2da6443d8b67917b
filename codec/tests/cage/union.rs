//~ a union cannot cross the wire

use shardstage::{message, wire};

#[wire]
union Case {
    number: u8,
}

#[message]
struct Unused;

fn main() {}
