//~ a version needs an id

use shardstage::{message, wire};

#[message(version = 2)]
struct Case;

#[wire]
struct Unused;

fn main() {}
