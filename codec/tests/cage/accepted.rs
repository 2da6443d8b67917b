// Compiles: the control that the other cases fail for their own reason.

use shardstage::{message, wire};

#[message(id = "case.accepted", reply = Result<Vec<Part>, String>)]
struct Case {
    depth_eight: [[[[[[[u8; 1]; 1]; 1]; 1]; 1]; 1]; 1],
    parts: Vec<Part>,
}

#[wire]
enum Part {
    Empty,
    Full { text: Option<String>, pair: (u8, char) },
}

#[message(reply = u8)]
struct Inside(std::rc::Rc<u8>);

#[wire(id = "case.accepted.event", version = 65535)]
struct Event;

fn main() {}
