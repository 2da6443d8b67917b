//~ only a message has a reply

use shardstage::{message, wire};

#[wire(reply = u8)]
struct Case;

#[message]
struct Unused;

fn main() {}
