//~ this argument is given twice

use shardstage::{message, wire};

#[message(reply = u8, reply = u8)]
struct Case;

#[wire]
struct Unused;

fn main() {}
