//~ `Box<dyn Send>` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.object")]
struct Case(Box<dyn Send>);

#[wire]
struct Unused;

fn main() {}
