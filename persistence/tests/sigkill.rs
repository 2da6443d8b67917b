//! SIGKILL in the middle of commits, again and again on one log: every acknowledged event is there afterwards, once and in
//! order, and nothing is there that nobody asked for. Several writers share each entity and keep both shards busy; what they
//! were told is written down outside of the process that is killed. Derived files vanish before a third of the restarts.
//!
//! `SHARDSTAGE_KILLS` sets the number of kills (default 20).
//!
//! The page cache survives a kill, so this shows recovery from real processes, not durability; `power_loss.rs` shows that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced};

const KEYS: usize = 6;
/// Each has one command on its way at any time.
const WRITERS_PER_KEY: u64 = 3;
const SHARDS: u16 = 2;
const DIRECTORY: &str = "SHARDSTAGE_SIGKILL_DIR";

#[message(id = "kill.next", reply = u64)]
struct Next {}

#[message(id = "kill.state", reply = (u64, u64))]
struct State {}

#[wire(id = "kill.stepped")]
struct Stepped {
    nth: u64,
}

/// Counts its events and folds their numbers in order, so that a lost, doubled or swapped one shows.
struct Chain {
    count: u64,
    digest: u64,
}

fn fold(digest: u64, nth: u64) -> u64 {
    (digest ^ nth).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
}

impl EventSourced for Chain {
    const TYPE: &'static str = "kill.chain";
    const SNAPSHOT_EVERY: u64 = 64;
    type Event = Stepped;
    type Snapshot = (u64, u64);

    fn new(_key: &str) -> Self {
        Self { count: 0, digest: 1 }
    }

    fn apply(&mut self, event: &Stepped) {
        self.count += 1;
        self.digest = fold(self.digest, event.nth);
    }

    fn snapshot(&self) -> Option<(u64, u64)> {
        Some((self.count, self.digest))
    }

    fn restore(&mut self, (count, digest): (u64, u64)) {
        (self.count, self.digest) = (count, digest);
    }
}

impl CommandHandler<Next> for Chain {
    fn handle(&self, _: Next, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        let nth = self.count + 1;
        Effect::persist(Stepped { nth }).reply(nth)
    }
}

impl CommandHandler<State> for Chain {
    fn handle(&self, _: State, _cx: &CommandContext<'_, Self>) -> Effect<Self, (u64, u64)> {
        Effect::none().reply((self.count, self.digest))
    }
}

fn engine(dir: &Path) -> Engine {
    let mut config = Config::default();
    config.shards = Some(SHARDS);
    config.pin = false;
    let log = EventLog::open(dir).segment_bytes(256 * 1024).checkpoint_bytes(256 * 1024);
    Engine::builder().config(config).service(log).register::<Durable<Chain>>(|chain| chain).start().unwrap()
}

/// The process that is killed: steps every chain as fast as it can and prints each acknowledgement. Does nothing when the
/// tests are run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let engine = engine(Path::new(&dir));
    std::thread::scope(|scope| {
        for writer in 0..KEYS * WRITERS_PER_KEY as usize {
            let engine = &engine;
            scope.spawn(move || {
                let key = writer % KEYS;
                let chain = engine.actor::<Durable<Chain>>(format!("chain-{key}"));
                loop {
                    let nth = chain.ask(Next {}).wait().unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acked {key} {writer} {nth}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

/// What the writers of one life were told.
#[derive(Default)]
struct Told {
    /// By chain.
    acked: BTreeMap<usize, BTreeSet<u64>>,
    total: u64,
}

/// Runs the child until it has acknowledged `enough` steps, kills it, and notes every acknowledgement.
fn run_and_kill(dir: &Path, enough: u64) -> Told {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = Told::default();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        let Some(rest) = line.strip_prefix("acked ") else { continue };
        let numbers: Vec<u64> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
        // The kill may cut the last line off; a number without its end would be too small, never too large.
        let [key, writer, nth] = numbers[..] else { continue };
        let before = last.insert(writer, nth).unwrap_or(0);
        if told.total < enough {
            assert!(nth > before, "writer {writer} was told {nth} after {before}");
            assert!(
                told.acked.entry(usize::try_from(key).unwrap()).or_default().insert(nth),
                "{key}: {nth} told twice"
            );
            told.total += 1;
        } else if nth > before {
            told.acked.entry(usize::try_from(key).unwrap()).or_default().insert(nth);
            told.total += 1;
        }
        if told.total == enough {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ends by the kill");
    told
}

/// Removes derived files that chance chooses; returns how many.
fn remove_derived(dir: &Path, mut dice: u64) -> u64 {
    let mut removed = 0;
    for shard in 0..SHARDS {
        for entry in std::fs::read_dir(dir.join(format!("log-{shard}"))).unwrap() {
            let path = entry.unwrap().path();
            let derived = path.file_name().unwrap().to_str().unwrap().starts_with("ckpt");
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if derived && dice >> 60 < 10 {
                std::fs::remove_file(path).unwrap();
                removed += 1;
            }
        }
    }
    removed
}

/// What `shardstage-log verify` says of the whole directory.
fn verify(dir: &Path) -> (i32, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_shardstage-log")).arg("verify").arg(dir).output().unwrap();
    (ran.status.code().unwrap(), String::from_utf8(ran.stdout).unwrap())
}

#[test]
fn kills_lose_nothing_and_invent_nothing() {
    let cycles: u64 = std::env::var("SHARDSTAGE_KILLS").map_or(20, |value| value.parse().unwrap());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut known: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut total, mut unfinished, mut removed, mut more) = (0, 0, 0, 0);
    for cycle in 0..cycles {
        let told = run_and_kill(dir.path(), 100 + cycle * 137 % 900);
        total += told.total;
        let (code, said) = verify(dir.path());
        assert!(code <= 1, "cycle {cycle}: {said}");
        unfinished += code;
        if cycle % 3 == 0 {
            removed += remove_derived(dir.path(), cycle);
        }
        let engine = engine(dir.path());
        for key in 0..KEYS {
            let chain = engine.actor::<Durable<Chain>>(format!("chain-{key}"));
            let (count, digest) = chain.ask(State {}).wait().unwrap();
            let before = known.insert(key, count).unwrap_or(0);
            let acked = told.acked.get(&key).cloned().unwrap_or_default();
            let highest = acked.last().copied().unwrap_or(before);
            assert!(acked.first().is_none_or(|first| *first > before), "cycle {cycle}, chain {key}: told of the past");
            assert!(count >= highest, "cycle {cycle}, chain {key}: {highest} acknowledged, {count} found");
            let most = before + acked.len() as u64 + WRITERS_PER_KEY;
            assert!(count <= most, "cycle {cycle}, chain {key}: {count} found, at most {most} asked for");
            assert_eq!(digest, (1..=count).fold(1, fold), "cycle {cycle}, chain {key}: another history");
            more += count - before - acked.len() as u64;
        }
        engine.shutdown().unwrap();
        let (code, said) = verify(dir.path());
        assert_eq!(code, 0, "cycle {cycle}, after an orderly end: {said}");
    }
    println!(
        "{cycles} kills, {total} acknowledged events, {more} more found whose answer was on its way, {unfinished} logs left \
         unfinished, {removed} derived files removed"
    );
    assert!(removed > 0, "no derived file was there to remove");
}
