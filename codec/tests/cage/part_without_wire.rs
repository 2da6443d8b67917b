//~ `Part` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.part")]
struct Case(Part);

struct Part;

#[wire]
struct Unused;

fn main() {}
