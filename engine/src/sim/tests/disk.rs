//! What a simulated disk promises, and what it must not.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use crate::port::driver::{Driver, FileOp, OpenOptions};
use crate::sim::{DiskFault, DiskOpKind, SimDriver, SimOptions, SimWorld};

use super::*;

const SEEDS: u64 = 60;

/// The first byte of each sector of `log` on node 0.
fn sectors(world: &SimWorld) -> Vec<u8> {
    world.file_bytes(NODE, "log").unwrap().chunks(SECTOR).map(|sector| sector[0]).collect()
}

fn open(driver: &mut SimDriver, options: OpenOptions) -> FileId {
    driver.open(Path::new("log"), options).unwrap()
}

#[test]
fn reads_see_completed_writes_only() {
    let (world, mut driver) = world_with_file(1, 1);
    let file = open(&mut driver, DURABLE);
    submit(&mut driver, 7, file, write_op(0, &[5; 4096]));
    assert_eq!(sectors(&world), [0; 8]);
    let completion = wait(&mut driver, 7);
    assert_eq!(completion.result.unwrap(), 4096);
    assert_eq!(completion.buffer.unwrap().len(), 4096);
    submit(&mut driver, 8, file, FileOp::Read { offset: 0, buffer: IoBuffer::zeroed(8192) });
    let completion = wait(&mut driver, 8);
    assert_eq!(completion.result.unwrap(), 4096, "the file ends there");
    assert!(completion.buffer.unwrap()[..4096].iter().all(|byte| *byte == 5));
}

#[test]
fn an_unsynced_write_may_vanish_or_stay_or_tear_per_sector() {
    let (mut kept, mut dropped, mut mixed, mut torn) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 1);
        let file = open(&mut driver, BUFFERED);
        run(&mut driver, file, write_op(0, &[9; 4096])).unwrap();
        world.crash(NODE);
        let bytes = world.file_bytes(NODE, "log").unwrap();
        assert_eq!(bytes.len(), 4096);
        let whole = bytes.chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 9)).count();
        let none = bytes.chunks(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 0)).count();
        kept += usize::from(whole == 8);
        dropped += usize::from(none == 8);
        mixed += usize::from(whole > 0 && none > 0);
        torn += usize::from(whole + none < 8);
    }
    assert!(kept > 0 && dropped > 0 && mixed > 0 && torn > 0, "{kept} {dropped} {mixed} {torn}");
}

#[test]
fn a_sync_covers_what_was_completed_when_it_was_submitted() {
    let mut lost_early = 0;
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 2);
        let file = open(&mut driver, BUFFERED);
        run(&mut driver, file, write_op(0, &[1; 4096])).unwrap();
        submit(&mut driver, 2, file, write_op(4096, &[2; 4096]));
        submit(&mut driver, 3, file, FileOp::Sync);
        wait(&mut driver, 3).result.unwrap();
        world.run_for(SECOND);
        world.crash(NODE);
        let after = sectors(&world);
        assert_eq!(after[..8], [1; 8], "completed before the sync was submitted");
        lost_early += usize::from(after[8..] != [2; 8]);
    }
    assert!(lost_early > 0, "a write that the sync overtook at its submission must not count on it");
}

#[test]
fn a_durable_write_survives_once_completed_and_not_before() {
    let (mut lost_in_flight, mut landed) = (0, 0);
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 2);
        let file = open(&mut driver, DURABLE);
        run(&mut driver, file, write_op(0, &[1; 4096])).unwrap();
        submit(&mut driver, 2, file, write_op(4096, &[2; 4096]));
        assert_eq!(world.durable_bytes(NODE, "log").unwrap()[4096], 0);
        world.crash(NODE);
        let after = sectors(&world);
        assert_eq!(after[..8], [1; 8]);
        lost_in_flight += usize::from(after[8..] != [2; 8]);
        landed += usize::from(after[8..].contains(&2));
    }
    assert!(lost_in_flight > 0 && landed > 0, "{lost_in_flight} {landed}");
}

#[test]
fn an_older_unsynced_version_never_replaces_a_durable_one() {
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 1);
        let file = open(&mut driver, BUFFERED);
        let durable = open(&mut driver, DURABLE);
        run(&mut driver, file, write_op(0, &[1; 4096])).unwrap();
        run(&mut driver, durable, write_op(0, &[2; 4096])).unwrap();
        world.crash(NODE);
        assert_eq!(sectors(&world), [2; 8]);
    }
}

