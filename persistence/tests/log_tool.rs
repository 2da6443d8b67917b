//! The real `shardstage-log` on real directories: whole, torn, damaged in each part, and in use.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

mod common;
#[path = "common/files.rs"]
mod on_disk;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{NODE, Plan, Shared, counter, key, ledger, settle, start, world};
use on_disk::{Files, Ran, field, files, from_base64, tool, tree, write};
use shardstage::prelude::*;
use shardstage_persistence::{EventLog, PlantedBug};
use tempfile::TempDir;

/// A log of several segments that was stopped orderly, without its checkpoints, so that an engine reads all of it.
fn stopped(seed: u64) -> (Files, Shared) {
    let (mut files, ledger) = stopped_with_checkpoints(seed);
    files.retain(|name, _| !name.starts_with("ckpt-"));
    (files, ledger)
}

fn stopped_with_checkpoints(seed: u64) -> (Files, Shared) {
    let world = world(seed);
    let ledger = ledger(3);
    let plan = Plan { commands: 200, stop: true };
    start(&world, &ledger, plan, PlantedBug::None, seed);
    settle(&world, &ledger, plan);
    assert!(ledger.borrow().stopped && counter(&ledger, "segments_ended") >= 2);
    world.crash(NODE);
    (files(&world), ledger)
}

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The directory above the log, for the tool.
fn on_disk(files: &Files) -> (TempDir, PathBuf) {
    let dir = dir();
    let log = write(files, dir.path());
    (dir, log)
}

fn run(command: &str, dir: &Path, more: &[&str]) -> Ran {
    let mut args = vec![command, dir.to_str().unwrap()];
    args.extend(more);
    tool(&args)
}

fn segment(id: u64) -> String {
    format!("{id:016x}.seg")
}

/// Blocks with frame headers.
fn frames(bytes: &[u8]) -> Vec<usize> {
    bytes.chunks(4096).enumerate().filter(|(_, block)| block.starts_with(b"SSF1")).map(|(at, _)| at).collect()
}

/// Events by key and sequence, as an export says.
fn exported(out: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut found: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for line in out.lines().filter(|line| field(line, "kind") == "event") {
        let events = found.entry(field(line, "key").to_owned()).or_default();
        events.push(from_base64(field(line, "payload")));
        assert_eq!(field(line, "seq"), events.len().to_string(), "{line}");
        assert_eq!((field(line, "type"), field(line, "event_id")), ("account", "0000000000000007"), "{line}");
        assert_eq!(from_base64(field(line, "meta")), b"meta");
    }
    found
}

/// An engine opens the logs below `dir`.
fn engine(dir: &Path) -> shardstage::Result<Engine> {
    let mut config = Config::default();
    config.shards = Some(1);
    config.pin = false;
    Ok(Engine::builder().config(config).service(EventLog::open(dir).segment_bytes(common::SEGMENT_BYTES)).start()?)
}

