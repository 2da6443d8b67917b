//~ `#[rkyv(..)]` cannot stand in a wire type

use shardstage::{message, wire};

#[wire]
struct Case {
    #[rkyv(with = Skip)]
    field: u8,
}

#[message]
struct Unused;

fn main() {}