#[test]
fn completions_arrive_in_any_order() {
    let orders: BTreeSet<Vec<u64>> = (0..SEEDS)
        .map(|seed| {
            let (world, mut driver) = world_with_file(seed, 3);
            let file = open(&mut driver, DURABLE);
            for token in 0..3 {
                submit(&mut driver, token, file, write_op(token * 4096, &[1; 4096]));
            }
            world.run_for(SECOND);
            let mut all = Vec::new();
            driver.completions(&mut all);
            all.iter().map(|completion| completion.token).collect()
        })
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn a_file_that_grew_may_be_shorter_after_a_power_loss() {
    let lengths: BTreeSet<usize> = (0..SEEDS)
        .map(|seed| {
            let (world, mut driver) = world_with_file(seed, 0);
            let file = open(&mut driver, BUFFERED);
            for block in 0..3 {
                run(&mut driver, file, write_op(block * 4096, &[1; 4096])).unwrap();
            }
            assert_eq!(driver.file_len(file).unwrap(), 12_288);
            world.crash(NODE);
            world.file_bytes(NODE, "log").unwrap().len()
        })
        .collect();
    assert_eq!(lengths, BTreeSet::from([0, 4096, 8192, 12_288]));
}

#[test]
fn a_directory_entry_is_safe_after_a_sync_of_the_directory_and_not_before() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut driver = world.driver(NODE, SHARD);
        driver.create_dir(Path::new("/data/log-0")).unwrap();
        world.settle_disk(NODE);
        let directory = driver.open(Path::new("data/log-0"), DIRECTORY).unwrap();
        let new = OpenOptions { create_new: true, ..DURABLE };
        for name in ["early", "late"] {
            let file = driver.open(&Path::new("/data/log-0").join(name), new).unwrap();
            run(&mut driver, file, write_op(0, &[3; 4096])).unwrap();
            if name == "early" {
                run(&mut driver, directory, FileOp::Sync).unwrap();
            }
        }
        world.crash(NODE);
        let names = world.driver(NODE, SHARD).list(Path::new("/data/log-0")).unwrap();
        assert!(names.contains(&"early".to_owned()));
        assert_eq!(world.file_bytes(NODE, "data/log-0/early").unwrap()[0], 3);
        lost += usize::from(names.len() == 1);
        kept += usize::from(names.len() == 2);
    }
    assert!(lost > 0 && kept > 0, "{lost} {kept}");
}

#[test]
fn a_directory_sync_in_flight_covers_no_later_entry() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut driver = world.driver(NODE, SHARD);
        let root = driver.open(Path::new("/"), DIRECTORY).unwrap();
        submit(&mut driver, 1, root, FileOp::Sync);
        driver.open(Path::new("late"), OpenOptions { create_new: true, ..BUFFERED }).unwrap();
        wait(&mut driver, 1).result.unwrap();
        world.crash(NODE);
        lost += usize::from(world.file_bytes(NODE, "late").is_none());
    }
    assert!(lost > 0);
}

#[test]
fn a_rename_happens_whole_or_not_and_a_removal_may_come_back() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let world = SimWorld::new(SimOptions::seeded(seed));
        let mut driver = world.driver(NODE, SHARD);
        for name in ["old", "new", "gone"] {
            let options = OpenOptions { create_new: true, ..DURABLE };
            let file = driver.open(Path::new(name), options).unwrap();
            run(&mut driver, file, write_op(0, &[name.as_bytes()[0]; 4096])).unwrap();
        }
        world.settle_disk(NODE);
        driver.rename(Path::new("old"), Path::new("new")).unwrap();
        driver.remove(Path::new("gone")).unwrap();
        assert_eq!(driver.list(Path::new("/")).unwrap(), ["new"]);
        world.crash(NODE);
        let content = world.file_bytes(NODE, "new").unwrap()[0];
        let old = world.file_bytes(NODE, "old").is_some();
        assert_eq!(content == b'n', old, "renamed: new has the content; not renamed: both names are there");
        outcomes.insert((old, world.file_bytes(NODE, "gone").is_some()));
    }
    assert_eq!(outcomes.len(), 4);
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 2);
        let file = open(&mut driver, BUFFERED);
        world.disk_fault(NODE, DiskFault::Error, |op| op.kind == DiskOpKind::Sync);
        run(&mut driver, file, write_op(0, &[1; 4096])).unwrap();
        let error = run(&mut driver, file, FileOp::Sync).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
        run(&mut driver, file, write_op(4096, &[2; 4096])).unwrap();
        run(&mut driver, file, FileOp::Sync).unwrap();
        world.crash(NODE);
        let after = sectors(&world);
        assert_eq!(after[8..], [2; 8]);
        lost += usize::from(after[..8] != [1; 8]);
    }
    assert!(lost > 0);
}

