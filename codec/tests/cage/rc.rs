//~ `Rc<String>` cannot cross the wire or lie in the log

use shardstage::{message, wire};

#[message(id = "case.rc")]
struct Case {
    shared: std::rc::Rc<String>,
}

#[wire]
struct Unused;

fn main() {}
