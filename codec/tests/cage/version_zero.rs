//~ a version is a number from 1 to 65535

use shardstage::{message, wire};

#[wire(id = "case.version", version = 0)]
struct Case;

#[message]
struct Unused;

fn main() {}
