//~ `Arc<u8>` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.arc")]
struct Case(Vec<std::sync::Arc<u8>>);

#[wire]
struct Unused;

fn main() {}
