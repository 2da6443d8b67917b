//~ a wire value may be nested at most 8 levels deep

use shardstage::{message, wire};

#[wire]
struct Case([[[[[[[[u8; 1]; 1]; 1]; 1]; 1]; 1]; 1]; 1]);

#[message]
struct Unused;

fn main() {}