#[test]
fn a_stopped_log_is_clean_and_exported_whole() {
    let (files, ledger) = stopped_with_checkpoints(1);
    let (dir, log) = on_disk(&files);
    let before = tree(dir.path());
    for given in [dir.path(), &log] {
        let ran = run("verify", given, &[]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        assert!(ran.out.contains("log-0: clean: ") && ran.out.contains(" 3 entities, LSN 0.."), "{}", ran.out);
    }
    let ran = run("export", dir.path(), &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for (at, account) in ledger.borrow().accounts.iter().enumerate() {
        assert_eq!(exported(&ran.out)[&key(at)], account.submitted);
    }
    // No LSN twice, none invented; the gaps are frames without records.
    let lsns: Vec<u64> = ran.out.lines().map(|line| field(line, "lsn").parse().unwrap()).collect();
    assert!(lsns.is_sorted_by(|one, two| one < two));
    let one = run("export", dir.path(), &["--type", "account", "--key", "account-1"]);
    assert_eq!(exported(&one.out).into_keys().collect::<Vec<_>>(), ["account-1"]);
    assert_eq!(run("export", dir.path(), &["--type", "other"]).out, "");
    let ran = run("inspect", dir.path(), &["--frames"]);
    assert_eq!(ran.code, 0);
    for said in [
        "node 0, shard 0 of 1, 64 groups",
        "lock free",
        "MANIFEST.b: generation",
        "sealed",
        "segment-end",
        "epoch 1",
        "entities, a start scans from LSN",
    ] {
        assert!(ran.out.contains(said), "{said}: {}", ran.out);
    }
    let json = run("inspect", dir.path(), &["--json"]).out;
    assert_eq!((field(&json, "health"), field(&json, "entities")), ("clean", "3"));
    assert_eq!(tree(dir.path()), before, "nothing was changed");
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let (mut files, ledger) = stopped(2);
    let (name, at) = (1..100)
        .map(segment)
        .take_while(|name| files.contains_key(name))
        .filter_map(|name| frames(&files[&name]).last().map(|at| (name.clone(), *at)))
        .last()
        .unwrap();
    // The last frame is the heartbeat of the orderly end: nobody was told of it.
    files.get_mut(&name).unwrap()[at * 4096 + 20] ^= 4;
    let (dir, _) = on_disk(&files);
    let ran = run("verify", dir.path(), &[]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains(&format!("unfinished: {name}, bytes {}", at * 4096)), "{}", ran.out);
    let into = dir.path().join("new");
    let ran = run("repair", dir.path(), &["--into", into.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("nothing was left behind"), "{}", ran.out);
    assert_eq!(run("verify", &into, &[]).code, 0);
    let events = exported(&run("export", &into, &[]).out);
    for (at, account) in ledger.borrow().accounts.iter().enumerate() {
        assert_eq!(events[&key(at)], account.submitted);
    }
    engine(&into).unwrap().shutdown().unwrap();
}

/// One damaged frame in the middle: where, and what a repair must still find.
fn one_damaged_frame(place: fn(&[u8]) -> usize) -> (Ran, BTreeMap<String, Vec<Vec<u8>>>, Shared, String) {
    let (mut files, ledger) = stopped(3);
    let name = segment(2);
    let block = frames(&files[&name])[3];
    let frame = &mut files.get_mut(&name).unwrap()[block * 4096..];
    frame[place(frame)] ^= 1;
    let (dir, log) = on_disk(&files);
    let before = tree(&log);
    // On a copy: an engine that refuses may hold its lock for a moment longer.
    let (copy, _) = on_disk(&files);
    assert!(engine(copy.path()).is_err(), "an engine refuses what the tool calls damaged");
    let ran = run("verify", dir.path(), &[]);
    assert_eq!(ran.code, 2, "{}", ran.out);
    let named = format!("damaged: {name}, bytes {}..", block * 4096);
    assert!(ran.out.contains(&named) && ran.out.contains(", LSN "), "{}", ran.out);
    let said = ran.out.lines().nth(1).unwrap().to_owned();
    let json = run("verify", dir.path(), &["--json"]).out;
    assert!(json.contains(&format!("\"from_byte\":{}", block * 4096)), "{json}");
    let into = dir.path().join("new");
    let ran = run("repair", dir.path(), &["--into", into.to_str().unwrap()]);
    assert_eq!(ran.code, 2, "{}{}", ran.out, ran.err);
    assert_eq!(run("verify", &into, &[]).code, 0);
    let events = exported(&run("export", &into, &[]).out);
    engine(&into).unwrap().shutdown().unwrap();
    assert_eq!(tree(&log), before, "nothing was changed");
    (ran, events, ledger, said)
}

#[test]
fn a_damaged_frame_is_named_and_everything_before_it_is_saved() {
    let (ran, events, ledger, said) = one_damaged_frame(|_| 20);
    assert!(said.contains("a frame header whose checksum does not match"), "{said}");
    let lsns = said.split("LSN ").nth(1).unwrap().split(':').next().unwrap();
    let first = lsns.split("..").next().unwrap();
    assert!(ran.out.contains(&format!("left behind: LSN {first}..")), "{lsns}: {}", ran.out);
    let mut listed = 0;
    for (at, account) in ledger.borrow().accounts.iter().enumerate() {
        let found = events[&key(at)].len();
        assert!(found > 0 && events[&key(at)] == account.submitted[..found], "a prefix of what was submitted");
        if found < account.submitted.len() {
            let line = format!("account {:?}: intact up to number {found};", key(at));
            assert!(ran.out.contains(&line), "{line}: {}", ran.out);
            listed += 1;
        }
    }
    assert!(listed > 0);
}

#[test]
fn more_damage_than_is_listed_is_counted_and_what_is_listed_names_its_file() {
    let world = world(12);
    let ledger = ledger(3);
    let plan = Plan { commands: 5200, stop: true };
    start(&world, &ledger, plan, PlantedBug::None, 12);
    settle(&world, &ledger, plan);
    world.crash(NODE);
    let mut files = files(&world);
    let mut damaged = 0;
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".seg")) {
        for block in frames(bytes).into_iter().step_by(2) {
            bytes[block * 4096 + 20] ^= 8;
            damaged += 1;
        }
    }
    assert!(damaged > 1000, "{damaged} frames are not enough");
    let (dir, _) = on_disk(&files);
    let ran = run("verify", dir.path(), &[]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    let listed: Vec<&str> = ran.out.lines().map(str::trim).filter(|line| line.starts_with("damaged: ")).collect();
    let (of_no_file, of_files): (Vec<&str>, Vec<&str>) = listed.iter().partition(|line| line.contains("all segments"));
    assert!(of_files.len() == 1000 && of_files.iter().all(|line| line.contains(".seg, bytes ")), "{}", of_files.len());
    assert!(matches!(of_no_file[..], [more] if more.contains(" more findings")), "{of_no_file:?}");
}

#[test]
fn intact_sections_of_a_damaged_frame_are_saved() {
    // The last record of the first section: the frame's other sections stand under checksums of their own.
    let last_of_first = |frame: &[u8]| 64 + 32 + u32::from_le_bytes(frame[68..72].try_into().unwrap()) as usize - 40;
    let (ran, events, ledger, said) = one_damaged_frame(last_of_first);
    assert!(said.contains("a frame whose checksum does not match"), "{said}");
    assert!(ran.out.contains("from intact sections of damaged frames"), "{}", ran.out);
    let ledger = ledger.borrow();
    let whole = ledger.accounts.iter().enumerate().filter(|(at, account)| events[&key(*at)] == account.submitted);
    assert_eq!(whole.count(), 2, "only the entity of the damaged section loses something: {}", ran.out);
}

#[test]
fn every_part_of_the_directory_is_checked() {
    let (files, ledger) = stopped(4);
    let changed = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        let (dir, _) = on_disk(&files);
        let ran = run("verify", dir.path(), &[]);
        (dir, ran)
    };
    let flip = |name: &'static str, byte: usize| move |files: &mut Files| files.get_mut(name).unwrap()[byte] ^= 1;

    let (_dir, ran) = changed(&flip("MANIFEST.a", 20));
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains("unfinished: MANIFEST.a: this slot is damaged; MANIFEST.b alone suffices"), "{}", ran.out);

    let (dir, ran) = changed(&|files| {
        flip("MANIFEST.a", 20)(files);
        flip("MANIFEST.b", 20)(files);
    });
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("damaged: MANIFEST.a: no manifest"), "{}", ran.out);
    let into = dir.path().join("new");
    let ran = run("repair", dir.path(), &["--into", into.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "the segments alone tell everything: {}{}", ran.out, ran.err);
    let events = exported(&run("export", &into, &[]).out);
    for (at, account) in ledger.borrow().accounts.iter().enumerate() {
        assert_eq!(events[&key(at)], account.submitted);
    }
    engine(&into).unwrap().shutdown().unwrap();

    let (dir, ran) = changed(&flip("NODE", 30));
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("damaged: NODE: the log's identity is damaged"), "{}", ran.out);
    let into = dir.path().join("new");
    let ran = run("repair", dir.path(), &["--into", into.to_str().unwrap()]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("NODE cannot be read, and no other log"), "{}", ran.err);
    assert!(!into.exists());

    let (with, _) = stopped_with_checkpoints(4);
    let (name, bytes) = with.iter().find(|(name, _)| name.starts_with("ckpt-")).unwrap();
    let (_dir, ran) = changed(&|files| {
        let mut bytes = bytes.clone();
        bytes[4096] ^= 1;
        files.insert(name.clone(), bytes);
    });
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains(&format!("unfinished: {name}: the checkpoint is damaged")), "{}", ran.out);

    let (_dir, ran) = changed(&|files| drop(files.remove(&segment(2))));
    assert_eq!(ran.code, 2);
    assert!(
        ran.out.contains("0000000000000002.seg: the manifest lists this segment, but it is missing"),
        "{}",
        ran.out
    );

    let (_dir, ran) = changed(&|files| files.get_mut(&segment(2)).unwrap().truncate(5 * 4096));
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("the segment has 20480 bytes, the manifest says 65536"), "{}", ran.out);

    let (_dir, ran) = changed(&|files| {
        let copy = files[&segment(1)].clone();
        files.insert(segment(99), copy);
    });
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("the segment holds data, but no manifest lists it"), "{}", ran.out);

    // A frame that stands where another should be.
    let (_dir, ran) = changed(&|files| {
        let bytes = files.get_mut(&segment(1)).unwrap();
        bytes.copy_within(4096..8192, 3 * 4096);
    });
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("a frame that belongs elsewhere"), "{}", ran.out);
}

