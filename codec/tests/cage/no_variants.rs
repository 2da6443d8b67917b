//~ an enum without variants has no values to send

use shardstage::{message, wire};

#[wire]
enum Case {}

#[message]
struct Unused;

fn main() {}
