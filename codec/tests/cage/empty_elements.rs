//~ the elements of a list must take at least one byte

use shardstage::{message, wire};

#[wire]
struct Case(Vec<()>);

#[message]
struct Unused;

fn main() {}
