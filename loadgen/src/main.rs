//! The `loadgen` binary: without arguments the main job, with `node` one node of it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use loadgen::cores;
use loadgen::limits::{MAIN_PHASE, NODES, SHARDS_PER_NODE};
use loadgen::node::{self, NodeOptions};
use loadgen::protocol::Said;
use loadgen::run::{self, Options};

/// Binaries allocate with mimalloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
usage: loadgen [--rate OPERATIONS_PER_SECOND] [--seconds N] [--shards N] [--directory DIR]

Starts two Shardstage nodes as processes on loopback and replays a real day of air traffic, open loop. Without --rate it
first looks for the highest rate and measures at 70 % of it. Then it kills a node in mid-load, starts it again and checks
that every acknowledged event is there. Exit code 0: valid; 1: could not run; 2: usage; 4: invalid, or events are missing.";

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "node") {
        words.remove(0);
        return node_main(words);
    }
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match options(words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("loadgen: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(4),
        Err(why) => {
            eprintln!("loadgen: {why}");
            ExitCode::from(1)
        }
    }
}

fn node_main(words: Vec<OsString>) -> ExitCode {
    let outcome = node_options(words).and_then(|options| node::run(&options).map_err(|error| error.to_string()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{}", Said::Error(why));
            ExitCode::FAILURE
        }
    }
}

/// The words of a command line, taken by flag.
struct Flags(Vec<OsString>);

impl Flags {
    fn take(&mut self, flag: &str) -> Result<Option<OsString>, String> {
        let Some(at) = self.0.iter().position(|word| word == flag) else { return Ok(None) };
        self.0.remove(at);
        if at < self.0.len() { Ok(Some(self.0.remove(at))) } else { Err(format!("{flag} needs a value")) }
    }

    fn parse<T: std::str::FromStr>(&mut self, flag: &str) -> Result<Option<T>, String> {
        let Some(word) = self.take(flag)? else { return Ok(None) };
        let parsed = word.to_str().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| format!("{flag} cannot be {}", word.display()))
    }

    fn need<T: std::str::FromStr>(&mut self, flag: &str) -> Result<T, String> {
        self.parse(flag)?.ok_or_else(|| format!("{flag} is missing"))
    }

    fn finish(self) -> Result<(), String> {
        self.0.first().map_or(Ok(()), |word| Err(format!("{} is not known", word.display())))
    }
}

fn options(words: Vec<OsString>) -> Result<Options, String> {
    let cores = cores::available();
    let mut flags = Flags(words);
    let positive = |value: Option<u64>, flag: &str| match value {
        Some(0) => Err(format!("{flag} must be at least 1")),
        other => Ok(other),
    };
    let suits = u16::try_from(cores::divide(&cores).1.len() / NODES).unwrap_or(u16::MAX).max(SHARDS_PER_NODE);
    let options = Options {
        rate: positive(flags.parse("--rate")?, "--rate")?,
        length: positive(flags.parse("--seconds")?, "--seconds")?.map_or(MAIN_PHASE, Duration::from_secs),
        shards: flags.parse("--shards")?.unwrap_or(suits),
        directory: flags.take("--directory")?.map_or_else(std::env::temp_dir, PathBuf::from),
        program: std::env::current_exe().map_err(|error| format!("own path: {error}"))?,
    };
    if options.shards == 0 {
        return Err("--shards must be at least 1".to_owned());
    }
    flags.finish()?;
    Ok(options)
}

fn node_options(words: Vec<OsString>) -> Result<NodeOptions, String> {
    let mut flags = Flags(words);
    let addresses: String = flags.need("--addresses")?;
    let addresses = addresses.split(',').map(|address| address.parse().map_err(|_| format!("no address: {address}")));
    let options = NodeOptions {
        index: flags.need("--index")?,
        shards: flags.need("--shards")?,
        directory: flags.take("--directory")?.map(PathBuf::from).ok_or("--directory is missing")?,
        addresses: addresses.collect::<Result<_, _>>()?,
        spin: flags.need::<String>("--idle")? == "spin",
        cores: cores::from_text(&flags.need::<String>("--cores")?).ok_or("--cores must be numbers")?,
        parent: flags.need("--parent")?,
    };
    flags.finish()?;
    Ok(options)
}
