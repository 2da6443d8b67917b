//! Runs every workload on the engine, its peers and the bare machine, interleaved, and writes one table and one picture.
//!
//! `cargo run --release -p shardstage-benches --features peers -- [--rounds N] [--quick] [--shards 1,2,4] [--out DIR] [--dir DIR] [FILTER]`
//!
//! The whole comparison goes to `docs/benchmarks/`; one with a filter or `--quick` is printed, and written only where `--out`
//! says. A filter is a part of a row's name: `log` is the event log's table. `--dir` names a directory on the disk that the
//! log and its peers write to; otherwise that is where this program lies. `--shards` says over how many shards independent pairs are measured.
//! `--instructions` counts instructions a message with valgrind instead.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shardstage_benches::instructions::{self, COUNT};
use shardstage_benches::interleave::{self, Effort, ONE};
use shardstage_benches::limits::{PAIR_CORES, PAIR_SHARDS, ROUNDS};
use shardstage_benches::log::room::{DIRECTORY, place};
use shardstage_benches::machine::{Machine, root};
use shardstage_benches::picture::{LOG, MESSAGES, svg};
use shardstage_benches::results::{Row, csv};
use shardstage_benches::table::{Conditions, page, table};
use shardstage_benches::workload::Work;

const USAGE: &str = "usage: compare [--rounds N] [--quick] [--shards 1,2,4] [--out DIR] [--dir DIR] [FILTER], or compare --instructions";

struct Arguments {
    effort: Effort,
    /// Over how many shards pairs are measured, when that was said.
    shards: Option<Vec<u16>>,
    out: Option<PathBuf>,
    /// Where the logs lie.
    directory: Option<PathBuf>,
    filter: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [ONE, work, name, size] => one(work, name, *size == "quick"),
        [COUNT, work, name, operations] => count(work, name, operations),
        ["--instructions"] => instructions::table().map(|table| print!("{table}")),
        _ => parse(&words).and_then(|arguments| compare(&arguments)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("compare: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Arguments, String> {
    let effort = Effort { rounds: ROUNDS, quick: false };
    let mut arguments = Arguments { effort, shards: None, out: None, directory: None, filter: String::new() };
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word {
            "--rounds" => {
                let rounds = value()?.parse().ok().filter(|rounds| *rounds > 0);
                arguments.effort.rounds = rounds.ok_or("--rounds needs a number from 1")?;
            }
            "--quick" => arguments.effort = Effort { rounds: 1, quick: true },
            "--shards" => arguments.shards = Some(shards(value()?)?),
            "--out" => arguments.out = Some(PathBuf::from(value()?)),
            "--dir" => arguments.directory = Some(PathBuf::from(value()?)),
            filter if !filter.starts_with('-') && arguments.filter.is_empty() => arguments.filter = filter.to_owned(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(arguments)
}

fn shards(list: &str) -> Result<Vec<u16>, String> {
    let known = |text: &str| text.parse().ok().filter(|shards| PAIR_SHARDS.contains(shards));
    let parsed: Option<Vec<u16>> = list.split(',').map(known).collect();
    parsed.ok_or_else(|| format!("--shards takes some of {PAIR_SHARDS:?}, with commas between"))
}

/// The child: one cell, its figure on standard output.
fn one(work: &str, name: &str, quick: bool) -> Result<(), String> {
    let entry = interleave::entry(work, name).ok_or_else(|| format!("no entry {name:?} in {work:?}"))?;
    // An actor that panics would be restarted, and whoever waits for its figure would wait forever.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
    println!("{}", interleave::measure(&entry, quick).text());
    Ok(())
}

/// The child that is counted.
fn count(work: &str, name: &str, operations: &str) -> Result<(), String> {
    let entry = interleave::entry(work, name).ok_or_else(|| format!("no entry {name:?} in {work:?}"))?;
    let _counted_outside = entry.figure(operations.parse().map_err(|error| format!("operations: {error}"))?);
    Ok(())
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    let whole = arguments.filter.is_empty() && !arguments.effort.quick;
    if whole && !cfg!(feature = "peers") {
        return Err("the whole comparison is one with the peers: build it with --features peers".to_owned());
    }
    let machine = Machine::ask();
    let mut works = Work::ALL.to_vec();
    works.extend(pairs(arguments.shards.as_deref(), machine.cores));
    works.retain(|work| work.to_string().contains(&arguments.filter));
    let mut rows: Vec<Row> = works.into_iter().map(Row::new).collect();
    if rows.is_empty() {
        return Err(format!("no row's name contains {:?}", arguments.filter));
    }
    let directory = arguments.directory.clone().map(PathBuf::into_os_string).or_else(|| std::env::var_os(DIRECTORY));
    let directory = place(directory)?;
    interleave::run(&mut rows, arguments.effort, &directory).map_err(|error| format!("own path: {error}"))?;
    print!("{}", table(&rows));
    let out = arguments.out.clone().or_else(|| whole.then(|| root().join("docs/benchmarks")));
    out.map_or(Ok(()), |out| write(&out, &rows, arguments.effort, &machine))
}

/// The rows of pairs, where the machine has the cores.
fn pairs(wanted: Option<&[u16]>, cores: usize) -> Vec<Work> {
    if cores < PAIR_CORES {
        eprintln!("SKIPPED: independent pairs over several shards, which need {PAIR_CORES} cores; here are {cores}");
        return Vec::new();
    }
    let (fitting, others): (Vec<u16>, Vec<u16>) =
        wanted.unwrap_or(&PAIR_SHARDS).iter().partition(|shards| usize::from(**shards) <= cores);
    if !others.is_empty() {
        eprintln!("SKIPPED: independent pairs over {others:?} shards; here are {cores} cores");
    }
    fitting.into_iter().map(Work::Pairs).collect()
}

fn write(out: &Path, rows: &[Row], effort: Effort, machine: &Machine) -> Result<(), String> {
    let conditions = Conditions { rounds: effort.rounds, quick: effort.quick, machine };
    let caption = format!(
        "{}{}, {} cores. Ours: median of {} processes; a peer: its best. Commit {}, {}.",
        if effort.quick { "A QUICK RUN, NOT FOR PUBLICATION. " } else { "" },
        machine.cpu,
        machine.cores,
        effort.rounds,
        machine.commit,
        machine.date
    );
    let files = [
        ("README.md", page(rows, &conditions)),
        ("messages.svg", svg(rows, &MESSAGES, &caption)),
        ("log.svg", svg(rows, &LOG, &caption)),
        ("results.csv", csv(rows)),
    ];
    std::fs::create_dir_all(out).map_err(|error| format!("making {}: {error}", out.display()))?;
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