#[test]
fn faults_hit_the_call_that_they_wait_for_once() {
    let (world, mut driver) = world_with_file(3, 4);
    let file = open(&mut driver, DURABLE);
    let mut write = |fault, block: u64| {
        world.disk_fault(NODE, fault, move |op| op.kind == DiskOpKind::Write && op.offset == block * 4096);
        let start_ns = world.now_ns();
        let result = run(&mut driver, file, write_op(block * 4096, &[7; 4096]));
        (result, world.now_ns() - start_ns)
    };
    let (short, _) = write(DiskFault::Short(512), 0);
    assert_eq!(short.unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(sectors(&world)[..8], [7, 0, 0, 0, 0, 0, 0, 0]);
    let (full, _) = write(DiskFault::NoSpace, 1);
    assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
    let (lost, _) = write(DiskFault::Lost, 1);
    assert_eq!(lost.unwrap(), 4096);
    assert_eq!(sectors(&world)[8..16], [0; 8]);
    let (astray, _) = write(DiskFault::Misdirected(8192), 1);
    assert_eq!(astray.unwrap(), 4096);
    assert_eq!(sectors(&world)[8..], [[0; 8], [7; 8], [0; 8]].concat());
    let (slow, took_ns) = write(DiskFault::Slow(SECOND / 2), 1);
    assert_eq!(slow.unwrap(), 4096);
    assert!(took_ns > SECOND / 2);
    assert_eq!(world.faults_waiting(NODE), 0);
    assert_eq!(run(&mut driver, file, write_op(0, &[8; 4096])).unwrap(), 4096);
    world.disk_fault(NODE, DiskFault::Error, |op| op.path == Path::new("log") && op.kind == DiskOpKind::Read);
    let read = FileOp::Read { offset: 0, buffer: IoBuffer::zeroed(4096) };
    assert_eq!(run(&mut driver, file, read).unwrap_err().raw_os_error(), Some(5));
}

#[test]
fn damage_shows_now_and_after_a_power_loss() {
    let (world, _) = world_with_file(1, 1);
    world.flip_bit(NODE, "log", 8 * 700 + 3);
    assert_eq!(world.file_bytes(NODE, "log").unwrap()[700], 8);
    world.crash(NODE);
    assert_eq!(world.file_bytes(NODE, "log").unwrap()[700], 8);
    world.zero_sector(NODE, "log", 1);
    assert_eq!(world.file_bytes(NODE, "log").unwrap(), [0; 4096]);
}

#[test]
fn a_killed_process_loses_nothing_that_was_written_but_the_power_may_take_it() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (world, mut driver) = world_with_file(seed, 1);
        let file = open(&mut driver, BUFFERED);
        run(&mut driver, file, write_op(0, &[4; 4096])).unwrap();
        world.kill(NODE);
        assert_eq!(sectors(&world), [4; 8]);
        world.crash(NODE);
        lost += usize::from(sectors(&world) != [4; 8]);
    }
    assert!(lost > 0);
}

#[test]
fn the_disk_refuses_what_a_real_one_refuses() {
    let (world, mut driver) = world_with_file(1, 1);
    let kind = |result: std::io::Result<FileId>| result.unwrap_err().kind();
    let path = Path::new("log");
    assert_eq!(kind(driver.open(path, OpenOptions { create_new: true, ..BUFFERED })), ErrorKind::AlreadyExists);
    assert_eq!(kind(driver.open(Path::new("none"), BUFFERED)), ErrorKind::NotFound);
    assert_eq!(kind(driver.open(path, DIRECTORY)), ErrorKind::NotADirectory);
    assert_eq!(kind(driver.open(Path::new("/"), BUFFERED)), ErrorKind::IsADirectory);
    let locked = OpenOptions { lock: true, ..BUFFERED };
    let lock = driver.open(path, locked).unwrap();
    assert_eq!(kind(world.driver(NODE, ShardId::new(1)).open(path, locked)), ErrorKind::WouldBlock);
    driver.close(lock);
    driver.open(path, locked).unwrap();
    let direct = open(&mut driver, DURABLE);
    let unaligned = run(&mut driver, direct, write_op(512, &[1; 4096]));
    assert_eq!(unaligned.unwrap_err().kind(), ErrorKind::InvalidInput);
    let read_only = open(&mut driver, OpenOptions::default());
    let refused = run(&mut driver, read_only, write_op(0, &[1; 4096]));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
    driver.close(direct);
    let closed = run(&mut driver, direct, FileOp::Sync);
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::InvalidInput);
    world.crash(NODE);
    let mut again = world.driver(NODE, SHARD);
    again.open(path, locked).expect("a lock ends with its process");
    assert!(driver.open(path, BUFFERED).is_err(), "the driver of an earlier start is dead");
}

