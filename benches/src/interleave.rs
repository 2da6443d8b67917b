//! Runs every cell in fresh processes, round after round, and says how far it is.
//!
//! Heap and thread placement decide more between processes than within one, and the machine changes with time: so a round
//! goes through all cells before any comes again.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::goals::spec;
use crate::limits::{CELL_TIME, QUICK, RUNS};
use crate::log::device;
use crate::log::room::DIRECTORY;
use crate::log::schedule::Tail;
use crate::results::Row;
use crate::workload::{Entry, Run, Work, entries};

/// The word that makes this program measure one cell.
pub const ONE: &str = "--one";

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Processes a cell.
    pub rounds: usize,
    /// A tenth of the operations, once.
    pub quick: bool,
}

/// Measures all cells of `rows` and keeps the figures in them. A process that fails, or takes longer than [`CELL_TIME`], leaves
/// its reason. Logs lie in `directory`.
///
/// # Errors
/// When this program's own path cannot be told.
pub fn run(rows: &mut [Row], effort: Effort, directory: &Path) -> std::io::Result<()> {
    let me = std::env::current_exe()?;
    let total = effort.rounds * rows.iter().map(|row| row.cells.len()).sum::<usize>();
    let (start, mut done) = (Instant::now(), 0);
    for round in 1..=effort.rounds {
        for row in &mut *rows {
            let unit = spec(row.work).unit;
            for cell in &mut row.cells {
                let work = row.work.to_string();
                let size = if effort.quick { "quick" } else { "whole" };
                let measured =
                    finished(Command::new(&me).args([ONE, &work, cell.entry.name, size]).env(DIRECTORY, directory))
                        .and_then(|text| Measured::parse(&text).ok_or_else(|| format!("printed {text:?}")));
                cell.tails.extend(measured.as_ref().ok().and_then(|measured| measured.tail));
                let figure = measured.map(|measured| measured.figure);
                done += 1;
                let left = start.elapsed().mul_f64((total - done) as f64 / done as f64).as_secs();
                let text = figure.as_ref().map_or_else(|why| format!("FAILED: {why}"), |raw| unit.number(*raw));
                eprintln!(
                    "[{done:>4}/{total}] round {round} of {}, {:>3} min {:02} s left  {work}: {} {text} {}",
                    effort.rounds,
                    left / 60,
                    left % 60,
                    cell.entry.name,
                    unit.name(),
                );
                cell.rounds.push(figure.as_ref().ok().copied());
                cell.failure = figure.err().or(cell.failure.take());
            }
        }
    }
    Ok(())
}

/// What a process printed, if it ended well and in time; else why not.
///
/// # Errors
/// The last words of a process that failed, or that it was too slow.
pub fn finished(command: &mut Command) -> Result<String, String> {
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| format!("cannot start: {error}"))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (ended, waiting) = channel::<()>();
    let watchdog = thread::spawn(move || {
        let late = waiting.recv_timeout(CELL_TIME) == Err(RecvTimeoutError::Timeout);
        if late && let Some(pid) = pid {
            let _gone = kill_process(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output();
    drop(ended);
    if watchdog.join().unwrap_or(false) {
        return Err(format!("took longer than {} s", CELL_TIME.as_secs()));
    }
    let output = output.map_err(|error| format!("cannot wait: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr));
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = words.lines().filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
    let last = lines[lines.len().saturating_sub(2)..].join(" ");
    Err(if last.is_empty() { output.status.to_string() } else { last })
}

/// The entry of a cell by the names it is printed with.
#[must_use]
pub fn entry(work: &str, name: &str) -> Option<Entry> {
    let pairs = crate::limits::PAIR_SHARDS.map(Work::Pairs);
    let work = Work::ALL.into_iter().chain(pairs).find(|candidate| candidate.to_string() == work)?;
    entries(work).into_iter().find(|entry| entry.name == name)
}

/// What one process prints of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Its figure.
    pub figure: f64,
    /// Where operations came at half of the rate that the figure stands for: how long they took.
    pub tail: Option<Tail>,
}

impl Measured {
    /// What `Measured::parse` reads.
    #[must_use]
    pub fn text(&self) -> String {
        let tail = self.tail.map_or_else(String::new, |tail| tail.text());
        format!("{} {tail}", self.figure)
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (figure, tail) = words.split_first()?;
        let tail = if tail.is_empty() { None } else { Some(Tail::parse(tail)?) };
        Some(Self { figure: figure.parse().ok()?, tail })
    }
}

/// One process's figures of a cell.
#[must_use]
pub fn measure(entry: &Entry, quick: bool) -> Measured {
    let operations = entry.work.operations() / if quick { QUICK } else { 1 };
    if let Work::Log(_) = entry.work {
        device::wait_until_rested(quick);
    }
    if let Run::Loop { both, .. } = entry.run {
        let (figure, tail) = both(operations);
        return Measured { figure, tail: Some(tail) };
    }
    Measured { figure: repeated(entry, operations, quick), tail: None }
}

fn repeated(entry: &Entry, operations: u64, quick: bool) -> f64 {
    if let Run::Figure(_) = entry.run {
        return entry.figure(operations);
    }
    let _warmed_up = entry.figure((operations / 10).max(1));
    let mut figures: Vec<f64> = (0..if quick { 1 } else { RUNS }).map(|_| entry.figure(operations)).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_last_words() {
        let shell = |script: &str| finished(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo 7"), Ok("7\n".to_owned()));
        assert_eq!(shell("echo 'it fell' >&2; exit 3"), Err("it fell".to_owned()));
        assert!(shell("exit 3").is_err_and(|why| why.contains('3')));
    }

    #[test]
    fn what_is_printed_is_read() {
        for tail in [None, Some(Tail { p50_us: 1.5, p99_us: 2.0, p999_us: 30.25 })] {
            let measured = Measured { figure: 7.25, tail };
            assert_eq!(Measured::parse(&measured.text()), Some(measured));
        }
        assert_eq!(Measured::parse("1 2"), None);
        assert_eq!(Measured::parse(""), None);
    }

    #[test]
    fn cells_are_found_by_name() {
        for work in Work::ALL {
            for wanted in entries(work) {
                let found = entry(&work.to_string(), wanted.name).expect("it is there");
                assert_eq!((found.work, found.name), (work, wanted.name));
            }
        }
        assert!(entry("nothing", "kameo").is_none());
    }
}
