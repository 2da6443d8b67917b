//~ unknown argument; known are id, version, reply and priority

use shardstage::{message, wire};

#[message(name = "case")]
struct Case;

#[wire]
struct Unused;

fn main() {}
