//! SIGKILL in the middle of commits, again and again on one log: every acknowledged event is there afterwards, once and in
//! order.
//!
//! The page cache survives a kill, so this shows recovery from real processes, not durability; `power_loss.rs` shows that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced};

const CYCLES: u64 = 20;
const KEYS: usize = 6;
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
    config.shards = Some(2);
    config.pin = false;
    let log = EventLog::open(dir).segment_bytes(256 * 1024);
    Engine::builder().config(config).service(log).register::<Durable<Chain>>(|chain| chain).start().unwrap()
}

/// The process that is killed: steps every chain as fast as it can and prints each acknowledgement. Does nothing when the
/// tests are run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let engine = engine(Path::new(&dir));
    std::thread::scope(|scope| {
        for key in 0..KEYS {
            let engine = &engine;
            scope.spawn(move || {
                let chain = engine.actor::<Durable<Chain>>(format!("chain-{key}"));
                loop {
                    let nth = chain.ask(Next {}).wait().unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acked {key} {nth}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

/// Runs the child until it has acknowledged `enough` steps, kills it, and notes the highest of each chain.
fn run_and_kill(dir: &Path, enough: u64, acked: &mut BTreeMap<usize, u64>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        let Some(rest) = line.strip_prefix("acked ") else { continue };
        let Some((key, nth)) = rest.split_once(' ') else { continue };
        // The kill may cut the last line off; a number without its end would be too small, never too large.
        let (Ok(key), Ok(nth)) = (key.parse::<usize>(), nth.parse::<u64>()) else { continue };
        let highest = acked.entry(key).or_default();
        *highest = (*highest).max(nth);
        seen += 1;
        if seen == enough {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ends by the kill");
    seen
}

#[test]
fn twenty_kills_lose_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut acked = BTreeMap::new();
    let mut total = 0;
    for cycle in 0..CYCLES {
        total += run_and_kill(dir.path(), 40 + cycle * 37 % 160, &mut acked);
        let engine = engine(dir.path());
        for key in 0..KEYS {
            let chain = engine.actor::<Durable<Chain>>(format!("chain-{key}"));
            let (count, digest) = chain.ask(State {}).wait().unwrap();
            let lowest = acked.get(&key).copied().unwrap_or(0);
            assert!(count >= lowest, "cycle {cycle}, chain {key}: {lowest} acknowledged, {count} found");
            assert_eq!(digest, (1..=count).fold(1, fold), "cycle {cycle}, chain {key}: another history");
            acked.insert(key, count);
        }
        engine.shutdown().unwrap();
    }
    println!("{CYCLES} kills, {total} acknowledged events");
}