#[test]
fn a_lost_identity_is_taken_from_the_shard_beside_it() {
    let (files, _) = stopped(5);
    let (dir, log) = on_disk(&files);
    // A second shard, made by an engine, whose identity is then lost.
    let lost = dir.path().join("log-1");
    fs::create_dir(&lost).unwrap();
    for entry in fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "NODE" {
            fs::copy(&path, lost.join(path.file_name().unwrap())).unwrap();
        }
    }
    let into = dir.path().join("new");
    let ran = run("repair", dir.path(), &["--into", into.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let inspected = run("inspect", &into.join("log-1"), &["--json"]).out;
    assert_eq!((field(&inspected, "shard"), field(&inspected, "health")), ("1", "clean"));
}

#[test]
fn a_running_engine_is_noticed() {
    let dir = dir();
    let running = engine(dir.path()).unwrap();
    let ran = run("verify", dir.path(), &[]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("a running engine has this log open"), "{}", ran.err);
    assert_eq!(run("export", dir.path(), &[]).code, 3);
    let into = dir.path().join("new");
    assert_eq!(run("repair", dir.path(), &["--into", into.to_str().unwrap()]).code, 3);
    assert!(!into.exists());
    let ran = run("inspect", dir.path(), &[]);
    assert!(ran.code <= 1 && ran.out.contains("lock held by a running engine"), "{}{}", ran.out, ran.err);
    assert!(run("verify", dir.path(), &["--live"]).code <= 1);
    assert!(run("export", dir.path(), &["--live"]).code <= 1);
    running.shutdown().unwrap();
    assert_eq!(run("verify", dir.path(), &[]).code, 0);
}

#[test]
fn a_repair_never_writes_where_something_is() {
    let (files, _) = stopped(6);
    let (dir, log) = on_disk(&files);
    let before = tree(dir.path());
    for target in [dir.path(), &log] {
        let ran = run("repair", dir.path(), &["--into", target.to_str().unwrap()]);
        assert_eq!(ran.code, 3);
        assert!(ran.err.contains("exists already"), "{}", ran.err);
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn wrong_usage_is_answered() {
    for (args, said) in [
        (&[][..], "no command given"),
        (&["verify"], "verify needs a directory"),
        (&["mend", "x"], "unknown command mend"),
        (&["verify", "x", "--frames"], "verify takes no --frames"),
        (&["repair", "x"], "repair needs --into NEWDIR"),
        (&["verify", "a", "b"], "one directory at a time: b"),
        (&["verify", "x", "--fast"], "unknown option --fast"),
    ] {
        let ran = tool(args);
        assert_eq!(ran.code, 64, "{args:?}");
        assert!(ran.err.contains(said), "{args:?}: {}", ran.err);
    }
    let ran = tool(&["--help"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("examples:") && ran.out.contains("exit codes:"));
    let ran = tool(&["verify", "/nonexistent/log"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("/nonexistent/log: cannot list the directory"), "{}", ran.err);
    let empty = dir();
    let ran = run("verify", empty.path(), &[]);
    assert!(ran.code == 3 && ran.err.contains("neither a log"), "{}", ran.err);
}
