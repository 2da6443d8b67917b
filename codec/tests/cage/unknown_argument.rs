//~ unknown argument; known are id, version, reply, priority and weight

use shardstage::{message, wire};

#[message(name = "case")]
struct Case;

#[wire]
struct Unused;

fn main() {}