#[test]
fn chance_brings_each_kind_of_error() {
    let mut options = SimOptions::seeded(1);
    (options.disk.error_ppm, options.disk.short_write_ppm, options.disk.no_space_ppm) = (100_000, 100_000, 100_000);
    let world = SimWorld::new(options);
    let mut driver = world.driver(NODE, SHARD);
    let file = driver.open(Path::new("log"), OpenOptions { create_new: true, ..BUFFERED }).unwrap();
    let outcomes: BTreeSet<Option<String>> = (0..200)
        .map(|_| run(&mut driver, file, write_op(0, &[1; 4096])).err().map(|error| error.to_string()))
        .collect();
    assert_eq!(outcomes.len(), 4, "{outcomes:?}");
}

#[test]
fn a_read_can_be_stale_or_of_another_place() {
    let (world, mut driver) = world_with_file(1, 2);
    let file = open(&mut driver, DURABLE);
    for (block, byte) in [(0, 1), (1, 2), (0, 3)] {
        run(&mut driver, file, write_op(block * 4096, &[byte; 4096])).unwrap();
    }
    let mut read = |fault: Option<DiskFault>| {
        if let Some(fault) = fault {
            world.disk_fault(NODE, fault, |op| op.kind == DiskOpKind::Read);
        }
        submit(&mut driver, 9, file, FileOp::Read { offset: 0, buffer: IoBuffer::zeroed(4096) });
        let completion = wait(&mut driver, 9);
        assert_eq!(completion.result.unwrap(), 4096);
        let bytes = completion.buffer.unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    };
    assert_eq!(read(None), 3);
    assert_eq!(read(Some(DiskFault::Stale)), 1);
    assert_eq!(read(Some(DiskFault::Misdirected(4096))), 2);
    assert_eq!(read(None), 3);
}

#[test]
fn a_full_disk_takes_what_does_not_grow_and_nothing_else() {
    let (world, mut driver) = world_with_file(1, 2);
    world.set_disk_capacity(NODE, Some(8192));
    let file = open(&mut driver, DURABLE);
    run(&mut driver, file, write_op(4096, &[1; 4096])).unwrap();
    let full = run(&mut driver, file, write_op(8192, &[1; 4096])).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let other = driver.open(Path::new("other"), OpenOptions { create_new: true, ..DURABLE }).unwrap();
    assert!(run(&mut driver, other, write_op(0, &[1; 4096])).is_err());
    driver.remove(Path::new("log")).unwrap();
    run(&mut driver, other, write_op(4096, &[1; 4096])).unwrap();
    world.set_disk_capacity(NODE, None);
    run(&mut driver, other, write_op(8192, &[1; 4096])).unwrap();
}

#[test]
fn chance_brings_each_kind_of_silent_fault() {
    let mut options = SimOptions::seeded(1);
    let disk = &mut options.disk;
    (disk.lost_write_ppm, disk.misdirected_ppm, disk.stale_read_ppm) = (200_000, 200_000, 200_000);
    (disk.short_read_ppm, disk.slow_ppm) = (200_000, 200_000);
    let world = SimWorld::new(options);
    let mut driver = world.driver(NODE, SHARD);
    let file = driver.open(Path::new("log"), OpenOptions { create_new: true, ..BUFFERED }).unwrap();
    let mut astray = 0;
    let mut wrong = 0;
    let mut short = 0;
    let mut slow = 0;
    for value in 1..=200u8 {
        let start_ns = world.now_ns();
        run(&mut driver, file, write_op(16384, &[value; 4096])).unwrap();
        slow += u32::from(world.now_ns() > start_ns + 900_000);
        let bytes = world.file_bytes(NODE, "log").unwrap();
        astray += u32::from(bytes.get(16384) != Some(&value));
        submit(&mut driver, 9, file, FileOp::Read { offset: 16384, buffer: IoBuffer::zeroed(4096) });
        let completion = wait(&mut driver, 9);
        let read = completion.result.unwrap();
        short += u32::from(read < 4096);
        wrong += u32::from(completion.buffer.unwrap()[0] != *bytes.get(16384).unwrap_or(&0));
    }
    assert!(astray > 0 && wrong > 0 && short > 0 && slow > 0, "{astray} {wrong} {short} {slow}");
}

#[test]
fn a_node_that_is_down_can_get_another_disk() {
    let (world, _) = world_with_file(1, 1);
    world.crash(NODE);
    world.wipe_disk(NODE);
    assert!(world.driver(NODE, SHARD).list(Path::new("/")).unwrap().is_empty());
}
