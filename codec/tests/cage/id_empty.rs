//~ an id is 1 to 128 of

use shardstage::{message, wire};

#[message(id = "")]
struct Case;

#[wire]
struct Unused;

fn main() {}
