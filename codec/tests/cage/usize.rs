//~ `usize` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.usize")]
struct Case(usize);

#[wire]
struct Unused;

fn main() {}
