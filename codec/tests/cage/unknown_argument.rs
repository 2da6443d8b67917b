//~ unknown argument; known are id, version and reply

use shardstage::{message, wire};

#[message(name = "case")]
struct Case;

#[wire]
struct Unused;

fn main() {}
