//~ `Box<u8>` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.reply", reply = Box<u8>)]
struct Case;

#[wire]
struct Unused;

fn main() {}
