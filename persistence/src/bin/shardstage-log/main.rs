//! `shardstage-log`: looks at event logs that are down (or, carefully, at running ones), says what is wrong with them, takes
//! their records out as NDJSON, and saves what is intact into a new log.
//!
//! Invariant: no command ever writes to the log that it is given. Exit codes are in `args.rs`.
#![forbid(unsafe_code)]

mod args;
mod directory;
mod export;
mod inspect;
mod json;
mod reader;
mod repair;
mod rewrite;
mod scan;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Args, Command};

/// How a command ended when it ended as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// Everything is as an orderly end leaves it.
    Clean,
    /// A crash left something unfinished that nobody was told about; the next start mends it.
    Unfinished,
    /// Acknowledged data or a file that the log relies on is damaged; an engine refuses to start.
    Damaged,
}

impl Health {
    fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Unfinished => 1,
            Self::Damaged => 2,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Unfinished => "unfinished",
            Self::Damaged => "damaged",
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
enum Failure {
    /// A file operation failed.
    Io { path: PathBuf, what: &'static str, error: io::Error },
    /// Standard output was closed.
    Output(io::Error),
    /// The command cannot be done, for a reason that the text names with what to do.
    Refused(String),
}

impl Failure {
    fn io<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| Self::Io { path: path.to_path_buf(), what, error }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, what, error } => write!(f, "{}: cannot {what}: {error}", path.display()),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

fn run(args: &Args) -> Result<Health, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let health = run_to(args, &mut out)?;
    out.flush()?;
    Ok(health)
}

/// Carries the command out; what it says goes to `out`.
fn run_to(args: &Args, out: &mut dyn Write) -> Result<Health, Failure> {
    match &args.command {
        Command::Inspect { frames } => inspect::run(args, *frames, out),
        Command::Verify => verify::run(args, out),
        Command::Export { type_name, key } => export::run(args, type_name.as_deref(), key.as_deref(), out),
        Command::Repair { into } => repair::run(args, into, out),
    }
}

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("shardstage-log: {why}\nTry 'shardstage-log --help'.");
            return ExitCode::from(args::EXIT_USAGE);
        }
    };
    match run(&args) {
        Ok(health) => ExitCode::from(health.code()),
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shardstage-log: {failure}");
            ExitCode::from(args::EXIT_FAILED)
        }
    }
}
