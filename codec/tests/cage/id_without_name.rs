//~ an id is a name in quotes

use shardstage::{message, wire};

#[message(id)]
struct Case;

#[wire]
struct Unused;

fn main() {}
