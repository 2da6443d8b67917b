//~ a message or wire type cannot be generic

use shardstage::{message, wire};

#[message(id = "case.generic")]
struct Case<T>(T);

#[wire]
struct Unused;

fn main() {}
