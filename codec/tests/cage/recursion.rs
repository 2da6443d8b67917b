//~ E0275

use shardstage::{message, wire};

#[wire]
struct Tree {
    children: Vec<Tree>,
}

#[message]
struct Unused;

fn main() {}
