//! Runs every workload on the engine, its peers and the bare machine, interleaved, and prints one table of ratios.
//!
//! Every measurement runs in a fresh process, since heap and thread placement decide more between processes than within one;
//! rounds go through all entries before any comes again. The figure of an entry is the median of its rounds.
//!
//! `cargo run --release -p shardstage-benches -- [--rounds N] [--out FILE.md] [FILTER]`

use std::process::{Command, ExitCode};

use shardstage_benches::table::{Row, markdown};
use shardstage_benches::workload::{Work, entries};

/// Rounds, unless told otherwise: the fewest with a middle that one bad process cannot move.
const ROUNDS: usize = 5;

struct Arguments {
    rounds: usize,
    out: Option<String>,
    filter: String,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, work, name] = words.as_slice()
        && flag == "--one"
    {
        return measure_one(work, name);
    }
    let parsed = parse(&mut words);
    match parsed.and_then(|arguments| compare(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("compare: {why}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &mut Vec<String>) -> Result<Arguments, String> {
    let mut take = |flag: &str| -> Result<Option<String>, String> {
        let Some(at) = words.iter().position(|word| word == flag) else {
            return Ok(None);
        };
        words.remove(at);
        if at < words.len() { Ok(Some(words.remove(at))) } else { Err(format!("{flag} needs a value")) }
    };
    let out = take("--out")?;
    let rounds = match take("--rounds")? {
        Some(text) => text.parse().ok().filter(|rounds| *rounds > 0).ok_or("--rounds needs a number from 1")?,
        None => ROUNDS,
    };
    match words.as_slice() {
        [] => Ok(Arguments { rounds, out, filter: String::new() }),
        [filter] if !filter.starts_with("--") => Ok(Arguments { rounds, out, filter: filter.clone() }),
        _ => Err("usage: compare [--rounds N] [--out FILE.md] [FILTER]".to_owned()),
    }
}

/// The child: one measurement, its nanoseconds an operation on standard output.
fn measure_one(work: &str, name: &str) -> ExitCode {
    let found = Work::ALL.into_iter().find(|candidate| candidate.to_string() == work);
    let entry = found.and_then(|work| entries(work).into_iter().find(|entry| entry.name == name));
    let Some(entry) = entry else {
        eprintln!("compare: no entry {name:?} in {work:?}");
        return ExitCode::FAILURE;
    };
    let operations = entry.work.operations();
    (entry.run)(operations / 10);
    println!("{}", (entry.run)(operations).as_secs_f64() * 1e9 / operations as f64);
    ExitCode::SUCCESS
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    let me = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let works = Work::ALL.into_iter().filter(|work| work.to_string().contains(&arguments.filter));
    let mut rows: Vec<Row> = works.map(Row::new).collect();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for row in &mut rows {
            for cell in &mut row.cells {
                let output = Command::new(&me)
                    .args(["--one", &row.work.to_string(), cell.name])
                    .output()
                    .map_err(|error| format!("starting a measurement: {error}"))?;
                let text = String::from_utf8_lossy(&output.stdout);
                let ns: f64 = text.trim().parse().map_err(|_| {
                    format!("{} on {}: {}", cell.name, row.work, String::from_utf8_lossy(&output.stderr))
                })?;
                cell.rounds_ns.push(ns);
                cell.rounds_ns.sort_by(f64::total_cmp);
            }
        }
    }
    let table = markdown(&rows);
    print!("{table}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, &table).map_err(|error| format!("writing {path}: {error}"))?;
    }
    Ok(())
}
