//~ `HashMap<String, u8>` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.map")]
struct Case {
    map: std::collections::HashMap<String, u8>,
}

#[wire]
struct Unused;

fn main() {}
