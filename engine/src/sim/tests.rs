//! The simulator's own promises, and the helpers that its tests share.

use std::path::Path;

use shardstage_codec::{NodeId, ShardId};

use crate::port::buffer::IoBuffer;
use crate::port::driver::{Driver, FileCompletion, FileId, FileOp, FileRequest, OpenOptions};

use super::{SimDriver, SimOptions, SimWorld};

mod disk;
mod network;
mod world;

const NODE: NodeId = NodeId::new(0);
const OTHER: NodeId = NodeId::new(1);
const SHARD: ShardId = ShardId::new(0);
const SECOND: u64 = 1_000_000_000;
const SECTOR: usize = 512;

const BUFFERED: OpenOptions =
    OpenOptions { write: true, create_new: false, direct: false, dsync: false, directory: false, lock: false };
const DURABLE: OpenOptions = OpenOptions { dsync: true, direct: true, ..BUFFERED };
const DIRECTORY: OpenOptions = OpenOptions { write: false, directory: true, ..BUFFERED };

/// A world with a durable file `log` of `blocks` zero-filled 4 KiB blocks on node 0, and that node's driver.
fn world_with_file(seed: u64, blocks: usize) -> (SimWorld, SimDriver) {
    let world = SimWorld::new(SimOptions::seeded(seed));
    let mut driver = world.driver(NODE, SHARD);
    let file = driver.open(Path::new("log"), OpenOptions { create_new: true, ..BUFFERED }).unwrap();
    if blocks > 0 {
        run(&mut driver, file, write_op(0, &vec![0; blocks * 4096])).unwrap();
    }
    driver.close(file);
    world.settle_disk(NODE);
    (world, driver)
}

fn write_op(offset: u64, bytes: &[u8]) -> FileOp {
    let mut buffer = IoBuffer::zeroed(bytes.len());
    buffer[..bytes.len()].copy_from_slice(bytes);
    FileOp::Write { offset, buffer, len: bytes.len() }
}

fn submit(driver: &mut dyn Driver, token: u64, file: FileId, op: FileOp) {
    driver.submit(FileRequest { token, file, op });
}

/// Runs the world until the completion with `token` is there.
fn wait(driver: &mut dyn Driver, token: u64) -> FileCompletion {
    let mut all = Vec::new();
    loop {
        driver.completions(&mut all);
        if let Some(index) = all.iter().position(|completion| completion.token == token) {
            return all.swap_remove(index);
        }
        let before_ns = driver.now_ns();
        driver.park(Some(before_ns + SECOND));
        assert!(driver.now_ns() < before_ns + SECOND, "a data call ends within a second");
    }
}

/// One data call from submission to completion.
fn run(driver: &mut dyn Driver, file: FileId, op: FileOp) -> std::io::Result<usize> {
    submit(driver, u64::MAX, file, op);
    wait(driver, u64::MAX).result
}
