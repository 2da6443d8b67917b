//~ a wire value must fit one frame

use shardstage::{message, wire};

#[wire]
struct Case([u64; 1 << 20]);

#[message]
struct Unused;

fn main() {}
